"""Traced values: what a node of the graph under construction looks like to the functions.

Dtypes are promoted as NumPy 2 and the array API do: Python scalars take the dtype of the array
they meet, everything else, NumPy scalars included, keeps its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from ndereg.trace.builder import Builder
from ndereg.trace.errors import TraceError
from ndereg.trace.graph import DTYPES

if TYPE_CHECKING:
    from ndereg.trace.array import TracedArray

__all__ = [
    "Value",
    "broadcast_shapes",
    "building",
    "current_builder",
    "dtype_name",
    "lift",
    "normalized_axes",
    "normalized_axis",
    "promote",
    "promoted_dtype",
    "wrap",
]

_BUILDER: ContextVar[Builder | None] = ContextVar("ndereg_trace_builder", default=None)


@contextmanager
def building(builder: Builder) -> Iterator[None]:
    """Make ``builder`` the one that functions on traced arrays add their nodes to."""
    token = _BUILDER.set(builder)
    try:
        yield
    finally:
        _BUILDER.reset(token)


def current_builder() -> Builder:
    """Return the builder of the trace in progress."""
    builder = _BUILDER.get()
    if builder is None:
        raise TraceError(
            "an operation on a traced array after its trace has ended",
            "a traced array stands for a value only while its field is being traced",
            "not to store arrays outside the field",
        )
    return builder


class Value:
    """The data of a traced array; the operations come with its subclass."""

    __slots__ = ("_builder", "_index")

    def __init__(self, builder: Builder, index: int) -> None:
        self._builder = builder
        self._index = index

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return self._builder.shape(self._index)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's dtype of the entries."""
        return np.dtype(self._builder.dtype(self._index))


def wrap(index: int) -> TracedArray:
    """Return node ``index`` of the trace in progress as an array."""
    # The array's methods are these functions' users, so its class is imported late.
    from ndereg.trace.array import TracedArray

    return TracedArray(current_builder(), index)


def lift(x: Any, dtype: str | None = None) -> int:
    """Return the node of ``x``, adding a constant where it is not traced.

    ``dtype`` is what a Python scalar becomes, and what everything else is cast to, if given.
    """
    builder = current_builder()
    if isinstance(x, Value):
        if x._builder is not builder:
            raise TraceError(
                "an operation on an array of another trace",
                "a traced array stands for a value only while its field is being traced",
                "not to store arrays outside the field",
            )
        return x._index if dtype is None else builder.cast(x._index, dtype)
    if isinstance(x, (list, tuple)) and _holds_traced(x):
        return _stacked(x, dtype)
    array = _constant(x)
    return builder.constant(array, dtype_name(array.dtype) if dtype is None else dtype)


def _constant(x: Any) -> np.ndarray[Any, Any]:
    if isinstance(x, (np.ndarray, np.generic, bool, int, float, complex, list, tuple)):
        array = np.asarray(x)
        if array.dtype.kind in "biufc":
            return array
    raise _foreign(x)


def _foreign(x: Any) -> TraceError:
    return TraceError(
        f"an operation with {type(x).__module__}.{type(x).__qualname__}",
        "expected a traced array, a NumPy array or a number",
        "passing it to the solver as part of args, or converting it with numpy.asarray outside "
        "the field",
    )


def _holds_traced(x: Sequence[Any]) -> bool:
    return any(
        isinstance(entry, Value) or (isinstance(entry, (list, tuple)) and _holds_traced(entry))
        for entry in x
    )


def _stacked(entries: Sequence[Any], dtype: str | None) -> int:
    builder, parts, _ = promote("an array of arrays", *entries)
    shape = builder.shape(parts[0])
    joined = builder.concat([builder.reshape(part, (1, *shape)) for part in parts], 0)
    return joined if dtype is None else builder.cast(joined, dtype)


def dtype_name(dtype: Any) -> str:
    """Return the name of the dtype a graph uses for ``dtype``: integers are all int64."""
    kind = np.dtype(dtype)
    if kind.name in DTYPES:
        return str(kind.name)
    if kind.kind in "iu":
        return "int64"
    raise TraceError(f"an array of dtype {kind}", f"expected one of {', '.join(DTYPES)}", "a cast")


def _is_python_scalar(x: Any) -> bool:
    return isinstance(x, (bool, int, float, complex)) and not isinstance(x, np.generic)


def promoted_dtype(*operands: Any) -> str:
    """Return the dtype that an operation on ``operands`` works in."""
    kinds = [x if _is_python_scalar(x) else np.dtype(_dtype_of(x)) for x in operands]
    return dtype_name(np.result_type(*kinds))


def _dtype_of(x: Any) -> str:
    if isinstance(x, (list, tuple)) and _holds_traced(x):
        return promoted_dtype(*x)
    if isinstance(x, Value):
        return current_builder().dtype(lift(x))
    return dtype_name(_constant(x).dtype)


def broadcast_shapes(operation: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Broadcast shapes, as NumPy does; ``operation`` is what is named if they do not fit."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        listed = " and ".join(map(str, shapes))
        raise ValueError(f"{operation}: shapes {listed} do not fit together") from None


def promote(
    operation: str, *operands: Any, dtype: str | None = None
) -> tuple[Builder, list[int], str]:
    """Bring operands to one shape and one dtype (the given one, or what they promote to)."""
    kind = promoted_dtype(*operands) if dtype is None else dtype
    builder = current_builder()
    nodes = [lift(x, kind) for x in operands]
    shape = broadcast_shapes(operation, *(builder.shape(i) for i in nodes))
    return builder, [builder.broadcast(i, shape) for i in nodes], kind


def normalized_axis(axis: Any, ndim: int) -> int:
    """Return a non-negative axis; IndexError (NumPy's AxisError) where there is none."""
    number = int(axis)
    if not -ndim <= number < ndim:
        raise np.exceptions.AxisError(number, ndim)
    return number % ndim


def normalized_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """Return the axes named by None (all), a number or a tuple of numbers, sorted."""
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = sorted(normalized_axis(i, ndim) for i in given)
    if len(set(axes)) != len(axes):
        raise ValueError(f"expected every axis once, received axis={axis}")
    return tuple(axes)
