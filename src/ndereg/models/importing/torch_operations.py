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
        return cast(b, zeros if fill == 0 and known(fill) else b.call("add", zeros, fill), dtype)

    return convert


TABLE["zeros_like"], TABLE["ones_like"] = _filled(0.0), _filled(1.0)
TABLE["full_like"] = _filled(None)


def sized(size: tuple[Any, ...]) -> Any:
    """Lengths given one by one or as one sequence; a lone value may be either."""
    if len(size) == 1 and isinstance(size[0], (tuple, list)):
        return tuple(size[0])
    return size[0] if len(size) == 1 else tuple(size)


def axes_of(dim: Any) -> Any:
    """Return axes as the operations take them."""
    return tuple(dim) if isinstance(dim, (tuple, list)) and dim else (None if dim == [] else dim)


def cast(b: Builder, x: Any, dtype: Any) -> Any:
    """Return a cast, where a dtype is given."""
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
        return cast(b, b.call("full", sized(tuple(size)), fill, STATE), dtype)

    return convert


TABLE["zeros"], TABLE["ones"], TABLE["full"] = _created(0.0), _created(1.0), _created(None)


def _new(value: float | None) -> Convert:
    def convert(b: Builder, x: Any, *size: Any, dtype: Any = None, **_: Any) -> Any:
        fill = value
        if value is None:
            *size, fill = size
        return cast(b, b.call("full", sized(tuple(size)), fill, x), dtype)

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


def _reduction(name: str) -> None:
    @entry(name)
    def convert(
        b: Builder, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
    ) -> Any:
        return b.call(name, cast(b, x, dtype), axis=axes_of(dim), keepdims=keepdim)


for _name in ("sum", "mean", "prod"):
    _reduction(_name)


@entry("amax")
def _amax(b: Builder, x: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return b.call("max", x, axis=axes_of(dim) or None, keepdims=keepdim)


@entry("amin")
def _amin(b: Builder, x: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return b.call("min", x, axis=axes_of(dim) or None, keepdims=keepdim)


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
    return b.call("variance", x, axis=axes_of(dim), keepdims=keepdim, correction=correction)


@entry("std")
def _std(b: Builder, *operands: Any, **named: Any) -> Any:
    return b.call("sqrt", _var(b, *operands, **named))


@entry("norm", "linalg_vector_norm", "linalg_norm")
def _norm(b: Builder, x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    require(p in (2, 2.0, None, "fro"), f"the norm p={p!r}")
    return b.call("sqrt", b.call("sum", b.call("square", x), axis=axes_of(dim), keepdims=keepdim))


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


@entry("scalar_tensor")
def _scalar(b: Builder, value: Any, **_: Any) -> Any:
    return value if math.isfinite(value) else b.call("full", (), value, STATE)
