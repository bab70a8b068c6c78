"""Neal's funnel, sampled by Langevin dynamics with adaptive steps, and by NUTS beside it.

The funnel has an entry ``y ~ N(0, 9)`` and nine entries ``N(0, exp(y))``. It narrows by a factor of
e^3 within two standard deviations of its neck, which one step size does not serve.

The published experiment (Jelincic, Foster and Kidger 2024) differentiates a potential in which the
deviation of the nine entries is held fixed, and which has no logarithm of it. Then ``y`` feels
``y / 9`` alone: it is an Ornstein-Uhlenbeck process, whatever the others do, and reaches the neck
and leaves it without a barrier. That force has no potential. ``force="held"`` is it, and
``force="gradient"`` the gradient of the funnel, which NUTS always has.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from matplotlib.figure import Figure

from ndereg import ops
from ndereg.brownian import BrownianTree
from ndereg.experiments.figures import styles
from ndereg.experiments.sampling import figures_of_funnel
from ndereg.experiments.study import (
    Column,
    Outcome,
    PublishedRows,
    Study,
    StudySettings,
    by_row,
    double,
    face,
)
from ndereg.langevin import UnderdampedLangevin
from ndereg.spec.controller import ConstantStep, PIDController

ENTRIES, DEVIATION = 10, 3.0
RESOLUTION = 2.0**-12
"""Of the Brownian path: cells of it."""

Force = Literal["gradient", "held"]


def potential(x: Any) -> Any:
    """Return minus the logarithm of the funnel's density, up to a constant, (...) of (..., 10)."""
    y, rest = x[..., 0], x[..., 1:]
    squares = ops.sum(rest * rest, axis=-1)
    return y * y / (2 * DEVIATION**2) + 0.5 * (ENTRIES - 1) * y + 0.5 * ops.exp(-y) * squares


def gradient(t: Any, x: Any, args: Any) -> Any:
    """Return the gradient of :func:`potential`; ``y`` is the first entry of ``x``."""
    y, rest = x[..., :1], x[..., 1:]
    inverse = ops.exp(-y)
    squares = ops.sum(rest * rest, axis=-1, keepdims=True)
    along = y / DEVIATION**2 + 0.5 * (ENTRIES - 1) - 0.5 * inverse * squares
    return ops.concat([along, inverse * rest], axis=-1)


def held(t: Any, x: Any, args: Any) -> Any:
    """Return the force of the published experiment, which is no gradient."""
    y, rest = x[..., :1], x[..., 1:]
    return ops.concat([y / DEVIATION**2, ops.exp(-y) * rest], axis=-1)


@dataclass(frozen=True)
class LangevinSettings(StudySettings):
    """Settings of the study; ``paths`` are chains."""

    samples: int = 128
    """Of a chain."""
    spacing: float = 2.0
    """Time between two of them."""
    warmup: float = 32.0
    """Time before the first."""
    force: Force = "gradient"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 4:
            raise ValueError(f"expected samples >= 4, received {self.samples}; try 128")
        if not (0 < self.spacing < math.inf and 0 <= self.warmup < math.inf):
            raise ValueError(
                "expected finite spacing > 0 and warmup >= 0, received "
                f"spacing={self.spacing}, warmup={self.warmup}; try 2 and 32"
            )
        if self.force not in ("gradient", "held"):
            raise ValueError(f"expected force gradient or held, received {self.force!r}")


@dataclass(frozen=True)
class Sampler:
    """A method with the tolerance or the step that its row has."""

    method: str
    size: float
    adaptive: bool = True

    def options(self) -> dict[str, Any]:
        """Return the keywords of a solve."""
        if self.adaptive:
            control = PIDController(pcoeff=0.1, icoeff=0.4)
            return {"controller": control, "rtol": 0.0, "atol": self.size}
        return {"controller": ConstantStep(self.size)}


SAMPLERS = {
    "quicsort": Sampler("quicsort", 2.0**-6),
    "quicsort-embedded": Sampler("quicsort_embedded", 0.05),
    "quicsort-constant": Sampler("quicsort", 2.0**-8, adaptive=False),
    "align": Sampler("align", 0.1),
    "ubu": Sampler("ubu", 0.3),
}
WARMUPS = {"nuts": None, "nuts-brief": 16}
"""Samples of NUTS that are thrown away; as many as are kept, or as published."""


class Langevin(Study):
    """Gradients of the potential that a sample of Neal's funnel takes."""

    name = "langevin"
    settings_type = LangevinSettings
    rows: ClassVar = {
        "quicsort": "QUICSORT, adaptive by step halving at an absolute tolerance of 2^-6, as "
        "published",
        "quicsort-embedded": "QUICSORT, adaptive by its embedded estimate at 0.05",
        "quicsort-constant": "QUICSORT with steps of 2^-8, as published",
        "align": "ALIGN, adaptive at 0.1",
        "ubu": "UBU, adaptive by step halving at 0.3",
        "nuts": "NUTS of numpyro, warmed up by as many samples as are kept",
        "nuts-brief": "NUTS of numpyro, warmed up by 16 samples from a step of 2, as published",
    }
    columns: ClassVar = (
        Column("gradients", "gradients"),
        Column("effective_gradients", "per effective", 2),
        Column("effective", "ESS share"),
        Column("mean_error", "mean error"),
        Column("covariance_error", "cov. error"),
        Column("failed", "failed"),
    )
    presets: ClassVar = {
        "default": {},
        "quick": {"paths": 16, "samples": 32, "rows": ("quicsort", "quicsort-embedded", "align")},
        "single-seed": {"force": "held"},
    }
    papers: ClassVar = (
        PublishedRows(
            "Jelincic, Foster, Kidger 2024 (arXiv:2405.06464), whose force holds the deviation "
            "fixed, whose count has one of the three steps of halving, and whose effective samples "
            "are a weighted mean over the entries",
            {
                "quicsort": {
                    "gradients": 18.65, "effective_gradients": 152.1, "effective": 0.123,
                    "mean_error": 0.041, "covariance_error": 0.031,
                },
                "quicsort-constant": {
                    "gradients": 1089.97, "effective_gradients": 9533.7, "effective": 0.114,
                    "mean_error": 0.032, "covariance_error": 0.026,
                },
                "nuts-brief": {
                    "gradients": 733.66, "effective_gradients": 48957.6, "effective": 0.015,
                    "mean_error": 0.398, "covariance_error": 0.139,
                },
            },
        ),
    )  # fmt: skip
    legend: ClassVar = {
        "gradients": "of the potential, a sample, those of the warm-up included",
        "per effective": "the same, an effective sample of the entry that has fewest",
        "ESS share": "effective samples of that entry, a sample",
        "mean error, cov. error": "absolute errors of mean and covariance, means over the entries, "
        "in which the first weighs as much as the others together; for the covariance the entries "
        "are divided by their deviations",
        "failed": "chains whose step size became smaller than the path resolves; their gradients "
        "count, their samples do not",
    }
    heading = "The funnel"
    caption = "First against second entry of every row's samples, first seed, at most 2,000."

    def absent(self, row: str) -> str | None:
        """Return why a row is left out."""
        if row in WARMUPS and importlib.util.find_spec("numpyro") is None:
            return f"{row} is left out: numpyro is not installed; try pip install numpyro"
        return None

    def compute(self, settings: LangevinSettings, row: str, seed: int) -> Outcome:
        """Sample."""
        start = time.perf_counter()
        with double("jax" if row in WARMUPS else settings.backend):
            if row in WARMUPS:
                samples, gradients, failed = _nuts(settings, WARMUPS[row], seed)
            else:
                samples, gradients, failed = langevin(settings, SAMPLERS[row], seed)
        taken = gradients / (settings.paths * settings.samples)
        values = {"failed": float(failed), "gradients": taken}
        if len(samples) > 1:
            values |= figures_of_funnel(samples, gradients, DEVIATION)
        shown = samples[:, :, :2].reshape(-1, 2)
        shown = shown[:: max(1, len(shown) // 2000)]
        curves = {"y": shown[:, 0].round(4).tolist(), "x": shown[:, 1].round(4).tolist()}
        values = {c.name: values.get(c.name, float("nan")) for c in self.columns}
        return Outcome(row, seed, values, time.perf_counter() - start, curves)

    def figure(self, outcomes: Sequence[Outcome]) -> Figure:
        """Plot a panel for every row."""
        groups = by_row(outcomes)
        figure = Figure(figsize=(3.0 * len(groups), 3.4), layout="constrained")
        panels = figure.subplots(1, len(groups), squeeze=False, sharex=True, sharey=True)[0]
        looks = styles(groups)
        for panel, (row, group) in zip(panels, groups.items(), strict=True):
            first = min(group, key=lambda outcome: outcome.seed)
            panel.scatter(first.curves["y"], first.curves["x"], s=3, color=looks[row]["color"])
            panel.set(title=row, xlabel="first entry", xlim=(-12, 12), ylim=(-20, 20))
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("second entry")
        return figure


def langevin(
    settings: LangevinSettings, sampler: Sampler, seed: int
) -> tuple[np.ndarray, float, int]:
    """Return samples ``(chains, samples, entries)``, gradients taken, and chains that failed."""
    chains, backend = settings.paths, face(settings.backend)
    force: Callable[..., Any] = {"gradient": gradient, "held": held}[settings.force]
    dynamics = UnderdampedLangevin(force, gamma=1.0, u=1.0)
    end = settings.warmup + settings.spacing * settings.samples
    path = BrownianTree(seed, 0.0, end, (chains, ENTRIES), RESOLUTION, areas="WHK")
    times = settings.warmup + settings.spacing * np.arange(1, settings.samples + 1)
    sol = backend.solve(
        dynamics, (0.0, end), _placed(settings.backend, _start(chains, seed)),
        method=sampler.method, key=path, batch="independent", t_eval=times, throw=False,
        max_steps=10_000_000, **sampler.options(),
    )  # fmt: skip
    positions = np.asarray(sol.ys[0])
    kept = np.asarray(sol.status) == 0
    kept &= np.isfinite(positions).all(axis=(1, 2))
    return positions[kept], float(np.sum(np.asarray(sol.stats.nfev))), int(np.sum(~kept))


def _start(chains: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``y = 0``, and normal numbers for the other entries and the velocities."""
    x, v = np.random.default_rng(seed).normal(size=(2, chains, ENTRIES))
    x[:, 0] = 0.0
    return x, v


def _placed(backend: str, pair: tuple[np.ndarray, np.ndarray]) -> Any:
    if backend == "numpy":
        return pair
    if backend == "torch":
        import torch

        return tuple(map(torch.as_tensor, pair))
    import jax.numpy as jnp

    return tuple(map(jnp.asarray, pair))


def _nuts(
    settings: LangevinSettings, warmup: int | None, seed: int
) -> tuple[np.ndarray, float, int]:
    """Return what :func:`langevin` does, of NUTS; it always has the gradient."""
    import jax
    import jax.numpy as jnp
    from numpyro.infer import MCMC, NUTS

    kernel = NUTS(potential_fn=potential, **({} if warmup is None else {"step_size": 2.0}))
    sampler = MCMC(
        kernel, num_warmup=warmup or settings.samples, num_samples=settings.samples,
        num_chains=settings.paths, chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    start, _ = _start(settings.paths, seed)
    keys, taken = jax.random.split(jax.random.key(seed)), 0.0
    sampler.warmup(keys[0], init_params=jnp.asarray(start), extra_fields=("num_steps",),
                   collect_warmup=True)  # fmt: skip
    taken += float(np.sum(np.asarray(sampler.get_extra_fields()["num_steps"], float)))
    sampler.run(keys[1], extra_fields=("num_steps",))
    taken += float(np.sum(np.asarray(sampler.get_extra_fields()["num_steps"], float)))
    return np.asarray(sampler.get_samples(group_by_chain=True)), taken, 0
