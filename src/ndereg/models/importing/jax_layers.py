"""Layers of equinox and flax.nnx, by their structure.

Unlike a jaxpr, the program of one takes inputs of any batch shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ndereg.models.importing.builder import Builder, PortError
from ndereg.models.importing.jaxpr import Interpreter
from ndereg.precision import x64


class Unknown(Exception):
    """A module that is not in the table, or a setting of one that is not."""


def convert_known(b: Builder, module: Any, x: Any, path: str = "") -> Any:
    """Add the calls of a module that is made of known layers only.

    Raises
    ------
    Unknown
    """
    home = type(module).__module__.split(".")
    family = "nnx" if home[:2] == ["flax", "nnx"] else home[0]
    convert = TABLE.get((family, type(module).__name__))
    if convert is not None:
        return convert(b, module, x, path)
    if callable(module) and not jax.tree_util.tree_leaves(
        jax.tree_util.tree_map(lambda leaf: None if callable(leaf) else leaf, module)
    ):
        return activation(b, module, x)
    raise Unknown


def activation(b: Builder, function: Callable[[Any], Any], x: Any) -> Any:
    """Add an activation: a known one by its name, any other that is elementwise by its jaxpr."""
    for name, functions in _ACTIVATIONS.items():
        if any(function is known for known in functions):
            return x if name == "identity" else b.call(name, x)
    if function is jax.nn.gelu:
        return b.call("gelu", x, True)
    try:
        with x64(True):  # in which numbers are not rounded to float32
            closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((), jnp.float64))
        interpreter = Interpreter(b, elementwise=True)
        (result,) = interpreter.run(closed, [x])
        return interpreter.operand(result)
    except (PortError, TypeError, ValueError) as error:
        raise Unknown from error


_ACTIVATIONS: dict[str, tuple[Any, ...]] = {
    "relu": (jax.nn.relu,),
    "tanh": (jnp.tanh, jax.lax.tanh, jax.nn.tanh),
    "sigmoid": (jax.nn.sigmoid, jax.lax.logistic),
    "softplus": (jax.nn.softplus,),
    "silu": (jax.nn.silu, jax.nn.swish),
    "elu": (jax.nn.elu,),
    "leaky_relu": (jax.nn.leaky_relu,),
    "sin": (jnp.sin, jax.lax.sin),
    "cos": (jnp.cos, jax.lax.cos),
    "exp": (jnp.exp, jax.lax.exp),
    "square": (jnp.square,),
    "identity": (jax.nn.identity,),
}


def _array(value: Any) -> Any:
    """Return the array of a parameter, None where there is none."""
    if value is None or isinstance(value, (jax.Array, np.ndarray)):
        return value
    inner = value[...] if hasattr(value, "get_value") else getattr(value, "value", None)
    return inner if isinstance(inner, (jax.Array, np.ndarray)) else None


def _weight(b: Builder, module: Any, path: str, name: str, kind: Any = "parameter") -> Any:
    array = _array(getattr(module, name, None))
    return None if array is None else b.weight(f"{path}.{name}" if path else name, array, kind)


def _sequence(b: Builder, parts: Any, x: Any, path: str) -> Any:
    for index, part in enumerate(parts):
        x = convert_known(b, part, x, f"{path}.{index}".removeprefix("."))
    return x


# equinox


def _eqx_linear(b: Builder, m: Any, x: Any, path: str) -> Any:
    if "scalar" in (m.in_features, m.out_features):
        raise Unknown
    return b.call("linear", x, _weight(b, m, path, "weight"), _weight(b, m, path, "bias"))


def _eqx_mlp(b: Builder, m: Any, x: Any, path: str) -> Any:
    prefix = f"{path}.layers" if path else "layers"
    for index, layer in enumerate(m.layers):
        x = convert_known(b, layer, x, f"{prefix}.{index}")
        last = index == len(m.layers) - 1
        x = convert_known(b, m.final_activation if last else m.activation, x)
    return x


def _eqx_conv(b: Builder, m: Any, x: Any, path: str) -> Any:
    if m.padding_mode.upper() != "ZEROS" or isinstance(m.padding, str):
        raise Unknown
    weight, bias = _weight(b, m, path, "weight"), _weight(b, m, path, "bias")
    if bias is not None:
        bias = b.call("reshape", bias, (-1,))
    return b.call("convolution", x, weight, bias, m.stride, m.padding, m.dilation, m.groups)


def _eqx_layer_norm(b: Builder, m: Any, x: Any, path: str) -> Any:
    weight, bias = _weight(b, m, path, "weight"), _weight(b, m, path, "bias")
    return b.call("layer_norm", x, len(m.shape), weight, bias, float(m.eps))


def _eqx_group_norm(b: Builder, m: Any, x: Any, path: str) -> Any:
    weight, bias = _weight(b, m, path, "weight"), _weight(b, m, path, "bias")
    return b.call("group_norm", x, m.groups, weight, bias, float(m.eps), axis=0, batch=0)


def _eqx_lambda(b: Builder, m: Any, x: Any, path: str) -> Any:
    return convert_known(b, m.fn, x, f"{path}.fn".removeprefix("."))


# flax.nnx


def _nnx_linear(b: Builder, m: Any, x: Any, path: str) -> Any:
    product = b.call("matmul", x, _weight(b, m, path, "kernel"))
    bias = _weight(b, m, path, "bias")
    return product if bias is None else b.call("add", product, bias)


def _nnx_layer_norm(b: Builder, m: Any, x: Any, path: str) -> Any:
    if m.feature_axes != -1 and tuple(np.atleast_1d(m.feature_axes)) != (-1,):
        raise Unknown
    if tuple(np.atleast_1d(m.reduction_axes)) != (-1,):
        raise Unknown
    scale, bias = _weight(b, m, path, "scale"), _weight(b, m, path, "bias")
    return b.call("layer_norm", x, 1, scale, bias, float(m.epsilon))


def _nnx_group_norm(b: Builder, m: Any, x: Any, path: str) -> Any:
    if m.reduction_axes is not None:
        raise Unknown
    scale, bias = _weight(b, m, path, "scale"), _weight(b, m, path, "bias")
    return b.call("group_norm", x, m.num_groups, scale, bias, float(m.epsilon), axis=-1, batch=1)


def _nnx_conv(b: Builder, m: Any, x: Any, path: str) -> Any:
    size = tuple(m.kernel_size)
    count = len(size)

    def each(value: Any) -> tuple[int, ...]:
        return (1 if value is None else value,) * count if value is None or isinstance(
            value, int) else tuple(value)  # fmt: skip

    stride, dilation = each(m.strides), each(m.kernel_dilation)
    if set(each(m.input_dilation)) != {1} or m.mask is not None:
        raise Unknown
    if m.padding == "SAME" and set(stride) == {1}:
        totals = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
        widths: Any = [(n // 2, n - n // 2) for n in totals]
    elif m.padding == "VALID":
        widths = [(0, 0)] * count
    elif isinstance(m.padding, int):
        widths = [(m.padding, m.padding)] * count
    else:
        raise Unknown
    kernel = _weight(b, m, path, "kernel")
    moved = b.call("permute", kernel, (count + 1, count, *range(count)))
    first = b.call("move_axis", x, -1, -1 - count)
    result = b.call(
        "convolution", first, moved, None, stride, widths, dilation, m.feature_group_count
    )
    result = b.call("move_axis", result, -1 - count, -1)
    bias = _weight(b, m, path, "bias")
    return result if bias is None else b.call("add", result, bias)


Convert = Callable[[Builder, Any, Any, str], Any]

TABLE: dict[tuple[str, str], Convert] = {
    ("equinox", "Linear"): _eqx_linear,
    ("equinox", "MLP"): _eqx_mlp,
    ("equinox", "Conv"): _eqx_conv,
    ("equinox", "Conv1d"): _eqx_conv,
    ("equinox", "Conv2d"): _eqx_conv,
    ("equinox", "Conv3d"): _eqx_conv,
    ("equinox", "LayerNorm"): _eqx_layer_norm,
    ("equinox", "GroupNorm"): _eqx_group_norm,
    ("equinox", "Sequential"): lambda b, m, x, path: _sequence(
        b, m.layers, x, f"{path}.layers".removeprefix(".")
    ),
    ("equinox", "Lambda"): _eqx_lambda,
    ("equinox", "Identity"): lambda b, m, x, path: x,
    ("nnx", "Linear"): _nnx_linear,
    ("nnx", "LayerNorm"): _nnx_layer_norm,
    ("nnx", "GroupNorm"): _nnx_group_norm,
    ("nnx", "Conv"): _nnx_conv,
    ("nnx", "Sequential"): lambda b, m, x, path: _sequence(
        b, m.layers, x, f"{path}.layers".removeprefix(".")
    ),
}
"""By family and name of the class."""
