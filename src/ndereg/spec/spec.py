"""Everything about a solve that is fixed when it is compiled."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

from ndereg.spec.adjoint import Adjoint, Discrete
from ndereg.spec.regularizer import LocalSize, Sampling, Term
from ndereg.spec.stochastic import Noise, StochasticMethod
from ndereg.spec.tableau import Tableau

Batch = Literal["joint", "independent"]
_DISCRETE = Discrete()


@dataclass(frozen=True)
class LocalStep:
    """One extra step from a random time, and what it contributes to the penalty.

    Attributes
    ----------
    terms : tuple of Term
        Their weights follow those of the terms over the steps of the solve.
    sampling, through_state, step
        As :class:`ndereg.Local` has them.
    """

    terms: tuple[Term, ...]
    sampling: Sampling = "unbiased"
    through_state: bool = False
    step: LocalSize = "first"

    @property
    def picks(self) -> bool:
        """Whether it starts where a step of the solve does, and not between two of them."""
        return self.sampling == "biased" or self.step == "own"


@dataclass(frozen=True)
class Spec:
    """Frozen, hashable, array-free record of what a backend compiles.

    Tolerances, step-size limits, controller coefficients, regularizer weights, time spans and
    arguments are not part of it: they are run-time values.

    Parameters
    ----------
    tableau : Tableau or StochasticMethod
        The method.
    adaptive : bool
        Step-size control by the error estimate; False takes constant steps.
    terms : tuple of Term
        Terms of the penalty, without their weights.
    adjoint : Adjoint
        How the solve is differentiated.
    batch : {"joint", "independent"}
        One step size for the whole state, or one a sample.
    dense : bool
        Whether output times are answered from the interpolant.
    record : bool
        Whether every attempted step is recorded.
    local : LocalStep or None
        The extra step whose observables are part of the penalty. The state between two steps is
        read off the interpolant, and so needs ``dense``.
    noise : Noise or None
        Of a stochastic equation; its method is a StochasticMethod.

    Examples
    --------
    >>> from ndereg.catalogue import lookup
    >>> Spec(lookup("tsit5")).tableau.name
    'tsit5'
    """

    tableau: Tableau | StochasticMethod
    adaptive: bool = True
    terms: tuple[Term, ...] = ()
    adjoint: Adjoint = _DISCRETE
    batch: Batch = "joint"
    dense: bool = False
    record: bool = False
    local: LocalStep | None = None
    noise: Noise | None = None

    @cached_property
    def _hash(self) -> int:
        return hash(self._values())

    def __hash__(self) -> int:
        return self._hash  # asked for on every solve

    def __reduce__(self) -> tuple[type[Spec], tuple[object, ...]]:
        return Spec, self._values()  # a hash means nothing in another process

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))
