"""The Numba backend: a specification and a field compiled to one loop in machine code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from ndereg.backends.base import Problem, Result
from ndereg.backends.host.backsolve import backsolve
from ndereg.backends.host.local import ExtraStep, Start, local_runners
from ndereg.backends.numba.brownian import NumbaBrownian
from ndereg.backends.numba.emit import Kernel
from ndereg.backends.numba.fields import (
    Coupled,
    FieldKernels,
    emitted_kernels,
    field_graphs,
    own_kernels,
)
from ndereg.backends.numba.fingerprint import fingerprint
from ndereg.backends.numba.forward import COUNTS, INFO, PICK
from ndereg.backends.numba.modules import build
from ndereg.backends.numba.noise import Drive, Driving
from ndereg.backends.numba.packed import LANES, asked_for_ends
from ndereg.backends.numba.scalarise import MOST_IN_LANES, MOST_OPERATIONS
from ndereg.backends.numba.threads import in_threads, thread_count
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
_PENALTY = INFO.index("penalty")


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

    def solve(self, problem: Problem) -> Result:
        """Forward only."""
        extra = None if self._local is None else ExtraStep(np, self._local, problem)
        try:
            run = self._run(extra.opened if extra else problem, gradient=False)
        except Coupled:
            return self._lockstep.solve(problem)
        result = run.forward()[0]
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

    def _run(self, problem: Problem, gradient: bool) -> Run:
        mark: Any = problem.field if is_compiled(problem.field) else fingerprint(problem.field)
        own = problem.diffusion.field if problem.diffusion is not None else None
        if mark is not None and own is not None:
            diffusion = fingerprint(own)
            mark = None if diffusion is None else (mark, diffusion)
        key = (mark, gradient, *_signature(problem))
        found = self._routines.get(key, _UNSEEN) if mark is not None else _UNSEEN
        if found is _UNSEEN:
            found = self._routine(problem, gradient)
            if mark is not None:
                _keep(self._routines, key, found)
        if found is None:
            raise Coupled
        return Run(problem, found)

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


class Routine:
    """The compiled functions for one field and layout, and what all calls of them share."""

    def __init__(self, problem: Problem, kernels: FieldKernels) -> None:
        layout, plan = problem.layout, problem.plan
        self.kernels = kernels
        self.module = build(plan, layout, kernels, Drive.of(problem))
        self.joint, self.keeps = layout.batch is None, self.module.keeps
        self.samples, self.entries = layout.samples, layout.entries
        self.dtype = np.dtype(layout.dtype)
        self.real_dtype = np.dtype(layout.real_dtype)
        self.picks = plan.pick is not None
        self.reported = len(INFO) + len(plan.spec.terms) + self.picks * len(PICK)
        adjoint = plan.spec.adjoint
        checkpoints = adjoint.checkpoints if isinstance(adjoint, Discrete) else 0
        self.tape_shape = (checkpoints, self.entries)
        self.no_scratch = np.empty((0, 0), self.dtype)
        self.no_times, self.no_weights = np.empty((self.samples, 0)), np.empty(0)
        self.forward_rows, self.reverse_rows = self.module.forward_rows, self.module.reverse_rows
        self.temporaries = max(self.module.temporaries, 1)
        self.columns = self.module.programs.numbers.channels

    def workspace(self, rows: int) -> tuple[Any, Any]:
        """Rows of the forward or of the reverse pass of a thread, and scratch rows."""
        if self.columns > 1:
            wide = np.empty((self.temporaries, self.entries * self.columns), self.dtype)
            return np.empty((rows, self.entries), self.dtype), wide
        room = np.empty((rows + self.temporaries, self.entries), self.dtype)
        return room[:rows], room[rows:]

    def tape(self) -> tuple[Any, Any]:
        """Room for the states of the tape, and for the last one."""
        return np.empty(self.tape_shape, self.dtype), np.empty(self.entries, self.dtype)

    def residuals(self) -> tuple[Any, ...]:
        """Room for the linearizations that are alive at once."""
        maps = self.module.maps
        return tuple(
            [
                np.empty((maps, size), dtype)
                for kernel in self.kernels.linearize
                for dtype, size in kernel.residuals
            ]
        )


def _environment(kernels: Sequence[Kernel]) -> list[Any]:
    parts: list[Any] = []
    for kernel in kernels:
        work = kernel.work
        scratch = tuple([np.empty(size, dtype) for dtype, size in work]) if work else work
        parts += [scratch, kernel.dims, kernel.constants]
    return parts


class Run:
    """One problem on a routine: arrays, calls and results."""

    def __init__(self, problem: Problem, routine: Routine) -> None:
        self.problem, self.routine = problem, routine
        self.args = tuple(
            [arg if arg.flags.c_contiguous else np.ascontiguousarray(arg) for arg in problem.args]
        )
        self.driving = None if problem.diffusion is None else Driving(problem)
        first_step = problem.first_step
        self.parameters = np.array(
            (
                *problem.parameters, problem.rtol, problem.atol, problem.max_steps,
                np.nan if first_step is None else first_step, problem.dt,
                *((np.nan,) if self.driving is None else self.driving.numbers),
            ),
            np.float64,
        )  # fmt: skip
        weights = problem.weights
        self.weights = np.array(weights, np.float64) if weights else routine.no_weights
        self.y0 = np.ascontiguousarray(problem.y0)
        self.times = 1
        if problem.t_eval is None:
            self.t_eval = routine.no_times
        else:
            self.times = problem.t_eval.shape[-1]
            rows = np.broadcast_to(problem.t_eval, (routine.samples, self.times))
            self.t_eval = np.ascontiguousarray(rows)
        # the state that is picked comes after the outputs
        rows = self.times + routine.picks
        self.ys = np.empty((routine.samples, rows, routine.entries), routine.dtype)
        self.info = np.zeros((routine.samples, routine.reported))
        if routine.picks:
            self.info[:, -len(PICK)] = problem.draws

    def unshare(self) -> None:
        """Copy what the user may change before the pullback."""
        self.y0 = self.y0.copy()
        self.args = tuple([arg.copy() for arg in self.args])

    def forward(self) -> tuple[Result, Any]:
        """Solve; a joint solve with gradients has a tape: info, mesh and states."""
        recorded = None
        states = self.routine.tape() if self.routine.keeps else ()
        if self.problem.spec.record:
            columns = []
            for sample in range(self.routine.samples):
                found, *mesh = self._one(sample, states)
                columns.append(found[:, : int(self.info[sample, INFO.index("nsteps")])])
            recorded = _stacked(columns)
        elif self.routine.joint:
            mesh = self._one(0, states)
        else:
            self._many()
        tape = (self.info, *mesh, *states) if states else None
        return self._result(recorded), tape

    def _one(self, sample: int, states: Sequence[Any]) -> Any:
        problem, routine = self.problem, self.routine
        rows, temporaries = routine.workspace(routine.forward_rows)
        tail = () if routine.joint else (sample,)
        return routine.module.functions.solve_one(
            problem.t0, problem.t1, self.y0[sample], self.parameters, self.weights,
            self.t_eval[sample], self.ys[sample], self.info[sample], rows, temporaries,
            *states, *self._environment(), *tail,
        )  # fmt: skip

    def _many(self) -> None:
        problem, routine = self.problem, self.routine
        if routine.samples >= LANES and routine.module.packed is not None:
            # a lane is idle from the last sample that it is given to the end of its chunk
            whole = min(thread_count(), routine.samples // LANES)
            in_threads(self._pack, routine.samples, max(whole, routine.samples // (4 * LANES)))
            return

        def chunk(start: int, stop: int) -> None:
            rows, temporaries = routine.workspace(routine.forward_rows)
            routine.module.functions.solve_many(
                start, stop, problem.t0, problem.t1, self.y0, self.parameters,
                self.weights, self.t_eval, self.ys, self.info, rows, temporaries,
                *self._environment(),
            )  # fmt: skip

        in_threads(chunk, routine.samples)

    def _pack(self, start: int, stop: int) -> None:
        """Solve a part of the batch, several samples at once."""
        problem, routine = self.problem, self.routine
        routine.module.packed.solve_packed(
            start, stop, problem.t0, problem.t1, self.y0, self.parameters, self.weights,
            np.empty(LANES, np.int64), self.ys, self.info, routine.no_scratch,
            *self._environment(),
        )  # fmt: skip

    def reverse(
        self, tape: Any, ys_bar: Any, penalty_bar: Any, picked_bar: Any = None
    ) -> tuple[Any, Sequence[Any]]:
        """Pull cotangents back; returns those of the flat state and of the leaves of args."""
        problem, routine = self.problem, self.routine
        functions, kernels = routine.module.functions, routine.kernels
        shape = (routine.samples, self.times, routine.entries)
        ys_bar = np.ascontiguousarray(ys_bar, routine.dtype).reshape(shape)
        if routine.picks:
            extra = np.zeros((routine.samples, 1, routine.entries), routine.dtype)
            if picked_bar is not None:
                extra[:, 0] = picked_bar
            ys_bar = np.concatenate([ys_bar, extra], axis=1)
        penalty_bar = np.asarray(penalty_bar, np.float64)
        y0_bar = np.zeros_like(self.y0)
        span = (problem.t0, problem.t1)
        if routine.joint:
            args_bar = self._zeros()
            functions.pull_one(
                *span, self.parameters, self.weights, self.t_eval[0], tape[0][0], *tape[1:],
                ys_bar[0], penalty_bar[0], y0_bar[0], *routine.workspace(routine.reverse_rows),
                routine.residuals(), *self._environment(),
                *_environment(kernels.linearize), *_environment(kernels.pullback), args_bar,
            )  # fmt: skip
            return y0_bar, args_bar

        def chunk(start: int, stop: int) -> tuple[Any, ...]:
            args_bar = self._zeros()
            rows, temporaries = routine.workspace(routine.forward_rows)
            reverse_rows, _ = routine.workspace(routine.reverse_rows)
            states = np.empty((self.ys.shape[1], routine.entries), routine.dtype)
            functions.pull_many(
                start, stop, *span, self.y0, self.parameters, self.weights, self.t_eval, states,
                self.info.copy(), *routine.tape(), ys_bar, penalty_bar, y0_bar, rows, temporaries,
                reverse_rows, routine.residuals(), *self._environment(),
                *_environment(kernels.linearize), *_environment(kernels.pullback), args_bar,
            )  # fmt: skip
            return args_bar

        found = in_threads(chunk, routine.samples)
        return y0_bar, [np.asarray(sum(parts)) for parts in zip(*found, strict=True)]

    def _environment(self) -> tuple[Any, ...]:
        """What the loop of a thread reads beside its rows."""
        driving = () if self.driving is None else self.driving.arguments()
        return (self.args, *_environment(self.routine.kernels.field), *driving)

    def _zeros(self) -> tuple[Any, ...]:
        return tuple([np.zeros(arg.shape, arg.dtype) for arg in self.args])

    def _result(self, steps: Any) -> Result:
        routine, info = self.routine, self.info
        nfev, nsteps, naccept, status = info[:, : len(COUNTS)].astype(np.int64).T
        picked = None
        if routine.picks:
            _, t, row = info[:, -len(PICK) :].T
            start = (float(t[0]), float(row[0])) if routine.joint else (t[:, None], row[:, None])
            picked = Start(start[0], self.ys[:, -1], start[1])
        ys = self.ys[:, 0] if self.problem.t_eval is None else self.ys[:, : self.times]
        penalty = info[:, _PENALTY].astype(routine.real_dtype)
        return Result(ys, penalty, nfev, nsteps, naccept, status, steps, picked)


def _stacked(columns: list[Any]) -> tuple[Any, ...]:
    """Put recorded rows of the samples side by side, filled up with nan."""
    longest = max(column.shape[1] for column in columns)
    table = np.full((5, longest, len(columns)), np.nan)
    table[4] = 0.0
    for sample, column in enumerate(columns):
        table[:, : column.shape[1], sample] = column
    return (*table[:4], table[4] > 0)
