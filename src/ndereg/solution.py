"""What a solve returns.

A frozen dataclass sets its attributes one by one, which takes longer than a small solve; those
here take them all at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, init=False)
class Stats:
    """Work done by a solve; ints, or ``(B,)`` integer arrays where each sample has its own steps.

    Attributes
    ----------
    nfev : int
        Evaluations of the vector field in the forward solve, those of the automatic first step
        and of the interpolant included.
    nsteps, naccept, nreject : int
        Attempted, accepted and rejected steps.
    """

    nfev: Any
    nsteps: Any
    naccept: Any
    nreject: Any

    def __init__(self, nfev: Any, nsteps: Any, naccept: Any, nreject: Any) -> None:
        vars(self).update(nfev=nfev, nsteps=nsteps, naccept=naccept, nreject=nreject)


@dataclass(frozen=True)
class Steps:
    """Every attempted step, one row an attempt (``record=True``).

    With ``batch="independent"`` the arrays are ``(attempts, B)``; rows after a sample has finished
    hold nan, and ``accepted`` False.

    Attributes
    ----------
    t, h : array
        Start and signed size of the attempt.
    error : array
        Scaled error norm ``E`` (nan for a method without an error estimate).
    stiffness : array
        Stiffness estimate ``S`` (nan for a method without a pair of stages for it).
    accepted : array of bool
    """

    t: Any
    h: Any
    error: Any
    stiffness: Any
    accepted: Any


@dataclass(frozen=True, init=False)
class Solution:
    """Solution of a differential equation.

    Attributes
    ----------
    ts : array
        Time of ``ys``: the end of the span, or ``t_eval``.
    ys : array or nested structure of arrays
        The state at the end, in the structure of ``y0``. With ``t_eval`` every leaf has the times
        as leading axis ``(T, ...)``, after the batch axis with ``batch="independent"``:
        ``(B, T, ...)``. Times that a failed solve did not reach hold nan.
    penalty : array
        Value of the regularizer, a scalar or ``(B,)``; 0 without one.
    stats : Stats
    status : Status or array of int
    steps : Steps or None
    """

    ts: Any
    ys: Any
    penalty: Any
    stats: Stats
    status: Any
    steps: Steps | None = None

    def __init__(
        self, ts: Any, ys: Any, penalty: Any, stats: Stats, status: Any, steps: Steps | None = None
    ) -> None:
        vars(self).update(ts=ts, ys=ys, penalty=penalty, stats=stats, status=status, steps=steps)
