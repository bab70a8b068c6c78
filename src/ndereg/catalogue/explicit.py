"""Explicit Runge–Kutta methods whose coefficients are simple fractions.

Each entry is a tableau and the other names that it answers to. Interpolants are given where the
literature has one for the method; the others get the cubic Hermite polynomial.
"""

from __future__ import annotations

from ndereg.catalogue.notation import row, rows
from ndereg.spec.tableau import Tableau

__all__ = ["ENTRIES"]

_EULER = Tableau(
    name="euler",
    order=1,
    a=((),),
    b=row("1"),
    c=row("0"),
    reference="Euler, Institutiones calculi integralis (1768)",
)

_HEUN = Tableau(
    name="heun",
    order=2,
    a=rows("; 1"),
    b=row("1/2 1/2"),
    c=row("0 1"),
    reference="Heun, Z. Math. Phys. 45 (1900) 23-38",
)

_RK4 = Tableau(
    name="rk4",
    order=4,
    a=rows("; 1/2; 0 1/2; 0 0 1"),
    b=row("1/6 1/3 1/3 1/6"),
    c=row("0 1/2 1/2 1"),
    reference="Kutta, Z. Math. Phys. 46 (1901) 435-453",
)

_DOPRI5 = Tableau(
    name="dopri5",
    order=5,
    a=rows("""
        ;
        1/5;
        3/40 9/40;
        44/45 -56/15 32/9;
        19372/6561 -25360/2187 64448/6561 -212/729;
        9017/3168 -355/33 46732/5247 49/176 -5103/18656;
        35/384 0 500/1113 125/192 -2187/6784 11/84
    """),
    b=row("35/384 0 500/1113 125/192 -2187/6784 11/84 0"),
    c=row("0 1/5 3/10 4/5 8/9 1 1"),
    b_embedded=row("5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40"),
    embedded_order=4,
    # The interpolant of order 4 that Shampine (Math. Comp. 46 (1986) 135-150) found to be the best
    # of those without extra stages.
    interpolant=rows("""
        1 -8048581381/2820520608 8663915743/2820520608 -12715105075/11282082432;
        0 0 0 0;
        0 131558114200/32700410799 -68118460800/10900136933 87487479700/32700410799;
        0 -1754552775/470086768 14199869525/1410260304 -10690763975/1880347072;
        0 127303824393/49829197408 -318862633887/49829197408 701980252875/199316789632;
        0 -282668133/205662961 2019193451/616988883 -1453857185/822651844;
        0 40617522/29380423 -110615467/29380423 69997945/29380423
    """),
    interpolant_order=4,
    reference="doi:10.1016/0771-050X(80)90013-3",  # Dormand & Prince 1980
)

ENTRIES: tuple[tuple[Tableau, tuple[str, ...]], ...] = (
    (_EULER, ("forward_euler", "explicit_euler")),
    (_HEUN, ("heun2", "explicit_trapezoid")),
    (_RK4, ("runge_kutta4", "classic_rk4")),
    (_DOPRI5, ("rk45", "dp5", "dormand_prince", "dormand_prince5")),
)
