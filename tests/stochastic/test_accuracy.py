"""Orders of convergence along one path, and the law of adaptive solutions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import ndereg
from ndereg import ops
from ndereg.backends.host.noise import StepNoise

from .problems import METHODS, Solver

SPAN = (0.0, 1.0)
PATHS = 600
SIZES = (2.0**-5, 2.0**-6, 2.0**-7)
FINE = 2.0**-9
ALLOWED = 0.15


def spread(y: Any) -> Any:
    return 0.6 + 0.36 * ops.sin(2.0 * y)


def slope(y: Any) -> Any:
    """Its derivative."""
    return 0.72 * ops.cos(2.0 * y)


def swapped(y: Any) -> Any:
    return ops.concat([y[..., 1:], y[..., :1]], axis=-1)


def stratonovich(t: Any, y: Any, args: Any) -> Any:
    return ops.cos(y) - 0.5 * y + 0.3 * ops.sin(3.0 * t) + 0.4 * ops.sin(swapped(y))


def ito(t: Any, y: Any, args: Any) -> Any:
    """The same equation."""
    return stratonovich(t, y, args) + 0.5 * spread(y) * slope(y)


def multiplicative(t: Any, y: Any, args: Any) -> Any:
    return spread(y)


def turned(y: Any) -> Any:
    return ops.concat([-1.0 * y[..., 1:], y[..., :1]], axis=-1)


def commuting(t: Any, y: Any, args: Any) -> Any:
    """Two channels, one of which stretches the plane and the other one turns it."""
    return ops.stack([0.5 * y, 0.4 * turned(y)], axis=-1)


def commuting_ito(t: Any, y: Any, args: Any) -> Any:
    """The same equation as with the drift :func:`stratonovich`."""
    return stratonovich(t, y, args) + 0.5 * (0.5**2 - 0.4**2) * y


def steep(t: Any, y: Any, args: Any) -> Any:
    return 1.5 * ops.cos(2.0 * y) - 0.5 * swapped(y)


def additive(t: Any, y: Any, args: Any) -> Any:
    return 1.0 + 0.4 * ops.sin(3.0 * t) + 0.0 * y


def additive_matrix(t: Any, y: Any, args: Any) -> Any:
    """Two channels that either entry feels."""
    columns = [additive(t, y, args), 0.5 * ops.cos(2.0 * t) * turned(1.0 + 0.0 * y)]
    return ops.stack(columns, axis=-1)


def twisted(t: Any, y: Any, args: Any) -> Any:
    """Two channels that do not commute."""
    first = y[..., 0:1]
    columns = [ops.concat([1.0 + 0.0 * first, 0.2 * ops.cos(first)], axis=-1),
               ops.concat([0.0 * first, 1.5 * ops.sin(first)], axis=-1)]  # fmt: skip
    return ops.stack(columns, axis=-1)


def slow(t: Any, y: Any, args: Any) -> Any:
    return 0.2 * ops.cos(y)


def slow_ito(t: Any, y: Any, args: Any) -> Any:
    """The same equation."""
    first = y[..., 0:1]
    return slow(t, y, args) + ops.concat([0.0 * first, -0.1 * ops.sin(first)], axis=-1)


@dataclass(frozen=True)
class Family:
    """A problem of one kind of noise, in both calculi, and what its fine solution is made by."""

    kind: Any
    drifts: dict[str, Any]
    diffusion: Any
    channels: int
    best: str
    sizes: tuple[float, ...] = SIZES

    @property
    def tree(self) -> ndereg.BrownianTree:
        return ndereg.BrownianTree(5, *SPAN, (PATHS, self.channels), 2.0**-10, areas="WH")

    def solved(self, method: str, size: float) -> Any:
        calculus = ndereg.lookup(method).calculus
        sde = ndereg.SDE(self.drifts[calculus], self.diffusion, self.kind, calculus)
        y0 = np.broadcast_to([0.2, -0.7], (PATHS, 2)).copy()
        return Solver("lockstep").solve(
            sde, y0, None, span=SPAN, key=self.tree, method=method, batch="independent",
            controller=ndereg.ConstantStep(size),
        ).ys  # fmt: skip


_BOTH = {"ito": ito, "stratonovich": stratonovich}
FAMILIES = {
    "scalar": Family("scalar", _BOTH, multiplicative, 1, "slowrk"),
    "diagonal": Family("diagonal", _BOTH, multiplicative, 2, "slowrk"),
    "commutative": Family(
        "general", {"ito": commuting_ito, "stratonovich": stratonovich}, commuting, 2, "slowrk"
    ),
    "additive": Family(
        "additive", {"ito": steep, "stratonovich": steep}, additive, 2, "shark"
    ),
    "additive matrix": Family(
        "additive", {"ito": steep, "stratonovich": steep}, additive_matrix, 2, "shark"
    ),
    "general": Family(
        "general", {"ito": slow_ito, "stratonovich": slow}, twisted, 2, "slowrk",
        (2.0**-3, 2.0**-4, 2.0**-5, 2.0**-6),
    ),
}  # fmt: skip


def stated(method: str, family: str) -> float | None:
    """The order that the catalogue states; noise that commutes is as good as diagonal noise."""
    orders = dict(ndereg.lookup(method).orders)
    if family == "commutative":
        return orders["diagonal"] if "general" in orders else None
    return orders.get(family.partition(" ")[0])


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """All methods take the same steps, along a path that is drawn once."""
    known: dict[Any, Any] = {}
    drawn = StepNoise.__call__

    def noise(self: StepNoise, t: Any, h: Any, step: int) -> dict[str, Any]:
        place = float(t[0, 0]), float(h[0, 0])
        if place not in known:
            self._names = ("W", "H")
            known[place] = drawn(self, t, h, step)
        return known[place]

    monkeypatch.setattr(StepNoise, "__call__", noise)


@pytest.mark.parametrize("family", FAMILIES)
def test_strong_orders(family: str, remembered: None) -> None:
    """Neither less nor more than stated, by the slope over steps along one path."""
    problem, wrong = FAMILIES[family], []
    truth = problem.solved(problem.best, FINE)
    for method in METHODS:
        order = stated(method, family)
        if order is None:
            continue
        errors = [
            math.sqrt(np.mean((problem.solved(method, size) - truth) ** 2))
            for size in problem.sizes
        ]
        found = float(np.polyfit(np.log(problem.sizes), np.log(errors), 1)[0])
        if not abs(found - order) < ALLOWED:
            wrong.append((method, order, found))
    assert not wrong


COUNT = 100_000


def law(
    method: str, calculus: str, solver: str = "numba", tolerance: float = 1e-2
) -> dict[str, float]:
    """Deviations from the exact law of geometric Brownian motion, in standard errors.

    Of the mean and variance of y and of log y. At the end log y is normal, so that y has moments of
    every order: the fourth is what the standard error of its variance is made of, and the eighth,
    which is finite, what keeps that one steady.
    """
    sde = ndereg.SDE(growth_slow, entry, "diagonal", calculus)
    y0 = np.ones((COUNT, 1))
    sol = Solver(solver).solve(
        sde, y0, None, span=SPAN, key=23, method=method, rtol=tolerance, atol=tolerance,
        batch="independent", first_step=0.5,
    )  # fmt: skip
    assert np.mean(sol.stats.nreject > 0) > 0.2
    y = np.asarray(sol.ys)[:, 0]
    rate = 0.3 + (0.125 if calculus == "stratonovich" else 0.0)  # of Ito
    spread, w = 0.25, math.exp(0.25)  # the variance of log y, and its exponential
    moments = {
        "y": (math.exp(rate), math.exp(2.0 * rate) * (w - 1.0), w**4 + 2 * w**3 + 3 * w**2 - 3.0),
        "log y": (rate - 0.5 * spread, spread, 3.0),
    }
    found = {}
    for name, values in (("y", y), ("log y", np.log(y))):
        mean, variance, kurtosis = moments[name]
        found[f"mean of {name}"] = (np.mean(values) - mean) / math.sqrt(variance / COUNT)
        error = variance * math.sqrt((kurtosis - 1.0) / COUNT)
        found[f"variance of {name}"] = (np.var(values) - variance) / error
    return found


def growth_slow(t: Any, y: Any, args: Any) -> Any:
    return 0.3 * y


def entry(t: Any, y: Any, args: Any) -> Any:
    return 0.5 * y


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "calculus", "tolerance"),
    [("sriw1", "ito", 1e-2), ("spark", "stratonovich", 1e-4)],
)
def test_adaptive_steps_have_the_law_of_the_solution(
    method: str, calculus: str, tolerance: float
) -> None:
    """Of geometric Brownian motion, with steps rejected on a fifth of the paths and more.

    Step sizes depend on the noise, so that errors of the steps have a mean, and the law converges
    half an order later than the method: that of order 1 needs small tolerances to show no error.
    """
    found = law(method, calculus, tolerance=tolerance)
    assert max(map(abs, found.values())) < 4.0, found


@pytest.mark.slow
def test_fresh_noise_after_a_rejection_biases_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above fails where a rejected step does not return to its path."""
    attempts = [0]

    def fresh(self: StepNoise, t: Any, h: Any, step: int) -> dict[str, Any]:
        attempts[0] += 1
        h = self._machine.select(h - h == 0.0, h, 0.0)
        found = self._path.direct(attempts[0], h, self._entries)
        return dict(zip(("W", "H"), found, strict=False))

    unbiased = law("sriw1", "ito", "lockstep")
    assert max(map(abs, unbiased.values())) < 4.0, unbiased
    monkeypatch.setattr(StepNoise, "__call__", fresh)
    biased = law("sriw1", "ito", "lockstep")
    for name in ("y", "log y"):
        assert max(abs(biased[f"mean of {name}"]), abs(biased[f"variance of {name}"])) > 8.0, biased


def test_output_times_have_the_law_of_the_solution() -> None:
    """At the end and between the steps of Ornstein-Uhlenbeck: means and variances of the process.

    At a tolerance whose error is less than so many paths show.
    """
    sde = ndereg.SDE(relaxing, steady, "additive")
    times = np.array([0.3, 0.77, 1.0])
    sol = Solver("numba").solve(
        sde, np.zeros((COUNT, 1)), None, span=SPAN, key=2, method="shark", batch="independent",
        t_eval=times, rtol=1e-2, atol=1e-2, first_step=0.5,
    )  # fmt: skip
    assert np.mean(sol.stats.nreject > 0) > 0.9
    wanted = 0.64 * (1.0 - np.exp(-2.0 * times)) / 2.0
    found = np.asarray(sol.ys)[..., 0]
    assert np.all(np.abs(np.var(found, axis=0) / wanted - 1.0) < 4.0 * math.sqrt(2.0 / COUNT))
    assert np.all(np.abs(np.mean(found, axis=0)) < 4.0 * np.sqrt(wanted / COUNT))


def relaxing(t: Any, y: Any, args: Any) -> Any:
    return -y


def steady(t: Any, y: Any, args: Any) -> Any:
    return 0.8 + 0.0 * y
