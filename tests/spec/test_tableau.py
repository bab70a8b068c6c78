"""Tableaux: what is derived from the coefficients, and which shapes are refused."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndereg.spec.stability import stability_polynomial, stability_size
from ndereg.spec.tableau import Tableau, rounding_unit

HALF = Fraction(1, 2)
EULER = Tableau("euler", 1, ((),), (1,))
HEUN = Tableau("heun", 2, ((), (1,)), (HALF, HALF), b_embedded=(1, 0), embedded_order=1)
RK4 = Tableau(
    "rk4",
    4,
    ((), (HALF,), (0, HALF), (0, 0, 1)),
    (Fraction(1, 6), Fraction(1, 3), Fraction(1, 3), Fraction(1, 6)),
)
BOSH3 = Tableau(
    "bosh3",
    3,
    (
        (),
        (HALF,),
        (0, Fraction(3, 4)),
        (Fraction(2, 9), Fraction(1, 3), Fraction(4, 9)),
    ),
    (Fraction(2, 9), Fraction(1, 3), Fraction(4, 9), 0),
    b_embedded=(Fraction(7, 24), Fraction(1, 4), Fraction(1, 3), Fraction(1, 8)),
    embedded_order=2,
)


def test_abscissae_are_the_row_sums():
    assert BOSH3.c == (0, HALF, Fraction(3, 4), 1)
    assert replace(RK4, c=None).c == (0, HALF, HALF, 1)


def test_error_row_is_the_difference_of_the_solutions():
    assert HEUN.error == ((-HALF, HALF),)
    assert (HEUN.adaptive, HEUN.error_order, HEUN.error_row_orders) == (True, 2, (1,))
    assert (RK4.adaptive, RK4.error, RK4.error_order, RK4.error_row_orders) == (
        False,
        None,
        None,
        (),
    )


def test_difference_of_exact_rows_stays_exact():
    exact = replace(HEUN, b=(1, 0), b_embedded=(Fraction(1, 3), Fraction(2, 3)), error=None)
    assert exact.error == ((Fraction(2, 3), Fraction(-2, 3)),)
    assert all(isinstance(entry, Fraction) for entry in exact.error[0])


def test_orders_of_two_error_rows_follow_from_their_combination():
    tableau = Tableau("two", 8, ((),), (1,), error=((1,), (1,)), embedded_order=5, error_order=8)
    assert tableau.error_row_orders == (5, 3)


@pytest.mark.parametrize(
    ("tableau", "fsal", "ssal", "pair"),
    [
        (EULER, False, False, None),
        (HEUN, False, False, None),
        (RK4, False, False, (1, 2)),
        (BOSH3, True, True, None),
    ],
)
def test_reuse_of_stages_is_derived(tableau, fsal, ssal, pair):
    assert (tableau.fsal, tableau.ssal, tableau.stiffness_pair) == (fsal, ssal, pair)


def test_solution_stage_need_not_be_the_last_one():
    rows = ((), (HALF,), (HALF, HALF), (0, 0, HALF))
    tableau = Tableau("ssal", 1, rows, (HALF, HALF, 0, 0))
    assert (tableau.solution_stage, tableau.ssal, tableau.fsal) == (2, True, False)


def test_last_stage_away_from_the_end_of_the_step_is_not_reused():
    inconsistent = Tableau("short", 1, ((), (HALF,)), (HALF, 0))
    assert inconsistent.ssal
    assert not inconsistent.fsal
    assert replace(inconsistent, order=2, interpolant=None, interpolant_order=None).c_dense == (
        HALF,
    )


def test_stiffness_pair_is_the_last_one_and_sees_through_rounding():
    rows = ((), (0.3,), (0.1, 0.2), (1.0, 0, 0), (0.7, 0.1, 0.1, 0.1))
    tableau = Tableau("pairs", 1, rows, (1, 0, 0, 0, 0))
    assert tableau.c[1] != tableau.c[2]
    assert tableau.stiffness_pair == (3, 4)
    assert replace(tableau, a=rows[:3], c=None, b=(1, 0, 0), interpolant=None).stiffness_pair == (
        1,
        2,
    )


def test_interpolant_of_order_one_is_linear():
    assert (EULER.interpolant, EULER.interpolant_order, EULER.a_dense) == (((1,),), 1, ())


@pytest.mark.parametrize(("tableau", "order", "extra"), [(HEUN, 2, 1), (RK4, 3, 1), (BOSH3, 3, 0)])
def test_hermite_interpolant(tableau, order, extra):
    assert tableau.interpolant_order == order
    assert len(tableau.a_dense) == extra
    assert len(tableau.dense_weights) == len(tableau.dense_a) == len(tableau.dense_c)
    assert tableau.dense_c[-1] == 1
    assert tableau.dense_a[-1][: tableau.stages - 1] == tableau.b[: tableau.stages - 1]
    for index, row in enumerate(tableau.dense_weights):
        last = index == len(tableau.dense_weights) - 1
        slope_at_start, slope_at_end = row[0], row[0] + 2 * row[1] + 3 * row[2]
        assert slope_at_start == (index == 0)
        assert slope_at_end == last
        assert sum(row) == (tableau.b[index] if index < tableau.stages else 0)


def test_hermite_interpolant_of_bosh3_is_the_published_one():
    assert BOSH3.interpolant == (
        (1, Fraction(-4, 3), Fraction(5, 9)),
        (0, 1, Fraction(-2, 3)),
        (0, Fraction(4, 3), Fraction(-8, 9)),
        (0, -1, 1),
    )


def test_lists_become_tuples():
    tableau = Tableau("lists", 2, [[], [1]], [0.5, 0.5], c=[0, 1])
    assert tableau.a == ((), (1,))
    assert hash(tableau) == hash(Tableau("lists", 2, ((), (1,)), (0.5, 0.5)))


@pytest.mark.parametrize("tableau", [EULER, HEUN, RK4, BOSH3])
def test_copies_and_pickles_are_equal(tableau):
    for other in (pickle.loads(pickle.dumps(tableau)), copy.deepcopy(tableau), replace(tableau)):
        assert other == tableau
        assert hash(other) == hash(tableau)


def test_tableaux_are_frozen_and_print_briefly():
    with pytest.raises(AttributeError):
        RK4.order = 5
    assert repr(RK4) == "<Tableau 'rk4': order 4, 4 stages>"
    assert replace(RK4, name="other") != RK4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": ()}, "at least one row of a"),
        ({"a": ((), (1, 0))}, r"1 entries in a\[1\].*explicit"),
        ({"a": ((0,), (1,))}, r"0 entries in a\[0\]"),
        ({"b": (1,)}, "2 entries of b, one a stage, received 1"),
        ({"b": (1, "0")}, "int, Fraction or float entries of b.*'0' of type str"),
        ({"b": (True, 0)}, "entries of b, received True of type bool"),
        ({"b": (math.nan, 0)}, "finite entries of b, received nan"),
        ({"c": (0, 1, 1)}, "2 entries of c"),
        ({"c": (0, 0.999)}, r"expected c\[1\] = 1, .* received 0.999"),
        ({"c": (0, 1 + 1e-12)}, r"expected c\[1\]"),
        ({"c_dense": (HALF,)}, r"expected c_dense\[0\]"),
        ({"a_dense": ((1,),)}, r"2 entries in a_dense\[0\]"),
        ({"b_embedded": (1,)}, "2 entries of b_embedded"),
        ({"embedded_order": None}, "the order of b_embedded, received none"),
        ({"error": ()}, "one or two rows of error, received 0"),
        ({"error": ((1,),)}, "2 entries of error"),
        ({"error": ((1, -1), (1, -1)), "error_order": None}, "both with two rows"),
        ({"error": ((1, -1), (1, -1)), "error_order": 4}, "order of at least 1, received 4"),
        (
            {"b_embedded": None, "embedded_order": None, "error_order": None},
            "expected embedded_order or error_order",
        ),
        ({"interpolant": ((1,), (0,), (0, 1))}, "rows of interpolant of one length"),
        ({"interpolant": ((1,), (0,))}, "3 entries of interpolant"),
        ({"interpolant": None}, "interpolant to go with a_dense"),
        ({"interpolant_order": None}, "order of the interpolant, received none"),
        ({"order": 0}, "positive integer for order, received 0"),
        ({"embedded_order": 1.5}, "positive integer for embedded_order, received 1.5"),
        ({"stability_size": -1.0}, "stability_size of at least 0, received -1.0"),
    ],
)
def test_malformed_tableaux_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        replace(HEUN, **changes)
    assert "tableau 'heun': expected " in str(caught.value)
    assert "received" in str(caught.value)
    assert "; try " in str(caught.value)


def test_rounding_unit():
    thirds = [Fraction(1, 3), Fraction(2, 3)]
    long_decimal = Fraction("0." + "3" * 30)
    assert rounding_unit([0, 1.0, Fraction("0.161"), *thirds]) == 0
    assert rounding_unit([*thirds, 0.1]) == Fraction(1, 2**52)
    assert rounding_unit([*thirds, long_decimal]) == Fraction(1, 10**28)
    assert rounding_unit([Fraction(1, 3**40), Fraction(1, 7**30), Fraction(1, 2**60)]) == 0


def test_stability_polynomials():
    assert stability_polynomial(RK4.a, RK4.b) == tuple(
        Fraction(1, math.factorial(k)) for k in range(5)
    )
    assert stability_polynomial(BOSH3.a, BOSH3.b) == tuple(
        Fraction(1, math.factorial(k)) for k in range(4)
    )
    assert stability_polynomial(((),), (0,)) == (1,)


def test_stability_sizes():
    assert stability_size(((),), (1,)) == 2.0
    assert stability_size(((),), (0,)) == math.inf
    assert stability_size(((),), (-1,)) == 0.0
    assert stability_size(((),), (1e-3,)) == pytest.approx(2000.0, rel=1e-12)
    # The Chebyshev polynomial T_s(1 + z / s^2) is stable down to -2 s^2, touching 1 on the way.
    assert stability_size(((), (Fraction(1, 8),)), (0, 1)) == pytest.approx(8.0)


fractions = st.fractions(-3, 3, max_denominator=50)


@st.composite
def tableaux(draw):
    stages = draw(st.integers(1, 5))
    rows = tuple(tuple(draw(fractions) for _ in range(i)) for i in range(stages))
    b = tuple(draw(fractions) for _ in range(stages))
    return Tableau("drawn", draw(st.integers(1, 3)), rows, b)


@given(tableaux())
def test_any_explicit_tableau_is_complete(tableau):
    assert pickle.loads(pickle.dumps(tableau)) == tableau
    assert replace(tableau) == tableau
    total = len(tableau.dense_a)
    assert len(tableau.dense_c) == len(tableau.dense_weights) == total
    assert [len(row) for row in tableau.dense_a] == list(range(total))
    for index, row in enumerate(tableau.dense_weights):
        assert sum(row) == (tableau.b[index] if index < tableau.stages else 0)


@given(tableaux(), st.floats(0.0, 1.0))
def test_the_interval_of_stability_is_stable(tableau, fraction):
    size = tableau.stability_size
    polynomial = stability_polynomial(tableau.a, tableau.b)
    if size == math.inf:
        assert len(polynomial) == 1
        return

    def magnitude(x):
        return abs(float(sum(r * Fraction(-x) ** k for k, r in enumerate(polynomial))))

    assert magnitude(size * (1 - 1e-12)) <= 1 + 1e-9
    assert magnitude(size + 1e-6 * max(size, 1)) > 1 - 1e-9
    # Only a region that closes and opens again within a step of the search may be overlooked.
    middle = size * fraction
    near = [magnitude(max(middle + shift / 64, 0.0)) for shift in (-1, 0, 1)]
    assert min(near) <= 1 + 1e-9
