"""SciPy, numbalsoda and CyRK."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ndereg.bench.job import Answer, Job, Prepared, Solver, Unavailable, Work
from ndereg.bench.problems import in_dtype


def _only_single_forward(job: Job, library: str) -> None:
    if job.gradient:
        raise Unavailable(f"{library} has no gradients")
    if job.dt is not None:
        raise Unavailable(f"{library} has no constant steps")
    if job.problem.batched:
        raise Unavailable(f"{library} solves one trajectory at a time")


def _scipy(method: str, job: Job) -> Prepared:
    from scipy.integrate import solve_ivp

    _only_single_forward(job, "SciPy")
    problem = in_dtype(job.problem, job.dtype)

    def field(t: Any, y: Any) -> Any:
        return problem.field(t, y, problem.args)

    def call() -> Any:
        return solve_ivp(
            field, problem.t_span, problem.y0, method=method, rtol=job.tolerance,
            atol=job.tolerance, t_eval=(problem.t_span[1],),
        )  # fmt: skip

    def read(found: Any) -> Answer:
        return Answer(found.y[:, -1], Work(float(found.nfev)))

    n = 100

    def bare() -> None:
        for _ in range(n):
            field(0.5, problem.y0)

    return Prepared(call, read, bare, None, n)


def _refuse_unwritten(job: Job) -> None:
    from ndereg.bench.solvers import handwritten

    if job.problem.name not in handwritten.FIELDS:
        raise Unavailable(f"no hand-written field of {job.problem.name}")


def _handwritten_bare(job: Job) -> tuple[Callable[[], Any], int]:
    from ndereg.bench.solvers import handwritten

    y0, args = job.problem.y0, handwritten.flat_args(job.problem)
    out, n = np.empty_like(y0), 20_000
    repeat = handwritten.REPEATED[job.problem.name]
    return (lambda: repeat(n, 0.5, y0.copy(), out, args)), n


def _numbalsoda(job: Job) -> Prepared:
    from numbalsoda import dop853

    from ndereg.bench.solvers import handwritten

    _only_single_forward(job, "numbalsoda")
    _refuse_unwritten(job)
    problem = job.problem
    args = np.append(handwritten.flat_args(problem), 0.0)
    times = np.array(problem.t_span)

    def call(counting: bool = False) -> Any:
        return dop853(
            handwritten.c_function(problem.name, counting).address, problem.y0, times, data=args,
            rtol=job.tolerance, atol=job.tolerance, mxstep=1_000_000,
        )  # fmt: skip

    def read(found: Any) -> Answer:
        states, success = found
        if not success:
            raise Unavailable("it reports failure")
        args[-1] = 0.0  # it does not say how often it calls the field
        call(counting=True)
        return Answer(states[-1], Work(float(args[-1])))

    bare, n = _handwritten_bare(job)
    return Prepared(call, read, bare, None, n)


def _cyrk(method: str, job: Job) -> Prepared:
    from CyRK import nbsolve2_ivp

    from ndereg.bench.solvers import handwritten

    _only_single_forward(job, "CyRK")
    _refuse_unwritten(job)
    problem = job.problem
    args = np.append(handwritten.flat_args(problem), 0.0)
    end = np.array([problem.t_span[1]])

    def call() -> Any:
        found = nbsolve2_ivp(
            handwritten.cyrk_function(problem.name).address, problem.t_span, problem.y0,
            method=method, t_eval=end, args=args, rtol=job.tolerance, atol=job.tolerance,
        )  # fmt: skip
        y1, success = np.array(found.y)[..., -1], found.success
        found.free()
        return y1, success

    def read(found: Any) -> Answer:
        y1, success = found
        if not success:
            raise Unavailable("it reports failure")
        return Answer(y1, Work(None))

    bare, n = _handwritten_bare(job)
    return Prepared(call, read, bare, None, n)


SOLVERS = (
    Solver("SciPy RK45", "numpy", "dopri5", partial(_scipy, "RK45")),
    Solver("SciPy DOP853", "numpy", "dopri8", partial(_scipy, "DOP853")),
    Solver("numbalsoda dop853", "numpy", "dopri8", _numbalsoda),
    Solver("CyRK RK45", "numpy", "dopri5", partial(_cyrk, "RK45")),
    Solver("CyRK DOP853", "numpy", "dopri8", partial(_cyrk, "DOP853")),
)
"""Peers on NumPy."""
