"""NumPy arrays at the edge; shared by the backends that solve on them."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from ndereg.backends.base import Problem
from ndereg.backends.foreign import Expectation
from ndereg.backends.tracing import TracedDerivatives

_EXPECTED = Expectation(
    "a NumPy array",
    "numpy.asarray",
    "a dict of the arrays in it, by which the field is then differentiated (what a closure holds "
    "is a constant), or model = ndereg.port(module, to='numpy') for a module of a framework, then "
    "solve(model, t_span, y0, model.params)",
)


@cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """Plain name of a dtype; NumPy takes a microsecond and a half to say it."""
    return str(dtype)


def unshared(problem: Problem) -> Problem:
    """The problem with arrays of its own, which a later reverse pass finds as they were."""
    args = tuple(arg.copy() for arg in problem.args)
    return replace(problem, y0=problem.y0.copy(), args=args)


class NumpyArrays:
    """The array part of the backend protocol for NumPy."""

    def owns(self, value: object) -> bool:
        """NumPy arrays and scalars."""
        return isinstance(value, (np.ndarray, np.generic))

    def array(self, value: object, what: str) -> Any:
        """As an array; Python numbers become 0-d arrays, other frameworks are refused."""
        if isinstance(value, (np.ndarray, np.generic)):
            if value.dtype.kind not in "fciub":
                raise TypeError(
                    f"expected {what} to hold numbers, received dtype {value.dtype}; try an array "
                    "of floats"
                )
            return np.asarray(value)
        if isinstance(value, numbers.Integral | float | complex):
            return np.asarray(value)
        if isinstance(value, numbers.Real):  # a fraction, say
            return np.asarray(float(value))
        if isinstance(value, numbers.Complex):
            return np.asarray(complex(value))
        raise _EXPECTED.refusal(value, what, callable(value))

    def dtype(self, array: Any) -> str:
        """Plain dtype name."""
        return dtype_name(array.dtype)

    def cast(self, array: Any, dtype: str) -> Any:
        """Another dtype; the real part where a complex array becomes real."""
        if dtype_name(array.dtype) == dtype:
            return array
        if array.dtype.kind == "c" and not dtype.startswith("complex"):
            array = array.real
        return array.astype(dtype, copy=False)

    def reshape(self, array: Any, shape: tuple[int, ...]) -> Any:
        """Another shape, in row-major order."""
        return array.reshape(shape)

    def concat(self, arrays: Sequence[Any]) -> Any:
        """Along the last axis."""
        return np.concatenate(arrays, axis=-1)

    def concrete(self, value: object) -> Any:
        """NumPy values are always concrete."""
        return value

    def times(self, values: Any, like: Any) -> Any:
        """float64."""
        return np.asarray(values, dtype=np.float64)

    key_types = "a numpy.random.Generator"

    def uniform(self, key: object, count: int) -> Any:
        """The next numbers of a ``numpy.random.Generator``."""
        return key.random(count) if isinstance(key, np.random.Generator) else None

    def key_words(self, key: object) -> tuple[Any, Any] | None:
        """Two words drawn from a ``numpy.random.Generator``."""
        if not isinstance(key, np.random.Generator):
            return None
        first, second = key.integers(0, 2**32, 2, dtype=np.uint32)
        return first, second

    def fold(self, key: object, choice: int) -> Any:
        """A generator goes on by itself."""
        return key

    def derivatives(self) -> TracedDerivatives:
        """Derivatives of the traced field."""
        return TracedDerivatives()

    def outlined(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns."""
        with np.errstate(all="ignore"):
            return function(*arguments)

    def probed(self, function: Callable[..., Any], argument: Any) -> Any:
        """What the function returns."""
        return self.outlined(function, argument)

    def carried_parameters(self, field: Callable[..., Any]) -> dict[str, Any]:
        """NumPy fields carry no parameters of their own."""
        return {}
