"""Everything about a solve that is fixed when it is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ndereg.spec.adjoint import Adjoint, Discrete
from ndereg.spec.regularizer import Term
from ndereg.spec.tableau import Tableau

Batch = Literal["joint", "independent"]
_DISCRETE = Discrete()


@dataclass(frozen=True)
class Spec:
    """Frozen, hashable, array-free record of what a backend compiles.

    Tolerances, step-size limits, controller coefficients, regularizer weights, time spans and
    arguments are not part of it: they are run-time values.

    Parameters
    ----------
    tableau : Tableau
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

    Examples
    --------
    >>> from ndereg.catalogue import lookup
    >>> Spec(lookup("tsit5")).tableau.name
    'tsit5'
    """

    tableau: Tableau
    adaptive: bool = True
    terms: tuple[Term, ...] = ()
    adjoint: Adjoint = _DISCRETE
    batch: Batch = "joint"
    dense: bool = False
    record: bool = False
