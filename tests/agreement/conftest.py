"""One problem on every backend: arrays converted in and out, the reference as oracle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import jax
import numpy as np
import pytest
import torch

from ndereg.backends.registry import load_backend
from ndereg.solve import Face
from ndereg.structure import flatten


class Bench:
    """A backend with conversions, so that tests speak NumPy."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.face = Face(load_backend(name))
        self.to = {"torch": torch.as_tensor, "jax": jax.numpy.asarray}.get(name, np.asarray)

    def put(self, tree: Any) -> Any:
        leaves, structure = flatten(tree)
        return structure.unflatten([self.to(leaf) for leaf in leaves])

    def get(self, tree: Any) -> Any:
        leaves, structure = flatten(tree)
        numbers = [
            leaf.detach().cpu().numpy() if isinstance(leaf, torch.Tensor) else np.asarray(leaf)
            for leaf in leaves
        ]
        return structure.unflatten(numbers)

    def solve(self, field: Any, span: Any, y0: Any, args: Any = None, **options: Any) -> Any:
        return self.face.solve(field, span, self.put(y0), self.put(args), **options)

    def gradient(
        self,
        field: Any,
        span: Any,
        y0: Any,
        args: Any,
        ys_bar: Any,
        penalty_bar: Any = 0.0,
        **options: Any,
    ) -> tuple[Any, Any, Any]:
        """Solution, d_y0 and d_args, the latter as NumPy."""
        sol, pullback = self.face.solve_vjp(field, span, self.put(y0), self.put(args), **options)
        if not isinstance(penalty_bar, float):
            penalty_bar = self.put(penalty_bar)
        d_y0, d_args = pullback(self.put(ys_bar), penalty_bar)
        return sol, self.get(d_y0), self.get(d_args)


COMPILED = ("numba", "torch", "jax")


@pytest.fixture(params=COMPILED)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Every backend but the reference, in double precision."""
    with jax.enable_x64(True) if request.param == "jax" else nullcontext():
        yield Bench(request.param)


@pytest.fixture(scope="session")
def reference() -> Bench:
    """The normative backend."""
    return Bench("reference")


def close(actual: Any, expected: Any, tolerance: float) -> None:
    """Raise unless two nested structures agree to ``tolerance`` relative to their largest entry."""
    left, structure = flatten(actual)
    right, other = flatten(expected)
    assert structure == other, (structure, other)
    for a, b in zip(left, right, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape
        assert np.array_equal(np.isnan(a), np.isnan(b))
        b = np.nan_to_num(b)
        size = max(float(np.max(np.abs(b), initial=0.0)), 1e-300)
        deviation = float(np.max(np.abs(np.nan_to_num(a) - b), initial=0.0)) / size
        assert deviation <= tolerance, f"relative deviation {deviation:.3g} > {tolerance}"
