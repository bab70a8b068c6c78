"""Keys, trees and generators: which path a solve is along."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import torch

import ndereg
import ndereg.numpy as nde
from ndereg import ops

from .problems import ARGS, SPAN, Solver, close, drift, entrywise, equation

STEP = ndereg.ConstantStep(0.3)


@pytest.mark.parametrize("name", ["numba", "torch"])
def test_generators_are_drawn_from(name: str) -> None:
    """Two solves with one generator see two paths, as do two with one seed each see the same."""
    solver, options = Solver(name), {"method": "milstein", "controller": STEP}
    make = {"numba": np.random.default_rng, "torch": torch.Generator().manual_seed}[name]
    sde = nde.SDE(drift, entrywise)
    found = []
    for _ in range(2):
        generator = make(4)
        found.append([np.asarray(solver.solve(sde, key=generator, **options).ys) for _ in range(2)])
    assert np.array_equal(found[0], found[1])
    assert not np.any(found[0][0] == found[0][1])


@pytest.mark.parametrize("name", ["reference", "numba", "torch"])
def test_a_tree_of_a_generator_is_one_path(name: str) -> None:
    """What it says of itself is what every solve along it sees."""
    make = torch.Generator().manual_seed if name == "torch" else np.random.default_rng
    tree = ndereg.BrownianTree(make(4), 0.0, 1.0, (2,), 1e-3)
    sde = nde.SDE(lambda t, y, args: 0.0 * y, lambda t, y, args: 1.0 + 0.0 * y, "additive")
    options: dict[str, Any] = {"method": "euler_maruyama", "key": tree, "controller": STEP}
    solver, start = Solver(name), np.zeros(2)
    first, second = (
        solver.solve(sde, start, None, span=(0.0, 1.0), **options).ys for _ in range(2)
    )
    close(first, tree.increment(0.0, 1.0, name)[0], 1e-14)
    assert np.array_equal(first, second)


def test_a_tree_first_asked_within_a_transformation_is_the_same_after_it() -> None:
    with jax.enable_x64(True):
        tree = ndereg.BrownianTree(jax.random.key(4), 0.0, 1.0, (2,), 1e-3)
        traced = jax.jit(lambda t: tree.increment(0.0, t)[0])(0.5)
        close(tree.increment(0.0, 0.5)[0], traced, 1e-14)
        close(jax.jit(lambda t: tree.increment(0.0, t)[0] + 0.0)(0.5), traced, 1e-14)


def test_a_tree_is_the_key_of_what_else_is_random() -> None:
    def coupled(t: Any, y: Any, args: Any) -> Any:
        return drift(t, y, args) + 0.3 * ops.sum(y)

    tree, reference = ndereg.BrownianTree(3, 0.0, 2.0, (6,), 1e-3), Solver("reference")
    for regularizer in (nde.JacobianFrobenius(), nde.Steer(0.3) + nde.Kinetic()):
        found = [
            reference.solve(coupled, regularizer=regularizer, key=key, rtol=1e-2, atol=1e-2).penalty
            for key in (tree, 3, 4)
        ]
        assert found[0] == found[1] != found[2]


def test_shared_noise_moves_all_samples_alike() -> None:
    y0 = np.ones((4, 2))
    for sde, alike in ((equation("milstein", "diagonal", shared=True), True),
                       (equation("milstein", "diagonal"), False)):  # fmt: skip
        sol = nde.solve(sde, SPAN, y0, ARGS, method="milstein", controller=STEP, key=3,
                        batch="independent")  # fmt: skip
        assert np.allclose(sol.ys, sol.ys[:1]) is alike
