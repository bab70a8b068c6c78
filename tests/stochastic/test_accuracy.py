"""Orders of convergence along one path, and the law of adaptive solutions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import ndereg
from ndereg import ops
from ndereg.backends.host.noise import StepNoise

from .problems import METHODS, Solver

PATHS = 400
SPAN = (0.0, 1.0)
TREE = ndereg.BrownianTree(5, 0.0, 1.0, (PATHS, 1), 2.0**-12, areas="WH")
PLANE = ndereg.BrownianTree(6, 0.0, 1.0, (PATHS, 2), 2.0**-12, areas="WH")


def multiplicative(t: Any, y: Any, args: Any) -> Any:
    return 1.2 * y


def growth(t: Any, y: Any, args: Any) -> Any:
    return 0.6 * y


def exact(calculus: str) -> Any:
    """Geometric Brownian motion on the tree."""
    w = TREE.increment(0.0, 1.0)[0]
    return np.exp((0.6 - 0.72 * (calculus == "ito")) + 1.2 * w)


def restoring(t: Any, y: Any, args: Any) -> Any:
    return ops.sin(3.0 * y) - y + ops.cos(2.0 * t)


def additive(t: Any, y: Any, args: Any) -> Any:
    return 0.8 + 0.4 * ops.sin(2.0 * t) + 0.0 * y


def twisted(t: Any, y: Any, args: Any) -> Any:
    """Two channels that do not commute."""
    first, second = y[..., 0:1], y[..., 1:2]
    columns = [ops.concat([0.7 + 0.0 * first, 0.6 * first], axis=-1),
               ops.concat([0.5 * second, 0.0 * second], axis=-1)]  # fmt: skip
    return ops.stack(columns, axis=-1)


def solved(sde: Any, tree: Any, y0: Any, method: str, dt: float) -> Any:
    options = {"method": method, "controller": ndereg.ConstantStep(dt), "batch": "independent"}
    return Solver("lockstep").solve(sde, y0, None, span=SPAN, key=tree, **options).ys


def slope(sde: Any, tree: Any, y0: Any, method: str, truth: Any, halvings: range) -> float:
    sizes = [2.0**-k for k in halvings]
    errors = [
        math.sqrt(np.mean((solved(sde, tree, y0, method, size) - truth) ** 2)) for size in sizes
    ]
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def orders(*kinds: str) -> list[tuple[str, str, float]]:
    found = []
    for name in METHODS:
        for kind, order in ndereg.lookup(name).orders:
            if kind in kinds:
                found.append((name, kind, order))
    return found


@pytest.mark.parametrize(("method", "kind", "order"), orders("scalar"))
def test_strong_order_with_multiplicative_noise(method: str, kind: str, order: float) -> None:
    """On one channel, diagonal and scalar noise are the same."""
    calculus = ndereg.lookup(method).calculus
    sde = ndereg.SDE(growth, multiplicative, kind, calculus)
    y0 = np.ones((PATHS, 1))
    assert slope(sde, TREE, y0, method, exact(calculus), range(4, 9)) > order - 0.15


@pytest.mark.parametrize(("method", "kind", "order"), orders("additive"))
def test_strong_order_with_additive_noise(method: str, kind: str, order: float, fine: Any) -> None:
    sde = ndereg.SDE(restoring, additive, kind, ndereg.lookup(method).calculus)
    y0 = np.zeros((PATHS, 1))
    assert slope(sde, TREE, y0, method, fine, range(3, 7)) > order - 0.15


@pytest.fixture(scope="module")
def fine() -> Any:
    sde = ndereg.SDE(restoring, additive, "additive")
    return solved(sde, TREE, np.zeros((PATHS, 1)), "sra1", 2.0**-9)


@pytest.mark.parametrize(("method", "kind", "order"), orders("general"))
def test_strong_order_with_noise_that_does_not_commute(
    method: str, kind: str, order: float, twice: dict[str, Any]
) -> None:
    calculus = ndereg.lookup(method).calculus
    sde = ndereg.SDE(restoring, twisted, kind, calculus)
    y0 = np.zeros((PATHS, 2))
    assert slope(sde, PLANE, y0, method, twice[calculus], range(1, 6)) > order - 0.15


@pytest.fixture(scope="module")
def twice() -> dict[str, Any]:
    methods = {"ito": "euler_maruyama", "stratonovich": "stochastic_heun"}
    return {
        calculus: solved(
            ndereg.SDE(restoring, twisted, "general", calculus), PLANE, np.zeros((PATHS, 2)),
            method, 2.0**-9,
        )
        for calculus, method in methods.items()
    }  # fmt: skip


COUNT = 100_000


def law(method: str, calculus: str, solver: str = "numba") -> tuple[Any, Any]:
    """Deviations of mean and variance from those of the exact law, in standard errors."""
    sde = ndereg.SDE(growth_slow, entry, "diagonal", calculus)
    y0 = np.ones((COUNT, 1))
    sol = Solver(solver).solve(
        sde, y0, None, span=SPAN, key=23, method=method, rtol=1e-2, atol=1e-2,
        batch="independent", first_step=0.5,
    )  # fmt: skip
    assert np.mean(sol.stats.nreject > 0) > 0.2
    rate = 0.3 + (0.125 if calculus == "stratonovich" else 0.0)
    logs = np.log(np.asarray(sol.ys)[:, 0])
    mean, variance = rate - 0.125, 0.25
    return (
        (np.mean(logs) - mean) / math.sqrt(variance / COUNT),
        (np.var(logs) - variance) / (variance * math.sqrt(2.0 / COUNT)),
    )


def growth_slow(t: Any, y: Any, args: Any) -> Any:
    return 0.3 * y


def entry(t: Any, y: Any, args: Any) -> Any:
    return 0.5 * y


@pytest.mark.slow
def test_rejected_steps_do_not_bias_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and variance of log y for geometric Brownian motion; with fresh noise they are off."""
    fair = law("sriw1", "ito")
    assert max(map(abs, fair)) < 4.0, fair
    attempts = [0]

    def fresh(self: StepNoise, t: Any, h: Any, step: int) -> dict[str, Any]:
        attempts[0] += 1
        h = self._machine.select(h - h == 0.0, h, 0.0)
        found = self._path.direct(attempts[0], h, self._entries)
        return dict(zip(("W", "H"), found, strict=False))

    monkeypatch.setattr(StepNoise, "__call__", fresh)
    biased = law("sriw1", "ito", "lockstep")
    assert max(map(abs, biased)) > 8.0, biased


def test_output_times_have_the_law_of_the_solution() -> None:
    """Between the steps of Ornstein-Uhlenbeck, variances are those of the process."""
    sde = ndereg.SDE(relaxing, steady, "additive")
    times = np.array([0.3, 0.77, 1.0])
    y0 = np.zeros((20_000, 1))
    sol = Solver("numba").solve(
        sde, y0, None, span=SPAN, key=2, method="shark", batch="independent", t_eval=times,
        rtol=3e-2, atol=3e-2, first_step=0.5,
    )  # fmt: skip
    assert np.mean(sol.stats.nreject > 0) > 0.1
    wanted = 0.64 * (1.0 - np.exp(-2.0 * times)) / 2.0
    found = np.var(np.asarray(sol.ys)[..., 0], axis=0)
    assert np.all(np.abs(found / wanted - 1.0) < 4.0 * math.sqrt(2.0 / 20_000))
    assert np.all(np.abs(np.mean(np.asarray(sol.ys)[..., 0], axis=0)) < 4.0 * np.sqrt(wanted / 2e4))


def relaxing(t: Any, y: Any, args: Any) -> Any:
    return -y


def steady(t: Any, y: Any, args: Any) -> Any:
    return 0.8 + 0.0 * y
