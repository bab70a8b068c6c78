"""The suites of stochastic equations.

Every library draws a Brownian path of its own, so that what is compared are errors: on its own path
where the exact solution is known there, and else of the law of many samples, in standard errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ndereg.bench import stochastic_problems as problems
from ndereg.bench.job import Job
from ndereg.bench.part import FRAMEWORKS, Part, Target
from ndereg.bench.solvers import paths
from ndereg.bench.solvers.stochastic import compiled, diffrax_peer, ours, torchsde_peer

_HEUN = (
    *(ours(framework, "stochastic_heun") for framework in FRAMEWORKS),
    compiled("stochastic_heun"), diffrax_peer("Heun", "stochastic_heun"),
    torchsde_peer("heun", "stochastic_heun"),
    torchsde_peer("heun", "stochastic_heun", compile_fields=True),
)  # fmt: skip
_SPARK = (
    *(ours(framework, "spark") for framework in FRAMEWORKS), diffrax_peer("SPaRK", "spark"),
    torchsde_peer("heun", "heun, steps halved"),
)  # fmt: skip


_REVERSIBLE = (
    *(ours(framework, "reversible_heun") for framework in FRAMEWORKS),
    compiled("reversible_heun"),
    diffrax_peer("ReversibleHeun", "reversible_heun"),
    torchsde_peer("reversible_heun", "reversible_heun"),
    torchsde_peer("reversible_heun", "reversible_heun", compile_fields=True),
)  # fmt: skip


def _targets(method: str, *peers: str) -> tuple[Target, ...]:
    """What is promised of ours beside each of the peers."""
    name, diffrax = f"ndereg {method}", next((p for p in peers if p.startswith("diffrax")), None)
    found: tuple[Target, ...] = ()
    if diffrax is not None:
        found = (
            Target("numpy", name, 0.2, diffrax, peer_framework="jax"),
            Target("jax", name, 0.6, diffrax),
        )
    if "torchsde heun" in peers:
        found = (*found, Target("torch", name, 0.4, "torchsde heun"))
        if method == "stochastic_heun":
            found = (*found, *_compiled_targets(name, "torchsde heun"))
    return found


def _compiled_targets(name: str, peer: str) -> tuple[Target, Target]:
    """The same of compiled fields, beside the peer as it is and with compiled fields as well."""
    return (
        Target("torch", f"{name}, compiled", 0.4, peer),
        Target("torch", f"{name}, compiled", 0.4, f"{peer}, compiled"),
    )


_ALONG_HEUN = _targets("stochastic_heun", "diffrax Heun", "torchsde heun")


def small() -> list[Part]:
    """One path of four geometric Brownian motions along a tree: the cost of the loop."""
    steps = Job(problems.geometric((4,)), 1.0 / 256, dt=1.0 / 256, accuracy=5.0)
    adaptive = Job(problems.geometric((4,)), 1e-4, accuracy=100.0)
    judge = problems.geometric_on_path
    return [
        Part("256 constant steps along a tree", steps, _HEUN, _ALONG_HEUN, truth=judge),
        Part("adaptive at 1e-04 along a tree", adaptive, _SPARK,
             _targets("spark", "diffrax SPaRK", "torchsde heun"), truth=judge),
    ]  # fmt: skip


def ensemble() -> list[Part]:
    """10,000 paths of geometric Brownian motion."""
    problem, fewer = problems.geometric((10_000, 1)), problems.geometric((1000, 1))
    own = tuple(solver for solver in _SPARK if not solver.name.startswith("torchsde"))
    return [
        Part("100 constant steps, increments drawn",
             Job(problem, 0.01, dt=0.01, path="drawn"), _HEUN, _ALONG_HEUN,
             truth=problems.geometric_law),
        Part("adaptive at 1e-03 along a tree, steps of their own",
             Job(problem, 1e-3, independent=True, accuracy=30.0), own,
             _targets("spark", "diffrax SPaRK"), truth=problems.geometric_on_path),
        Part("adaptive at 1e-03 along a tree, one step for all",
             Job(problem, 1e-3, accuracy=30.0), _SPARK,
             _targets("spark", "diffrax SPaRK", "torchsde heun"),
             truth=problems.geometric_on_path),
        Part("gradient of 100 constant steps, increments drawn",
             Job(problem, 0.01, dt=0.01, path="drawn", gradient=True), _HEUN,
             _targets("stochastic_heun", "torchsde heun"), truth=problems.geometric_law),
        Part("gradient of 50 constant steps along a tree, 1,000 paths",
             Job(fewer, 0.02, dt=0.02, gradient=True, accuracy=5.0), _HEUN, _ALONG_HEUN,
             truth=problems.geometric_on_path),
    ]  # fmt: skip


def networks() -> list[Part]:
    """A neural SDE in float32: 128 samples of 32 entries, perceptrons of width 64, 50 steps."""
    step = problems.NETWORK_STEP
    job = Job(problems.networks(), step, dtype="float32", dt=step, path="drawn")
    along = replace(job, gradient=True, path="tree")
    peer = ("torchsde heun",)
    return [
        Part("forward, increments drawn", job, _HEUN, _ALONG_HEUN, truth=problems.networks_law),
        Part("gradient, increments drawn", replace(job, gradient=True), _HEUN,
             _targets("stochastic_heun", *peer), truth=problems.networks_law),
        Part("gradient along a tree", along, _HEUN, _ALONG_HEUN, truth=problems.networks_law),
    ]  # fmt: skip


def pairs() -> list[Part]:
    """1,000 paths by the reversible Heun method, whose state is a pair."""
    job = Job(problems.geometric((1000, 1)), 0.01, dt=0.01, path="drawn")
    name, peer = "ndereg reversible_heun", "torchsde reversible_heun"
    beside = (Target("torch", name, 0.4, peer), *_compiled_targets(name, peer))
    targets = (*_targets("reversible_heun", "diffrax ReversibleHeun"), *beside)
    return [
        Part("100 constant steps, increments drawn", job, _REVERSIBLE, targets,
             truth=problems.geometric_law),
        Part("gradient of 100 constant steps, increments drawn", replace(job, gradient=True),
             _REVERSIBLE, beside, truth=problems.geometric_law),
    ]  # fmt: skip


def tree() -> list[Part]:
    """Queries of a Brownian path."""
    targets = (
        Target("numpy", "ndereg BrownianTree", 0.2, "diffrax VirtualBrownianTree",
               peer_framework="jax"),
        Target("jax", "ndereg BrownianTree", 0.6, "diffrax VirtualBrownianTree"),
        Target("torch", "ndereg BrownianTree", 0.4, "torchsde BrownianInterval"),
    )  # fmt: skip
    return [
        Part(f"{paths.QUERIES:,} queries of {channels} channel{'s' * (channels > 1)}",
             Job(problems.queries(channels), paths.TOLERANCE), (*paths.OURS, *paths.PEERS),
             targets, truth=problems.increments_law, queries=paths.QUERIES)
        for channels in (1, 64)
    ]  # fmt: skip


SUITES: dict[str, Callable[[], list[Part]]] = {
    "sde-small": small, "sde-ensemble": ensemble, "sde-mlp": networks, "sde-pairs": pairs,
    "sde-tree": tree,
}  # fmt: skip
"""Suites by name."""
