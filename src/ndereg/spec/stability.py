"""How far along the negative real axis an explicit method is stable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

Row = Sequence[int | Fraction | float]


def stability_polynomial(a: Sequence[Row], b: Row) -> tuple[Fraction, ...]:
    """Coefficients of the stability polynomial, ``R(z) = sum_k r_k z**k``.

    A step of size h of the method takes ``y' = lambda y`` from ``y`` to ``R(lambda h) y``;
    ``r_0 = 1`` and ``r_k = b a^(k-1) 1``. Trailing zeros are dropped.

    Examples
    --------
    >>> stability_polynomial(((), (1,)), (Fraction(1, 2), Fraction(1, 2)))
    (Fraction(1, 1), Fraction(1, 1), Fraction(1, 2))
    """
    rows = [[Fraction(entry) for entry in row] for row in a]
    weights = [Fraction(entry) for entry in b]
    powers = [Fraction(1)] * len(weights)
    polynomial = [Fraction(1)]
    for _ in weights:
        polynomial.append(sum((w * p for w, p in zip(weights, powers, strict=True)), Fraction(0)))
        powers = [
            sum((x * p for x, p in zip(row, powers, strict=False) if x), Fraction(0))
            for row in rows
        ]
    while len(polynomial) > 1 and polynomial[-1] == 0:
        polynomial.pop()
    return tuple(polynomial)


def stability_size(a: Sequence[Row], b: Row) -> float:
    """Length of the interval of stability on the negative real axis.

    That is the largest ``x`` such that ``abs(R(-u)) <= 1`` for all ``u`` in ``[0, x]``, where
    ``R`` is the stability polynomial; infinite when R is constant, 0 when a (then inconsistent)
    method leaves the region at once. Where it leaves for less than 1/64 is not seen.

    Examples
    --------
    >>> stability_size(((),), (1,))
    2.0
    """
    polynomial = [float(entry) for entry in stability_polynomial(a, b)]
    if len(polynomial) == 1:
        return math.inf

    def outside(x: float) -> bool:
        value = 0.0
        for coefficient in reversed(polynomial):
            value = value * -x + coefficient
        return abs(value) > 1.0

    step = 1 / 64
    inside, beyond = 0.0, step
    while not outside(beyond):
        if beyond > 1e100:
            return math.inf
        # Coefficients of the usual size leave the region below twice the squared number of stages.
        inside, beyond = beyond, beyond + step * max(1.0, beyond / (2 * len(a) ** 2))
    while True:
        middle = (inside + beyond) / 2
        if middle in (inside, beyond):
            return inside if inside > 1e-12 else 0.0
        if outside(middle):
            beyond = middle
        else:
            inside = middle
