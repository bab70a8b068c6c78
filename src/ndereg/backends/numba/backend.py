"""The Numba backend: a specification and a field compiled to one loop in machine code."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from ndereg.backends.base import Problem, Result
from ndereg.backends.host.backsolve import backsolve
from ndereg.backends.host.local import ExtraStep, Start, local_runners
from ndereg.backends.numba.brownian import NumbaBrownian
from ndereg.backends.numba.fields import (
    Coupled,
    FieldKernels,
    emitted_kernels,
    own_kernels,
    sample_graph,
    traced_graph,
)
from ndereg.backends.numba.forward import COUNTS, INFO, PICK
from ndereg.backends.numba.modules import SolveModule, build
from ndereg.backends.numpy_arrays import NumpyArrays, unshared
from ndereg.backends.reference.backend import ReferenceSolver
from ndereg.backends.reference.machine import NumpyMachine
from ndereg.backends.tracing import field_pullback
from ndereg.field import is_compiled
from ndereg.plan.brownian import Areas, Grid
from ndereg.plan.lower import Plan
from ndereg.spec.adjoint import Discrete
from ndereg.trace import Graph

MOST_FIELDS = 256
"""Fields whose compiled functions a specification keeps."""


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

    def solve(self, problem: Problem) -> Result:
        """Forward only."""
        extra = ExtraStep(np, self._local, problem)
        try:
            run = self._run(extra.opened, gradient=False)
        except Coupled:
            return self._lockstep.solve(problem)
        return _closed(extra, problem, run.forward(keep=False)[0])

    def solve_vjp(
        self, problem: Problem
    ) -> tuple[Result, Callable[[Any, Any], tuple[Any, Sequence[Any]]]]:
        """Forward, keeping what the compiled reverse pass needs."""
        problem = unshared(problem)
        if not isinstance(self.plan.spec.adjoint, Discrete):
            return self._backsolve(problem)
        extra = ExtraStep(np, self._local, problem)
        try:
            run = self._run(extra.opened, gradient=True)
        except Coupled:
            return self._lockstep.solve_vjp(problem)
        result, tape = run.forward(keep=True)
        result = _closed(extra, problem, result)
        vjp = None if self._local is None else field_pullback(problem)

        def pullback(ys_bar: Any, penalty_bar: Any) -> tuple[Any, Sequence[Any]]:
            if vjp is None:
                return run.reverse(tape, ys_bar, penalty_bar)
            machine = NumpyMachine(problem, vjp)
            with np.errstate(all="ignore"):
                state_bar = extra.pull(machine, penalty_bar)
            ys_bar, picked_bar = extra.among_outputs(ys_bar, state_bar)
            y0_bar, args_bar = run.reverse(tape, ys_bar, penalty_bar, picked_bar)
            return y0_bar, _total(machine, args_bar)

        return result, pullback

    @cached_property
    def _lockstep(self) -> ReferenceSolver:
        """For fields whose samples cannot be solved one by one: the batch in lockstep."""
        return ReferenceSolver(self.plan)

    def _run(self, problem: Problem, gradient: bool) -> Run:
        kernels = self._field(problem, gradient)
        return Run(problem, kernels, build(self.plan, problem.layout, kernels))

    def _field(self, problem: Problem, gradient: bool) -> FieldKernels:
        independent = problem.layout.batch is not None
        if is_compiled(problem.field):
            _check_own(problem, gradient)
            if independent:
                raise Coupled
            return self._kept((problem.field, gradient, _signature(problem)),
                              lambda: own_kernels(problem, gradient))  # fmt: skip
        graph: Graph = sample_graph(problem) if independent else traced_graph(problem)
        return self._kept((graph.key(), gradient), lambda: emitted_kernels(graph, gradient))

    def _kept(self, key: Any, make: Callable[[], FieldKernels]) -> FieldKernels:
        found = self._kernels.get(key)
        if found is None:
            found = self._kernels[key] = make()
            if len(self._kernels) > MOST_FIELDS:
                self._kernels.pop(next(iter(self._kernels)))
        return found

    def _backsolve(
        self, problem: Problem
    ) -> tuple[Result, Callable[[Any, Any], tuple[Any, Sequence[Any]]]]:
        """Solve; the augmented system of the continuous adjoint runs on the reference loop."""
        vjp = field_pullback(problem)
        extra = ExtraStep(np, self._local, problem)
        try:
            result = self._run(extra.opened, gradient=False).forward(keep=False)[0]
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


def _signature(problem: Problem) -> Any:
    return problem.layout, tuple((arg.shape, str(arg.dtype)) for arg in problem.args)


def _check_own(problem: Problem, gradient: bool) -> None:
    """Call a compiled field and its vjp once, so that a wrong result is refused by name."""
    pullback = field_pullback(problem) if gradient else None
    layout = problem.layout
    t = np.full(layout.time_shape, problem.t0, layout.real_dtype)[()]
    if not getattr(problem.field, "in_place", False):
        problem.call(t, problem.y0, problem.args)
    if pullback is not None:
        pullback(t, problem.y0, problem.args, np.zeros_like(problem.y0))


@dataclass
class Tape:
    """What the forward pass hands to the reverse pass."""

    info: Any
    parts: tuple[Any, ...]


class Run:
    """One problem on compiled modules: workspaces, calls and results."""

    def __init__(self, problem: Problem, kernels: FieldKernels, module: SolveModule) -> None:
        self.problem, self.kernels, self.module = problem, kernels, module
        layout = problem.layout
        self.joint = layout.batch is None
        self.args = tuple(
            arg if arg.flags.c_contiguous else np.ascontiguousarray(arg) for arg in problem.args
        )
        self.parameters = np.array(
            [
                *problem.parameters, problem.rtol, problem.atol, float(problem.max_steps),
                np.nan if problem.first_step is None else problem.first_step, problem.dt,
            ]
        )  # fmt: skip
        self.weights = np.array(problem.weights, np.float64)
        self.y0 = np.ascontiguousarray(problem.y0)
        times = 1
        if problem.t_eval is None:
            self.t_eval = np.empty((layout.samples, 0))
        else:
            times = problem.t_eval.shape[-1]
            rows = np.broadcast_to(problem.t_eval, (layout.samples, times))
            self.t_eval = np.ascontiguousarray(rows)
        self.times = times
        picks = problem.plan.pick is not None
        # the state that is picked comes after the outputs
        rows = times + picks
        self.ys = np.empty((layout.samples, rows, layout.entries), layout.dtype)
        reported = len(INFO) + len(problem.spec.terms) + picks * len(PICK)
        self.info = np.zeros((layout.samples, reported))
        if picks:
            self.info[:, -len(PICK)] = problem.draws

    def forward(self, keep: bool) -> tuple[Result, Tape]:
        """Solve; ``keep`` keeps the tape of a joint solve."""
        problem, recorded, parts = self.problem, None, ()
        if self.joint or problem.spec.record:
            adjoint = problem.spec.adjoint
            slots = adjoint.checkpoints if isinstance(adjoint, Discrete) else 2
            columns = []
            for sample in range(problem.layout.samples):
                found, *parts = self._one(sample, keep and self.joint, slots)
                columns.append(found[:, : int(self.info[sample, INFO.index("nsteps")])])
            recorded = _stacked(columns) if problem.spec.record else None
        else:
            self._many()
        return self._result(recorded), Tape(self.info, tuple(parts))

    def _workspace(self) -> tuple[Any, ...]:
        module, layout = self.module, self.problem.layout
        return (
            np.empty((module.forward_rows, layout.entries), layout.dtype),
            np.empty((max(module.temporaries, 1), layout.entries), layout.dtype),
        )

    def _environment(self, kernel: Any) -> tuple[Any, ...]:
        scratch = tuple(np.empty(size, dtype) for dtype, size in kernel.work)
        return scratch, kernel.dims, kernel.constants

    def _one(self, sample: int, keep: bool, slots: int) -> Any:
        problem = self.problem
        tail = () if self.joint else (sample,)
        return self.module.functions.solve_one(
            float(problem.t0), float(problem.t1), self.y0[sample], self.parameters, self.weights,
            self.t_eval[sample], self.ys[sample], self.info[sample], *self._workspace(), keep,
            slots, self.args, *self._environment(self.kernels.field), *tail,
        )  # fmt: skip

    def _many(self) -> None:
        problem = self.problem

        def chunk(start: int, stop: int) -> None:
            self.module.functions.solve_many(
                start, stop, float(problem.t0), float(problem.t1), self.y0, self.parameters,
                self.weights, self.t_eval, self.ys, self.info, *self._workspace(), self.args,
                *self._environment(self.kernels.field),
            )  # fmt: skip

        in_threads(chunk, problem.layout.samples)

    def reverse(
        self, tape: Tape, ys_bar: Any, penalty_bar: Any, picked_bar: Any = None
    ) -> tuple[Any, Sequence[Any]]:
        """Pull cotangents back; returns those of the flat state and of the leaves of args."""
        problem, layout = self.problem, self.problem.layout
        shape = (layout.samples, self.times, layout.entries)
        ys_bar = np.ascontiguousarray(ys_bar, layout.dtype).reshape(shape)
        if problem.plan.pick is not None:
            extra = np.zeros((layout.samples, 1, layout.entries), layout.dtype)
            if picked_bar is not None:
                extra[:, 0] = picked_bar
            ys_bar = np.concatenate([ys_bar, extra], axis=1)
        penalty_bar = np.asarray(penalty_bar, np.float64)
        y0_bar = np.zeros_like(self.y0)
        assert isinstance(problem.spec.adjoint, Discrete)
        slots = problem.spec.adjoint.checkpoints
        span = (float(problem.t0), float(problem.t1))
        if self.joint:
            args_bar = tuple(np.zeros(arg.shape, arg.dtype) for arg in self.args)
            rows, temporaries = self._reverse_workspace()
            self.module.reverse.pull_one(
                *span, self.parameters, self.weights, self.t_eval[0], tape.info[0], *tape.parts,
                slots, ys_bar[0], float(penalty_bar[0]), y0_bar[0], rows, temporaries,
                self._residuals(), self.args, *self._environment(self.kernels.field),
                *self._environment(self.kernels.linearize),
                *self._environment(self.kernels.pullback), args_bar,
            )  # fmt: skip
            return y0_bar, args_bar

        def chunk(start: int, stop: int) -> tuple[Any, ...]:
            args_bar = tuple(np.zeros(arg.shape, arg.dtype) for arg in self.args)
            rows, temporaries = self._workspace()
            reverse_rows, more = self._reverse_workspace()
            temporaries = more if more.shape[0] > temporaries.shape[0] else temporaries
            times = self.ys.shape[1]
            self.module.reverse.pull_many(
                start, stop, *span, self.y0, self.parameters, self.weights, self.t_eval,
                np.empty((times, layout.entries), layout.dtype), self.info.copy(), slots, ys_bar,
                penalty_bar, y0_bar, rows, temporaries, reverse_rows, self._residuals(),
                self.args, *self._environment(self.kernels.field),
                *self._environment(self.kernels.linearize),
                *self._environment(self.kernels.pullback), args_bar,
            )  # fmt: skip
            return args_bar

        found = in_threads(chunk, layout.samples)
        return y0_bar, [np.asarray(sum(parts)) for parts in zip(*found, strict=True)]

    def _reverse_workspace(self) -> tuple[Any, Any]:
        module, layout = self.module, self.problem.layout
        return (
            np.empty((module.reverse_rows, layout.entries), layout.dtype),
            np.empty((max(module.temporaries, 1), layout.entries), layout.dtype),
        )

    def _residuals(self) -> tuple[Any, ...]:
        maps, kernel = self.module.maps, self.kernels.linearize
        assert kernel is not None
        return tuple(np.empty((maps, size), dtype) for dtype, size in kernel.residuals)

    def _result(self, steps: Any) -> Result:
        counts = self.info[:, : len(COUNTS)].astype(np.int64)
        penalty = self.info[:, INFO.index("penalty")]
        picked = None
        if self.problem.plan.pick is not None:
            _, t, row = self.info[:, -len(PICK) :].T
            start = (float(t[0]), float(row[0])) if self.joint else (t[:, None], row[:, None])
            picked = Start(start[0], self.ys[:, -1], start[1])
        ys = self.ys[:, : self.times]
        return Result(
            ys=ys[:, 0] if self.problem.t_eval is None else ys,
            picked=picked,
            penalty=penalty.astype(self.problem.layout.real_dtype),
            steps=steps,
            **{name: counts[:, i] for i, name in enumerate(COUNTS)},
        )


def _stacked(columns: list[Any]) -> tuple[Any, ...]:
    """Put recorded rows of the samples side by side, filled up with nan."""
    longest = max(column.shape[1] for column in columns)
    table = np.full((5, longest, len(columns)), np.nan)
    table[4] = 0.0
    for sample, column in enumerate(columns):
        table[:, : column.shape[1], sample] = column
    return (*table[:4], table[4] > 0)


CHUNKS = 16
"""Parts of a batch, however many threads there are, so that sums over them are the same."""


def in_threads(chunk: Callable[[int, int], Any], samples: int) -> list[Any]:
    """Results of ``chunk(start, stop)`` over all samples, in threads where there are several."""
    pieces = min(samples, CHUNKS)
    edges = [round(i * samples / pieces) for i in range(pieces + 1)]
    spans = list(pairwise(edges))
    if pieces == 1 or thread_count() == 1:
        return [chunk(*span) for span in spans]
    return list(_pool().map(lambda span: chunk(*span), spans))


@cache
def thread_count() -> int:
    """Threads over the samples of an independent batch.

    Raises
    ------
    ValueError
        If ``NDEREG_NUM_THREADS`` is set to anything but a positive integer.
    """
    given = os.environ.get("NDEREG_NUM_THREADS")
    if given is None:
        usable = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
        return len(usable(0)) if usable else os.cpu_count() or 1
    if not given.isdigit() or int(given) < 1:
        raise ValueError(
            f"expected a positive integer in NDEREG_NUM_THREADS, received {given!r}; try 2"
        )
    return int(given)


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that wait from one solve to the next."""
    return ThreadPoolExecutor(thread_count(), "ndereg")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
