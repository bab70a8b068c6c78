"""What is integrated beside a stochastic equation: rates of its drift, along an unchanged path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ndereg
import ndereg.numpy as nde

from .problems import (
    ARGS,
    SPAN,
    TIMES,
    Y0,
    Solver,
    close,
    double_precision,
    drift,
    entrywise,
    equation,
    only_compiled,
)

SIZE = 0.09
STEP = ndereg.ConstantStep(SIZE)
REGULARIZER = ndereg.Kinetic() + 0.3 * ndereg.JacobianFrobenius()


def options(method: str, batch: str, times: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {
        "method": method, "batch": batch, "key": 7, "rtol": 1e-2, "atol": 1e-2, "controller": STEP,
    }  # fmt: skip
    return found | ({"t_eval": TIMES} if times else {})


def bars(batch: str, times: bool) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    shape = (3, len(TIMES), 2) if times else Y0.shape
    return rng.normal(size=shape), rng.normal(size=() if batch == "joint" else 3)


def test_integrals_are_sums_along_the_path() -> None:
    """Euler's rule integrates by rectangles, and the Jacobian is diagonal here: any signs do."""
    times = SPAN[0] + SIZE * np.arange(11)
    sde = ndereg.SDE(drift, entrywise)
    given = options("euler_maruyama", "joint")
    for name in ("reference", "torch", "lockstep"):
        solver = Solver(name)
        plain = solver.solve(sde, **given, t_eval=times)
        sol = solver.solve(sde, **given, t_eval=times, regularizer=REGULARIZER)
        assert np.array_equal(np.asarray(sol.ys), np.asarray(plain.ys))
        states, total = np.asarray(plain.ys)[:-1], 0.0
        for t, y in zip(times, states, strict=False):
            slope = ARGS[0] * np.cos(y) - 0.3 * np.cos(t)
            total += SIZE * (np.mean(drift(t, y, ARGS) ** 2) + 0.3 * np.mean(slope**2))
        assert float(sol.penalty) == pytest.approx(total, rel=1e-12)


CASES = [
    ("sosri", "diagonal", 0, "independent", True),
    ("spark", "general", 0, "joint", False),
    ("milstein", "scalar", 0, "joint", False),
    ("sosra", "additive", 1, "independent", False),
]
COMPILED = [("euler_maruyama", "diagonal", 0, "independent", False)]
"""What compilers take long for: noise that meets some entries of the state, sample by sample."""


@pytest.mark.parametrize("name", ["numba", "jax"])
def test_compiled_solutions_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only_compiled(monkeypatch)
    given = options("euler_maruyama", "joint") | {"regularizer": REGULARIZER}
    sde = equation("euler_maruyama", "diagonal")
    expected = Solver("reference").solve(sde, **given)
    with double_precision(name):
        actual = Solver(name).solve(sde, **given)
        close(actual.ys, expected.ys, 1e-11)
        close(actual.penalty, expected.penalty, 1e-11)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("numba", "jax")]


@pytest.mark.parametrize("name", ["torch", *SLOW])
def test_gradients_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only_compiled(monkeypatch)
    reference, other = Solver("reference"), Solver(name)
    for method, kind, which, batch, shared in CASES if name == "torch" else COMPILED:
        sde = equation(method, kind, which, shared=shared)
        times = name != "numba" and batch == "independent"
        given = options(method, batch, times) | {"regularizer": REGULARIZER}
        expected = reference.gradient(sde, *bars(batch, times), **given)
        assert np.all(np.asarray(expected[0].penalty) > 0)
        with double_precision(name):
            actual = other.gradient(sde, *bars(batch, times), **given)
            close(actual[0].ys, expected[0].ys, 1e-11)
            close(actual[0].penalty, expected[0].penalty, 1e-11)
            for left, right in zip(actual[1:], expected[1:], strict=True):
                close(left, right, 1e-9)


def test_gradients_are_those_of_the_solve() -> None:
    """Central differences, along the path."""
    rng, reference = np.random.default_rng(4), Solver("reference")
    sde, directions = equation("spark", "general"), (rng.normal(size=Y0.shape), rng.normal(size=2))
    given = options("spark", "joint") | {"regularizer": REGULARIZER}

    def penalty(size: float) -> float:
        y0, args = Y0 + size * directions[0], ARGS + size * directions[1]
        return float(reference.solve(sde, y0, args, **given).penalty)

    _, d_y0, d_args = reference.gradient(sde, np.zeros_like(Y0), 1.0, **given)
    along = np.sum(d_y0 * directions[0]) + np.sum(d_args * directions[1])
    assert along == pytest.approx((penalty(1e-5) - penalty(-1e-5)) / 2e-5, rel=1e-6)


def test_adaptive_steps_see_the_integrals() -> None:
    """As those of ordinary equations do."""
    sde, steps = ndereg.SDE(drift, entrywise), []
    for weight in (0.0, 1.0):
        penalty = weight * ndereg.Kinetic() if weight else None
        sol = Solver("reference").solve(
            sde, method="sosri", key=3, rtol=3e-2, atol=3e-2, regularizer=penalty
        )
        steps.append(sol.stats.nsteps)
    assert steps[0] != steps[1]


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        (ndereg.SDE(drift, entrywise), {"regularizer": ndereg.Taylor(2)}, "no second derivative"),
        (
            ndereg.SDE(drift, entrywise, calculus="stratonovich"), {"method": "reversible_heun"},
            "received 'reversible_heun', which advances a pair",
        ),
        (
            ndereg.UnderdampedLangevin(drift), {"method": "align", "y0": (Y0, Y0)},
            "received 'align', which advances a pair",
        ),
        (
            equation("spark", "diagonal"), {"method": "spark", "adjoint": "backsolve"},
            r"adjoint='discrete' for ndereg\.Kinetic",
        ),
    ],
)  # fmt: skip
def test_what_has_no_integral_is_refused(field: Any, change: dict[str, Any], message: str) -> None:
    given = {"regularizer": ndereg.Kinetic(), "controller": STEP, "key": 0, "y0": Y0} | change
    y0 = given.pop("y0")
    with pytest.raises(ValueError, match=message):
        nde.solve(field, SPAN, y0, ARGS, **given)
