"""Rooted trees, the conditions read off them, and what `check` refuses."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest

from ndereg.spec.conditions import Condition, Tree, check, order_conditions, rooted_trees
from ndereg.spec.tableau import Tableau

HALF = Fraction(1, 2)
HEUN = Tableau("heun", 2, ((), (1,)), (HALF, HALF), b_embedded=(1, 0), embedded_order=1)
RK4 = Tableau(
    "rk4",
    4,
    ((), (HALF,), (0, HALF), (0, 0, 1)),
    (Fraction(1, 6), Fraction(1, 3), Fraction(1, 3), Fraction(1, 6)),
)


def symmetry(tree):
    """Order of the group of automorphisms of a tree."""
    counts = Counter(tree.subtrees)
    return math.prod(symmetry(t) ** m * math.factorial(m) for t, m in counts.items())


def canonical(tree):
    return tuple(sorted(canonical(subtree) for subtree in tree.subtrees))


def test_numbers_of_rooted_trees():
    # OEIS A000081
    counts = [len(rooted_trees(order)) for order in range(1, 11)]
    assert counts == [1, 1, 2, 4, 9, 20, 48, 115, 286, 719]
    assert len(order_conditions(8)) == 200


@pytest.mark.parametrize("order", range(1, 9))
def test_trees_are_distinct_and_of_their_order(order):
    trees = rooted_trees(order)
    assert all(tree.order == order for tree in trees)
    assert len({canonical(tree) for tree in trees}) == len(trees)


@pytest.mark.parametrize("order", range(1, 10))
def test_monotonic_labellings_add_up(order):
    # order! / (density symmetry) labellings of each tree, (order - 1)! of all of them together.
    labellings = [
        Fraction(math.factorial(order), tree.density * symmetry(tree))
        for tree in rooted_trees(order)
    ]
    assert all(count.denominator == 1 for count in labellings)
    assert sum(labellings) == math.factorial(order - 1)


def test_conditions_print_as_the_mathematics():
    assert [str(condition) for condition in order_conditions(4)] == [
        "sum b_i = 1",
        "sum b_i c_i = 1/2",
        "sum b_i c_i^2 = 1/3",
        "sum b_i a_ij c_j = 1/6",
        "sum b_i c_i^3 = 1/4",
        "sum b_i c_i a_ij c_j = 1/8",
        "sum b_i a_ij c_j^2 = 1/12",
        "sum b_i a_ij a_jk c_k = 1/24",
    ]
    texts = [str(condition) for condition in order_conditions(8)]
    assert len(set(texts)) == 200


def test_a_condition_knows_its_order_and_value():
    leaf = Tree()
    condition = Condition(Tree((leaf, Tree((leaf,)))))
    assert (condition.order, condition.value) == (4, Fraction(1, 8))
    assert condition.summand("e_i") == "e_i c_i a_ij c_j"


def evaluate(text, a, weights):
    """Sum a printed condition over all its indices: an evaluation that knows no trees."""
    factors = text.removeprefix("sum ").split(" = ")[0].split()
    indices = sorted({letter for factor in factors for letter in factor.split("_")[1][:2]} - {"^"})
    c = [sum(row) for row in a]
    stages = len(weights)
    table = [list(row) + [0] * (stages - len(row)) for row in a]
    total = Fraction(0)
    for number in range(stages ** len(indices)):
        at = {}
        for letter in indices:
            number, at[letter] = divmod(number, stages)
        product = Fraction(1)
        for factor in factors:
            name, below = factor.split("_")
            letters, _, power = below.partition("^")
            if name == "b":
                product *= weights[at[letters]]
            elif name == "c":
                product *= c[at[letters]] ** int(power or 1)
            else:
                product *= table[at[letters[0]]][at[letters[1]]]
        total += product
    return total


def test_printed_conditions_hold_when_summed_naively():
    for condition in order_conditions(4):
        assert evaluate(str(condition), RK4.a, RK4.b) == condition.value


@pytest.mark.parametrize("order", [1, 2, 3])
def test_check_rejects_exactly_what_the_printed_conditions_reject(order):
    # Heun of order 3 has order 3; its rows perturbed in a direction of the kernel of the first
    # conditions have order 1 or 2.
    third = Fraction(1, 3)
    a = ((), (third,), (0, 2 * third))
    for b in (
        (Fraction(1, 4), Fraction(0), Fraction(3, 4)),
        (Fraction(1, 2), Fraction(-HALF), Fraction(1)),
        (Fraction(0), HALF, HALF),
    ):
        holds = all(evaluate(str(q), a, b) == q.value for q in order_conditions(order))
        # The interpolant is claimed to be of order 1 only, which all of them have.
        claim = Tableau("drawn", order, a, b, interpolant_order=1)
        if holds:
            check(claim)
        else:
            with pytest.raises(ValueError, match="propagated row"):
                check(claim)


def test_good_tableaux_pass():
    for tableau in (HEUN, RK4):
        check(tableau)


@pytest.mark.parametrize(
    ("tableau", "changes", "message"),
    [
        (RK4, {"order": 5}, r"propagated row: expected sum b_i c_i\^4 = 1/5, received 0.208"),
        (HEUN, {"b": (1, 0)}, "propagated row: expected sum b_i c_i = 1/2, received 0;"),
        (HEUN, {"embedded_order": 2}, "embedded row: expected sum b_embedded_i c_i = 1/2"),
        (HEUN, {"b_embedded": (0, 1), "error": None}, None),
        (HEUN, {"b_embedded": (0, 1)}, r"error row: expected error\[0\]\[0\] = b\[0\]"),
        (HEUN, {"error": ((1, 0),)}, "error row: expected sum e_i = 0, received 1;"),
        (HEUN, {"error": ((1, -1),)}, r"error row: expected error\[0\]\[0\] = "),
        (
            RK4,
            {"interpolant_order": 4},
            r"interpolant: expected the coefficient of theta\^2 in sum b_i\(theta\) c_i\^3 = 0",
        ),
        (
            HEUN,
            {"a_dense": (), "c_dense": (), "interpolant": ((1, 0), (0, 1))},
            r"the coefficient of theta\^2 in sum b_i\(theta\) = 0, received 1;",
        ),
        (
            HEUN,
            {"a_dense": (), "c_dense": (), "interpolant": ((1,), (0,))},
            r"the coefficient of theta\^2 in sum b_i\(theta\) c_i = 1/2, received 0",
        ),
        (
            HEUN,
            {
                "a_dense": (),
                "c_dense": (),
                "interpolant": ((1,), (0,)),
                "interpolant_order": 1,
            },
            "interpolant: expected the weight of stage 1 at theta = 1 to be 0.5, received 1",
        ),
        (RK4, {"stability_size": 2.5}, "stability_size = 2.78529, .* received 2.5; try None"),
        (RK4, {"stability_size": 2.79}, None),
    ],
)
def test_violations_are_named(tableau, changes, message):
    changed = replace(tableau, **changes)
    if message is None:
        check(changed)
        return
    with pytest.raises(ValueError, match=message) as caught:
        check(changed)
    assert str(caught.value).startswith(f"tableau {tableau.name!r}")
    assert "; try " in str(caught.value)


def test_rows_of_two_error_estimates_have_orders_of_their_own():
    third = Fraction(1, 3)
    rows = ((), (third,), (0, 2 * third))
    b = (Fraction(1, 4), 0, Fraction(3, 4))
    second, first = (1, -2, 1), (1, -1, 0)
    good = Tableau("two", 3, rows, b, error=(second, first), embedded_order=2, error_order=4)
    assert good.error_row_orders == (2, 1)
    check(good)
    with pytest.raises(ValueError, match=r"error row: expected sum e_i c_i = 0"):
        check(replace(good, error=(first, second)))


@pytest.mark.parametrize("size", [1e-6, 1e-9, 1e-12])
def test_rounded_coefficients_are_checked_to_their_rounding(size):
    rows = ((), (1 / 3,), (0.0, 2 / 3))
    good = Tableau("heun3", 3, rows, (0.25, 0.0, 0.75))
    check(good)
    for b in ((0.25 + size, 0.0, 0.75 - size), (0.25, size, 0.75 - size)):
        with pytest.raises(ValueError, match="propagated row"):
            check(Tableau("heun3", 3, rows, b))


def test_exact_coefficients_have_to_be_exact():
    rows = ((), (Fraction(1, 3),), (0, Fraction(2, 3)))
    check(Tableau("heun3", 3, rows, (Fraction(1, 4), 0, Fraction(3, 4))))
    tiny = Fraction(1, 3**200)
    with pytest.raises(ValueError, match="sum b_i c_i = 1/2"):
        check(Tableau("heun3", 3, rows, (Fraction(1, 4) + tiny, 0, Fraction(3, 4) - tiny)))
