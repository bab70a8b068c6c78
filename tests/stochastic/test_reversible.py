"""The reversible Heun method, and the adjoint that undoes its steps."""

from __future__ import annotations

import gc
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import ndereg
from ndereg.backends.host import loop
from ndereg.backends.torch.backend import KEPT_STEPS
from ndereg.backends.torch.machine import TorchMachine
from ndereg.plan.checkpoint import Undone

from .problems import (
    ARGS,
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

CASES = [
    ("diagonal", "joint", None, True),
    ("general", "independent", TIMES, True),
    ("scalar", "independent", None, True),
    ("additive", "joint", TIMES, False),
]


def options(batch: str, times: Any, adaptive: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "method": "reversible_heun", "batch": batch, "key": 7, "rtol": 1e-2, "atol": 1e-2,
        "max_steps": 60, "regularizer": ndereg.ErrorEstimate(),
    }  # fmt: skip
    if times is not None:
        found["t_eval"] = times
    if not adaptive:
        found["controller"] = ndereg.ConstantStep(0.09)
    return found


def test_a_step_is_the_published_recursion() -> None:
    """Equation by equation, on the increments of a tree, with one evaluation a step."""
    tree, size = ndereg.BrownianTree(3, 0.0, 1.0, (2,), 2.0**-8), 0.125
    sde = ndereg.SDE(drift, entrywise, calculus="stratonovich")
    y0 = np.array([0.3, -0.2])
    sol = Solver("reference").solve(
        sde, y0, span=(0.0, 1.0), method="reversible_heun", key=tree,
        controller=ndereg.ConstantStep(size),
    )  # fmt: skip
    z = zh = y0
    times = np.arange(9) * size
    mu, sigma = drift(times[0], zh, ARGS), entrywise(times[0], zh, ARGS)
    for t, end in pairwise(times):
        w = tree.increment(float(t), float(end))[0]
        zh = 2 * z - zh + mu * size + sigma * w
        later = drift(end, zh, ARGS), entrywise(end, zh, ARGS)
        z = z + (mu + later[0]) * size / 2 + (sigma + later[1]) * w / 2
        mu, sigma = later
    close(sol.ys, z, 1e-14)
    assert sol.stats.nfev == 9


COMPILED = {"jax": CASES[:1], "numba": CASES[1:2]}
"""What compilers take long for."""


@pytest.mark.parametrize("name", ["numba", "torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_undone_steps_have_the_gradient_of_the_discrete_adjoint(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_compiled(monkeypatch)
    reference, other, rng = Solver("reference"), Solver(name), np.random.default_rng(1)
    for kind, batch, times, adaptive in COMPILED.get(name, CASES):
        given, sde = options(batch, times, adaptive), equation("reversible_heun", kind)
        independent = batch == "independent"
        shape: tuple[int, ...] = Y0.shape
        if times is not None:
            shape = (3, len(times), 2) if independent else (len(times), 3, 2)
        bars = rng.normal(size=shape), rng.normal(size=3 if independent else ())
        expected = reference.gradient(sde, *bars, **given)
        assert np.min(expected[0].stats.nsteps) > 8
        for solver in (reference, other):
            with double_precision(solver.name):
                actual = solver.gradient(sde, *bars, adjoint="reversible", **given)
                for left, right in zip(actual[1:], expected[1:], strict=True):
                    close(left, right, 1e-12)


@pytest.mark.parametrize("checkpoints", [2, 64])
@pytest.mark.parametrize("penalty", [False, True])
@pytest.mark.parametrize("method", ["reversible_heun", "sosri"])
@pytest.mark.parametrize("times", [None, TIMES])
def test_what_pytorch_keeps_of_steps_changes_no_gradient(
    method: str, penalty: bool, checkpoints: int, times: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all steps, or of the first ones; what two steps share is pulled back once for both."""
    given = options("joint", times, True) | {"method": method, "max_steps": 1000}
    given["adjoint"] = ndereg.Discrete(checkpoints=checkpoints)
    if not penalty:
        del given["regularizer"]
    sde, pulled, pull = equation(method, "diagonal"), [], TorchMachine.pull_back

    def counted(machine: Any, *pairs: Any) -> Any:
        pulled.extend(pairs)
        return pull(machine, *pairs)

    shape = Y0.shape if times is None else (len(times), *Y0.shape)
    bars = np.random.default_rng(2).normal(size=shape), float(penalty)
    sol, *expected = Solver("reference").gradient(sde, *bars, **given)
    monkeypatch.setattr(TorchMachine, "pull_back", counted)
    for left, right in zip(
        Solver("torch").gradient(sde, *bars, **given)[1:], expected, strict=True
    ):
        close(left, right, 1e-12)
    steps = int(sol.stats.naccept)
    assert steps > 5
    if method == "reversible_heun" and times is None:
        kept = min(KEPT_STEPS * checkpoints, steps)
        assert len(pulled) == 2 * (kept + 1) + 4 * (steps - kept)


def test_no_state_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mesh is, and the end of the solve, which the user may overwrite."""
    tapes: list[Any] = []
    opened = loop.open_tape

    def seen(*given: Any) -> Any:
        tapes.append(opened(*given))
        return tapes[-1]

    monkeypatch.setattr("ndereg.backends.reference.backend.open_tape", seen)
    reference, sde = Solver("reference"), equation("reversible_heun", "diagonal")
    given, found = options("joint", None, True), []
    for overwritten in (False, True):
        sol, pullback = reference.face.solve_vjp(
            sde, (0.1, 1.0), Y0, ARGS, adjoint=ndereg.Reversible(), **given
        )
        if overwritten:
            sol.ys[:] = 0.0
        found.append(pullback(Y0)[0])
    assert np.array_equal(*found)
    for tape in tapes:
        assert isinstance(tape.checkpoints, Undone)
        assert len(tape.rows) == sol.stats.naccept and not tape.checkpoints.states


WIDE = np.random.default_rng(3).normal(size=(7, 11))


def kept_by_torch(adjoint: str, steps: int) -> int:
    """Entries of tensors as large as the state that live between the solve and its pullback."""
    gc.collect()
    gc.freeze()  # what is there already is not looked at
    try:
        sol, pullback = Solver("torch").face.solve_vjp(
            equation("reversible_heun", "diagonal"), (0.0, 1.0), torch.as_tensor(WIDE),
            torch.as_tensor(ARGS), method="reversible_heun", key=1, adjoint=adjoint,
            controller=ndereg.ConstantStep(1.0 / steps),
        )  # fmt: skip
        gc.collect()
        tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor]
    finally:
        gc.unfreeze()
    kept = sum(each.numel() for each in tensors if each.numel() >= WIDE.size)
    assert sol.stats.nsteps == steps and callable(pullback)
    return kept


def kept_by_jax(adjoint: str, steps: int) -> int:
    """Entries of the arrays as large as the state that the pullback holds; nothing is compiled."""

    def end(y0: Any) -> Any:
        return Solver("jax").face.solve(
            equation("reversible_heun", "diagonal"), (0.0, 1.0), y0, ARGS, key=1,
            method="reversible_heun", adjoint=adjoint, max_steps=steps,
            controller=ndereg.ConstantStep(1.0 / steps),
        ).ys  # fmt: skip

    pull = jax.eval_shape(lambda y0: jax.vjp(end, y0)[1], jnp.asarray(WIDE))
    return sum(leaf.size for leaf in jax.tree.leaves(pull) if leaf.size >= WIDE.size)


@pytest.mark.parametrize("kept", [kept_by_torch, kept_by_jax])
def test_memory_does_not_grow_with_the_steps(kept: Any) -> None:
    """That of a few states, where the discrete adjoint keeps many."""
    few, many = kept("reversible", 16), kept("reversible", 48)
    assert 0 < few == many <= 16 * WIDE.size
    assert kept("discrete", 48) > 3 * many


def test_other_methods_cannot_undo_their_steps() -> None:
    sde = equation("stochastic_heun", "diagonal")
    step = ndereg.ConstantStep(0.1)
    with pytest.raises(ValueError, match=r"received 'stochastic_heun'.*reversible_heun"):
        Solver("reference").solve(
            sde, method="stochastic_heun", controller=step, key=0, adjoint="reversible"
        )
    with pytest.raises(ValueError, match=r"received 'tsit5'.*'discrete'"):
        Solver("reference").solve(drift, method="tsit5", adjoint="reversible")
