"""Functions that rearrange traced arrays."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ndereg.trace.errors import TraceError
from ndereg.trace.value import (
    broadcast_shapes,
    current_builder,
    lift,
    normalized_axes,
    normalized_axis,
    promote,
    promoted_dtype,
    wrap,
)

if TYPE_CHECKING:
    from ndereg.trace.array import TracedArray


def _array(x: Any) -> TracedArray:
    return wrap(lift(x))


def _lengths(shape: Any) -> tuple[int, ...]:
    return (
        tuple(int(n) for n in shape)
        if isinstance(shape, (tuple, list, np.ndarray))
        else (int(shape),)
    )


def reshape(
    x: Any, /, shape: Any = None, *, newshape: Any = None, order: str = "C", copy: Any = None
) -> TracedArray:
    """Reshape in row-major order; one length may be -1."""
    if order != "C":
        raise TraceError(
            f"reshape with order={order!r}", "only order='C' is supported", "a transpose"
        )
    array = _array(x)
    lengths = _lengths(newshape if shape is None else shape)
    if lengths.count(-1) == 1:
        known = -math.prod(lengths)
        missing = array.size // known if known else 0
        lengths = tuple(missing if n == -1 else n for n in lengths)
    if math.prod(lengths) != array.size or min(lengths, default=0) < 0:
        raise ValueError(f"cannot reshape an array of shape {array.shape} into {shape}")
    return wrap(current_builder().reshape(array._index, lengths))


def ravel(x: Any, /, order: str = "C") -> TracedArray:
    """Flatten to one axis."""
    return reshape(x, (-1,) if _array(x).size else (0,), order=order)


def permute_dims(x: Any, /, axes: Sequence[int] | None = None) -> TracedArray:
    """Permute axes; None reverses them."""
    array = _array(x)
    order = (
        range(array.ndim)[::-1] if axes is None else [normalized_axis(i, array.ndim) for i in axes]
    )
    if sorted(order) != list(range(array.ndim)):
        raise ValueError(f"axes {axes} do not match an array of {array.ndim} axes")
    return wrap(current_builder().permute(array._index, list(order)))


def matrix_transpose(x: Any, /) -> TracedArray:
    """Swap the last two axes."""
    array = _array(x)
    if array.ndim < 2:
        raise ValueError(f"expected at least 2 axes, received shape {array.shape}")
    return wrap(current_builder().transpose(array._index))


def moveaxis(x: Any, /, source: Any, destination: Any) -> TracedArray:
    """Move axes to new positions."""
    array = _array(x)
    sources = [normalized_axis(i, array.ndim) for i in _lengths(source)]
    targets = [normalized_axis(i, array.ndim) for i in _lengths(destination)]
    order = [i for i in range(array.ndim) if i not in sources]
    for target, axis in sorted(zip(targets, sources, strict=True)):
        order.insert(target, axis)
    return permute_dims(array, order)


def swapaxes(x: Any, /, axis1: int, axis2: int) -> TracedArray:
    """Exchange two axes."""
    array = _array(x)
    order = list(range(array.ndim))
    i, j = normalized_axis(axis1, array.ndim), normalized_axis(axis2, array.ndim)
    order[i], order[j] = j, i
    return permute_dims(array, order)


def expand_dims(x: Any, /, axis: Any = 0) -> TracedArray:
    """Insert axes of length 1."""
    array = _array(x)
    given = _lengths(axis)
    places = normalized_axes(given, array.ndim + len(given))
    rest = iter(array.shape)
    count = array.ndim + len(given)
    return reshape(array, tuple(1 if i in places else next(rest) for i in range(count)))


def squeeze(x: Any, /, axis: Any = None) -> TracedArray:
    """Drop axes of length 1."""
    array = _array(x)
    if axis is None:
        axis = tuple(i for i, n in enumerate(array.shape) if n == 1)
    axes = normalized_axes(axis, array.ndim)
    if any(array.shape[i] != 1 for i in axes):
        raise ValueError(f"cannot squeeze axis {axis} of an array of shape {array.shape}")
    return reshape(array, tuple(n for i, n in enumerate(array.shape) if i not in axes))


def broadcast_to(x: Any, /, shape: Any, subok: bool = False) -> TracedArray:
    """Broadcast to ``shape``."""
    array = _array(x)
    lengths = _lengths(shape)
    if broadcast_shapes("broadcast_to", array.shape, lengths) != lengths:
        raise ValueError(f"cannot broadcast an array of shape {array.shape} to {lengths}")
    return wrap(current_builder().broadcast(array._index, lengths))


def broadcast_arrays(*arrays: Any) -> list[TracedArray]:
    """Broadcast arrays against each other."""
    shape = broadcast_shapes("broadcast_arrays", *(_array(x).shape for x in arrays))
    return [broadcast_to(x, shape) for x in arrays]


def concat(arrays: Sequence[Any], /, axis: int | None = 0, *, dtype: Any = None) -> TracedArray:
    """Join arrays along an axis; None flattens them first."""
    parts = [_array(x) for x in arrays]
    if not parts:
        raise ValueError("expected at least one array to concatenate, received none")
    if axis is None:
        parts, axis = [ravel(x) for x in parts], 0
    if parts[0].ndim == 0:
        raise ValueError("zero-dimensional arrays cannot be concatenated; try stack")
    place = normalized_axis(axis, parts[0].ndim)
    rests = {x.shape[:place] + x.shape[place + 1 :] for x in parts}
    if len(rests) != 1 or len({x.ndim for x in parts}) != 1:
        raise ValueError(f"cannot concatenate shapes {[x.shape for x in parts]} on axis {axis}")
    kind = promoted_dtype(*parts) if dtype is None else np.dtype(dtype).name
    return wrap(current_builder().concat([lift(x, kind) for x in parts], place))


def stack(arrays: Sequence[Any], /, axis: int = 0, *, dtype: Any = None) -> TracedArray:
    """Join arrays of one shape along a new axis."""
    parts = [_array(x) for x in arrays]
    shapes = {x.shape for x in parts}
    if len(shapes) != 1:
        raise ValueError(f"expected arrays of one shape to stack, received {sorted(shapes)}")
    place = normalized_axis(axis, parts[0].ndim + 1)
    return concat([expand_dims(x, place) for x in parts], place, dtype=dtype)


def unstack(x: Any, /, *, axis: int = 0) -> tuple[TracedArray, ...]:
    """Split along an axis into arrays without it."""
    array = _array(x)
    place = normalized_axis(axis, array.ndim)
    return tuple(
        squeeze(cut(array, place, range(i, i + 1)), place) for i in range(array.shape[place])
    )


def cut(array: TracedArray, axis: int, selection: range) -> TracedArray:
    """Take ``selection`` along one axis."""
    ranges = [range(n) for n in array.shape]
    ranges[axis] = selection
    return wrap(current_builder().slice(array._index, ranges))


def split(x: Any, /, indices_or_sections: Any, axis: int = 0) -> list[TracedArray]:
    """Split along an axis, into equal parts or at given positions."""
    array, sections = _array(x), indices_or_sections
    place = normalized_axis(axis, array.ndim)
    length = array.shape[place]
    if not isinstance(sections, (tuple, list, np.ndarray)) and length % int(sections):
        raise ValueError(f"cannot split {length} entries into {sections} equal parts")
    return array_split(array, sections, axis)


def array_split(x: Any, /, indices_or_sections: Any, axis: int = 0) -> list[TracedArray]:
    """Split along an axis, into nearly equal parts or at given positions."""
    array, sections = _array(x), indices_or_sections
    place = normalized_axis(axis, array.ndim)
    everything = range(array.shape[place])
    if isinstance(sections, (tuple, list, np.ndarray)):
        bounds = [0, *map(int, sections), len(everything)]
        chosen = [everything[i:j] for i, j in itertools.pairwise(bounds)]
    else:
        chosen = [
            range(p[0], p[-1] + 1) if len(p) else range(0) for p in _parts(everything, sections)
        ]
    return [cut(array, place, selection) for selection in chosen]


def _parts(everything: range, sections: int) -> list[range]:
    whole, extra = divmod(len(everything), int(sections))
    bounds = [i * whole + min(i, extra) for i in range(int(sections) + 1)]
    return [everything[i:j] for i, j in itertools.pairwise(bounds)]


def atleast_1d(x: Any, /) -> TracedArray:
    """Give a scalar an axis."""
    array = _array(x)
    return array if array.ndim >= 1 else reshape(array, (1,))


def atleast_2d(x: Any, /) -> TracedArray:
    """Prepend axes up to two."""
    array = atleast_1d(x)
    return array if array.ndim >= 2 else reshape(array, (1, *array.shape))


def hstack(arrays: Sequence[Any], /, *, dtype: Any = None) -> TracedArray:
    """Join along the second axis (the first of vectors)."""
    parts = [atleast_1d(x) for x in arrays]
    return concat(parts, 0 if parts[0].ndim == 1 else 1, dtype=dtype)


def vstack(arrays: Sequence[Any], /, *, dtype: Any = None) -> TracedArray:
    """Join along the first axis, vectors as rows."""
    return concat([atleast_2d(x) for x in arrays], 0, dtype=dtype)


def dstack(arrays: Sequence[Any], /) -> TracedArray:
    """Join along the third axis."""
    parts = [atleast_2d(x) for x in arrays]
    return concat([x if x.ndim >= 3 else expand_dims(x, 2) for x in parts], 2)


def column_stack(arrays: Sequence[Any], /) -> TracedArray:
    """Join along the second axis, vectors as columns."""
    parts = [_array(x) for x in arrays]
    return concat([x if x.ndim >= 2 else reshape(x, (x.size, 1)) for x in parts], 1)


def append(x: Any, values: Any, /, axis: int | None = None) -> TracedArray:
    """Join two arrays."""
    return concat([x, values], axis)


def flip(x: Any, /, axis: Any = None) -> TracedArray:
    """Reverse along axes."""
    array = _array(x)
    axes = normalized_axes(axis, array.ndim)
    ranges = [range(n)[::-1] if i in axes else range(n) for i, n in enumerate(array.shape)]
    return wrap(current_builder().slice(array._index, ranges))


def roll(x: Any, /, shift: Any, axis: Any = None) -> TracedArray:
    """Shift cyclically along axes; None shifts the flattened array."""
    array = _array(x)
    if axis is None:
        return reshape(roll(ravel(array), shift, 0), array.shape)
    shifts, axes = _lengths(shift), _lengths(axis)
    for amount, i in zip(shifts * (len(axes) // len(shifts)), axes, strict=True):
        place = normalized_axis(i, array.ndim)
        length = array.shape[place]
        start = -amount % length if length else 0
        parts = [cut(array, place, range(start, length)), cut(array, place, range(start))]
        array = concat(parts, place)
    return array


def repeat(x: Any, /, repeats: Any, axis: int | None = None) -> TracedArray:
    """Repeat entries along an axis; None flattens first."""
    array = ravel(x) if axis is None else _array(x)
    place = normalized_axis(0 if axis is None else axis, array.ndim)
    length = array.shape[place]
    counts = np.broadcast_to(np.asarray(repeats), (length,))
    indices = np.repeat(np.arange(length), counts)
    if length and len(set(counts.tolist())) == 1:
        # A broadcast, which unlike a gather costs nothing and keeps elementwise work small.
        count = int(counts[0])
        wide = broadcast_to(
            expand_dims(array, place + 1),
            (*array.shape[: place + 1], count, *array.shape[place + 1 :]),
        )
        return reshape(wide, (*array.shape[:place], length * count, *array.shape[place + 1 :]))
    return wrap(current_builder().gather(array._index, place, indices.tolist()))


def tile(x: Any, /, reps: Any) -> TracedArray:
    """Repeat whole arrays along every axis."""
    counts = _lengths(reps)
    array = _array(x)
    shape = (1,) * (len(counts) - array.ndim) + array.shape
    counts = (1,) * (len(shape) - len(counts)) + counts
    split_shape = tuple(n for pair in zip((1,) * len(shape), shape, strict=True) for n in pair)
    wide = tuple(n for pair in zip(counts, shape, strict=True) for n in pair)
    whole = tuple(c * n for c, n in zip(counts, shape, strict=True))
    return reshape(broadcast_to(reshape(array, split_shape), wide), whole)


def take(x: Any, /, indices: Any, axis: int | None = None) -> TracedArray:
    """Take entries at constant indices along an axis; None flattens first."""
    array = ravel(x) if axis is None else _array(x)
    place = normalized_axis(0 if axis is None else axis, array.ndim)
    return array[(slice(None),) * place + (indices,)]


def diff(x: Any, /, n: int = 1, axis: int = -1) -> TracedArray:
    """Differences of neighbours, ``n`` times."""
    array = _array(x)
    place = normalized_axis(axis, array.ndim)
    for _ in range(n):
        length = array.shape[place]
        array = cut(array, place, range(1, length)) - cut(array, place, range(length - 1))
    return array


def meshgrid(*arrays: Any, indexing: str = "xy") -> list[TracedArray]:
    """Coordinate arrays of a grid."""
    vectors = [ravel(x) for x in arrays]
    count = len(vectors)
    shaped = [
        reshape(x, tuple(x.size if i == j else 1 for j in range(count)))
        for i, x in enumerate(vectors)
    ]
    grids = broadcast_arrays(*shaped)
    return [swapaxes(grid, 0, 1) for grid in grids] if indexing == "xy" and count > 1 else grids


def pad(
    x: Any, /, pad_width: Any, mode: str = "constant", *, constant_values: complex = 0
) -> TracedArray:
    """Pad along every axis, in mode ``constant``, ``edge``, ``wrap`` or ``reflect``."""
    array = _array(x)
    pairs = np.broadcast_to(np.asarray(pad_width), (array.ndim, 2)).tolist()
    for axis, (before, after) in enumerate(pairs):
        if not before and not after:
            continue
        if mode == "constant":
            array = _padded_with(array, axis, before, after, constant_values)
        elif mode in {"edge", "wrap", "reflect"}:
            places = np.pad(np.arange(array.shape[axis]), (before, after), mode=mode)  # type: ignore[call-overload]
            array = wrap(current_builder().gather(array._index, axis, places.tolist()))
        else:
            raise TraceError(f"pad with mode={mode!r}", "it is not supported", "concat")
    return array


def _padded_with(array: TracedArray, axis: int, before: int, after: int, fill: Any) -> TracedArray:
    builder, dtype = current_builder(), array.dtype.name

    def filled(length: int) -> TracedArray:
        shape = (*array.shape[:axis], length, *array.shape[axis + 1 :])
        return wrap(builder.full(shape, fill, dtype))

    return concat([filled(before), array, filled(after)], axis)


def diagonal(x: Any, /, offset: int = 0, axis1: int = 0, axis2: int = 1) -> TracedArray:
    """Diagonals of the matrices in two axes, along the last axis of the result."""
    array = moveaxis(x, (axis1, axis2), (-2, -1))
    rows, columns = array.shape[-2:]
    first = max(-offset, 0)
    count = max(0, min(rows - first, columns - max(offset, 0)))
    places = [(first + i) * columns + max(offset, 0) + i for i in range(count)]
    flat = reshape(array, (*array.shape[:-2], rows * columns))
    return wrap(current_builder().gather(flat._index, flat.ndim - 1, places))


def tril(x: Any, /, *, k: int = 0) -> TracedArray:
    """Lower triangle; zeros above diagonal ``k``."""
    rows, columns = _array(x).shape[-2:]
    return _masked(x, np.tri(rows, columns, k) != 0)


def triu(x: Any, /, *, k: int = 0) -> TracedArray:
    """Upper triangle; zeros below diagonal ``k``."""
    rows, columns = _array(x).shape[-2:]
    return _masked(x, np.tri(rows, columns, k - 1) == 0)


def _masked(x: Any, mask: Any) -> TracedArray:
    array = _array(x)
    builder, (value, zero), _ = promote("tril and triu", array, 0)
    chosen = builder.broadcast(builder.constant(mask), array.shape)
    return wrap(builder.where(chosen, value, zero))
