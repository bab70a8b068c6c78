"""The continuous adjoint: state, cotangent and parameter cotangent integrated backwards together.

Between output times the cotangent obeys ``da/dt = -(df/dy)^T a`` and the parameter cotangent
``dg/dt = -(df/dargs)^T a`` (Pontryagin 1962; Chen et al. 2018, arXiv:1806.07366). At an output
time the cotangent jumps and the state is restored to the forward solution. The error control is
joint over everything that is integrated.

Of an equation of Stratonovich with diffusion ``g`` the same holds with ``dt`` and ``dW``: the
equation that is integrated backwards has diffusion ``(g, -(dg/dy)^T a, -(dg/dargs)^T a)``, whose
product with the noise is one vector-Jacobian product (Li, Wong, Chen, Duvenaud 2020,
arXiv:2001.01328), and the path is that of the forward solve, drawn again from the key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ndereg.backends.base import Backend, Layout, Problem, Result
from ndereg.backends.pairs import paired
from ndereg.backends.products import NoiseProduct, adjoint_noise
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
    diffusion_pullback: FieldPullback | None = None,
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
    diffusion_pullback : callable or None
        That of the diffusion, of a stochastic equation.

    Raises
    ------
    ValueError
        If every sample has output times of its own.
    SolveError
        If the backward solve fails.
    """
    pair = problem.part is not None
    if pair:
        problem, ys, ys_bar = _of_solution(problem, ys, ys_bar)
    pullbacks = (pullback, diffusion_pullback)
    augmented = _augmented(backend, problem, pullbacks, broadcast_time)
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
        result = solve(part.plan, paired(backend, part) if pair else part)
        status = int(np.asarray(backend.concrete(result.status))[0])
        if status != Status.SUCCESS:
            raise SolveError(Status(status), " (while integrating the adjoint backwards)")
        leaves = layout.unflatten(backend, result.ys[..., : layout.entries])
    y0_bar = leaves[1]
    if pair:  # the user's state began both halves, and what began the second one has no say
        y0_bar = backend.concat([y0_bar, y0_bar * 0])
    return y0_bar, leaves[2:]


def _of_solution(problem: Problem, ys: Any, ys_bar: Any) -> tuple[Problem, Any, Any]:
    """Return the problem of the solution alone, where a method advances a pair that follows it."""
    assert problem.part is not None
    entries = problem.part.entries
    ys_bar = ys_bar[..., :entries] + ys_bar[..., entries:]
    posed = replace(problem, layout=problem.part, y0=problem.seen_start, part=None, asked=None)
    return posed, ys[..., :entries], ys_bar


def _augmented(
    backend: Backend,
    problem: Problem,
    pullbacks: tuple[FieldPullback, FieldPullback | None],
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
        noise=adjoint_noise(problem.spec.noise),
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
        return joined(k, pullbacks[0](t, y, args, a), args)

    def joined(k: Any, bars: tuple[Any, Sequence[Any]], args: Sequence[Any]) -> Any:
        y_bar, args_bar = bars
        zeros = [arg * 0 if bar is None else bar for arg, bar in zip(args, args_bar, strict=True)]
        return layout.flatten(backend, [k, -y_bar, *(-bar for bar in zeros)])

    def product(t: Any, flat: Any, args: Sequence[Any], noise: Any) -> Any:
        diffusion, pullback = problem.diffusion, pullbacks[1]
        assert diffusion is not None
        assert pullback is not None
        y, a, *_ = layout.unflatten(backend, flat)
        t = broadcast_time(t, problem.layout.time_shape)
        channels = diffusion.path.entries.channels
        times = NoiseProduct(
            diffusion.coupling, channels, problem.layout.batch is not None, y.shape
        )
        g = diffusion.call(t, y, args)
        k, g_bar = times(g, noise), times.transposed(g, a, noise)
        return joined(k, pullback(t, y, args, g_bar), args)

    diffusion = problem.diffusion
    if diffusion is not None:
        path = replace(diffusion.path, entries=diffusion.path.entries.joined)
        diffusion = replace(diffusion, call=product, coupling="product", path=path)
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
        diffusion=diffusion,
    )
