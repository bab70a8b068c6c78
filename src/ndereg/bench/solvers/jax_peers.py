"""diffrax and ``jax.experimental.ode``."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ndereg.bench.job import Answer, Job, Prepared, Solver, Unavailable, Work
from ndereg.bench.problems import in_dtype

_STAGES = {"Tsit5": 6, "Dopri5": 6, "Dopri8": 13}
"""Evaluations a step of diffrax, which keeps the last stage for the next step (FSAL)."""


def _prepared(job: Job, solve: Any, read: Any) -> Prepared:
    """Compile ``solve(y0, args) -> (y1, more)``, alone or with the gradient of a sum of squares."""
    import jax
    import jax.numpy as jnp

    from ndereg.bench.solvers.bare import jax_field

    problem = in_dtype(job.problem, job.dtype)
    y0, args = jax.tree.map(jnp.asarray, (problem.y0, problem.args))

    def loss(y0: Any, args: Any) -> Any:
        y1, about = solve(y0, args)
        return jnp.sum(y1**2), (y1, about)

    if job.gradient:
        compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    else:
        compiled = jax.jit(solve)

    def call() -> Any:
        out = jax.block_until_ready(compiled(y0, args))
        return out[0][1] if job.gradient else out

    bare, bare_pullback, repeats = jax_field(problem)
    return Prepared(call, read, bare, bare_pullback, repeats)


def _diffrax(name: str, job: Job) -> Prepared:
    import diffrax
    import jax

    problem = in_dtype(job.problem, job.dtype)
    (t0, t1), tolerance = problem.t_span, job.tolerance
    if job.dt is None:
        control: Any = diffrax.PIDController(rtol=tolerance, atol=tolerance)
    else:
        control = diffrax.ConstantStepSize()

    def one(y0: Any, args: Any) -> Any:
        sol = diffrax.diffeqsolve(
            diffrax.ODETerm(problem.field), getattr(diffrax, name)(), t0, t1, job.dt, y0, args,
            stepsize_controller=control, max_steps=100_000 if not job.gradient else 16_384,
            saveat=diffrax.SaveAt(t1=True),
        )  # fmt: skip
        return sol.ys[0], (sol.stats["num_steps"], sol.stats["num_accepted_steps"])

    def solve(y0: Any, args: Any) -> Any:
        if not job.independent:
            return one(y0, args)
        return jax.vmap(one, in_axes=(0, None if problem.shared else 0))(y0, args)

    def read(out: Any) -> Answer:
        y1, (steps, accepted) = out
        mean, kept = float(np.mean(np.asarray(steps))), float(np.mean(np.asarray(accepted)))
        stages = _STAGES[name]
        evaluations = mean * stages + (2 if job.dt is None else 1)
        return Answer(np.asarray(y1), Work(evaluations, kept * stages * job.gradient), mean)

    return _prepared(job, solve, read)


def _odeint(job: Job) -> Prepared:
    from jax.experimental.ode import odeint

    if job.independent:
        raise Unavailable("jax.experimental.ode.odeint has no steps of their own for samples")
    if job.dt is not None:
        raise Unavailable("jax.experimental.ode.odeint has no constant steps")
    problem = in_dtype(job.problem, job.dtype)

    def solve(y0: Any, args: Any) -> Any:
        import jax.numpy as jnp

        times = jnp.asarray(problem.t_span, y0.dtype)
        ys = odeint(
            lambda y, t, args: problem.field(t, y, args), y0, times, args, rtol=job.tolerance,
            atol=job.tolerance, mxstep=100_000,
        )  # fmt: skip
        return ys[-1], None

    return _prepared(job, solve, lambda out: Answer(np.asarray(out[0]), Work(None)))


SOLVERS = (
    Solver("diffrax Tsit5", "jax", "tsit5", partial(_diffrax, "Tsit5")),
    Solver("diffrax Dopri5", "jax", "dopri5", partial(_diffrax, "Dopri5")),
    Solver("jax odeint", "jax", "dopri5", _odeint),
)
"""Peers on JAX."""
