"""Operations of programs on numbers and arrays.

Like those of :mod:`ndereg.models.layer_operations` they are written with :mod:`ndereg.ops`,
operators and indexing, so one definition serves NumPy, PyTorch, JAX and traced arrays. None reads
or writes anything but its operands, and none makes something large out of something small: a
program from an unknown file can do no more than compute.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from ndereg import ops
from ndereg.namespace import namespace_of

MOST_ENTRIES = 2**28
"""Entries of an array, beyond which a program is refused rather than run."""

_LARGEST = 2**63
_NUMBERS = (bool, int, float, complex)

Array = Any


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def refuse_others(name: str, *operands: Any) -> None:
    """Refuse operands that are neither arrays nor numbers: text, and whatever could be repeated."""
    for value in operands:
        if not (_is_array(value) or isinstance(value, _NUMBERS)):
            raise ValueError(
                f"expected arrays or numbers for {name!r} in a program, received "
                f"{type(value).__name__}"
            )


def check_size(value: Any) -> None:
    """Refuse a value that no model has: an array or a number out of all proportion.

    Raises
    ------
    ValueError
    """
    if _is_array(value):
        entries = math.prod(value.shape)
        if entries > MOST_ENTRIES:
            raise ValueError(f"expected at most {MOST_ENTRIES} entries in an array, got {entries}")
    elif type(value) is int and not -_LARGEST <= value < _LARGEST:
        raise ValueError("expected integers of at most 64 bits in a program")
    elif isinstance(value, (tuple, list)) and len(value) > 10_000:
        raise ValueError("expected at most 10,000 values in a sequence of a program")


def lengths_of(shape: Any) -> tuple[int, ...]:
    """Return a shape, refused where it has more than :data:`MOST_ENTRIES` entries."""
    lengths = tuple(int(n) for n in ((shape,) if isinstance(shape, int) else shape))
    if math.prod(lengths) > MOST_ENTRIES:
        raise ValueError(f"expected at most {MOST_ENTRIES} entries, received shape {lengths}")
    return lengths


def bounded(*arrays: Any) -> None:
    """Refuse operands that broadcast to something large."""
    shapes = [tuple(x.shape) for x in arrays if _is_array(x)]
    if len(set(shapes)) > 1:
        most = itertools.zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
        lengths_of([max(lengths) for lengths in most])


# Operators


def binary(name: str, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return an operator that takes arrays and numbers only."""

    def apply(x: Any, y: Any) -> Any:
        refuse_others(name, x, y)
        bounded(x, y)
        return function(x, y)

    return apply


def add(x: Any, y: Any) -> Any:
    """Sum; shapes are put together."""
    if isinstance(x, tuple) and isinstance(y, tuple):
        return x + y  # shapes put together
    refuse_others("add", x, y)
    bounded(x, y)
    return x + y


def power(x: Any, y: Any) -> Any:
    """Power."""
    refuse_others("power", x, y)
    if not _is_array(x) and not _is_array(y) and abs(y) > 64:
        raise ValueError(f"expected small powers of numbers in a program, received {y}")
    return x**y


def invert(x: Any) -> Any:
    """Not."""
    return (not x) if isinstance(x, bool) else ~x


def item(x: Any, key: Any) -> Any:
    """Index with slices, integers and constants."""
    return x[key]


def shape(x: Array) -> tuple[int, ...]:
    """Lengths of the axes."""
    return tuple(x.shape)


def _like(reference: Any) -> Any:
    """Return the first array of a state."""
    while isinstance(reference, (dict, tuple, list)):
        reference = next(iter(reference.values() if isinstance(reference, dict) else reference))
    return reference


def where(condition: Array, x: Any, y: Any) -> Array:
    """Entries of ``x`` where ``condition``, else of ``y``."""
    if isinstance(condition, bool):
        return x if condition else y
    refuse_others("where", condition, x, y)
    bounded(condition, x, y)
    return ops.where(condition, x, y)


def matmul(x: Array, y: Array) -> Array:
    """Matrix product over the last two axes."""
    left, right = tuple(x.shape), tuple(y.shape)
    batches = itertools.zip_longest(left[-3::-1], right[-3::-1], fillvalue=1)
    lengths_of([*map(max, batches), *left[-2:-1], *(right[-1:] if len(right) > 1 else ())])
    return ops.matmul(x, y)


def broadcast_to(x: Array, shape: Sequence[int]) -> Array:
    """Broadcast to ``shape``."""
    return ops.broadcast_to(x, lengths_of(shape))


def as_dtype(x: Any, dtype: str) -> Any:
    """Cast to a dtype given by name."""
    if isinstance(x, _NUMBERS):
        return {"b": bool, "i": int, "f": float, "c": complex}[dtype[0]](x)
    xp = namespace_of(x)
    kind = getattr(xp, dtype)
    return x if x.dtype == kind else xp.astype(x, kind)


def cast_like(x: Any, reference: Any) -> Any:
    """Cast to the dtype of a reference."""
    if x.dtype == reference.dtype:
        return x
    return namespace_of(x, reference).astype(x, reference.dtype)


def full(shape: Any, value: Any, reference: Any) -> Array:
    """Fill an array in the framework, dtype and device of ``reference``."""
    like = _like(reference)
    zero = ops.zeros_like(ops.reshape(like, (-1,))[:1])
    return ops.broadcast_to(ops.reshape(zero, ()) + value, lengths_of(shape))


def expand(x: Array, shape: Sequence[int]) -> Array:
    """Broadcast; a length of -1 keeps the array's own, as PyTorch's ``expand``."""
    lengths = list(shape)
    offset = len(lengths) - len(x.shape)
    for i, length in enumerate(lengths):
        if length == -1:
            lengths[i] = x.shape[i - offset]
    return ops.broadcast_to(x, lengths_of(lengths))


def flatten(x: Array, first: int = 0, last: int = -1) -> Array:
    """Merge the axes from ``first`` to ``last``."""
    shape = tuple(x.shape)
    if not shape:
        return ops.reshape(x, (1,))
    first, last = first % len(shape), last % len(shape)
    merged = math.prod(shape[first : last + 1])
    return ops.reshape(x, (*shape[:first], merged, *shape[last + 1 :]))


def squeeze(x: Array, axis: Any = None) -> Array:
    """Drop axes of length 1, of the given ones or of all; others stay, as in PyTorch."""
    count = len(x.shape)
    axes = range(count) if axis is None else (axis,) if isinstance(axis, int) else axis
    chosen = {i % count for i in axes} if count else set()
    kept = tuple(n for i, n in enumerate(x.shape) if i not in chosen or n != 1)
    return ops.reshape(x, kept)


def swap_axes(x: Array, first: int, second: int) -> Array:
    """Exchange two axes."""
    order = list(range(len(x.shape)))
    if not order:
        return x
    order[first], order[second] = order[second], order[first]
    return ops.permute_dims(x, tuple(order))


def permute(x: Array, axes: Sequence[int]) -> Array:
    """Permute axes, which may be counted from the end."""
    return ops.permute_dims(x, tuple(i % len(x.shape) for i in axes))


def move_axis(x: Array, source: int, destination: int) -> Array:
    """Move one axis."""
    order = list(range(len(x.shape)))
    axis = order.pop(source)
    order.insert(destination % len(x.shape), axis)
    return ops.permute_dims(x, tuple(order))


def flip(x: Array, axis: Any) -> Array:
    """Reverse along axes."""
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    return namespace_of(x).flip(x, axis=tuple(i % len(x.shape) for i in axes))


def take_slice(x: Array, axis: int, start: Any, stop: Any, step: Any = 1) -> Array:
    """Slice along one axis."""
    key = [slice(None)] * len(x.shape)
    key[axis] = slice(start, stop, step)
    return x[tuple(key)]


def take(x: Array, indices: Any, axis: int) -> Array:
    """Take entries along an axis, at constant positions."""
    key: list[Any] = [slice(None)] * len(x.shape)
    key[axis] = indices
    return x[tuple(key)]


def split(x: Array, sizes: Any, axis: int = 0) -> tuple[Array, ...]:
    """Split into pieces of the given sizes, or of one size, as PyTorch's ``split``."""
    length = x.shape[axis]
    if isinstance(sizes, int):
        if sizes < 1 or length / sizes > 10_000:
            raise ValueError(f"expected at most 10,000 pieces, received pieces of {sizes}")
        sizes = [min(sizes, length - start) for start in range(0, length, sizes)]
    ends = list(itertools.accumulate(sizes))
    starts = [0, *ends[:-1]]
    return tuple(take_slice(x, axis, a, b) for a, b in zip(starts, ends, strict=True))


def chunk(x: Array, count: int, axis: int = 0) -> tuple[Array, ...]:
    """Split into ``count`` pieces, the last one smaller, as PyTorch's ``chunk``."""
    return split(x, max(1, -(-x.shape[axis] // count)), axis)


def unstack(x: Array, axis: int = 0) -> tuple[Array, ...]:
    """Split along an axis into arrays without it."""
    check_size((None,) * min(x.shape[axis], 10_001))
    return tuple(take(x, i, axis) for i in range(x.shape[axis]))


def concat(arrays: Sequence[Array], axis: int = 0) -> Array:
    """Join along an axis."""
    lengths_of(sum(math.prod(x.shape) for x in arrays))
    return ops.concat(list(arrays), axis=axis)


def stack(arrays: Sequence[Array], axis: int = 0) -> Array:
    """Join along a new axis."""
    lengths_of([len(arrays), *arrays[0].shape])
    return ops.stack(list(arrays), axis=axis)


def tile(x: Array, counts: Sequence[int]) -> Array:
    """Repeat whole arrays along every axis."""
    lengths_of([*x.shape, *counts])
    return namespace_of(x).tile(x, tuple(counts))


def cumulative_sum(x: Array, axis: int) -> Array:
    """Sum of all entries up to each."""
    return namespace_of(x).cumulative_sum(x, axis=axis)


def pad(x: Array, widths: Sequence[Sequence[int]], value: float = 0.0) -> Array:
    """Extend every axis by ``(before, after)`` entries; negative numbers cut them off."""
    lengths_of([n + max(a, 0) + max(b, 0) for n, (a, b) in zip(x.shape, widths, strict=True)])
    for axis, (before, after) in enumerate(widths):
        shape = tuple(x.shape)
        if before < 0 or after < 0:
            x = take_slice(x, axis, max(0, -before), shape[axis] + min(0, after))
        parts = [x]
        if before > 0:
            parts.insert(0, full((*shape[:axis], before, *shape[axis + 1 :]), value, x))
        if after > 0:
            parts.append(full((*shape[:axis], after, *shape[axis + 1 :]), value, x))
        x = ops.concat(parts, axis=axis) if len(parts) > 1 else parts[0]
    return x


# Numbers


def rsqrt(x: Array) -> Array:
    """Reciprocal of the square root."""
    return 1 / ops.sqrt(x)


def floor(x: Array) -> Array:
    """Largest integer not above; its derivative is 0."""
    return namespace_of(x).floor(x)


def ceil(x: Array) -> Array:
    """Smallest integer not below; its derivative is 0."""
    return namespace_of(x).ceil(x)


def is_finite(x: Array) -> Array:
    """Whether entries are neither infinite nor nan."""
    return namespace_of(x).isfinite(x)


def cbrt(x: Array) -> Array:
    """Real cube root."""
    return ops.sign(x) * ops.abs(x) ** (1 / 3)


def leaky_relu(x: Array, slope: float = 0.01) -> Array:
    """``x`` where positive, else ``slope * x``."""
    return ops.where(x > 0, x, slope * x)


def softplus(x: Array, beta: float = 1.0, threshold: float = math.inf) -> Array:
    """``log(1 + exp(beta x)) / beta``, and ``x`` itself where ``beta x`` is above the threshold."""
    smooth = ops.softplus(x) if beta == 1 else ops.softplus(beta * x) / beta
    return smooth if threshold == math.inf else ops.where(x * beta > threshold, x, smooth)


def log_softmax(x: Array, axis: int) -> Array:
    """Logarithm of the softmax."""
    return x - ops.logsumexp(x, axis=axis, keepdims=True)


def log2(x: Array) -> Array:
    """Logarithm to base 2."""
    return ops.log(x) * (1 / math.log(2.0))


def log10(x: Array) -> Array:
    """Logarithm to base 10."""
    return ops.log(x) * (1 / math.log(10.0))


def variance(x: Array, axis: Any = None, keepdims: bool = False, correction: float = 0) -> Array:
    """Variance over axes."""
    axes = tuple(range(len(x.shape))) if axis is None else axis
    squares = ops.square(x - ops.mean(x, axis=axes, keepdims=True))
    count = math.prod(x.shape[i] for i in ((axes,) if isinstance(axes, int) else axes))
    return ops.sum(squares, axis=axes, keepdims=keepdims) / (count - correction)
