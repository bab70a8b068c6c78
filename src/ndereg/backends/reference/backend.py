"""The reference backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ndereg.backends.base import Problem, Result
from ndereg.backends.host.backsolve import backsolve
from ndereg.backends.host.local import ExtraStep, local_runners
from ndereg.backends.host.loop import integrate, open_tape
from ndereg.backends.host.reverse import pull_back
from ndereg.backends.interpreter import Runners
from ndereg.backends.numpy_arrays import NumpyArrays, unshared
from ndereg.backends.reference.brownian import NumpyBrownian
from ndereg.backends.reference.machine import NumpyMachine
from ndereg.backends.tracing import field_pullback
from ndereg.plan.brownian import Areas, Grid
from ndereg.plan.lower import Plan


class ReferenceBackend(NumpyArrays):
    """Step programs interpreted in plain NumPy; the field's VJP comes from its trace."""

    name = "reference"

    def brownian(
        self, areas: Areas, words: tuple[Any, Any], grid: Grid, dtype: str, like: Any = None
    ) -> NumpyBrownian:
        """Return a Brownian path."""
        return NumpyBrownian(areas, words, grid, dtype)

    def compile(self, plan: Plan) -> ReferenceSolver:
        """Make the programs ready to run."""
        return ReferenceSolver(plan)


class ReferenceSolver:
    """A plan on NumPy arrays; a subclass may give the instructions another ``machine``."""

    machine: Callable[..., Any] = NumpyMachine
    field_pullback = staticmethod(field_pullback)

    def __init__(self, plan: Plan) -> None:
        self.runners = Runners(plan)
        self.local = local_runners(plan)

    def solve(self, problem: Problem) -> Result:
        """Forward only."""
        extra = ExtraStep(np, self.local, problem)
        with np.errstate(all="ignore"):
            result = integrate(self.runners, self.machine(extra.opened), None)
            return extra.close(lambda: self.machine(problem), result)

    def solve_vjp(
        self, problem: Problem
    ) -> tuple[Result, Callable[[Any, Any], tuple[Any, Sequence[Any]]]]:
        """Forward with a tape; the pullback runs the transposed programs."""
        problem = unshared(problem)
        vjp = self.field_pullback(problem)
        diffusion = problem.diffusion
        own = diffusion is not None and diffusion.field is not None
        vjps = (vjp, field_pullback(problem, "diffusion")) if own else (vjp,)
        extra = ExtraStep(np, self.local, problem)
        tape = open_tape(problem.spec.adjoint)
        with np.errstate(all="ignore"):
            result = integrate(self.runners, self.machine(extra.opened), tape)
            result = extra.close(lambda: self.machine(problem), result)
        ys = None if tape is not None else result.ys.copy()

        def pullback(ys_bar: Any, penalty_bar: Any) -> tuple[Any, Sequence[Any]]:
            with np.errstate(all="ignore"):
                machine = self.machine(problem, *vjps)
                state_bar = extra.pull(machine, penalty_bar)
                if tape is None:
                    part, *given = extra.interrupted(ys, ys_bar, state_bar)
                    y0_bar, bars = backsolve(
                        _ARRAYS, _solve, part, vjp, *given, np.broadcast_to, *vjps[1:]
                    )
                    machine.accumulate(bars)
                else:
                    bar, picked_bar = extra.among_outputs(ys_bar, state_bar)
                    y0_bar = pull_back(self.runners, machine, tape, bar, penalty_bar, picked_bar)
                return y0_bar, [np.asarray(bar) for bar in machine.args_bar]

        return result, pullback


_ARRAYS = ReferenceBackend()


def _solve(plan: Plan, problem: Problem) -> Result:
    return ReferenceSolver(plan).solve(problem)
