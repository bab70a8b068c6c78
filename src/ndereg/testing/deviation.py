"""How far two runs are apart, in units of what rounding can do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ndereg.structure import flatten

LIMIT = 64.0
"""Most units of rounding that correct backends differ by.

In several hundred random problems nearly all deviations were below 5; the largest was 51, in a
gradient.
"""

WINDOW = 2
"""Steps to either side whose measured rounding counts for a step: few draws may all be small."""


@dataclass(frozen=True)
class Sample:
    """One array that was observed: in which step, at which path of a nested structure."""

    step: int
    path: str
    value: np.ndarray[Any, Any]

    @property
    def place(self) -> str:
        """Where it was observed, in words."""
        at = "" if self.step < 0 else f"step {self.step}"
        return ", ".join(part for part in (at, self.path) if part) or "end"


@dataclass
class Observations:
    """What a run returned: samples by the name of a quantity."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def add(self, quantity: str, tree: Any, step: int = -1) -> None:
        """Add every leaf of a nested structure of NumPy arrays."""
        leaves, structure = flatten(tree)
        paths = structure.paths()
        kept = self.samples.setdefault(quantity, [])
        for leaf, path in zip(leaves, paths, strict=True):
            kept.append(Sample(step, path, np.asarray(leaf)))


@dataclass(frozen=True)
class Row:
    """One quantity of one backend against the reference.

    Attributes
    ----------
    backend : str
    check : str
        ``"replay"`` (single steps of the reference's mesh), ``"run"``, or ``"rejections"`` (a run
        that begins with a step that is too large).
    quantity : str
    compared : int
        Number of arrays compared.
    deviation : float
        Largest deviation, in units of ``epsilon * condition * size``; 0 or infinite for what has
        to be equal.
    condition : float
        Measured movement of the quantity under random rounding, relative to its size and
        epsilon, where the deviation is largest.
    limit : float
        Largest deviation that passes.
    place : str
        Where the deviation is largest.
    note : str
        What the numbers do not say.
    """

    backend: str
    check: str
    quantity: str
    compared: int
    deviation: float
    condition: float
    limit: float = LIMIT
    place: str = ""
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the deviation is within the limit."""
        return self.deviation <= self.limit


@dataclass(frozen=True)
class _Measured:
    deviation: float
    condition: float
    place: str
    note: str = ""


def compare(
    backend: str,
    check: str,
    expected: Observations,
    actual: Observations,
    rounded: Sequence[Observations],
    epsilon: float,
    limit: float = LIMIT,
) -> list[Row]:
    """Compare a run with the reference, in units measured by runs with random rounding."""
    rows = []
    for quantity, samples in expected.samples.items():
        others = actual.samples.get(quantity, [])
        draws = [run.samples.get(quantity, []) for run in rounded]
        if quantity == "stiffness estimate" and len(others) == len(samples):
            # where stages coincide it is 0; beside that a quotient of roundings is no defect
            kept = [i for i, sample in enumerate(samples) if np.all(sample.value != 0)]
            samples, others, *draws = (
                [of[i] for i in kept if i < len(of)] for of in (samples, others, *draws)
            )
        found = list(_measured(samples, others, draws, epsilon))
        if not found:
            continue
        worst = max(found, key=lambda one: one.deviation)
        rows.append(
            Row(
                backend, check, quantity, len(found), worst.deviation, worst.condition, limit,
                worst.place, worst.note,
            )
        )  # fmt: skip
    return rows


def _measured(
    expected: Sequence[Sample],
    actual: Sequence[Sample],
    draws: Sequence[Sequence[Sample]],
    epsilon: float,
) -> Iterator[_Measured]:
    if len(expected) != len(actual):
        note = f"{len(actual)} arrays instead of {len(expected)}"
        yield _Measured(math.inf, 1.0, "", note)
        return
    movements, distances = _movements(expected, draws)
    for sample, other in zip(expected, actual, strict=True):
        if sample.value.shape != other.value.shape:
            note = f"shape {other.value.shape} instead of {sample.value.shape}"
            yield _Measured(math.inf, 1.0, sample.place, note)
            continue
        size = _size(sample.value)
        near = range(sample.step - WINDOW, sample.step + WINDOW + 1)
        moved = max((movements.get((step, sample.path), 0.0) for step in near), default=0.0)
        unit = size * max(moved, epsilon)
        if size == 0:  # numbers that cancel to the last bit here need not do so elsewhere
            unit = max((distances.get((step, sample.path), 0.0) for step in near), default=0.0)
        # nothing but underflow separates numbers as small as these
        unit = max(unit, float(np.finfo(np.float32 if epsilon > 1e-10 else np.float64).tiny))
        difference = _difference(other.value, sample.value)
        note = "" if math.isfinite(difference) else "finite where the other is not"
        condition = unit / (epsilon * size) if size else 1.0 / epsilon
        yield _Measured(difference / unit, condition, sample.place, note)


def _movements(
    expected: Sequence[Sample], draws: Sequence[Sequence[Sample]]
) -> tuple[dict[tuple[int, str], float], dict[tuple[int, str], float]]:
    """Largest movement of each array under random rounding, relative to its size and absolute."""
    movements: dict[tuple[int, str], float] = {}
    distances: dict[tuple[int, str], float] = {}
    for draw in draws:
        for sample, other in zip(expected, draw, strict=False):
            size = _size(sample.value)
            if sample.value.shape != other.value.shape:
                continue
            moved = _difference(other.value, sample.value)
            if math.isfinite(moved):
                key = (sample.step, sample.path)
                distances[key] = max(distances.get(key, 0.0), moved)
                if size:
                    movements[key] = max(movements.get(key, 0.0), moved / size)
    return movements, distances


def _size(array: np.ndarray[Any, Any]) -> float:
    finite = np.abs(array[np.isfinite(array)]).astype(np.float64)
    return float(finite.max(initial=0.0))


def _difference(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Largest difference; infinite if one is finite where the other is not."""
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return math.inf
    wide = np.complex128 if np.iscomplexobj(a) or np.iscomplexobj(b) else np.float64
    return float(np.abs(a[finite].astype(wide) - b[finite].astype(wide)).max(initial=0.0))
