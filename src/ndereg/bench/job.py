"""What is timed, and what a solver makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ndereg.bench.problems import Problem


@dataclass(frozen=True)
class Job:
    """One task that several solvers are given alike.

    Attributes
    ----------
    problem : Problem
    tolerance : float
        Relative and absolute; of constant steps only what the penalty is scaled by.
    gradient : bool
        Forward and the gradient of the sum of squares of ``y(t1)`` by ``y0`` and args.
    independent : bool
        Steps of their own for the samples of ``problem``.
    dtype : str
    dt : float or None
        Size of constant steps; None adapts them.
    accuracy : float
        Greatest deviation from the reference solution, as a multiple of the tolerance times the
        size of the solution, up to which a result is comparable. Global errors exceed the
        tolerance, by how much depends on the problem.
    device : str
        ``"cpu"`` or ``"cuda"``, of PyTorch and JAX.
    path : {"tree", "drawn"}
        Of a stochastic equation: a Brownian path that can be asked again, or increments drawn step
        by step.
    """

    problem: Problem
    tolerance: float
    gradient: bool = False
    independent: bool = False
    dtype: str = "float64"
    dt: float | None = None
    accuracy: float = 1e3
    device: str = "cpu"
    path: str = "tree"


@dataclass(frozen=True)
class Work:
    """What one call did: evaluations of the field, and pullbacks with their recomputation.

    A pullback counts the evaluation that linearizes the field as well; what a solver evaluates
    besides is in ``evaluations``. None where the solver does not say.
    """

    evaluations: float | None
    pullbacks: float = 0


@dataclass(frozen=True)
class Answer:
    """Result of one call, on NumPy arrays; ``driving`` is the Brownian path at the end, if told."""

    y1: Any
    work: Work
    steps: float | None = None
    driving: Any = None


@dataclass(frozen=True)
class Prepared:
    """A solver ready to be timed on a job.

    Attributes
    ----------
    call : callable
        One solve, returned when it is finished.
    read : callable
        The result of ``call`` as :class:`Answer`.
    bare : callable or None
        One evaluation of the field in the form in which the solver calls it, compiled alike.
    bare_pullback : callable or None
        One evaluation and one vector-Jacobian product.
    repeats : int
        ``bare`` and ``bare_pullback`` do so many evaluations a call.
    """

    call: Callable[[], Any]
    read: Callable[[Any], Answer]
    bare: Callable[[], Any] | None = None
    bare_pullback: Callable[[], Any] | None = None
    repeats: int = 1


class Unavailable(Exception):
    """The solver cannot do the job; the message says why."""


@dataclass(frozen=True)
class Solver:
    """A solver by name.

    Attributes
    ----------
    name : str
        Library and method as the table shows them.
    framework : str
        ``"numpy"``, ``"jax"`` or ``"torch"``.
    tableau : str
        Name of the tableau: evaluation counts of equal ones must agree.
    prepare : callable
        ``prepare(job) -> Prepared``; raises :class:`Unavailable` or ``ImportError``.
    ours : bool
    """

    name: str
    framework: str
    tableau: str
    prepare: Callable[[Job], Prepared] = field(repr=False)
    ours: bool = False
