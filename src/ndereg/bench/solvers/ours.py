"""ndereg on its three frameworks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ndereg import Regularizer
from ndereg.bench.job import Answer, Job, Prepared, Solver, Work
from ndereg.bench.problems import in_dtype
from ndereg.catalogue import lookup
from ndereg.plan.lower import lower
from ndereg.plan.program import Pullback
from ndereg.spec.controller import ConstantStep
from ndereg.spec.spec import Spec


def options(job: Job, method: str, penalty: Regularizer | None) -> dict[str, Any]:
    """Keyword arguments of ``solve``."""
    chosen: dict[str, Any] = {
        "method": method,
        "rtol": job.tolerance,
        "atol": job.tolerance,
        "batch": "independent" if job.independent else "joint",
        "regularizer": penalty,
    }
    if job.dt is not None:
        chosen["controller"] = ConstantStep(job.dt)
    return chosen


def work_of(job: Job, method: str, penalty: Regularizer | None, stats: Any) -> Work:
    """Evaluations of the solve; those of the adjoint from its own program."""
    samples = len(job.problem.y0) if job.independent else 1
    evaluations = float(np.sum(np.asarray(_on_host(stats.nfev)))) / samples
    if not job.gradient:
        return Work(evaluations)
    terms = () if penalty is None else tuple(term for _, term in penalty.terms())
    plan = lower(Spec(lookup(method), adaptive=job.dt is None, terms=terms))
    program = plan.adjoint
    assert program is not None
    pullbacks = sum(isinstance(instruction, Pullback) for instruction in program.body)
    accepted = float(np.sum(np.asarray(_on_host(stats.naccept)))) / samples
    return Work(evaluations, accepted * pullbacks + (1 if plan.shared else 0))


def _numpy(method: str, penalty: Regularizer | None, job: Job) -> Prepared:
    import ndereg.numpy as nde
    from ndereg.bench.solvers.bare import compiled_field

    problem = in_dtype(job.problem, job.dtype)
    given = (problem.field, problem.t_span, problem.y0, problem.args)
    chosen = options(job, method, penalty)
    read = partial(_read, job, method, penalty)
    bare, bare_pullback, repeats = compiled_field(problem, job.independent)
    if not job.gradient:
        return Prepared(lambda: nde.solve(*given, **chosen), read, bare, None, repeats)

    def call() -> Any:
        sol, pullback = nde.solve_vjp(*given, **chosen)
        pullback(2.0 * sol.ys, 0.0 if penalty is None else 1.0)
        return sol

    return Prepared(call, read, bare, bare_pullback, repeats)


def _jax(method: str, penalty: Regularizer | None, job: Job) -> Prepared:
    import jax
    import jax.numpy as jnp

    import ndereg.jax as nde
    from ndereg.bench.solvers.bare import jax_field

    problem = in_dtype(job.problem, job.dtype)
    y0, args = jax.tree.map(jnp.asarray, (problem.y0, problem.args))
    chosen = options(job, method, penalty)

    def solve(y0: Any, args: Any) -> Any:
        return nde.solve(problem.field, problem.t_span, y0, args, throw=False, **chosen)

    def loss(y0: Any, args: Any) -> Any:
        sol = solve(y0, args)
        return jnp.sum(sol.ys**2) + jnp.sum(sol.penalty), sol

    if job.gradient:
        compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    else:
        compiled = jax.jit(solve)

    def call() -> Any:
        out = jax.block_until_ready(compiled(y0, args))
        return out[0][1] if job.gradient else out

    bare, bare_pullback, repeats = jax_field(problem)
    return Prepared(call, partial(_read, job, method, penalty), bare, bare_pullback, repeats)


def _torch(method: str, penalty: Regularizer | None, job: Job, compiled: bool = False) -> Prepared:
    import torch

    import ndereg.torch as nde
    from ndereg.bench.solvers.bare import finished, to_torch, torch_field

    problem = in_dtype(job.problem, job.dtype)
    y0, args, leaves = to_torch(problem, job.gradient, job.device)
    chosen = options(job, method, penalty)
    read = partial(_read, job, method, penalty)
    bare, bare_pullback, repeats = torch_field(problem, job.device)
    field = torch.compile(problem.field) if compiled else problem.field

    def forward() -> Any:
        with torch.no_grad():
            return nde.solve(field, problem.t_span, y0, args, **chosen)

    def gradient() -> Any:
        sol = nde.solve(field, problem.t_span, y0, args, **chosen)
        torch.autograd.grad(sol.ys.square().sum() + sol.penalty.sum(), leaves)
        return sol

    call = finished(gradient if job.gradient else forward, job.device)
    if compiled:  # no evaluation takes place by itself
        return Prepared(call, read)
    return Prepared(call, read, bare, bare_pullback, repeats)


def _read(job: Job, method: str, penalty: Regularizer | None, sol: Any) -> Answer:
    ys = sol.ys.detach().cpu().numpy() if hasattr(sol.ys, "detach") else np.asarray(sol.ys)
    steps = np.asarray(_on_host(sol.stats.nsteps))
    return Answer(ys, work_of(job, method, penalty, sol.stats), float(np.mean(steps)))


def _on_host(counts: Any) -> Any:
    return counts.cpu() if hasattr(counts, "cpu") else counts


_PREPARE: dict[str, Callable[..., Prepared]] = {"numpy": _numpy, "jax": _jax, "torch": _torch}


def ours(framework: str, method: str, penalty: Regularizer | None = None) -> Solver:
    """Our solver on a framework, by the name of the catalogue."""
    name = f"ndereg {method}" + ("" if penalty is None else " + penalty")
    prepare = partial(_PREPARE[framework], method, penalty)
    return Solver(name, framework, method, prepare, ours=True)


def ours_compiled(method: str) -> Solver:
    """Our solver on PyTorch with a field that ``torch.compile`` made."""
    prepare = partial(_torch, method, None, compiled=True)
    return Solver(f"ndereg {method}, compiled", "torch", method, prepare, ours=True)


def ours_on_one_thread(method: str) -> Solver:
    """Our solver on NumPy with all samples in one thread: what the other threads are worth."""

    def prepare(job: Job) -> Prepared:
        from ndereg.backends.numba.threads import thread_count

        prepared = _numpy(method, None, job)

        def call() -> Any:
            before = os.environ.get(_THREADS)
            os.environ[_THREADS] = "1"
            thread_count.cache_clear()
            try:
                return prepared.call()
            finally:
                del os.environ[_THREADS]
                if before is not None:
                    os.environ[_THREADS] = before
                thread_count.cache_clear()

        return replace(prepared, call=call)

    return Solver(f"ndereg {method}, one thread", "numpy", method, prepare, ours=True)


_THREADS = "NDEREG_NUM_THREADS"

__all__ = ["options", "ours", "ours_compiled", "ours_on_one_thread", "work_of"]
