"""Butcher tableaux of explicit Runge–Kutta methods, as plain Python numbers.

A :class:`Tableau` holds the coefficients of one method and derives from them everything else that a
solver wants to know: whether the last stage can be reused as the first one of the next step (FSAL),
which two stages serve the stiffness estimate, how far along the negative real axis the method is
stable, and the polynomials that interpolate inside a step. Nothing that follows from the
coefficients has to be declared.

Coefficients are exact (``int`` or :class:`fractions.Fraction`) wherever the literature has them
exactly. Whether they are *right* is decided by :func:`ndereg.spec.conditions.check`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from statistics import median_low
from typing import Any

from ndereg.spec.stability import stability_size

__all__ = ["Number", "Tableau", "rounding_unit"]

Number = int | Fraction | float
Row = tuple[Number, ...]

# A terminating decimal with at least this many significant digits is taken for a rounded value of
# something irrational; a shorter one (such as 0.161) for an exact value.
_LONG_DECIMAL = 15


@dataclass(frozen=True, eq=True, repr=False)
class Tableau:
    """The coefficients of an explicit Runge–Kutta method with ``s`` stages.

    Whatever is left at ``None`` is derived when the object is made, so that every field of a
    finished tableau has its value. Mind this with :func:`dataclasses.replace`: fields derived from
    the old coefficients are handed on to the copy, and have to be replaced with them.

    Parameters
    ----------
    name
        Name under which the catalogue finds the method.
    order
        Order of the propagated solution.
    a
        ``s`` rows; row ``i`` (counted from 0) has ``i`` entries.
    b
        Weights of the propagated solution, ``s`` entries.
    c
        Abscissae, ``s`` entries. ``None``: the sums of the rows of ``a``. When given they must
        agree with these sums.
    b_embedded
        Weights of the solution that the propagated one is compared with.
    embedded_order
        Order of the embedded solution; with two rows of ``error``, of the first row's.
    error
        Rows of the error estimate. ``None``: the one row ``b - b_embedded``, if there is one. Two
        rows stand for the combination of DOP853: with ``e5`` and ``e3`` the norms of the two
        estimates, the error is ``e5**2 / sqrt(e5**2 + 0.01 * e3**2)``.
    error_order
        The ``k`` such that the estimate behaves like ``h**k``, of which a controller takes the
        k-th root. ``None``: ``min(order, embedded_order) + 1``.
    a_dense
        Extra stages, evaluated only when the interpolant is needed; row ``j`` has ``s + j``
        entries.
    c_dense
        Abscissae of the extra stages. ``None``: the sums of the rows of ``a_dense``.
    interpolant
        One row a stage, the extra ones included: row ``i`` holds the coefficients of
        ``theta, theta**2, ...`` of the weight ``b_i(theta)``, so that
        ``y(t + theta h) = y + h * sum_i b_i(theta) k_i``. ``None``: linear for a method of order 1,
        otherwise the cubic Hermite polynomial through both ends of the step, with one extra stage
        at the end of the step when the method is not FSAL.
    interpolant_order
        The ``p`` such that the interpolant has local error O(h^(p+1)) everywhere in the step.
    stability_size
        Length of the interval of stability on the negative real axis. ``None``: derived by
        :func:`stability_size`.
    reference
        Where the coefficients were published.

    Raises
    ------
    ValueError
        When shapes disagree, a coefficient is not finite, or ``c`` contradicts the rows of ``a``.

    Examples
    --------
    >>> from fractions import Fraction
    >>> half = Fraction(1, 2)
    >>> heun = Tableau("heun", 2, a=((), (1,)), b=(half, half), b_embedded=(1, 0), embedded_order=1)
    >>> heun.c, heun.error, heun.fsal, heun.stability_size
    ((0, 1), ((Fraction(-1, 2), Fraction(1, 2)),), False, 2.0)
    """

    name: str
    order: int
    a: tuple[Row, ...]
    b: Row
    c: Row | None = None
    b_embedded: Row | None = None
    embedded_order: int | None = None
    error: tuple[Row, ...] | None = None
    error_order: int | None = None
    a_dense: tuple[Row, ...] = ()
    c_dense: Row | None = None
    interpolant: tuple[Row, ...] | None = None
    interpolant_order: int | None = None
    stability_size: float | None = None
    reference: str = ""

    def __post_init__(self) -> None:
        self._take_numbers()
        _expect_explicit(self.name, "a", self.a, 0)
        _expect_length(self.name, "b", self.b, len(self.a))
        self._complete_abscissae()
        self._complete_error()
        if self.interpolant is None:
            self._derive_interpolant()
        self._expect_interpolant()
        if self.stability_size is None:
            self._set("stability_size", stability_size(self.a, self.b))
        elif not self.stability_size >= 0:
            raise ValueError(
                f"tableau {self.name!r}: expected a stability_size of at least 0, received "
                f"{self.stability_size!r}; try None, which derives it from the coefficients"
            )
        self._set("_hash", hash(tuple(getattr(self, field.name) for field in fields(self))))

    # The hash is kept: a tableau has hundreds of fractions and is part of every key of the cache
    # of compiled solves. It stays out of pickles: hashes of strings differ between processes.
    def __hash__(self) -> int:
        kept: int = self.__dict__["_hash"]
        return kept

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    def __repr__(self) -> str:
        return f"<Tableau {self.name!r}: order {self.order}, {self.stages} stages>"

    @property
    def stages(self) -> int:
        """Number of stages of a step, without those that only the interpolant needs."""
        return len(self.b)

    @property
    def adaptive(self) -> bool:
        """Whether there is an error estimate."""
        return self.error is not None

    @property
    def error_row_orders(self) -> tuple[int, ...]:
        """For each row of the error estimate, the order of the trees that it annihilates.

        With two rows, the norms ``e5 = O(h**(p + 1))`` and ``e3 = O(h**(q + 1))`` are combined to
        ``e5**2 / e3 = O(h**(2 (p + 1) - (q + 1)))``, so that the second order follows from the
        first and from `error_order`.
        """
        if self.error is None:
            return ()
        assert self.error_order is not None  # filled in by __post_init__
        first = self.error_order - 1 if self.embedded_order is None else self.embedded_order
        first = min(self.order, first)
        if len(self.error) == 1:
            return (first,)
        return first, 2 * (first + 1) - self.error_order - 1

    @cached_property
    def fsal(self) -> bool:
        """Whether the last stage of a step is the first stage of the next one."""
        at_end = self.stages > 1 and _same(self.dense_c[self.stages - 1], 1)
        return at_end and self.b[-1] == 0 and self.a[-1] == self.b[:-1]

    @cached_property
    def solution_stage(self) -> int | None:
        """The stage whose argument is already the solution at the end of the step, if any."""
        for index in reversed(range(1, self.stages)):
            if self.a[index] == self.b[:index] and not any(self.b[index:]):
                return index
        return None

    @property
    def ssal(self) -> bool:
        """Whether some stage's argument is already the solution at the end of the step."""
        return self.solution_stage is not None

    @cached_property
    def stiffness_pair(self) -> tuple[int, int] | None:
        """The last two stages of equal abscissa, ``(i, j)`` with ``i < j``; None without such.

        Equal abscissae are what makes ``norm(k_j - k_i) / norm(g_j - g_i)`` an estimate of the
        Jacobian alone, free of the field's dependence on time.
        """
        c = self.dense_c[: self.stages]
        for j in reversed(range(self.stages)):
            for i in reversed(range(j)):
                if _same(c[i], c[j]):
                    return i, j
        return None

    @property
    def dense_a(self) -> tuple[Row, ...]:
        """Rows of the coefficients of all stages, those of the interpolant included."""
        return self.a + self.a_dense

    @property
    def dense_c(self) -> Row:
        """Abscissae of all stages, those of the interpolant included."""
        assert self.c is not None  # both filled in by __post_init__
        assert self.c_dense is not None
        return self.c + self.c_dense

    @property
    def dense_weights(self) -> tuple[Row, ...]:
        """Polynomial weights of all stages: row ``i`` has the coefficients of ``theta**1, ...``."""
        assert self.interpolant is not None  # filled in by __post_init__
        return self.interpolant

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _take_numbers(self) -> None:
        """Turn every row into a tuple of finite numbers, so that lists may be given."""
        for name in ("b", "c", "b_embedded", "c_dense"):
            row = getattr(self, name)
            if row is not None:
                self._set(name, _numbers(self.name, name, row))
        for name in ("a", "error", "a_dense", "interpolant"):
            rows = getattr(self, name)
            if rows is not None:
                self._set(name, tuple(_numbers(self.name, name, row) for row in rows))
        for name in ("order", "embedded_order", "error_order", "interpolant_order"):
            order = getattr(self, name)
            if name == "order" or order is not None:
                _expect_order(self.name, name, order)

    def _complete_abscissae(self) -> None:
        stages = len(self.a)
        _expect_explicit(self.name, "a_dense", self.a_dense, stages)
        self._set("c", _abscissae(self.name, "c", self.c, self.a))
        self._set("c_dense", _abscissae(self.name, "c_dense", self.c_dense, self.a_dense))

    def _complete_error(self) -> None:
        if self.b_embedded is not None:
            _expect_length(self.name, "b_embedded", self.b_embedded, self.stages)
            if self.embedded_order is None:
                raise ValueError(
                    f"tableau {self.name!r}: expected the order of b_embedded, received none; "
                    f"try embedded_order={max(self.order - 1, 1)}"
                )
            if self.error is None:
                pairs = zip(self.b, self.b_embedded, strict=True)
                self._set("error", (tuple(_difference(p, q) for p, q in pairs),))
        if self.error is None:
            return
        if len(self.error) not in (1, 2):
            raise ValueError(
                f"tableau {self.name!r}: expected one or two rows of error, received "
                f"{len(self.error)}; try None, for the row b - b_embedded"
            )
        for row in self.error:
            _expect_length(self.name, "error", row, self.stages)
        given = (self.embedded_order is not None) + (self.error_order is not None)
        if given < len(self.error):
            raise ValueError(
                f"tableau {self.name!r}: expected embedded_order or error_order to go with error, "
                "and both with two rows of it; received "
                f"{self.embedded_order} and {self.error_order}; try the order of the solution that "
                "the (first) row compares with, and the k of an estimate that behaves like h**k"
            )
        if self.error_order is None:
            assert self.embedded_order is not None
            self._set("error_order", min(self.order, self.embedded_order) + 1)
        if min(self.error_row_orders) < 1:
            raise ValueError(
                f"tableau {self.name!r}: expected an error_order that leaves every row of error an "
                f"order of at least 1, received {self.error_order}, which leaves "
                f"{self.error_row_orders}; try the k of an estimate that behaves like h**k"
            )

    def _derive_interpolant(self) -> None:
        if self.a_dense:
            raise ValueError(
                f"tableau {self.name!r}: expected an interpolant to go with a_dense, received "
                "none; try leaving out a_dense, for the cubic Hermite interpolant"
            )
        if self.order == 1:
            self._set("interpolant", tuple((weight,) for weight in self.b))
            self._set("interpolant_order", self.interpolant_order or 1)
            return
        weights: list[list[Number]] = [[0, 3 * weight, -2 * weight] for weight in self.b]
        if not self.fsal:
            end = sum(self.b)
            self._set("a_dense", (self.b,))
            self._set("c_dense", (1 if _same(end, 1) else end,))
            weights.append([0, 0, 0])
        for index, hermite in ((0, (1, -2, 1)), (-1, (0, -1, 1))):
            weights[index] = [p + q for p, q in zip(weights[index], hermite, strict=True)]
        self._set("interpolant", tuple(tuple(row) for row in weights))
        self._set("interpolant_order", self.interpolant_order or min(self.order, 3))

    def _expect_interpolant(self) -> None:
        assert self.interpolant is not None
        stages = self.stages + len(self.a_dense)
        _expect_length(self.name, "interpolant", self.interpolant, stages)
        degrees = {len(row) for row in self.interpolant}
        if len(degrees) != 1 or 0 in degrees:
            raise ValueError(
                f"tableau {self.name!r}: expected rows of interpolant of one length, at least 1, "
                f"received lengths {sorted(degrees)}; try filling up with zeros"
            )
        if self.interpolant_order is None:
            raise ValueError(
                f"tableau {self.name!r}: expected the order of the interpolant, received none; "
                f"try interpolant_order={self.order - 1}"
            )


def rounding_unit(numbers: Iterable[Number]) -> Fraction:
    """Relative uncertainty of coefficients: 0 when they are all exact.

    A float is uncertain by its rounding. A fraction that is a decimal of 15 or more significant
    digits is a rounded one as tables print them; its uncertainty follows from how many digits are
    usual among `numbers` (trailing zeros get lost in a fraction, hence not each from its own). All
    other fractions, and integers, are exact.

    Examples
    --------
    >>> rounding_unit([1, Fraction(1, 3), Fraction("0.161")])
    Fraction(0, 1)
    >>> rounding_unit([0.161]) == Fraction(1, 2**52)
    True
    """
    digits: list[int] = []
    long_fractions = 0
    for number in numbers:
        if isinstance(number, float):
            if not number.is_integer():
                return Fraction(1, 2**52)
        elif isinstance(number, Fraction):
            length = _significant_digits(number)
            if length is None:
                long_fractions += number.denominator >= 10**_LONG_DECIMAL
            elif length >= _LONG_DECIMAL:
                digits.append(length)
    # Among exact fractions with long denominators, some may happen to be decimals.
    if len(digits) <= long_fractions:
        return Fraction(0)
    return Fraction(1, 10 ** (median_low(digits) - 2))


def _significant_digits(number: Fraction) -> int | None:
    """Significant digits of a terminating decimal; None for any other fraction."""
    rest = number.denominator
    twos = (rest & -rest).bit_length() - 1
    rest >>= twos
    fives = 0
    while rest % 5 == 0:
        rest //= 5
        fives += 1
    if rest != 1:
        return None
    return len(str(abs(number.numerator) * 10 ** max(twos, fives) // number.denominator))


def _same(p: Number, q: Number) -> bool:
    if isinstance(p, float) or isinstance(q, float):
        return math.isclose(p, q, rel_tol=1e-12, abs_tol=1e-12)
    return p == q


def _difference(p: Number, q: Number) -> Number:
    # A difference of two floats is itself rounded, and would no longer be the exact difference.
    if isinstance(p, float) or isinstance(q, float):
        return p - q
    return Fraction(p) - Fraction(q)


def _numbers(tableau: str, name: str, row: Iterable[Number]) -> Row:
    row = tuple(row)
    for entry in row:
        if isinstance(entry, bool) or not isinstance(entry, int | Fraction | float):
            raise ValueError(
                f"tableau {tableau!r}: expected int, Fraction or float entries of {name}, received "
                f"{entry!r} of type {type(entry).__name__}; try float(...) or Fraction(...)"
            )
        if isinstance(entry, float) and not math.isfinite(entry):
            raise ValueError(
                f"tableau {tableau!r}: expected finite entries of {name}, received {entry!r}; "
                "try the coefficients as published"
            )
    return row


def _abscissae(tableau: str, name: str, given: Row | None, rows: tuple[Row, ...]) -> Row:
    sums = tuple(sum(row) for row in rows)
    if given is None:
        return sums
    _expect_length(tableau, name, given, len(rows))
    unit = rounding_unit((*given, *(entry for row in rows for entry in row)))
    for index, (abscissa, row) in enumerate(zip(given, rows, strict=True)):
        exact = sum((Fraction(entry) for entry in row), Fraction(0))
        scale = sum((abs(Fraction(entry)) for entry in row), abs(Fraction(abscissa)))
        if abs(exact - Fraction(abscissa)) > unit * scale:
            raise ValueError(
                f"tableau {tableau!r}: expected {name}[{index}] = {float(exact):.17g}, the sum of "
                f"its row of coefficients, received {float(abscissa):.17g}; try {name}=None, which "
                "takes the sums, or correct the row"
            )
    return given


def _expect_order(tableau: str, name: str, order: object) -> None:
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(
            f"tableau {tableau!r}: expected a positive integer for {name}, received {order!r}; "
            "try the order as published"
        )


def _expect_length(tableau: str, name: str, row: Sequence[object], length: int) -> None:
    if len(row) != length:
        raise ValueError(
            f"tableau {tableau!r}: expected {length} entries of {name}, one a stage, received "
            f"{len(row)}; try filling up with zeros"
        )


def _expect_explicit(tableau: str, name: str, rows: tuple[Row, ...], first: int) -> None:
    if name == "a" and not rows:
        raise ValueError(
            f"tableau {tableau!r}: expected at least one row of a, received none; "
            "try a=((),), the one stage of Euler's method"
        )
    for index, row in enumerate(rows):
        if len(row) != first + index:
            raise ValueError(
                f"tableau {tableau!r}: expected {first + index} entries in {name}[{index}], "
                f"received {len(row)}; try one entry for every earlier stage and none for later "
                "ones (the method has to be explicit)"
            )
