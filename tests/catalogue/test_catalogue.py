"""The catalogue: every entry against its conditions, the literature and other libraries.

That a coefficient is wrong is noticed three times over: by `check`, whose first conditions
contain each coefficient by itself (`test_every_corrupted_coefficient_is_refused`); by the measured
orders of convergence; and by the digests, which also cover what no condition sees, such as another
method of the same order.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import fields, replace
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest

from ndereg import catalogue
from ndereg.catalogue import lookup, names, register
from ndereg.catalogue.notation import row, rows
from ndereg.spec.conditions import check
from ndereg.spec.tableau import Tableau

# name: order, embedded order, orders of the error rows, their k, order of the interpolant, stages,
# extra stages, FSAL, stages of the stiffness estimate (counted from 0)
PROPERTIES = {
    "euler": (1, None, (), None, 1, 1, 0, False, None),
    "midpoint": (2, None, (), None, 2, 2, 1, False, None),
    "heun": (2, None, (), None, 2, 2, 1, False, None),
    "ralston": (2, None, (), None, 2, 2, 1, False, None),
    "rk4": (4, None, (), None, 3, 4, 1, False, (1, 2)),
    "rk38": (4, None, (), None, 3, 4, 1, False, None),
    "heun_euler": (2, 1, (1,), 2, 2, 2, 1, False, None),
    "bosh3": (3, 2, (2,), 3, 3, 4, 0, True, None),
    "fehlberg45": (5, 4, (4,), 5, 3, 6, 1, False, None),
    "cash_karp": (5, 4, (4,), 5, 3, 6, 1, False, None),
    "dopri5": (5, 4, (4,), 5, 4, 7, 0, True, (5, 6)),
    "tsit5": (5, 4, (4,), 5, 4, 7, 0, True, (5, 6)),
    "vern6": (6, 5, (5,), 6, 6, 9, 3, True, (7, 8)),
    "vern7": (7, 6, (6,), 7, 6, 10, 6, False, (8, 9)),
    "vern8": (8, 7, (7,), 8, 8, 13, 8, False, (11, 12)),
    "dopri8": (8, 5, (5, 3), 8, 7, 13, 3, True, (11, 12)),
}
ADAPTIVE = [name for name, properties in PROPERTIES.items() if properties[2]]

# Lengths of the intervals of stability as OrdinaryDiffEq.jl gives them, to the digits given.
STABILITY_SIZES = {
    "euler": (2.0, 1e-12),
    "heun": (2.0, 1e-12),
    "ralston": (2.0, 1e-12),
    "midpoint": (2.0, 1e-12),
    "rk4": (2.785293563405282, 1e-12),
    "rk38": (2.785293563405282, 1e-12),
    "heun_euler": (2.0, 1e-12),
    "bosh3": (2.5127453266183286, 1e-12),
    "fehlberg45": (3.6777, 1e-4),
    "cash_karp": (3.73436, 1e-5),
    "dopri5": (3.3066, 1e-4),
    "tsit5": (3.5068469938, 1e-9),
    "vern6": (4.8553, 1e-4),
    "vern7": (4.64, 1e-4),
    "vern8": (5.8641, 1e-4),
    # Not among them; from the stability polynomial of the coefficients of SciPy's DOP853.
    "dopri8": (6.393652, 1e-6),
}

DIGESTS = {
    "euler": "490d66f02e0a5f43",
    "midpoint": "f784f050fa36a99b",
    "heun": "eb8ea825959a23ba",
    "ralston": "f76b88cdd8263da3",
    "rk4": "99cfc715b3f8eb33",
    "rk38": "261ea2366c3cbaa9",
    "heun_euler": "44b1a654ef519af4",
    "bosh3": "b14d50a85be5bfe4",
    "fehlberg45": "3927fad30ab5e550",
    "cash_karp": "1721fb4288caa755",
    "dopri5": "af07ddf696074432",
    "tsit5": "fadf28eaf7cf6369",
    "vern6": "2c08b1075d458a91",
    "vern7": "8eccf054dd91176e",
    "vern8": "c0af333408a3fbb1",
    "dopri8": "57af454d29864084",
}


def digest(tableau: Tableau) -> str:
    """Hash the exact value of every field."""

    def text(value):
        if isinstance(value, tuple):
            return "(" + ",".join(map(text, value)) + ")"
        return str(Fraction(value)) if isinstance(value, int | float | Fraction) else str(value)

    # The last digits of the derived size of stability may differ between machines.
    kept = [field.name for field in fields(tableau) if field.name != "stability_size"]
    written = ";".join(f"{name}={text(getattr(tableau, name))}" for name in kept)
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def floats(tableau: Tableau) -> Tableau:
    """The same method with every coefficient rounded."""

    def rounded(value):
        if isinstance(value, tuple):
            return tuple(map(rounded, value))
        return float(value)

    names_ = ("a", "b", "c", "b_embedded", "error", "a_dense", "c_dense", "interpolant")
    changes = {name: getattr(tableau, name) for name in names_}
    return replace(tableau, **{name: rounded(v) for name, v in changes.items() if v is not None})


def test_nothing_is_missing():
    assert names()[: len(PROPERTIES)] == tuple(PROPERTIES)


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_entry_satisfies_its_conditions(name):
    check(lookup(name))
    check(floats(lookup(name)))


@pytest.mark.parametrize("name", PROPERTIES)
def test_no_entry_claims_less_than_it_has(name):
    tableau = lookup(name)
    claims = ["order", "interpolant_order"] + ["embedded_order"] * tableau.adaptive
    error_order = tableau.error_order if len(tableau.error or ()) == 2 else None
    for claim in claims:
        more = {claim: getattr(tableau, claim) + 1, "error_order": error_order}
        with pytest.raises(ValueError, match="expected"):
            check(replace(tableau, **more))


@pytest.mark.parametrize("name", PROPERTIES)
def test_derived_properties(name):
    t = lookup(name)
    assert (
        t.order,
        t.embedded_order,
        t.error_row_orders,
        t.error_order,
        t.interpolant_order,
        t.stages,
        len(t.a_dense),
        t.fsal,
        t.stiffness_pair,
    ) == PROPERTIES[name]
    assert t.adaptive == bool(t.error_row_orders)
    assert t.ssal == t.fsal
    assert t.reference


@pytest.mark.parametrize("name", PROPERTIES)
def test_stability_size(name):
    value, tolerance = STABILITY_SIZES[name]
    assert lookup(name).stability_size == pytest.approx(value, abs=tolerance)


@pytest.mark.parametrize("name", PROPERTIES)
def test_digest(name):
    assert digest(lookup(name)) == DIGESTS[name]


def corruptions(tableau: Tableau, size: Fraction):
    """All copies of the tableau's fields with one coefficient changed."""
    for name in ("a", "b", "c", "b_embedded", "error", "a_dense", "c_dense", "interpolant"):
        value = getattr(tableau, name)
        if value is None:
            continue
        nested = value if name in ("a", "error", "a_dense", "interpolant") else (value,)
        for i, entries in enumerate(nested):
            for j, entry in enumerate(entries):
                wrong = Fraction(entry) * (1 + size) if entry else size
                wrong = float(wrong) if isinstance(entry, float) else wrong
                changed = (*entries[:j], wrong, *entries[j + 1 :])
                whole = (*nested[:i], changed, *nested[i + 1 :])
                yield f"{name}[{i}][{j}]", {name: whole if nested is value else whole[0]}


@pytest.mark.parametrize("rounding", ["exact", "float"])
@pytest.mark.parametrize("name", PROPERTIES)
def test_every_corrupted_coefficient_is_refused(name, rounding):
    tableau, size = lookup(name), Fraction(1, 10**9)
    if rounding == "float":
        tableau, size = floats(tableau), Fraction(1, 10**6)
    count = 0
    for where, changes in corruptions(tableau, size):
        count += 1
        try:
            check(replace(tableau, **changes))
        except ValueError:
            continue
        pytest.fail(f"{name}: {where} changed by {float(size)} was not noticed")
    stages, total = tableau.stages, len(tableau.dense_a)
    rows_ = 1 + (tableau.b_embedded is not None) + len(tableau.error or ())
    degree = len(tableau.dense_weights[0])
    assert count == total * (total - 1) // 2 + total + rows_ * stages + total * degree


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_row_of_stages_enters_a_condition_beyond_its_sum(name):
    # One coefficient and its abscissa changed together, so that the sum of the row agrees.
    tableau = lookup(name)
    for group, abscissae in (("a", "c"), ("a_dense", "c_dense")):
        given = getattr(tableau, group)
        for i, entries in enumerate(given):
            for j, entry in enumerate(entries):
                step = Fraction(1, 1000)
                c = getattr(tableau, abscissae)
                changes = {
                    group: (
                        *given[:i],
                        (*entries[:j], entry + step, *entries[j + 1 :]),
                        *given[i + 1 :],
                    ),
                    abscissae: (*c[:i], c[i] + step, *c[i + 1 :]),
                    "stability_size": None,
                }
                with pytest.raises(ValueError, match="expected"):
                    check(replace(tableau, **changes))


@pytest.mark.parametrize("name", ADAPTIVE)
def test_swapping_the_two_solutions_is_refused(name):
    tableau = lookup(name)
    if tableau.b_embedded is None:
        swapped = replace(tableau, error=tableau.error[::-1])
    else:
        swapped = replace(tableau, b=tableau.b_embedded, b_embedded=tableau.b)
    with pytest.raises(ValueError, match="expected"):
        check(swapped)


# Orders of convergence, measured with 60 digits on one step of a system that is neither linear nor
# autonomous nor separable. The reference is its Taylor series, by Picard iteration.


def field(t, y):
    u, v, w = y
    return [v * w + t, u * w - u * u / 3 + t * t * v, -u * v / 2 + w * w / 5 - t]


START = ("1.1", "0.7", "-0.4")


def taylor(order):
    """Coefficients of the solution's Taylor series at t = 0."""
    zero = Decimal(0)
    series = [[Decimal(value)] + [zero] * order for value in START]

    def times(p, q, n):
        return sum((p[k] * q[n - k] for k in range(n + 1)), zero)

    for n in range(order):
        u, v, w = series
        t2v = v[n - 2] if n >= 2 else zero
        t = Decimal(n == 1)
        series[0][n + 1] = (times(v, w, n) + t) / (n + 1)
        series[1][n + 1] = (times(u, w, n) - times(u, u, n) / 3 + t2v) / (n + 1)
        series[2][n + 1] = (-times(u, v, n) / 2 + times(w, w, n) / 5 - t) / (n + 1)
    return series


def numbers(entries):
    return [Decimal(Fraction(e).numerator) / Fraction(e).denominator for e in entries]


def one_step(tableau, h):
    """Derivatives of all stages, the extra ones included, of a step from the start."""
    y = [Decimal(value) for value in START]
    stages = []
    for entries, c in zip(tableau.dense_a, numbers(tableau.dense_c), strict=True):
        weights = numbers(entries)
        g = [
            y[n] + h * sum(w * k[n] for w, k in zip(weights, stages, strict=True)) for n in range(3)
        ]
        stages.append(field(c * h, g))
    return y, stages


def distance(y, stages, h, weights, exact):
    sums = [sum(w * k[n] for w, k in zip(weights, stages, strict=False)) for n in range(3)]
    return max(abs(y[n] + h * sums[n] - exact[n]) for n in range(3))


def local_errors(tableau, h, series):
    """Errors after one step: of the solution, the embedded one, the error rows, the interpolant."""
    y, stages = one_step(tableau, h)
    found = {}

    def exact(theta):
        return [sum(r * (theta * h) ** k for k, r in enumerate(entries)) for entries in series]

    found["order"] = distance(y, stages, h, numbers(tableau.b), exact(1))
    if tableau.b_embedded is not None:
        found["embedded_order"] = distance(y, stages, h, numbers(tableau.b_embedded), exact(1))
    for index, entries in enumerate(tableau.error or ()):
        found[f"error {index}"] = distance(y, stages, h, numbers(entries), y)
    theta = Decimal("0.37")
    weights = [
        sum(w * theta ** (m + 1) for m, w in enumerate(numbers(entries)))
        for entries in tableau.dense_weights
    ]
    found["interpolant_order"] = distance(y, stages, h, weights, exact(theta))
    return found


@pytest.mark.parametrize("name", PROPERTIES)
def test_measured_orders_of_convergence(name):
    tableau = lookup(name)
    # The coefficients of DOP853 have 30 digits, which short steps would show; the leading error of
    # vern6 is so small that longer ones do not show it.
    steps = {"dopri8": 100, "vern6": 10_000}.get(name, 1000)
    with localcontext(prec=60):
        series = taylor(30)
        h = Decimal(1) / steps
        coarse, fine = local_errors(tableau, h, series), local_errors(tableau, h / 2, series)
        measured = {key: math.log2(coarse[key] / fine[key]) - 1 for key in coarse}
    for key, slope in measured.items():
        if key.startswith("error"):
            expected = tableau.error_row_orders[int(key[-1])]
        else:
            expected = getattr(tableau, key)
        assert slope == pytest.approx(expected, abs=0.2), key


# Names.


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("Tsit5", "tsit5"),
        ("TSIT5 ", "tsit5"),
        ("rk45", "dopri5"),
        ("DP5", "dopri5"),
        ("Dormand-Prince", "dopri5"),
        ("dop853", "dopri8"),
        ("bogacki_shampine", "bosh3"),
        ("Bogacki-Shampine", "bosh3"),
        ("rk23", "bosh3"),
        ("cashkarp", "cash_karp"),
        ("Cash-Karp", "cash_karp"),
        ("heun-euler", "heun_euler"),
        ("rkf45", "fehlberg45"),
        ("verner7", "vern7"),
        ("forward euler", "euler"),
    ],
)
def test_other_names(alias, name):
    assert lookup(alias) is lookup(name)
    assert lookup(name).name == name


def test_unknown_names_get_suggestions():
    with pytest.raises(ValueError, match=r"received 'tist5'; did you mean 'tsit5'.*try one of eul"):
        lookup("tist5")
    with pytest.raises(ValueError, match=r"received 'xyzzy'; try one of euler, midpoint"):
        lookup("xyzzy")
    with pytest.raises(ValueError, match="received 5 of type int; try 'tsit5'"):
        lookup(5)


@pytest.fixture
def registry(monkeypatch):
    """The catalogue as it is, restored afterwards."""
    for name in ("_tableaux", "_aliases", "_checked"):
        monkeypatch.setattr(catalogue, name, getattr(catalogue, name).copy())


@pytest.mark.usefixtures("registry")
def test_registering_a_method():
    ssprk3 = Tableau(
        "SSP-RK3", 3, rows("; 1; 1/4 1/4"), row("1/6 1/6 2/3"), reference="Shu & Osher 1988"
    )
    register(ssprk3, aliases=("Shu-Osher",))
    assert lookup("ssp_rk3") is ssprk3
    assert lookup("shu osher") is ssprk3
    assert names()[-1] == "ssp_rk3"
    register(ssprk3)
    with pytest.raises(ValueError, match="'ssp_rk3' for a tableau that differs"):
        register(replace(ssprk3, order=2))


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("taken", ["tsit5", "TSIT5", "dop853", "Cash-Karp"])
def test_names_are_not_taken_over(taken):
    mine = replace(lookup("heun"), name=taken)
    with pytest.raises(ValueError, match="try another name"):
        register(mine)
    with pytest.raises(ValueError, match="try another name"):
        register(replace(mine, name="mine"), aliases=(mine.name,))


@pytest.mark.usefixtures("registry")
def test_wrong_methods_are_not_registered():
    wrong = Tableau("wrong", 3, rows("; 1; 1/4 1/4"), row("1/6 1/3 1/2"))
    with pytest.raises(
        ValueError, match=r"tableau 'wrong', propagated row: expected sum b_i c_i ="
    ):
        register(wrong)
    assert "wrong" not in names()
    with pytest.raises(ValueError, match="received an empty one"):
        register(replace(lookup("heun"), name=" "))


def test_notation():
    assert row(" 1/2 -0.25\n 3e-1 ") == (Fraction(1, 2), Fraction(-1, 4), Fraction(3, 10))
    assert row("12\\\n    34/\\\n    5") == (Fraction(1234, 5),)
    assert rows("; 1; 2\n 3") == ((), (1,), (2, 3))
    with pytest.raises(ValueError, match="Invalid literal"):
        row("1,2")
