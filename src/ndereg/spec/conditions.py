"""Order conditions of Runge–Kutta methods, derived from rooted trees.

A method has order p exactly when, for every rooted tree with at most p vertices, the weighted sum
of its elementary weights equals the reciprocal of the tree's density (Butcher; Hairer, Nørsett &
Wanner I, section II.2). The same trees decide the order of an embedded row, of the rows of an
error estimate (which have to annihilate them) and, with powers of theta on the right, of an
interpolant.

All sums are evaluated exactly, in integers over a common denominator. When every coefficient is an
exact fraction a condition has to hold exactly; otherwise it has to hold within what the rounding of
the coefficients themselves can do, see :func:`ndereg.spec.tableau.rounding_unit`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from itertools import combinations_with_replacement, islice
from typing import NoReturn

from ndereg.spec.stability import stability_size
from ndereg.spec.tableau import Number, Tableau, rounding_unit

__all__ = ["Condition", "Tree", "check", "order_conditions", "rooted_trees"]

_Row = Sequence[Number]


@dataclass(frozen=True)
class Tree:
    """A rooted tree: the subtrees that hang on its root, in a canonical order.

    Examples
    --------
    >>> leaf = Tree()
    >>> cherry = Tree((leaf, leaf))
    >>> cherry.order, cherry.density
    (3, 3)
    """

    subtrees: tuple[Tree, ...] = ()

    @cached_property
    def order(self) -> int:
        """Number of vertices."""
        return 1 + sum(subtree.order for subtree in self.subtrees)

    @cached_property
    def density(self) -> int:
        """Product of the orders of all subtrees, the tree itself included."""
        return self.order * math.prod(subtree.density for subtree in self.subtrees)

    @cached_property
    def _hash(self) -> int:
        return hash(self.subtrees)

    # Trees key the table of elementary weights; hashing them anew would descend to the leaves.
    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True)
class Condition:
    """The order condition of one rooted tree; prints like ``sum b_i c_i a_ij c_j = 1/8``."""

    tree: Tree

    @property
    def order(self) -> int:
        """The order to which a method has to satisfy it."""
        return self.tree.order

    @property
    def value(self) -> Fraction:
        """What the sum has to be."""
        return Fraction(1, self.tree.density)

    def __str__(self) -> str:
        return f"sum {self.summand('b_i')} = {self.value}"

    def summand(self, weight: str) -> str:
        """Write the product that is summed, with `weight` as the factor of the root."""
        indices = iter("jklmnopqrstuvwxyz")
        return " ".join([weight, *_factors(self.tree, "i", indices)])


def _factors(tree: Tree, index: str, indices: Iterator[str]) -> list[str]:
    leaves = sum(not subtree.subtrees for subtree in tree.subtrees)
    factors = [f"c_{index}" if leaves == 1 else f"c_{index}^{leaves}"] if leaves else []
    for subtree in tree.subtrees:
        if subtree.subtrees:
            below = next(indices)
            factors += [f"a_{index}{below}", *_factors(subtree, below, indices)]
    return factors


@cache
def rooted_trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees with `order` vertices: 1, 1, 2, 4, 9, 20, 48, 115 of them, and so on."""
    return tuple(Tree(subtrees) for subtrees in _forests(order - 1, order - 1))


@cache
def _forests(vertices: int, largest: int) -> tuple[tuple[Tree, ...], ...]:
    """All multisets of trees of at most `largest` vertices each, `vertices` in all."""
    if vertices == 0:
        return ((),)
    if largest == 0:
        return ()
    found: list[tuple[Tree, ...]] = []
    for count in range(vertices // largest + 1):
        for rest in _forests(vertices - count * largest, largest - 1):
            if count == 0:
                found.append(rest)
                continue
            # Smaller subtrees first, so that leaves (the powers of c) are read first.
            for chosen in combinations_with_replacement(rooted_trees(largest), count):
                found.append(rest + chosen)
    return tuple(found)


@cache
def order_conditions(order: int) -> tuple[Condition, ...]:
    """All conditions of a method of this order, those of lower orders first.

    Examples
    --------
    >>> print(*order_conditions(3), sep="; ")
    sum b_i = 1; sum b_i c_i = 1/2; sum b_i c_i^2 = 1/3; sum b_i a_ij c_j = 1/6
    """
    return tuple(Condition(tree) for q in range(1, order + 1) for tree in rooted_trees(q))


def check(tableau: Tableau) -> None:
    """Raise unless `tableau` satisfies everything that it claims.

    Checked are the order conditions of the propagated row, of the embedded row and of the
    interpolant, each to its own order; that the rows of the error estimate annihilate the trees of
    the orders below their own, and that a single one equals ``b - b_embedded``; that the
    interpolant ends at the propagated solution; and that a `stability_size` given by hand is within
    one per cent of the derived one. (That ``c`` equals the row sums of ``a`` is checked when a
    tableau is made.)

    Every coefficient enters at least one of these sums by itself, with a factor of 1: those of
    ``a`` and ``c`` the sum of their row, those of ``b``, ``b_embedded`` and the error rows the sum
    of theirs, those of the interpolant the sum over all stages of their power of theta. A change
    of one coefficient alone is therefore always detected, whatever its part in the higher
    conditions; what these see besides is a change of several.

    Raises
    ------
    ValueError
        Naming the violated condition, its value and the expected one.

    Examples
    --------
    >>> check(Tableau("wrong", 2, a=((), (1,)), b=(0.5, 0.25)))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: tableau 'wrong', propagated row: expected sum b_i = 1, received 0.75; try ...
    """
    sums = _sums(tableau)
    # Condition by condition instead of sum by sum: most mistakes show in the first one.
    for condition in order_conditions(max(part.order for part in sums)):
        for part in sums:
            part.check(tableau.name, condition)
    _check_error(tableau)
    _check_end(tableau)
    derived = stability_size(tableau.a, tableau.b)
    if tableau.stability_size is not None and not math.isclose(
        tableau.stability_size, derived, rel_tol=0.01
    ):
        raise ValueError(
            f"tableau {tableau.name!r}: expected stability_size = {derived:.6g}, which follows "
            f"from the coefficients, received {tableau.stability_size!r}; try None"
        )


class _Weights:
    """A row of weights as integers over a common denominator."""

    def __init__(self, row: _Row) -> None:
        exact = [Fraction(entry) for entry in row]
        self.unit = rounding_unit(row)
        self.denominator = math.lcm(*(entry.denominator for entry in exact))
        # Among rounded numbers an exact fraction may be rounded too, far below their uncertainty;
        # the common denominator of all of them could have thousands of digits.
        if self.unit and self.denominator > (coarse := math.ceil(1 / self.unit**2)):
            self.denominator = coarse
        self.numerators = [round(entry * self.denominator) for entry in exact]


class _ElementaryWeights:
    """The elementary weights of all stages, tree by tree.

    For a tree of order q they are kept as integers, to be divided by ``denominator ** (q - 1)``,
    each with its magnitude: the same sum of products over the absolute values of ``a``.
    """

    def __init__(self, a: Sequence[_Row]) -> None:
        entries = _Weights([entry for row in a for entry in row])
        self.unit = entries.unit
        self._denominator = entries.denominator
        numerators = iter(entries.numerators)
        self._rows = [
            [(j, entry) for j, entry in enumerate(islice(numerators, len(row))) if entry]
            for row in a
        ]
        self._known: dict[Tree, list[tuple[int, int]]] = {}

    def _stages(self, tree: Tree) -> list[tuple[int, int]]:
        known = self._known.get(tree)
        if known is None:
            known = [(1, 1)] * len(self._rows)
            for subtree in tree.subtrees:
                below = self._stages(subtree)
                for index, row in enumerate(self._rows):
                    value, magnitude = known[index]
                    value *= sum(entry * below[j][0] for j, entry in row)
                    magnitude *= sum(abs(entry) * below[j][1] for j, entry in row)
                    known[index] = value, magnitude
            self._known[tree] = known
        return known

    def sum(self, tree: Tree, weights: _Weights) -> tuple[Fraction, Fraction]:
        """Return the weighted sum over all stages, and how far it may be off.

        A sum of products of q coefficients, each uncertain by a relative `unit`, is uncertain by q
        times that, relative to the sum of the magnitudes; twice as much is granted, because tables
        are not always rounded correctly in the last digit.
        """
        stages = self._stages(tree)
        scale = weights.denominator * self._denominator ** (tree.order - 1)
        pairs = list(zip(weights.numerators, stages, strict=True))
        value = sum(weight * stage[0] for weight, stage in pairs if weight)
        unit = weights.unit if tree.order == 1 else max(weights.unit, self.unit)
        if not unit:
            return Fraction(value, scale), Fraction(0)
        magnitude = sum(abs(weight) * stage[1] for weight, stage in pairs if weight)
        return Fraction(value, scale), 2 * tree.order * unit * Fraction(magnitude, scale)


@dataclass(frozen=True)
class _Sum:
    """A row of weights whose sums over the elementary weights are prescribed up to an order.

    They are the conditions' own values, unless the row `annihilates`, as one of an error estimate
    does, or holds the coefficients of one `power` of theta in the weights of an interpolant.
    """

    part: str
    factor: str
    elementary: _ElementaryWeights
    weights: _Weights
    order: int
    annihilates: bool = False
    power: int | None = None

    def check(self, tableau: str, condition: Condition) -> None:
        if condition.order > self.order:
            return
        received, tolerance = self.elementary.sum(condition.tree, self.weights)
        vanishes = self.annihilates or self.power not in (None, condition.order)
        expected = Fraction(0) if vanishes else condition.value
        if abs(received - expected) > tolerance:
            text = f"sum {condition.summand(self.factor)} = {expected}"
            if self.power is not None:
                text = f"the coefficient of theta^{self.power} in {text}"
            _raise(tableau, self.part, text, received)


def _sums(tableau: Tableau) -> list[_Sum]:
    """Everything that order conditions say about a tableau."""
    elementary = _ElementaryWeights(tableau.a)
    sums = [_Sum("propagated row", "b_i", elementary, _Weights(tableau.b), tableau.order)]
    if tableau.b_embedded is not None and tableau.embedded_order is not None:
        weights, order = _Weights(tableau.b_embedded), tableau.embedded_order
        sums.append(_Sum("embedded row", "b_embedded_i", elementary, weights, order))
    for row, order in zip(tableau.error or (), tableau.error_row_orders, strict=True):
        sums.append(_Sum("error row", "e_i", elementary, _Weights(row), order, annihilates=True))
    if tableau.a_dense:
        elementary = _ElementaryWeights(tableau.dense_a)
    assert tableau.interpolant_order is not None  # filled in when the tableau was made
    order = tableau.interpolant_order
    degree = len(tableau.dense_weights[0])
    for power in range(1, max(degree, order) + 1):
        # A polynomial of too low a degree has no weights for the last powers of its order.
        column = [row[power - 1] for row in tableau.dense_weights] if power <= degree else []
        weights = _Weights(column or [0] * len(tableau.dense_weights))
        sums.append(_Sum("interpolant", "b_i(theta)", elementary, weights, order, power=power))
    return sums


def _check_error(tableau: Tableau) -> None:
    """Check that a single error row is the difference of the two solutions."""
    if tableau.error is None or tableau.b_embedded is None or len(tableau.error) == 2:
        return
    rows = zip(tableau.error[0], tableau.b, tableau.b_embedded, strict=True)
    unit = rounding_unit((*tableau.error[0], *tableau.b, *tableau.b_embedded))
    for index, (received, b, embedded) in enumerate(rows):
        expected = Fraction(b) - Fraction(embedded)
        if abs(Fraction(received) - expected) > 2 * unit * (abs(Fraction(b)) + abs(expected)):
            text = f"error[0][{index}] = b[{index}] - b_embedded[{index}] = {float(expected):.17g}"
            _raise(tableau.name, "error row", text, Fraction(received))


def _check_end(tableau: Tableau) -> None:
    """Check that the interpolant is the propagated solution at the end of the step."""
    for index, row in enumerate(tableau.dense_weights):
        end = tableau.b[index] if index < tableau.stages else 0
        expected = Fraction(end)
        received = sum((Fraction(entry) for entry in row), Fraction(0))
        magnitude = sum((abs(Fraction(entry)) for entry in row), abs(expected))
        if abs(received - expected) > 2 * rounding_unit((*row, end)) * magnitude:
            text = f"the weight of stage {index + 1} at theta = 1 to be {float(expected):.17g}"
            _raise(tableau.name, "interpolant", text, received)


def _raise(tableau: str, part: str, expected: str, received: Fraction) -> NoReturn:
    raise ValueError(
        f"tableau {tableau!r}, {part}: expected {expected}, received {float(received):.17g}; "
        "try the coefficients as published, or the order that they have"
    )
