"""Hypothesis strategies for everything that a solve is made of.

They shrink to what one would write by hand: few stages, small fractions, short expressions, a
single array. Needs Hypothesis (``pip install hypothesis``).
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

try:
    from hypothesis import strategies as st
except ImportError as error:  # pragma: no cover - the message is the point
    raise ImportError(
        "expected Hypothesis for random problems, received an environment without it; try "
        "pip install hypothesis, or cross-check a field of your own"
    ) from error

from ndereg.catalogue import lookup, names
from ndereg.catalogue.controllers import CONTROLLERS
from ndereg.catalogue.serving import offers
from ndereg.spec.controller import ConstantStep, Controller, PIDController
from ndereg.spec.regularizer import (
    REDUCTIONS,
    Combination,
    ErrorEstimate,
    Regularizer,
    StiffnessEstimate,
    Term,
)
from ndereg.spec.spec import Batch
from ndereg.spec.stochastic import NoiseKind, StochasticMethod
from ndereg.spec.tableau import Tableau
from ndereg.structure import LEAF, flatten
from ndereg.testing.example import Example
from ndereg.testing.expressions import (
    DrawnField,
    Expression,
    StateShape,
    arguments_read,
    bounded,
    templates,
)
from ndereg.testing.families import Family, StochasticFamily

__all__ = [
    "batches",
    "controllers",
    "diffusions",
    "examples",
    "families",
    "fields",
    "methods",
    "output_times",
    "regularizers",
    "spans",
    "states",
    "stochastic_examples",
    "stochastic_families",
    "tableaux",
    "terms",
    "tolerances",
]

Method = str | Tableau | StochasticMethod
_HALF, _THIRD = Fraction(1, 2), Fraction(1, 3)


@st.composite
def tableaux(draw: st.DrawFn) -> Tableau:
    """Explicit pairs of order 2 in two stages, 3 in three and 4 in four, with free parameters.

    Each has an embedded row of lower order that is a free multiple away from the propagated one;
    some have the new state as a further stage (FSAL), which then takes part in the embedded row.
    The general solutions are in Hairer, Norsett & Wanner I, section II.1.
    """
    order = draw(st.sampled_from([2, 3, 4]))
    a, b = {2: _second, 3: _third, 4: _fourth}[order](draw)
    fsal = draw(st.booleans())
    if fsal:
        a, b = (*a, b), (*b, Fraction(0))
    c = [sum(row, Fraction(0)) for row in a]
    # entries that sum to zero, also when weighted by c: added to b, they keep its order 2
    row = [Fraction(0)] * len(b)
    last = len(b) - 1
    embedded_order = 1 if order == 2 else 2
    if embedded_order == 1:
        row[0], row[last] = Fraction(-1), Fraction(1)
    else:
        row[last] = Fraction(1)
        row[1] = -c[last] / c[1]
        row[0] = -row[1] - 1
    scale = draw(st.sampled_from([_HALF, Fraction(1, 6), Fraction(-1, 4)]))
    embedded = tuple(p + scale * q for p, q in zip(b, row, strict=True))
    name = f"drawn of order {order}{' (FSAL)' if fsal else ''}"
    return Tableau(name, order, a, b, b_embedded=embedded, embedded_order=embedded_order)


_Parts = tuple[tuple[tuple[Fraction, ...], ...], tuple[Fraction, ...]]


def _second(draw: st.DrawFn) -> _Parts:
    c = draw(st.fractions(Fraction(1, 4), Fraction(1), max_denominator=12))
    return ((), (c,)), (1 - _HALF / c, _HALF / c)


def _third(draw: st.DrawFn) -> _Parts:
    u = draw(st.fractions(Fraction(1, 4), _HALF, max_denominator=9))
    v = draw(st.fractions(Fraction(3, 4), Fraction(1), max_denominator=9))
    b3 = (_THIRD - u / 2) / (v * (v - u))
    b2 = (_HALF - b3 * v) / u
    a32 = Fraction(1, 6) / (b3 * u)
    return ((), (u,), (v - a32, a32)), (1 - b2 - b3, b2, b3)


def _fourth(draw: st.DrawFn) -> _Parts:
    """Two free abscissae, the last one 1 (Kutta 1901)."""
    u = draw(st.fractions(Fraction(1, 4), Fraction(2, 5), max_denominator=9))
    v = draw(st.fractions(Fraction(3, 5), Fraction(3, 4), max_denominator=9))
    common = 6 * u * v - 4 * (u + v) + 3
    b2 = (2 * v - 1) / (12 * u * (v - u) * (1 - u))
    b3 = (1 - 2 * u) / (12 * v * (v - u) * (1 - v))
    b4 = common / (12 * (1 - u) * (1 - v))
    a32 = v * (v - u) / (2 * u * (1 - 2 * u))
    a42 = (1 - u) * (u + v - 1 - (2 * v - 1) ** 2) / (2 * u * (v - u) * common)
    a43 = (1 - 2 * u) * (1 - u) * (1 - v) / (v * (v - u) * common)
    rows = ((), (u,), (v - a32, a32), (1 - a42 - a43, a42, a43))
    return rows, (1 - b2 - b3 - b4, b2, b3, b4)


def methods(adaptive: bool | None = None) -> st.SearchStrategy[str | Tableau]:
    """Names of the catalogue and drawn tableaux; ``adaptive`` asks for an error estimate or none.

    Examples
    --------
    >>> from hypothesis import given
    >>> given(methods(adaptive=True))(lambda method: None)()
    """
    known = [n for n in names() if adaptive is None or lookup(n).adaptive == adaptive]
    if adaptive is False:
        return st.sampled_from(known)
    return st.one_of(tableaux(), st.sampled_from(known))


def _tableau(method: Method) -> Tableau | StochasticMethod:
    return lookup(method) if isinstance(method, str) else method


def controllers(method: str | Tableau = "tsit5") -> st.SearchStrategy[Controller | str]:
    """Controllers that a method can serve: presets by name, drawn coefficients, constant steps."""
    constant = st.sampled_from([0.5, 0.25, 0.1, 0.3]).map(ConstantStep)
    if not _tableau(method).adaptive:
        return constant
    hundredths = st.integers(0, 30).map(lambda n: n / 100)
    drawn = st.builds(
        PIDController, pcoeff=hundredths, icoeff=hundredths.map(lambda x: x + 0.2),
        dcoeff=hundredths.map(lambda x: x / 3), safety=st.sampled_from([0.9, 0.8, 1.0]),
        factor_min=st.sampled_from([0.2, 0.1, 0.5]), factor_max=st.sampled_from([10.0, 5.0, 2.0]),
    )  # fmt: skip
    return st.one_of(st.sampled_from(sorted(CONTROLLERS)), drawn, constant)


def tolerances(single: bool = False) -> st.SearchStrategy[tuple[float, float]]:
    """``(rtol, atol)``; those for single precision stay above its epsilon."""
    powers = st.integers(2, 4 if single else 9).map(lambda n: 10.0**-n)
    return st.tuples(powers, powers)


def spans() -> st.SearchStrategy[tuple[float, float]]:
    """``(t0, t1)``, forwards and backwards, of length 0.1 to 3."""
    tenths = st.integers(-20, 20).map(lambda n: n / 10)
    lengths = st.integers(1, 30).flatmap(lambda n: st.sampled_from([n / 10, -n / 10]))
    return st.tuples(tenths, lengths).map(lambda pair: (pair[0], pair[0] + pair[1]))


def batches() -> st.SearchStrategy[Batch]:
    """``"joint"`` and ``"independent"``."""
    return st.sampled_from(["joint", "independent"])


def output_times(span: tuple[float, float], most: int = 5) -> st.SearchStrategy[list[float] | None]:
    """None, or times of a span in the order of integration, its ends and repeats among them."""
    fractions = st.lists(st.sampled_from([n / 16 for n in range(17)]), min_size=1, max_size=most)
    inside = fractions.map(
        lambda found: [
            span[0] + (span[1] - span[0]) * x if x < 1 else span[1] for x in sorted(found)
        ]
    )
    return st.one_of(st.none(), inside)


def terms(method: Method = "tsit5") -> st.SearchStrategy[Term]:
    """Terms of a regularizer that a method can serve.

    Raises
    ------
    ValueError
        If it can serve none.
    """
    tableau = _tableau(method)
    reduce, flag = st.sampled_from(REDUCTIONS), st.booleans()
    found: list[st.SearchStrategy[Term]] = []
    if offers(tableau, "error"):
        found.append(st.builds(ErrorEstimate, squared=flag, reduce=reduce))
    if offers(tableau, "stiffness"):
        found.append(st.builds(StiffnessEstimate, times_step=flag, reduce=reduce))
    if not found:
        raise ValueError(
            f"expected a method with an estimate, received {tableau.name!r}; try tsit5"
        )
    return st.one_of(found)


def regularizers(method: str | Tableau = "tsit5") -> st.SearchStrategy[Regularizer | None]:
    """None, single terms, and weighted sums of terms with any reduction."""
    tableau = _tableau(method)
    if not (offers(tableau, "error") or offers(tableau, "stiffness")):
        return st.none()
    weights = st.sampled_from([1.0, 0.5, 2.0, 0.1])
    sums = st.lists(st.tuples(weights, terms(method)), min_size=1, max_size=3).map(
        lambda pairs: Combination(tuple(pairs))
    )
    return st.one_of(st.none(), terms(method), sums)


_TREES: tuple[Any, ...] = (0, {"a": 0, "b": 0}, (0, 0), [0, {"p": 0, "q": (0,)}])


@st.composite
def states(draw: st.DrawFn, batch: Batch = "joint") -> StateShape:
    """Shapes of states: single arrays, nested ones, real and complex, in either precision.

    With ``batch="independent"`` all arrays are ``(B, n)``, so that ``t`` broadcasts with them.
    """
    structure = flatten(draw(st.sampled_from(_TREES)))[1]
    single = draw(st.sampled_from([False, False, True]))
    samples = draw(st.integers(1, 3))
    width = st.integers(1, 3)
    if batch == "joint":
        shape = st.lists(width, min_size=0, max_size=2).map(tuple)
    else:
        shape = width.map(lambda n: (samples, n))
    shapes = tuple(draw(shape) for _ in range(structure.size))
    kinds = st.sampled_from(["float", "float", "complex"])
    bits = {"float": "32" if single else "64", "complex": "64" if single else "128"}
    dtypes = tuple(kind + bits[kind] for kind in (draw(kinds) for _ in range(structure.size)))
    return StateShape(structure, shapes, dtypes)


@st.composite
def fields(draw: st.DrawFn, state: StateShape | None = None, batch: Batch = "joint") -> DrawnField:
    """Fields composed of the traceable operations, bounded so that no solution blows up."""
    if state is None:
        state = draw(states(batch))
    factor = st.sampled_from([1.0, 0.5, 2.0, -1.5])
    found = []
    for leaf, (path, dtype) in enumerate(zip(state.paths, state.dtypes, strict=True)):
        nodes = templates(state, leaf, batch != "joint")
        expression = draw(_trees(path, nodes))
        decay = draw(st.sampled_from([0.5, 0.1, 1.0]))
        found.append(bounded(expression, dtype, path, draw(factor), decay))
    return DrawnField(state, tuple(found), arguments_read(state, found))


def _trees(path: str, nodes: tuple[tuple[str, int], ...]) -> st.SearchStrategy[Expression]:
    def extended(below: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
        return st.sampled_from(nodes).flatmap(
            lambda node: st.tuples(*[below] * node[1]).map(
                lambda operands: Expression(node[0], operands)
            )
        )

    return st.recursive(st.just(Expression(path)), extended, max_leaves=5)


@st.composite
def families(draw: st.DrawFn) -> Family:
    """Random problems up to what is given at run time; see :class:`Family`."""
    batch = draw(batches())
    method = draw(methods())
    tableau = _tableau(method)
    served = offers(tableau, "error") or offers(tableau, "stiffness")
    chosen = draw(st.lists(terms(method), max_size=2, unique=True)) if served else []
    return Family(
        draw(fields(batch=batch)), method, batch, tuple(chosen),
        draw(st.sampled_from([0, 0, 3])), draw(st.sampled_from([64, 64, 2])),
    )  # fmt: skip


@st.composite
def examples(draw: st.DrawFn) -> Example:
    """Random problems, ready for ``example.crosscheck()``."""
    return draw(families()).example(draw(st.integers(0, 1000)), 0)


_COLUMNS = Expression("ops.stack([{0}, {1}], axis=-1)")


@st.composite
def diffusions(draw: st.DrawFn, kind: NoiseKind, state: StateShape, batch: Batch) -> DrawnField:
    """Diffusions that fit a kind of noise; a matrix has two columns."""
    if kind == "additive":
        size = draw(st.sampled_from([0.5, 0.2, 1.0]))
        code = f"{size} * (1.0 + 0.3 * ops.sin(t)) + 0.0 * {state.paths[0]}"
        return DrawnField(state, (Expression(code),))
    found = [draw(fields(state, batch)).expressions[0] for _ in range(1 + (kind == "general"))]
    whole = found if kind != "general" else [replace(_COLUMNS, operands=tuple(found))]
    return DrawnField(state, tuple(whole), arguments_read(state, found))


_NOISES: tuple[NoiseKind, ...] = ("diagonal", "additive", "scalar", "general")


@st.composite
def stochastic_families(draw: st.DrawFn) -> StochasticFamily:
    """Random stochastic equations with every kind of noise, and a method that serves it."""
    batch = draw(batches())
    state = draw(states(batch).filter(lambda found: found.structure == LEAF))
    kind = draw(st.sampled_from(_NOISES))
    serving = [m for m in map(lookup, names("sde")) if kind in m.noises and not m.pairs]
    estimates = draw(st.booleans())
    method = draw(st.sampled_from([m for m in serving if m.adaptive == estimates]))
    adaptive = method.adaptive and draw(st.booleans())
    return StochasticFamily(
        draw(fields(state, batch)), draw(diffusions(kind, state, batch)), method.name, kind,
        draw(st.booleans()), adaptive, batch,
        (draw(terms(method)),) if method.adaptive and draw(st.booleans()) else (),
        draw(st.sampled_from([0, 0, 3])),
    )  # fmt: skip


@st.composite
def stochastic_examples(draw: st.DrawFn) -> Example:
    """Random stochastic equations, ready for ``example.crosscheck()``."""
    return draw(stochastic_families()).example(draw(st.integers(0, 1000)), 0)
