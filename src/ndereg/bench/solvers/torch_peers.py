"""torchdiffeq and torchode."""

from __future__ import annotations

from functools import partial
from typing import Any

from ndereg.bench.job import Answer, Job, Prepared, Solver, Unavailable, Work
from ndereg.bench.problems import in_dtype
from ndereg.bench.solvers.bare import finished, to_torch, torch_field


class _Count:
    """Calls of the field."""

    def __init__(self) -> None:
        self.calls = 0


def _torchdiffeq(adjoint: bool, job: Job) -> Prepared:
    import torch
    import torchdiffeq

    if job.independent:
        raise Unavailable("torchdiffeq has no steps of their own for samples")
    if adjoint and not job.gradient:
        raise Unavailable("the same as without the adjoint")
    problem = in_dtype(job.problem, job.dtype)
    y0, _, leaves = to_torch(problem, job.gradient, job.device)
    count = _Count()

    class Field(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tensors = [torch.nn.Parameter(leaf.detach()) for leaf in leaves[1:]]
            for i, tensor in enumerate(self.tensors):
                self.register_parameter(f"p{i}", tensor)
            self.structure = _structure(problem.args)

        def forward(self, t: Any, y: Any) -> Any:
            count.calls += 1
            return problem.field(t, y, self.structure.unflatten(list(self.tensors)))

    field = Field()
    times = torch.tensor(problem.t_span, dtype=y0.dtype, device=y0.device)
    solve = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
    chosen: dict[str, Any] = {"rtol": job.tolerance, "atol": job.tolerance, "method": "dopri5"}
    if job.dt is not None:
        chosen |= {"method": "rk4", "options": {"step_size": job.dt}}

    def forward() -> Any:
        count.calls = 0
        with torch.no_grad():
            return solve(field, y0, times, **chosen)[-1], count.calls

    def gradient() -> Any:
        count.calls = 0
        y1 = solve(field, y0, times, **chosen)[-1]
        forward_calls = count.calls
        torch.autograd.grad(y1.square().sum(), [y0, *field.tensors])
        return y1, (forward_calls, count.calls - forward_calls)

    def read(out: Any) -> Answer:
        y1, calls = out
        if not job.gradient:
            return Answer(y1.cpu().numpy(), Work(float(calls)))
        first, later = calls
        # direct backpropagation pulls every evaluation back; the adjoint linearizes its own
        work = Work(float(first), float(later)) if adjoint else Work(0.0, float(first))
        return Answer(y1.detach().cpu().numpy(), work)

    bare, bare_pullback, repeats = torch_field(problem, job.device)
    call = finished(gradient if job.gradient else forward, job.device)
    return Prepared(call, read, bare, bare_pullback, repeats)


def _structure(args: Any) -> Any:
    from ndereg.structure import flatten

    return flatten(args)[1]


def _torchode(name: str, job: Job) -> Prepared:
    import torch
    import torchode

    if not job.problem.batched:
        raise Unavailable("torchode solves batches only")
    if job.dt is not None:
        raise Unavailable("torchode is compared with adaptive steps only")
    problem = in_dtype(job.problem, job.dtype)
    y0, args, leaves = to_torch(problem, job.gradient, job.device)
    samples = len(y0)
    flat = y0.reshape(samples, -1)

    def field(t: Any, y: Any, args: Any) -> Any:
        time = t[:, None] if y0.ndim > 1 else t
        return problem.field(time, y, args)

    term = torchode.ODETerm(field, with_args=True)
    control = torchode.IntegralController(job.tolerance, job.tolerance, term=term)
    solver = torchode.AutoDiffAdjoint(getattr(torchode, name)(term=term), control)
    like = {"dtype": y0.dtype, "device": y0.device}
    start = torch.full((samples,), problem.t_span[0], **like)
    end = torch.full((samples,), problem.t_span[1], **like)

    def solve() -> Any:
        initial = torchode.InitialValueProblem(
            y0=y0.reshape(flat.shape), t_start=start, t_end=end, t_eval=end[:, None]
        )
        return solver.solve(initial, args=args)

    def forward() -> Any:
        with torch.no_grad():
            return solve()

    def gradient() -> Any:
        sol = solve()
        torch.autograd.grad(sol.ys.square().sum(), leaves)
        return sol

    def read(sol: Any) -> Answer:
        calls = float(sol.stats["n_f_evals"].double().mean())
        work = Work(0.0, calls) if job.gradient else Work(calls)
        steps = float(sol.stats["n_steps"].double().mean())
        return Answer(sol.ys[:, -1].detach().cpu().numpy().reshape(y0.shape), work, steps)

    bare, bare_pullback, repeats = torch_field(problem, job.device)
    call = finished(gradient if job.gradient else forward, job.device)
    return Prepared(call, read, bare, bare_pullback, repeats)


SOLVERS = (
    Solver("torchdiffeq dopri5", "torch", "dopri5", partial(_torchdiffeq, False)),
    Solver("torchdiffeq dopri5 adjoint", "torch", "dopri5", partial(_torchdiffeq, True)),
    Solver("torchode Tsit5", "torch", "tsit5", partial(_torchode, "Tsit5")),
    Solver("torchode Dopri5", "torch", "dopri5", partial(_torchode, "Dopri5")),
)
"""Peers on PyTorch."""
