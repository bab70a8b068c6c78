"""Parts of suites: a table each, and what is promised of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndereg.bench import problems
from ndereg.bench.job import Job, Solver
from ndereg.bench.problems import Problem

FRAMEWORKS = ("numpy", "jax", "torch")


def solution_by_scipy(problem: Problem) -> Any:
    """Reference solution at the end of the span: SciPy's DOP853 at the least tolerance."""
    return _solved(problem.name, problem)


_TRUTHS: dict[tuple[str, tuple[float, float], tuple[int, ...]], Any] = {}


def _solved(name: str, problem: Problem) -> Any:
    from scipy.integrate import solve_ivp

    key = (name, problem.t_span, problem.y0.shape)
    if key not in _TRUTHS:
        exact = problems.in_dtype(problem, "float64")
        shape = exact.y0.shape
        small = exact.y0.size < 1000 or not problem.shared
        tolerance = 1e-13 if small else 1e-9

        def flat(t: Any, y: Any) -> Any:
            return np.ravel(exact.field(t, y.reshape(shape), exact.args))

        found = solve_ivp(
            flat, exact.t_span, exact.y0.ravel(), method="DOP853", rtol=max(tolerance, 3e-14),
            atol=tolerance, t_eval=(exact.t_span[1],),
        )  # fmt: skip
        _TRUTHS[key] = found.y[:, -1].reshape(shape)
    return _TRUTHS[key]


@dataclass(frozen=True)
class Target:
    """``measure`` of our solver, against a peer's if there is one, is at most ``most``.

    Attributes
    ----------
    framework : str
    solver : str
        Ours, by name.
    most : float
    peer : str
        Solver that the figure is divided by; empty for an overhead.
    measure : {"seconds", "overhead", "cold", "memory"}
    peer_framework : str
        Where the peer is, if elsewhere.
    """

    framework: str
    solver: str
    most: float
    peer: str = ""
    measure: str = "seconds"
    peer_framework: str = ""


@dataclass(frozen=True)
class Part:
    """One table: a job, the solvers that are given it, and the targets.

    Attributes
    ----------
    budget : float
        Seconds of timed calls for each framework.
    truth : callable
        What answers are judged by, of the problem.
    queries : int
        Of a path, in a call, where that is the job: their rate is shown.
    """

    title: str
    job: Job
    solvers: tuple[Solver, ...]
    targets: tuple[Target, ...] = ()
    budget: float = 5.0
    truth: Callable[[Problem], Any] = solution_by_scipy
    queries: int = 0

    def of(self, framework: str) -> tuple[Solver, ...]:
        """The solvers of one framework."""
        return tuple(solver for solver in self.solvers if solver.framework == framework)
