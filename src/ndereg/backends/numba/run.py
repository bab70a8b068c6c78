"""One problem on compiled functions: arrays, calls and results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ndereg.backends.base import Problem, Result
from ndereg.backends.host.local import Start
from ndereg.backends.numba.blocks import samples_at_once
from ndereg.backends.numba.emit import Kernel
from ndereg.backends.numba.ensemble import together
from ndereg.backends.numba.fields import FieldKernels
from ndereg.backends.numba.forward import COUNTS, INFO, PICK
from ndereg.backends.numba.modules import build
from ndereg.backends.numba.noise import Drive, Driving
from ndereg.backends.numba.packed import LANES
from ndereg.backends.numba.threads import in_threads, thread_count
from ndereg.spec.adjoint import Discrete
from ndereg.spec.status import Status

_PENALTY, _T_END = INFO.index("penalty"), INFO.index("t_end")


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
        routine = self.routine
        if routine.samples >= LANES and routine.module.packed is not None:
            # a lane is idle from the last sample that it is given to the end of its chunk
            whole = min(thread_count(), routine.samples // LANES)
            in_threads(self._pack, routine.samples, max(whole, routine.samples // (4 * LANES)))
            return
        if self.driving is not None and self._in_blocks():
            pieces = -(-routine.samples // samples_at_once(routine.entries))
            in_threads(self._solve_blocks, routine.samples, min(thread_count(), pieces))
            return
        in_threads(self._alone, routine.samples)

    def _alone(self, start: int, stop: int) -> None:
        """Solve a part of the batch, one sample after another."""
        problem, routine = self.problem, self.routine
        rows, temporaries = routine.workspace(routine.forward_rows)
        routine.module.functions.solve_many(
            start,
            stop,
            problem.t0,
            problem.t1,
            self.y0,
            self.parameters,
            self.weights,
            self.t_eval,
            self.ys,
            self.info,
            rows,
            temporaries,
            *self._environment(),
        )

    def _in_blocks(self) -> bool:
        problem, routine = self.problem, self.routine
        several = routine.samples >= LANES and problem.t0 != problem.t1
        return several and routine.module.blocks is not None

    def _solve_blocks(self, start: int, stop: int) -> None:
        """Solve a part of the batch in blocks, and one by one what these give back."""
        problem, routine = self.problem, self.routine
        size = samples_at_once(routine.entries)
        given_back = np.empty(-(-(stop - start) // size), np.int64)
        found = routine.module.blocks.solve_blocks(
            start, stop, problem.t0, problem.t1, self.y0, self.parameters, self.ys, self.info,
            given_back, np.empty(2 * size * routine.entries, routine.dtype), routine.no_scratch,
            *self._environment(size),
        )  # fmt: skip
        for first in given_back[:found]:
            self._alone(int(first), min(stop, int(first) + size))

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

    def _environment(self, at_once: int = 1) -> tuple[Any, ...]:
        """What the loop of a thread reads beside its rows; ``at_once`` samples share its noise."""
        driving = () if self.driving is None else self.driving.arguments(at_once)
        return (self.args, *_environment(self.routine.kernels.field), *driving)

    def _zeros(self) -> tuple[Any, ...]:
        return tuple([np.zeros(arg.shape, arg.dtype) for arg in self.args])

    def _result(self, steps: Any) -> Result:
        routine, info = self.routine, self.info
        nfev, nsteps, naccept, status = info[:, : len(COUNTS)].astype(np.int64).T
        picked = None
        if routine.picks:
            found = info[:, 1 - len(PICK) :].T
            t, row, h = (float(x[0]) if routine.joint else x[:, None] for x in found)
            picked = Start(t, self.ys[:, -1], row, h)
        ys = self.ys[:, 0] if self.problem.t_eval is None else self.ys[:, : self.times]
        penalty = info[:, _PENALTY].astype(routine.real_dtype)
        return Result(ys, penalty, nfev, nsteps, naccept, status, steps, info[:, _T_END], picked)


class EnsembleRun(Run):
    """A joint problem as the independent batch of its samples."""

    def _alone(self, start: int, stop: int) -> None:
        """Nothing: where a sample is lost, so is the joint state."""
        self.info[start:stop, COUNTS.index("status")] = float(Status.NON_FINITE)

    def _result(self, steps: Any) -> Any:
        """That of the joint solve: counts of one sample; None where any of them was lost."""
        if np.any(self.info[:, COUNTS.index("status")] == float(Status.NON_FINITE)):
            return None
        self.info = self.info[:1]
        result = super()._result(steps)
        return replace(result, ys=together(result.ys, len(self.problem.layout.shapes)))


def _stacked(columns: list[Any]) -> tuple[Any, ...]:
    """Put recorded rows of the samples side by side, filled up with nan."""
    longest = max(column.shape[1] for column in columns)
    table = np.full((5, longest, len(columns)), np.nan)
    table[4] = 0.0
    for sample, column in enumerate(columns):
        table[:, : column.shape[1], sample] = column
    return (*table[:4], table[4] > 0)
