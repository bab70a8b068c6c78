"""The Numba backend: a specification and a field compiled to one loop in machine code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from ndereg.backends.base import Problem, Result
from ndereg.backends.host.backsolve import backsolve
from ndereg.backends.host.local import ExtraStep, local_runners
from ndereg.backends.numba.brownian import NumbaBrownian
from ndereg.backends.numba.ensemble import as_batch, batch_kernels, separable
from ndereg.backends.numba.fields import (
    Coupled,
    FieldKernels,
    emitted_kernels,
    field_graphs,
    own_kernels,
)
from ndereg.backends.numba.fingerprint import fingerprint
from ndereg.backends.numba.noise import Drive
from ndereg.backends.numba.packed import asked_for_ends
from ndereg.backends.numba.run import EnsembleRun, Routine, Run
from ndereg.backends.numba.scalarise import MOST_IN_LANES, MOST_OPERATIONS
from ndereg.backends.numpy_arrays import NumpyArrays, unshared
from ndereg.backends.reference.backend import ReferenceSolver
from ndereg.backends.reference.machine import NumpyMachine
from ndereg.backends.tracing import field_pullback
from ndereg.field import is_compiled
from ndereg.plan.brownian import Areas, Grid
from ndereg.plan.lower import Plan
from ndereg.spec.adjoint import Discrete, Reversible

MOST_FIELDS = 256
"""Fields whose compiled functions a specification keeps."""

_UNSEEN: Any = object()


class NumbaBackend(NumpyArrays):
    """NumPy arrays; the solve compiled by Numba."""

    name = "numba"

    def brownian(
        self, areas: Areas, words: tuple[Any, Any], grid: Grid, dtype: str, like: Any = None
    ) -> NumbaBrownian:
        """Return a Brownian path, for use outside of compiled loops."""
        return NumbaBrownian(areas, words, grid, dtype)

    def compile(self, plan: Plan) -> NumbaSolver:
        """Modules are built when a field is first seen."""
        return NumbaSolver(plan)


class NumbaSolver:
    """A plan, and the modules compiled from it for the fields it has met."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._local = local_runners(plan)
        self._kernels: dict[Any, FieldKernels] = {}
        self._routines: dict[Any, Routine | None] = {}
        self._separable = separable(plan)

    def solve(self, problem: Problem) -> Result:
        """Forward only."""
        extra = None if self._local is None else ExtraStep(np, self._local, problem)
        try:
            run = self._run(extra.opened if extra else problem, gradient=False)
        except Coupled:
            return self._lockstep.solve(problem)
        result = run.forward()[0]
        if result is None:
            result = self._run(problem, gradient=False, apart=False).forward()[0]
        return _closed(extra, problem, result) if extra else result

    def solve_vjp(
        self, problem: Problem
    ) -> tuple[Result, Callable[[Any, Any], tuple[Any, Sequence[Any]]]]:
        """Forward, keeping what the compiled reverse pass needs."""
        transposed = isinstance(self.plan.spec.adjoint, (Discrete, Reversible))
        if not (transposed or problem.diffusion is None):
            return self._lockstep.solve_vjp(problem)
        if not transposed:
            return self._backsolve(unshared(problem))
        if self._local is not None:
            return self._solve_vjp_locally(unshared(problem))
        try:
            run = self._run(problem, gradient=True)
        except Coupled:
            return self._lockstep.solve_vjp(unshared(problem))
        run.unshare()
        result, tape = run.forward()
        return result, partial(run.reverse, tape)

    def _solve_vjp_locally(
        self, problem: Problem
    ) -> tuple[Result, Callable[[Any, Any], tuple[Any, Sequence[Any]]]]:
        extra = ExtraStep(np, self._local, problem)
        try:
            run = self._run(extra.opened, gradient=True)
        except Coupled:
            return self._lockstep.solve_vjp(problem)
        result, tape = run.forward()
        result = _closed(extra, problem, result)
        vjps = [field_pullback(problem)]
        if problem.diffusion is not None and problem.diffusion.field is not None:
            vjps.append(field_pullback(problem, "diffusion"))

        def pullback(ys_bar: Any, penalty_bar: Any) -> tuple[Any, Sequence[Any]]:
            machine = NumpyMachine(problem, *vjps)
            with np.errstate(all="ignore"):
                state_bar = extra.pull(machine, penalty_bar)
            ys_bar, picked_bar = extra.among_outputs(ys_bar, state_bar)
            y0_bar, args_bar = run.reverse(tape, ys_bar, penalty_bar, picked_bar)
            return y0_bar, _total(machine, args_bar)

        return result, pullback

    @cached_property
    def _lockstep(self) -> ReferenceSolver:
        """The batch in lockstep: for fields whose samples cannot be solved one by one.

        Also the continuous adjoint of stochastic equations.
        """
        return ReferenceSolver(self.plan)

    def _run(self, problem: Problem, gradient: bool, apart: bool = True) -> Run:
        """Return the run of a problem; ``apart`` allows for one of its samples."""
        batch = as_batch(problem) if apart and self._separable and not gradient else None
        mark: Any = problem.field if is_compiled(problem.field) else fingerprint(problem.field)
        own = problem.diffusion.field if problem.diffusion is not None else None
        if mark is not None and own is not None:
            diffusion = fingerprint(own)
            mark = None if diffusion is None else (mark, diffusion)
        key = (mark, gradient, batch is None, *_signature(problem))
        found = self._routines.get(key, _UNSEEN) if mark is not None else _UNSEEN
        if found is _UNSEEN:
            found = self._routine(problem, gradient) if batch is None else _parts(problem, batch)
            if mark is not None:
                _keep(self._routines, key, found)
        if found is not None:
            return Run(problem, found) if batch is None else EnsembleRun(batch, found)
        if batch is None:
            raise Coupled
        return self._run(problem, gradient, apart=False)

    def _routine(self, problem: Problem, gradient: bool) -> Routine | None:
        """Return what is compiled for a problem; None if its samples are coupled."""
        try:
            kernels = self._field(problem, gradient)
        except Coupled:
            return None
        return Routine(problem, kernels)

    def _field(self, problem: Problem, gradient: bool) -> FieldKernels:
        independent = problem.layout.batch is not None
        if is_compiled(problem.field):
            _check_own(problem, gradient)
            if independent:
                raise Coupled
            return self._kept((problem.field, gradient, _signature(problem)),
                              lambda: own_kernels(problem, gradient))  # fmt: skip
        graphs = field_graphs(problem)
        in_lanes = independent and problem.diffusion is None and asked_for_ends(self.plan)
        most = MOST_IN_LANES if in_lanes else MOST_OPERATIONS
        key = (*[graph.key() for graph in graphs], gradient, most)
        return self._kept(key, lambda: emitted_kernels(graphs, gradient, most))

    def _kept(self, key: Any, make: Callable[[], FieldKernels]) -> FieldKernels:
        found = self._kernels.get(key)
        if found is None:
            found = make()
            _keep(self._kernels, key, found)
        return found

    def _backsolve(
        self, problem: Problem
    ) -> tuple[Result, Callable[[Any, Any], tuple[Any, Sequence[Any]]]]:
        """Solve; the augmented system of the continuous adjoint runs on the reference loop."""
        vjp = field_pullback(problem)
        extra = ExtraStep(np, self._local, problem)
        try:
            result = self._run(extra.opened, gradient=False).forward()[0]
            result = _closed(extra, problem, result)
        except Coupled:
            return self._lockstep.solve_vjp(problem)
        ys = result.ys.copy()

        def pullback(ys_bar: Any, penalty_bar: Any) -> tuple[Any, Sequence[Any]]:
            with np.errstate(all="ignore"):
                machine = NumpyMachine(problem, vjp)
                state_bar = extra.pull(machine, penalty_bar)
                part, *given = extra.interrupted(ys, ys_bar, state_bar)
                y0_bar, args_bar = backsolve(
                    NumbaBackend(),
                    lambda plan, part: ReferenceSolver(plan).solve(part),
                    part, vjp, *given, np.broadcast_to,
                )  # fmt: skip
                return y0_bar, _total(machine, args_bar)

        return result, pullback


def _parts(problem: Problem, batch: Problem) -> Routine | None:
    """Return what is compiled for the samples of a joint problem; None if that is not possible."""
    kernels = batch_kernels(problem, batch.layout.samples, False)
    routine = None if kernels is None else Routine(batch, kernels)
    return None if routine is None or routine.module.blocks is None else routine


def _closed(extra: ExtraStep, problem: Problem, result: Result) -> Result:
    """Take the extra step, outside of the kernels: it is a handful of evaluations."""
    with np.errstate(all="ignore"):
        return extra.close(lambda: NumpyMachine(problem), result)


def _total(machine: NumpyMachine, args_bar: Sequence[Any]) -> list[Any]:
    machine.accumulate(args_bar)
    return [np.asarray(bar) for bar in machine.args_bar]


def _signature(problem: Problem) -> tuple[Any, ...]:
    """Return what compiled functions depend on beside the field."""
    shapes = tuple([(arg.shape, arg.dtype) for arg in problem.args])
    drive = None if problem.diffusion is None else Drive.of(problem)
    return problem.layout, problem.args_structure, shapes, drive


def _keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    if len(kept) > MOST_FIELDS:
        kept.pop(next(iter(kept)), None)


def _check_own(problem: Problem, gradient: bool) -> None:
    """Call a compiled field and its vjp once, so that a wrong result is refused by name."""
    pullback = field_pullback(problem) if gradient else None
    layout = problem.layout
    t = np.full(layout.time_shape, problem.t0, layout.real_dtype)[()]
    if not getattr(problem.field, "in_place", False):
        problem.call(t, problem.y0, problem.args)
    if pullback is not None:
        pullback(t, problem.y0, problem.args, np.zeros_like(problem.y0))
