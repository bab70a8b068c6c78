"""Recurrent encoders: a sequence to the state it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ndereg import ops
from ndereg.models.activations import activate, check_activation
from ndereg.models.layer import Initial, Layer
from ndereg.models.parameters import Parameters
from ndereg.models.validation import choice, flag, size

_CELLS = ("gru", "rnn")


@dataclass(frozen=True)
class Recurrent(Layer):
    """A GRU or a plain recurrent network over a sequence; its last state is the code.

    The formulas are those of ``torch.nn.GRU`` and ``torch.nn.RNN`` with one layer, their weights
    transposed. With input ``x`` and state ``h``, ``*`` elementwise::

        rnn:  h = activation(x W + b + h U + c)
        gru:  r = sigmoid(x W_r + b_r + h U_r + c_r)
              z = sigmoid(x W_z + b_z + h U_z + c_z)
              n = activation(x W_n + b_n + r * (h U_n + c_n))
              h = (1 - z) * n + z * h

    The arrays are ``input_weight`` W, ``input_bias`` b, ``hidden_weight`` U and ``hidden_bias`` c,
    the blocks of the GRU side by side in the order r, z, n.

    Parameters
    ----------
    inputs, hidden : int
        Length of an observation and of the state.
    cell : {"gru", "rnn"}
        Which of the two.
    reverse : bool
        Read the sequence from its end to its start, as the encoder of a latent ODE does, whose
        code is the state at the start.
    activation : str
        See above.

    Examples
    --------
    >>> import numpy as np
    >>> encoder = Recurrent(2, 16, reverse=True)
    >>> encoder(0.0, np.ones((5, 30, 2)), encoder.init(seed=0)).shape
    (5, 16)
    """

    type: ClassVar[str] = "recurrent"

    inputs: int
    hidden: int
    cell: Literal["gru", "rnn"] = "gru"
    reverse: bool = False
    activation: str = "tanh"

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", size("inputs", self.inputs))
        object.__setattr__(self, "hidden", size("hidden", self.hidden))
        choice("cell", self.cell, _CELLS)
        flag("reverse", self.reverse)
        check_activation("activation", self.activation)

    def initial(self) -> dict[str, Any]:
        """Return uniform ``±1 / sqrt(hidden)``, as PyTorch's recurrent networks start."""
        width = self.hidden * (3 if self.cell == "gru" else 1)
        return {
            "input_weight": Initial((self.inputs, width), self.hidden),
            "input_bias": Initial((width,), self.hidden),
            "hidden_weight": Initial((self.hidden, width), self.hidden),
            "hidden_bias": Initial((width,), self.hidden),
        }

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Read ``y`` of shape ``(B, T, inputs)`` and return ``(B, hidden)``."""
        if len(y.shape) != 3 or y.shape[2] != self.inputs:
            raise ValueError(
                f"expected sequences of shape (B, T, {self.inputs}), received {tuple(y.shape)}; "
                "try expand_dims for a single one"
            )
        driven = y @ params["input_weight"] + params["input_bias"]
        start = ops.zeros_like(driven[:, 0, : self.hidden])

        def step(state: Any, drive: Any) -> Any:
            pushed = state @ params["hidden_weight"] + params["hidden_bias"]
            return self._stepped(state, drive, pushed)

        sequence = ops.permute_dims(driven, (1, 0, 2))
        return ops.scan(step, start, sequence, reverse=self.reverse)

    def _stepped(self, state: Any, drive: Any, pushed: Any) -> Any:
        """Return the next state, from the products with the observation and with the state."""
        if self.cell == "rnn":
            return activate(self.activation, drive + pushed)
        # The drive is used whole, once: the cotangents of all steps then lie side by side and are
        # not added up. The candidate is drive + reset * pushed.
        n = self.hidden
        both = drive + pushed
        gates = ops.sigmoid(both[:, : 2 * n])
        reset, keep = gates[:, :n], gates[:, n:]
        new = activate(self.activation, both[:, 2 * n :] + (reset - 1.0) * pushed[:, 2 * n :])
        return new + keep * (state - new)
