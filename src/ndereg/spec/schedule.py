"""Weights of a regularizer over training."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """The same weight at every step.

    Examples
    --------
    >>> Constant(2.5)(100)
    2.5
    """

    value: float

    def __post_init__(self) -> None:
        _check("value", self.value)

    def __call__(self, step: float) -> float:
        """Weight at ``step``."""
        return self.value


@dataclass(frozen=True)
class ExponentialDecay:
    """From ``start`` at step 0 to ``end`` at ``steps``, by a constant factor a step, then ``end``.

    This is the annealing ``start * exp(-k step)``, ``k = ln(start / end) / steps``, of Pal et al.
    2021 (arXiv:2105.03918); ``end > start`` increases.

    Raises
    ------
    ValueError
        If ``start`` or ``end`` is not positive, or ``steps`` is not positive.

    Examples
    --------
    >>> weight = ExponentialDecay(100.0, 10.0, steps=3000)
    >>> weight(0), round(weight(1500), 6), weight(3000), weight(9000)
    (100.0, 31.622777, 10.0, 10.0)
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _check("start", self.start, positive=True)
        _check("end", self.end, positive=True)
        _check("steps", self.steps, positive=True)

    def __call__(self, step: float) -> float:
        """Weight at ``step``."""
        progress = min(max(step / self.steps, 0.0), 1.0)
        if progress == 1.0:
            return self.end
        return self.start * math.exp(-math.log(self.start / self.end) * progress)


@dataclass(frozen=True)
class InverseDecay:
    """``start / (1 + rate * step)``.

    Examples
    --------
    >>> InverseDecay(1.0, rate=0.5)(2)
    0.5
    """

    start: float
    rate: float

    def __post_init__(self) -> None:
        _check("start", self.start)
        _check("rate", self.rate)
        if self.rate < 0:
            raise ValueError(f"expected rate >= 0, received {self.rate}; try its absolute value")

    def __call__(self, step: float) -> float:
        """Weight at ``step``."""
        return self.start / (1.0 + self.rate * step)


def _check(name: str, value: float, positive: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(
            f"expected a finite number for {name}, received {value!r}; try a float such as 1.0"
        )
    if positive and value <= 0:
        raise ValueError(
            f"expected {name} > 0, received {value!r}; a geometric schedule cannot reach zero, "
            "try a small positive value or Constant(0.0)"
        )
