"""The JAX backend."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ndereg.backends.base import Problem, Result
from ndereg.backends.interpreter import Runners
from ndereg.backends.jax import clock
from ndereg.backends.jax.arrays import JaxArrays
from ndereg.backends.jax.brownian import JaxBrownian
from ndereg.backends.jax.derivatives import refuse_derivative
from ndereg.backends.jax.field import TracedField
from ndereg.backends.jax.fingerprint import Fingerprint
from ndereg.backends.jax.inputs import Inputs, gather_inputs
from ndereg.backends.jax.solver import Options, Solver, is_traced
from ndereg.plan.brownian import Areas, Grid
from ndereg.plan.control import remembers
from ndereg.plan.lower import Plan

MOST_SOLVERS = 64
"""Compiled fields kept for each specification; the one used longest ago goes first."""


class JaxBackend(JaxArrays):
    """Step programs traced into one ``lax.while_loop``, compiled by XLA."""

    name = "jax"

    def brownian(
        self, areas: Areas, words: tuple[Any, Any], grid: Grid, dtype: str, like: Any = None
    ) -> JaxBrownian:
        """Return a Brownian path; words, and the grid but for its depth, may be traced."""
        return JaxBrownian(areas, words, grid, dtype)

    def compile(self, plan: Plan) -> JaxSolver:
        """Make the programs ready to run."""
        return JaxSolver(plan)


@dataclass
class _Entry:
    """A compiled field, and where its constants are found: an array it reaches, or one held."""

    solver: Solver
    references: list[Any]
    constants: list[tuple[int | None, Any]]

    def serves(self, fingerprint: Fingerprint) -> bool:
        """Whether the arrays are still those that were traced."""
        return all(
            reference() is array
            for reference, array in zip(self.references, fingerprint.arrays, strict=True)
        )


class JaxSolver:
    """A plan on JAX arrays; every field that it meets is traced and compiled once."""

    def __init__(self, plan: Plan) -> None:
        self._runners = Runners(plan)
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._changing = False
        """Whether a field was met that changes what it reaches while it runs."""

    def solve(self, problem: Problem) -> Result:
        """Solve; differentiable where a transformation of JAX is looking."""
        solver, inputs = self._prepared(problem)
        joint = problem.layout.batch is None
        if not is_traced(inputs):
            return _result(solver.forward(inputs), joint)
        try:
            return _result(solver.differentiable(problem.max_steps)(inputs), joint)
        except Exception as error:
            refuse_derivative(error)
            raise

    def solve_vjp(
        self, problem: Problem
    ) -> tuple[Result, Callable[[Any, Any], tuple[Any, Sequence[Any]]]]:
        """Solve with a tape; the pullback runs the transposed programs."""
        solver, inputs = self._prepared(problem)
        found, pullback = solver.with_pullback(problem.max_steps, inputs)
        return _result(found, problem.layout.batch is None), pullback

    def _prepared(self, problem: Problem) -> tuple[Solver, Inputs]:
        fields = _fields(problem)
        statics, fingerprint = _statics(problem), Fingerprint(fields)
        entry = self._found(fingerprint, statics)
        if entry is None and fingerprint.reusable and self._changing:
            coarse = Fingerprint(fields, plain=False)
            entry = self._found(coarse, statics)
            if entry is not None:
                fingerprint = coarse
        if entry is None:
            entry, fingerprint = self._traced(problem, fingerprint, statics)
        constants = [
            held if index is None else fingerprint.arrays[index] for index, held in entry.constants
        ]
        return entry.solver, gather_inputs(problem, constants)

    def _found(self, fingerprint: Fingerprint, statics: Hashable) -> _Entry | None:
        if not fingerprint.reusable:
            return None
        key = (fingerprint.key, statics)
        entry = self._entries.get(key)
        if entry is None or not entry.serves(fingerprint):
            return None
        self._entries.move_to_end(key)
        return entry

    def _traced(
        self, problem: Problem, fingerprint: Fingerprint, statics: Hashable
    ) -> tuple[_Entry, Fingerprint]:
        traced = TracedField(problem)
        constants = traced.take_constants()
        held = any(isinstance(constant, jax.core.Tracer) for constant in constants)
        reusable = fingerprint.reusable and not held
        if reusable and Fingerprint(_fields(problem)).key != fingerprint.key:
            self._changing = True
            fingerprint = Fingerprint(_fields(problem), plain=False)
        solver = Solver(self._runners, traced, _options(problem))
        entry = _Entry(solver, fingerprint.references(), _sources(constants, fingerprint))
        if reusable:
            self._entries[fingerprint.key, statics] = entry
            while len(self._entries) > MOST_SOLVERS:
                self._entries.popitem(last=False)
        return entry, fingerprint


def _options(problem: Problem) -> Options:
    return Options(
        first_step_given=problem.first_step is not None,
        remembers=remembers(problem.parameters),
        recorded=problem.max_steps if problem.spec.record else 0,
    )


def _fields(problem: Problem) -> Any:
    """The field, and the diffusion where there is one."""
    diffusion = problem.diffusion
    return problem.field if diffusion is None else (problem.field, diffusion.field)


def _statics(problem: Problem) -> Hashable:
    """What is compiled in, besides specification and field."""
    path = None if problem.diffusion is None else problem.diffusion.path
    return (
        path and (path.grid.depth, path.areas, path.entries, path.direct, path.cells),
        problem.layout,
        problem.args_structure,
        tuple((arg.shape, str(arg.dtype)) for arg in problem.args),
        _options(problem),
        clock.is_wide(),
        jax.config.jax_default_matmul_precision,
    )


def _sources(constants: Sequence[Any], fingerprint: Fingerprint) -> list[tuple[int | None, Any]]:
    positions = {id(array): i for i, array in enumerate(fingerprint.arrays)}
    sources: list[tuple[int | None, Any]] = []
    for constant in constants:
        index = positions.get(id(constant))
        sources.append((index, constant if index is None else None))
    return sources


def _result(found: dict[str, Any], joint: bool) -> Result:
    counts = found["counts"]
    if joint and not isinstance(counts, jax.core.Tracer):
        # one transfer; the edge wants Python integers, and eager indexing in JAX is slow
        counts = np.asarray(counts)
    nfev, nsteps, naccept, status = (counts[i] for i in range(4))
    return Result(
        ys=found["ys"],
        penalty=found["penalty"],
        nfev=nfev,
        nsteps=nsteps,
        naccept=naccept,
        status=status,
        steps=_trimmed(found["steps"], nsteps) if "steps" in found else None,
        t=found.get("t"),
    )


def _trimmed(steps: Sequence[Any], nsteps: Any) -> tuple[Any, ...]:
    """The attempts that were made, where their number is known."""
    if isinstance(nsteps, jax.core.Tracer):
        return tuple(steps)
    return tuple(column[: int(np.max(nsteps))] for column in steps)
