"""The suites: which problems, which solvers, and what is promised of ours."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from ndereg.bench import problems, stochastic_suites
from ndereg.bench.job import Job, Solver
from ndereg.bench.part import FRAMEWORKS, Part, Target
from ndereg.bench.solvers import jax_peers, numpy_peers, torch_peers
from ndereg.bench.solvers.ours import ours, ours_compiled, ours_on_one_thread
from ndereg.spec.adjoint import Discrete
from ndereg.spec.regularizer import ErrorEstimate

PEERS = {
    "numpy": numpy_peers.SOLVERS,
    "jax": jax_peers.SOLVERS,
    "torch": torch_peers.SOLVERS,
}


def _peers(*names: str) -> tuple[Solver, ...]:
    found = {solver.name: solver for peers in PEERS.values() for solver in peers}
    return tuple(found[name] for name in names)


def _everywhere(*methods: str, penalty: Any = None) -> tuple[Solver, ...]:
    return tuple(ours(f, m, penalty) for f in FRAMEWORKS for m in methods)


def small() -> list[Part]:
    """Single trajectories at 1e-8 in float64: the cost of the loop."""
    methods = (
        *(ours("numpy", method) for method in ("dopri5", "tsit5", "dopri8")),
        *_peers("SciPy RK45", "SciPy DOP853", "numbalsoda dop853", "CyRK RK45",
                "CyRK DOP853"),
        ours("jax", "tsit5"), ours("jax", "dopri5"),
        *_peers("diffrax Tsit5", "diffrax Dopri5", "jax odeint"),
    )  # fmt: skip
    targets = (
        Target("numpy", "ndereg dopri8", 1.0, "numbalsoda dop853"),
        Target("numpy", "ndereg tsit5", 0.3, "CyRK RK45"),
        Target("numpy", "ndereg dopri5", 1 / 150, "SciPy RK45"),
        Target("jax", "ndereg tsit5", 0.8, "diffrax Tsit5"),
    )
    calls = (ours("torch", "dopri5"), ours_compiled("dopri5"), *_peers("torchdiffeq dopri5"))
    calls_targets = (
        Target("torch", "ndereg dopri5", 0.25, "torchdiffeq dopri5"),
        Target("torch", "ndereg dopri5, compiled", 0.05, "torchdiffeq dopri5"),
    )
    return [
        Part("Lotka-Volterra, T = 100", Job(problems.lotka_volterra(), 1e-8), methods, targets),
        Part("Lorenz, T = 10", Job(problems.lorenz(), 1e-8, accuracy=1e6), methods, targets),
        Part("Arenstorf, one period", Job(problems.arenstorf(), 1e-8, accuracy=1e7), methods,
             targets),
        Part("Pleiades, T = 3", Job(problems.pleiades(), 1e-8, accuracy=1e6), methods, targets),
        Part("Lotka-Volterra, T = 10, eager", Job(problems.lotka_volterra(10.0), 1e-8), calls,
             calls_targets),
    ]  # fmt: skip


def ensemble() -> list[Part]:
    """Lotka-Volterra with parameters of their own, every sample with steps of its own."""
    solvers = (
        *_everywhere("tsit5"), ours_on_one_thread("tsit5"), ours_compiled("tsit5"),
        *_peers("diffrax Tsit5", "torchode Tsit5"),
    )  # fmt: skip
    targets = (
        Target("numpy", "ndereg tsit5", 1 / 1.8, "ndereg tsit5, one thread"),
        Target("numpy", "ndereg tsit5", 0.25, "diffrax Tsit5", peer_framework="jax"),
        Target("jax", "ndereg tsit5", 0.8, "diffrax Tsit5"),
        Target("torch", "ndereg tsit5", 0.5, "torchode Tsit5"),
        Target("torch", "ndereg tsit5, compiled", 0.5, "torchode Tsit5"),
    )
    return [
        Part(f"{samples:,} trajectories",
             Job(problems.lotka_volterra_ensemble(samples), 1e-6, independent=True, accuracy=1e4),
             solvers, targets if samples == 10_000 else ())
        for samples in (1, 100, 10_000)
    ]  # fmt: skip


_NETWORK_PEERS = ("diffrax Tsit5", "jax odeint", "torchdiffeq dopri5", "torchode Tsit5")


def mlp() -> list[Part]:
    """The MNIST field in float32: forward and gradient, at three tolerances."""
    together = (
        *_everywhere("tsit5"), ours("torch", "dopri5"),
        *_peers("diffrax Tsit5", "jax odeint", "torchdiffeq dopri5"),
    )  # fmt: skip
    forward = (
        Target("numpy", "ndereg tsit5", 1.25, measure="overhead"),
        Target("jax", "ndereg tsit5", 1.15, measure="overhead"),
        Target("jax", "ndereg tsit5", 0.75, "diffrax Tsit5"),
        Target("torch", "ndereg tsit5", 1.25, measure="overhead"),
        Target("torch", "ndereg dopri5", 0.4, "torchdiffeq dopri5"),
    )
    gradient = (
        *(Target(f, "ndereg tsit5", 1.3, measure="overhead") for f in FRAMEWORKS),
        Target("jax", "ndereg tsit5", 0.67, "diffrax Tsit5"),
        Target("torch", "ndereg dopri5", 0.5, "torchdiffeq dopri5"),
    )
    parts = []
    for tolerance in (1e-3, 1e-5, 1.4e-8):
        for backward, targets in ((False, forward), (True, gradient)):
            job = Job(problems.mlp(), tolerance, gradient=backward, dtype="float32", accuracy=1e2)
            solvers = together + (_peers("torchdiffeq dopri5 adjoint") if backward else ())
            what = "gradient" if backward else "forward"
            parts.append(Part(f"{what} at {tolerance:g}", job, solvers, targets))
    most = {False: 0.7, True: 0.6}
    for backward in (False, True):
        job = Job(problems.mlp(), 1e-5, gradient=backward, independent=True, dtype="float32",
                  accuracy=1e2)  # fmt: skip
        parts.append(
            Part(f"{'gradient' if backward else 'forward'} at 1e-05, steps of their own",
                 job, (ours("torch", "tsit5"), *_peers("torchode Tsit5")),
                 (Target("torch", "ndereg tsit5", most[backward], "torchode Tsit5"),))
        )  # fmt: skip
    return parts


def latent() -> list[Part]:
    """The latent field of PhysioNet, gradient in float32."""
    solvers = (
        *_everywhere("tsit5"), ours("torch", "dopri5"), ours_compiled("dopri5"),
        *_peers("diffrax Tsit5", "torchdiffeq dopri5", "torchdiffeq dopri5 adjoint"),
    )  # fmt: skip
    targets = (
        Target("numpy", "ndereg tsit5", 0.5, "ndereg tsit5", peer_framework="jax"),
        Target("numpy", "ndereg tsit5", 0.5, "ndereg tsit5", peer_framework="torch"),
        Target("jax", "ndereg tsit5", 0.6, "diffrax Tsit5"),
        Target("torch", "ndereg dopri5", 0.4, "torchdiffeq dopri5"),
        Target("torch", "ndereg dopri5, compiled", 0.4, "torchdiffeq dopri5"),
    )
    job = Job(problems.latent(), 1e-5, gradient=True, dtype="float32", accuracy=1e2)
    return [Part("gradient at 1e-05", job, solvers, targets)]


def conv() -> list[Part]:
    """A convolutional field, 32 images of 8 channels and 32 by 32, 64 hidden channels."""
    solvers = (
        *_everywhere("tsit5"), ours("torch", "dopri5"),
        *_peers("diffrax Tsit5", "torchdiffeq dopri5"),
    )  # fmt: skip
    return [
        Part(
            "gradient at 1e-03" if backward else "forward at 1e-03",
            Job(problems.conv(), 1e-3, gradient=backward, dtype="float32", accuracy=1e2),
            solvers, budget=8.0,
        )
        for backward in (False, True)
    ]  # fmt: skip


def long() -> list[Part]:
    """The gradient of 10,000 steps: memory."""
    problem, dt = problems.long_oscillator()
    job = Job(problem, 1e-3, gradient=True, dt=dt, accuracy=1.0)
    solvers = (*_everywhere("rk4"), *_peers("diffrax Dopri5", "torchdiffeq dopri5"))
    budget = Discrete().checkpoints * problem.y0.nbytes
    targets = (
        Target("numpy", "ndereg rk4", 2.0 * budget, measure="memory"),
        Target("jax", "ndereg rk4", 1.0, "diffrax Dopri5", "memory"),
        Target("torch", "ndereg rk4", 0.1, "torchdiffeq dopri5", "memory"),
    )
    return [Part("10,000 constant steps", job, solvers, targets, budget=1.0)]


def train() -> list[Part]:
    """The digits field, forward and gradient, and what the penalty adds to them."""
    plain = (*_everywhere("tsit5"), ours("torch", "dopri5"))
    penalized = _everywhere("tsit5", penalty=ErrorEstimate())
    parts = []
    for backward, most in ((False, 1.05), (True, 1.1)):
        job = Job(problems.mlp(256, 64), 1e-6, gradient=backward, dtype="float32", accuracy=1e2)
        targets = tuple(
            Target(f, "ndereg tsit5 + penalty", most, "ndereg tsit5") for f in FRAMEWORKS
        )
        parts.append(
            Part("gradient of a batch" if backward else "forward", job,
                 (*plain, *penalized, *_peers("diffrax Tsit5", "torchdiffeq dopri5")), targets)
        )  # fmt: skip
    return parts


def cold() -> list[Part]:
    """Import and a first gradient in a new process."""
    job = Job(problems.mlp(32, 16, 16), 1e-6, gradient=True, dtype="float32", accuracy=1e2)
    targets = (
        Target("numpy", "ndereg tsit5", 1.0, measure="cold"),
        Target("jax", "ndereg tsit5", 0.5, "diffrax Tsit5", "cold"),
        Target("torch", "ndereg tsit5", 2.0, "torchdiffeq dopri5", "cold"),
    )
    solvers = (*_everywhere("tsit5"), *_peers("diffrax Tsit5", "torchdiffeq dopri5"))
    return [Part("first gradient", job, solvers, targets, budget=1.0)]


SUITES: dict[str, Callable[[], list[Part]]] = {
    "small": cache(small), "ensemble": cache(ensemble), "mlp": cache(mlp),
    "latent": cache(latent), "conv": cache(conv), "long": cache(long), "train": cache(train),
    "cold": cache(cold),
    **{name: cache(suite) for name, suite in stochastic_suites.SUITES.items()},
}  # fmt: skip
"""Suites by name."""

__all__ = ["FRAMEWORKS", "SUITES", "Part", "Target"]
