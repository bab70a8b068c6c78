"""Weights of a regularizer over training.

A weight is a function of the step, a number of the host or one that a framework traces.
"""

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
        share = step / self.steps
        progress = 0.5 * (abs(share) - abs(share - 1.0) + 1.0)  # between 0 and 1
        weight: float = self.start ** (1.0 - progress) * self.end**progress
        return weight


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


@dataclass(frozen=True)
class NFEBudget:
    """A weight that is adapted until a solve takes ``target`` evaluations of the field.

    The control law is integral, on logarithms. After each training step, whose solve took ``nfev``
    evaluations::

        weight <- clip(weight * (nfev / target)^gain, smallest, largest)

    The logarithm of the weight integrates by how much the logarithm of the count misses its
    target, so where it rests the target is met, whatever the model, the data and the optimizer are.
    The count follows the weight late: with a lag of ``tau`` steps and a sensitivity
    ``s = -d log nfev / d log weight`` the loop does not oscillate while ``gain < 1 / (4 s tau)``;
    with ``s = 0.2`` and ``tau = 60``, as measured on small classifiers, that is 0.02. Counts are
    whole steps of a method, 6 evaluations with Tsit5: a target between two of them is met on
    average.

    A target that the model cannot reach drives the weight to ``largest``; one that it meets
    unregularized drives it to ``smallest``. From a weight that is off by a factor ``c`` the way is
    about ``ln(c) / (gain |ln(nfev / target)|)`` steps long: a good ``start`` saves most of it.

    What is counted is what is met. Evaluations of training steps serve where a prediction takes
    about as many; those of ``Local`` count its extra step, so take the count of a prediction, or
    subtract the difference. ``ndereg train`` and ``compare`` do that.

    Parameters
    ----------
    target : float
        Evaluations a solve, such as ``sol.stats.nfev`` counts them (with independent samples, take
        their mean).
    start : float
        The first weight.
    gain : float
        How fast the weight follows; the larger, the sooner it settles, until it oscillates.
    smallest, largest : float
        Bounds of the weight.

    Raises
    ------
    ValueError
        If a number is not positive, or ``smallest <= start <= largest`` does not hold.

    Examples
    --------
    >>> budget = NFEBudget(target=40)
    >>> weight = budget.start
    >>> for nfev in (80, 62, 50):
    ...     weight = budget.update(weight, nfev)
    >>> round(weight, 4)
    1.0275
    """

    target: float
    start: float = 1.0
    gain: float = 0.02
    smallest: float = 1e-4
    largest: float = 1e4

    def __post_init__(self) -> None:
        for name in ("target", "start", "gain", "smallest", "largest"):
            _check(name, getattr(self, name), positive=True)
        if not self.smallest <= self.start <= self.largest:
            raise ValueError(
                f"expected smallest <= start <= largest, received {self.smallest}, {self.start}, "
                f"{self.largest}; try a start between the bounds, or wider bounds"
            )

    def update(self, weight: float, nfev: float) -> float:
        """Return the weight of the next step, after a step with ``weight`` took ``nfev``.

        Both are numbers of the host, not traced ones: update between two steps, outside of ``jit``.

        Raises
        ------
        ValueError
            If ``nfev`` is not one number.
        """
        if shape := tuple(getattr(nfev, "shape", ())):
            raise ValueError(
                f"expected one number as nfev, received an array of shape {shape}, such as the "
                "evaluations of independent samples; try its mean, sum(nfev) / len(nfev)"
            )
        changed = weight * math.pow(float(nfev) / self.target, self.gain)
        return min(max(changed, self.smallest), self.largest)


def _check(name: str, value: float, positive: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(
            f"expected a finite number for {name}, received {value!r}; try a float such as 1.0"
        )
    if positive and value <= 0:
        raise ValueError(
            f"expected {name} > 0, received {value!r}; try a positive number (no weight at all is "
            "Constant(0.0))"
        )
