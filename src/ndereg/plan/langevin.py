"""A step of underdamped Langevin dynamics, recorded from the forms of a method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Final

from ndereg.plan.builder import Builder, Value, where
from ndereg.plan.observables import Observables, Stages
from ndereg.plan.program import Number, Slot
from ndereg.spec.langevin import DECAY, Coefficient, Form, LangevinMethod, Operand
from ndereg.spec.spec import Spec

HALVES: Final = ("W1", "H1", "K1", "W2", "H2", "K2")
"""What a halved step asks of the path: over its first half and over its second."""
SMALL = 1.0
"""Where ``|z| / 2`` is at most this, moments are power series; further out they do not cancel."""
TERMS = 9
"""Terms of these series: the first one left out is below 1e-17 of the first."""
HIGHEST = 3


def halving(spec: Spec) -> bool:
    """Whether the steps of a solve are halved, for an estimate that something reads."""
    method = spec.tableau
    local = () if spec.local is None else spec.local.terms
    read = spec.adaptive or any("error" in term.needs for term in (*spec.terms, *local))
    return isinstance(method, LangevinMethod) and method.halved and read


class Moments:
    r"""The moments ``E_k(z)`` at ``z = theta gamma h``, each recorded when it is first read.

    ``E_k(z) = exp(-x) i_k(x)`` with ``x = z / 2`` and the modified spherical Bessel functions
    ``i_k``, of which ``j_k = i_k / x^k`` has a series of positive terms in ``x^2``. Orders below
    follow by ``j_{k-1} = (2 k + 1) j_k + x^2 j_{k+1}``, a sum of positive numbers. Far from 0 the
    recurrence is stable the other way round.
    """

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._found: dict[Number, dict[int, Value]] = {}
        self.gamma = builder.input("gamma", "scalar")
        self.h = builder.input("h", "scalar")

    def __call__(self, k: int, theta: Number) -> Value:
        """``E_k``, or ``exp(-z)`` for ``k = DECAY``."""
        if theta not in self._found:
            self._found[theta] = self._all(theta)
        return self._found[theta][k]

    def _all(self, theta: Number) -> dict[int, Value]:
        x = self.gamma * self.h * (0.5 * float(theta))
        q = x.square()
        root = self._builder.apply("pow", math.e, -x)
        decayed = root.square()
        small = q <= SMALL**2
        near = self._near(x, q, root)
        far = self._far(where(small, 1.0, x), decayed)
        found = {k: where(small, near[k], far[k]) for k in near}
        return {DECAY: decayed, **found}

    def _near(self, x: Value, q: Value, root: Value) -> dict[int, Value]:
        scaled = {k: self._series(k, q) for k in (HIGHEST, HIGHEST - 1)}
        for k in range(HIGHEST - 1, 0, -1):
            scaled[k - 1] = scaled[k] * (2.0 * k + 1.0) + q * scaled[k + 1]
        found, power = {}, root
        for k in range(HIGHEST + 1):
            found[k] = scaled[k] * power
            power = power * x
        return found

    def _series(self, k: int, q: Value) -> Value:
        """Terms ``(q / 2)^m / (m! (2 k + 3) ... (2 k + 2 m + 1))`` over ``(2 k + 1)!!``."""
        weights = [1.0 / math.prod(range(1, 2 * k + 2, 2))]
        for m in range(1, TERMS):
            weights.append(weights[-1] / (2.0 * m * (2 * k + 2 * m + 1)))
        total = q * weights[-1] + weights[-2]
        for weight in reversed(weights[:-2]):
            total = total * q + weight
        return total

    def _far(self, x: Value, decayed: Value) -> dict[int, Value]:
        inverse = 1.0 / x
        found = {0: (1.0 - decayed) * (inverse * 0.5)}
        found[1] = ((decayed + 1.0) * 0.5 - found[0]) * inverse
        for k in range(1, HIGHEST):
            found[k + 1] = found[k - 1] - found[k] * inverse * (2.0 * k + 1.0)
        return found


class LangevinStep:
    """One step over a fraction ``[start, start + share]`` of ``h``, from positions and velocities.

    ``first`` is the gradient at the start where the step before had it.
    """

    def __init__(
        self,
        builder: Builder,
        method: LangevinMethod,
        moments: Moments,
        operands: Mapping[Operand, Slot],
        place: tuple[float, float],
        first: Slot | None,
    ) -> None:
        self._builder, self._moments = builder, moments
        self._operands: dict[Operand, Slot] = dict(operands)
        self._start, self._share = place
        for number, (c, form) in enumerate(method.gradients, 1):
            name: Operand = f"f{number}"  # type: ignore[assignment]
            if number == 1 and first is not None:
                self._operands[name] = first
                continue
            at = self.combined(f"g{number}", form)
            self._operands[name] = builder.evaluate(
                name, self._start + self._share * float(c), "h", at
            )
        self.gradients = [self._operands[f"f{n}"] for n in range(1, method.stages + 1)]  # type: ignore[index]
        self.x = self.combined("x1", method.position)
        self.v = self.combined("v1", method.velocity)

    def combined(self, dst: Slot, form: Form) -> Slot:
        """Record a form."""
        base, terms = None, []
        for operand, coefficient in form:
            if operand == "x" and coefficient.parts == (((0, 0), 1),):
                base = self._operands["x"]
                continue
            scale = self._scale(coefficient, operand)
            terms.append((scale.slot, 1, self._operands[operand]))
        return self._builder.combine(dst, base, tuple(terms))

    def _scale(self, coefficient: Coefficient, operand: Operand) -> Value:
        """A coefficient as a number, times ``u`` of a gradient and ``rho`` of the noise."""
        moments = self._moments
        total: Value | float | None = None
        for (k, theta), number in coefficient.parts:
            if theta == 0:  # E_0(0) = 1
                total = float(number) if total is None else total + float(number)
                continue
            part = moments(k, self._share * float(theta))
            part = part if number == 1 else part * float(number)
            total = part if total is None else part + total
        assert total is not None
        scale: Value | None = None
        if operand[0] == "f":
            scale = self._builder.input("u", "scalar")
        elif operand in ("W", "H", "K"):
            scale = self._builder.input("rho", "scalar")
        for _ in range(coefficient.power):
            size = moments.h if self._share == 1.0 else moments.h * self._share
            scale = size if scale is None else scale * size
        if scale is None:
            return total if isinstance(total, Value) else moments.h * 0.0 + total
        return scale * total


class LangevinSteps:
    """The step of a solve: one of the method, or for an estimate by halving also two halves."""

    def __init__(self, builder: Builder, spec: Spec, carried: bool) -> None:
        method = spec.tableau
        assert isinstance(method, LangevinMethod)
        self._builder, self._method = builder, method
        self._moments = Moments(builder)
        builder.input("t", "scalar")
        pair = builder.input("y", "state").slot
        start: dict[Operand, Slot] = {
            "x": builder.part("x", pair, 0),
            "v": builder.part("v", pair, 1),
        }
        first = None
        if carried and method.last:
            first = builder.part("f1.0", builder.input("k1", "state").slot, 0)
        self.whole: LangevinStep | None
        if halving(spec):
            self.whole, step = self._both(start, first)
        else:
            noise: dict[Operand, Slot] = {
                name: builder.input(name, "real").slot for name in self._read()
            }
            self.whole = None
            step = self._step(start | noise, (0.0, 1.0), first)
        self.step = step
        y1 = builder.join("y1", step.x, step.v)
        last = builder.join("k.pair", step.gradients[-1], None)
        self.stages = Stages((*step.gradients, last), (y1, y1), y1)

    def _step(
        self, operands: Mapping[Operand, Slot], place: tuple[float, float], first: Slot | None
    ) -> LangevinStep:
        return LangevinStep(self._builder, self._method, self._moments, operands, place, first)

    def _read(self) -> list[Operand]:
        """What the method asks of the path."""
        method = self._method
        forms = (*(form for _, form in method.gradients), method.position, method.velocity)
        found = {operand for form in forms for operand, _ in form}
        names: tuple[Operand, ...] = ("W", "H", "K")
        return [name for name in names if name in found]

    def _both(
        self, start: dict[Operand, Slot], first: Slot | None
    ) -> tuple[LangevinStep, LangevinStep]:
        """One step, and the second of two of half its size."""
        builder, names = self._builder, self._read()
        halves = [
            {name: builder.input(f"{name}{half}", "real").slot for name in names} for half in (1, 2)
        ]
        whole = self._step(start | self._joined(*halves), (0.0, 1.0), first)
        middle = self._step(start | halves[0], (0.0, 0.5), first)
        again: dict[Operand, Slot] = {"x": middle.x, "v": middle.v}
        taken = middle.gradients[-1] if self._method.last else None
        return whole, self._step(again | halves[1], (0.5, 0.5), taken)

    def _joined(
        self, first: Mapping[Operand, Slot], second: Mapping[Operand, Slot]
    ) -> dict[Operand, Slot]:
        """The path over the step from that over its halves (Chen's relation)."""
        builder = self._builder
        w, h = (first["W"], second["W"]), (first["H"], second["H"])

        def made(dst: Slot, *terms: tuple[float, Slot]) -> Slot:
            return builder.combine(dst, None, tuple((None, weight, slot) for weight, slot in terms))

        found: dict[Operand, Slot] = {
            "W": made("W", (1, w[0]), (1, w[1])),
            "H": made("H", (0.5, h[0]), (0.5, h[1]), (0.25, w[0]), (-0.25, w[1])),
        }
        if "K" in first:
            k = (first["K"], second["K"])
            found["K"] = made("K", (0.25, k[0]), (0.25, k[1]), (0.125, h[0]), (-0.125, h[1]))
        return found


class LangevinObservables(Observables):
    """The observables of a recorded Langevin step."""

    def __init__(self, builder: Builder, method: LangevinMethod, steps: LangevinSteps) -> None:
        super().__init__(builder, method, steps.stages)
        self._steps, self._method = steps, method

    @cached_property
    def error(self) -> Value:
        """RMS over positions and velocities of the scaled estimate."""
        builder, step, whole = self._builder, self._steps.step, self._steps.whole
        if whole is None:
            assert self._method.error is not None
            slot = builder.join("e", None, step.combined("e.v", self._method.error))
        else:
            other = builder.join("y1.whole", whole.x, whole.v)
            slot = builder.combine("e", None, ((None, 1, self.stages.y1), (None, -1, other)))
        e = Value(builder, slot)
        return builder.mean((abs(e) / self._scale()).square()).sqrt().named("E")
