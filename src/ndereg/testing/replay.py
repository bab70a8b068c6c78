"""Mesh replay: single steps of the reference's mesh, taken from its states, on every backend.

A replayed step is a solve over ``(t_j, t_j + h_j)`` with the first step size ``h_j`` and tolerances
so loose that the step is accepted for certain; nothing is asked of a backend but ``solve_vjp``.
Span, step size and tolerances are run-time values, so the kernels are those of the run itself.
A step of a stochastic equation is taken along the path of the whole span.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndereg.brownian import BrownianTree
from ndereg.spec.controller import ConstantStep
from ndereg.structure import flatten
from ndereg.testing.deviation import LIMIT, Observations, Row, compare
from ndereg.testing.frameworks import Bench
from ndereg.testing.trial import Outcome, Trial, by_sample


@dataclass(frozen=True)
class ReplayedStep:
    """One step of the mesh, as changes of the trial."""

    index: int
    changes: dict[str, Any]


def mesh(
    trial: Trial,
    reference: Bench,
    found: Outcome,
    most: int,
    path: BrownianTree | None = None,
) -> list[ReplayedStep]:
    """At most ``most`` accepted steps of the reference's run, spread evenly over it.

    With ``batch="independent"`` they are those of the sample that took most; the others start from
    their states at the same times.
    """
    sample = int(np.argmax(found.accepted.sum(axis=0)))
    rows = np.flatnonzero(found.accepted[:, sample])
    if not (rows.size and most):
        return []
    rows = rows[np.unique(np.linspace(0, rows.size - 1, most).round().astype(int))]
    times, sizes = found.steps["t"][rows, sample], found.steps["h"][rows, sample]
    options = {key: v for key, v in trial.options.items() if key not in ("t_eval", "regularizer")}
    solution = reference.solve(
        trial.field, trial.t_span, trial.y0, trial.args, t_eval=times, throw=False, **options
    )
    leaves, structure = flatten(reference.get(solution.ys))
    steps = []
    for position, (row, t, h) in enumerate(zip(rows, times, sizes, strict=True)):
        states = [leaf[position] if trial.joint else leaf[:, position] for leaf in leaves]
        if all(np.all(np.isfinite(state)) for state in states):
            changes = {
                "t_span": (float(t), _end(trial, float(t + h))),
                "y0": structure.unflatten(states), "t_eval": None, **_forced(trial, abs(float(h))),
            }  # fmt: skip
            if path is not None:
                changes["key"] = path
            steps.append(ReplayedStep(int(row), changes))
    return steps


def _end(trial: Trial, time: float) -> float:
    """End of a step; the last one ends with the span, outside of which there is no path."""
    first, last = sorted(trial.t_span)
    return min(max(time, first), last)


def _forced(trial: Trial, size: float) -> dict[str, Any]:
    if not trial.adaptive:
        return {"controller": ConstantStep(size), "first_step": None}
    return {"first_step": size, **_loosened(trial, 2.0)}


def _loosened(trial: Trial, factor: float) -> dict[str, Any]:
    rtol, atol = trial.options.get("rtol", 1e-6), trial.options.get("atol", 1e-9)
    return {"rtol": factor * rtol, "atol": factor * atol}


def replay(
    trial: Trial,
    reference: Bench,
    rounding: Bench,
    benches: Sequence[Bench],
    found: Outcome,
    *,
    most: int,
    draws: int,
    seed: int,
    limit: float = LIMIT,
    path: BrownianTree | None = None,
) -> tuple[list[Row], int]:
    """Rows of all backends, and the number of steps replayed."""
    expected = Observations()
    rounded = [Observations() for _ in range(draws)]
    actual = {bench.name: Observations() for bench in benches}
    replayed = 0
    for step in mesh(trial, reference, found, most, path):
        bars = _bars(trial, step, seed)
        accepted = _accepted(
            trial, step, lambda changes, b=bars: trial.run(reference, b, **changes)
        )
        if accepted is None:
            continue
        outcome, changes = accepted
        replayed += 1
        _observe(trial, expected, outcome, step.index)
        for observations in rounded:
            _observe(trial, observations, trial.run(rounding, bars, **changes), step.index)
        for bench in benches:
            outcome = trial.run(bench, bars, **changes)
            _observe(trial, actual[bench.name], outcome, step.index)
    rows: list[Row] = []
    for name, observations in actual.items():
        rows += compare(name, "replay", expected, observations, rounded, trial.epsilon, limit)
    return rows, replayed


def _bars(trial: Trial, step: ReplayedStep, seed: int) -> tuple[Any, Any]:
    options = {key: value for key, value in trial.options.items() if key != "t_eval"}
    one = Trial(trial.field, trial.t_span, trial.y0, trial.args, options)
    return one.cotangents(seed + step.index)


def _accepted(
    trial: Trial, step: ReplayedStep, run: Callable[[dict[str, Any]], Outcome]
) -> tuple[Outcome, dict[str, Any]] | None:
    """The step on the reference, with tolerances that accept it for every sample."""
    changes = step.changes
    for _ in range(3):
        outcome = run(changes)
        if outcome.accepted.shape[0] == 1 and np.all(outcome.accepted):
            return outcome, changes
        largest = float(np.max(outcome.steps["error"][0], initial=0.0))
        if not (trial.adaptive and np.isfinite(largest)):
            return None
        factor = changes["rtol"] / trial.options.get("rtol", 1e-6) if changes["rtol"] else 2.0
        changes = {**changes, **_loosened(trial, 4.0 * factor * max(largest, 1.0))}
    return None


def _observe(trial: Trial, observations: Observations, outcome: Outcome, index: int) -> None:
    for quantity, tree in _quantities(trial, outcome):
        observations.add(quantity, tree, index)


def _quantities(trial: Trial, outcome: Outcome) -> Iterator[tuple[str, Any]]:
    yield "attempts", np.asarray(float(outcome.accepted.shape[0]))
    yield "state", outcome.ys
    for name in ("error", "stiffness"):
        values = outcome.steps[name][0]
        if np.any(np.isfinite(values)):
            yield f"{name} estimate", by_sample(values)
    if trial.options.get("regularizer") is not None:
        yield "penalty", by_sample(outcome.penalty)
    if trial.gradients:
        yield "gradient of y0", outcome.d_y0
        yield "gradient of args", outcome.d_args
