"""Rows of exact coefficients, written down the way that tables print them."""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["row", "rows"]


def row(text: str) -> tuple[Fraction, ...]:
    r"""Exact numbers from a text such as ``"1/2 -0.25 3"``, blanks and newlines between them.

    A decimal becomes the fraction that it spells, not the nearest float. A backslash at the end of
    a line continues a long number on the next line.

    Examples
    --------
    >>> row("1/2 -0.25 3")
    (Fraction(1, 2), Fraction(-1, 4), Fraction(3, 1))
    """
    return tuple(Fraction(entry) for entry in re.sub(r"\\\s+", "", text).split())


def rows(text: str) -> tuple[tuple[Fraction, ...], ...]:
    """Rows of exact numbers, a semicolon between them; a row without numbers is empty.

    Examples
    --------
    >>> rows("; 1/2; -1 2")
    ((), (Fraction(1, 2),), (Fraction(-1, 1), Fraction(2, 1)))
    """
    return tuple(row(part) for part in text.split(";"))
