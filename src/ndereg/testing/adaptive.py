"""Whole runs compared: the same decisions, step sizes, solutions, penalties and gradients.

One unit in the last place may turn a step with ``E = 1`` from accepted to rejected. Two runs are
compared attempt by attempt up to the first decision that differs. It is excused where ``E`` is
within rounding of 1; then the solutions are compared to the tolerance of the solve instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndereg.structure import flatten
from ndereg.testing.deviation import LIMIT, WINDOW, Observations, Row, compare
from ndereg.testing.trial import Outcome, Trial, by_sample

TOLERANCE_LIMIT = 1000.0
"""Most units of the tolerance by which solutions on different steps differ."""

Table = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Prefix:
    """How many attempts of each sample two runs decided alike, and whether they parted then."""

    lengths: Table
    parted: Table


def common_prefix(a: Outcome, b: Outcome) -> Prefix:
    """Compare the decisions of two runs, sample by sample."""
    rows = min(a.accepted.shape[0], b.accepted.shape[0])
    differ = a.accepted[:rows] != b.accepted[:rows]
    # one may be done a step before the other: their sizes are compared up to there, and the rest
    # follows from them
    attempts = [np.isfinite(run.steps["t"]).sum(axis=0) for run in (a, b)]
    parted = differ.any(axis=0)
    lengths = np.where(parted, differ.argmax(axis=0) if rows else 0, np.minimum(*attempts))
    return Prefix(lengths, parted | (attempts[0] != attempts[1]))


def compare_runs(
    name: str,
    check: str,
    trial: Trial,
    expected: Outcome,
    actual: Outcome,
    rounded: Sequence[Outcome],
    limit: float = LIMIT,
) -> list[Row]:
    """Rows of one backend's run against the reference's."""
    prefix = common_prefix(expected, actual)
    reached = _reached(expected, rounded)
    noise = {
        column: _noise(expected, rounded, column, trial.epsilon)
        for column in ("t", "h", "error", "stiffness")
    }
    reached = np.minimum(reached, _sharp(noise["h"], limit))
    rows = [_decisions(name, check, expected, actual, prefix, reached, noise["error"], limit)]
    for column, quantity in (
        ("t", "times of steps"), ("h", "step sizes"), ("error", "error estimate"),
        ("stiffness", "stiffness estimate"),
    ):  # fmt: skip
        row = _column(name, check, quantity, expected, actual, np.minimum(prefix.lengths, reached),
                      noise[column], column, trial.epsilon, limit)  # fmt: skip
        rows += [] if row is None else [row]
    steady = [run for run in rounded if not common_prefix(expected, run).parted.any()]
    if prefix.parted.any() or (rounded and not steady):
        if rows[0].ok:
            rows += _to_tolerance(name, check, trial, expected, actual)
        return rows
    rows.append(_counts(name, check, trial, expected, actual))
    draws = [_final(trial, run) for run in steady]
    rows += compare(name, check, _final(trial, expected), _final(trial, actual), draws,
                    trial.epsilon, limit)  # fmt: skip
    return rows


def _reached(expected: Outcome, rounded: Sequence[Outcome]) -> Table:
    """Up to which attempt of each sample two runs with random rounding decided alike."""
    attempts, samples = expected.accepted.shape
    if len(rounded) < 2:
        return np.full(samples, attempts)
    return np.sort([common_prefix(expected, run).lengths for run in rounded], axis=0)[-2]


def _sharp(noise: Table, limit: float) -> Table:
    """Up to which attempt of each sample the step sizes are more than rounding.

    Where an error estimate is a difference of equal numbers, the size that follows from it is as
    random as they are, and so is everything after it.
    """
    blurred = noise * limit >= 1.0
    first = blurred.argmax(axis=0) if len(noise) else 0
    return np.where(blurred.any(axis=0), first - 1, len(noise))


def _size(outcome: Outcome, column: str) -> Table:
    """What the deviation of a column is relative to."""
    values = np.abs(outcome.steps[column])
    if column == "t":
        return np.broadcast_to(np.nanmax(values, initial=1e-300), values.shape)
    return np.where(values > 0, values, 1e-300)


def _noise(expected: Outcome, rounded: Sequence[Outcome], column: str, epsilon: float) -> Table:
    """Relative movement of every entry of a column under random rounding."""
    size = _size(expected, column)
    noise = np.full(size.shape, epsilon)
    for run in rounded:
        prefix = common_prefix(expected, run)
        rows = min(size.shape[0], run.accepted.shape[0])
        with np.errstate(invalid="ignore"):
            moved = np.abs(run.steps[column][:rows] - expected.steps[column][:rows]) / size[:rows]
        inside = np.arange(rows)[:, None] <= prefix.lengths
        moved = np.where(inside & np.isfinite(moved), moved, 0.0)
        noise[:rows] = np.maximum(noise[:rows], moved)
    widened = noise.copy()
    for shift in range(1, WINDOW + 1):
        widened[shift:] = np.maximum(widened[shift:], noise[:-shift])
        widened[:-shift] = np.maximum(widened[:-shift], noise[shift:])
    return widened


def _decisions(
    name: str,
    check: str,
    expected: Outcome,
    actual: Outcome,
    prefix: Prefix,
    reached: Table,
    noise: Table,
    limit: float,
) -> Row:
    """Decisions that differ have to be within rounding of ``E = 1``."""
    compared = int(prefix.lengths.sum())
    worst, condition, place, note = 0.0, 1.0, "", ""
    for sample in np.flatnonzero(prefix.parted):
        row = prefix.lengths[sample]
        note = "a decision differs"
        decided = row < min(len(expected.accepted), len(actual.accepted))
        if row > reached[sample] or not decided:
            continue  # rounding alone has changed decisions by then, or ended the solve
        error, unit = expected.steps["error"][row, sample], noise[row, sample]
        deviation = abs(error - 1.0) / unit if math.isfinite(error) else math.inf
        if deviation >= worst:
            worst, place = deviation, f"step {row}"
    return Row(name, check, "decisions", compared, worst, condition, limit, place, note)


def _column(
    name: str,
    check: str,
    quantity: str,
    expected: Outcome,
    actual: Outcome,
    lengths: Table,
    noise: Table,
    column: str,
    epsilon: float,
    limit: float,
) -> Row | None:
    rows = min(expected.accepted.shape[0], actual.accepted.shape[0])
    a, b = actual.steps[column][:rows], expected.steps[column][:rows]
    inside = np.arange(rows)[:, None] <= lengths
    known = inside & (np.isfinite(b) | np.isfinite(a))
    if column == "stiffness":
        known &= b != 0  # stages that coincide: beside them a quotient of roundings is no defect
    if not known.any():
        return None
    size = _size(expected, column)[:rows]
    with np.errstate(invalid="ignore"):
        deviation = np.abs(a - b) / (size * noise[:rows])
    deviation = np.where(np.isfinite(a) & np.isfinite(b), deviation, math.inf)
    deviation = np.where(known, deviation, 0.0)
    row, sample = np.unravel_index(np.argmax(deviation), deviation.shape)
    place = f"step {row}" if a.shape[1] == 1 else f"step {row}, sample {sample}"
    return Row(name, check, quantity, int(known.sum()), float(deviation[row, sample]),
               float(noise[row, sample] / epsilon), limit, place)  # fmt: skip


def _counts(name: str, check: str, trial: Trial, expected: Outcome, actual: Outcome) -> Row:
    """Where no decision differs, everything that is counted is the same."""
    keys = set(expected.counts)
    if trial.options.get("t_eval") is not None and trial.epsilon > 1e-10:
        # JAX without x64: an output time may be the end of a step, or just inside of it, where
        # the interpolant is evaluated
        keys.discard("nfev")
    differing = sorted(key for key in keys if expected.counts[key] != actual.counts[key])
    note = ", ".join(
        f"{key} {actual.counts[key]} instead of {expected.counts[key]}" for key in differing
    )
    deviation = math.inf if differing else 0.0
    return Row(name, check, "counts and status", len(expected.counts), deviation, 1.0, 0.0,
               note=note)  # fmt: skip


def _final(trial: Trial, outcome: Outcome) -> Observations:
    found = Observations()
    found.add("solution", outcome.ys)
    if trial.options.get("regularizer") is not None:
        found.add("penalty", by_sample(outcome.penalty))
    if trial.gradients:
        found.add("gradient of y0", outcome.d_y0)
        found.add("gradient of args", outcome.d_args)
    return found


def _to_tolerance(
    name: str, check: str, trial: Trial, expected: Outcome, actual: Outcome
) -> list[Row]:
    """Compare solutions and gradients that were found on different steps; a penalty is theirs."""
    rtol, atol = trial.options.get("rtol", 1e-6), trial.options.get("atol", 1e-9)
    rows = []
    quantities = [("solution", actual.ys, expected.ys)]
    if trial.options.get("regularizer") is None:
        quantities += [
            ("gradient of y0", actual.d_y0, expected.d_y0),
            ("gradient of args", actual.d_args, expected.d_args),
        ]
    for quantity, a, b in quantities:
        pairs = list(zip(flatten(a)[0], flatten(b)[0], strict=True))
        worst = 0.0
        for left, right in pairs:
            size = float(np.nanmax(np.abs(right), initial=0.0))
            with np.errstate(invalid="ignore"):
                difference = float(np.nanmax(np.abs(left - right), initial=0.0))
            worst = max(worst, difference / (atol + (rtol + trial.epsilon) * size + 1e-300))
        if pairs:
            rows.append(
                Row(
                    name,
                    check,
                    f"{quantity}, other steps",
                    len(pairs),
                    worst,
                    1.0,
                    TOLERANCE_LIMIT,
                    note="in units of the tolerance",
                )
            )
    return rows
