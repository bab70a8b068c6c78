"""The continuous adjoint of an equation of Stratonovich, along the path of the forward solve."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ndereg
from ndereg import ops

from .problems import (
    ARGS,
    DIFFUSIONS,
    TIMES,
    Y0,
    Solver,
    close,
    double_precision,
    drift,
    entrywise,
    matrix,
)  # fmt: skip

CASES = [
    ("diagonal", "independent", False, TIMES, "spark", None),
    ("general", "joint", False, None, "reversible_heun", 0.1),
    ("general", "independent", False, None, "stochastic_heun", 0.1),
    ("scalar", "independent", True, TIMES, "reversible_heun", None),
    ("additive", "joint", False, TIMES, "euler_heun", 0.1),
]


@pytest.mark.parametrize("name", ["numba", "torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_backends_agree(name: str) -> None:
    """Every kind of noise, jointly and sample by sample, with output times and a pair of states."""
    reference, other, rng = Solver("reference"), Solver(name), np.random.default_rng(2)
    for kind, batch, shared, times, method, size in CASES[1:2] if name == "jax" else CASES:
        sde = ndereg.SDE(drift, DIFFUSIONS[kind][-1], kind, "stratonovich", shared)
        options: dict[str, Any] = {
            "method": method, "batch": batch, "key": 3, "rtol": 1e-2, "atol": 1e-2,
            "adjoint": "backsolve", "controller": size and ndereg.ConstantStep(size),
        }  # fmt: skip
        shape: tuple[int, ...] = Y0.shape
        if times is not None:
            options["t_eval"] = times
            shape = (3, len(times), 2) if batch == "independent" else (len(times), 3, 2)
        bar = rng.normal(size=shape)
        expected = reference.gradient(sde, bar, 0.0, **options)
        with double_precision(name):
            actual = other.gradient(sde, bar, 0.0, **options)
            for left, right in zip(actual[1:], expected[1:], strict=True):
                close(left, right, 1e-11)


def growth(t: Any, y: Any, args: Any) -> Any:
    return args[0] * y


def spread(t: Any, y: Any, args: Any) -> Any:
    return args[1] * y


@pytest.mark.parametrize("method", ["spark", "euler_heun"])
def test_gradients_converge_to_those_of_the_exact_solution(method: str) -> None:
    """Of y0 exp(a + b W) by y0, a and b."""
    tree = ndereg.BrownianTree(5, 0.0, 1.0, (8, 1), 2.0**-12, areas="WH")
    w = tree.increment(0.0, 1.0, "reference")[0]
    y0 = np.linspace(0.5, 2.0, 8)[:, None]
    y1 = y0 * np.exp(0.3 + 0.8 * w)
    bar = np.linspace(-1.0, 1.0, 8)[:, None]
    exact = [bar * y1 / y0, np.array([np.sum(bar * y1), np.sum(bar * y1 * w)])]
    sde, errors = ndereg.SDE(growth, spread, "diagonal", "stratonovich"), []
    for size in (2.0**-4, 2.0**-7):
        _, *found = Solver("reference").gradient(
            sde, bar, 0.0, y0, np.array([0.3, 0.8]), method=method, key=tree, batch="independent",
            controller=ndereg.ConstantStep(size), adjoint="backsolve", span=(0.0, 1.0),
        )  # fmt: skip
        errors.append([np.max(np.abs(a - b)) for a, b in zip(found, exact, strict=True)])
    assert np.all(np.array(errors[1]) < 0.1)
    assert np.all(np.array(errors[1]) * 4 < errors[0])


def test_noise_that_does_not_commute() -> None:
    """Near the gradient of the discrete adjoint on the same path, whose steps are small."""
    tree = ndereg.BrownianTree(4, 0.1, 1.0, (3,), 2.0**-12)
    sde = ndereg.SDE(drift, matrix, "general", "stratonovich")
    found = []
    for adjoint in ("discrete", "backsolve"):
        found.append(
            Solver("reference").gradient(
                sde, ops.ones_like(Y0), 0.0, Y0, np.array([0.7, 0.1]), method="stochastic_heun",
                key=tree, controller=ndereg.ConstantStep(2.0**-7), adjoint=adjoint,
            )[1:]
        )  # fmt: skip
    for left, right in zip(*found, strict=True):
        close(left, right, 2e-2)


@pytest.mark.parametrize(
    ("calculus", "method", "message"),
    [
        ("ito", "milstein", "an equation of Stratonovich"),
        ("stratonovich", "milstein_stratonovich", "'milstein_stratonovich'; try one of.*spark"),
    ],
)
def test_what_cannot_be_integrated_back_is_refused(
    calculus: Any, method: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Solver("reference").solve(
            ndereg.SDE(drift, entrywise, "diagonal", calculus), Y0, ARGS, method=method, key=0,
            controller=ndereg.ConstantStep(0.1), adjoint="backsolve",
        )  # fmt: skip
