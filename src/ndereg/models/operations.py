"""The closed list of operations that a :class:`~ndereg.models.program.Program` may call."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from ndereg import ops
from ndereg.models.array_operations import (
    add,
    as_dtype,
    binary,
    broadcast_to,
    cast_like,
    cbrt,
    chunk,
    concat,
    cumulative_sum,
    expand,
    flatten,
    flip,
    full,
    invert,
    item,
    leaky_relu,
    log2,
    log10,
    log_softmax,
    matmul,
    move_axis,
    pad,
    permute,
    power,
    rsqrt,
    shape,
    softplus,
    split,
    squeeze,
    stack,
    swap_axes,
    take,
    take_slice,
    tile,
    unstack,
    variance,
    where,
)
from ndereg.models.layer_operations import (
    average_pool,
    batch_norm,
    contract,
    convolution,
    einsum,
    group_norm,
    layer_norm,
    linear,
    max_pool,
)

_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": add,
    "subtract": binary("subtract", operator.sub),
    "multiply": binary("multiply", operator.mul),
    "divide": binary("divide", operator.truediv),
    "floor_divide": binary("floor_divide", operator.floordiv),
    "remainder": binary("remainder", operator.mod),
    "power": power,
    "negative": operator.neg,
    "less": binary("less", operator.lt),
    "less_equal": binary("less_equal", operator.le),
    "greater": binary("greater", operator.gt),
    "greater_equal": binary("greater_equal", operator.ge),
    "equal": binary("equal", operator.eq),
    "not_equal": binary("not_equal", operator.ne),
    "logical_and": binary("logical_and", operator.and_),
    "logical_or": binary("logical_or", operator.or_),
    "logical_xor": binary("logical_xor", operator.xor),
    "logical_not": invert,
    "item": item,
    "shape": shape,
    "ndim": lambda x: len(x.shape),
    "entries": lambda x: math.prod(x.shape),
}

_SHARED = (
    *("abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "clip", "conj", "cos", "cosh"),
    *("elu", "erf", "exp", "expand_dims", "expm1", "gelu", "imag", "lipswish", "log", "log1p"),
    *("logsumexp", "matrix_transpose", "max", "mean", "min", "ones_like", "prod", "real", "relu"),
    *("reshape", "sigmoid", "sign", "silu", "sin", "sinh", "softmax", "sqrt", "square", "sum"),
    *("tan", "tanh", "zeros_like"),
)

_OWN = (
    *(
        where,
        matmul,
        broadcast_to,
        as_dtype,
        cast_like,
        full,
        expand,
        flatten,
        squeeze,
        swap_axes,
        permute,
        move_axis,
        flip,
    ),
    *(take_slice, take, split, chunk, unstack, concat, stack, tile, cumulative_sum, pad, rsqrt),
    *(cbrt, leaky_relu, softplus, log_softmax, log2, log10, variance, linear, einsum, contract),
    *(layer_norm, group_norm, batch_norm, convolution, average_pool, max_pool),
)

_PAIRED = ("atan2", "hypot", "logaddexp", "maximum", "minimum")

OPERATIONS: dict[str, Callable[..., Any]] = {
    **_OPERATORS,
    **{name: binary(name, getattr(ops, name)) for name in _PAIRED},
    **{name: getattr(ops, name) for name in _SHARED},
    **{function.__name__: function for function in _OWN},
}
"""Name of every operation, with what it does."""
