"""A neural controlled equation that tells generated paths from those of the data.

``dh = F(t, h) dX`` along a path X of time and value, from a network of its start to a score of its
end. P. Kidger, J. Foster, X. Li, T. Lyons, "Neural SDEs as infinite-dimensional GANs", ICML 2021,
arXiv:2102.03657; "Efficient and accurate gradients for neural SDEs", NeurIPS 2021,
arXiv:2105.13493.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ndereg import ops
from ndereg.models.dense import Affine
from ndereg.models.differentiation import Differentiated, DifferentiatedScan, Pullback
from ndereg.models.mlp import MLP
from ndereg.models.parameters import Parameters

CHANNELS = 2
"""Of a path: time and value."""


class Discriminator:
    """Scores of paths, linear between their points, by Heun's method: a step from point to point.

    Parameters
    ----------
    state, hidden : int
        Length of ``h``, and width of the hidden layer of both networks.
    """

    def __init__(self, state: int, hidden: int) -> None:
        self.state = state
        self.initial = MLP((CHANNELS, hidden, state), "lipswish", time="none")
        self.field = MLP((state, hidden, CHANNELS * state), "lipswish", "tanh", time="first")
        self.readout = Affine(state, 1)
        self._driven = Differentiated(_driven)
        self._started = Differentiated(self._start)
        self._scan = DifferentiatedScan(self.step)
        self._read = Differentiated(self._score)

    def init(self, seed: int) -> Parameters:
        """Return initial parameters."""
        return {
            name: getattr(self, name).init(seed, scope=f"discriminator.{name}")
            for name in ("initial", "field", "readout")
        }

    def constrained(self, params: Parameters) -> Parameters:
        """Return the parameters with weights of at most 1 / outputs, whatever their sign.

        With ``lipswish`` and ``tanh`` the fields are then Lipschitz with constant 1, in the maximum
        norm; weights of the time are weights, biases are not.
        """

        def clipped(tree: Parameters) -> Parameters:
            found: Parameters = {}
            for name, value in tree.items():
                if isinstance(value, dict):
                    found[name] = clipped(value)
                else:
                    bound = 1.0 / value.shape[-1]
                    found[name] = value if name == "bias" else ops.clip(value, -bound, bound)
            return found

        return clipped(params)

    def step(self, h: Any, x: Any, params: Parameters) -> Any:
        """Return the state (B, state) after an entry of what :func:`_driven` returned."""
        start, increment = x[:, :1], x[:, None, 1:]
        end = start + x[:, 1:2]
        slope = self._slope(start, h, increment, params)
        again = self._slope(end, h + slope, increment, params)
        return h + 0.5 * (slope + again)

    def _slope(self, t: Any, h: Any, increment: Any, params: Parameters) -> Any:
        matrix = ops.reshape(self.field(t, h, params), (-1, self.state, CHANNELS))
        return ops.sum(matrix * increment, axis=2)

    def _start(self, path: Any, params: Parameters) -> Any:
        return self.initial(0.0, path[0], params)

    def _score(self, h: Any, params: Parameters) -> Any:
        return self.readout(0.0, h, params)[:, 0]

    def __call__(self, path: Any, params: Parameters) -> Any:
        """Return the scores (B,) of paths (T, B, 2), times in front."""
        start = self._start(path, params["initial"])
        end = ops.scan(lambda h, x: self.step(h, x, params["field"]), start, _driven(path))
        return self._score(end, params["readout"])

    def vjp(self, path: np.ndarray, params: Parameters) -> tuple[np.ndarray, Pullback]:
        """Return the scores and ``pullback(scores_bar) -> path_bar, params_bar``."""
        start, start_pullback = self._started(path, params["initial"])
        xs, driven_pullback = self._driven(path)
        end, scan_pullback = self._scan(start, xs, params["field"])
        scores, read_pullback = self._read(end, params["readout"])

        def pullback(scores_bar: np.ndarray) -> tuple[np.ndarray, Parameters]:
            end_bar, readout_bar = read_pullback(scores_bar)
            start_bar, xs_bar, field_bar = scan_pullback(end_bar)
            (path_bar,) = driven_pullback(xs_bar)
            begun_bar, initial_bar = start_pullback(start_bar)
            bars = {"initial": initial_bar, "field": field_bar, "readout": readout_bar}
            return path_bar + begun_bar, bars

        return scores, pullback


def _driven(path: Any) -> Any:
    """Return what a step needs, (T - 1, B, 3): the time, and the increments of time and value."""
    return ops.concat([path[:-1, :, :1], path[1:] - path[:-1]], axis=2)
