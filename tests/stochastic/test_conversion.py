"""An equation in the other calculus: the drift in closed form, the solutions along one path."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import pytest
import torch

import ndereg
import ndereg.torch
from ndereg import ops

from .problems import (
    ARGS,
    SPAN,
    Y0,
    Solver,
    close,
    double_precision,
    drift,
    entrywise,
    only_compiled,
)

BACKENDS = ["reference", "torch", "jax"]


def growth(t: Any, y: Any, args: Any) -> Any:
    return args[0] * y


def relative(t: Any, y: Any, args: Any) -> Any:
    return args[1] * y


@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
@pytest.mark.parametrize("name", BACKENDS)
def test_geometric_brownian_motion(name: str, noise: Any) -> None:
    """The drift ``mu y`` of Ito is ``(mu - sigma^2 / 2) y`` in the calculus of Stratonovich."""
    ito, solver = ndereg.SDE(growth, relative, noise), Solver(name)
    there = ito.converted("stratonovich")
    assert (there.calculus, there.noise) == ("stratonovich", noise)
    with double_precision(name):
        found = there.drift(0.0, solver.put(Y0), solver.put(ARGS))
    close(found, (0.7 - 0.08) * Y0, 1e-15)
    assert there.converted("ito") == ito


def parts(t: Any, y: Any, args: Any) -> Any:
    return {"a": ops.sin(y["b"]) * args[0], "b": -y["a"]}


def mixing(t: Any, y: Any, args: Any) -> Any:
    """Two columns over two arrays; they do not commute."""
    a, b = y["a"], y["b"]
    rows = {"a": [0.4 * ops.sin(b), a * b + t], "b": [args[1] * a * a, 0.3 * ops.cos(a)]}
    return {key: ops.stack(row, axis=-1) for key, row in rows.items()}


@pytest.mark.parametrize("name", BACKENDS)
def test_the_correction_of_a_matrix_of_noise(name: str) -> None:
    """Half the derivatives of the columns along themselves, by central differences."""
    y, size, solver = {"a": Y0[:, 0], "b": Y0[:, 1]}, 1e-5, Solver(name)
    correction = {key: np.zeros(3) for key in y}
    for j in range(2):
        column = {key: g[:, j] for key, g in mixing(0.3, y, ARGS).items()}
        ahead, behind = (
            mixing(0.3, {key: y[key] + move * column[key] for key in y}, ARGS)
            for move in (size, -size)
        )
        for key in y:
            correction[key] += (ahead[key] - behind[key])[:, j] / (4.0 * size)
    for calculus, sign in (("ito", 1.0), ("stratonovich", -1.0)):
        other = "stratonovich" if calculus == "ito" else "ito"
        sde = ndereg.SDE(parts, mixing, "general", other).converted(calculus)  # type: ignore[arg-type]
        with double_precision(name):
            found = sde.drift(0.3, solver.put(y), solver.put(ARGS))
            for key, value in parts(0.3, y, ARGS).items():
                close(found[key], value + sign * correction[key], 1e-9)


PATHS = 300
SIZES = (2.0**-3, 2.0**-5, 2.0**-7)


@pytest.mark.parametrize(
    ("noise", "ito", "stratonovich", "order"),
    [
        ("diagonal", "milstein", "milstein_stratonovich", 1.0),
        ("general", "euler_maruyama", "euler_heun", 0.5),
    ],
)
def test_solutions_are_the_same(noise: Any, ito: str, stratonovich: str, order: float) -> None:
    """Methods of both calculi come together along one path as the steps shrink."""

    def diffusion(t: Any, y: Any, args: Any) -> Any:
        if noise == "diagonal":
            return 0.4 + 0.5 * ops.sin(2.0 * y)
        first = y[..., 0:1]
        columns = [ops.concat([1.0 + 0.0 * first, 0.2 * first], axis=-1),
                   ops.concat([0.0 * first, 1.5 * ops.sin(first)], axis=-1)]  # fmt: skip
        return ops.stack(columns, axis=-1)

    tree = ndereg.BrownianTree(5, 0.0, 1.0, (PATHS, 2), 2.0**-8, areas="WH")
    y0 = np.broadcast_to([0.3, -0.6], (PATHS, 2)).copy()
    written = ndereg.SDE(lambda t, y, args: -y, diffusion, noise)
    apart = []
    for size in SIZES:
        ends = [
            Solver("lockstep").solve(
                sde, y0, None, span=(0.0, 1.0), key=tree, method=method, batch="independent",
                controller=ndereg.ConstantStep(size),
            ).ys
            for sde, method in ((written, ito), (written.converted("stratonovich"), stratonovich))
        ]  # fmt: skip
        apart.append(math.sqrt(np.mean((ends[0] - ends[1]) ** 2)))
    slope = np.polyfit(np.log(SIZES), np.log(apart), 1)[0]
    assert slope > order - 0.15, apart


def by_hand(t: Any, y: Any, args: Any) -> Any:
    """The drift of Stratonovich for the entrywise diffusion."""
    slope = args[1] * 0.2 * ops.cos(y)
    return drift(t, y, args) - 0.5 * slope * entrywise(t, y, args)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("reference", "spark"),
        ("torch", "spark"),
        pytest.param("numba", "euler_heun", marks=pytest.mark.slow),
        pytest.param("jax", "euler_heun", marks=pytest.mark.slow),
    ],
)
def test_solves_and_gradients_are_those_of_the_drift_by_hand(
    name: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_compiled(monkeypatch)
    options: dict[str, Any] = {
        "method": method, "controller": ndereg.ConstantStep(0.31), "key": 7, "max_steps": 4,
        "rtol": 1e-2, "atol": 1e-2,
        "regularizer": ndereg.ErrorEstimate() if method == "spark" else None,
    }  # fmt: skip
    sde = ndereg.SDE(drift, entrywise).converted("stratonovich")
    exact = ndereg.SDE(by_hand, entrywise, calculus="stratonovich")
    bars = np.random.default_rng(2).normal(size=Y0.shape), 0.6
    wanted = Solver("reference").gradient(exact, *bars, **options)
    with double_precision(name):
        found = Solver(name).gradient(sde, *bars, **options)
        close(found[0].ys, wanted[0].ys, 1e-12)
        close(found[0].penalty, wanted[0].penalty, 1e-12)
        for actual, expected in zip(found[1:], wanted[1:], strict=True):
            close(actual, expected, 1e-12)


def turned(y: Any) -> Any:
    return ops.concat([y[..., 1:], y[..., :1]], axis=-1)


def one_source(t: Any, y: Any, args: Any) -> Any:
    return 0.3 * ops.cos(args[1] * y) + 0.2 * turned(y)


def three_sources(t: Any, y: Any, args: Any) -> Any:
    s = turned(y)
    return ops.stack([0.3 * ops.cos(args[1] * s), 0.2 * y * s, 0.1 * s], axis=-1)


@pytest.mark.parametrize("name", ["reference", "torch"])
@pytest.mark.parametrize(
    ("noise", "diffusion", "batch", "span"),
    [
        ("scalar", one_source, "joint", (1.0, 0.0)),
        ("general", three_sources, "independent", (0.0, 1.0)),
    ],
)
def test_gradients_where_entries_mix(
    noise: Any, diffusion: Any, batch: str, span: tuple[float, float], name: str
) -> None:
    """Central differences along a random direction, of states and of args."""
    rng, solver = np.random.default_rng(0), Solver(name)
    y0, args = rng.normal(size=(3, 2)), np.array([0.7, 0.4])
    bar, dy, da = rng.normal(size=(3, 2)), rng.normal(size=(3, 2)), rng.normal(size=2)
    sde = ndereg.SDE(lambda t, y, args: ops.sin(args[0] * y) - t * y, diffusion, noise)
    sde = sde.converted("stratonovich")
    options: dict[str, Any] = {
        "method": "euler_heun", "controller": ndereg.ConstantStep(0.25), "key": 5, "batch": batch,
    }  # fmt: skip

    def moved(size: float) -> float:
        sol = solver.solve(sde, y0 + size * dy, args + size * da, span, **options)
        return float(np.sum(bar * np.asarray(sol.ys)))

    _, d_y0, d_args = solver.gradient(sde, bar, 0.0, y0, args, span, **options)
    along = np.sum(np.asarray(d_y0) * dy) + np.sum(np.asarray(d_args) * da)
    assert along == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-7)


def test_parameters_of_modules_get_their_gradients() -> None:
    """Also those that the correction reads: of the diffusion, at the same values."""

    class Size(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sigma = torch.nn.Parameter(torch.tensor(0.4, dtype=torch.float64))

        def forward(self, t: Any, y: Any) -> Any:
            return self.sigma * y

    class Rate(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mu = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, t: Any, y: Any) -> Any:
            return self.mu * y

    options: dict[str, Any] = {
        "method": "euler_heun", "controller": ndereg.ConstantStep(0.31), "key": 7
    }  # fmt: skip
    sde = ndereg.torch.SDE(Rate(), Size()).converted("stratonovich")
    _, pullback = ndereg.torch.solve_vjp(sde, SPAN, torch.as_tensor(Y0), **options)
    d_y0, named = pullback(torch.ones(3, 2, dtype=torch.float64))
    exact = ndereg.SDE(
        lambda t, y, args: (args[0] - 0.5 * args[1] ** 2) * y, relative, calculus="stratonovich"
    )
    _, *wanted = Solver("reference").gradient(exact, np.ones((3, 2)), 0.0, **options)
    assert set(named) == {"drift.mu", "diffusion.sigma"}
    close(d_y0, wanted[0], 1e-12)
    close([named["drift.mu"], named["diffusion.sigma"]], wanted[1], 1e-12)


def test_a_number_in_single_precision() -> None:
    """A state without axes, which PyTorch differentiates in another precision."""
    sde = ndereg.SDE(lambda t, y, args: -y, lambda t, y, args: 0.1 * y).converted("stratonovich")
    drift = sde.drift(torch.tensor(0.0), torch.tensor(2.0), None)
    assert drift.dtype == torch.float32
    close(drift, -2.0 * 1.005, 1e-6)


def test_what_needs_no_correction() -> None:
    ito = ndereg.SDE(drift, lambda t, y, args: 0.1 + 0.0 * y, "additive")
    assert ito.converted("stratonovich").drift is drift
    assert ito.converted("ito") is ito
    assert ndereg.SDE(drift, None).converted("stratonovich").drift is drift
    with pytest.raises(ValueError, match="expected calculus to be one of ito, stratonovich"):
        ito.converted("malliavin")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BACKENDS)
def test_diagonal_noise_that_mixes_entries_is_refused(name: str) -> None:
    """Its correction is another one; as a matrix it is converted."""

    def swapped(t: Any, y: Any, args: Any) -> Any:
        return 0.3 * ops.concat([y[..., 1:], y[..., :1]], axis=-1)

    solver = Solver(name)
    options: dict[str, Any] = {
        "key": 1, "controller": ndereg.ConstantStep(0.31), "method": "euler_heun"
    }  # fmt: skip
    for batch in ("joint", "independent"):
        with pytest.raises(ValueError, match=r"one that mixes entries; try noise='general'"):
            solver.solve(
                ndereg.SDE(drift, swapped).converted("stratonovich"), batch=batch, **options
            )
    started = ndereg.SDE(drift, lambda t, y, args: t * swapped(t, y, args))  # at t = 0 it is 0
    with pytest.raises(ValueError, match=r"one that mixes entries"):
        solver.solve(started.converted("stratonovich"), span=(0.0, 1.0), **options)


def test_compiled_functions_are_refused() -> None:
    compiled = numba.njit(lambda t, y, args: -y)
    for field in (compiled, ndereg.Field(lambda t, y, args, out: None, in_place=True)):
        with pytest.raises(TypeError, match=r"plain Python functions for SDE\.converted"):
            Solver("numba").solve(
                ndereg.SDE(field, entrywise).converted("stratonovich"), method="spark", key=1
            )
