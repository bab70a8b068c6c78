"""What PyTorch's functions about shapes, indices and dtypes are in a program, by their names."""

from __future__ import annotations

from typing import Any

from ndereg.models.importing.builder import Builder
from ndereg.models.importing.torch_operations import (
    TABLE,
    Unsupported,
    axes_of,
    cast,
    entry,
    known,
    pair,
    require,
    sized,
)
from ndereg.models.operands import Ref


@entry("size")
def _size(b: Builder, x: Any, dim: Any = None) -> Any:
    shape = b.call("shape", x)
    return shape if dim is None else b.call("item", shape, dim)


@entry("sym_size")
def _sym_size(b: Builder, x: Any, dim: Any) -> Any:
    return _size(b, x, dim)


@entry("dim", "ndimension")
def _dim(b: Builder, x: Any) -> Any:
    return b.call("ndim", x)


@entry("numel", "nelement")
def _numel(b: Builder, x: Any) -> Any:
    return b.call("entries", x)


@entry("getattr")
def _attribute(b: Builder, x: Any, name: str) -> Any:
    if name == "shape":
        return b.call("shape", x)
    if name == "ndim":
        return b.call("ndim", x)
    if name == "T":
        return b.call("swap_axes", x, 0, -1)
    if name == "mT":
        return b.call("matrix_transpose", x)
    if name in ("real", "imag"):
        return b.call(name, x)
    if name in ("dtype", "device"):
        return None  # of what is created: what the state has
    raise Unsupported(f"the attribute {name!r}")


@entry("getitem")
def _getitem(b: Builder, x: Any, key: Any) -> Any:
    return b.call("item", x, key)


@entry("view", "reshape", "_unsafe_view")
def _reshape(b: Builder, x: Any, *shape: Any) -> Any:
    return b.call("reshape", x, sized(shape))


@entry("view_as", "reshape_as")
def _reshape_as(b: Builder, x: Any, other: Any) -> Any:
    return b.call("reshape", x, b.call("shape", other))


@entry("expand", "broadcast_to")
def _expand(b: Builder, x: Any, *size: Any, implicit: bool = False) -> Any:
    lengths = sized(size)
    return b.call("expand", x, (lengths,) if isinstance(lengths, int) else lengths)


@entry("expand_as")
def _expand_as(b: Builder, x: Any, other: Any) -> Any:
    return b.call("expand", x, b.call("shape", other))


@entry("flatten")
def _flatten(b: Builder, x: Any, start_dim: Any = 0, end_dim: Any = -1) -> Any:
    return b.call("flatten", x, start_dim, end_dim)


@entry("ravel")
def _ravel(b: Builder, x: Any) -> Any:
    return b.call("flatten", x)


@entry("unflatten")
def _unflatten(b: Builder, x: Any, dim: Any, sizes: Any) -> Any:
    require(known(dim), "an axis that is computed")
    shape = b.call("shape", x)
    before = b.call("item", shape, slice(None, dim))
    after = b.call("item", shape, slice(dim + 1 if dim != -1 else 10**6, None))
    return b.call("reshape", x, b.call("add", b.call("add", before, tuple(sizes)), after))


@entry("squeeze")
def _squeeze(b: Builder, x: Any, dim: Any = None) -> Any:
    return b.call("squeeze", x, axes_of(dim))


@entry("unsqueeze")
def _unsqueeze(b: Builder, x: Any, dim: Any) -> Any:
    return b.call("expand_dims", x, axis=dim)


@entry("t")
def _t(b: Builder, x: Any) -> Any:
    return b.call("swap_axes", x, 0, -1)


@entry("transpose", "swapaxes", "swapdims")
def _transpose(b: Builder, x: Any, dim0: Any, dim1: Any) -> Any:
    return b.call("swap_axes", x, dim0, dim1)


@entry("permute")
def _permute(b: Builder, x: Any, *dims: Any) -> Any:
    return b.call("permute", x, sized(dims))


@entry("movedim", "moveaxis")
def _movedim(b: Builder, x: Any, source: Any, destination: Any) -> Any:
    require(isinstance(source, int) and isinstance(destination, int), "several axes")
    return b.call("move_axis", x, source, destination)


@entry("flip")
def _flip(b: Builder, x: Any, *dims: Any) -> Any:
    return b.call("flip", x, sized(dims))


@entry("cat", "concat", "concatenate")
def _cat(b: Builder, tensors: Any, dim: Any = 0, axis: Any = None) -> Any:
    return b.call("concat", tensors, dim if axis is None else axis)


@entry("stack")
def _stack(b: Builder, tensors: Any, dim: Any = 0) -> Any:
    return b.call("stack", tensors, dim)


@entry("hstack")
def _hstack(b: Builder, tensors: Any) -> Any:
    raise Unsupported("it depends on the number of axes")


@entry("chunk")
def _chunk(b: Builder, x: Any, chunks: Any, dim: Any = 0) -> Any:
    return b.call("chunk", x, chunks, dim)


@entry("split", "split_with_sizes", "tensor_split")
def _split(b: Builder, x: Any, split_size_or_sections: Any, dim: Any = 0) -> Any:
    return b.call("split", x, split_size_or_sections, dim)


TABLE["tensor_split"] = TABLE["hstack"]


@entry("unbind")
def _unbind(b: Builder, x: Any, dim: Any = 0) -> Any:
    return b.call("unstack", x, dim)


@entry("select")
def _select(b: Builder, x: Any, dim: Any, index: Any) -> Any:
    return b.call("take", x, index, dim)


@entry("slice")
def _slice(
    b: Builder, x: Any, dim: Any = 0, start: Any = None, end: Any = None, step: Any = 1
) -> Any:
    return b.call("take_slice", x, dim, start, end, step)


@entry("narrow")
def _narrow(b: Builder, x: Any, dim: Any, start: Any, length: Any) -> Any:
    return b.call("take_slice", x, dim, start, b.call("add", start, length))


@entry("index_select")
def _index_select(b: Builder, x: Any, dim: Any, index: Any) -> Any:
    require(not isinstance(index, Ref), "an index that is computed")
    return b.call("take", x, index, dim)


@entry("index")
def _index(b: Builder, x: Any, indices: Any) -> Any:
    require(not any(isinstance(i, Ref) for i in indices), "an index that is computed")
    return b.call("item", x, tuple(slice(None) if i is None else i for i in indices))


@entry("repeat", "tile")
def _repeat(b: Builder, x: Any, *sizes: Any) -> Any:
    return b.call("tile", x, sized(sizes))


@entry("roll")
def _roll(b: Builder, x: Any, shifts: Any, dims: Any = None) -> Any:
    require(known(shifts) and dims is not None, "a shift of the flattened tensor")
    for shift, dim in zip(pair(shifts, 1), pair(dims, 1), strict=True):
        if shift:
            parts = (
                b.call("take_slice", x, dim, -shift, None),
                b.call("take_slice", x, dim, None, -shift),
            )
            x = b.call("concat", parts, dim)
    return x


@entry("type_as")
def _type_as(b: Builder, x: Any, other: Any) -> Any:
    return b.call("cast_like", x, other)


@entry("to")
def _to(b: Builder, x: Any, *args: Any, dtype: Any = None, **_: Any) -> Any:
    for arg in args:
        if isinstance(arg, Ref):
            return b.call("cast_like", x, arg)
        if str(arg).startswith("torch.") and known(arg):
            dtype = arg
    return cast(b, x, dtype)


@entry("_to_copy")
def _to_copy(b: Builder, x: Any, *, dtype: Any = None, **_: Any) -> Any:
    return cast(b, x, dtype)


@entry("float")
def _float(b: Builder, x: Any) -> Any:
    return b.call("as_dtype", x, "float32")


@entry("double")
def _double(b: Builder, x: Any) -> Any:
    return b.call("as_dtype", x, "float64")


@entry("pad", "constant_pad_nd")
def _pad(b: Builder, x: Any, pad: Any, mode: Any = "constant", value: Any = None) -> Any:
    if not isinstance(mode, str):  # constant_pad_nd(x, pad, value)
        mode, value = "constant", mode
    require(mode == "constant" and known(pad), f"mode={mode!r}")
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    for place, (before, after) in enumerate(pairs, 1):
        x = _pad_axis(b, x, -place, before, after, value or 0.0)
    return x


def _pad_axis(b: Builder, x: Any, axis: int, before: int, after: int, value: float) -> Any:
    """Extend one axis; how many others there are is not known."""
    if before < 0 or after < 0:
        cut = (max(0, -before), min(0, after) or None)
        x = b.call("take_slice", x, axis, *cut)
    parts = [x]
    for extra in (max(0, before), max(0, after)):
        edge = b.call("take_slice", x, axis, 0, 1)
        shape = b.call("shape", edge)
        counts = b.call("item", shape, slice(None, axis)), (extra,)
        rest = b.call("item", shape, slice(axis + 1, None)) if axis != -1 else ()
        whole = b.call("add", b.call("add", *counts), rest)
        parts.append(b.call("full", whole, value, x) if extra else None)
    ordered = [parts[1], parts[0], parts[2]]
    return b.call("concat", tuple(p for p in ordered if p is not None), axis)
