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

_MIDPOINT = Tableau(
    name="midpoint",
    order=2,
    a=rows("; 1/2"),
    b=row("0 1"),
    c=row("0 1/2"),
    reference="doi:10.1007/BF01446807",  # Runge 1895
)

_HEUN = Tableau(
    name="heun",
    order=2,
    a=rows("; 1"),
    b=row("1/2 1/2"),
    c=row("0 1"),
    reference="Heun, Z. Math. Phys. 45 (1900) 23-38",
)

_RALSTON = Tableau(
    name="ralston",
    order=2,
    a=rows("; 2/3"),
    b=row("1/4 3/4"),
    c=row("0 2/3"),
    reference="doi:10.1090/S0025-5718-1962-0150954-0",  # Ralston 1962
)

_RK4 = Tableau(
    name="rk4",
    order=4,
    a=rows("; 1/2; 0 1/2; 0 0 1"),
    b=row("1/6 1/3 1/3 1/6"),
    c=row("0 1/2 1/2 1"),
    reference="Kutta, Z. Math. Phys. 46 (1901) 435-453",
)

_RK38 = Tableau(
    name="rk38",
    order=4,
    a=rows("; 1/3; -1/3 1; 1 -1 1"),
    b=row("1/8 3/8 3/8 1/8"),
    c=row("0 1/3 2/3 1"),
    reference="Kutta, Z. Math. Phys. 46 (1901) 435-453",
)

_HEUN_EULER = Tableau(
    name="heun_euler",
    order=2,
    a=rows("; 1"),
    b=row("1/2 1/2"),
    c=row("0 1"),
    b_embedded=row("1 0"),
    embedded_order=1,
    reference="Hairer, Norsett & Wanner, Solving ordinary differential equations I, II.4 (1993)",
)

# SciPy's RK23 has the same interpolant: the cubic Hermite polynomial, derived here.
_BOSH3 = Tableau(
    name="bosh3",
    order=3,
    a=rows("; 1/2; 0 3/4; 2/9 1/3 4/9"),
    b=row("2/9 1/3 4/9 0"),
    c=row("0 1/2 3/4 1"),
    b_embedded=row("7/24 1/4 1/3 1/8"),
    embedded_order=2,
    reference="doi:10.1016/0893-9659(89)90079-7",  # Bogacki & Shampine 1989
)

# Fehlberg propagated the solution of order 4. As in RKF45 of Shampine and Watts and most codes
# since, the one of order 5 is propagated here.
_FEHLBERG45 = Tableau(
    name="fehlberg45",
    order=5,
    a=rows("""
        ;
        1/4;
        3/32 9/32;
        1932/2197 -7200/2197 7296/2197;
        439/216 -8 3680/513 -845/4104;
        -8/27 2 -3544/2565 1859/4104 -11/40
    """),
    b=row("16/135 0 6656/12825 28561/56430 -9/50 2/55"),
    c=row("0 1/4 3/8 12/13 1 1/2"),
    b_embedded=row("25/216 0 1408/2565 2197/4104 -1/5 0"),
    embedded_order=4,
    reference="Fehlberg, NASA Technical Report R-315 (1969)",
)

_CASH_KARP = Tableau(
    name="cash_karp",
    order=5,
    a=rows("""
        ;
        1/5;
        3/40 9/40;
        3/10 -9/10 6/5;
        -11/54 5/2 -70/27 35/27;
        1631/55296 175/512 575/13824 44275/110592 253/4096
    """),
    b=row("37/378 0 250/621 125/594 0 512/1771"),
    c=row("0 1/5 3/10 3/5 1 7/8"),
    b_embedded=row("2825/27648 0 18575/48384 13525/55296 277/14336 1/4"),
    embedded_order=4,
    reference="doi:10.1145/79505.79507",  # Cash & Karp 1990
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
    (_MIDPOINT, ("explicit_midpoint", "rk2")),
    (_HEUN, ("heun2", "explicit_trapezoid")),
    (_RALSTON, ("ralston2",)),
    (_RK4, ("runge_kutta4", "classic_rk4")),
    (_RK38, ("three_eighths", "kutta38")),
    (_HEUN_EULER, ("heun_euler21",)),
    (_BOSH3, ("bs3", "rk23", "bogacki_shampine", "bogacki_shampine3")),
    (_FEHLBERG45, ("rkf45", "rkf5", "fehlberg", "fehlberg5")),
    (_CASH_KARP, ("cashkarp", "ck45", "rkck")),
    (_DOPRI5, ("rk45", "dp5", "dormand_prince", "dormand_prince5")),
)
