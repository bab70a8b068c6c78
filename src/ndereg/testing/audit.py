"""Three ways to a gradient on a problem of your own: their errors, their cost, a recommendation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ndereg.backends.base import Backend
from ndereg.spec.adjoint import Discrete
from ndereg.spec.controller import Controller
from ndereg.spec.spec import Batch
from ndereg.spec.status import SolveError
from ndereg.spec.tableau import Tableau
from ndereg.structure import flatten
from ndereg.testing.frameworks import Bench, numpy_arrays

_TRUTH: dict[str, Any] = {"method": "dopri8", "rtol": 1e-12, "atol": 1e-13, "first_step": None}


@dataclass(frozen=True)
class GradientRow:
    """One way to the gradient.

    Attributes
    ----------
    way : str
        ``"discrete"``, ``"backsolve"`` or ``"finite differences"``.
    error : float
        Error of its derivatives along the directions, relative to theirs; nan if it failed.
    seconds : float
        For a whole gradient, the forward solve included; compiling is not.
    bytes : int
        Of the states kept for the reverse pass.
    note : str
    """

    way: str
    error: float
    seconds: float
    bytes: int
    note: str = ""


@dataclass(frozen=True)
class GradientAudit:
    """Gradients of ``Re <w, y(t1)>`` for random ``w``, found in three ways.

    Attributes
    ----------
    rows : tuple of GradientRow
    recommendation : str
    """

    rows: tuple[GradientRow, ...]
    recommendation: str

    def row(self, way: str) -> GradientRow:
        """Return the row of one way."""
        return next(row for row in self.rows if row.way == way)

    def table(self) -> Any:
        """Return a rich table."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, caption=self.recommendation, caption_justify="left")
        table.add_column("gradient by")
        for title in ("relative error", "time", "states kept"):
            table.add_column(title, justify="right")
        table.add_column("")
        for row in self.rows:
            table.add_row(row.way, f"{row.error:.1e}", f"{row.seconds * 1e3:.3g} ms",
                          f"{row.bytes / 1024:.3g} KiB", row.note)  # fmt: skip
        return table

    def to_json(self) -> str:
        """Return the audit as JSON."""
        rows = [
            {key: None if value != value else value for key, value in asdict(row).items()}
            for row in self.rows
        ]
        return json.dumps({"rows": rows, "recommendation": self.recommendation}, indent=2)


def gradient_audit(
    field: Callable[..., Any],
    t_span: Any,
    y0: Any,
    args: Any = None,
    *,
    backend: str | Backend = "numpy",
    method: str | Tableau = "tsit5",
    rtol: float = 1e-6,
    atol: float = 1e-9,
    controller: Controller | str | None = None,
    first_step: float | None = None,
    max_steps: int = 100_000,
    batch: Batch = "joint",
    checkpoints: int = 64,
    directions: int = 4,
    repeats: int = 3,
    seed: int = 0,
) -> GradientAudit:
    """Compare the discrete adjoint, backsolve and finite differences on a problem.

    The derivatives of ``Re <w, y(t1)>`` along random directions in ``y0`` and ``args`` are compared
    with central differences of fourth order of a solution to 1e-12. Everything is in float64, or
    complex128 where the state is complex.

    Parameters
    ----------
    field, t_span, y0, args, method, rtol, atol, controller, first_step, max_steps, batch
        As for ``solve``.
    backend : str or Backend
        Where times are taken.
    checkpoints : int
        Of the discrete adjoint.
    directions, repeats, seed : int
        Number of directions, of timed runs (the fastest counts), and the seed of both ``w`` and
        the directions.

    Returns
    -------
    GradientAudit

    Examples
    --------
    >>> audit = gradient_audit(
    ...     lambda t, y, args: -args * y, (0.0, 1.0), np.ones(2), np.array(0.5), backend="reference"
    ... )
    >>> audit.row("discrete").error < 1e-5
    True
    """
    options = {
        "method": method, "rtol": rtol, "atol": atol, "controller": controller,
        "first_step": first_step, "max_steps": max_steps, "batch": batch,
    }  # fmt: skip
    problem = _Audited(Bench(backend), field, t_span, _wide(y0), _wide(args), options, seed)
    tangents = [problem.direction(seed + 1 + i) for i in range(directions)]
    truth = [problem.difference(tangent, 1e-3, **_TRUTH) for tangent in tangents]
    solution, _ = problem.solution()
    accepted = int(np.max(np.asarray(solution.stats.naccept)))
    state = sum(leaf.nbytes for leaf in flatten(problem.y0)[0])
    parameters = sum(leaf.nbytes for leaf in flatten(problem.args)[0])
    kept = min(accepted, checkpoints) * state + 16 * accepted
    ways: dict[str, tuple[Any, int]] = {
        "discrete": (Discrete(checkpoints), kept),
        "backsolve": ("backsolve", 2 * state + parameters),
    }
    rows = [
        _adjoint_row(problem, way, adjoint, size, repeats, tangents, truth)
        for way, (adjoint, size) in ways.items()
    ]
    rows.append(_differences_row(problem, repeats, tangents, truth))
    return GradientAudit(tuple(rows), _recommendation(rows, accepted, checkpoints, rtol))


def _adjoint_row(
    problem: _Audited, way: str, adjoint: Any, size: int, repeats: int, tangents: list[Any],
    truth: list[float],
) -> GradientRow:  # fmt: skip
    try:
        found, seconds = problem.timed_gradient(adjoint, repeats)
    except SolveError as error:
        return GradientRow(way, float("nan"), float("nan"), size, str(error).partition(":")[0])
    slopes = [problem.slope(found, tangent) for tangent in tangents]
    return GradientRow(way, _error(slopes, truth), seconds, size)


def _differences_row(
    problem: _Audited, repeats: int, tangents: list[Any], truth: list[float]
) -> GradientRow:
    _, seconds = min((problem.solution() for _ in range(repeats)), key=lambda pair: pair[1])
    numbers = sum(leaf.size for leaf in [*flatten(problem.y0)[0], *flatten(problem.args)[0]])
    slopes = [problem.difference(tangent, 1e-4) for tangent in tangents]
    return GradientRow(
        "finite differences", _error(slopes, truth), 4 * numbers * seconds, 0,
        f"{4 * numbers} solves for {numbers} numbers",
    )  # fmt: skip


class _Audited:
    """The problem, with ``w`` and what is computed of it."""

    def __init__(
        self, bench: Bench, field: Any, t_span: Any, y0: Any, args: Any, options: Any, seed: int
    ) -> None:
        self.bench, self.field, self.t_span = bench, field, t_span
        self.y0, self.args, self.options = y0, args, options
        self.weights = _random(y0, np.random.default_rng(seed))

    def direction(self, seed: int) -> tuple[Any, Any]:
        random = np.random.default_rng(seed)
        return _random(self.y0, random), _random(self.args, random)

    def solution(self, **changes: Any) -> tuple[Any, float]:
        with self.bench.precision():
            begun = time.perf_counter()
            options = {**self.options, **changes}
            found = self.bench.solve(self.field, self.t_span, self.y0, self.args, **options)
            self.bench.get(found.ys)
            return found, time.perf_counter() - begun

    def timed_gradient(self, adjoint: Any, repeats: int) -> tuple[Any, float]:
        found, best = None, float("inf")
        for attempt in range(repeats + 1):  # the first one compiles
            begun = time.perf_counter()
            with self.bench.precision():
                _, *found = self.bench.gradient(
                    self.field, self.t_span, self.y0, self.args, self.weights,
                    adjoint=adjoint, **self.options,
                )  # fmt: skip
            if attempt:
                best = min(best, time.perf_counter() - begun)
        return tuple(found or ()), best

    def slope(self, gradient: tuple[Any, Any], tangent: tuple[Any, Any]) -> float:
        return _product(gradient[0], tangent[0]) + _product(gradient[1], tangent[1])

    def difference(self, tangent: tuple[Any, Any], step: float, **changes: Any) -> float:
        """Central difference of fourth order."""

        def at(distance: float) -> float:
            y0 = _moved(self.y0, tangent[0], distance)
            args = _moved(self.args, tangent[1], distance)
            with self.bench.precision():
                options = {**self.options, **changes}
                found = self.bench.solve(self.field, self.t_span, y0, args, **options)
                return _product(self.weights, self.bench.get(found.ys))

        return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)


def _wide(tree: Any) -> Any:
    leaves, structure = flatten(numpy_arrays(tree))
    wide = {"f": np.float64, "c": np.complex128}
    return structure.unflatten(
        [leaf.astype(wide.get(leaf.dtype.kind, leaf.dtype)) for leaf in leaves]
    )


def _random(tree: Any, random: np.random.Generator) -> Any:
    leaves, structure = flatten(tree)
    found = []
    for leaf in leaves:
        values = random.normal(size=leaf.shape)
        if leaf.dtype.kind == "c":
            values = values + 1j * random.normal(size=leaf.shape)
        found.append(np.asarray(values if leaf.dtype.kind in "fc" else 0 * leaf, leaf.dtype))
    return structure.unflatten(found)


def _moved(tree: Any, tangent: Any, distance: float) -> Any:
    leaves, structure = flatten(tree)
    pairs = zip(leaves, flatten(tangent)[0], strict=True)
    return structure.unflatten([np.asarray(a + distance * b, a.dtype) for a, b in pairs])


def _product(a: Any, b: Any) -> float:
    pairs = zip(flatten(a)[0], flatten(b)[0], strict=True)
    return float(sum(np.real(np.sum(np.conj(x) * y)) for x, y in pairs))


def _error(found: list[float], truth: list[float]) -> float:
    size = float(np.linalg.norm(truth))
    return float(np.linalg.norm(np.subtract(found, truth))) / (size or 1.0)


def _recommendation(rows: list[GradientRow], accepted: int, checkpoints: int, rtol: float) -> str:
    discrete, backsolve, _ = rows
    if not backsolve.error <= max(10 * discrete.error, 10 * rtol):
        why = "fails" if backsolve.error != backsolve.error else (
            f"is off by {backsolve.error:.1e}, since it cannot retrace the state backwards"
        )  # fmt: skip
        text = f"adjoint='discrete': backsolve {why}"
    elif backsolve.bytes < discrete.bytes and discrete.bytes > 2**30:
        text = "adjoint='backsolve': as accurate here, and the states of 'discrete' exceed 1 GiB"
    else:
        text = "adjoint='discrete': the exact gradient of the steps taken, and memory is no concern"
    if accepted > checkpoints:
        text += f"; Discrete(checkpoints={accepted}) would recompute no steps"
    if discrete.error > 1e-2:
        text += f"; the solution itself is coarse, try rtol={rtol / 100:g}"
    return text
