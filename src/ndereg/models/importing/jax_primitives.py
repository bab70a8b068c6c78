"""What the primitives of JAX are in a program.

An entry takes the interpreter's builder, the operands, and the equation (for its parameters and the
shapes of its operands), and returns the operand of its result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ndereg.models.importing.builder import STATE, Builder
from ndereg.models.operands import Constant, Ref, Weight

Convert = Callable[[Builder, list[Any], Any], Any]

_UNARY = {
    "neg": "negative", "logistic": "sigmoid", "not": "logical_not",
    **{name: name for name in (
        "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "cbrt", "ceil", "conj", "cos",
        "cosh", "erf", "exp", "expm1", "floor", "imag", "is_finite", "log", "log1p", "real",
        "rsqrt", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh",
    )},
}  # fmt: skip
_BINARY = {
    "add": "add", "add_any": "add", "sub": "subtract", "mul": "multiply", "div": "divide",
    "max": "maximum", "min": "minimum", "pow": "power", "atan2": "atan2", "eq": "equal",
    "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
    "and": "logical_and", "or": "logical_or", "xor": "logical_xor",
}  # fmt: skip
ELEMENTWISE = {*_UNARY, *_BINARY, "integer_pow", "select_n", "clamp", "erfc", "exp2", "copy",
               "copy_p", "reduce_precision"}  # fmt: skip

TABLE: dict[str, Convert] = {}


class Unsupported(Exception):
    """Parameters of a primitive that have no counterpart; the message says which."""


def _entry(*names: str) -> Callable[[Convert], Convert]:
    def register(function: Convert) -> Convert:
        for name in names:
            TABLE[name] = function
        return function

    return register


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise Unsupported(what)


def shape_of(variable: Any) -> tuple[int, ...]:
    """Return the shape of a variable of a jaxpr."""
    return tuple(variable.aval.shape)


def is_array(operand: Any) -> bool:
    """Whether an operand is more than a number."""
    return isinstance(operand, (Ref, Weight, Constant))


def whole(b: Builder, operand: Any, shape: tuple[int, ...]) -> Any:
    """Return the operand as an array, where functions need one."""
    return operand if is_array(operand) else b.call("full", shape, operand, STATE)


def _elementwise() -> None:
    def unary(name: str) -> Convert:
        return lambda b, x, eqn: b.call(name, *x)

    def binary(name: str) -> Convert:
        def convert(b: Builder, x: list[Any], eqn: Any) -> Any:
            if name in ("maximum", "minimum", "atan2"):
                x = [v if is_array(v) else float(v) for v in x]
            return b.call(name, *x)

        return convert

    TABLE.update({name: unary(ours) for name, ours in _UNARY.items()})
    TABLE.update({name: binary(ours) for name, ours in _BINARY.items()})


_elementwise()


@_entry("copy", "copy_p", "reduce_precision", "optimization_barrier", "sharding_constraint")
def _same(b: Builder, x: list[Any], eqn: Any) -> Any:
    return x[0]


@_entry("integer_pow")
def _integer_pow(b: Builder, x: list[Any], eqn: Any) -> Any:
    power = int(eqn.params["y"])
    return b.call("square", x[0]) if power == 2 else b.call("power", x[0], power)


@_entry("exp2")
def _exp2(b: Builder, x: list[Any], eqn: Any) -> Any:
    return b.call("exp", b.call("multiply", x[0], math.log(2.0)))


@_entry("erfc")
def _erfc(b: Builder, x: list[Any], eqn: Any) -> Any:
    return b.call("subtract", 1, b.call("erf", x[0]))


@_entry("select_n")
def _select(b: Builder, x: list[Any], eqn: Any) -> Any:
    _require(len(x) == 3, "more than two cases")
    which, *cases = x
    shape = shape_of(eqn.outvars[0])
    on_false, on_true = cases if any(map(is_array, cases)) else (
        whole(b, cases[0], shape), cases[1])  # fmt: skip
    return b.call("where", which, on_true, on_false)


@_entry("clamp")
def _clamp(b: Builder, x: list[Any], eqn: Any) -> Any:
    return b.call("minimum", b.call("maximum", x[1], x[0]), x[2])


@_entry("convert_element_type")
def _convert(b: Builder, x: list[Any], eqn: Any) -> Any:
    if not is_array(x[0]):
        kind = np.dtype(eqn.params["new_dtype"]).kind
        return {"b": bool, "i": int, "u": int, "c": complex}.get(kind, float)(x[0])
    new, old = np.dtype(eqn.params["new_dtype"]), np.dtype(eqn.invars[0].aval.dtype)
    if new == old:
        return x[0]
    name = "int64" if new.kind in "iu" else new.name
    _require(name in ("bool", "int64", "float32", "float64", "complex64", "complex128"),
             f"dtype {name}")  # fmt: skip
    return b.call("as_dtype", x[0], name)


# Shapes


@_entry("broadcast_in_dim")
def _broadcast(b: Builder, x: list[Any], eqn: Any) -> Any:
    shape, places = tuple(eqn.params["shape"]), eqn.params["broadcast_dimensions"]
    if not is_array(x[0]):
        # numbers broadcast by themselves, and whoever needs an array makes one
        return x[0] if shape == () else b.call("full", shape, x[0], STATE)
    given = shape_of(eqn.invars[0])
    spread = [1] * len(shape)
    for place, length in zip(places, given, strict=True):
        spread[place] = length
    found = x[0] if tuple(spread) == given else b.call("reshape", x[0], spread)
    return found if tuple(spread) == shape else b.call("broadcast_to", found, shape)


@_entry("reshape")
def _reshape(b: Builder, x: list[Any], eqn: Any) -> Any:
    _require(eqn.params.get("dimensions") is None, "dimensions")
    return b.call("reshape", whole(b, x[0], shape_of(eqn.invars[0])), eqn.params["new_sizes"])


@_entry("squeeze", "expand_dims")
def _squeeze(b: Builder, x: list[Any], eqn: Any) -> Any:
    if not is_array(x[0]):
        return x[0]
    return b.call("reshape", x[0], shape_of(eqn.outvars[0]))


@_entry("transpose")
def _transpose(b: Builder, x: list[Any], eqn: Any) -> Any:
    return b.call("permute", x[0], eqn.params["permutation"])


@_entry("rev")
def _rev(b: Builder, x: list[Any], eqn: Any) -> Any:
    return b.call("flip", x[0], eqn.params["dimensions"])


@_entry("slice")
def _slice(b: Builder, x: list[Any], eqn: Any) -> Any:
    steps = eqn.params["strides"] or (1,) * len(eqn.params["start_indices"])
    bounds = zip(eqn.params["start_indices"], eqn.params["limit_indices"], steps, strict=True)
    return b.call("item", x[0], tuple(slice(*bound) for bound in bounds))


@_entry("dynamic_slice")
def _dynamic_slice(b: Builder, x: list[Any], eqn: Any) -> Any:
    starts = [int(s) if not is_array(s) else s for s in x[1:]]
    _require(not any(map(is_array, starts)), "an index that is computed")
    sizes, lengths = eqn.params["slice_sizes"], shape_of(eqn.invars[0])
    key = []
    for start, size, length in zip(starts, sizes, lengths, strict=True):
        begin = min(max(start, 0), length - size)
        key.append(slice(begin, begin + size))
    return b.call("item", x[0], tuple(key))


@_entry("gather")
def _gather(b: Builder, x: list[Any], eqn: Any) -> Any:
    indices, numbers = x[1], eqn.params["dimension_numbers"]
    _require(isinstance(indices, Constant), "an index that is computed")
    lengths, axes = shape_of(eqn.invars[0]), tuple(numbers.start_index_map)
    places = indices.array()
    _require(
        len(axes) == 1
        and tuple(numbers.collapsed_slice_dims) == axes
        and not numbers.operand_batching_dims
        and places.ndim == 2
        and all(size == (1 if i == axes[0] else n)
                for i, (size, n) in enumerate(zip(eqn.params["slice_sizes"], lengths, strict=True)))
        and places.min(initial=0) >= 0
        and places.max(initial=0) < lengths[axes[0]],
        "indices along more than one axis",
    )  # fmt: skip
    taken = b.call("take", x[0], Constant.of(places[:, 0]), axes[0])
    # the taken axis of the result is the one that is no offset
    count = len(lengths)
    (place,) = set(range(count)) - set(numbers.offset_dims)
    return taken if place == axes[0] else b.call("move_axis", taken, axes[0], place)


@_entry("concatenate")
def _concatenate(b: Builder, x: list[Any], eqn: Any) -> Any:
    parts = [whole(b, v, shape_of(var)) for v, var in zip(x, eqn.invars, strict=True)]
    return b.call("concat", parts, eqn.params["dimension"])


@_entry("stack")
def _stack(b: Builder, x: list[Any], eqn: Any) -> Any:
    parts = [whole(b, v, shape_of(var)) for v, var in zip(x, eqn.invars, strict=True)]
    return b.call("stack", parts, eqn.params["axis"])


@_entry("pad")
def _pad(b: Builder, x: list[Any], eqn: Any) -> Any:
    config = eqn.params["padding_config"]
    _require(all(inner == 0 for _, _, inner in config) and not is_array(x[1]), "interior padding")
    return b.call("pad", x[0], tuple((low, high) for low, high, _ in config), x[1])


@_entry("tile")
def _tile(b: Builder, x: list[Any], eqn: Any) -> Any:
    return b.call("tile", x[0], eqn.params["reps"])


@_entry("cumsum")
def _cumsum(b: Builder, x: list[Any], eqn: Any) -> Any:
    axis = eqn.params["axis"]
    if not eqn.params["reverse"]:
        return b.call("cumulative_sum", x[0], axis)
    return b.call("flip", b.call("cumulative_sum", b.call("flip", x[0], axis), axis), axis)


# Sums and products


def _reduction(name: str, ours: str) -> None:
    @_entry(name)
    def convert(b: Builder, x: list[Any], eqn: Any) -> Any:
        axes = tuple(eqn.params["axes"])
        return b.call(ours, x[0], axis=axes) if axes else x[0]


for _name in ("sum", "prod", "max", "min"):
    _reduction(f"reduce_{_name}", _name)


@_entry("dot_general")
def _dot(b: Builder, x: list[Any], eqn: Any) -> Any:
    over, batch = eqn.params["dimension_numbers"]
    parts = [whole(b, v, shape_of(var)) for v, var in zip(x, eqn.invars, strict=True)]
    return b.call("contract", *parts, over, batch)


@_entry("conv_general_dilated")
def _conv(b: Builder, x: list[Any], eqn: Any) -> Any:
    params = eqn.params
    _require(all(n == 1 for n in params["lhs_dilation"]), "a transposed convolution")
    _require(params["batch_group_count"] == 1, "batch_group_count")
    numbers = params["dimension_numbers"]
    result = b.call(
        "convolution", _moved(b, x[0], numbers.lhs_spec), _moved(b, x[1], numbers.rhs_spec), None,
        params["window_strides"], params["padding"], params["rhs_dilation"],
        params["feature_group_count"],
    )  # fmt: skip
    inverse = [0] * len(numbers.out_spec)
    for place, axis in enumerate(numbers.out_spec):
        inverse[axis] = place
    return _moved(b, result, inverse)


def _moved(b: Builder, x: Any, order: Any) -> Any:
    return x if list(order) == sorted(order) else b.call("permute", x, tuple(order))
