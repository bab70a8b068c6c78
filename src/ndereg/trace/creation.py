"""New arrays inside a trace: constants of the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ndereg.trace.value import current_builder, dtype_name, lift, wrap

if TYPE_CHECKING:
    from ndereg.trace.array import TracedArray


def asarray(x: Any, /, dtype: Any = None, *, copy: Any = None, device: Any = None) -> TracedArray:
    """Convert numbers, NumPy arrays and nested sequences of traced arrays."""
    return wrap(lift(x)) if dtype is None else wrap(lift(x, dtype_name(dtype)))


def _shape(shape: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in shape) if isinstance(shape, (tuple, list)) else (int(shape),)


def full(shape: Any, fill_value: Any, *, dtype: Any = None, device: Any = None) -> TracedArray:
    """Return an array with one value everywhere."""
    node = asarray(fill_value, dtype)._index
    return wrap(current_builder().broadcast(node, _shape(shape)))


def zeros(shape: Any, *, dtype: Any = None, device: Any = None) -> TracedArray:
    """Zeros, in float64 by default."""
    return full(shape, 0, dtype=dtype or np.float64)


def ones(shape: Any, *, dtype: Any = None, device: Any = None) -> TracedArray:
    """Ones, in float64 by default."""
    return full(shape, 1, dtype=dtype or np.float64)


empty = zeros


def full_like(
    x: Any, /, fill_value: Any, dtype: Any = None, *, shape: Any = None, device: Any = None
) -> TracedArray:
    """One value everywhere, in the shape and dtype of ``x``."""
    array = wrap(lift(x))
    lengths = array.shape if shape is None else shape
    return full(lengths, fill_value, dtype=dtype or array.dtype)


def zeros_like(
    x: Any, /, dtype: Any = None, *, shape: Any = None, device: Any = None
) -> TracedArray:
    """Zeros in the shape and dtype of ``x``."""
    return full_like(x, 0, dtype, shape=shape)


def ones_like(
    x: Any, /, dtype: Any = None, *, shape: Any = None, device: Any = None
) -> TracedArray:
    """Ones in the shape and dtype of ``x``."""
    return full_like(x, 1, dtype, shape=shape)


empty_like = zeros_like


def arange(
    start: Any, /, stop: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None
) -> TracedArray:
    """Evenly spaced numbers, the end excluded."""
    first, last = (0, start) if stop is None else (start, stop)
    return asarray(np.arange(first, last, step), dtype)


def linspace(
    start: Any,
    stop: Any,
    /,
    num: int = 50,
    *,
    dtype: Any = None,
    device: Any = None,
    endpoint: bool = True,
) -> TracedArray:
    """``num`` evenly spaced numbers, the end included."""
    return asarray(np.linspace(float(start), float(stop), num, endpoint=endpoint), dtype)


def eye(
    rows: int, columns: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None
) -> TracedArray:
    """Ones on a diagonal."""
    return asarray(np.eye(rows, columns, k), dtype)
