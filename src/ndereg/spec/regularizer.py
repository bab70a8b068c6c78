"""Regularizers: observables of a step, where they are taken, how they are reduced.

A regularizer's formula is written once, in :meth:`Term.value`, over symbolic scalars: the plan
records it as instructions of the step program and transposes it like everything else. To add one,
write a class here with a ``value``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Reduce = Literal["sum", "mean", "max"]
REDUCTIONS: tuple[Reduce, ...] = ("sum", "mean", "max")


class StepObservables(Protocol):
    """What a step offers to a regularizer; every attribute is a symbolic scalar.

    Reading an attribute makes the step compute it, so nothing unused is computed.
    """

    @property
    def error(self) -> Any:
        """Scaled norm ``E`` of the embedded error estimate (``E <= 1`` when accepted)."""

    @property
    def stiffness(self) -> Any:
        """Stiffness estimate ``S``, in 1 / time."""

    @property
    def size(self) -> Any:
        """Absolute step size ``|h|``."""

    @property
    def stability_size(self) -> float:
        """Length of the method's stability region along the negative real axis."""


class Regularizer:
    """Base of everything that can be passed as ``regularizer=``; supports ``+`` and ``*``."""

    def terms(self) -> tuple[tuple[float, Term], ...]:
        """Weighted terms; the weights are run-time values, the terms are compiled."""
        raise NotImplementedError

    def __add__(self, other: object) -> Regularizer:
        if not isinstance(other, Regularizer):
            return NotImplemented
        return Combination(self.terms() + other.terms())

    def __mul__(self, weight: object) -> Regularizer:
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            return NotImplemented
        if not math.isfinite(weight):
            raise ValueError(
                f"expected a finite weight, received {weight!r}; try a float such as 0.1"
            )
        return Combination(tuple((w * float(weight), term) for w, term in self.terms()))

    __rmul__ = __mul__


class Term(Regularizer):
    """One observable with one reduction over the accepted steps."""

    reduce: Reduce
    needs: tuple[str, ...] = ()
    """Rows of the method that the observable reads: ``"error"``, ``"stiffness"``."""

    def terms(self) -> tuple[tuple[float, Term], ...]:
        """Return this term, with weight 1."""
        return ((1.0, self),)

    def value(self, step: StepObservables) -> Any:
        """Return the scalar ``r_j`` of one step."""
        raise NotImplementedError

    def _check_reduce(self) -> None:
        if self.reduce not in REDUCTIONS:
            raise ValueError(
                f"expected reduce to be one of {', '.join(REDUCTIONS)}, received {self.reduce!r}; "
                "try 'sum'"
            )


@dataclass(frozen=True)
class ErrorEstimate(Term):
    """``r_j = E_j |h_j|``, or ``E_j ** 2`` when ``squared`` (ERNODE).

    ``E_j`` is the tolerance-scaled norm of the embedded error estimate. Pal, Ma, Shah, Rackauckas,
    "Opening the Blackbox", ICML 2021 (arXiv:2105.03918).

    Examples
    --------
    >>> ErrorEstimate() + 0.1 * StiffnessEstimate(reduce="max")  # doctest: +ELLIPSIS
    Combination(...)
    """

    squared: bool = False
    reduce: Reduce = "sum"
    needs = ("error",)

    def __post_init__(self) -> None:
        self._check_reduce()

    def value(self, step: StepObservables) -> Any:
        """``E |h|`` or ``E^2``."""
        return step.error.square() if self.squared else step.error * step.size


@dataclass(frozen=True)
class StiffnessEstimate(Term):
    """``r_j = S_j / stability_size``, times ``|h_j|`` when ``times_step`` (SRNODE).

    ``S_j = RMS(k_a - k_b) / RMS(g_a - g_b)`` over two stages of equal abscissa (Shampine 1977), 0
    when the denominator is 0. The papers' code leaves the step size out; their text has it.
    """

    times_step: bool = False
    reduce: Reduce = "sum"
    needs = ("stiffness",)

    def __post_init__(self) -> None:
        self._check_reduce()

    def value(self, step: StepObservables) -> Any:
        """``S / stability_size (· |h|)``."""
        scaled = step.stiffness * (1.0 / step.stability_size)
        return scaled * step.size if self.times_step else scaled


@dataclass(frozen=True)
class Combination(Regularizer):
    """A weighted sum of terms; made by ``+`` and ``*``."""

    weighted: tuple[tuple[float, Term], ...]

    def terms(self) -> tuple[tuple[float, Term], ...]:
        """Return the weighted terms, in order."""
        return self.weighted
