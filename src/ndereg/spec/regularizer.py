"""Regularizers: observables of a step, where they are taken, how they are reduced.

A regularizer's formula is written once, in :meth:`Term.value`, over symbolic scalars: the plan
records it as instructions of the step program and transposes it like everything else. To add one,
write a class here with a ``value``. What is integrated along the solution is in
:mod:`ndereg.spec.integrand`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Reduce = Literal["sum", "mean", "max"]
REDUCTIONS: tuple[Reduce, ...] = ("sum", "mean", "max")
Sampling = Literal["unbiased", "biased"]
SAMPLINGS: tuple[Sampling, ...] = ("unbiased", "biased")
LocalSize = Literal["first", "own"]
LOCAL_SIZES: tuple[LocalSize, ...] = ("first", "own")


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

    def terms(self) -> Weighted:
        """Weighted summands; the weights are run-time values, the summands are compiled."""
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

    def __radd__(self, other: object) -> Regularizer:
        return self if other == 0 else NotImplemented  # what sum() starts from

    def __truediv__(self, divisor: object) -> Regularizer:
        if isinstance(divisor, bool) or not isinstance(divisor, (int, float)) or divisor == 0:
            return NotImplemented
        return self * (1.0 / divisor)


Weighted = tuple[tuple[float, Regularizer], ...]
"""A sum: each summand with its weight."""


class Summand(Regularizer):
    """A regularizer that is no sum of others."""

    def terms(self) -> Weighted:
        """Return this one, with weight 1."""
        return ((1.0, self),)


class Term(Summand):
    """One observable with one reduction over the accepted steps."""

    reduce: Reduce
    needs: tuple[str, ...] = ()
    """Rows of the method that the observable reads: ``"error"``, ``"stiffness"``."""

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
class LocalTerm(Term):
    """An observable of one extra step; what :class:`Local` is made of."""

    term: Term
    sampling: Sampling
    through_state: bool
    step: LocalSize
    reduce = "sum"

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Rows of the method that the observable reads."""
        return self.term.needs

    def value(self, step: StepObservables) -> Any:
        """Return the observable of the extra step."""
        return self.term.value(step)


@dataclass(frozen=True)
class Local(Regularizer):
    """One extra step from a random time of the solution, which any adjoint can differentiate.

    After the solve, one step of its own method is taken from ``(t_reg, sol(t_reg))`` towards
    ``t1``; its contribution is the penalty. As published, its size is the automatic first one, and
    the state, the first stage and the step size it starts from are constants of the gradient: only
    the later stages depend on the parameters. Pal, Edelman, Rackauckas, "Locally Regularized
    Neural Differential Equations", ICML 2023 (arXiv:2303.02262).

    The solve needs a ``key``. With ``batch="independent"`` every sample has a time of its own.

    Parameters
    ----------
    heuristic : Regularizer
        What the step contributes, such as ``ErrorEstimate()`` or a weighted sum. There is one
        step, so that ``reduce`` says nothing.
    sampling : {"unbiased", "biased"}
        ``t_reg`` uniform over the time span, or the start of an accepted step of the solve, each
        as likely as another. A sample without an accepted step then contributes 0.
    through_state : bool
        Let the gradient through ``sol(t_reg)`` and the first stage as well; the step size stays a
        constant.
    step : {"first", "own"}
        What step it is: the first one of a solve from there, or one of the solve's own, taken once
        more from its start. Of the latter an unbiased time draws the one that covers it, in
        proportion to its length. A first step is a cautious one: in single precision at a small
        tolerance its error estimate is the rounding of the field, which no training can lessen. In
        double precision it is near to rounding as well, and backends, each of which sums in its own
        order, agree on it to fewer digits.

    Raises
    ------
    TypeError, ValueError
        If ``heuristic`` is not a regularizer over a step, or ``sampling`` or ``step`` is unknown.

    Examples
    --------
    >>> regularizer = ErrorEstimate() + 0.1 * Local(StiffnessEstimate(), sampling="biased")
    >>> [weight for weight, _ in regularizer.terms()]
    [1.0, 0.1]
    """

    heuristic: Regularizer
    sampling: Sampling = "unbiased"
    through_state: bool = False
    step: LocalSize = "first"

    def __post_init__(self) -> None:
        if not isinstance(self.heuristic, Regularizer):
            raise TypeError(
                "expected heuristic to be a regularizer such as ndereg.ErrorEstimate(), received "
                f"{self.heuristic!r}; try ndereg.Local(ndereg.ErrorEstimate())"
            )
        for _, summand in self.heuristic.terms():
            if isinstance(summand, LocalTerm) or not isinstance(summand, Term):
                raise ValueError(
                    f"expected a heuristic over one step, received {self.heuristic!r}; try "
                    "ndereg.ErrorEstimate() inside of it, and the others in a sum with it"
                )
        if self.sampling not in SAMPLINGS:
            raise ValueError(
                f"expected sampling to be one of {', '.join(SAMPLINGS)}, received "
                f"{self.sampling!r}; try 'unbiased'"
            )
        if self.step not in LOCAL_SIZES:
            raise ValueError(
                f"expected step to be one of {', '.join(LOCAL_SIZES)}, received {self.step!r}; "
                "try 'first'"
            )
        if not isinstance(self.through_state, bool):
            raise TypeError(
                f"expected a bool for through_state, received {self.through_state!r}; try False"
            )

    def terms(self) -> Weighted:
        """Return the terms of the heuristic, each over the extra step."""
        return tuple(
            (weight, LocalTerm(term, self.sampling, self.through_state, self.step))
            for weight, term in self.heuristic.terms()
            if isinstance(term, Term)
        )


@dataclass(frozen=True)
class Combination(Regularizer):
    """A weighted sum; made by ``+`` and ``*``."""

    weighted: Weighted

    def terms(self) -> Weighted:
        """Return the weighted summands, in order."""
        return self.weighted
