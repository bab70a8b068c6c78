"""The multilayer perceptron as a vector field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import DTypeLike

from ndereg import ops
from ndereg.models.parameters import Parameters, fan_in_uniform

ACTIVATIONS = ("tanh", "sigmoid", "relu", "softplus", "silu", "gelu", "elu")


@dataclass(frozen=True)
class MLP:
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
    time : {"none", "concatenated"}
        ``"concatenated"`` appends ``t`` to the input of every layer, as the papers do. The weights
        of that extra input are an array of their own, which saves forming the longer input.

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

    widths: tuple[int, ...]
    activation: str = "tanh"
    output_activation: str | None = None
    time: Literal["none", "concatenated"] = "concatenated"

    def __post_init__(self) -> None:
        widths = tuple(self.widths)
        if len(widths) < 2 or any(isinstance(w, bool) or w < 1 for w in widths):
            raise ValueError(
                f"expected two or more positive widths, received {self.widths!r}; "
                "try (inputs, hidden, outputs)"
            )
        object.__setattr__(self, "widths", widths)
        for name in (self.activation, self.output_activation):
            if name is not None and name not in ACTIVATIONS:
                raise ValueError(
                    f"expected an activation among {', '.join(ACTIVATIONS)}, received {name!r}"
                )
        if self.time not in ("none", "concatenated"):
            raise ValueError(f"expected time 'none' or 'concatenated', received {self.time!r}")

    def init(self, seed: int, dtype: DTypeLike = "float32", scope: str = "field") -> Parameters:
        """Draw initial parameters, all of a layer uniform in ``±1 / sqrt(fan_in)``.

        This is how ``torch.nn.Linear`` starts, with the appended time counted as an input.

        Parameters
        ----------
        seed : int
            The same seed gives the same numbers on every machine and backend.
        dtype : dtype
            Of every array.
        scope : str
            Distinguishes several networks drawn from one seed.
        """
        with_time = self.time == "concatenated"
        params: Parameters = {}
        for index, (size, width) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            shapes = {"weight": (size, width), "bias": (width,)}
            if with_time:
                shapes["time"] = (width,)
            params[str(index)] = {
                name: fan_in_uniform(
                    seed, f"{scope}.{index}.{name}", shape, size + with_time, dtype
                )
                for name, shape in shapes.items()
            }
        return params

    def __call__(self, t: Any, y: Any, args: Parameters) -> Any:
        """Evaluate at time ``t`` on ``y`` of shape ``(..., widths[0])``."""
        last = len(self.widths) - 2
        for index in range(last + 1):
            layer = args[str(index)]
            shift = layer["bias"]
            if self.time == "concatenated":
                shift = t * layer["time"] + shift
            y = y @ layer["weight"] + shift
            activation = self.output_activation if index == last else self.activation
            if activation is not None:
                y = getattr(ops, activation)(y)
        return y

    def describe(self) -> dict[str, Any]:
        """Return the description as JSON-ready data."""
        return {
            "type": "mlp",
            "widths": list(self.widths),
            "activation": self.activation,
            "output_activation": self.output_activation,
            "time": self.time,
        }
