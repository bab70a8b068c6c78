"""The continuous adjoint: state, cotangent and parameter cotangent integrated backwards together.

Between output times the cotangent obeys ``da/dt = -(df/dy)^T a`` and the parameter cotangent
``dg/dt = -(df/dargs)^T a`` (Pontryagin 1962; Chen et al. 2018, arXiv:1806.07366). At an output
time the cotangent jumps and the state is restored to the forward solution. The error control is
joint over everything that is integrated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ndereg.backends.base import Backend, Layout, Problem, Result
from ndereg.plan.lower import Plan, lower
from ndereg.spec.adjoint import NoAdjoint
from ndereg.spec.status import SolveError, Status
from ndereg.structure import LEAF, Structure

FieldPullback = Callable[[Any, Any, Sequence[Any], Any], tuple[Any, Sequence[Any]]]
Solve = Callable[[Plan, Problem], Result]


def backsolve(
    backend: Backend,
    solve: Solve,
    problem: Problem,
    pullback: FieldPullback,
    ys: Any,
    ys_bar: Any,
    broadcast_time: Callable[[Any, tuple[int, ...]], Any],
) -> tuple[Any, list[Any]]:
    """Return the cotangents of ``y0`` (flat) and of the leaves of args.

    Parameters
    ----------
    backend, solve
        The arrays, and the forward solve of a plan.
    problem : Problem
        The forward problem.
    pullback : callable
        ``(t, y, args, k_bar) -> (y_bar, args_bar)`` on flat arrays.
    ys, ys_bar : array (B, n) or (B, T, n)
        Forward solution at the output times, and its cotangent.
    broadcast_time : callable
        ``(t, shape) -> t`` for the time that the field sees.

    Raises
    ------
    ValueError
        If every sample has output times of its own.
    SolveError
        If the backward solve fails.
    """
    augmented = _augmented(backend, problem, pullback, broadcast_time)
    times = [problem.t1] if problem.t_eval is None else list(problem.t_eval)
    states = [ys] if problem.t_eval is None else [ys[:, i, ...] for i in range(len(times))]
    bars = [ys_bar] if problem.t_eval is None else [ys_bar[:, i, ...] for i in range(len(times))]
    layout = augmented.layout
    leaves = [states[-1], bars[-1] * 0, *(backend.cast(arg * 0, dtype) for arg, dtype in
              zip(problem.args, layout.dtypes[2:], strict=True))]  # fmt: skip
    for index in range(len(times) - 1, -1, -1):
        leaves[0] = states[index]
        leaves[1] = leaves[1] + bars[index]
        end = times[index - 1] if index else problem.t0
        flat = layout.flatten(backend, leaves)
        part = replace(augmented, t0=float(times[index]), t1=float(end), y0=flat)
        result = solve(part.plan, part)
        status = int(np.asarray(backend.concrete(result.status))[0])
        if status != Status.SUCCESS:
            raise SolveError(Status(status), " (while integrating the adjoint backwards)")
        leaves = layout.unflatten(backend, result.ys)
    return leaves[1], leaves[2:]


def _augmented(
    backend: Backend,
    problem: Problem,
    pullback: FieldPullback,
    broadcast_time: Callable[[Any, tuple[int, ...]], Any],
) -> Problem:
    if problem.t_eval is not None and problem.t_eval.ndim == 2:
        raise ValueError(
            "expected output times that all samples share for adjoint='backsolve', received "
            f"t_eval of shape {tuple(problem.t_eval.shape)}; try adjoint='discrete'"
        )
    spec = replace(
        problem.spec,
        batch="joint",
        adjoint=NoAdjoint(),
        dense=False,
        record=False,
        terms=(),
        local=None,
    )
    shape = tuple(problem.y0.shape)
    shapes = (shape, shape, *(tuple(arg.shape) for arg in problem.args))
    kinds = [backend.dtype(arg) for arg in problem.args]
    state = problem.layout.dtype
    dtypes = (state, state, *(k if k[0] in "fc" else problem.layout.real_dtype for k in kinds))
    layout = Layout(
        structure=Structure("tuple", (LEAF,) * len(shapes)),
        shapes=shapes,
        dtypes=dtypes,
        dtype=str(np.result_type(*dtypes)),
        batch=None,
    )

    def call(t: Any, flat: Any, args: Sequence[Any]) -> Any:
        y, a, *_ = layout.unflatten(backend, flat)
        t = broadcast_time(t, problem.layout.time_shape)
        k = problem.call(t, y, args)
        y_bar, args_bar = pullback(t, y, args, a)
        zeros = [arg * 0 if bar is None else bar for arg, bar in zip(args, args_bar, strict=True)]
        return layout.flatten(backend, [k, -y_bar, *(-bar for bar in zeros)])

    return replace(
        problem,
        spec=spec,
        plan=lower(spec),
        call=call,
        layout=layout,
        t_eval=None,
        first_step=None,
        weights=(),
        draws=None,
    )
