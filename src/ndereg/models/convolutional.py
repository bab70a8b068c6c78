"""Convolutional fields and encoders, for signals and images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ndereg import ops
from ndereg.models.activations import activate, check_activation
from ndereg.models.layer import Initial, Layer
from ndereg.models.parameters import Parameters
from ndereg.models.validation import choice, size, sizes

_TIMES = ("none", "concatenated")


@dataclass(frozen=True)
class Convolutional(Layer):
    """Convolutions with time as a channel, group norm and activations between them.

    A layer of it is ``y -> activation(group_norm(conv([y, t])))``, as in the convolutional fields
    of Chen et al. 2018; the last one is the convolution alone. Images lie as
    ``(B, channels, height, width)``, signals as ``(B, channels, length)``.

    Parameters
    ----------
    channels : tuple of int
        Of the input, between the convolutions, and of the output; a field has equal ends.
    kernel : int
        Odd; zeros are put at the borders such that a field keeps the lengths.
    dimensions : {2, 1}
        Number of lengths.
    activation : str
        After every convolution but the last.
    output_activation : str, optional
        After the last one.
    time : {"none", "concatenated"}
        ``"concatenated"`` appends a channel filled with ``t`` to the input of every convolution.
        Its kernels are an array of their own, which saves forming the longer input.
    groups : int
        Groups of channels that are normalized together, 0 for no normalization.
    stride : int
        Of every convolution; 1 in a field, 2 halves the lengths in an encoder.

    Examples
    --------
    >>> import numpy as np
    >>> field = Convolutional((3, 8, 3), groups=4)
    >>> params = field.init(seed=0)
    >>> field(0.5, np.ones((2, 3, 6, 6), "float32"), params).shape
    (2, 3, 6, 6)
    """

    type: ClassVar[str] = "convolutional"

    channels: tuple[int, ...]
    kernel: int = 3
    dimensions: int = 2
    activation: str = "relu"
    output_activation: str | None = None
    time: Literal["none", "concatenated"] = "concatenated"
    groups: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        channels = sizes("channels", self.channels, fewest=2, example="(inputs, hidden, outputs)")
        object.__setattr__(self, "channels", channels)
        for name, least, most in (
            ("kernel", 1, 63), ("dimensions", 1, 2), ("groups", 0, 1 << 20), ("stride", 1, 63)
        ):  # fmt: skip
            object.__setattr__(self, name, size(name, getattr(self, name), least, most))
        if self.kernel % 2 == 0:
            raise ValueError(f"expected an odd kernel, received {self.kernel}; try 3")
        check_activation("activation", self.activation)
        if self.output_activation is not None:
            check_activation("output_activation", self.output_activation)
        choice("time", self.time, _TIMES)
        uneven = [c for c in channels[1:-1] if self.groups and c % self.groups]
        if uneven:
            raise ValueError(
                f"expected groups to divide the channels between convolutions, received "
                f"{self.groups} groups of {uneven[0]} channels; try 1"
            )

    def initial(self) -> dict[str, Any]:
        """Return uniform ``±1 / sqrt(fan_in)``, as ``torch.nn.Conv2d`` starts; norms with 1, 0."""
        window = (self.kernel,) * self.dimensions
        extra = int(self.time == "concatenated")
        groups: dict[str, Any] = {}
        pairs = list(zip(self.channels, self.channels[1:], strict=False))
        for index, (inputs, outputs) in enumerate(pairs):
            fan_in = (inputs + extra) * self.kernel**self.dimensions
            group = {
                "weight": Initial((outputs, inputs, *window), fan_in),
                "bias": Initial((outputs,), fan_in),
            }
            if extra:
                group["time"] = Initial((outputs, 1, *window), fan_in)
            if self.groups and index < len(pairs) - 1:
                group["scale"] = Initial((outputs,), value=1.0)
                group["shift"] = Initial((outputs,), value=0.0)
            groups[str(index)] = group
        return groups

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Evaluate at time ``t`` on ``y`` of shape ``(B, channels[0], *lengths)``."""
        last = len(self.channels) - 2
        for index in range(last + 1):
            layer = params[str(index)]
            column = (-1, *(1,) * self.dimensions)
            shift = ops.reshape(layer["bias"], column)
            if self.time == "concatenated":
                shift = shift + t * self._convolved(ops.ones_like(y[:1, :1]), layer["time"])
            y = self._convolved(y, layer["weight"]) + shift
            if index == last:
                return activate(self.output_activation, y)
            if self.groups:
                y = ops.group_norm(y, self.groups, layer["scale"], layer["shift"])
            y = activate(self.activation, y)
        raise AssertionError("there are at least two channels")

    def _convolved(self, y: Any, weight: Any) -> Any:
        return ops.conv(y, weight, stride=self.stride, padding=self.kernel // 2)
