"""``array[...]`` for traced arrays: slices, integers, new axes, constant index arrays and masks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ndereg.trace.errors import TraceError
from ndereg.trace.shaping import expand_dims, permute_dims, reshape
from ndereg.trace.value import Value, broadcast_shapes, current_builder, wrap

if TYPE_CHECKING:
    from ndereg.trace.array import TracedArray

__all__ = ["getitem"]


def getitem(array: TracedArray, key: Any) -> TracedArray:
    """Index as NumPy does, with indices that are known while tracing."""
    entries = _expanded(key if isinstance(key, tuple) else (key,), array.ndim)
    ranges: list[range] = []
    # What becomes of every axis of the sliced array, new axes included:
    # "keep", "new", "drop" (an integer) or a NumPy index array.
    fates: list[Any] = []
    for entry in entries:
        if entry is None:
            fates.append("new")
            continue
        length = array.shape[len(ranges)]
        if isinstance(entry, slice):
            ranges.append(range(*_bounds(entry).indices(length)))
            fates.append("keep")
        elif isinstance(entry, np.ndarray):
            ranges.append(range(length))
            fates.append(_checked_indices(entry, length, len(ranges) - 1))
        else:
            place = _checked_integer(entry, length, len(ranges) - 1)
            ranges.append(range(place, place + 1))
            fates.append("drop")
    sliced = wrap(current_builder().slice(array._index, ranges))
    if any(isinstance(fate, np.ndarray) for fate in fates):
        return _advanced(sliced, fates)
    lengths = iter(sliced.shape)
    shape = [1 if fate == "new" else next(lengths) for fate in fates]
    return reshape(sliced, tuple(n for n, f in zip(shape, fates, strict=True) if f != "drop"))


def _expanded(key: tuple[Any, ...], ndim: int) -> list[Any]:
    """Normalise the parts of an index and fill up to the number of axes."""
    parts: list[Any] = []
    for entry in key:
        parts.extend(_normalized(entry))
    used = sum(entry is not None and entry is not Ellipsis for entry in parts)
    if used > ndim:
        raise IndexError(f"too many indices: the array has {ndim} axes, but {used} were indexed")
    missing = [slice(None)] * (ndim - used)
    places = [i for i, entry in enumerate(parts) if entry is Ellipsis]
    if len(places) > 1:
        raise IndexError("an index can have only one ellipsis ('...')")
    if not places:
        return parts + missing
    return parts[: places[0]] + missing + parts[places[0] + 1 :]


def _normalized(entry: Any) -> list[Any]:
    """Return the index as slices, ints, None, Ellipsis and integer arrays."""
    if entry is None or entry is Ellipsis or isinstance(entry, slice):
        return [entry]
    if isinstance(entry, Value):
        entry = _constant_index(entry)
    if isinstance(entry, (bool, np.bool_)):
        raise TraceError(f"an index {entry!r}", "a boolean scalar is not supported", "where")
    array = np.asarray(entry)
    if array.dtype.kind == "b":
        return list(np.nonzero(array))
    if array.size == 0:
        array = array.astype(np.intp)
    if array.dtype.kind not in "iu":
        raise IndexError(f"expected integers, slices or masks as indices, received {entry!r}")
    return [int(array)] if array.ndim == 0 else [array]


def _constant_index(index: Value) -> Any:
    value = known_value(index)
    if value is None:
        raise TraceError(
            "indexing with an array that is computed",
            "which entries are taken would depend on the data",
            "where(mask, x, 0), or an index that is a constant",
        )
    return value


def known_value(x: Value) -> Any:
    """Return the value of a traced array that is constant, or None."""
    return current_builder().known(x._index)


def _bounds(entry: slice) -> slice:
    parts = [
        _constant_index(part) if isinstance(part, Value) else part
        for part in (entry.start, entry.stop, entry.step)
    ]
    return slice(*(None if part is None else int(part) for part in parts))


def _checked_integer(index: int, length: int, axis: int) -> int:
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of bounds for axis {axis} with size {length}")
    return index % length


def _checked_indices(indices: Any, length: int, axis: int) -> Any:
    for index in indices.flat:
        _checked_integer(int(index), length, axis)
    return indices % length if length else indices


def _advanced(sliced: TracedArray, fates: list[Any]) -> TracedArray:
    """Index with arrays: merge their axes into one, gather along it, spread the result.

    As in NumPy, integers count as index arrays once there is one, and the indexed axes come
    first in the result unless they are neighbours.
    """
    widened = expand_dims(sliced, tuple(i for i, f in enumerate(fates) if _is(f, "new")))
    axes = [i for i, fate in enumerate(fates) if isinstance(fate, np.ndarray) or _is(fate, "drop")]
    lengths = [widened.shape[i] for i in axes]
    arrays = [fates[i] if isinstance(fates[i], np.ndarray) else np.zeros((), int) for i in axes]
    shape = broadcast_shapes("indexing", *(a.shape for a in arrays))
    places = np.zeros(shape, dtype=np.int64)
    for indices, length in zip(arrays, lengths, strict=True):
        places = places * length + indices
    adjacent = axes == list(range(axes[0], axes[-1] + 1))
    first = axes[0] if adjacent else 0
    rest = [i for i in range(widened.ndim) if i not in axes]
    moved = permute_dims(widened, [*rest[:first], *axes, *rest[first:]])
    before, after = moved.shape[:first], moved.shape[first + len(axes) :]
    merged = reshape(moved, (*before, math.prod(lengths), *after))
    gathered = current_builder().gather(merged._index, first, places.ravel().tolist())
    return reshape(wrap(gathered), (*before, *shape, *after))


def _is(fate: Any, name: str) -> bool:
    return isinstance(fate, str) and fate == name
