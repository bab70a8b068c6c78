"""What a step reports: the scaled error norm, the stiffness estimate, the interpolant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import comb

from ndereg.plan.builder import Builder, Value, maximum, safe_divide
from ndereg.plan.program import Number, Slot
from ndereg.spec.stochastic import StochasticMethod
from ndereg.spec.tableau import Tableau

THIRD_ORDER_SHARE = 0.01
"""Weight of the third-order estimate in DOP853's error norm (Hairer, Norsett, Wanner, II.5)."""


@dataclass(frozen=True)
class Stages:
    """Slots of the stages of a step: derivatives ``k``, their arguments ``g``, the new state."""

    k: tuple[Slot, ...]
    g: tuple[Slot, ...]
    y1: Slot


def record_stages(builder: Builder, tableau: Tableau, carried: bool) -> Stages:
    """Record the stages of an explicit Runge-Kutta step from ``y`` at ``t`` of size ``h``.

    ``carried`` takes the first stage as the input ``k1`` (the last stage of the step before)
    instead of evaluating it. A row of ``a`` equal to ``b`` is the new state itself.
    """
    builder.input("t", "scalar")
    builder.input("h", "scalar")
    y = builder.input("y", "state").slot
    assert tableau.c is not None
    solution = [weight for weight in tableau.b if weight != 0]
    k: list[Slot] = []
    g: list[Slot] = []
    for index, row in enumerate(tableau.a):
        if index == 0 and carried:
            g.append(y)
            k.append(builder.input("k1", "state").slot)
            continue
        is_solution = [a for a in row if a != 0] == solution and row == tableau.b[: len(row)]
        g.append(combine_stages(builder, "y1" if is_solution else f"g{index + 1}", y, row, k))
        k.append(builder.evaluate(f"k{index + 1}", tableau.c[index], "h", g[-1], mapped=False))
    return Stages(tuple(k), tuple(g), combine_stages(builder, "y1", y, tableau.b, k))


def combine_stages(
    builder: Builder, dst: Slot, base: Slot | None, row: Sequence[object], k: Sequence[Slot]
) -> Slot:
    """``base + h * sum(row_i k_i)``."""
    terms = tuple(("h", a, slot) for a, slot in zip(row, k, strict=False))
    return builder.combine(dst, base, terms)  # type: ignore[arg-type]


class Observables:
    """The observables of a recorded step, each recorded when it is first read.

    This is the :class:`ndereg.spec.regularizer.StepObservables` that regularizers see.
    """

    def __init__(
        self, builder: Builder, tableau: Tableau | StochasticMethod, stages: Stages
    ) -> None:
        self._builder = builder
        self._tableau = tableau
        self.stages = stages

    @cached_property
    def error(self) -> Value:
        """Scaled norm of the embedded error estimate.

        RMS over the state of ``e / (atol + rtol max(|y|, |y1|))``; with two rows, DOP853's
        ``q5 / sqrt(q5 + 0.01 q3)`` over the mean squares of both.
        """
        builder, tableau = self._builder, self._tableau
        assert isinstance(tableau, Tableau)
        assert tableau.error is not None
        scale = self._scale()
        squares: list[Value] = []
        for index, row in enumerate(tableau.error):
            name = "e" if len(tableau.error) == 1 else f"e{index + 1}"
            e = Value(builder, combine_stages(builder, name, None, row, self.stages.k))
            squares.append(builder.mean((abs(e) / scale).square()))
        if len(squares) == 1:
            return squares[0].sqrt().named("E")
        fifth, third = squares
        return safe_divide(fifth, (fifth + THIRD_ORDER_SHARE * third).sqrt()).named("E")

    @cached_property
    def stiffness(self) -> Value:
        """``RMS(k_b - k_a) / RMS(g_b - g_a)`` over two stages of equal abscissa (Shampine 1977)."""
        builder, pair = self._builder, self._tableau.stiffness_pair
        assert pair is not None
        norms: list[Value] = []
        for name, slots in (("dk", self.stages.k), ("dg", self.stages.g)):
            terms = ((None, 1, slots[pair[1]]), (None, -1, slots[pair[0]]))
            size = abs(Value(builder, builder.combine(name, None, terms)))
            norms.append(builder.mean(size.square()).sqrt())
        return safe_divide(norms[0], norms[1]).named("S")

    @cached_property
    def size(self) -> Value:
        """``|h|``."""
        return abs(self._builder.input("h", "scalar"))

    @property
    def stability_size(self) -> float:
        """Real stability bound of the method."""
        size = self._tableau.stability_size
        assert size is not None
        return float(size)

    @cached_property
    def finite(self) -> Value:
        """Share of the entries of the new state that are finite."""
        return self._builder.mean(Value(self._builder, self.stages.y1).isfinite())

    def _scale(self) -> Value:
        builder = self._builder
        rtol, atol = builder.input("rtol", "scalar"), builder.input("atol", "scalar")
        y, y1 = Value(builder, "y"), Value(builder, self.stages.y1)
        return atol + rtol * maximum(abs(y), abs(y1))


def record_interpolant(builder: Builder, tableau: Tableau, stages: Stages) -> tuple[Slot, ...]:
    """Record ``Q_0, ..., Q_d`` of ``y(t + theta h) = y + sum(s^p Q_p)``, ``s = 2 theta - 1``.

    Powers of ``s`` instead of ``theta`` keep the rounding small: the interpolants of high order
    have weights of a million in powers of ``theta`` that nearly cancel.

    Further stages of the interpolant are evaluated here, and only here.
    """
    k = list(stages.k)
    for offset, row in enumerate(tableau.a_dense):
        index = tableau.stages + offset
        g = combine_stages(builder, f"g{index + 1}", "y", row, k)
        c = tableau.dense_c[index]
        k.append(builder.evaluate(f"k{index + 1}", c, "h", g, mapped=False))
    rows = [_centred(row) for row in tableau.dense_weights]
    return tuple(
        combine_stages(builder, f"Q{p}", None, [row[p] for row in rows], k)
        for p in range(len(rows[0]))
    )


def _centred(row: Sequence[Number]) -> list[Fraction]:
    """Coefficients of ``s^0, ..., s^d`` of ``sum(row_p theta^p)``, p from 1, exactly."""
    powers = [Fraction(0), *(Fraction(value) for value in row)]
    return [
        sum((c * Fraction(comb(p, q), 2**p) for p, c in enumerate(powers)), Fraction(0))
        for q in range(len(powers))
    ]
