"""Every backend takes the reference's steps and returns its estimates and gradients."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ndereg
from ndereg import ops
from ndereg.spec.tableau import Tableau

from .conftest import COMPILED, Bench, close

SPAN = (0.2, 2.6)
PENALTY = ndereg.ErrorEstimate()


def oscillator(t: Any, y: Any, args: Any) -> Any:
    """Non-linear, time-dependent, real or complex, joint or sample by sample."""
    x, v = y[..., 0:1], y[..., 1:2]
    drive = ops.sin(3.0 * t)
    force = -args[1] * (x - x * x * x / 8.0) + 0.2 * args[2] * drive * v
    return 3.0 * ops.concat([v * args[0], force], axis=-1)


def problem(kind: str, batch: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    y0 = rng.uniform(-1.0, 1.0, size=(3, 2))
    args = rng.uniform(0.7, 1.3, size=3)
    if kind == "complex":
        return y0 + 0.2j * rng.normal(size=y0.shape), args + 0.05j * rng.normal(size=3)
    return y0, args


def steps(method: str) -> ndereg.ConstantStep:
    """A mesh so coarse that the error estimate is not lost in rounding."""
    order = ndereg.lookup(method).order
    return ndereg.ConstantStep(0.6 if order <= 5 else 2.4)


def regularizer(method: str) -> ndereg.Regularizer | None:
    tableau = ndereg.lookup(method)
    total: ndereg.Regularizer | None = PENALTY if tableau.adaptive else None
    if tableau.stiffness_pair is not None:
        stiffness = 0.3 * ndereg.StiffnessEstimate(reduce="max")
        total = stiffness if total is None else total + stiffness
    return total


def cotangent(shape: tuple[int, ...], kind: str) -> Any:
    bar = np.random.default_rng(11).normal(size=shape)
    return bar + 1j * np.random.default_rng(12).normal(size=shape) if kind == "complex" else bar


COMPILED_METHODS = ("euler", "heun_euler", "tsit5", "vern6")
"""One of each kind for backends that take seconds to compile: without and with an error estimate, a
stiffness estimate, stages shared by steps, stages of the interpolant alone."""

MODES = [(kind, batch) for kind in ("real", "complex") for batch in ("joint", "independent")]


@pytest.mark.parametrize(
    ("bench", "method", "kind", "batch"),
    [("torch", method, *mode) for method in ndereg.names() for mode in MODES]
    + [(backend, method, *MODES[0]) for backend in ("numba", "jax") for method in ndereg.names()]
    + [
        (backend, method, *mode)
        for backend in ("numba", "jax")
        for method in COMPILED_METHODS
        for mode in MODES[1:]
    ],
    indirect=["bench"],
)
def test_mesh_replay(bench: Bench, reference: Bench, method: str, kind: str, batch: str) -> None:
    """On one mesh, states, E and S agree to 1e-12 for every method."""
    y0, args = problem(kind, batch)
    options: dict[str, Any] = {
        "method": method, "controller": steps(method), "batch": batch, "record": True, "rtol": 1e-3,
        "atol": 1e-3,
    }  # fmt: skip
    expected = reference.solve(oscillator, SPAN, y0, args, **options)
    actual = bench.solve(oscillator, SPAN, y0, args, **options)
    close(bench.get(actual.ys), expected.ys, 1e-12)
    for column in ("t", "h", "error", "stiffness"):
        close(bench.get(getattr(actual.steps, column)), getattr(expected.steps, column), 1e-12)
    assert np.array_equal(bench.get(actual.steps.accepted), expected.steps.accepted)


@pytest.mark.parametrize(
    ("bench", "method"),
    [("torch", method) for method in ndereg.names()]
    + [(backend, method) for backend in ("numba", "jax") for method in COMPILED_METHODS],
    indirect=["bench"],
)
def test_gradients_with_penalties_and_output_times(
    bench: Bench, reference: Bench, method: str
) -> None:
    """On one mesh, pullbacks of random cotangents agree to 1e-10, penalties included."""
    y0, args = problem("real", "joint")
    penalty = regularizer(method)
    options: dict[str, Any] = {
        "method": method, "controller": steps(method), "rtol": 1e-3, "atol": 1e-3,
        "regularizer": penalty,
        "t_eval": np.array([0.2, 0.5, 0.8, 1.3, 1.35, 2.6]),
    }  # fmt: skip
    bars = (cotangent((6, 3, 2), "real"), 0.7 if penalty else 0.0)
    expected = reference.gradient(oscillator, SPAN, y0, args, *bars, **options)
    actual = bench.gradient(oscillator, SPAN, y0, args, *bars, **options)
    # on the coarse mesh of a high order, states grow to 1e5: rounding is amplified as well
    close(bench.get(actual[0].ys), expected[0].ys, 4e-12)
    close(bench.get(actual[0].penalty), expected[0].penalty, 4e-12)
    assert actual[0].stats.nfev == expected[0].stats.nfev
    close(actual[1:], expected[1:], 1e-10)


@pytest.mark.parametrize(
    ("bench", "kind", "batch"),
    [("torch", *mode) for mode in MODES]
    + [(backend, *mode) for backend in ("numba", "jax") for mode in MODES[1:3]],
    indirect=["bench"],
)
def test_gradients_of_both_batch_modes(
    bench: Bench, reference: Bench, kind: str, batch: str
) -> None:
    """Real and complex states, joint and independent samples, without output times."""
    method = "tsit5"
    y0, args = problem(kind, batch)
    penalty = regularizer(method)
    options: dict[str, Any] = {
        "method": method, "controller": steps(method), "rtol": 1e-3, "atol": 1e-3, "batch": batch,
        "regularizer": penalty,
    }  # fmt: skip
    penalty_bar: Any = 0.7 if batch == "joint" else np.array([0.7, -0.2, 1.1])
    bars = (cotangent((3, 2), kind), penalty_bar)
    expected = reference.gradient(oscillator, SPAN, y0, args, *bars, **options)
    actual = bench.gradient(oscillator, SPAN, y0, args, *bars, **options)
    close(actual[1:], expected[1:], 1e-10)


def test_nested_state_and_args(bench: Bench, reference: Bench) -> None:
    """Dicts, tuples and lists of arrays of different shapes go in and come out."""

    def field(t: Any, y: Any, args: Any) -> Any:
        a, (b, c) = y["a"], y["rest"]
        w, scale = args
        mixed = ops.tanh(ops.matmul(a, w["in"]))
        return {
            "a": -a * scale,
            "rest": [mixed - b, ops.sum(mixed, axis=-1) * 0.1 - c * t],
        }

    rng = np.random.default_rng(0)
    y0 = {"rest": [rng.normal(size=(2, 4)), rng.normal(size=2)], "a": rng.normal(size=(2, 3))}
    args = ({"in": rng.normal(size=(3, 4))}, np.array(0.8))
    bar = {"rest": [rng.normal(size=(2, 4)), rng.normal(size=2)], "a": rng.normal(size=(2, 3))}
    options: dict[str, Any] = {"controller": ndereg.ConstantStep(0.25)}
    expected = reference.gradient(field, (1.0, 0.0), y0, args, bar, **options)
    actual = bench.gradient(field, (1.0, 0.0), y0, args, bar, **options)
    close(bench.get(actual[0].ys), expected[0].ys, 1e-12)
    close(actual[1:], expected[1:], 1e-10)


@pytest.mark.parametrize(
    ("bench", "method"),
    [("numba", "tsit5"), ("jax", "tsit5"), ("torch", "tsit5"), ("torch", "dopri8")],
    indirect=["bench"],
)
def test_adaptive_runs_take_the_same_steps(bench: Bench, reference: Bench, method: str) -> None:
    """Same numbers of accepted and rejected steps on standard problems."""
    for field, span, y0 in STANDARD:
        expected = reference.solve(field, span, y0, rtol=1e-6, atol=1e-6, method=method)
        actual = bench.solve(field, span, y0, rtol=1e-6, atol=1e-6, method=method)
        assert actual.stats == expected.stats
        close(bench.get(actual.ys), expected.ys, 1e-8)


def test_checkpoints_change_nothing(bench: Bench, reference: Bench) -> None:
    """Two slots recompute what sixty-four store."""
    y0, args = problem("real", "joint")
    bar = cotangent((3, 2), "real")
    options: dict[str, Any] = {"controller": ndereg.ConstantStep(0.05), "method": "bosh3"}
    few = bench.gradient(
        oscillator, SPAN, y0, args, bar, adjoint=ndereg.Discrete(checkpoints=3), **options
    )
    expected = reference.gradient(oscillator, SPAN, y0, args, bar, **options)
    close(few[1:], expected[1:], 1e-10)


def test_backsolve_approaches_the_discrete_gradient(bench: Bench, reference: Bench) -> None:
    """The continuous adjoint agrees with the discrete one to the solver's tolerance."""
    y0, args = problem("real", "joint")
    bar = cotangent((4, 3, 2), "real")
    options: dict[str, Any] = {
        "rtol": 1e-9, "atol": 1e-9, "t_eval": np.array([0.2, 0.7, 1.9, 2.4]),
    }  # fmt: skip
    expected = reference.gradient(oscillator, SPAN, y0, args, bar, **options)
    actual = bench.gradient(oscillator, SPAN, y0, args, bar, adjoint="backsolve", **options)
    close(actual[1:], expected[1:], 1e-6)


@st.composite
def tableaux(draw: st.DrawFn) -> Tableau:
    """Explicit pairs that no catalogue has: of order 2 in two stages, of order 3 in three."""
    if draw(st.booleans()):
        c = draw(st.fractions(Fraction(1, 4), Fraction(1), max_denominator=12))
        half = Fraction(1, 2) / c
        return Tableau("drawn of order 2", 2, ((), (c,)), (1 - half, half),
                       b_embedded=(1, 0), embedded_order=1)  # fmt: skip
    c2 = draw(st.fractions(Fraction(1, 4), Fraction(1, 2), max_denominator=9))
    c3 = draw(st.fractions(Fraction(3, 4), Fraction(1), max_denominator=9))
    b3 = (Fraction(1, 3) - c2 / 2) / (c3 * (c3 - c2))
    b2 = (Fraction(1, 2) - b3 * c3) / c2
    a32 = Fraction(1, 6) / (b3 * c2)
    half = Fraction(1, 2) / c2
    return Tableau("drawn of order 3", 3, ((), (c2,), (c3 - a32, a32)), (1 - b2 - b3, b2, b3),
                   b_embedded=(1 - half, half, 0), embedded_order=2)  # fmt: skip


@pytest.mark.parametrize("name", COMPILED)
def test_drawn_tableaux(name: str, reference: Bench) -> None:
    """Drawn tableaux: the same states, penalties and gradients as the reference."""

    @settings(max_examples={"torch": 30, "jax": 3, "numba": 1}[name])
    @given(tableaux(), st.sampled_from([1.0, -1.0]), st.integers(0, 1000))
    def check(tableau: Tableau, direction: float, seed: int) -> None:
        with jax.enable_x64(True) if name == "jax" else nullcontext():
            _agree(Bench(name), reference, tableau, direction, seed)

    check()


def _agree(bench: Bench, reference: Bench, tableau: Tableau, direction: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y0, args = problem("real", "joint")
    options: dict[str, Any] = {
        "method": tableau, "controller": ndereg.ConstantStep(0.3), "rtol": 1e-3, "atol": 1e-3,
        "regularizer": PENALTY,
    }  # fmt: skip
    span = (0.2, 0.2 + 2.0 * direction)
    bars = (rng.normal(size=(3, 2)), 0.4)
    expected = reference.gradient(oscillator, span, y0, args, *bars, **options)
    actual = bench.gradient(oscillator, span, y0, args, *bars, **options)
    close(bench.get(actual[0].ys), expected[0].ys, 1e-12)
    close(bench.get(actual[0].penalty), expected[0].penalty, 1e-12)
    close(actual[1:], expected[1:], 1e-10)


def _linear(t: Any, y: Any, args: Any) -> Any:
    return -0.5 * y


def _logistic(t: Any, y: Any, args: Any) -> Any:
    return y / 4.0 * (1.0 - y / 20.0)


def _brusselator(t: Any, y: Any, args: Any) -> Any:
    u, v = y[0], y[1]
    return ops.stack([1.0 + u * u * v - 4.0 * u, 3.0 * u - u * u * v])


def _pendulum(t: Any, y: Any, args: Any) -> Any:
    return ops.stack([y[1], -ops.sin(y[0]) + 0.1 * ops.cos(t)])


STANDARD = [
    (_linear, (0.0, 20.0), np.ones(1)),
    (_logistic, (0.0, 20.0), np.ones(1)),
    (_brusselator, (0.0, 10.0), np.array([1.5, 3.0])),
    (_pendulum, (10.0, 0.0), np.array([1.0, 0.2])),
]
