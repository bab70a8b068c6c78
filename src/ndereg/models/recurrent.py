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
        return self._scan(y, params, every=False)

    def states(self, y: Any, params: Parameters) -> Any:
        """Read ``y`` of shape ``(B, T, inputs)``, return all states, ``(T, B, hidden)``.

        Time comes first. The state at a time has read the entry of this time and those before it,
        or with ``reverse`` those after it.
        """
        return self._scan(y, params, every=True)

    def _scan(self, y: Any, params: Parameters, every: bool) -> Any:
        sequence = self.driven(y, params)
        start = ops.zeros_like(sequence[0, :, : self.hidden])
        return ops.scan(
            lambda state, x: self.step(state, x, params),
            start,
            sequence,
            reverse=self.reverse,
            every=every,
        )

    def driven(self, y: Any, params: Parameters) -> Any:
        """Return what :meth:`step` needs of the entries, time first, ``(T, B, width)``.

        It is one product for all times.
        """
        if len(y.shape) != 3 or y.shape[2] != self.inputs:
            raise ValueError(
                f"expected sequences of shape (B, T, {self.inputs}), received {tuple(y.shape)}; "
                "try expand_dims for a single one"
            )
        driven = y @ params["input_weight"] + params["input_bias"]
        return ops.permute_dims(driven, (1, 0, 2))

    def step(self, state: Any, x: Any, params: Parameters) -> Any:
        """Return the state ``(B, hidden)`` after one time of what :meth:`driven` returned."""
        pushed = state @ params["hidden_weight"] + params["hidden_bias"]
        return self._stepped(state, x, pushed)

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


@dataclass(frozen=True)
class LatentGRU(Layer):
    """The recognition network of latent ODEs: a GRU on a mean and a deviation, read backwards.

    Its gates and its candidate are networks with one hidden layer each, and the state is left as
    it is where nothing was observed (Y. Rubanova, R. T. Q. Chen, D. Duvenaud, "Latent ODEs for
    irregularly-sampled time series", NeurIPS 2019, in the form of Pal et al., ICML 2021, where the
    deviation is not kept positive). With observation ``x`` and state ``s = [mean, deviation]``,
    ``*`` elementwise::

        u = sigmoid(tanh([x, s] W_u + b_u) V_u + c_u)
        r = sigmoid(tanh([x, s] W_r + b_r) V_r + c_r)
        n = tanh([x, (r, r) * s] W_n + b_n) V_n + c_n
        s = (1 - (u, u)) * n + (u, u) * s

    An observation is ``[values, mask, gap]``: two blocks of ``channels`` entries, the second 1 or
    0, and the time to the observation that was read before it.

    The arrays are ``input_weight`` and ``hidden_weight`` for the rows of W that belong to x and
    s, ``bias`` b, with the blocks of u, r, n side by side, and ``update_weight``, ``reset_weight``,
    ``candidate_weight`` V with their ``_bias`` c.

    Parameters
    ----------
    channels : int
        Values in an observation.
    units : int
        Width of the three hidden layers.
    latent : int
        Length of the mean, and of the deviation.

    Examples
    --------
    >>> import numpy as np
    >>> encoder = LatentGRU(channels=2, units=8, latent=3)
    >>> encoder(0.0, np.ones((5, 30, 5)), encoder.init(seed=0)).shape
    (5, 6)
    """

    type: ClassVar[str] = "latent_gru"

    channels: int
    units: int
    latent: int

    def __post_init__(self) -> None:
        for name in ("channels", "units", "latent"):
            object.__setattr__(self, name, size(name, getattr(self, name)))

    def initial(self) -> dict[str, Any]:
        """Return uniform ``±1 / sqrt(fan_in)``, as ``torch.nn.Linear`` starts."""
        inputs, state, units = 2 * self.channels + 1, 2 * self.latent, self.units
        fan = inputs + state
        groups = {
            "input_weight": Initial((inputs, 3 * units), fan),
            "hidden_weight": Initial((state, 3 * units), fan),
            "bias": Initial((3 * units,), fan),
        }
        for name, width in (("update", self.latent), ("reset", self.latent), ("candidate", state)):
            groups[f"{name}_weight"] = Initial((units, width), units)
            groups[f"{name}_bias"] = Initial((width,), units)
        return groups

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Read ``y`` of shape ``(B, T, 2 channels + 1)``, return ``(B, 2 latent)``."""
        sequence = self.driven(y, params)
        start = ops.broadcast_to(ops.zeros_like(sequence[0, :, :1]), (y.shape[0], 2 * self.latent))
        return ops.scan(lambda state, x: self.step(state, x, params), start, sequence, reverse=True)

    def driven(self, y: Any, params: Parameters) -> Any:
        """Return what :meth:`step` needs of the observations, time first, ``(T, B, 3 units + 1)``.

        It is one product for all times; the last entry says whether there is an observation.
        """
        inputs = 2 * self.channels + 1
        if len(y.shape) != 3 or y.shape[2] != inputs:
            raise ValueError(
                f"expected sequences of shape (B, T, {inputs}) with values, mask and gap, received "
                f"{tuple(y.shape)}; try concat along the last axis"
            )
        driven = y @ params["input_weight"] + params["bias"]
        observed = ops.max(y[:, :, self.channels : -1], axis=2, keepdims=True)
        return ops.permute_dims(ops.concat([driven, observed], axis=2), (1, 0, 2))

    def step(self, state: Any, x: Any, params: Parameters) -> Any:
        """Return the state ``(B, 2 latent)`` after one time of what :meth:`driven` returned."""
        return state + x[:, -1:] * (self._stepped(state, x[:, :-1], params) - state)

    def _stepped(self, state: Any, drive: Any, params: Parameters) -> Any:
        gates, weight = 2 * self.units, params["hidden_weight"]
        hidden = ops.tanh(drive[:, :gates] + state @ weight[:, :gates])
        update, reset = (
            ops.sigmoid(part @ params[f"{name}_weight"] + params[f"{name}_bias"])
            for name, part in (
                ("update", hidden[:, : self.units]),
                ("reset", hidden[:, self.units :]),
            )
        )
        kept = state * ops.concat([reset, reset], axis=1)
        hidden = ops.tanh(drive[:, gates:] + kept @ weight[:, gates:])
        new = hidden @ params["candidate_weight"] + params["candidate_bias"]
        return new + ops.concat([update, update], axis=1) * (state - new)
