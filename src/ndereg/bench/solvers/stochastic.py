"""Stochastic equations: ndereg, diffrax and torchsde on Brownian paths of the same kind.

Fixed steps that draw their increments: ours by the number of the step, diffrax from its unsafe
path, torchsde from its interval, which remembers what was asked of it. Along a virtual tree, which
can be asked again: all of them, at the same resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ndereg.bench.job import Answer, Job, Prepared, Solver, Unavailable, Work
from ndereg.bench.problems import Problem, in_dtype
from ndereg.bench.solvers.ours import options
from ndereg.brownian import BrownianTree
from ndereg.catalogue import lookup
from ndereg.spec.controller import PIDController

DEPTH = 16
"""Halvings of the span to the resolution of a tree."""
KEY = 5


def _areas(method: str) -> Any:
    needed = getattr(lookup(method), "variables", frozenset())
    return "WH" if {"H", "chi2"} & needed else "W"


def _tree(job: Job, method: str) -> BrownianTree:
    t0, t1 = job.problem.t_span
    return BrownianTree(
        KEY, t0, t1, job.problem.y0.shape, abs(t1 - t0) * 2.0**-DEPTH, areas=_areas(method)
    )


def _first_step(job: Job) -> float:
    """Libraries guess it differently, which is several steps of a short solve."""
    t0, t1 = job.problem.t_span
    return 0.02 * abs(t1 - t0)


def _chosen(job: Job, method: str) -> dict[str, Any]:
    chosen = options(job, method, None)
    chosen["key"] = _tree(job, method) if job.path == "tree" else KEY
    if job.dt is None:  # the integral law, which diffrax has as well
        chosen |= {"controller": PIDController(), "first_step": _first_step(job)}
    return chosen


def _read(job: Job, method: str, sol: Any) -> Answer:
    ys = sol.ys.detach().cpu().numpy() if hasattr(sol.ys, "detach") else np.asarray(sol.ys)
    counts = [getattr(sol.stats, name) for name in ("nfev", "nsteps")]
    means = [float(np.mean(np.asarray(c.cpu() if hasattr(c, "cpu") else c))) for c in counts]
    driving = None
    if job.path == "tree":
        driving = _tree(job, method).increment(*job.problem.t_span, backend="reference")[0]
    return Answer(ys, Work(means[0]), means[1], driving)


def _numpy(method: str, job: Job) -> Prepared:
    import ndereg.numpy as nde

    problem = in_dtype(job.problem, job.dtype)
    sde = nde.SDE(problem.field, problem.diffusion, calculus="stratonovich")
    given, chosen = (sde, problem.t_span, problem.y0, problem.args), _chosen(job, method)

    def gradient() -> Any:
        sol, pullback = nde.solve_vjp(*given, **chosen)
        pullback(2.0 * sol.ys)
        return sol

    call = gradient if job.gradient else partial(nde.solve, *given, **chosen)
    return Prepared(call, partial(_read, job, method))


def _jax(method: str, job: Job) -> Prepared:
    import jax.numpy as jnp

    import ndereg.jax as nde

    problem = in_dtype(job.problem, job.dtype)
    sde = nde.SDE(problem.field, problem.diffusion, calculus="stratonovich")
    chosen = _chosen(job, method)

    def solve(y0: Any, args: Any) -> Any:
        sol = nde.solve(sde, problem.t_span, y0, args, throw=False, **chosen)
        return jnp.sum(sol.ys**2), sol

    return Prepared(_compiled(problem, job, solve), partial(_read, job, method))


def _compiled(problem: Problem, job: Job, solve: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    """Return a call of ``solve(y0, args) -> (loss, result)``, with its gradient if asked for."""
    import jax
    import jax.numpy as jnp

    y0, args = jax.tree.map(jnp.asarray, (problem.y0, problem.args))
    if not job.gradient:
        compiled = jax.jit(lambda y0, args: solve(y0, args)[1])
        return lambda: jax.block_until_ready(compiled(y0, args))
    graded = jax.jit(jax.value_and_grad(solve, argnums=(0, 1), has_aux=True))
    return lambda: jax.block_until_ready(graded(y0, args))[0][1]


def _torch(method: str, job: Job, compile_fields: bool = False) -> Prepared:
    import torch

    import ndereg.torch as nde
    from ndereg.bench.solvers.bare import finished, to_torch

    problem = in_dtype(job.problem, job.dtype)
    y0, args, leaves = to_torch(problem, job.gradient, job.device)
    fields: Any = (problem.field, problem.diffusion)
    if compile_fields:
        fields = map(torch.compile, fields)
    sde = nde.SDE(*fields, calculus="stratonovich")
    chosen = _chosen(job, method)

    def forward() -> Any:
        with torch.no_grad():
            return nde.solve(sde, problem.t_span, y0, args, **chosen)

    def gradient() -> Any:
        sol = nde.solve(sde, problem.t_span, y0, args, **chosen)
        torch.autograd.grad(sol.ys.square().sum(), leaves)
        return sol

    call = finished(gradient if job.gradient else forward, job.device)
    return Prepared(call, partial(_read, job, method))


_PREPARE: dict[str, Callable[..., Prepared]] = {"numpy": _numpy, "jax": _jax, "torch": _torch}


def ours(framework: str, method: str) -> Solver:
    """Our solver on a framework, by the name of the method."""
    prepare = partial(_PREPARE[framework], method)
    return Solver(f"ndereg {method}", framework, method, prepare, ours=True)


def compiled(method: str) -> Solver:
    """Our solver on PyTorch, of drift and diffusion that ``torch.compile`` made."""
    prepare = partial(_torch, method, compile_fields=True)
    return Solver(f"ndereg {method}, compiled", "torch", method, prepare, ours=True)


def _diffrax(name: str, method: str, job: Job) -> Prepared:
    import diffrax
    import jax
    import jax.numpy as jnp
    import lineax

    if job.gradient and job.path == "drawn":
        raise Unavailable("diffrax differentiates along its tree only")
    problem = in_dtype(job.problem, job.dtype)
    (t0, t1), shape = problem.t_span, problem.y0.shape
    state = shape[1:] if job.independent else shape
    noise = jax.ShapeDtypeStruct((int(np.prod(state)),), problem.y0.dtype)
    area = diffrax.SpaceTimeLevyArea if "H" in _areas(method) else diffrax.BrownianIncrement

    def opened(key: Any) -> Any:
        if job.path == "tree":
            tolerance = abs(t1 - t0) * 2.0**-DEPTH
            return diffrax.VirtualBrownianTree(t0, t1, tolerance, noise, key, area)
        return diffrax.UnsafeBrownianPath(noise, key, area)

    def along(field: Any) -> Any:
        return lambda t, y, args: field(t, y.reshape(state), args).reshape(-1)

    drift, diffusion = along(problem.field), along(problem.diffusion)
    if job.dt is None:
        control: Any = diffrax.PIDController(
            rtol=job.tolerance, atol=job.tolerance, dtmin=abs(t1 - t0) * 2.0**-DEPTH,
            error_order=lookup(method).error_order,
        )  # fmt: skip
    else:
        control = diffrax.ConstantStepSize()
    drawn_once = job.path == "drawn"
    adjoint = diffrax.ForwardMode() if drawn_once else diffrax.RecursiveCheckpointAdjoint()

    def one(y0: Any, args: Any, key: Any) -> Any:
        matrix = diffrax.ControlTerm(
            lambda t, y, args: lineax.DiagonalLinearOperator(diffusion(t, y, args)), opened(key)
        )
        sol = diffrax.diffeqsolve(
            diffrax.MultiTerm(diffrax.ODETerm(drift), matrix), getattr(diffrax, name)(), t0, t1,
            job.dt or _first_step(job), y0.reshape(-1), args, stepsize_controller=control,
            adjoint=adjoint, saveat=diffrax.SaveAt(t1=True), max_steps=4096,
        )  # fmt: skip
        return sol.ys[0].reshape(state), sol.stats["num_steps"]

    keys = jax.random.key(KEY)
    if job.independent:
        keys = jax.random.split(keys, shape[0])

    def solve(y0: Any, args: Any) -> Any:
        found = jax.vmap(one, (0, None, 0)) if job.independent else one
        y1, steps = found(y0, args, keys)
        return jnp.sum(y1**2), (y1, steps)

    def read(out: Any) -> Answer:
        driving = None
        if job.path == "tree":
            ends = partial(_whole, opened, t0, t1)
            driving = (jax.vmap(ends) if job.independent else ends)(keys)
            driving = np.asarray(driving).reshape(shape)
        return Answer(np.asarray(out[0]), Work(None), float(np.mean(out[1])), driving)

    return Prepared(_compiled(problem, job, solve), read)


def _whole(opened: Any, t0: float, t1: float, key: Any) -> Any:
    found = opened(key).evaluate(t0, t1)
    return getattr(found, "W", found)


def _torchsde(method: str, job: Job, compile_fields: bool = False) -> Prepared:
    import torch
    import torchsde

    from ndereg.bench.solvers.bare import finished, to_torch

    if job.independent:
        raise Unavailable("torchsde has no steps of their own for samples")
    problem = in_dtype(job.problem, job.dtype)
    y0, args, leaves = to_torch(problem, job.gradient, job.device)
    batch = y0 if y0.ndim > 1 else y0[None]
    drift, diffusion = problem.field, problem.diffusion
    assert diffusion is not None
    if compile_fields:
        drift, diffusion = torch.compile(drift), torch.compile(diffusion)

    class Equation(torch.nn.Module):
        noise_type, sde_type = "diagonal", "stratonovich"

        def f(self, t: Any, y: Any) -> Any:
            return drift(t, y, args)

        def g(self, t: Any, y: Any) -> Any:
            return diffusion(t, y, args)

    t0, t1 = problem.t_span
    times = torch.tensor([t0, t1], dtype=y0.dtype, device=y0.device)
    chosen: dict[str, Any] = {"method": method, "dt": job.dt}
    if job.dt is None:
        chosen = {
            "method": method, "dt": _first_step(job), "adaptive": True, "rtol": job.tolerance,
            "atol": job.tolerance,
        }  # fmt: skip
    equation = Equation()

    def solve() -> Any:
        if job.path == "tree":
            path: Any = torchsde.BrownianTree(
                t0, torch.zeros_like(batch), t1, entropy=KEY, tol=abs(t1 - t0) * 2.0**-DEPTH
            )
        else:
            path = torchsde.BrownianInterval(
                t0, t1, size=tuple(batch.shape), dtype=y0.dtype, device=y0.device, entropy=KEY
            )
        start = y0 if y0.ndim > 1 else y0[None]
        return torchsde.sdeint(equation, start, times, bm=path, **chosen)[-1], path

    def forward() -> Any:
        with torch.no_grad():
            return solve()

    def gradient() -> Any:
        y1, path = solve()
        torch.autograd.grad(y1.square().sum(), leaves)
        return y1, path

    def read(out: Any) -> Answer:
        y1, path = out
        driving = path(t0, t1).cpu().numpy().reshape(problem.y0.shape)
        y1 = y1.detach().cpu().numpy().reshape(problem.y0.shape)
        return Answer(y1, Work(None), None, driving)

    return Prepared(finished(gradient if job.gradient else forward, job.device), read)


def diffrax_peer(name: str, method: str) -> Solver:
    """A solver of diffrax, which is the method ``method`` of ours."""
    return Solver(f"diffrax {name}", "jax", method, partial(_diffrax, name, method))


def torchsde_peer(method: str, tableau: str, compile_fields: bool = False) -> Solver:
    """A solver of torchsde; adaptive it halves its steps, which is another estimate.

    Compiled, its drift and diffusion are those that ``torch.compile`` made, as in :func:`compiled`.
    """
    name = f"torchsde {method}, compiled" if compile_fields else f"torchsde {method}"
    prepare = partial(_torchsde, method, compile_fields=compile_fields)
    return Solver(name, "torch", tableau, prepare)
