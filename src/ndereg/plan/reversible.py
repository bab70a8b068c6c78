"""A step of the reversible Heun method, and the step that undoes it."""

from __future__ import annotations

from functools import cached_property

from ndereg.plan.builder import Builder, Value, where
from ndereg.plan.observables import Observables, Stages
from ndereg.plan.program import Program, Slot
from ndereg.plan.stochastic import KINDS, MATRICES, Term
from ndereg.spec.reversible import ReversibleHeun
from ndereg.spec.stochastic import Coupling, Noise

Rates = tuple[Slot, Slot]
"""Drift and diffusion at one point."""


class HeunPair:
    """The pair of a reversible step under construction: what both directions have in common."""

    def __init__(self, builder: Builder, noise: Noise) -> None:
        self._builder, self.coupling = builder, noise.coupling
        builder.input("t", "scalar")
        self.h = builder.input("h", "scalar")
        pair = builder.input("y", "state").slot
        self.z = builder.part("z", pair, 0)
        self.zh = builder.part("zh", pair, 1)

    def rates(self, number: int, c: int, at: Slot) -> Rates:
        """Drift and diffusion at ``t + c h``."""
        builder, matrix = self._builder, self.coupling in MATRICES
        k = builder.evaluate(f"k{number}", c, "h", at)
        g = builder.evaluate(f"g{number}", c, "h", at, field="diffusion", matrix=matrix)
        return k, g

    def moved(self, dst: Slot, base: Slot, sign: int, rates: list[tuple[float, Rates]]) -> Slot:
        """``base + sign * sum(weight (h drift + diffusion W))``."""
        terms: list[Term] = [("h", sign * weight, k) for weight, (k, _) in rates]
        for weight, (_, g) in rates:
            scale, product = self._noise(g)
            terms.append((scale, sign * weight, product))
        return self._builder.combine(dst, base, tuple(terms))

    def reflected(self, dst: Slot) -> Slot:
        """``2 z - zh``; ``zh`` for a step of size zero, which leaves the pair as it is."""
        side = where(self.h.equals(0.0), -1.0, 1.0)
        terms = ((side.slot, 1, self.z), (side.slot, -1, self.zh))
        return self._builder.combine(dst, self.z, terms)

    def error(self, first: Rates, second: Rates) -> Slot:
        """``h (mu1 - mu0) / 2 + (sigma1 - sigma0) W / 2``."""
        terms: list[Term] = [("h", 0.5, second[0]), ("h", -0.5, first[0])]
        for weight, (_, g) in ((0.5, second), (-0.5, first)):
            scale, product = self._noise(g)
            terms.append((scale, weight, product))
        return self._builder.combine("e", None, tuple(terms))

    def _noise(self, diffusion: Slot) -> tuple[Slot | None, Slot]:
        builder = self._builder
        noise = builder.input("W", KINDS[self.coupling])
        if self.coupling == "scalar":
            return noise.slot, diffusion
        if self.coupling in MATRICES:
            return None, builder.contract("dn", diffusion, noise.slot)
        return None, builder.apply("mul", Value(builder, diffusion), noise, dst="dn").slot


class ReversibleStep:
    """The step from ``(z, zh)``; ``carried`` takes its first rates from the step before."""

    def __init__(self, builder: Builder, noise: Noise, carried: bool) -> None:
        pair = self.pair = HeunPair(builder, noise)
        if carried and handed_on(noise.coupling):
            given = builder.input("k1", "state").slot
            self.first = builder.part("k1.0", given, 0), builder.part("g1.0", given, 1)
        else:
            self.first = pair.rates(1, 0, pair.zh)
        point = pair.moved("zh1", pair.reflected("zr"), 1, [(1, self.first)])
        self.second = pair.rates(2, 1, point)
        self.z1 = pair.moved("z1", pair.z, 1, [(0.5, self.first), (0.5, self.second)])
        y1 = builder.join("y1", self.z1, point)
        ends = [self.second[0]]
        if handed_on(noise.coupling):
            ends = [builder.join("k2.pair", *self.second)]
        self.stages = Stages((self.first[0], *ends), (pair.zh, point), y1)


def handed_on(coupling: Coupling) -> bool:
    """Whether a step takes over the rates at its start: they are a pair like the state then."""
    return coupling not in MATRICES


class ReversibleObservables(Observables):
    """The observables of a recorded reversible step."""

    def __init__(self, builder: Builder, tableau: ReversibleHeun, step: ReversibleStep) -> None:
        super().__init__(builder, tableau, step.stages)
        self._step = step

    @cached_property
    def error(self) -> Value:
        """RMS over the solution ``z``, half of the pair, of its scaled estimate."""
        builder, step = self._builder, self._step
        e = Value(builder, builder.join("e.pair", step.pair.error(step.first, step.second), None))
        return (builder.mean((abs(e) / self._scale()).square()) * 2.0).sqrt().named("E")


def retreat_program(noise: Noise) -> Program:
    """``(t, h, y, W) -> y0``: the pair at the start of a step from the one at its end."""
    builder = Builder()
    pair = HeunPair(builder, noise)
    second = pair.rates(2, 1, pair.zh)
    point = pair.moved("zh0", pair.reflected("zr"), -1, [(1, second)])
    first = pair.rates(1, 0, point)
    z = pair.moved("z0", pair.z, -1, [(0.5, first), (0.5, second)])
    return builder.program("retreat", {"y0": builder.join("y0", z, point)})
