"""The multilayer perceptron as a vector field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ndereg import ops
from ndereg.models.activations import ACTIVATIONS, activate, check_activation
from ndereg.models.layer import Initial, Layer
from ndereg.models.parameters import Parameters
from ndereg.models.validation import choice, sizes

__all__ = ["ACTIVATIONS", "MLP", "TIMES", "Time"]

Time = Literal["none", "first", "concatenated", "scaled_shifted"]
TIMES: tuple[Time, ...] = ("none", "first", "concatenated", "scaled_shifted")


@dataclass(frozen=True)
class MLP(Layer):
    """Layers ``y -> activation(y W + t w + b)``, the same on every backend.

    The object is only a description. It is called as a field, ``model(t, y, params)``, on the
    arrays of whichever framework solves it, and it holds no arrays, so it is hashable and compiled
    once.

    Parameters
    ----------
    widths : tuple of int
        Size of the input, of every hidden layer, and of the output; a field has equal ends.
    activation : str
        After every layer but the last.
    output_activation : str, optional
        After the last layer; ``None`` leaves it affine.
    time : {"none", "first", "concatenated", "scaled_shifted"}
        ``"concatenated"`` appends ``t`` to the input of every layer, as the papers do. The weights
        of that extra input are an array of their own, which saves forming the longer input.
        ``"first"`` does so for the first layer alone, as neural SDEs have it.
        ``"scaled_shifted"`` is the ConcatSquash layer of FFJORD (Grathwohl et al., ICLR 2019),
        ``(y W + b) sigmoid(t gate + gate_bias) + t time``.

    Examples
    --------
    >>> import numpy as np
    >>> field = MLP((2, 16, 2))
    >>> params = field.init(seed=0)
    >>> sorted(params["0"]), params["0"]["weight"].shape
    (['bias', 'time', 'weight'], (2, 16))
    >>> field(0.5, np.ones((3, 2), "float32"), params).shape
    (3, 2)
    """

    type: ClassVar[str] = "mlp"

    widths: tuple[int, ...]
    activation: str = "tanh"
    output_activation: str | None = None
    time: Time = "concatenated"

    def __post_init__(self) -> None:
        widths = sizes("widths", self.widths, fewest=2, example="(inputs, hidden, outputs)")
        object.__setattr__(self, "widths", widths)
        check_activation("activation", self.activation)
        if self.output_activation is not None:
            check_activation("output_activation", self.output_activation)
        choice("time", self.time, TIMES)

    def _appends(self, index: int) -> bool:
        """Whether the time is appended to the input of this layer."""
        return self.time == "concatenated" or (self.time == "first" and index == 0)

    def initial(self) -> dict[str, Any]:
        """Return uniform ``±1 / sqrt(fan_in)`` for all arrays of a layer.

        This is how ``torch.nn.Linear`` starts, with the appended time counted as an input; gates
        and shifts by time start as linear layers with one input, as in FFJORD.
        """
        groups: dict[str, Any] = {}
        for index, (fan, width) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            fan_time = int(self._appends(index))
            group = {
                "weight": Initial((fan, width), fan + fan_time),
                "bias": Initial((width,), fan + fan_time),
            }
            if fan_time:
                group["time"] = Initial((width,), fan + fan_time)
            elif self.time == "scaled_shifted":
                group |= {name: Initial((width,), 1) for name in ("gate", "gate_bias", "time")}
            groups[str(index)] = group
        return groups

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Evaluate at time ``t`` on ``y`` of shape ``(..., widths[0])``."""
        last = len(self.widths) - 2
        for index in range(last + 1):
            layer = params[str(index)]
            if self.time == "scaled_shifted":
                gate = ops.sigmoid(t * layer["gate"] + layer["gate_bias"])
                y = (y @ layer["weight"] + layer["bias"]) * gate + t * layer["time"]
            else:
                shift = layer["bias"]
                if self._appends(index):
                    shift = t * layer["time"] + shift
                y = y @ layer["weight"] + shift
            y = activate(self.output_activation if index == last else self.activation, y)
        return y
