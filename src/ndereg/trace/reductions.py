"""Reductions and cumulative functions of traced arrays."""

# Names are those of the array API, some of them also Python's.
# ruff: noqa: A001

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ndereg.trace import elementwise
from ndereg.trace.errors import TraceError
from ndereg.trace.shaping import moveaxis, ravel
from ndereg.trace.value import (
    current_builder,
    dtype_name,
    lift,
    normalized_axes,
    normalized_axis,
    wrap,
)

if TYPE_CHECKING:
    from ndereg.trace.array import TracedArray


def _reduce(op: str, array: TracedArray, axis: Any, keepdims: bool) -> TracedArray:
    axes = normalized_axes(axis, array.ndim)
    builder = current_builder()
    node = builder.reduce(op, array._index, axes)
    if keepdims:
        node = builder.reshape(
            node, tuple(1 if i in axes else n for i, n in enumerate(array.shape))
        )
    return wrap(node)


def _summable(x: Any, dtype: Any) -> TracedArray:
    array = wrap(lift(x))
    if dtype is not None:
        return elementwise.astype(array, dtype)
    return wrap(lift(array, "int64")) if array.dtype.kind == "b" else array


def sum(x: Any, /, axis: Any = None, dtype: Any = None, *, keepdims: bool = False) -> TracedArray:
    """Sum over axes."""
    return _reduce("sum", _summable(x, dtype), axis, keepdims)


def prod(x: Any, /, axis: Any = None, dtype: Any = None, *, keepdims: bool = False) -> TracedArray:
    """Product over axes."""
    return _reduce("prod", _summable(x, dtype), axis, keepdims)


def max(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> TracedArray:
    """Largest entry over axes."""
    array = wrap(lift(x))
    if array.dtype.kind in "cb":
        raise TraceError(
            f"the maximum of {array.dtype} entries", "they are not ordered", "any, abs"
        )
    axes = normalized_axes(axis, array.ndim)
    if 0 in (array.shape[i] for i in axes):
        raise ValueError(f"the maximum over axis {axis} of shape {array.shape} is not defined")
    return _reduce("max", array, axis, keepdims)


def min(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> TracedArray:
    """Smallest entry over axes."""
    return elementwise.negative(max(elementwise.negative(x), axis, keepdims=keepdims))


def _count(array: TracedArray, axis: Any) -> int:
    count = 1
    for i in normalized_axes(axis, array.ndim):
        count *= array.shape[i]
    return count


def mean(x: Any, /, axis: Any = None, dtype: Any = None, *, keepdims: bool = False) -> TracedArray:
    """Arithmetic mean over axes."""
    array = _summable(x, dtype)
    if array.dtype.kind == "i":
        array = elementwise.astype(array, "float64")
    return sum(array, axis, keepdims=keepdims) / _count(array, axis)


def var(
    x: Any,
    /,
    axis: Any = None,
    *,
    correction: float = 0,
    ddof: float = 0,
    keepdims: bool = False,
) -> TracedArray:
    """Variance over axes; the divisor is the count less ``correction`` (NumPy's ``ddof``)."""
    array = wrap(lift(x))
    deviation = elementwise.subtract(array, mean(array, axis, keepdims=True))
    squared = elementwise.real(deviation * elementwise.conj(deviation))
    divisor = _count(array, axis) - (correction or ddof)
    return sum(squared, axis, keepdims=keepdims) / divisor


def std(
    x: Any,
    /,
    axis: Any = None,
    *,
    correction: float = 0,
    ddof: float = 0,
    keepdims: bool = False,
) -> TracedArray:
    """Return the standard deviation over axes."""
    variance = var(x, axis, correction=correction, ddof=ddof, keepdims=keepdims)
    return elementwise.sqrt(variance)


def average(x: Any, /, axis: Any = None, weights: Any = None) -> TracedArray:
    """Weighted mean over axes; the weights broadcast against the array."""
    if weights is None:
        return mean(x, axis)
    array = wrap(lift(x))
    factor = wrap(lift(weights))
    if factor.ndim == 1 and array.ndim > 1 and axis is not None:
        place = normalized_axis(axis, array.ndim)
        factor = factor.reshape(tuple(-1 if i == place else 1 for i in range(array.ndim)))
    return sum(array * factor, axis) / sum(factor + 0 * array.real, axis)


def any(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> TracedArray:
    """Whether an entry is not zero."""
    return elementwise.not_equal(count_nonzero(x, axis, keepdims=keepdims), 0)


def all(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> TracedArray:
    """Whether no entry is zero."""
    return elementwise.logical_not(any(elementwise.logical_not(x), axis, keepdims=keepdims))


def count_nonzero(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> TracedArray:
    """Count the entries that are not zero."""
    return sum(elementwise.as_bool(x), axis, keepdims=keepdims)


def ptp(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> TracedArray:
    """Largest less smallest entry."""
    return max(x, axis, keepdims=keepdims) - min(x, axis, keepdims=keepdims)


def cumulative_sum(
    x: Any, /, axis: int | None = None, dtype: Any = None, *, include_initial: bool = False
) -> TracedArray:
    """Sum up entries along an axis (of the flattened array for None).

    A product with a triangular matrix, so one entry that is not finite spoils all of its line.
    """
    array = _summable(x, dtype)
    if axis is None:
        array = ravel(array)
    place = normalized_axis(0 if axis is None else axis, array.ndim)
    length = array.shape[place]
    rows = length + 1 if include_initial else length
    mask = np.tri(rows, length, k=-1 if include_initial else 0).T
    builder = current_builder()
    triangle = builder.constant(mask, dtype_name(array.dtype))
    lines = moveaxis(array, place, -1)
    flat = builder.reshape(lines._index, (lines.size // length if length else 0, length))
    summed = builder.reshape(builder.matmul(flat, triangle), (*lines.shape[:-1], rows))
    return moveaxis(wrap(summed), -1, place)


def cumsum(x: Any, /, axis: int | None = None, dtype: Any = None) -> TracedArray:
    """Sum up entries along an axis (of the flattened array for None)."""
    return cumulative_sum(x, axis, dtype)


def refuse_data_dependent(name: str) -> Any:
    """Return a function that refuses: the positions it depends on are known only at run time."""

    def function(*args: Any, **kwargs: Any) -> Any:
        raise TraceError(
            name,
            "its result depends on the order of the data",
            "max, min, where or softmax weights",
        )

    function.__name__ = name
    return function
