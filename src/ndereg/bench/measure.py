"""Timing: side by side in one process, interleaved, warmed up, medians with their spread."""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndereg.bench.job import Answer, Job, Prepared, Solver, Unavailable
from ndereg.bench.judges import Law, Strong

EVALUATIONS_AGREE = 0.2
"""Relative difference of evaluation counts up to which equal tableaux did the same work."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quartiles of repeated ones."""

    median: float
    low: float
    high: float
    repeats: int


@dataclass
class Row:
    """One solver on one job.

    Attributes
    ----------
    solver, framework : str
    ours : bool
    seconds : Timing or None
    evaluations, pullbacks : float or None
        Of a sample.
    field_seconds, pullback_seconds : float or None
        Of one bare evaluation, and of one evaluation and pullback.
    error : float or None
        Greatest deviation from the reference solution, relative to its size.
    refused : str
        Why the row is not comparable; empty if it is.
    import_seconds, first_seconds : float or None
        Import with preparation, and the first call, in a process of its own.
    memory_bytes : float or None
        Greatest memory of a later call beyond what the process held before it.
    syncs : int or None
        Times that a call waits for a CUDA device; PyTorch tells.
    note : str
    """

    solver: str
    framework: str
    tableau: str
    ours: bool
    seconds: Timing | None = None
    evaluations: float | None = None
    pullbacks: float | None = None
    steps: float | None = None
    field_seconds: float | None = None
    pullback_seconds: float | None = None
    error: float | None = None
    refused: str = ""
    import_seconds: float | None = None
    first_seconds: float | None = None
    memory_bytes: float | None = None
    syncs: int | None = None
    note: str = ""

    @property
    def limit(self) -> float | None:
        """Seconds that the evaluations and pullbacks alone take."""
        if self.evaluations is None or self.field_seconds is None:
            return None
        seconds = self.evaluations * self.field_seconds
        if self.pullbacks:
            if self.pullback_seconds is None:
                return None
            seconds += self.pullbacks * self.pullback_seconds
        return seconds

    @property
    def overhead(self) -> float | None:
        """Wall time over :attr:`limit`."""
        limit = self.limit
        return None if limit is None or self.seconds is None else self.seconds.median / limit


SHORT_S = 0.02
"""A call that takes less is made twice a turn and timed once: it depends on what the processor's
caches hold, which is what the solver before it needed (some 100 µs for the Python of a solve)."""


def timed(calls: Sequence[Callable[[], Any]], budget: float, most: int = 101) -> list[Timing]:
    """Time several calls in turns, so that a disturbance of the machine meets all of them.

    Parameters
    ----------
    calls : sequence of callables
        Warmed up already.
    budget : float
        Seconds for all of them together. Each is called at least five times, or twice where that
        takes ten times as long.
    most : int
        Timed calls of each at most.
    """
    taken: list[list[float]] = [[] for _ in calls]
    started, rounds = time.perf_counter(), 0
    gc.collect()
    gc.disable()
    try:
        while rounds < 2 or (rounds < most and _goes_on(rounds, started, budget)):
            for call, seconds in zip(calls, taken, strict=True):
                if seconds and seconds[-1] < SHORT_S:
                    call()
                begun = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - begun)
            rounds += 1
    finally:
        gc.enable()
    return [_timing(seconds) for seconds in taken]


def _goes_on(rounds: int, started: float, budget: float) -> bool:
    passed = time.perf_counter() - started
    return passed < budget or (rounds < 5 and passed < 10 * budget)


def _timing(seconds: list[float]) -> Timing:
    low, median, high = statistics.quantiles(seconds, n=4)
    return Timing(median, low, high, len(seconds))


def compare(job: Job, solvers: Sequence[Solver], truth: Any, budget: float) -> list[Row]:
    """Rows of all solvers on one job; those that do not do the same are not timed.

    Parameters
    ----------
    job : Job
    solvers : sequence of Solver
    truth : ndarray, Law or Strong
        Reference solution at the end of the span, or what judges a random one.
    budget : float
        Seconds for the timed calls.
    """
    rows = [Row(s.name, s.framework, s.tableau, s.ours) for s in solvers]
    ready: list[tuple[Row, Prepared]] = []
    for row, solver in zip(rows, solvers, strict=True):
        try:
            prepared = solver.prepare(job)
            answer = prepared.read(prepared.call())
        except (Unavailable, ImportError) as error:
            row.refused = str(error)
            continue
        except Exception as error:  # a peer may fail in ways of its own; the others go on
            row.refused = f"{type(error).__name__}: {error}".splitlines()[0][:120]
            continue
        _fill(row, answer, truth)
        ready.append((row, prepared))
    _refuse_different(job, rows, truth)
    kept = [(row, prepared) for row, prepared in ready if not row.refused]
    calls = [prepared.call for _, prepared in kept]
    for row, prepared in kept:
        if row.framework == "torch" and job.device != "cpu":
            row.syncs = _syncs(prepared.call)
    for (row, _), timing in zip(kept, timed(calls, budget), strict=True):
        row.seconds = timing
    for row, prepared in kept:
        row.field_seconds = _bare(prepared.bare, prepared.repeats, budget)
        if row.pullbacks:
            row.pullback_seconds = _bare(prepared.bare_pullback, prepared.repeats, budget)
    return rows


def _syncs(call: Callable[[], Any]) -> int:
    """Times that the host waits for the device, but for the last one, in which a call ends."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def _bare(call: Callable[[], Any] | None, repeats: int, budget: float) -> float | None:
    if call is None:
        return None
    call()
    return timed([call], budget / 4, most=21)[0].median / repeats


def _fill(row: Row, answer: Answer, truth: Any) -> None:
    row.evaluations, row.pullbacks = answer.work.evaluations, answer.work.pullbacks
    row.steps = answer.steps
    if isinstance(truth, (Law, Strong)):
        row.error = truth.error(answer)
        return
    size = float(np.max(np.abs(truth)))
    y1 = np.asarray(answer.y1, truth.dtype).reshape(truth.shape)
    row.error = float(np.max(np.abs(y1 - truth))) / size


def _refuse_different(job: Job, rows: Sequence[Row], truth: Any) -> None:
    """Rows that are less accurate than asked for, or did other work with the same tableau."""
    rounding = 50 * float(np.finfo(job.dtype).eps)
    allowed = max(job.accuracy * job.tolerance, rounding)
    if isinstance(truth, Law):
        allowed = truth.allowed
    reference = {row.tableau: row for row in reversed(rows) if row.ours and row.steps is not None}
    for row in rows:
        if row.refused or row.error is None:
            continue
        ours = reference.get(row.tableau)
        if not row.error <= allowed:
            row.refused = f"error {row.error:.1e} is more than {allowed:.1e}"
        elif ours is not None and job.dt is None:
            row.refused = _different_work(row, ours)


def _different_work(row: Row, ours: Row) -> str:
    """Steps where they are told: what runs in lockstep evaluates more than it steps."""
    for what in ("steps", "evaluations"):
        theirs, expected = getattr(row, what), getattr(ours, what)
        if theirs and expected:
            if abs(theirs / expected - 1.0) <= EVALUATIONS_AGREE:
                return ""
            return f"{theirs:.0f} {what} where ours takes {expected:.0f} with the same tableau"
    return ""
