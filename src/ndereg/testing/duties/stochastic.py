"""Duties of a backend that solves stochastic equations; one that does not is asked for none."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndereg import ops
from ndereg.backends.base import StochasticBackend, with_paths
from ndereg.backends.brownian import Entries
from ndereg.backends.reference.backend import ReferenceBackend
from ndereg.langevin import UnderdampedLangevin
from ndereg.plan.brownian import Areas, grid
from ndereg.sde import SDE
from ndereg.spec.controller import ConstantStep
from ndereg.spec.regularizer import ErrorEstimate
from ndereg.testing.duties.duty import NotServed, agree, duty, expect
from ndereg.testing.frameworks import Bench

PATH = 5
"""The key of all paths here."""
SPAN = (0.1, 0.6)
Y0 = np.array([[0.4, -0.7], [0.9, 0.2], [-0.3, 0.8]])
ARGS = np.array([0.7, 0.4])
COARSE: dict[str, Any] = {"rtol": 3e-2, "atol": 3e-2, "key": PATH, "replays": 2}
"""A rough path asks for small steps."""


def drift(t: Any, y: Any, args: Any) -> Any:
    """A bounded drift."""
    return args[0] * ops.sin(y) - 0.3 * y * ops.cos(t)


def entrywise(t: Any, y: Any, args: Any) -> Any:
    """A diffusion whose every entry has noise of its own, or all of them the same."""
    return args[1] * (0.5 + 0.2 * ops.sin(y)) + 0.1 * t


def by_time(t: Any, y: Any, args: Any) -> Any:
    """A diffusion that depends on the time alone."""
    return args[1] * (0.5 + 0.2 * ops.sin(t)) + 0.0 * y


def matrix(t: Any, y: Any, args: Any) -> Any:
    """Three channels for every entry."""
    columns = [args[1] * ops.sin(y), 0.3 * ops.cos(y) + 0.1 * t, 0.02 * y * y]
    return ops.stack(columns, axis=-1)


def served(bench: Bench) -> StochasticBackend:
    """Return a backend that has Brownian paths.

    Raises
    ------
    NotServed
        If it has none.
    """
    try:
        return with_paths(bench.backend)
    except ValueError as error:
        raise NotServed(str(error)) from None


@duty("Brownian paths")
def _paths(bench: Bench) -> None:
    """Increments and areas are those of the key, also of short intervals and backwards."""
    backend, reference = served(bench), ReferenceBackend()
    cells = grid(0.0, 1.0, 2.0**-12)
    like = bench.put(np.zeros(1))
    ends = [(0.0, 1.0), (0.25, 0.3), (0.3, 0.25), (0.7, 0.7 + 2.0**-12), (0.5, 0.5)]
    areas: tuple[Areas, ...] = ("W", "WH", "WHK")
    for names in areas:
        paths = [b.brownian(names, (3, PATH), cells, "float64", like) for b in (backend, reference)]
        for s, t in ends:
            found, expected = (path.increment(s, t, Entries(2, 3)) for path in paths)
            for name, one, other in zip("WHK", found, expected, strict=True):
                if name in names:
                    expect(f"{name} over [{s}, {t}]", bench.get(one), other, 1e-12)
        found, expected = (path.direct(7, 0.125, Entries(2, 3)) for path in paths)
        expect("W of step 7", bench.get(found[0]), expected[0], 1e-12)


@duty("diagonal noise")
def _diagonal(bench: Bench) -> None:
    """Adaptive steps along one path, rejections among them, with two diffusions a step."""
    served(bench)
    agree(bench, SDE(drift, entrywise), SPAN, Y0, ARGS, method="sosri", **COARSE)


@duty("scalar noise")
def _scalar(bench: Bench) -> None:
    """One number for all entries: constant steps, their noise drawn by number."""
    served(bench)
    agree(bench, SDE(drift, entrywise, "scalar"), SPAN, Y0, ARGS, method="milstein",
          controller=ConstantStep(0.09), **COARSE)  # fmt: skip


@duty("additive noise")
def _additive(bench: Bench) -> None:
    """Sample by sample, with output times inside of steps, and a penalty."""
    served(bench)
    agree(bench, SDE(drift, by_time, "additive"), SPAN, Y0, ARGS, method="sosra",
          batch="independent", t_eval=np.array([0.1, 0.17, 0.6]), regularizer=ErrorEstimate(),
          **COARSE)  # fmt: skip


@duty("general noise")
def _general(bench: Bench) -> None:
    """A matrix for every sample, all of them on the same noise."""
    served(bench)
    agree(bench, SDE(drift, matrix, "general", "stratonovich", shared=True), SPAN, Y0, ARGS,
          method="spark", batch="independent", **COARSE)  # fmt: skip


@duty("reversible pairs")
def _reversible(bench: Bench) -> None:
    """A pair of states whose steps are undone for the gradient."""
    served(bench)
    agree(bench, SDE(drift, entrywise, calculus="stratonovich"), SPAN, Y0, ARGS,
          method="reversible_heun", adjoint="reversible", **COARSE)  # fmt: skip


@duty("Langevin dynamics")
def _langevin(bench: Bench) -> None:
    """Positions and velocities, with steps that are halved for their estimate."""
    served(bench)
    dynamics = UnderdampedLangevin(drift, gamma=1.3, u=0.8)
    agree(bench, dynamics, SPAN, (Y0, Y0[::-1].copy()), ARGS, method="should", **COARSE)


@duty("noise backwards in time")
def _backwards(bench: Bench) -> None:
    """From the end of the span to its start."""
    served(bench)
    agree(bench, SDE(drift, entrywise), SPAN[::-1], Y0, ARGS, method="lamba_em", **COARSE)
