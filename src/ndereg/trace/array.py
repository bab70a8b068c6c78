"""The array that a field is called with while it is traced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ndereg.trace import elementwise, linalg, numpy_protocol, reductions, shaping
from ndereg.trace.errors import TraceError, UnknownFunctionError
from ndereg.trace.indexing import getitem, known_value
from ndereg.trace.value import Value, current_builder

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["TracedArray"]


class TracedArray(Value):
    """A symbolic array: knows its shape and dtype, and records what is done with it.

    It has the operators, methods and functions of a NumPy array (through ``numpy`` itself or
    through ``array_api_compat.array_namespace``), but no entries. Where Python or NumPy would
    need the entries, for a branch, a conversion or an assignment, a
    :class:`~ndereg.trace.errors.TraceError` says so. An array whose value is a constant of the
    field can be used as that value.
    """

    __slots__ = ()
    __array_priority__ = 1000.0
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TracedArray(shape={self.shape}, dtype={self.dtype})"

    # Attributes

    @property
    def T(self) -> TracedArray:  # noqa: N802 - the array API's name
        """The array with its axes reversed."""
        return shaping.permute_dims(self)

    @property
    def mT(self) -> TracedArray:  # noqa: N802 - the array API's name
        """The array with its last two axes swapped."""
        return shaping.matrix_transpose(self)

    @property
    def real(self) -> TracedArray:
        """The real part."""
        return elementwise.real(self)

    @property
    def imag(self) -> TracedArray:
        """The imaginary part."""
        return elementwise.imag(self)

    @property
    def device(self) -> str:
        """Always ``"cpu"``."""
        return "cpu"

    @property
    def flat(self) -> Iterator[TracedArray]:
        """The entries, one after another."""
        return iter(shaping.ravel(self))

    def to_device(self, device: Any, /, *, stream: Any = None) -> TracedArray:
        """Return the array itself."""
        return self

    # Operators

    def __add__(self, other: Any) -> TracedArray:
        return elementwise.add(self, other)

    def __radd__(self, other: Any) -> TracedArray:
        return elementwise.add(other, self)

    def __sub__(self, other: Any) -> TracedArray:
        return elementwise.subtract(self, other)

    def __rsub__(self, other: Any) -> TracedArray:
        return elementwise.subtract(other, self)

    def __mul__(self, other: Any) -> TracedArray:
        return elementwise.multiply(self, other)

    def __rmul__(self, other: Any) -> TracedArray:
        return elementwise.multiply(other, self)

    def __truediv__(self, other: Any) -> TracedArray:
        return elementwise.divide(self, other)

    def __rtruediv__(self, other: Any) -> TracedArray:
        return elementwise.divide(other, self)

    def __floordiv__(self, other: Any) -> TracedArray:
        return elementwise.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> TracedArray:
        return elementwise.floor_divide(other, self)

    def __mod__(self, other: Any) -> TracedArray:
        return elementwise.remainder(self, other)

    def __rmod__(self, other: Any) -> TracedArray:
        return elementwise.remainder(other, self)

    def __divmod__(self, other: Any) -> tuple[TracedArray, TracedArray]:
        return elementwise.divmod(self, other)

    def __pow__(self, other: Any) -> TracedArray:
        return elementwise.pow(self, other)

    def __rpow__(self, other: Any) -> TracedArray:
        return elementwise.pow(other, self)

    def __matmul__(self, other: Any) -> TracedArray:
        return linalg.matmul(self, other)

    def __rmatmul__(self, other: Any) -> TracedArray:
        return linalg.matmul(other, self)

    def __neg__(self) -> TracedArray:
        return elementwise.negative(self)

    def __pos__(self) -> TracedArray:
        return self

    def __abs__(self) -> TracedArray:
        return elementwise.absolute(self)

    def __invert__(self) -> TracedArray:
        return elementwise.bitwise_invert(self)

    def __and__(self, other: Any) -> TracedArray:
        return elementwise.bitwise_and(self, other)

    __rand__ = __and__

    def __or__(self, other: Any) -> TracedArray:
        return elementwise.bitwise_or(self, other)

    __ror__ = __or__

    def __xor__(self, other: Any) -> TracedArray:
        return elementwise.bitwise_xor(self, other)

    __rxor__ = __xor__

    def __lt__(self, other: Any) -> TracedArray:
        return elementwise.less(self, other)

    def __le__(self, other: Any) -> TracedArray:
        return elementwise.less_equal(self, other)

    def __gt__(self, other: Any) -> TracedArray:
        return elementwise.greater(self, other)

    def __ge__(self, other: Any) -> TracedArray:
        return elementwise.greater_equal(self, other)

    def __eq__(self, other: object) -> TracedArray:  # type: ignore[override]
        return elementwise.equal(self, other)

    def __ne__(self, other: object) -> TracedArray:  # type: ignore[override]
        return elementwise.not_equal(self, other)

    # In place: the name is bound to a new array, which is the same unless a view is written to

    def _check_owned(self, operator: str) -> None:
        builder = current_builder()
        node = builder.node(self._index)
        while self.ndim and node.op in {"reshape", "permute", "broadcast"}:
            node = builder.node(node.inputs[0])
        if self.ndim and node.op in {"input", "slice"}:
            raise TraceError(
                f"x {operator}= ... on an argument of the field or a view of an array",
                "it would change that array too",
                f"x = x {operator} ...",
            )

    def __iadd__(self, other: Any) -> TracedArray:
        self._check_owned("+")
        return elementwise.add(self, other)

    def __isub__(self, other: Any) -> TracedArray:
        self._check_owned("-")
        return elementwise.subtract(self, other)

    def __imul__(self, other: Any) -> TracedArray:
        self._check_owned("*")
        return elementwise.multiply(self, other)

    def __itruediv__(self, other: Any) -> TracedArray:
        self._check_owned("/")
        return elementwise.divide(self, other)

    def __ipow__(self, other: Any) -> TracedArray:
        self._check_owned("**")
        return elementwise.pow(self, other)

    def __imatmul__(self, other: Any) -> TracedArray:
        self._check_owned("@")
        return linalg.matmul(self, other)

    # Entries

    def __getitem__(self, key: Any) -> TracedArray:
        return getitem(self, key)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of an array without axes")
        return self.shape[0]

    def __iter__(self) -> Iterator[TracedArray]:
        if self.ndim == 0:
            raise TypeError("iteration over an array without axes")
        return iter([self[i] for i in range(self.shape[0])])

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise TraceError(
            "the assignment x[...] = ...",
            "a traced array cannot be changed",
            "building the result with stack, concat or where",
        )

    # What needs a value

    def _known(self, operation: str, reason: str, advice: str) -> Any:
        value = known_value(self)
        if value is None:
            raise TraceError(operation, reason, advice)
        return value

    def __bool__(self) -> bool:
        return bool(
            self._known(
                "a branch on the value of an array",
                "an 'if', 'while', 'and', 'or', 'not', min() or max() on it depends on the data",
                "where(condition, x, y), minimum, maximum, logical_and or logical_or",
            )
        )

    def _number(self, kind: str) -> Any:
        return self._known(
            f"{kind}() of an array",
            "it asks for a number that is known only when the field runs",
            "keeping it an array: functions of the array namespace (xp.sin, not math.sin), and "
            "stack([...]) in place of assignments into a NumPy array",
        )

    def __float__(self) -> float:
        return float(self._number("float"))

    def __int__(self) -> int:
        return int(self._number("int"))

    def __complex__(self) -> complex:
        return complex(self._number("complex"))

    def __index__(self) -> int:
        return int(
            self._known(
                "an array as an index or a count",
                "it asks for a number that is known only when the field runs",
                "where, or an integer that does not depend on the state",
            ).__index__()
        )

    def item(self) -> Any:
        """Return the number an array without axes stands for, if it is a constant."""
        return self._number("item").item()

    def tolist(self) -> Any:
        """Return the entries, if they are constants."""
        return self._number("tolist").tolist()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        value = self._known(
            "a conversion to a NumPy array",
            "numpy.array, numpy.asarray and assignment into a NumPy array need the entries",
            "numpy.stack([...]) or xp.stack([...]) to put arrays together, and the array itself "
            "in place of numpy.asarray(x)",
        )
        return np.array(value, dtype=dtype)

    # Protocols

    def __array_namespace__(self, *, api_version: str | None = None) -> ModuleType:
        from ndereg.trace import namespace

        return namespace

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return numpy_protocol.call_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return numpy_protocol.call_function(func, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"'TracedArray' object has no attribute {name!r}")
        raise UnknownFunctionError(
            f".{name}",
            "traced arrays have no such attribute or method",
            "a function of numpy or of the array API (sum, reshape, where, ...)",
        )

    # Methods

    def astype(self, dtype: Any, copy: bool = True) -> TracedArray:
        """Cast."""
        return elementwise.astype(self, dtype)

    def copy(self, order: str = "C") -> TracedArray:
        """Return the array itself, which never changes."""
        return self

    def reshape(self, *shape: Any, order: str = "C", copy: Any = None) -> TracedArray:
        """Reshape in row-major order."""
        return shaping.reshape(self, shape[0] if len(shape) == 1 else shape, order=order)

    def transpose(self, *axes: Any) -> TracedArray:
        """Permute axes; without arguments, reverse them."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return shaping.permute_dims(self, order or None)

    def flatten(self, order: str = "C") -> TracedArray:
        """Flatten to one axis."""
        return shaping.ravel(self, order)

    def ravel(self, order: str = "C") -> TracedArray:
        """Flatten to one axis."""
        return shaping.ravel(self, order)

    def squeeze(self, axis: Any = None) -> TracedArray:
        """Drop axes of length 1."""
        return shaping.squeeze(self, axis)

    def swapaxes(self, axis1: int, axis2: int) -> TracedArray:
        """Exchange two axes."""
        return shaping.swapaxes(self, axis1, axis2)

    def repeat(self, repeats: Any, axis: int | None = None) -> TracedArray:
        """Repeat entries."""
        return shaping.repeat(self, repeats, axis=axis)

    def take(self, indices: Any, axis: int | None = None) -> TracedArray:
        """Take entries at constant indices."""
        return shaping.take(self, indices, axis)

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> TracedArray:
        """Diagonal of the matrices in two axes."""
        return shaping.diagonal(self, offset, axis1, axis2)

    def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> TracedArray:
        """Sum of a diagonal."""
        return linalg.trace(self, offset, axis1, axis2)

    def conj(self) -> TracedArray:
        """Complex conjugate."""
        return elementwise.conj(self)

    conjugate = conj

    def clip(self, min: Any = None, max: Any = None) -> TracedArray:  # noqa: A002
        """Limit entries."""
        return elementwise.clip(self, min, max)

    def round(self, decimals: int = 0) -> TracedArray:
        """Round half to even."""
        return elementwise.round(self, decimals)

    def dot(self, other: Any) -> TracedArray:
        """NumPy's dot product."""
        return linalg.dot(self, other)

    def sum(self, axis: Any = None, dtype: Any = None, *, keepdims: bool = False) -> TracedArray:
        """Sum over axes."""
        return reductions.sum(self, axis, dtype, keepdims=keepdims)

    def prod(self, axis: Any = None, dtype: Any = None, *, keepdims: bool = False) -> TracedArray:
        """Product over axes."""
        return reductions.prod(self, axis, dtype, keepdims=keepdims)

    def mean(self, axis: Any = None, dtype: Any = None, *, keepdims: bool = False) -> TracedArray:
        """Mean over axes."""
        return reductions.mean(self, axis, dtype, keepdims=keepdims)

    def var(self, axis: Any = None, *, ddof: float = 0, keepdims: bool = False) -> TracedArray:
        """Variance over axes."""
        return reductions.var(self, axis, ddof=ddof, keepdims=keepdims)

    def std(self, axis: Any = None, *, ddof: float = 0, keepdims: bool = False) -> TracedArray:
        """Return the standard deviation over axes."""
        return reductions.std(self, axis, ddof=ddof, keepdims=keepdims)

    def max(self, axis: Any = None, *, keepdims: bool = False) -> TracedArray:
        """Largest entry over axes."""
        return reductions.max(self, axis, keepdims=keepdims)

    def min(self, axis: Any = None, *, keepdims: bool = False) -> TracedArray:
        """Smallest entry over axes."""
        return reductions.min(self, axis, keepdims=keepdims)

    def any(self, axis: Any = None, *, keepdims: bool = False) -> TracedArray:
        """Whether an entry is not zero."""
        return reductions.any(self, axis, keepdims=keepdims)

    def all(self, axis: Any = None, *, keepdims: bool = False) -> TracedArray:
        """Whether no entry is zero."""
        return reductions.all(self, axis, keepdims=keepdims)

    def cumsum(self, axis: int | None = None) -> TracedArray:
        """Cumulative sum."""
        return reductions.cumsum(self, axis)
