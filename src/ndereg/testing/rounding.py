"""The reference with random rounding: how far the last bits can move what a solve returns.

Two correct backends differ by rounding. How much that is depends on the problem: an embedded error
estimate is a difference of nearly equal numbers, and a chaotic field amplifies what it is given. It
is measured instead of guessed, by stochastic arithmetic (Vignes 1993,
doi:10.1016/0378-4754(93)90003-D; Parker 1997): the programs of the solve are run on the reference
with the result of every combination, and what goes into and comes out of every evaluation of the
field, moved at random by up to one unit in the last place. What a quantity moves by is its unit.

Of a stochastic equation the increments of the path are moved too. Its steps end between cells of
the path, at times that are the same to the last bit on every backend, and stay where they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ndereg.backends.base import Problem
from ndereg.backends.host.floats import FloatMachine
from ndereg.backends.interpreter import Terms
from ndereg.backends.reference.backend import ReferenceBackend, ReferenceSolver
from ndereg.backends.reference.machine import NumpyMachine
from ndereg.backends.tracing import FieldPullback, field_pullback
from ndereg.plan.lower import Plan

DEVIATIONS = {"W": 1.0, "H": 12**-0.5, "K": 720**-0.5}
"""Standard deviations of an increment and its areas over an interval of length 1."""


class RoundingBackend(ReferenceBackend):
    """The reference, every result moved by up to one unit in the last place; seeded."""

    name = "reference with random rounding"

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def compile(self, plan: Plan) -> RoundingSolver:
        """Make the programs ready to run."""
        return RoundingSolver(plan, self)


class RoundingSolver(ReferenceSolver):
    """A plan on NumPy arrays whose last bits are random."""

    def __init__(self, plan: Plan, backend: RoundingBackend) -> None:
        super().__init__(plan)
        self._backend = backend
        self._traced: tuple[Any, Any, FieldPullback] | None = None

    def field_pullback(self, problem: Problem) -> FieldPullback:  # type: ignore[override]
        """Trace a field once, although it is solved again and again."""
        shapes = tuple((arg.shape, arg.dtype) for arg in problem.args)
        # the generator is a new one in every cross-check; what a closure holds may have changed
        key = (problem.layout, problem.args_structure, shapes, id(self._backend.random))
        if self._traced is None or self._traced[:2] != (problem.field, key):
            self._traced = (problem.field, key, field_pullback(problem))
        return self._traced[2]

    def machine(self, *given: Any) -> RoundingMachine:
        """Return a machine that draws from the backend's generator."""
        return RoundingMachine(self._backend.random, *given)


class RoundingControl(FloatMachine):
    """Control programs of a joint solve, their products moved."""

    def __init__(self, machine: RoundingMachine) -> None:
        self._machine = machine

    def apply(self, op: str, *operands: Any) -> Any:
        """Move products; among them is every new step size."""
        found = super().apply(op, *operands)
        return float(self._machine.moved(found)) if op == "mul" else found


class RoundingMachine(NumpyMachine):
    """Instructions whose results are off by a random unit in the last place."""

    def __init__(self, random: np.random.Generator, *given: Any) -> None:
        super().__init__(*given)
        self.random = random
        self.unit = float(np.finfo(self.real).eps)
        problem = self.problem
        step = problem.first_step
        if problem.diffusion is not None:
            if not self.joint:
                self.control = NumpyMachine(problem)
            return
        self.problem = replace(
            problem,
            dt=float(self.moved(problem.dt)),
            first_step=None if step is None else float(self.moved(step)),
        )
        if self.joint:
            self.control = RoundingControl(self)

    def moved(self, values: Any, size: Any = None) -> Any:
        """Move values by up to one unit in the last place of ``size``, by default their own."""
        array = np.asarray(values)
        if array.dtype.kind not in "fc":
            return values
        size = np.abs(array) if size is None else size
        noise = self.unit * size * self.random.uniform(-1.0, 1.0, array.shape)
        return (array + noise).astype(array.dtype)

    def combine(self, base: Any, groups: list[tuple[Any, Terms]]) -> Any:
        """Move the sum by a unit in the last place of its terms, which may cancel."""
        size: Any = 0.0 if base is None else np.abs(base)
        for scale, terms in groups:
            part = sum(abs(coefficient) * np.abs(array) for coefficient, array in terms)
            size = size + (part if scale is None else np.abs(scale) * part)
        return self.moved(super().combine(base, groups), size)

    def apply(self, op: str, *operands: Any) -> Any:
        """Move products; among them is every new step size."""
        found = super().apply(op, *operands)
        if self.problem.diffusion is not None and np.shape(found)[-1:] in ((), (1,)):
            return found  # a number: the first step, say, which is a whole number of cells
        return self.moved(found) if op == "mul" else found

    def mean(self, values: Any) -> Any:
        """Move the mean of numbers; a mean of truth values is exact."""
        mean = super().mean(values)
        return mean if np.asarray(values).dtype.kind == "b" else self.moved(mean)

    def noise(self, t: Any, h: Any, step: int) -> dict[str, Any]:
        """Move the increments of the path by a unit in the last place of what they may be."""
        found, deviation = super().noise(t, h, step), np.sqrt(np.abs(h))
        for name, values in found.items():
            if name[0] in DEVIATIONS:
                found[name] = self.moved(values, np.abs(values) + DEVIATIONS[name[0]] * deviation)
        return found

    def contract(self, diffusion: Any, noise: Any) -> Any:
        """Move the product of a matrix and the noise."""
        return self.moved(super().contract(diffusion, noise))

    def evaluate(self, t: Any, y: Any, field: str = "drift") -> Any:
        """Move what the field sees and returns."""
        given, t = self.problem, self.moved(self.field_time(t))[()]
        self.problem = replace(given, args=tuple(self.moved(arg) for arg in given.args))
        try:
            return self.moved(super().evaluate(t, self.moved(y), field))
        finally:
            self.problem = given

    def pullback(self, linearization: Any, cotangent: Any, field: str = "drift") -> Any:
        """Move what the field's vector-Jacobian product sees and returns."""
        pull = self.field_pullback if field == "drift" else self.diffusion_pullback
        assert pull is not None
        t, y = linearization
        args = [self.moved(arg) for arg in self.problem.args]
        y_bar, args_bar = pull(self.moved(t)[()], self.moved(y), args, self.moved(cotangent))
        self.accumulate([None if bar is None else self.moved(bar) for bar in args_bar])
        return self.moved(y_bar)
