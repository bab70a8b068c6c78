"""A step of a stochastic Runge–Kutta method, recorded from its coefficients."""

from __future__ import annotations

from functools import cached_property
from typing import Final

from ndereg.plan.builder import Builder, Value
from ndereg.plan.observables import Observables, Stages
from ndereg.plan.program import Kind, Number, Slot
from ndereg.spec.stochastic import Coupling, Noise, StochasticTableau, Variable, Weights

Term = tuple[Slot | None, Number, Slot]

KINDS: Final[dict[Coupling, Kind]] = {
    "diagonal": "real", "scalar": "scalar", "matrix": "noise", "product": "noise",
}  # fmt: skip
"""Kind of the slots ``W``, ``H`` and ``K``, and of the variables made of them."""
MATRICES: Final = ("matrix", "product")
"""Couplings in which the diffusion is contracted with the noise."""
INCREMENTS: Final = ("W", "H", "K")
"""What a step may ask of the Brownian path."""


class Variables:
    """The random variables of a step, each recorded when it is first read."""

    def __init__(self, builder: Builder, coupling: Coupling) -> None:
        self._builder = builder
        self._kind = KINDS[coupling]

    @cached_property
    def size(self) -> Value:
        """Size of the step."""
        return abs(self._builder.input("h", "scalar"))

    @cached_property
    def root(self) -> Value:
        """Its square root."""
        return self.size.sqrt().named("root")

    @cached_property
    def _halved(self) -> Value:
        """Half of the inverse square root; 0 for a step of size zero, which has no noise."""
        return self._builder.apply("safe_div", 1.0, self.root) * 0.5

    def slot(self, variable: Variable) -> Slot:
        """Slot of a variable."""
        if variable == "root":
            return self.root.slot
        if variable in INCREMENTS:
            return self._builder.input(variable, self._kind).slot
        w = self._builder.input("W", self._kind)
        match variable:
            case "chi1":
                value = (w.square() - self.size) * self._halved
            case "chi2":
                h = self._builder.input("H", self._kind)
                terms = ((None, 0.5, w.slot), (None, 1, h.slot))
                return self._builder.combine("chi2", None, terms)
            case "chi3":
                value = w * (w.square() - self.size * 3.0) * (self._halved.square() * (2.0 / 3.0))
            case _:
                value = w.square() * self._halved
        return value.named(variable).slot


class StochasticStep:
    """Stages and new state of a step from ``y`` at ``t`` of size ``h``."""

    def __init__(self, builder: Builder, tableau: StochasticTableau, noise: Noise) -> None:
        self._builder, self._tableau, self._coupling = builder, tableau, noise.coupling
        self._variables = Variables(builder, noise.coupling)
        self._drifts: dict[int, tuple[Slot, Slot]] = {}
        self._diffusions: dict[int, Slot] = {}
        builder.input("t", "scalar")
        builder.input("h", "scalar")
        self._y = builder.input("y", "state").slot
        found = [self._drift(index) for index in range(tableau.stages)]
        y1 = self.combination("y1", self._y, tableau.solution)
        self.stages = Stages(tuple(k for k, _ in found), tuple(g for _, g in found), y1)

    def combination(self, dst: Slot, base: Slot | None, weights: Weights) -> Slot:
        """Record a combination of drifts, and of diffusions times random variables."""
        terms: list[Term] = [
            ("h", weight, self._drift(j)[0]) for j, weight in enumerate(weights.drift) if weight
        ]
        rows = {
            variable: {j: weight for j, weight in enumerate(row) if weight}
            for variable, row in weights.noise
        }
        return self._builder.combine(dst, base, (*terms, *self._noise_terms(rows)))

    def _noise_terms(self, rows: dict[Variable, dict[int, Number]]) -> list[Term]:
        """Terms of the diffusions, with as few products of diffusion and noise as there can be."""
        builder, variable = self._builder, self._variables.slot
        plain = [v for v in rows if v == "root" or self._coupling == "scalar"]
        terms: list[Term] = [
            (variable(v), weight, self._diffusion(j))
            for v in plain
            for j, weight in rows[v].items()
        ]
        mixed = {v: row for v, row in rows.items() if v not in plain and row}
        stages = sorted({j for row in mixed.values() for j in row})
        # a matrix that is never made is not added to others either
        if len(stages) <= len(mixed) or self._coupling == "product":
            for j in stages:
                weighted = [(row[j], variable(v)) for v, row in mixed.items() if j in row]
                weight, noise = _sum(builder, "w", weighted)
                terms.append((None, weight, self._product(self._diffusion(j), noise)))
        else:
            for v, row in mixed.items():
                weighted = [(weight, self._diffusion(j)) for j, weight in row.items()]
                weight, diffusion = _sum(builder, "G", weighted)
                terms.append((None, weight, self._product(diffusion, variable(v))))
        return terms

    def _product(self, diffusion: Slot, noise: Slot) -> Slot:
        if self._coupling in MATRICES:
            return self._builder.contract("dn", diffusion, noise)
        value, factor = Value(self._builder, diffusion), Value(self._builder, noise)
        return self._builder.apply("mul", value, factor, dst="dn").slot

    def _drift(self, index: int) -> tuple[Slot, Slot]:
        """Slots of the drift at a stage, and of its argument."""
        if index not in self._drifts:
            c, weights = self._tableau.drift.stages[index]
            g = self.combination(f"u{index + 1}", self._y, weights)
            k = self._builder.evaluate(f"k{index + 1}", c, "h", g)
            self._drifts[index] = k, g
        return self._drifts[index]

    def _diffusion(self, index: int) -> Slot:
        if index not in self._diffusions:
            c, weights = self._tableau.diffusion.stages[index]
            argument = self.combination(f"v{index + 1}", self._y, weights)
            self._diffusions[index] = self._builder.evaluate(
                f"g{index + 1}", c, "h", argument,
                field="diffusion", matrix=self._coupling in MATRICES,
            )  # fmt: skip
        return self._diffusions[index]


class StochasticObservables(Observables):
    """The observables of a recorded stochastic step; its error estimate is a combination too."""

    def __init__(self, builder: Builder, tableau: StochasticTableau, step: StochasticStep) -> None:
        super().__init__(builder, tableau, step.stages)
        self._step, self._weights = step, tableau.error

    @cached_property
    def error(self) -> Value:
        """RMS over the state of ``e / (atol + rtol max(|y|, |y1|))``."""
        assert self._weights is not None
        scale = self._scale()
        e = Value(self._builder, self._step.combination("e", None, self._weights))
        return self._builder.mean((abs(e) / scale).square()).sqrt().named("E")


def _sum(builder: Builder, dst: Slot, weighted: list[tuple[Number, Slot]]) -> tuple[Number, Slot]:
    """A weighted sum as a slot and the factor that is left."""
    if len(weighted) == 1:
        return weighted[0]
    terms = tuple((None, weight, slot) for weight, slot in weighted)
    return 1, builder.combine(dst, None, terms)
