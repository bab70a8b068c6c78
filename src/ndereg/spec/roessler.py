"""Order conditions of strong order 1.5, for methods of Roessler's SRI and SRA forms.

They are those of A. Roessler (2010), Runge-Kutta methods for the strong approximation of solutions
of stochastic differential equations, SIAM J. Numer. Anal. 48(3), theorems 5.1 and 6.1
(doi:10.1137/09076636X). With ``e`` a column of ones, ``A0`` and ``B0`` are the weights of drifts
and noise in the arguments of the drift, ``A1`` and ``B1`` those in the arguments of the diffusion,
``alpha`` the weights of the drifts in the new state, and ``beta1`` to ``beta4`` those of the
diffusions, for each of the variables of the noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ndereg.spec.tableau import Number

Rows = Sequence[Sequence[Number]]
Condition = tuple[str, float, float]
"""What it is about, its value, and what that has to be."""


def sra_conditions(
    a0: Rows, b0: Rows, c1: Sequence[Number], alpha: Sequence[Number], beta: Rows
) -> Iterator[Condition]:
    """Yield the conditions of order 1.5 for additive noise, beyond the sums of the weights.

    Examples
    --------
    Of SRA1:

    >>> found = sra_conditions(((), (3/4,)), ((), (3/2,)), (1, 0), (1/3, 2/3), ((1, 0), (-1, 1)))
    >>> all(value == wanted for _, value, wanted in found)
    True
    """
    beta1, beta2 = beta
    start, noise = _sums(a0), _sums(b0)
    yield "alpha A0 e", _dot(alpha, start), 1 / 2
    yield "alpha B0 e", _dot(alpha, noise), 1.0
    yield "alpha (B0 e)^2", _dot(alpha, noise, noise), 3 / 2
    yield "beta1 c1", _dot(beta1, c1), 1.0
    yield "beta2 c1", _dot(beta2, c1), -1.0


def sri_conditions(
    matrices: Mapping[str, Rows], alpha: Sequence[Number], beta: Rows
) -> Iterator[Condition]:
    """Yield the conditions of order 1.5 for diagonal and scalar noise, beyond the sums.

    ``matrices`` are those named ``A0``, ``A1``, ``B0`` and ``B1``.
    """
    a1, b1 = matrices["A1"], matrices["B1"]
    start, noise = _sums(matrices["A0"]), _sums(matrices["B0"])
    start1, noise1 = _sums(a1), _sums(b1)
    yield "alpha A0 e", _dot(alpha, start), 1 / 2
    yield "alpha B0 e", _dot(alpha, noise), 1.0
    yield "alpha (B0 e)^2", _dot(alpha, noise, noise), 3 / 2
    twice = [_dot(line, noise1) for line in b1]
    for number, (row, of_a1, of_b1, of_square, of_twice) in enumerate(
        zip(beta, (1, 0, -1, 0), (0, 1, 0, 0), (1, 0, -1, 2), (0, 0, 0, 1), strict=True), 1
    ):
        yield f"beta{number} A1 e", _dot(row, start1), of_a1
        yield f"beta{number} B1 e", _dot(row, noise1), of_b1
        yield f"beta{number} (B1 e)^2", _dot(row, noise1, noise1), of_square
        yield f"beta{number} B1 B1 e", _dot(row, twice), of_twice
    mixed = [_dot(line, noise) for line in a1]
    yield (
        "beta1 A1 B0 e / 2 + beta3 A1 B0 e / 3",
        (_dot(beta[0], mixed) / 2 + _dot(beta[2], mixed) / 3),
        0.0,
    )


def _sums(matrix: Rows) -> list[float]:
    return [float(sum(line)) for line in matrix]


def _dot(*rows: Sequence[Number]) -> float:
    """Sum of the products of what rows have in the same place; short ones end in zeros."""
    total = 0.0
    for numbers in zip(*rows, strict=False):
        product = 1.0
        for number in numbers:
            product *= float(number)
        total += product
    return total
