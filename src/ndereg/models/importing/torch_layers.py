"""What PyTorch's activations and layers are in a program, by the names of their functions."""

from __future__ import annotations

from typing import Any

from ndereg.models.importing.builder import Builder
from ndereg.models.importing.torch_operations import (
    Unsupported,
    entry,
    pair,
    require,
)


@entry("elu")
def _elu(b: Builder, x: Any, alpha: float = 1.0, *_: Any, inplace: bool = False) -> Any:
    return b.call("elu", x, alpha)


@entry("gelu")
def _gelu(b: Builder, x: Any, approximate: Any = "none") -> Any:
    return b.call("gelu", x, approximate == "tanh")


@entry("softplus")
def _softplus(b: Builder, x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    return b.call("softplus", x, float(beta), float(threshold))


@entry("leaky_relu")
def _leaky_relu(b: Builder, x: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    return b.call("leaky_relu", x, negative_slope)


@entry("prelu")
def _prelu(b: Builder, x: Any, weight: Any) -> Any:
    raise Unsupported("the axis of its parameters is not known")


@entry("logsigmoid", "log_sigmoid")
def _logsigmoid(b: Builder, x: Any) -> Any:
    return b.call("negative", b.call("softplus", b.call("negative", x)))


@entry("mish")
def _mish(b: Builder, x: Any, inplace: bool = False) -> Any:
    return b.call("multiply", x, b.call("tanh", b.call("softplus", x)))


@entry("selu")
def _selu(b: Builder, x: Any, inplace: bool = False) -> Any:
    return b.call("multiply", 1.0507009873554805, b.call("elu", x, 1.6732632423543772))


@entry("softsign")
def _softsign(b: Builder, x: Any) -> Any:
    return b.call("divide", x, b.call("add", 1, b.call("abs", x)))


@entry("tanhshrink")
def _tanhshrink(b: Builder, x: Any) -> Any:
    return b.call("subtract", x, b.call("tanh", x))


@entry("hardtanh")
def _hardtanh(
    b: Builder, x: Any, min_val: Any = -1.0, max_val: Any = 1.0, inplace: bool = False
) -> Any:
    return b.call("clip", x, min_val, max_val)


@entry("relu6")
def _relu6(b: Builder, x: Any, inplace: bool = False) -> Any:
    return b.call("clip", x, 0.0, 6.0)


@entry("dropout", "feature_dropout", "alpha_dropout", "dropout1d", "dropout2d", "native_dropout")
def _dropout(
    b: Builder, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    require(
        p == 0 or not training,
        "dropout in training (model.eval(), or training=self.training, makes it the identity)",
    )
    return x


@entry("layer_norm")
def _layer_norm(
    b: Builder,
    x: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    return b.call("layer_norm", x, len(pair(normalized_shape, 1)), weight, bias, eps)


@entry("group_norm")
def _group_norm(
    b: Builder,
    x: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    return b.call("group_norm", x, num_groups, weight, bias, eps)


@entry("batch_norm")
def _batch_norm(
    b: Builder,
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    if training or running_mean is None:
        raise Unsupported("statistics of the batch change from call to call; model.eval()")
    return b.call("batch_norm", x, running_mean, running_var, weight, bias, eps)


def _convolution(count: int) -> None:
    @entry(f"conv{count}d")
    def convert(
        b: Builder,
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *,
        kernel: Any = None,
    ) -> Any:
        dilation = pair(dilation, count)
        if padding == "same":
            require(kernel is not None, "padding='same'")
            totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            widths = tuple((n // 2, n - n // 2) for n in totals)
        else:
            widths = tuple((p, p) for p in pair(0 if padding == "valid" else padding, count))
        return b.call("convolution", x, weight, bias, pair(stride, count), widths, dilation, groups)


for _count in (1, 2, 3):
    _convolution(_count)


def _pool(count: int) -> None:
    @entry(f"avg_pool{count}d")
    def average(
        b: Builder,
        x: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: Any = None,
    ) -> Any:
        require(not ceil_mode and divisor_override is None, "ceil_mode or divisor_override")
        padding = pair(padding, count)
        require(count_include_pad or not any(padding), "count_include_pad=False")
        size = pair(kernel_size, count)
        move = size if stride in (None, [], ()) else pair(stride, count)
        return b.call("average_pool", x, size, move, tuple((p, p) for p in padding))

    @entry(f"max_pool{count}d")
    def largest(
        b: Builder,
        x: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        require(not ceil_mode and not return_indices, "ceil_mode or return_indices")
        require(pair(dilation, count) == (1,) * count, "dilation")
        size = pair(kernel_size, count)
        move = size if stride in (None, [], ()) else pair(stride, count)
        widths = tuple((p, p) for p in pair(padding, count))
        return b.call("max_pool", x, size, move, widths)

    @entry(f"adaptive_avg_pool{count}d")
    def adaptive(b: Builder, x: Any, output_size: Any) -> Any:
        require(pair(output_size, count) == (1,) * count, "output_size other than 1")
        return b.call("mean", x, axis=tuple(range(-count, 0)), keepdims=True)


for _count in (1, 2):
    _pool(_count)


def gru_gates(b: Builder, inputs: Any, hidden: Any, h: Any) -> Any:
    """Return the next state of PyTorch's gated recurrent unit from its two linear maps."""
    x_r, x_z, x_n = (b.call("item", b.call("chunk", inputs, 3, -1), i) for i in range(3))
    h_r, h_z, h_n = (b.call("item", b.call("chunk", hidden, 3, -1), i) for i in range(3))
    reset = b.call("sigmoid", b.call("add", x_r, h_r))
    update = b.call("sigmoid", b.call("add", x_z, h_z))
    new = b.call("tanh", b.call("add", x_n, b.call("multiply", reset, h_n)))
    return b.call("add", new, b.call("multiply", update, b.call("subtract", h, new)))


@entry("gru_cell")
def _gru_cell(
    b: Builder, x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None
) -> Any:
    return gru_gates(b, b.call("linear", x, w_ih, b_ih), b.call("linear", h, w_hh, b_hh), h)


@entry("rnn_tanh_cell")
def _rnn_cell(
    b: Builder, x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None
) -> Any:
    return b.call(
        "tanh", b.call("add", b.call("linear", x, w_ih, b_ih), b.call("linear", h, w_hh, b_hh))
    )
