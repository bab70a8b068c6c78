"""Running a suite: every part, framework by framework, and what came of its targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from ndereg.bench import cold
from ndereg.bench.job import Job
from ndereg.bench.measure import Row, compare
from ndereg.bench.suites import FRAMEWORKS, SUITES, Part, Target
from ndereg.precision import x64

COLD_LIMIT = 300.0
"""Seconds after which a process of its own is given up."""


@dataclass(frozen=True)
class Outcome:
    """What was measured of a target; ``figure`` is None where it could not be."""

    target: Target
    figure: float | None

    @property
    def met(self) -> bool | None:
        """Whether the figure is within the target."""
        return None if self.figure is None else self.figure <= self.target.most


@dataclass(frozen=True)
class PartResult:
    """Rows and targets of a part."""

    title: str
    tolerance: float
    gradient: bool
    rows: list[Row]
    outcomes: list[Outcome]
    queries: int = 0

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        rows = [{**asdict(row), "limit": row.limit, "overhead": row.overhead} for row in self.rows]
        outcomes = [{**asdict(o.target), "figure": o.figure, "met": o.met} for o in self.outcomes]
        return {
            "title": self.title, "tolerance": self.tolerance, "gradient": self.gradient,
            "rows": rows, "targets": outcomes, "queries": self.queries,
        }  # fmt: skip


def run_suite(
    name: str,
    frameworks: Sequence[str] = FRAMEWORKS,
    *,
    in_new_process: bool = True,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda text: None,
) -> list[PartResult]:
    """Run a suite.

    Parameters
    ----------
    name : str
        One of ``SUITES``.
    frameworks : sequence of str
        Those to compare on.
    in_new_process : bool
        Whether to start every solver once more in a process of its own, for the times of import
        and first call and the memory.
    device : str
        ``"cpu"`` or ``"cuda"``. The targets are those of a CPU.
    progress : callable
        Told what is measured.
    """
    results = []
    for index, part in enumerate(SUITES[name]()):
        if device != "cpu":
            part = replace(part, job=replace(part.job, device=device), targets=())
        rows: list[Row] = []
        for framework in frameworks:
            solvers = part.of(framework)
            if not solvers:
                continue
            progress(f"{name}: {part.title} on {framework}")
            with _setting(framework, part.job):
                found = compare(part.job, solvers, part.truth(part.job.problem), part.budget)
            if in_new_process:
                for row in found:
                    if not row.refused:
                        progress(f"{name}: {part.title}, {row.solver} in a new process")
                        _measure_cold(name, index, row)
            rows += found
        outcomes = [Outcome(target, figure(target, rows)) for target in part.targets]
        outcomes = [o for o in outcomes if o.target.framework in frameworks]
        results.append(
            PartResult(
                part.title, part.job.tolerance, part.job.gradient, rows, outcomes, part.queries
            )
        )
    return results


def work_precision(
    part: Part,
    tolerances: Sequence[float],
    frameworks: Sequence[str] = FRAMEWORKS,
    progress: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Error and time of every solver of a part, over tolerances."""
    points = []
    truth = part.truth(part.job.problem)
    for tolerance in tolerances:
        # what is plotted is the error itself, so no result is too inaccurate to be shown
        job = replace(part.job, tolerance=tolerance, accuracy=math.inf)
        for framework in frameworks:
            if not part.of(framework):
                continue
            progress(f"{part.title} at {tolerance:g} on {framework}")
            with _setting(framework, job):
                rows = compare(job, part.of(framework), truth, part.budget / 5)
            points += [
                {"framework": framework, "solver": row.solver, "ours": row.ours,
                 "tolerance": tolerance, "error": row.error, "seconds": row.seconds.median}
                for row in rows if row.seconds is not None
            ]  # fmt: skip
    return points


@contextmanager
def _setting(framework: str, job: Job) -> Iterator[None]:
    """The precision and the device of a job, for JAX, which has them from its surroundings.

    All solvers multiply matrices alike: in full precision, which a GPU does not by default.
    """
    if framework != "jax":
        yield
        return
    import jax

    device = jax.devices(job.device)[0]
    with (
        x64(job.dtype == "float64"),
        jax.default_matmul_precision("highest"),
        jax.default_device(device),
    ):
        yield


def _measure_cold(suite: str, part: int, row: Row) -> None:
    try:
        found = cold.measure(suite, part, row.framework, row.solver, COLD_LIMIT)
    except (RuntimeError, TimeoutError, OSError) as error:
        row.note = str(error)[:120]
        return
    row.import_seconds, row.first_seconds = found["import"], found["first"]
    row.memory_bytes = found["memory"]


def figure(target: Target, rows: Sequence[Row]) -> float | None:
    """The measured figure of a target."""
    own = _measured(target, _find(rows, target.framework, target.solver))
    if not target.peer or own is None:
        return own
    framework = target.peer_framework or target.framework
    peer = _measured(target, _find(rows, framework, target.peer))
    return None if not peer else own / peer


def _find(rows: Sequence[Row], framework: str, solver: str) -> Row | None:
    for row in rows:
        if row.framework == framework and row.solver == solver:
            return None if row.refused else row
    return None


def _measured(target: Target, row: Row | None) -> float | None:
    if row is None:
        return None
    return {
        "seconds": row.seconds.median if row.seconds else None,
        "overhead": row.overhead,
        "cold": row.first_seconds,
        "memory": row.memory_bytes,
    }[target.measure]


__all__ = ["Outcome", "Part", "PartResult", "figure", "run_suite"]
