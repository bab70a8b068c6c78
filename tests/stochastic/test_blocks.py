"""Samples that take the same steps are solved in blocks, and come out as if each were alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ndereg
from ndereg import Status, ops
from ndereg.backends.brownian import Entries
from ndereg.backends.numba import normals, run
from ndereg.backends.numba.blocks import samples_at_once
from ndereg.backends.registry import load_backend
from ndereg.plan.brownian import grid

from .problems import Solver, close, drift, entrywise, equation

SAMPLES = samples_at_once(2) + 13
"""A whole block, and one that fills no register."""


@pytest.fixture(scope="module")
def reference() -> Solver:
    return Solver("reference")


@pytest.fixture
def solved(monkeypatch: Any) -> list[str]:
    """What was called of the solves of parts of a batch, once a thread."""
    seen: list[str] = []

    def noted(name: str) -> Any:
        method = getattr(run.Run, name)

        def called(solve: Any, start: int, stop: int) -> None:
            seen.append(name)
            method(solve, start, stop)

        return called

    for name in ("_solve_blocks", "_alone"):
        monkeypatch.setattr(run.Run, name, noted(name))
    return seen


def start(shape: tuple[int, ...], dtype: str = "float64") -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def options(batch: str, tree: bool, size: int) -> dict[str, Any]:
    key: Any = 7
    if tree:
        key = ndereg.BrownianTree(7, 0.1, 1.0, (size,), 2.0**-9, areas="WHK")
    return {"controller": ndereg.ConstantStep(0.31), "batch": batch, "key": key}


CASES = [
    # method, kind of noise and which, batch, along a tree, shape
    ("stochastic_heun", "diagonal", 0, "joint", False, (SAMPLES,)),
    pytest.param("sosri", "diagonal", 0, "joint", False, (SAMPLES, 2), marks=pytest.mark.slow),
    ("reversible_heun", "diagonal", 0, "joint", False, (SAMPLES, 2)),
    ("euler_maruyama", "scalar", 0, "independent", False, (SAMPLES, 2)),
    ("general_shark", "general", 0, "independent", False, (SAMPLES, 2)),
]


@pytest.mark.parametrize(("method", "kind", "which", "batch", "tree", "shape"), CASES)
def test_as_if_each_were_alone(
    method: str, kind: str, which: int, batch: str, tree: bool, shape: tuple[int, ...],
    reference: Solver, solved: list[str],
) -> None:  # fmt: skip
    sde = equation(method, kind, which)
    chosen = options(batch, tree, 1) | {"method": method}
    y0 = start(shape)
    expected = reference.solve(sde, y0, **chosen)
    found = Solver("numba").solve(sde, y0, **chosen)
    assert set(solved) == {"_solve_blocks"}
    close(found.ys, expected.ys, 1e-12)
    for name in ("nfev", "nsteps", "naccept", "nreject"):
        np.testing.assert_array_equal(getattr(found.stats, name), getattr(expected.stats, name))
    np.testing.assert_array_equal(found.status, expected.status)


def rotated(t: Any, y: Any, args: Any) -> Any:
    """Every sample has a rate of its own, and couples its entries."""
    other = ops.concat([y[:, 1:], -y[:, :1]], axis=1)
    return args["rate"] * other - args["pull"] * y * ops.cos(t)


def test_args_of_samples_and_backwards_in_time_along_a_tree(
    reference: Solver, solved: list[str]
) -> None:
    sde = ndereg.SDE(rotated, lambda t, y, args: 0.3 * y + 0.0 * args["pull"])
    args = {"rate": start((SAMPLES, 1)), "pull": np.array(0.4)}
    path = ndereg.BrownianTree(3, 1.0, 0.1, (SAMPLES, 2), 2.0**-9)
    chosen: dict[str, Any] = {"controller": ndereg.ConstantStep(0.2), "key": path}
    y0 = start((SAMPLES, 2))
    for dtype, tolerance in (("float64", 1e-12), ("float32", 2e-6)):
        given = y0.astype(dtype), {name: arg.astype(dtype) for name, arg in args.items()}
        expected = reference.solve(sde, *given, (1.0, 0.1), **chosen, method="euler_maruyama")
        found = Solver("numba").solve(sde, *given, (1.0, 0.1), **chosen, method="euler_maruyama")
        close(found.ys, expected.ys, tolerance)
        assert found.ys.dtype == dtype
        assert set(solved) == {"_solve_blocks"}


def explosive(t: Any, y: Any, args: Any) -> Any:
    return y * y * y


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_samples_that_are_lost(batch: str, reference: Solver, solved: list[str]) -> None:
    """Their block is solved again one by one; a joint solve ends with the first of them."""
    sde = ndereg.SDE(explosive, entrywise)
    y0 = np.full((SAMPLES, 2), 0.1)
    y0[-1, 1] = 90.0
    chosen = options(batch, False, 2) | {"method": "euler_maruyama", "throw": False}
    chosen["controller"] = ndereg.ConstantStep(0.05)
    expected = reference.solve(sde, y0, **chosen)
    found = Solver("numba").solve(sde, y0, **chosen)
    assert set(solved) == {"_solve_blocks"} | ({"_alone"} if batch == "independent" else set())
    assert np.any(np.asarray(found.status) == Status.NON_FINITE)
    np.testing.assert_array_equal(found.status, expected.status)
    np.testing.assert_array_equal(found.stats.nsteps, expected.stats.nsteps)
    np.testing.assert_array_equal(np.isfinite(found.ys), np.isfinite(expected.ys))
    finite = np.isfinite(expected.ys)
    np.testing.assert_allclose(found.ys[finite], expected.ys[finite], rtol=1e-10)


def test_what_is_left_to_other_loops(reference: Solver, solved: list[str]) -> None:
    """A field that couples the samples of a joint state, and too many steps."""
    coupled = ndereg.SDE(lambda t, y, args: drift(t, y, args) - ops.mean(y), entrywise)
    chosen = options("joint", False, 2) | {"method": "euler_maruyama"}
    y0 = start((SAMPLES, 2))
    found = Solver("numba").solve(coupled, y0, **chosen)
    assert not solved
    close(found.ys, reference.solve(coupled, y0, **chosen).ys, 1e-12)
    sde = ndereg.SDE(drift, entrywise)
    chosen |= {"max_steps": 2, "throw": False}
    found, expected = (solver.solve(sde, y0, **chosen) for solver in (Solver("numba"), reference))
    assert set(solved) == {"_solve_blocks"}
    assert found.status == expected.status == Status.MAX_STEPS
    close(found.ys, expected.ys, 1e-12)


def test_numbers_of_many_entries_are_those_of_few() -> None:
    """Blocks of entries, the last one not whole, against one entry after another."""
    cells, many = grid(0.0, 1.0, 2.0**-12), 2 * normals.BLOCK + 5
    for areas in ("W", "WHK"):
        wanted = load_backend("reference").brownian(areas, (3, 5), cells, "float64")
        source = load_backend("numba").brownian(areas, (3, 5), cells, "float64")
        calls = [("direct", (np.array([[4]]), np.array([[0.1]]))), ("increment", (0.37, 0.21))]
        for call, given in calls:
            expected = getattr(wanted, call)(*given, Entries(1, many))
            found = getattr(source, call)(*given, Entries(1, many))
            few = getattr(source, call)(*given, Entries(1, 7))
            for a, b, c in zip(found, expected, few, strict=True):
                if a is not None:
                    np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)
                    np.testing.assert_allclose(a[:, :7], c, rtol=0, atol=1e-15)
