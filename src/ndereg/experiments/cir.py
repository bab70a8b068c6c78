"""The Cox-Ingersoll-Ross process: strong order by the mean number of steps, constant or adaptive.

``dy = a (b - y) dt + sigma sqrt(y) dW`` with ``a = b = 1`` and ``y(0) = 1``, to time 4. At a
volatility of 1.5 its solution comes near 0 and at 2.2 it reaches it, where its diffusion is not
Lipschitz: steps of one size lose their order, steps chosen by the state do not. An order is no gain
by itself: at 2.2 steps near 0 are so short that errors are compared at equal work, too.

Two schemes of its own, which are no Runge-Kutta methods: they are written here, on the increments
of :class:`ndereg.BrownianTree`. The step size is a function of the state, ``(y_min ctol)^(2/3)``
with the smaller of the values at both ends, so that a step may have to be taken again; it revisits
the path it saw.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure

from ndereg.brownian import BrownianTree
from ndereg.experiments.figures import styles
from ndereg.experiments.study import (
    Column,
    Outcome,
    PublishedRows,
    Study,
    StudySettings,
    by_row,
    double,
)

A, B, START, END = 1.0, 1.0, 1.0, 4.0
SIGMAS = {"medium": 1.5, "high": 2.2}
SHORTEST, LONGEST = 2.0**-15, 1.0
"""Limits of an adaptive step."""
CELL = 2.0**-16
"""Resolution of the paths; steps are whole cells, which makes them the same on every backend."""
SLACK = 1.1
"""How much longer than wanted an accepted step may be."""
FINER = 3
"""Levels between the finest tolerance and that of the reference."""
AT_STEPS = {"medium": 128, "high": 1024}
"""Mean number of steps at which errors are compared; adaptive ones at 2.2 take hundreds at once."""

Scheme = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]
"""``(y, h, W, H, sigma)`` to the next ``y``; all but ``sigma`` have an entry for every path."""


@dataclass(frozen=True)
class CirSettings(StudySettings):
    """Settings of the study."""

    paths: int = 1000
    coarsest: int = 2
    """Steps are ``2^-level``, and tolerances of adaptive ones, from this level on."""
    levels: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coarsest < 0 or self.levels < 2 or self.coarsest + self.levels > 13:
            raise ValueError(
                "expected coarsest >= 0, at least two levels, and the finest at most 12, received "
                f"coarsest={self.coarsest}, levels={self.levels}; try 2 and 7"
            )


def _middle(sigma: float) -> float:
    """Return where the drift of the Stratonovich equation is 0."""
    return B - sigma**2 / (4.0 * A)


def hosts(y: np.ndarray, h: np.ndarray, W: np.ndarray, H: np.ndarray, sigma: float) -> np.ndarray:
    """Make a step of the high order splitting of Foster, dos Reis and Strange.

    Equation 5.3 of arXiv:2210.17543: the flows of drift and diffusion of the Stratonovich equation,
    each exact, along a piecewise linear path that has the increment and the space-time area of the
    Brownian one.
    """
    middle = _middle(sigma)

    def drift(z: np.ndarray, share: float) -> np.ndarray:
        factor = np.exp(-A * h * share)
        return factor * z + (1.0 - factor) * middle

    def diffusion(z: np.ndarray, increment: np.ndarray) -> np.ndarray:
        return (np.sqrt(np.maximum(z, 0.0)) + 0.5 * sigma * increment) ** 2

    root = math.sqrt(3.0)
    z = diffusion(drift(y, (3.0 - root) / 6.0), 0.5 * W + root * H)
    z = diffusion(drift(z, 1.0 / root), 0.5 * W - root * H)
    return drift(z, (3.0 - root) / 6.0)


def drift_implicit(
    y: np.ndarray, h: np.ndarray, W: np.ndarray, H: np.ndarray, sigma: float
) -> np.ndarray:
    """Make a step of the drift-implicit Euler scheme of ``sqrt(y)``.

    Alfonsi (2005, doi:10.1515/156939605777438569); Dereich, Neuenkirch and Szpruch (2012,
    doi:10.1098/rspa.2011.0505). Where its equation has no real root, at high volatility, the
    discriminant is taken for 0, as in the published experiment.
    """
    middle = _middle(sigma)
    moved, weight = np.sqrt(np.maximum(y, 0.0)) + 0.5 * sigma * W, 2.0 + A * h
    root = np.sqrt(np.maximum(moved**2 + weight * A * middle * h, 0.0))
    return np.asarray(((moved + root) / weight) ** 2)


ROWS: dict[str, tuple[Scheme, bool, str]] = {
    "hosts-constant": (hosts, False, "high order splitting, steps of one size"),
    "hosts-adaptive": (hosts, True, "high order splitting, steps by the state"),
    "die-constant": (
        drift_implicit, False, "drift-implicit Euler scheme of the root, steps of one size",
    ),
    "die-adaptive": (
        drift_implicit, True, "drift-implicit Euler scheme of the root, steps by the state",
    ),
}  # fmt: skip
"""Scheme, whether its steps are adaptive, and what the row is."""


class Path:
    """Independent Brownian motions over the same span: one tree, cut in pieces."""

    def __init__(self, settings: CirSettings, seed: int) -> None:
        self.paths, self.backend = settings.paths, settings.backend
        end = END * self.paths
        self._tree = BrownianTree(seed, 0.0, end, (1,), CELL, areas="WH")

    def increment(
        self, which: np.ndarray, s: np.ndarray, t: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return ``W`` and ``H`` of some of the motions, each over an interval of its own."""
        count, ends = len(which), (END * which + s, END * which + t)
        if self.backend == "jax":  # which compiles anew for every number of intervals
            ends = tuple(np.pad(each, (0, self.paths - count), "edge") for each in ends)
        w, h = self._tree.increment(*ends, backend=self.backend)
        return np.asarray(w)[:count, 0], np.asarray(h)[:count, 0]


def wanted(y: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the size of an adaptive step where the smallest value is ``y``."""
    sizes = np.clip((np.maximum(y, 0.0) * tolerance) ** (2.0 / 3.0), SHORTEST, LONGEST)
    return np.asarray(np.floor(sizes / CELL) * CELL)


def solve(
    scheme: Scheme, sigma: float, path: Path, size: float, adaptive: bool
) -> tuple[np.ndarray, float]:
    """Return ``y(4)`` of every path, and the mean number of accepted steps.

    ``size`` is that of a step, or ``ctol`` of adaptive ones. Every path has steps of its own.
    """
    count = path.paths
    y, t, steps = np.full(count, START), np.zeros(count), np.zeros(count)
    h = wanted(y, size) if adaptive else np.full(count, size)
    active = np.arange(count)
    while len(active):
        now, before = t[active], y[active]
        left = END - now
        length = np.where(h[active] > 0.999 * left, left, h[active])
        then = np.where(length == left, END, now + length)
        w, area = path.increment(active, now, then)
        after = scheme(before, length, w, area, sigma)
        good = np.ones(len(active), bool)
        if adaptive:
            least = wanted(np.minimum(before, after), size)
            good = length < SLACK * least
            h[active] = np.where(good, wanted(after, size), least)
        taken = active[good]
        y[taken], t[taken] = after[good], then[good]
        steps[taken] += 1
        active = active[t[active] < END]
    return y, float(steps.mean())


@lru_cache(maxsize=4)
def reference(settings: CirSettings, seed: int, sigma: float) -> np.ndarray:
    """Return ``y(4)`` by adaptive steps of the splitting, some levels finer than all others."""
    finest = 2.0 ** -(settings.coarsest + settings.levels - 1 + FINER)
    return solve(hosts, sigma, Path(settings, seed), finest, adaptive=True)[0]


class Cir(Study):
    """Strong orders along the same paths."""

    name = "cir"
    settings_type = CirSettings
    rows: ClassVar = {row: what for row, (_, _, what) in ROWS.items()}
    columns: ClassVar = (
        Column("order_medium", "order 1.5"),
        Column("error_medium", "error 1.5"),
        Column("order_high", "order 2.2"),
        Column("error_high", "error 2.2"),
    )
    presets: ClassVar = {"default": {}, "quick": {"paths": 200, "levels": 4}}
    papers: ClassVar = (
        PublishedRows(
            "Jelincic, Foster, Kidger 2024 (arXiv:2405.06464, the summary of their notebook), "
            "50,000 paths, each scheme against itself with finer steps",
            {
                "hosts-constant": {"order_medium": 0.7824, "order_high": 0.3944},
                "hosts-adaptive": {"order_medium": 1.8225, "order_high": 0.8092},
                "die-constant": {"order_medium": 0.8618, "order_high": 0.4642},
                "die-adaptive": {"order_medium": 1.0269, "order_high": 0.8618},
            },
        ),
    )
    legend: ClassVar = {
        "order 1.5, order 2.2": "at these volatilities, slope of the root mean square error at "
        "time 4 over the paths, against the mean number of accepted steps, both in logarithms",
        "error 1.5, error 2.2": "that error with 128 steps in the mean at 1.5 and with 1,024 at "
        "2.2, interpolated, where there are fewer and more; exact is the splitting with adaptive "
        "steps at a tolerance eight times finer than the finest, along the same paths",
    }
    heading = "Error against steps"
    caption = "A line for every row and seed; left at a volatility of 1.5, right at 2.2."

    def compute(self, settings: CirSettings, row: str, seed: int) -> Outcome:
        """Solve at all levels, for both volatilities."""
        start, (scheme, adaptive, _) = time.perf_counter(), ROWS[row]
        values, curves = {}, {}
        with double(settings.backend):
            for name, sigma in SIGMAS.items():
                exact, path = reference(settings, seed, sigma), Path(settings, seed)
                steps, errors = [], []
                for level in range(settings.coarsest, settings.coarsest + settings.levels):
                    y, count = solve(scheme, sigma, path, 2.0**-level, adaptive)
                    steps.append(count)
                    errors.append(float(np.sqrt(np.mean((y - exact) ** 2))))
                logs = np.log(np.array([steps, errors])[:, np.argsort(steps)])
                values[f"order_{name}"] = -float(np.polyfit(*logs, 1)[0])
                at = np.interp(math.log(AT_STEPS[name]), *logs, left=math.nan, right=math.nan)
                values[f"error_{name}"] = float(np.exp(at))
                curves[f"steps_{name}"], curves[f"errors_{name}"] = steps, errors
        return Outcome(row, seed, values, time.perf_counter() - start, curves)

    def figure(self, outcomes: Sequence[Outcome]) -> Figure:
        """Plot errors against steps."""
        figure = Figure(figsize=(10, 4), layout="constrained")
        panels = figure.subplots(1, 2)
        looks = styles(by_row(outcomes))
        for panel, (name, sigma) in zip(panels, SIGMAS.items(), strict=True):
            for row, group in by_row(outcomes).items():
                for number, outcome in enumerate(group):
                    panel.plot(
                        outcome.curves[f"steps_{name}"], outcome.curves[f"errors_{name}"],
                        marker=".", label=None if number else row, **looks[row],
                    )  # fmt: skip
            panel.set(xscale="log", yscale="log", xlabel="steps, mean over the paths",
                      ylabel="error at time 4", title=f"sigma {sigma}")  # fmt: skip
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].legend(frameon=False)
        return figure
