"""Modules of PyTorch that are converted whole, as ``torch.fx`` cannot look into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ndereg.models.importing.builder import Builder
from ndereg.models.importing.torch_operations import TABLE, Unsupported


def _batch_norm(b: Builder, module: Any, weight: Any, x: Any) -> Any:
    if module.training or module.running_mean is None:
        raise Unsupported("in training its statistics change from call to call; model.eval()")
    names = ("running_mean", "running_var", "weight", "bias")
    return b.call("batch_norm", x, *map(weight, names), module.eps)


def _conv(count: int) -> Callable[..., Any]:
    def convert(b: Builder, module: Any, weight: Any, x: Any) -> Any:
        if module.padding_mode != "zeros":
            raise Unsupported(f"padding_mode={module.padding_mode!r}")
        return TABLE[f"conv{count}d"](
            b, x, weight("weight"), weight("bias"), module.stride, module.padding, module.dilation,
            module.groups, kernel=module.kernel_size,
        )  # fmt: skip

    return convert


def _gru_cell(b: Builder, module: Any, weight: Any, x: Any, h: Any = None) -> Any:
    if h is None:
        raise Unsupported("a call without a state")
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    parts = [weight(name) if getattr(module, name) is not None else None for name in names]
    return TABLE["gru_cell"](b, x, h, *parts)


def _rnn_cell(b: Builder, module: Any, weight: Any, x: Any, h: Any = None) -> Any:
    if h is None or module.nonlinearity != "tanh":
        raise Unsupported("a call without a state, or relu")
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    parts = [weight(name) if getattr(module, name) is not None else None for name in names]
    return TABLE["rnn_tanh_cell"](b, x, h, *parts)


def _softmax(b: Builder, module: Any, weight: Any, x: Any) -> Any:
    return TABLE["softmax"](b, x, module.dim)


MODULES: dict[type[nn.Module], Callable[..., Any]] = {
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.Conv1d: _conv(1),
    nn.Conv2d: _conv(2),
    nn.Conv3d: _conv(3),
    nn.GRUCell: _gru_cell,
    nn.RNNCell: _rnn_cell,
    nn.Softmax: _softmax,
}
