"""Time series explained by a latent stochastic equation.

A prior, ``dz = h(z) dt + g(z) dW`` from a standard normal start, is fitted by a posterior of the
same diffusion, whose drift also sees what a recurrent network has read from the end of the series
back to the present. By Girsanov's theorem the evidence bound of a series x is the expectation
under the posterior of ::

    log p(x | z) - KL(q(z0) || p(z0)) - ∫ 1/2 |(f - h) / g|^2 dt

whose integral is one more entry of the state, without noise. X. Li, T.-K. L. Wong, R. T. Q. Chen,
D. Duvenaud, "Scalable gradients for stochastic differential equations", AISTATS 2020,
arXiv:2001.01328.

The data are those of an Ornstein-Uhlenbeck process, observed with noise: its likelihood is known
exactly, so that a bound can be read as what the model lacks.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ndereg import ops
from ndereg.experiments.normal import divergence_from_standard, drawn
from ndereg.experiments.ornstein_uhlenbeck import OrnsteinUhlenbeck, log_density
from ndereg.experiments.precision import root_mean_square
from ndereg.experiments.recipe import Batch, Metric, Penalized, Recipe, Settings, Task
from ndereg.models.dense import Affine, Entrywise
from ndereg.models.differentiation import Differentiated, DifferentiatedScan
from ndereg.models.layer import Layer
from ndereg.models.mlp import MLP
from ndereg.models.neural_sde import NeuralSDE
from ndereg.models.parameters import Parameters, map_leaves, stream
from ndereg.models.recurrent import Recurrent
from ndereg.sde import SDE
from ndereg.spec.regularizer import ErrorEstimate, Local, StiffnessEstimate
from ndereg.spec.stochastic import Noise

PROCESS = OrnsteinUhlenbeck(rate=1.0, volatility=0.6)
START = (1.0, 0.8)
"""Mean and standard deviation of the process at the start."""

SIGMA = 0.2
"""Standard deviation of the noise of an observation, which the model knows."""

TRAINED, TESTED, COUNTED = 4096, 512, 128
"""Series: to train on, to test, and in the solve that is counted."""

KEY = 0
"""Of the noise of predictions."""


@dataclass(frozen=True)
class LatentSDESettings(Settings):
    """Settings of the latent-sde recipe."""

    state: int = 1
    hidden: int = 32
    """Width of the two hidden layers of both drifts, and of the diffusion's own."""
    units: int = 32
    """Of the recurrent network."""
    context: int = 8
    """What the posterior's drift sees of a series."""
    points: int = 21
    """Observations, evenly spaced over ``end``."""
    end: float = 2.0
    kl_steps: int = 100
    """Optimizer steps in which the weight of the divergences grows linearly to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("state", "hidden", "units", "context", "kl_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, received {getattr(self, name)}")
        if self.points < 2:
            raise ValueError(f"expected points >= 2, received {self.points}")
        if not 0 < self.end <= 100:
            raise ValueError(f"expected an end in (0, 100], received {self.end}")


@dataclass(frozen=True)
class Drift:
    """Posterior, the integrand of its divergence from the prior, and, where asked for, the prior.

    Parameters
    ----------
    prior, posterior, diffusion : Layer
    spacing : float
        From one time of the context to the next; it is linear between them.
    """

    prior: Layer
    posterior: Layer
    diffusion: Layer
    spacing: float

    def __call__(self, t: Any, y: Mapping[str, Any], args: Any) -> dict[str, Any]:
        """Evaluate on ``z`` (B, n), ``kl`` (B,) and, in predictions, ``prior`` (B, n)."""
        params, z = args["params"], y["z"]
        path = args["context"]["path"]
        away = ops.abs((t - args["context"]["times"]) / self.spacing)
        context = ops.reshape(ops.maximum(1.0 - away, 0.0) @ path, (z.shape[0], -1))
        posterior = self.posterior(t, ops.concat([z, context], axis=1), params["posterior"])
        prior = self.prior(t, z, params["drift"])
        missed = (posterior - prior) / self.diffusion(t, z, params["diffusion"])
        rates = {"z": posterior, "kl": 0.5 * ops.sum(missed * missed, axis=1)}
        if "prior" in y:
            rates["prior"] = self.prior(t, y["prior"], params["drift"])
        return rates


@dataclass(frozen=True)
class Diffusion:
    """That of the prior, for ``z`` and ``prior``; the divergence has no noise."""

    diffusion: Layer

    def __call__(self, t: Any, y: Mapping[str, Any], args: Any) -> dict[str, Any]:
        """Evaluate on what :class:`Drift` takes."""
        params = args["params"]["diffusion"]
        return {
            name: ops.zeros_like(part) if name == "kl" else self.diffusion(t, part, params)
            for name, part in y.items()
        }


class LatentSDETask(Task):
    """A posterior drift, a prior drift and a diffusion, a recurrent encoder, an affine head.

    A batch holds the series ``x`` (B, T, 1), ``times`` (B, T), the same in every row, and
    ``noise`` (B, n) of the initial states; one that is predicted also ``start`` (B, n), where
    trajectories of the prior start.
    """

    driven = True

    def __init__(self, settings: LatentSDESettings) -> None:
        self.times = np.linspace(0.0, settings.end, settings.points)
        self.t_span = (0.0, settings.end)
        self.states = n = settings.state
        self.kl_steps = settings.kl_steps
        x = _series(self.times)
        self.train, self.test = self._batch(x[:TRAINED]), self._batch(x[TRAINED:])
        random = stream(0, "latent-sde.test")
        for name in ("noise", "start"):
            self.test[name] = random.standard_normal((TESTED, n)).astype("float32")
        self.counted = {name: array[:COUNTED] for name, array in self.test.items()}

        hidden, context = settings.hidden, settings.context
        self.prior = MLP((n, hidden, hidden, n), "softplus", time="none")
        self.posterior = MLP((n + context, hidden, hidden, n), "softplus", time="none")
        self.diffusion = Entrywise(n, hidden, output_activation="sigmoid")
        drift = Drift(self.prior, self.posterior, self.diffusion, float(self.times[1]))
        self.field = SDE(drift, Diffusion(self.diffusion))  # type: ignore[assignment]
        self.reader = Recurrent(1, settings.units, reverse=True)
        self.projection = Affine(settings.units, context)
        self.distribution = Affine(context, 2 * n)
        self.head = Affine(n, 1)
        self._driven = Differentiated(self.reader.driven)
        self._scan = DifferentiatedScan(self.reader.step, reverse=True, every=True)
        self._projected = Differentiated(self._path)
        self._distributed = Differentiated(self._code)
        self._drawn = Differentiated(drawn)
        self._measured = Differentiated(self._objective)

    def _batch(self, x: np.ndarray) -> Batch:
        times = np.tile(self.times.astype("float32"), (len(x), 1))
        return {"x": x.astype("float32")[:, :, None], "times": times}

    def solve_options(self) -> dict[str, Any]:
        """Return the times."""
        return {"t_eval": self.times}

    def prediction(self) -> tuple[Any, dict[str, Any]]:
        """Return the equation with the noise of predictions."""
        return self.field, {"key": KEY}

    def draws(self, count: int, random: np.random.Generator) -> Batch:
        """Return the noise of the initial states."""
        return {"noise": random.standard_normal((count, self.states), dtype="float32")}

    def init(self, seed: int) -> Parameters:
        """Return initial parameters; of the head, with which the prior starts as the series do."""
        x = self.train["x"][:, 0]
        deviation = np.std(x) / math.sqrt(self.states)
        head = {"weight": np.full((self.states, 1), deviation, x.dtype), "bias": np.mean(x)[None]}
        parts = {"drift": self.prior, "posterior": self.posterior, "diffusion": self.diffusion}
        encoder = {
            "reader": self.reader,
            "projection": self.projection,
            "distribution": self.distribution,
        }
        return {
            "field": {name: part.init(seed, scope=name) for name, part in parts.items()},
            "encoder": {name: part.init(seed, scope=name) for name, part in encoder.items()},
            "head": head,
        }

    def _path(self, states: Any, params: Parameters) -> Any:
        """Return the context at all times, side by side, (T, B context)."""
        return ops.reshape(self.projection(0.0, states, params), (states.shape[0], -1))

    def _code(self, path: Any, params: Parameters) -> Any:
        """Return mean and log-variance of the initial states side by side, (B, 2 n)."""
        context = ops.reshape(path[0], (-1, self.distribution.inputs))
        return self.distribution(0.0, context, params)

    def _state(self, z: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        beside = {"prior": batch["start"]} if "start" in batch else {}
        return {"z": z, "kl": ops.zeros_like(z[:, 0]), **beside}

    def encode(self, params: Parameters, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return initial states; and the context, and the distribution that they are drawn from."""
        encoder = params["encoder"]
        states = self.reader.states(batch["x"], encoder["reader"])
        path = self._path(states, encoder["projection"])
        code = self._code(path, encoder["distribution"])
        context = {"path": path, "code": code, "times": batch["times"][0]}
        return self._state(drawn(code, batch["noise"]), batch), context

    def encode_vjp(self, params: Parameters, batch: Batch) -> tuple[tuple[Any, Any], Callable]:
        """Return :meth:`encode` and its pullback."""
        encoder = params["encoder"]
        sequence, driven_pullback = self._driven(batch["x"], encoder["reader"])
        carry = np.zeros((len(batch["x"]), self.reader.hidden), sequence.dtype)
        states, scan_pullback = self._scan(carry, sequence, encoder["reader"])
        path, path_pullback = self._projected(states, encoder["projection"])
        code, code_pullback = self._distributed(path, encoder["distribution"])
        z, initial_pullback = self._drawn(code, batch["noise"])

        def pullback(y0_bar: Any, context_bar: Any) -> Parameters:
            params_bar = map_leaves(np.zeros_like, params)
            code_bar, _ = initial_pullback(y0_bar["z"])
            path_bar, distribution_bar = code_pullback(code_bar + context_bar["code"])
            states_bar, projection_bar = path_pullback(path_bar + context_bar["path"])
            _, sequence_bar, stepped_bar = scan_pullback(states_bar)
            _, driven_bar = driven_pullback(sequence_bar)
            params_bar["encoder"] = {
                "reader": map_leaves(operator.add, stepped_bar, driven_bar),
                "projection": projection_bar,
                "distribution": distribution_bar,
            }
            return params_bar

        context = {"path": path, "code": code, "times": batch["times"][0]}
        return (self._state(z, batch), context), pullback

    def _observed(self, z: Any, params: Parameters) -> Any:
        """Return the mean of the observations, (T, B, n) to (B, T)."""
        return ops.permute_dims(self.head(0.0, z, params)[:, :, 0], (1, 0))

    def _divergence(self, kl: Any, code: Any) -> Any:
        """Return that of the posterior from the prior, start and path together, (B,)."""
        return kl[-1] + ops.sum(divergence_from_standard(code), axis=1)

    def decode(self, params: Parameters, ys: Any, context: Any) -> Any:
        """Return, side by side, reconstruction, divergence and a trajectory of the prior."""
        observed = self._observed(ys["z"], params["head"])
        divergence = self._divergence(ys["kl"], context["code"])[:, None]
        prior = self._observed(ys["prior"], params["head"])
        return ops.concat([observed, divergence, prior], axis=1)

    def _objective(self, head: Parameters, ys: Any, code: Any, x: Any, kl_weight: Any) -> Any:
        """Return the negative evidence bound, a mean over the series."""
        likelihood = _log_likelihood(self._observed(ys["z"], head), x)
        return ops.mean(kl_weight * self._divergence(ys["kl"], code) - likelihood)

    def _kl_weight(self, step: Any) -> Any:
        reached = (step + 1) / self.kl_steps
        return reached * (reached < 1.0) + 1.0 * (reached >= 1.0)

    def loss(
        self, params: Parameters, ys: Any, context: Any, batch: Mapping[str, Any], step: Any
    ) -> Any:
        """Return the negative evidence bound, its divergences weighted."""
        return self._objective(
            params["head"], ys, context["code"], batch["x"], self._kl_weight(step)
        )

    def loss_vjp(
        self, params: Parameters, ys: Any, context: Any, batch: Batch, step: int
    ) -> tuple[Any, tuple[Parameters, Any, Any]]:
        """Return the negative evidence bound and its gradients."""
        weight = np.asarray(self._kl_weight(step), ys["z"].dtype)
        loss, pullback = self._measured(params["head"], ys, context["code"], batch["x"], weight)
        params_bar, context_bar = map_leaves(np.zeros_like, params), map_leaves(_zeros, context)
        params_bar["head"], ys_bar, context_bar["code"], _, _ = pullback(np.ones_like(loss))
        return loss, (params_bar, ys_bar, context_bar)

    def scores(self, output: np.ndarray, batch: Batch) -> dict[str, float]:
        """Return how the model explains the series, and how its prior resembles the process.

        ``bound`` is the negative evidence bound in nats, a mean over the series, and ``gap`` what
        it exceeds the exact negative log-likelihood by; ``mean`` and ``deviation`` are the root
        mean squares over the times by which those of the prior's trajectories miss the exact ones.
        """
        points = len(self.times)
        output = output.astype("float64")
        observed, divergence, prior = np.split(output, [points, points + 1], axis=1)
        x = batch["x"].astype("float64")
        bound = np.mean(divergence[:, 0] - _log_likelihood(observed, x))
        mean, covariance = PROCESS.law(self.times, START[0], START[1] ** 2)
        exact = log_density(x[:, :, 0], mean, covariance + SIGMA**2 * np.eye(points))
        return {
            "gap": float(bound + np.mean(exact)),
            "bound": float(bound),
            "mean": root_mean_square(prior.mean(axis=0) - mean),
            "deviation": root_mean_square(prior.std(axis=0) - np.sqrt(np.diag(covariance))),
        }

    def layer(self, settings: Settings) -> NeuralSDE:
        """Return the prior, from standard normal numbers to an observation at the end."""
        return NeuralSDE(
            self.prior,
            self.diffusion,
            head=self.head,
            t_span=self.t_span,
            method=settings.method,
            rtol=settings.rtol,
            atol=settings.atol,
        )

    def layer_params(self, params: Parameters) -> Parameters:
        """Return the parameters of the prior: the posterior served the training."""
        field = {name: params["field"][name] for name in ("drift", "diffusion")}
        return {"field": field, "head": params["head"]}


def _series(times: np.ndarray) -> np.ndarray:
    """Return observations of the process, those to train on first, (TRAINED + TESTED, T)."""
    random = stream(0, "latent-sde.data")
    mean, deviation = START
    start = mean + deviation * random.standard_normal(TRAINED + TESTED)
    x = PROCESS.trajectories(times, start, random)
    return x + SIGMA * random.standard_normal(x.shape)


def _log_likelihood(observed: Any, x: Any) -> Any:
    """Return ``log p(x | z)`` of every series, of its mean (B, T) and itself (B, T, 1)."""
    missed = (observed - x[:, :, 0]) / SIGMA
    constant = observed.shape[1] * math.log(SIGMA * math.sqrt(2.0 * math.pi))
    return -0.5 * ops.sum(missed * missed, axis=1) - constant


def _zeros(array: Any) -> np.ndarray:
    return np.zeros_like(array)


TRAINING: Mapping[str, Any] = {
    "method": "sosri",
    "rtol": 0.2,
    "atol": 0.2,
    "batch_size": 128,
    "learning_rate": 0.01,
    "learning_rate_factor": 0.999,
    "regularizers": ("none", "error"),
}


class LatentSDE(Recipe):
    """The recipe behind ``ndereg compare latent-sde``."""

    name: ClassVar[str] = "latent-sde"
    settings_type: ClassVar[type[Settings]] = LatentSDESettings
    metric: ClassVar[Metric] = Metric("gap", "gap (nats)")
    noise: ClassVar[Noise | None] = Noise("diagonal", "ito", "diagonal")
    regularizers: ClassVar[Mapping[str, Penalized]] = {
        "none": Penalized(None),
        "error": Penalized(ErrorEstimate(), "10"),
        # Of sosri2, which has the pair of stages; divided by its stability size.
        "stiffness": Penalized(StiffnessEstimate(), "0.1"),
        # Of one step of a hundred, and times its size: measured to be as strong as the error row.
        "local-unbiased": Penalized(Local(ErrorEstimate()), "20000"),
        "local-biased": Penalized(Local(ErrorEstimate(), sampling="biased"), "20000"),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {**TRAINING, "steps": 1500, "evaluate_every": 4},
        "quick": {**TRAINING, "steps": 192, "evaluate_every": 2},
        # Widths, optimizer and annealing of the authors' example, a Lorenz attractor, whose steps
        # have one size; it observes the state itself.
        "scalable-gradients": {
            **TRAINING,
            "state": 3,
            "hidden": 128,
            "units": 128,
            "context": 64,
            "points": 50,
            "kl_steps": 500,
            "steps": 5000,
            "evaluate_every": 10,
        },
    }

    def task(self, settings: Settings) -> Task:
        """Draw the data and build the model."""
        assert isinstance(settings, LatentSDESettings)
        return LatentSDETask(settings)
