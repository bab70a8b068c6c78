"""Random problems that share everything that is compiled.

Compiling dominates a cross-check of a new problem. A :class:`Family` holds what is fixed when a
solve is compiled; its examples differ in what is given at run time: state, arguments, span and
direction, tolerances, controller, first step, weights, cotangents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ndereg.catalogue import lookup
from ndereg.catalogue.controllers import CONTROLLERS
from ndereg.spec.controller import ConstantStep, PIDController
from ndereg.spec.regularizer import Combination, Term
from ndereg.spec.spec import Batch
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
        start = float(np.round(random.uniform(-2, 2), 2))
        length = float(np.round(random.uniform(0.3, 2.0), 2))
        end = start + length * float(random.choice([1.0, -1.0]))
        options: dict[str, Any] = {"method": self.method, "max_steps": 400}
        options |= self._control(random, length)
        if self.batch != "joint":
            options["batch"] = self.batch
        if self.terms:
            weights = np.round(random.uniform(0.1, 2.0, len(self.terms)), 2)
            pairs = zip(weights.tolist(), self.terms, strict=True)
            options["regularizer"] = Combination(tuple(pairs))
        if self.times:
            inner = np.sort(np.round(random.uniform(0, 1, self.times), 2))
            options["t_eval"] = start + (end - start) * inner
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
