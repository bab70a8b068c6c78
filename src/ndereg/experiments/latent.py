"""Time series reconstructed by a latent ODE.

A recognition network reads a series backwards and returns the normal distribution of an initial
state; the state follows the field, and a linear head turns it into observations. Y. Rubanova,
R. T. Q. Chen, D. Duvenaud, "Latent ODEs for irregularly-sampled time series", NeurIPS 2019; with
the networks of the code of Pal, Ma, Shah, Rackauckas, ICML 2021, arXiv:2105.03918.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from ndereg import ops
from ndereg.experiments.normal import divergence_from_standard, drawn
from ndereg.experiments.recipe import Batch, Settings, Task
from ndereg.models.dense import Activation, Affine, Leading, Sequential
from ndereg.models.differentiation import Differentiated, DifferentiatedScan
from ndereg.models.mlp import MLP
from ndereg.models.neural_ode import NeuralODE
from ndereg.models.parameters import Parameters, map_leaves
from ndereg.models.recurrent import LatentGRU

SIGMA = 0.01
"""Standard deviation of an observation."""


@dataclass(frozen=True)
class Widths:
    """Widths of the networks: of the data, and those of the papers.

    Parameters
    ----------
    channels : int
        Values in an observation.
    latent : int
        Of the state.
    hidden : int
        Of the field's hidden layers, and of the layer between recognition and state.
    recognition : int
        Of the recognition network's mean; its deviation is as long.
    units : int
        Of the recognition network's hidden layers.
    blocks : int
        Of the field, each from the state to the hidden width and back.
    """

    channels: int
    latent: int = 20
    hidden: int = 50
    recognition: int = 50
    units: int = 40
    blocks: int = 4


@dataclass(frozen=True)
class Annealing:
    """Weight of the KL divergence: 0 for ``start`` steps, then ``1 - 0.99^n`` in period ``n``.

    Parameters
    ----------
    start, period : int
        Optimizer steps.

    Examples
    --------
    >>> weight = Annealing(start=100, period=10)
    >>> weight(109), round(weight(110), 12), round(weight(10_000), 3)
    (0.0, 0.01, 1.0)
    """

    start: int
    period: int

    def __call__(self, step: Any) -> Any:
        """Return the weight at optimizer step ``step``, counted from 0; it may be traced."""
        count = (step - self.start) // self.period
        return 1.0 - 0.99 ** (count * (count > 0))


def observed(value: np.ndarray, mask: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return what the recognition network reads, ``[value, mask, gap]``, single precision.

    Parameters
    ----------
    value, mask : array, shape (B, L, channels)
    times : array, shape (B, L)
        ``gap`` is the time to the next one, after which the network reads an entry; 0 at the last.

    Returns
    -------
    array, shape (B, L, 2 channels + 1)
    """
    gap = np.diff(times, axis=1, append=times[:, -1:])[:, :, None]
    return np.concatenate([value, mask, gap], axis=2).astype("float32")


class LatentTask(Task):
    """A latent ODE that reconstructs the series it reads.

    Parameters
    ----------
    train, test : Batch
        ``x`` as :func:`observed` returns it, (B, L, 2 channels + 1). With an array ``place``,
        (B, L), an entry belongs to ``times[place]``; without one L is T and all series have the
        same times.
    times : array, shape (T,)
        Where the states are needed, in [0, 1].
    widths : Widths
    annealing : Annealing
    counted : int
        Test series in the solve that is counted and timed.
    """

    def __init__(
        self,
        train: Batch,
        test: Batch,
        times: np.ndarray,
        widths: Widths,
        annealing: Annealing,
        counted: int,
    ) -> None:
        self.train, self.test, self.times = train, test, times
        self.counted = {name: array[:counted] for name, array in test.items()}
        self.widths, self.annealing = widths, annealing
        n, hidden = widths.latent, widths.hidden
        blocks = MLP((*(n, hidden) * widths.blocks, n), output_activation="tanh", time="none")
        self.field = Sequential((Activation("tanh"), blocks))
        self.recognition = LatentGRU(widths.channels, widths.units, widths.recognition)
        self.distribution = MLP((2 * widths.recognition, hidden, 2 * n), time="none")
        self.encoder = Sequential((self.recognition, self.distribution))
        self.head = Affine(n, widths.channels)
        self._driven = Differentiated(self.recognition.driven)
        self._scan = DifferentiatedScan(self.recognition.step, reverse=True)
        self._distributed = Differentiated(lambda y, params: self.distribution(0.0, y, params))
        self._measured = Differentiated(self._objective)

    def solve_options(self) -> dict[str, Any]:
        """Return the times."""
        return {"t_eval": self.times}

    def draws(self, count: int, random: np.random.Generator) -> Batch:
        """Return the noise of the initial states."""
        return {"noise": random.standard_normal((count, self.widths.latent), dtype="float32")}

    def init(self, seed: int) -> Parameters:
        """Return initial parameters."""
        return {
            "encoder": self.encoder.init(seed, scope="encoder"),
            "field": self.field.init(seed),
            "head": self.head.init(seed, scope="head"),
        }

    def _initial(self, code: Any, batch: Mapping[str, Any]) -> Any:
        """Return initial states: drawn with the batch's noise, and without one the means."""
        if "noise" not in batch:
            return code[:, : self.widths.latent]
        return drawn(code, batch["noise"])

    def encode(self, params: Parameters, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return initial states; and their mean and log-variance side by side, with the places."""
        code = self.encoder(0.0, batch["x"], params["encoder"])
        return self._initial(code, batch), (code, batch.get("place"))

    def encode_vjp(self, params: Parameters, batch: Batch) -> tuple[tuple[Any, Any], Callable]:
        """Return :meth:`encode` and its pullback."""
        code, code_pullback = self._code_vjp(params["encoder"], batch["x"])
        initial, initial_pullback = Differentiated(lambda code: self._initial(code, batch))(code)

        def pullback(y0_bar: Any, context_bar: Any) -> Parameters:
            params_bar = map_leaves(np.zeros_like, params)
            (code_bar,) = initial_pullback(y0_bar)
            params_bar["encoder"] = code_pullback(code_bar + context_bar)
            return params_bar

        return (initial, (code, batch.get("place"))), pullback

    def _code_vjp(self, params: Parameters, x: np.ndarray) -> tuple[np.ndarray, Callable]:
        """Return the encoder's value and its pullback to ``params``.

        A product with the whole sequence, a scan, a network: what the encoder is made of.
        """
        sequence, driven_pullback = self._driven(x, params["0"])
        start = np.zeros((len(x), 2 * self.recognition.latent), sequence.dtype)
        state, scan_pullback = self._scan(start, sequence, params["0"])
        code, distribution_pullback = self._distributed(state, params["1"])

        def pullback(code_bar: np.ndarray) -> Parameters:
            state_bar, distribution_bar = distribution_pullback(code_bar)
            _, sequence_bar, stepped_bar = scan_pullback(state_bar)
            _, driven_bar = driven_pullback(sequence_bar)
            recognition_bar = map_leaves(operator.add, stepped_bar, driven_bar)
            return {"0": recognition_bar, "1": distribution_bar}

        return code, pullback

    def decode(self, params: Parameters, ys: Any, context: Any) -> Any:
        """Return the reconstruction, shape (B, L, channels)."""
        return self.head(1.0, _at_places(ys, context[1]), params["head"])

    def _objective(self, head: Parameters, states: Any, code: Any, x: Any, kl_weight: Any) -> Any:
        """Return the negative evidence bound, up to a constant, a mean over the series.

        Of a series it is the mean over its observations of ``(prediction - value)^2 / (2 σ^2)``,
        and the KL divergence's mean over the entries of the state, as in the papers' code.
        """
        errors = _squared_errors(self.head(1.0, states, head), x)
        divergence = ops.mean(divergence_from_standard(code))
        return ops.mean(errors) / (2.0 * SIGMA**2) + kl_weight * divergence

    def loss(
        self, params: Parameters, ys: Any, context: Any, batch: Mapping[str, Any], step: Any
    ) -> Any:
        """Return the negative evidence bound."""
        code, place = context
        states = _at_places(ys, place)
        return self._objective(params["head"], states, code, batch["x"], self.annealing(step))

    def loss_vjp(
        self, params: Parameters, ys: Any, context: Any, batch: Batch, step: int
    ) -> tuple[Any, tuple[Parameters, Any, Any]]:
        """Return the negative evidence bound and its gradients."""
        code, place = context
        weight = np.asarray(self.annealing(step), ys.dtype)
        loss, pullback = self._measured(
            params["head"], _at_places(ys, place), code, batch["x"], weight
        )
        params_bar = map_leaves(np.zeros_like, params)
        params_bar["head"], states_bar, code_bar, _, _ = pullback(np.ones_like(loss))
        return loss, (params_bar, _at_places_transposed(states_bar, place, ys.shape), code_bar)

    def scores(self, output: np.ndarray, batch: Batch) -> dict[str, float]:
        """Return the loss that the papers report: squared errors, a mean as in the objective."""
        return {"loss": float(np.mean(_squared_errors(output, batch["x"]), dtype="float64"))}

    def layer(self, settings: Settings) -> NeuralODE:
        """Return the architecture, solved as it was trained, from the mean of the initial state."""
        return NeuralODE(
            self.field,
            encoder=Sequential((self.recognition, self.distribution, Leading(self.widths.latent))),
            head=self.head,
            t_span=self.t_span,
            method=settings.method,
            rtol=settings.rtol,
            atol=settings.atol,
        )


def _squared_errors(prediction: Any, x: Any) -> Any:
    """Return each series' mean squared error where there are observations, (B,)."""
    channels = prediction.shape[-1]
    value, mask = x[:, :, :channels], x[:, :, channels : 2 * channels]
    missed = (prediction - value) * mask
    return ops.sum(missed * missed, axis=(1, 2)) / ops.maximum(ops.sum(mask, axis=(1, 2)), 1.0)


def _at_places(ys: Any, place: Any) -> Any:
    """Return the states of each series at its own times, (T, B, n) to (B, L, n)."""
    if place is None:
        return ops.permute_dims(ys, (1, 0, 2))
    xp = array_api_compat.array_namespace(ys)
    return ys[place, xp.arange(ys.shape[1])[:, None]]


def _at_places_transposed(bar: np.ndarray, place: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return the cotangent of the states at all times."""
    if place is None:
        return np.ascontiguousarray(bar.transpose(1, 0, 2))
    ys_bar = np.zeros(shape, bar.dtype)
    # Series that are shorter repeat a place: cotangents add up there.
    np.add.at(ys_bar, (place, np.arange(shape[1])[:, None]), bar)
    return ys_bar
