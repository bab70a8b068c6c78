"""The field alone, compiled or eager as the solvers have it: the limit of what a solve can cost.

Every function returns ``(bare, bare_pullback, repeats)``: callables that evaluate the field, or
evaluate and pull back, ``repeats`` times. Compiled loops feed a vanishing part of each result back
into the state, so that no evaluation can be left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ndereg.bench.problems import Problem

Bare = tuple[Callable[[], Any], Callable[[], Any], int]

_LOOPS = """

from ndereg.backends.numba.compiler import program


@program
def repeat_field(n, t, y, A, work, out, dims, constants):
    for i in range(n):
        for s in range({samples}):
            field(t, y[s], A, work, out, dims, constants{sample})
        y[0, 0] += 1e-300 * out[0]


@program
def repeat_pullback(
    n, t, y, A, work_1, work_2, residuals, out, y_bar, A_bar, dims_1, dims_2,
    constants_1, constants_2,
):
    for i in range(n):
        for s in range({samples}):
            linearize(t, y[s], A, work_1, residuals, out, dims_1, constants_1{sample})
            pullback(t, y[s], A, work_2, residuals, out, y_bar, A_bar, dims_2, constants_2{sample})
        y[0, 0] += 1e-300 * y_bar[0]
"""


def compiled_field(problem: Problem, independent: bool) -> Bare:
    """The field's kernels as the Numba backend emits them, in a compiled loop."""
    from ndereg.backends.numba.emit import HEADER, emit
    from ndereg.backends.numba.module import load
    from ndereg.structure import flatten
    from ndereg.trace import linearize, per_sample, trace

    leaves, args_structure = flatten(problem.args)
    _, state_structure = flatten(problem.y0)
    samples = len(problem.y0) if independent else 1
    graph: Any = trace(
        problem.field,
        state_structure=state_structure,
        state_shapes=[problem.y0.shape],
        state_dtypes=[str(problem.y0.dtype)],
        dtype=str(problem.y0.dtype),
        args_structure=args_structure,
        args_shapes=[leaf.shape for leaf in leaves],
        args_dtypes=[str(leaf.dtype) for leaf in leaves],
        batch=samples if independent else None,
    )
    graph = per_sample(graph, samples) if independent else graph
    linear = linearize(graph)
    kernels = (
        emit(graph, "field"),
        emit(linear.forward, "linearize", "linearize"),
        emit(linear.pullback, "pullback", "pullback", linear.zero),
    )
    loops = _LOOPS.format(samples=samples, sample=", s" if independent else "")
    module: Any = load(HEADER + "\n\n" + "\n\n".join(k.source for k in kernels) + loops)
    y = problem.y0.reshape(samples, -1).copy()
    out, y_bar = np.empty_like(y[0]), np.empty_like(y[0])
    args = tuple(np.ascontiguousarray(leaf) for leaf in leaves)
    args_bar = tuple(np.zeros_like(leaf) for leaf in args)
    field, forward, pullback = kernels
    work = [tuple(np.empty(size, dtype) for dtype, size in kernel.work) for kernel in kernels]
    residuals = tuple(np.empty(size, dtype) for dtype, size in forward.residuals)
    n = max(1, 20_000 // y.size)

    def bare() -> None:
        module.repeat_field(n, 0.5, y, args, work[0], out, field.dims, field.constants)

    def bare_pullback() -> None:
        module.repeat_pullback(
            n, 0.5, y, args, work[1], work[2], residuals, out, y_bar, args_bar, forward.dims,
            pullback.dims, forward.constants, pullback.constants,
        )  # fmt: skip

    return bare, bare_pullback, n


def jax_field(problem: Problem) -> Bare:
    """The field in a compiled loop."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    y0, args = jax.tree.map(jnp.asarray, (problem.y0, problem.args))
    time = jnp.asarray(0.5, y0.dtype)
    if problem.batched and not problem.shared:
        time = jnp.broadcast_to(time, (len(y0), *([1] * (y0.ndim - 1))))
        time = time.reshape((len(y0),)) if y0.ndim == 1 else time
    n = max(1, 20_000 // y0.size)
    corner = (0,) * y0.ndim

    @jax.jit
    def fields(y: Any, args: Any) -> Any:
        def body(_: Any, carry: Any) -> Any:
            y, _ = carry
            k = problem.field(time, y, args)
            return y.at[corner].add(1e-30 * k[corner]), k

        return lax.fori_loop(0, n, body, (y, y))

    @jax.jit
    def pullbacks(y: Any, args: Any) -> Any:
        def body(_: Any, carry: Any) -> Any:
            y, _, _ = carry
            k, pull = jax.vjp(lambda y, args: problem.field(time, y, args), y, args)
            y_bar, args_bar = pull(k)
            return y.at[corner].add(1e-30 * y_bar[corner]), y_bar, args_bar

        return lax.fori_loop(0, n, body, (y, y, args))

    return (
        lambda: jax.block_until_ready(fields(y0, args)),
        lambda: jax.block_until_ready(pullbacks(y0, args)),
        n,
    )


def to_torch(problem: Problem, gradient: bool, device: str = "cpu") -> tuple[Any, Any, list[Any]]:
    """State, args and the leaves that are differentiated by."""
    import torch

    from ndereg.structure import flatten

    leaves, structure = flatten(problem.args)
    tensors = [torch.as_tensor(leaf, device=device) for leaf in leaves]
    y0 = torch.as_tensor(problem.y0, device=device)
    if gradient:
        y0 = y0.clone().requires_grad_()
        tensors = [tensor.clone().requires_grad_() for tensor in tensors]
    return y0, structure.unflatten(tensors), [y0, *tensors]


def finished(call: Callable[[], Any], device: str) -> Callable[[], Any]:
    """``call``, returning when the device is done with what it was given."""
    if device == "cpu":
        return call
    import torch

    def waiting() -> Any:
        out = call()
        torch.cuda.synchronize()
        return out

    return waiting


def torch_field(problem: Problem, device: str = "cpu") -> Bare:
    """The field called eagerly."""
    import torch

    y0, args, _ = to_torch(problem, False, device)
    y, given, leaves = to_torch(problem, True, device)
    time = torch.tensor(0.5, dtype=y0.dtype, device=device)
    if problem.batched and not problem.shared:
        time = time.expand(len(y0), *([1] * (y0.ndim - 1)))
    n = max(1, min(20, 20_000 // y0.numel()))

    def bare() -> None:
        with torch.no_grad():
            for _ in range(n):
                problem.field(time, y0, args)

    def bare_pullback() -> None:
        for _ in range(n):
            k = problem.field(time, y, given)
            torch.autograd.grad(k, leaves, k.detach(), allow_unused=True)

    return finished(bare, device), finished(bare_pullback, device), n
