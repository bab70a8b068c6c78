"""One key is one path, and every method takes the same steps along it on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ndereg

from .problems import (
    ARGS,
    METHODS,
    TIMES,
    Y0,
    Solver,
    close,
    double_precision,
    equation,
    only_compiled,
    regularizer,
)

CASES = [
    (method, kind, which)
    for method in METHODS
    for kind in ndereg.lookup(method).noises
    for which in ((0, 1) if kind == "additive" else (0,))
]


@pytest.fixture(scope="module")
def reference() -> Solver:
    return Solver("reference")


def mesh(number: int) -> dict[str, Any]:
    """Constant steps, sample by sample or jointly, with and without output times, with a tree."""
    batch = "joint" if number % 2 else "independent"
    options: dict[str, Any] = {
        "controller": ndereg.ConstantStep(0.31), "batch": batch, "record": True, "key": 7,
        "rtol": 1e-2, "atol": 1e-2, "max_steps": 8,
    }  # fmt: skip
    if number % 3 == 0:
        options["t_eval"] = TIMES
    return options


COMPILED = [("spark", "general", 0), ("sosri2", "diagonal", 0)]
"""What JAX compiles here, which takes long: a matrix with output times, and every estimate."""
QUICK = [("euler_heun", "general", 0)]
"""What Numba compiles here: a matrix with output times, sample by sample, on shared noise."""


@pytest.mark.parametrize("name", ["numba", "torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_every_method_agrees_on_one_key(name: str, reference: Solver) -> None:
    """States, estimates, penalties and gradients, on one mesh; a case a kind of noise."""
    cases = {"jax": COMPILED, "numba": QUICK}.get(name, CASES)
    for number, case in enumerate(cases):
        agrees(Solver(name), reference, case, mesh(number), shared=number % 4 == 0)


def agrees(
    other: Solver, reference: Solver, case: tuple[str, str, int], options: dict[str, Any],
    shared: bool,
) -> tuple[Any, Any]:  # fmt: skip
    """Raise unless they do; both solutions, that of the reference first."""
    method, kind, which = case
    rng = np.random.default_rng(1)
    options = options | {"method": method, "regularizer": regularizer(method)}
    sde = equation(method, kind, which, shared=shared)
    independent = options["batch"] == "independent"
    shape: tuple[int, ...] = Y0.shape
    if "t_eval" in options:
        shape = (3, len(TIMES), 2) if independent else (len(TIMES), 3, 2)
    bars = rng.normal(size=shape), rng.normal(size=3 if independent else ())
    expected = reference.gradient(sde, *bars, **options)
    with double_precision(other.name):
        actual = other.gradient(sde, *bars, **options)
        close(actual[0].ys, expected[0].ys, 1e-11)
        close(actual[0].penalty, expected[0].penalty, 1e-11)
        for column in ("h", "error", "stiffness"):
            seen = getattr(expected[0].steps, column)
            close(getattr(actual[0].steps, column), seen, 1e-11)
        assert np.array_equal(actual[0].stats.nfev, expected[0].stats.nfev)
        for left, right in zip(actual[1:], expected[1:], strict=True):
            close(left, right, 1e-9)
    return expected[0], actual[0]


def one_each() -> list[tuple[str, str, int]]:
    """A case a method: the kinds of noise in turn, so that each has several methods."""
    found = []
    for number, method in enumerate(METHODS):
        cases = [case for case in CASES if case[0] == method]
        found.append(cases[number % len(cases)])
    assert {case[1:] for case in found} == {case[1:] for case in CASES}
    return found


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", one_each(), ids=lambda case: f"{case[0]}-{case[1]}")
@pytest.mark.parametrize("name", ["numba", "jax"])
def test_every_method_agrees_where_it_is_compiled(
    name: str, case: tuple[str, str, int], reference: Solver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on one kind of noise each: compiling takes 8 seconds on Numba and 4 on JAX."""
    only_compiled(monkeypatch)
    number = METHODS.index(case[0])
    options = mesh(number)
    options.pop("t_eval", None)
    agrees(Solver(name), reference, case, options, shared=number % 4 == 0)


ADAPTIVE = [method for method in METHODS if ndereg.lookup(method).adaptive]


def chosen_steps(method: str) -> dict[str, Any]:
    """A first step that is too long, so that some are rejected, in both batch modes.

    Tolerances are such that the compiled loops, which keep as many steps as they may take, are
    short, and a third of the solves have output times.
    """
    number = ADAPTIVE.index(method)
    tolerance = 3e-3 if method in ("lamba_euler_heun", "shark", "spark") else 3e-2
    options: dict[str, Any] = {
        "key": 3, "rtol": tolerance, "atol": tolerance, "record": True, "first_step": 0.9,
        "batch": "joint" if number % 2 else "independent", "max_steps": 100,
    }  # fmt: skip
    if number % 3 == 0:
        options["t_eval"] = TIMES
    return options


def adaptive_steps_agree(other: Solver, reference: Solver, method: str) -> None:
    """All that :func:`agrees` compares, and step sizes to the last bit.

    A path is rough: with other steps it would be seen at other times.
    """
    kinds = ndereg.lookup(method).noises
    case = (method, kinds[ADAPTIVE.index(method) % len(kinds)], 0)
    expected, actual = agrees(other, reference, case, chosen_steps(method), shared=False)
    assert np.sum(expected.stats.nreject) > 0
    assert np.array_equal(expected.steps.h, np.asarray(actual.steps.h), equal_nan=True)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_steps_agree(method: str, reference: Solver) -> None:
    adaptive_steps_agree(Solver("torch"), reference, method)


FEW = ("sriw1", "sosra", "reversible_heun")
"""Diagonal, additive and general noise, both batch modes, and output times."""


def test_the_few_are_what_they_stand_for() -> None:
    chosen = [chosen_steps(method) for method in FEW]
    assert {options["batch"] for options in chosen} == {"joint", "independent"}
    assert any("t_eval" in options for options in chosen)
    kinds = [ndereg.lookup(method).noises for method in FEW]
    drawn = {k[ADAPTIVE.index(m) % len(k)] for m, k in zip(FEW, kinds, strict=True)}
    assert drawn == {"diagonal", "additive", "general"}


def compiled(method: str) -> Any:
    """Compiling takes 10 to 30 seconds: the few always, the others where all are asked for."""
    marks = pytest.mark.slow if method in FEW else pytest.mark.exhaustive
    return pytest.param(method, marks=marks)


@pytest.mark.parametrize("method", [*map(compiled, ADAPTIVE)])
@pytest.mark.parametrize("name", ["numba", "jax"])
def test_adaptive_steps_agree_where_they_are_compiled(
    name: str, method: str, reference: Solver, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_compiled(monkeypatch)
    adaptive_steps_agree(Solver(name), reference, method)


def test_gradients_are_those_of_the_solve_along_the_path(reference: Solver) -> None:
    """Central differences along random directions: every method, kind of noise and output times."""
    rng = np.random.default_rng(4)
    for number, (method, kind, which) in enumerate(CASES):
        sde, penalty = equation(method, kind, which), regularizer(method)
        options = mesh(number) | {"method": method, "regularizer": penalty, "batch": "joint"}
        shape = (len(TIMES), 3, 2) if "t_eval" in options else (3, 2)
        bar, direction = rng.normal(size=shape), (rng.normal(size=Y0.shape), rng.normal(size=2))

        def moved(size: float) -> float:
            sol = reference.solve(
                sde, Y0 + size * direction[0], ARGS + size * direction[1], **options
            )
            return float(np.sum(bar * sol.ys) + 0.6 * sol.penalty)

        _, d_y0, d_args = reference.gradient(sde, bar, 0.6, **options)
        along = np.sum(d_y0 * direction[0]) + np.sum(d_args * direction[1])
        assert along == pytest.approx((moved(1e-5) - moved(-1e-5)) / 2e-5, rel=1e-6, abs=1e-7)


def local_steps_agree(other: Solver, reference: Solver, method: str, sampling: Any) -> None:
    """One step more along the path: its size, its estimates, and what it adds to the gradients."""
    rng, number = np.random.default_rng(5), ADAPTIVE.index(method)
    heuristic, kinds = regularizer(method), ndereg.lookup(method).noises
    assert heuristic is not None
    penalty = ndereg.Local(
        heuristic, sampling, through_state=number % 3 > 0, step="own" if number % 2 else "first"
    )
    options: dict[str, Any] = {
        "method": method, "regularizer": penalty, "key": 11, "rtol": 1e-2, "atol": 1e-2,
        "batch": "independent" if number % 4 < 2 else "joint",
        "controller": ndereg.ConstantStep(0.25),
    }  # fmt: skip
    sde = equation(method, kinds[number % len(kinds)])
    bars = np.zeros(Y0.shape), rng.normal(size=() if options["batch"] == "joint" else 3)
    expected = reference.gradient(sde, *bars, **options)
    assert np.all(np.asarray(expected[0].penalty) > 0)
    assert np.any(expected[1] != 0) == penalty.through_state and np.any(expected[2] != 0)
    with double_precision(other.name):
        actual = other.gradient(sde, *bars, **options)
        assert np.array_equal(actual[0].stats.nfev, expected[0].stats.nfev)
        close(actual[0].penalty, expected[0].penalty, 1e-11)
        for left, right in zip(actual[1:], expected[1:], strict=True):
            close(left, right, 1e-9)


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_local_regularizer_takes_its_step_along_the_path(
    method: str, sampling: str, reference: Solver
) -> None:
    local_steps_agree(Solver("torch"), reference, method, sampling)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sosri2", "spark"])
@pytest.mark.parametrize("name", ["numba", "jax"])
def test_a_compiled_local_regularizer(name: str, method: str, reference: Solver) -> None:
    local_steps_agree(Solver(name), reference, method, "biased")


@pytest.mark.parametrize(
    "backend", ["reference", "numba", "torch", pytest.param("jax", marks=pytest.mark.slow)]
)
def test_an_own_step_is_taken_along_the_same_noise(backend: str) -> None:
    penalty = ndereg.Local(ndereg.ErrorEstimate(), step="own")
    options: dict[str, Any] = {
        "method": "spark", "regularizer": penalty, "key": 11, "rtol": 1e-2, "atol": 1e-2,
        "record": True,
    }  # fmt: skip
    solver = Solver(backend)
    sol = solver.solve(equation("spark", "diagonal"), Y0, ARGS, **options)
    steps = sol.steps
    error, h, accepted = (np.asarray(x) for x in (steps.error, steps.h, steps.accepted))
    own = (error * np.abs(h))[accepted]
    assert len(own) > 3
    assert np.min(np.abs(own - float(sol.penalty))) < 1e-12 * float(sol.penalty)
