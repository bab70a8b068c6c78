"""Random problems that share everything that is compiled.

Compiling dominates a cross-check of a new problem. A :class:`Family` holds what is fixed when a
solve is compiled; its examples differ in what is given at run time: state, arguments, span and
direction, tolerances, controller, first step, weights, cotangents, and the path that drives it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ndereg.catalogue import lookup
from ndereg.catalogue.controllers import CONTROLLERS
from ndereg.sde import SDE
from ndereg.spec.controller import ConstantStep, PIDController
from ndereg.spec.regularizer import Combination, Term
from ndereg.spec.spec import Batch
from ndereg.spec.stochastic import NoiseKind, StochasticMethod
from ndereg.spec.tableau import Tableau
from ndereg.testing.example import Example
from ndereg.testing.expressions import DrawnField


@dataclass(frozen=True)
class Family:
    """What is compiled of a random problem.

    Attributes
    ----------
    field : DrawnField
    method : str or Tableau
    batch : {"joint", "independent"}
    terms : tuple of Term
        Of the regularizer; their weights differ between examples.
    times : int
        Number of output times; 0 asks for the end only.
    checkpoints : int
        Of the discrete adjoint.
    """

    field: DrawnField
    method: str | Tableau = "tsit5"
    batch: Batch = "joint"
    terms: tuple[Term, ...] = ()
    times: int = 0
    checkpoints: int = 64

    @property
    def tableau(self) -> Tableau:
        """The method's coefficients."""
        return lookup(self.method) if isinstance(self.method, str) else self.method

    @property
    def single(self) -> bool:
        """Whether the state is in single precision."""
        return self.field.state.dtypes[0] in ("float32", "complex64")

    def example(self, seed: int, index: int) -> Example:
        """Draw the values that are given at run time."""
        random = np.random.default_rng((seed, index))
        start, end = _span(random, 2.0)
        options: dict[str, Any] = {"method": self.method, "max_steps": 400}
        options |= self._control(random, abs(end - start))
        options |= _asked(self, random, start, end)
        if self.checkpoints != 64:
            from ndereg.spec.adjoint import Discrete

            options["adjoint"] = Discrete(self.checkpoints)
        y0, args = self.field.state.values(random), self.field.values(random)
        return Example(self.field.function, (start, end), y0, args, options)

    def _control(self, random: np.random.Generator, length: float) -> dict[str, Any]:
        tableau = self.tableau
        finest = 3 if self.single or tableau.order <= 2 else 4 if tableau.order <= 3 else 7
        rtol = 10.0 ** -float(random.integers(2, finest + 1))
        found: dict[str, Any] = {"rtol": rtol, "atol": rtol * float(random.choice([1.0, 0.1]))}
        if not tableau.adaptive:
            steps = float(random.integers(2, 9))
            return {**found, "controller": ConstantStep(float(np.round(length / steps, 3)))}
        # the automatic first step is compiled apart; it is left to problems that are named
        found["first_step"] = length * float(random.choice([0.01, 0.1, 1.0]))
        name = str(random.choice([*CONTROLLERS, ""]))
        if name:
            return {**found, "controller": name}
        p, i, d = (float(x) for x in np.round(random.uniform(0.02, 0.3, 3), 2))
        return {**found, "controller": PIDController(p, i + 0.2, d / 3)}


@dataclass(frozen=True)
class StochasticFamily:
    """What is compiled of a random stochastic equation; its calculus is that of the method.

    Attributes
    ----------
    drift, diffusion : DrawnField
        Of one state, a single array.
    method : str
    noise : {"diagonal", "additive", "scalar", "general"}
    shared : bool
        Whether the samples share their noise.
    adaptive : bool
        Or steps of one size.
    batch, terms, times
        As of a :class:`Family`.
    """

    drift: DrawnField
    diffusion: DrawnField
    method: str
    noise: NoiseKind
    shared: bool = False
    adaptive: bool = False
    batch: Batch = "joint"
    terms: tuple[Term, ...] = ()
    times: int = 0

    def example(self, seed: int, index: int) -> Example:
        """Draw the values that are given at run time."""
        random = np.random.default_rng((seed, index))
        method = lookup(self.method)
        assert isinstance(method, StochasticMethod)
        start, end = _span(random, 1.0)
        coarse = float(random.choice([0.1, 0.3]))
        options: dict[str, Any] = {
            "method": self.method, "key": int(random.integers(2**20)), "rtol": coarse,
            "atol": coarse, "max_steps": 40,
        }  # fmt: skip
        if self.adaptive:
            options["first_step"] = abs(end - start) * float(random.choice([0.1, 0.3, 1.0]))
            options["controller"] = str(random.choice([*CONTROLLERS]))
        else:
            options["controller"] = ConstantStep(abs(end - start) / float(random.integers(2, 7)))
        options |= _asked(self, random, start, end)
        drawn = (self.drift, self.diffusion)
        equation = SDE(*(f.function for f in drawn), self.noise, method.calculus, self.shared)
        y0, values = (
            self.drift.state.values(random),
            [field.values(random) or {} for field in drawn],
        )
        return Example(equation, (start, end), y0, values[0] | values[1] or None, options)


def _span(random: np.random.Generator, longest: float) -> tuple[float, float]:
    start = float(np.round(random.uniform(-2, 2), 2))
    length = float(np.round(random.uniform(0.3, longest), 2))
    return start, start + length * float(random.choice([1.0, -1.0]))


def _asked(
    family: Family | StochasticFamily, random: np.random.Generator, start: float, end: float
) -> dict[str, Any]:
    """What is asked for of a solve over a span: samples, penalties, output times."""
    options: dict[str, Any] = {}
    if family.batch != "joint":
        options["batch"] = family.batch
    if family.terms:
        weights = np.round(random.uniform(0.1, 2.0, len(family.terms)), 2)
        pairs = zip(weights.tolist(), family.terms, strict=True)
        options["regularizer"] = Combination(tuple(pairs))
    if family.times:
        inner = np.sort(np.round(random.uniform(0, 1, family.times), 2))
        options["t_eval"] = start + (end - start) * inner
    return options
