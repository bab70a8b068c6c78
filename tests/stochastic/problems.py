"""Equations with every kind of noise, and the backends that solve them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import torch

import ndereg
from ndereg import ops
from ndereg.backends.numba.backend import NumbaBackend, NumbaSolver
from ndereg.backends.reference.backend import ReferenceSolver
from ndereg.backends.registry import load_backend
from ndereg.plan.lower import Plan
from ndereg.solve import Face
from ndereg.structure import flatten
from ndereg.testing.duties.stochastic import ARGS, by_time, drift, entrywise, matrix

SPAN = (0.1, 1.0)
Y0 = np.random.default_rng(0).normal(size=(3, 2))
TIMES = np.array([0.1, 0.3, 0.52, 0.52, 1.0])


def matrix_by_time(t: Any, y: Any, args: Any) -> Any:
    return ops.stack([args[1] * (1.0 + 0.3 * t) + 0.0 * y, 0.3 * ops.cos(t) + 0.0 * y], axis=-1)


DIFFUSIONS: dict[str, tuple[Any, ...]] = {
    "diagonal": (entrywise,),
    "scalar": (entrywise,),
    "general": (matrix,),
    "additive": (by_time, matrix_by_time),
}
METHODS = tuple(
    name for name in ndereg.names("sde") if "langevin" not in ndereg.lookup(name).noises
)


def equation(method: str, kind: str, which: int = -1, **options: Any) -> ndereg.SDE:
    """An equation that the method solves."""
    calculus = ndereg.lookup(method).calculus
    return ndereg.SDE(drift, DIFFUSIONS[kind][which], kind, calculus, **options)


def regularizer(method: str) -> ndereg.Regularizer | None:
    """What the method has the rows for."""
    tableau = ndereg.lookup(method)
    if not tableau.adaptive:
        return None
    total: ndereg.Regularizer = ndereg.ErrorEstimate()
    if tableau.stiffness_pair is not None:
        total = total + 0.3 * ndereg.StiffnessEstimate(reduce="max")
    return total


class Known(diffrax.AbstractBrownianPath):
    """One increment of a path, with its areas."""

    increment: tuple[Any, Any, Any]

    @property
    def t0(self) -> float:
        return 0.0

    @property
    def t1(self) -> float:
        return 10.0

    @property
    def levy_area(self) -> Any:
        return diffrax.SpaceTimeTimeLevyArea

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True, use_levy: bool = False) -> Any:
        w, h, k = self.increment
        if not use_levy:
            return w
        return diffrax.SpaceTimeTimeLevyArea(dt=jnp.asarray(t1 - t0), W=w, H=h, K=k)


class Lockstep(NumbaBackend):
    """The reference loop on compiled paths: nothing is compiled for a method."""

    def compile(self, plan: Plan) -> Any:
        return ReferenceSolver(plan)


LOCKSTEP = Lockstep()


def only_compiled(monkeypatch: Any) -> None:
    """Let solves of Numba fail that would take the reference loop."""

    def refused(solver: Any) -> Any:
        raise AssertionError("expected compiled code, received the reference loop")

    monkeypatch.setattr(NumbaSolver, "_lockstep", property(refused))


class Solver:
    """A backend that speaks NumPy."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.face = Face(LOCKSTEP if name == "lockstep" else load_backend(name))
        self.put_leaf = {"torch": torch.as_tensor, "jax": jax.numpy.asarray}.get(name, np.asarray)

    def put(self, tree: Any) -> Any:
        leaves, structure = flatten(tree)
        return structure.unflatten([self.put_leaf(leaf) for leaf in leaves])

    def solve(self, sde: Any, y0: Any = Y0, args: Any = ARGS, span: Any = SPAN, **options: Any):
        return self.face.solve(sde, span, self.put(y0), self.put(args), **options)

    def gradient(
        self, sde: Any, bar: Any, penalty_bar: Any, y0: Any = Y0, args: Any = ARGS,
        span: Any = SPAN, **options: Any,
    ) -> tuple[Any, Any, Any]:  # fmt: skip
        """Solution, d_y0 and d_args."""
        sol, pullback = self.face.solve_vjp(sde, span, self.put(y0), self.put(args), **options)
        if options.get("regularizer") is None:  # of a method without estimates
            penalty_bar = 0.0
        return sol, *pullback(self.put(bar), self.put(np.asarray(penalty_bar)))


def double_precision(name: str) -> Any:
    """JAX's x64 mode, which the other backends do without."""
    return jax.enable_x64(True) if name == "jax" else nullcontext()


def close(actual: Any, expected: Any, tolerance: float) -> None:
    """Raise unless arrays agree to ``tolerance`` relative to the largest entry, at least 1."""
    left, right = np.asarray(actual), np.asarray(expected)
    largest = float(np.max(np.abs(right), initial=1.0, where=~np.isnan(right)))
    np.testing.assert_allclose(left, right, rtol=0, atol=tolerance * largest)
