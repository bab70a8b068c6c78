"""Brownian paths that are asked for many intervals."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ndereg.bench.job import Answer, Job, Prepared, Solver, Work
from ndereg.bench.solvers.stochastic import DEPTH, KEY
from ndereg.bench.stochastic_problems import intervals
from ndereg.brownian import BrownianTree

QUERIES = 1024
TOLERANCE = 2.0**-DEPTH


def _read(out: Any) -> Answer:
    s, t = intervals(QUERIES)
    found = np.asarray(out.cpu() if hasattr(out, "cpu") else out, np.float64)
    return Answer(found / np.sqrt(t - s)[:, None], Work(None))


def _tree(job: Job) -> BrownianTree:
    return BrownianTree(KEY, *job.problem.t_span, job.problem.y0.shape, TOLERANCE)


def _numpy(job: Job) -> Prepared:
    tree, (s, t) = _tree(job), intervals(QUERIES)
    return Prepared(lambda: tree.increment(s, t, "numpy")[0], _read)


def _torch(job: Job) -> Prepared:
    import torch

    tree = _tree(job)
    s, t = (torch.as_tensor(times, device=job.device) for times in intervals(QUERIES))
    return Prepared(lambda: tree.increment(s, t)[0], _read)


def _jax(job: Job) -> Prepared:
    import jax
    import jax.numpy as jnp

    tree = _tree(job)
    s, t = map(jnp.asarray, intervals(QUERIES))
    asked = jax.jit(lambda s, t: tree.increment(s, t)[0])
    return Prepared(lambda: jax.block_until_ready(asked(s, t)), _read)


def _diffrax(job: Job) -> Prepared:
    import diffrax
    import jax
    import jax.numpy as jnp

    shape = jax.ShapeDtypeStruct(job.problem.y0.shape, job.dtype)
    path = diffrax.VirtualBrownianTree(*job.problem.t_span, TOLERANCE, shape, jax.random.key(KEY))
    s, t = map(jnp.asarray, intervals(QUERIES))
    asked = jax.jit(jax.vmap(path.evaluate))
    return Prepared(lambda: jax.block_until_ready(asked(s, t)), _read)


def _torchsde(name: str, job: Job) -> Prepared:
    import torch
    import torchsde

    size, dtype = (1, *job.problem.y0.shape), getattr(torch, job.dtype)
    (t0, t1), (s, t) = job.problem.t_span, intervals(QUERIES)
    pairs = list(zip(s.tolist(), t.tolist(), strict=True))

    def call() -> Any:
        if name == "BrownianTree":
            path: Any = torchsde.BrownianTree(
                t0, torch.zeros(size, dtype=dtype), t1, entropy=KEY, tol=TOLERANCE
            )
        else:
            path = torchsde.BrownianInterval(t0, t1, size=size, dtype=dtype, entropy=KEY)
        return torch.cat([path(*pair) for pair in pairs])

    return Prepared(call, _read)


OURS = tuple(
    Solver("ndereg BrownianTree", framework, "path", prepare, ours=True)
    for framework, prepare in (("numpy", _numpy), ("jax", _jax), ("torch", _torch))
)
PEERS = (
    Solver("diffrax VirtualBrownianTree", "jax", "path", _diffrax),
    *(
        Solver(f"torchsde {name}", "torch", "path", partial(_torchsde, name))
        for name in ("BrownianTree", "BrownianInterval")
    ),
)
