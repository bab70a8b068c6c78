"""Stochastic equations that are timed, and what their solutions are judged by."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ndereg import ops
from ndereg.bench.judges import Law, Strong
from ndereg.bench.problems import Problem, dense_layers, perceptron

GROWTH, VOLATILITY = 0.3, 0.5


# Two functions, not two closures of one: a compiler that keeps variants by source tells them apart.
def _drift(t: Any, y: Any, args: Any) -> Any:
    return args[0] * y


def _diffusion(t: Any, y: Any, args: Any) -> Any:
    return args[1] * y


def geometric(shape: tuple[int, ...]) -> Problem:
    """Geometric Brownian motions from 1 over a unit of time; samples along the first axis."""
    return Problem(
        "geometric Brownian motion", _drift, (0.0, 1.0), np.ones(shape),
        np.array([GROWTH, VOLATILITY]), batched=len(shape) > 1, diffusion=_diffusion,
    )  # fmt: skip


def geometric_on_path(problem: Problem) -> Strong:
    """``exp(growth t + volatility W)``, the solution in the sense of Stratonovich."""
    return Strong(lambda w: np.exp(GROWTH + VOLATILITY * w))


def geometric_law(problem: Problem) -> Law:
    """Logarithms are normal."""
    return Law(np.log, GROWTH, VOLATILITY**2)


_TANH, _LIPSWISH = perceptron(ops.tanh), perceptron(lambda x: 0.909 * x * ops.sigmoid(x))


def _net_drift(t: Any, y: Any, args: Any) -> Any:
    return _LIPSWISH(t, y, args["drift"]) - y


def _net_diffusion(t: Any, y: Any, args: Any) -> Any:
    return 0.2 + 0.3 * ops.sigmoid(_TANH(t, y, args["diffusion"]))


def networks(batch: int = 128, width: int = 32, hidden: int = 64) -> Problem:
    """A neural SDE: drift and diagonal diffusion are perceptrons; all samples start alike."""
    row = np.random.default_rng(1).normal(size=width).astype(np.float32)
    args = {
        "drift": dense_layers((width, hidden, hidden, width), 0),
        "diffusion": dense_layers((width, hidden, width), 1),
    }
    y0 = np.repeat(row[None], batch, axis=0)
    return Problem("neural SDE", _net_drift, (0.0, 1.0), y0, args, True, diffusion=_net_diffusion)


def networks_law(problem: Problem) -> Law:
    """Mean over the entries of a sample, as 2,048 samples at half of the step have it."""
    return Law(_entries_mean, *_networks_moments())


def _entries_mean(y1: Any) -> Any:
    return np.mean(y1, axis=-1)


@cache
def _networks_moments() -> tuple[float, float]:
    import ndereg.numpy as nde

    problem = networks(2048)
    sde = nde.SDE(problem.field, problem.diffusion, calculus="stratonovich")
    sol = nde.solve(
        sde, problem.t_span, problem.y0, problem.args, method="stochastic_heun", key=1234,
        controller=nde.ConstantStep(0.5 * NETWORK_STEP),
    )  # fmt: skip
    values = _entries_mean(np.asarray(sol.ys, np.float64))
    return float(np.mean(values)), float(np.var(values))


NETWORK_STEP = 0.02


def queries(channels: int) -> Problem:
    """A path of some channels over a unit of time; what is asked for are :func:`intervals`."""
    return Problem("Brownian path", _drift, (0.0, 1.0), np.zeros(channels), np.zeros(2))


@cache
def intervals(count: int) -> tuple[Any, Any]:
    """Neighbouring intervals of the unit of time, in random order: increments are independent."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(size=count - 1))
    ends = np.concatenate([[0.0], times, [1.0]])
    order = rng.permutation(count)
    return ends[:-1][order], ends[1:][order]


def increments_law(problem: Problem) -> Law:
    """Increments over the roots of their lengths are standard normal numbers."""
    return Law(np.asarray, 0.0, 1.0)
