"""What PyTorch's functions and methods on tensors are in a program, by their names.

An entry has the signature of the PyTorch function (which is that of the tensor's method and of the
ATen operation of the same name), after the builder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ndereg.models.importing.builder import STATE, Builder
from ndereg.models.operands import Ref, Weight

Convert = Callable[..., Any]

TABLE: dict[str, Convert] = {}


class Unsupported(Exception):
    """An argument that has no counterpart; the message says which."""


def entry(*names: str) -> Callable[[Convert], Convert]:
    """Register a conversion under the names that PyTorch has for it."""

    def register(function: Convert) -> Convert:
        for name in names:
            TABLE[name] = function
        return function

    return register


def require(condition: bool, what: str) -> None:
    """Refuse an argument."""
    if not condition:
        raise Unsupported(what)


def known(value: Any) -> bool:
    """Whether an operand is a plain value, known now."""
    if isinstance(value, (tuple, list)):
        return all(map(known, value))
    return not isinstance(value, (Ref, Weight))


def pair(value: Any, count: int) -> tuple[Any, ...]:
    """Return one number for each of ``count`` axes."""
    if isinstance(value, (tuple, list)):
        return tuple(value) * (count if len(value) == 1 else 1)
    return (value,) * count


def _plain(*operations: str) -> None:
    """Functions of operands only, with the name they have here."""
    for names in operations:
        name, *others = names.split("=")

        def convert(b: Builder, *operands: Any, _name: str = name, inplace: bool = False) -> Any:
            return b.call(_name, *operands)

        for other in (name, *others):
            TABLE[other] = convert


_plain(
    *("abs=absolute", "acos=arccos", "acosh=arccosh", "asin=arcsin", "asinh=arcsinh"),
    *("atan=arctan", "atanh=arctanh", "atan2=arctan2", "cos", "cosh", "erf", "exp", "expm1"),
    *("log", "log1p", "log2", "log10", "logaddexp", "hypot", "maximum", "minimum", "relu", "rsqrt"),
    *("sigmoid", "sign=sgn", "silu", "sin", "sinh", "sqrt", "square", "tan", "tanh", "conj"),
    *("real", "imag", "matmul=mm=bmm=mv=dot", "divide=true_divide=truediv"),
    *("negative=neg", "power=pow", "floor_divide=floordiv", "remainder=mod=fmod"),
    *("equal=eq", "not_equal=ne", "less=lt", "less_equal=le", "greater=gt", "greater_equal=ge"),
    *(
        "logical_and=and_=bitwise_and",
        "logical_or=or_=bitwise_or",
        "logical_not=bitwise_not=invert",
    ),
    *("logical_xor=bitwise_xor", "linear", "where"),
)
del TABLE["mod"], TABLE["fmod"]  # fmod has the sign of the dividend
TABLE["special_expit"] = TABLE["expit"] = TABLE["sigmoid"]
TABLE["swish"] = TABLE["silu"]


def _filled(value: float | None) -> Convert:
    def convert(b: Builder, x: Any, fill_value: Any = None, *, dtype: Any = None, **_: Any) -> Any:
        zeros = b.call("zeros_like", x)
        fill = value if value is not None else fill_value
        return _cast(b, zeros if fill == 0 and known(fill) else b.call("add", zeros, fill), dtype)

    return convert


TABLE["zeros_like"], TABLE["ones_like"] = _filled(0.0), _filled(1.0)
TABLE["full_like"] = _filled(None)


def _cast(b: Builder, x: Any, dtype: Any) -> Any:
    return x if dtype is None else b.call("as_dtype", x, dtype_name(dtype))


def dtype_name(dtype: Any) -> str:
    """Return the plain name of a torch dtype."""
    name = str(dtype).removeprefix("torch.")
    names = ("bool", "int32", "int64", "float32", "float64", "complex64", "complex128")
    require(name in names, f"dtype {dtype}")
    return name


def _created(value: float | None) -> Convert:
    def convert(b: Builder, *size: Any, fill_value: Any = None, dtype: Any = None, **_: Any) -> Any:
        if value is None and fill_value is None:
            *size, fill_value = size
        fill = fill_value if value is None else value
        return _cast(b, b.call("full", _sized(tuple(size)), fill, STATE), dtype)

    return convert


TABLE["zeros"], TABLE["ones"], TABLE["full"] = _created(0.0), _created(1.0), _created(None)


def _new(value: float | None) -> Convert:
    def convert(b: Builder, x: Any, *size: Any, dtype: Any = None, **_: Any) -> Any:
        fill = value
        if value is None:
            *size, fill = size
        return _cast(b, b.call("full", _sized(tuple(size)), fill, x), dtype)

    return convert


TABLE["new_zeros"], TABLE["new_ones"], TABLE["new_full"] = _new(0.0), _new(1.0), _new(None)


# Arithmetic


@entry("add", "iadd")
def _add(b: Builder, x: Any, y: Any, *, alpha: Any = 1) -> Any:
    return b.call("add", x, y if _is_one(alpha) else b.call("multiply", alpha, y))


@entry("sub", "subtract", "isub")
def _subtract(b: Builder, x: Any, y: Any, *, alpha: Any = 1) -> Any:
    return b.call("subtract", x, y if _is_one(alpha) else b.call("multiply", alpha, y))


@entry("rsub")
def _reflected(b: Builder, x: Any, y: Any, alpha: Any = 1) -> Any:
    return _subtract(b, y, x, alpha=alpha)


@entry("mul", "multiply", "imul")
def _multiply(b: Builder, x: Any, y: Any) -> Any:
    return b.call("multiply", x, y)


@entry("div", "divide", "itruediv")
def _divide(b: Builder, x: Any, y: Any, *, rounding_mode: Any = None) -> Any:
    require(rounding_mode in (None, "floor"), f"rounding_mode={rounding_mode!r}")
    return b.call("floor_divide" if rounding_mode else "divide", x, y)


def _is_one(value: Any) -> bool:
    return known(value) and value == 1


@entry("pos", "positive", "clone", "contiguous", "detach_copy", "item", "alias", "lift_fresh_copy")
def _same(b: Builder, x: Any, **_: Any) -> Any:
    return x


@entry("reciprocal")
def _reciprocal(b: Builder, x: Any) -> Any:
    return b.call("divide", 1, x)


@entry("addmm")
def _addmm(b: Builder, bias: Any, x: Any, y: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    require(_is_one(beta) and _is_one(alpha), "beta and alpha")
    return b.call("add", b.call("matmul", x, y), bias)


@entry("baddbmm")
def _baddbmm(b: Builder, bias: Any, x: Any, y: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return _addmm(b, bias, x, y, beta=beta, alpha=alpha)


@entry("addcmul")
def _addcmul(b: Builder, x: Any, y: Any, z: Any, *, value: Any = 1) -> Any:
    return _add(b, x, b.call("multiply", y, z), alpha=value)


@entry("addcdiv")
def _addcdiv(b: Builder, x: Any, y: Any, z: Any, *, value: Any = 1) -> Any:
    return _add(b, x, b.call("divide", y, z), alpha=value)


@entry("lerp")
def _lerp(b: Builder, x: Any, y: Any, weight: Any) -> Any:
    return b.call("add", x, b.call("multiply", weight, b.call("subtract", y, x)))


@entry("einsum")
def _einsum(b: Builder, equation: Any, *operands: Any, **_: Any) -> Any:
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = tuple(operands[0])
    return b.call("einsum", equation, *operands)


@entry("clamp", "clip")
def _clamp(b: Builder, x: Any, min: Any = None, max: Any = None) -> Any:  # noqa: A002
    return b.call("clip", x, min, max)


@entry("clamp_min")
def _clamp_min(b: Builder, x: Any, min: Any) -> Any:  # noqa: A002
    return b.call("clip", x, min)


@entry("clamp_max")
def _clamp_max(b: Builder, x: Any, max: Any) -> Any:  # noqa: A002
    return b.call("clip", x, None, max)


# Reductions


def _axes(dim: Any) -> Any:
    return tuple(dim) if isinstance(dim, (tuple, list)) and dim else (None if dim == [] else dim)


def _reduction(name: str) -> None:
    @entry(name)
    def convert(
        b: Builder, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
    ) -> Any:
        return b.call(name, _cast(b, x, dtype), axis=_axes(dim), keepdims=keepdim)


for _name in ("sum", "mean", "prod"):
    _reduction(_name)


@entry("amax")
def _amax(b: Builder, x: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return b.call("max", x, axis=_axes(dim) or None, keepdims=keepdim)


@entry("amin")
def _amin(b: Builder, x: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return b.call("min", x, axis=_axes(dim) or None, keepdims=keepdim)


def _extremum(name: str) -> None:
    @entry(name)
    def convert(b: Builder, x: Any, other: Any = None, *_: Any, **named: Any) -> Any:
        require(not named and (other is None or isinstance(other, (Ref, Weight))),
                 "it also returns indices; amax or amin")  # fmt: skip
        return b.call(name, x) if other is None else b.call(f"{name}imum", x, other)


_extremum("max")
_extremum("min")


@entry("var")
def _var(
    b: Builder,
    x: Any,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Any:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    return b.call("variance", x, axis=_axes(dim), keepdims=keepdim, correction=correction)


@entry("std")
def _std(b: Builder, *operands: Any, **named: Any) -> Any:
    return b.call("sqrt", _var(b, *operands, **named))


@entry("norm", "linalg_vector_norm", "linalg_norm")
def _norm(b: Builder, x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    require(p in (2, 2.0, None, "fro"), f"the norm p={p!r}")
    return b.call("sqrt", b.call("sum", b.call("square", x), axis=_axes(dim), keepdims=keepdim))


@entry("logsumexp")
def _logsumexp(b: Builder, x: Any, dim: Any, keepdim: bool = False) -> Any:
    (axis,) = pair(dim, 1)
    return b.call("logsumexp", x, axis=axis, keepdims=keepdim)


@entry("softmax", "_softmax")
def _softmax(b: Builder, x: Any, dim: Any = None, dtype: Any = None, **_: Any) -> Any:
    require(dim is not None, "dim=None")
    return b.call("softmax", x, axis=dim)


@entry("log_softmax", "_log_softmax")
def _log_softmax(b: Builder, x: Any, dim: Any = None, dtype: Any = None, **_: Any) -> Any:
    require(dim is not None, "dim=None")
    return b.call("log_softmax", x, dim)


@entry("cumsum")
def _cumsum(b: Builder, x: Any, dim: Any) -> Any:
    return b.call("cumulative_sum", x, dim)


# Shapes


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


def _sized(size: tuple[Any, ...]) -> Any:
    """Lengths given one by one or as one sequence; a lone value may be either."""
    if len(size) == 1 and isinstance(size[0], (tuple, list)):
        return tuple(size[0])
    return size[0] if len(size) == 1 else tuple(size)


@entry("view", "reshape", "_unsafe_view")
def _reshape(b: Builder, x: Any, *shape: Any) -> Any:
    return b.call("reshape", x, _sized(shape))


@entry("view_as", "reshape_as")
def _reshape_as(b: Builder, x: Any, other: Any) -> Any:
    return b.call("reshape", x, b.call("shape", other))


@entry("expand", "broadcast_to")
def _expand(b: Builder, x: Any, *size: Any, implicit: bool = False) -> Any:
    lengths = _sized(size)
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
    return b.call("squeeze", x, _axes(dim))


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
    return b.call("permute", x, _sized(dims))


@entry("movedim", "moveaxis")
def _movedim(b: Builder, x: Any, source: Any, destination: Any) -> Any:
    require(isinstance(source, int) and isinstance(destination, int), "several axes")
    return b.call("move_axis", x, source, destination)


@entry("flip")
def _flip(b: Builder, x: Any, *dims: Any) -> Any:
    return b.call("flip", x, _sized(dims))


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
    return b.call("tile", x, _sized(sizes))


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
    return _cast(b, x, dtype)


@entry("_to_copy")
def _to_copy(b: Builder, x: Any, *, dtype: Any = None, **_: Any) -> Any:
    return _cast(b, x, dtype)


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


@entry("scalar_tensor")
def _scalar(b: Builder, value: Any, **_: Any) -> Any:
    return value if math.isfinite(value) else b.call("full", (), value, STATE)
