"""Stochastic Runge–Kutta methods.

Each entry is a method and the other names that it answers to. Three families share a layout of
their coefficients: the methods for diagonal Ito noise of Roessler's SRI form, those for additive
noise of his SRA form, and the Stratonovich methods of Foster, dos Reis and Strange, which use the
space-time Levy area ``H``.
"""

from __future__ import annotations

from ndereg.catalogue.notation import row, rows
from ndereg.spec.reversible import ReversibleHeun
from ndereg.spec.stochastic import (
    Evaluations,
    Row,
    ServedKind,
    StochasticMethod,
    StochasticTableau,
    Variable,
    Weights,
)
from ndereg.spec.tableau import Number

__all__ = ["ENTRIES"]

Orders = tuple[tuple[ServedKind, float], ...]

_AT_START = Evaluations(((0, Weights()),))
_W = (("W", (1,)),)


def _orders(**orders: float) -> Orders:
    return tuple(orders.items())  # type: ignore[arg-type]


def _sums(a: tuple[Row, ...]) -> Row:
    return tuple(sum(line) for line in a)


def _evaluations(
    c: Row, a: tuple[Row, ...], *noise: tuple[Variable, tuple[Row, ...]]
) -> Evaluations:
    stages = []
    for index, (abscissa, line) in enumerate(zip(c, a, strict=True)):
        weights = Weights(line, tuple((variable, lines[index]) for variable, lines in noise))
        stages.append((abscissa, weights))
    return Evaluations(tuple(stages))


def _sri(
    name: str, *, a0: str, a1: str, b0: str, b1: str, alpha: str, beta: str,
    error: str = "1 1 1 1", c0: str = "", stability_size: float | None = None, reference: str,
) -> StochasticTableau:  # fmt: skip
    """Four stages, strong order 1.5; ``error`` weighs the drifts, times Roessler's delta."""
    first, second = rows(a0), rows(a1)
    beta1, beta2, beta3, beta4 = rows(beta)
    return StochasticTableau(
        name=name,
        calculus="ito",
        orders=_orders(diagonal=1.5, scalar=1.5),
        drift=_evaluations(row(c0) if c0 else _sums(first), first, ("chi2", rows(b0))),
        diffusion=_evaluations(_sums(second), second, ("root", rows(b1))),
        solution=Weights(
            row(alpha),
            (("W", beta1), ("chi1", beta2), ("chi2", beta3), ("chi3", beta4)),
        ),
        error=Weights(row(error), (("chi2", beta3), ("chi3", beta4))),
        stability_size=stability_size,
        reference=reference,
    )


def _sra(
    name: str, *, a0: str, b0: str, alpha: str, beta: str, c1: str,
    stability_size: float | None = None, reference: str,
) -> StochasticTableau:  # fmt: skip
    """Additive noise, strong order 1.5; the diffusion depends on the time alone."""
    first, abscissae = rows(a0), row(c1)
    beta1, beta2 = rows(beta)
    return StochasticTableau(
        name=name,
        calculus="ito",
        orders=_orders(additive=1.5),
        drift=_evaluations(_sums(first), first, ("chi2", rows(b0))),
        diffusion=_evaluations(abscissae, ((),) * len(abscissae)),
        solution=Weights(row(alpha), (("W", beta1), ("chi2", beta2))),
        error=Weights((1,) * len(first), (("chi2", beta2),)),
        stability_size=stability_size,
        reference=reference,
    )


def _additive(
    name: str, order: float, *, a: str, w: Row, h: Row, b: str, error: str = "", reference: str
) -> StochasticTableau:
    """Noise ``g(t)``, taken as linear in time over a step: ``int g dW`` is then exact."""
    first = rows(a)
    started = tuple((weight,) for weight in w), tuple((weight,) for weight in h)
    return StochasticTableau(
        name=name,
        calculus="stratonovich",
        orders=_orders(additive=order),
        drift=_evaluations(_sums(first), first, ("W", started[0]), ("H", started[1])),
        diffusion=_evaluations((0, 1), ((), ())),
        solution=Weights(row(b), (("W", row("1/2 1/2")), ("H", (1, -1)))),
        error=Weights(row(error)) if error else None,
        reference=reference,
    )


def _general(
    name: str, orders: Orders, *, c: Row, a: str, w: str, h: str, b: str, b_w: str, b_h: str,
    error: Weights | None = None, reference: str,
) -> StochasticTableau:  # fmt: skip
    """Stratonovich; drift and diffusion share the arguments of their stages."""
    stages = _evaluations(c, rows(a), ("W", rows(w)), ("H", rows(h)))
    return StochasticTableau(
        name=name,
        calculus="stratonovich",
        orders=orders,
        drift=stages,
        diffusion=stages,
        solution=Weights(row(b), (("W", row(b_w)), ("H", row(b_h)))),
        error=error,
        reference=reference,
    )


_COMMUTATIVE = {"diagonal": 1.0, "scalar": 1.0, "general": 0.5}
_SUPPORT = (0, Weights((), (("root", (1,)),)))
"""The diffusion where the state would be after noise of one standard deviation."""
_PREDICTED = (1, Weights((1,), _W))
"""The end of an Euler step."""

_EULER_MARUYAMA = StochasticTableau(
    name="euler_maruyama",
    calculus="ito",
    orders=_orders(diagonal=0.5, scalar=0.5, general=0.5, additive=1.0),
    drift=_AT_START,
    diffusion=_AT_START,
    solution=Weights((1,), _W),
    reference="doi:10.1007/BF01449084",  # Maruyama 1955
)

_STOCHASTIC_HEUN = StochasticTableau(
    name="stochastic_heun",
    calculus="stratonovich",
    orders=_orders(**_COMMUTATIVE, additive=1.0),
    drift=Evaluations(((0, Weights()), _PREDICTED)),
    diffusion=Evaluations(((0, Weights()), _PREDICTED)),
    solution=Weights(row("1/2 1/2"), (("W", row("1/2 1/2")),)),
    reference="doi:10.1137/0719041",  # Ruemelin 1982
)

# Gard, Introduction to Stochastic Differential Equations, 1988, section 7.2; Kloeden, Platen 1992.
_EULER_HEUN = StochasticTableau(
    name="euler_heun",
    calculus="stratonovich",
    orders=_orders(**_COMMUTATIVE, additive=1.0),
    drift=_AT_START,
    diffusion=Evaluations(((0, Weights()), (0, Weights((), _W)))),
    solution=Weights((1,), (("W", row("1/2 1/2")),)),
    reference="Kloeden, Platen, Numerical Solution of Stochastic Differential Equations, 1992",
)

_MILSTEIN = StochasticTableau(
    name="milstein",
    calculus="ito",
    orders=_orders(diagonal=1.0, scalar=1.0),
    drift=_AT_START,
    diffusion=Evaluations(((0, Weights()), _SUPPORT)),
    solution=Weights((1,), (("W", (1, 0)), ("chi1", (-1, 1)))),
    reference="Kloeden, Platen 1992, equation (11.1.3)",  # derivative-free
)

# The square of the noise has a mean, and with it the error of the one-sided difference that the
# book takes: of order 1/2 where the diffusion is not linear. The symmetric one has order 1.
_MILSTEIN_STRATONOVICH = StochasticTableau(
    name="milstein_stratonovich",
    calculus="stratonovich",
    orders=_orders(diagonal=1.0, scalar=1.0),
    drift=_AT_START,
    diffusion=Evaluations(((0, Weights()), _SUPPORT, (0, Weights((), (("root", (-1,)),))))),
    solution=Weights((1,), (("W", (1, 0, 0)), ("square", row("0 1/2 -1/2")))),
    reference="Kloeden, Platen 1992, section 11.1",
)

_LAMBA = "Lamba, Mattingly, Stuart, doi:10.1093/imanum/drl032"

_LAMBA_EM = StochasticTableau(
    name="lamba_em",
    calculus="ito",
    orders=_orders(diagonal=0.5, scalar=0.5),
    drift=Evaluations(((0, Weights()), (1, Weights((1,))))),
    diffusion=Evaluations(((0, Weights()), _SUPPORT)),
    solution=Weights((1,), _W),
    error=Weights(row("-1/2 1/2"), (("chi1", (-1, 1)),)),
    reference=_LAMBA,
)

_LAMBA_EULER_HEUN = StochasticTableau(
    name="lamba_euler_heun",
    calculus="stratonovich",
    orders=_orders(diagonal=1.0, scalar=1.0),
    drift=Evaluations(((0, Weights()), _PREDICTED, (1, Weights((1,))))),
    diffusion=Evaluations(((0, Weights()), _PREDICTED, _SUPPORT)),
    solution=Weights(row("1/2 1/2"), (("W", row("1/2 1/2")),)),
    error=Weights(row("-1/2 0 1/2"), (("square", (-1, 0, 1)),)),
    error_order=1.0,
    reference=_LAMBA,
)

_ROESSLER = "doi:10.1137/09076636X"  # Roessler 2010
_RACKAUCKAS = "Rackauckas, Nie, doi:10.1109/HPEC.2018.8547527"  # arXiv:1804.04344

_SRIW1 = _sri(
    "sriw1",
    a0="; 3/4; ;",
    a1="; 1/4; 1; 0 0 1/4",
    b0="; 3/2; ;",
    b1="; 1/2; -1; -5 3 1/2",
    alpha="1/3 2/3",
    beta="-1 4/3 2/3 0; -1 4/3 -1/3 0; 2 -4/3 -2/3 0; -2 5/3 -2/3 1",
    error="1/6 1/6",
    reference=_ROESSLER,
)

_SRIW2 = _sri(
    "sriw2",
    a0="; 1; 1/4 1/4;",
    a1="; 1/4; 1; 0 0 1/4",
    b0="; 0; 1 1/2;",
    b1="; -1/2; 1; 2 -1 1/2",
    alpha="1/6 1/6 2/3",
    beta="-1 4/3 2/3 0; 1 -4/3 1/3 0; 2 -4/3 -2/3 0; -2 5/3 -2/3 1",
    reference=_ROESSLER,
)

_SOSRI = _sri(
    "sosri",
    a0="""; -0.04199224421316468; 2.842612915017106 -2.0527723684000727;
       4.338237071435815 -2.8895936137439793 2.3017575594644466""",
    a1="""; 0.26204282091330466; 0.20903646383505375 -0.1502377115150361;
       0.05836595312746999 0.6149440396332373 0.08535117634046772""",
    b0="""; -0.21641093549612528; 1.5336352863679572 0.26066223492647056;
       -1.0536037558179159 1.7015284721089472 -0.20725685784180017""",
    b1="""; -0.5119011827621657; 2.67767339866713 -4.9395031322250995;
       0.15580956238299215 3.2361551006624674 -1.4223118283355949""",
    alpha="1.140099274172029 -0.6401334255743456 0.4736296532772559 0.026404498125060714",
    beta="""-1.8453464565104432 2.688764531100726 -0.2523866501071323 0.40896857551684956;
       0.4969658141589478 -0.5771202869753592 -0.12919702470322217 0.2093514975196336;
       2.8453464565104425 -2.688764531100725 0.2523866501071322 -0.40896857551684945;
       0.11522663875443433 -0.57877086147738 0.2857851028163886 0.17775911990655704""",
    reference=_RACKAUCKAS,
)

_SOSRI2 = _sri(
    "sosri2",
    a0="""; 0.13804532298278663; 0.5818361298250374 0.4181638701749618;
       0.4670018408674211 0.8046204792187386 -0.27162232008616016""",
    a1="""; 0.45605532163856893; 0.7555807846451692 0.24441921535482677;
       0.6981181143266059 0.3453277086024727 -0.04344582292908241""",
    b0="""; 0.08852381537667678; 1.0317752458971061 0.4563552922077882;
       1.73078280444124 -0.46089678470929774 -0.9637509618944188""",
    b1="""; 0.6753186815412179; -0.07452812525785148 -0.49783736486149366;
       -0.5591906709928903 0.022696571806569924 -0.8984927888368557""",
    alpha="-0.15036858140642623 0.7545275856696072 0.686995463807979 -0.2911544680711602",
    beta="""-0.45315689727309133 0.8330937231303951 0.3792843195533544 0.24077885458934192;
       -0.4994383733810986 0.9181786186154077 -0.25613778661003145 -0.16260245862427797;
       1.4531568972730915 -0.8330937231303933 -0.3792843195533583 -0.24077885458934023;
       -0.4976090683622265 0.9148155835648892 -1.4102107084476505 0.9930041932449877""",
    c0="0 0.13804532298278663 1 1",
    stability_size=10.6,
    reference=_RACKAUCKAS,
)

_SRA1 = _sra(
    "sra1",
    a0="; 3/4",
    b0="; 3/2",
    alpha="1/3 2/3",
    beta="1 0; -1 1",
    c1="1 0",
    reference=_ROESSLER,
)

_SRA2 = _sra(
    "sra2",
    a0="; 3/4",
    b0="; 3/2",
    alpha="1/3 2/3",
    beta="0 1; 3/2 -3/2",
    c1="1/3 1",
    reference=_ROESSLER,
)

_SRA3 = _sra(
    "sra3",
    a0="; 1; 1/4 1/4",
    b0="; ; 1 1/2",
    alpha="1/6 1/6 2/3",
    beta="1 0 0; -1 1 0",
    c1="1 0 0",
    reference=_ROESSLER,
)

_SOSRA = _sra(
    "sosra",
    a0="; 0.6923962376159507; -3.1609142252828395 4.1609142252828395",
    b0="; 1.3371632704399763; 1.442371048468624 1.8632741501139225",
    alpha="0.2889874966892885 0.6859880440839937 0.025024459226717772",
    beta="""-16.792534242221663 17.514995785380226 0.27753845684143835;
       0.4237535769069274 0.6010381474428539 -1.0247917243497813""",
    c1="0 0.041248171110700504 1",
    reference=_RACKAUCKAS,
)

_SOSRA2 = _sra(
    "sosra2",
    a0="; 1; 0.9511849235504364 0.04881507644956362",
    b0="; 0.7686101171003622; 0.43886792994934987 0.7490415909204886",
    alpha="0.4999999999999998 -0.9683897375354181 1.4683897375354185",
    beta="""0 0.92438032145683 0.07561967854316998;
       1 -0.8169981105823436 -0.18300188941765633""",
    c1="0 1 1",
    stability_size=5.3,
    reference=_RACKAUCKAS,
)

_FOSTER = "Foster, dos Reis, Strange, doi:10.1137/23M155147X"  # arXiv:2210.17543

_SEA = _additive("sea", 1.0, a="", w=row("1/2"), h=row("1"), b="1", reference=_FOSTER)

_SHARK = _additive(
    "shark",
    1.5,
    a="; 5/6",
    w=row("0 5/6"),
    h=row("1 1"),
    b="2/5 3/5",
    error="-3/5 3/5",
    reference=_FOSTER,
)

_SRA1_H = _additive(
    "sra1_h",
    1.5,
    a="; 3/4",
    w=row("0 3/4"),
    h=row("0 3/2"),
    b="1/3 2/3",
    error="-2/3 2/3",
    reference=_FOSTER,  # SRA1 with the space-time Levy area of the step
)

_GENERAL_SHARK = _general(
    "general_shark",
    _orders(**_COMMUTATIVE, additive=1.5),
    c=row("0 0 5/6"),
    a="; 0; 0 5/6",
    w="; 0; 0 5/6",
    h="; 1; 1 0",
    b="0 2/5 3/5",
    b_w="0 2/5 3/5",
    b_h="0 6/5 -6/5",
    reference=_FOSTER,
)

_X1: Number = (3 - 3**0.5) / 6
_X2: Number = 3**0.5 / 3
_SPARK_ERROR = (_X1 - 0.5, _X2, _X1 - 0.5)
_SPARK_STAGES = _evaluations(
    row("0 1/2 1"),
    rows("; 1/2; 0 1"),
    ("W", rows("; 1/2; 0 1")),
    ("H", ((), (3**0.5,), ())),
)

_SPARK = StochasticTableau(
    name="spark",
    calculus="stratonovich",
    orders=_orders(**_COMMUTATIVE, additive=1.5),
    drift=_SPARK_STAGES,
    diffusion=_SPARK_STAGES,
    solution=Weights((_X1, _X2, _X1), (("W", (_X1, _X2, _X1)), ("H", (1, 0, -1)))),
    error=Weights(_SPARK_ERROR, (("W", _SPARK_ERROR), ("H", (1, 0, -1)))),
    error_order=1.0,
    reference=_FOSTER,
)

_SLOWRK = _general(
    "slowrk",
    _orders(diagonal=1.5, scalar=1.5, general=0.5, additive=1.5),
    c=row("0 1/2 1/2 1/2 1/2 3/4 1"),
    a="; 1/2; 1/2; 1/2; 1/2; 3/4; 1",
    w="; ; 0 1/2; 0 0 1/2; 0 0 0 1; 0 0 0 3/4; 0 0 1/2",
    h="; ; ; ; ; 0 0 0 3/2;",
    b="1/3 0 0 0 0 2/3",
    b_w="0 1/6 1/3 1/3 1/6",
    b_h="0 0 0 2 0 0 -2",
    reference=_FOSTER,
)

ENTRIES: tuple[tuple[StochasticMethod, tuple[str, ...]], ...] = (
    (_EULER_MARUYAMA, ("em",)),
    (_STOCHASTIC_HEUN, ()),
    (_EULER_HEUN, ()),
    (_MILSTEIN, ("milstein_ito", "rkmil")),
    (_MILSTEIN_STRATONOVICH, ()),
    (_LAMBA_EM, ()),
    (_LAMBA_EULER_HEUN, ()),
    (_SRIW1, ()),
    (_SRIW2, ()),
    (_SOSRI, ()),
    (_SOSRI2, ()),
    (_SRA1, ()),
    (_SRA2, ()),
    (_SRA3, ()),
    (_SOSRA, ()),
    (_SOSRA2, ()),
    (_SEA, ()),
    (_SHARK, ()),
    (_SRA1_H, ()),
    (_GENERAL_SHARK, ()),
    (_SPARK, ()),
    (_SLOWRK, ()),
    (ReversibleHeun(), ()),
)
