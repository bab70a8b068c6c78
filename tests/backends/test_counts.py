"""Work that does not depend on the machine, so that a regression is seen without a clock."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ndereg
import ndereg.numpy as nde
import ndereg.torch as nde_torch
from ndereg import ops
from ndereg.backends.numba import backend as numba_backend
from ndereg.backends.numba import module
from ndereg.backends.torch import backend as torch_backend
from ndereg.backends.torch import field as torch_field
from ndereg.backends.torch.brownian import TorchBrownian
from ndereg.bench import problems
from ndereg.edge.problem import prepare
from ndereg.plan.checkpoint import Checkpoints

OPTIONS = {"method": "tsit5", "rtol": 1e-6, "atol": 1e-6}


class Operators(TorchDispatchMode):
    """Counts the operators of PyTorch that run."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.calls[function.overloadpacket.__name__] += 1
        return function(*arguments, **(named or {}))


def counted(call):
    with Operators() as operators:
        result = call()
    return result, operators.calls


def lotka_volterra():
    problem = problems.lotka_volterra(5.0)
    return problem, torch.as_tensor(problem.y0), torch.as_tensor(problem.args)


def test_operators_of_a_step_in_torch():
    """Of an attempt beside its field: 42 for seven stages with an error estimate, one host read."""
    problem, y0, args = lotka_volterra()
    with torch.no_grad():
        sol, calls = counted(
            lambda: nde_torch.solve(problem.field, problem.t_span, y0, args, **OPTIONS)
        )
        _, field = counted(lambda: problem.field(torch.tensor(0.5), y0, args))
    attempts = sol.stats.nsteps
    reads = calls["_local_scalar_dense"]
    assert attempts <= reads <= attempts + 6
    own = calls.total() - sol.stats.nfev * field.total()
    assert own <= 43 * attempts + 40


def test_operators_of_a_penalty_in_torch():
    """The error norm is there already: its product with the step is arithmetic on numbers."""
    problem, y0, args = lotka_volterra()

    def attempts_and_calls(regularizer):
        with torch.no_grad():
            sol, calls = counted(
                lambda: nde_torch.solve(
                    problem.field, problem.t_span, y0, args, regularizer=regularizer, **OPTIONS
                )
            )
        return sol.stats.nsteps, calls.total()

    attempts, plain = attempts_and_calls(None)
    _, penalized = attempts_and_calls(ndereg.ErrorEstimate())
    assert penalized - plain <= 4 * attempts


def test_host_reads_of_a_gradient_in_torch():
    """The reverse pass decides nothing, so it reads nothing."""
    problem, y0, args = lotka_volterra()
    args.requires_grad_()
    sol = nde_torch.solve(problem.field, problem.t_span, y0, args, **OPTIONS)
    _, calls = counted(lambda: torch.autograd.grad(sol.ys.square().sum(), args))
    assert calls["_local_scalar_dense"] == 0


@pytest.fixture
def stochastic(monkeypatch):
    """Gradients of ten constant steps in torch, and how often a path and autograd were asked."""
    calls = Counter()

    def counts(owner, name):
        function = getattr(owner, name)

        def counted(*given, **named):
            calls[name] += 1
            return function(*given, **named)

        monkeypatch.setattr(owner, name, counted)

    counts(TorchBrownian, "direct")
    counts(torch_field, "_gradient")

    def gradient(**options):
        calls.clear()
        args = torch.tensor([0.3, 0.5], dtype=torch.float64, requires_grad=True)
        sde = ndereg.SDE(
            lambda t, y, args: args[0] * y, lambda t, y, args: args[1] * y,
            calculus="stratonovich",
        )  # fmt: skip
        sol = nde_torch.solve(
            sde, (0.0, 1.0), torch.ones(6, 1, dtype=torch.float64), args, key=1,
            controller=ndereg.ConstantStep(0.1), **{"method": "stochastic_heun", **options},
        )  # fmt: skip
        assert sol.stats.nsteps == 10
        return calls, torch.autograd.grad(sol.ys.square().sum(), args)[0]

    return gradient


def test_work_of_a_stochastic_gradient_in_torch(stochastic, monkeypatch):
    """Noise is drawn once; one call of autograd serves drift and diffusion of a stage."""
    calls, expected = stochastic()
    assert calls == {"direct": 10, "_gradient": 20}
    # along the path that is drawn again, where there is no room for what was drawn
    monkeypatch.setattr(torch_backend, "NOISE_BYTES", 3 * 6 * 8)
    calls, found = stochastic()
    assert calls == {"direct": 10 + 7, "_gradient": 20}
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    monkeypatch.setattr(torch_backend, "KEPT_BYTES", 0)
    calls, found = stochastic()
    assert calls == {"direct": 10 + 7, "_gradient": 20}
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_noise_of_a_step_that_is_undone_in_torch(stochastic):
    """Once to solve, and once for undoing the step and for its transpose together."""
    calls, _ = stochastic(method="reversible_heun", adjoint="reversible")
    assert calls == {"direct": 20, "_gradient": 20}


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "dopri8"])
def test_evaluations_are_what_the_tableau_needs(method):
    """Stages less the shared one for every attempt, and two to begin with."""
    calls = []

    def field(t, y, args):
        calls.append(t)
        return -y * y

    sol = nde_torch.solve(field, (0.0, 3.0), torch.ones(3, dtype=torch.float64), method=method)
    tableau = ndereg.lookup(method)
    stages = tableau.stages - tableau.fsal
    assert len(calls) == sol.stats.nfev == stages * sol.stats.nsteps + 2


def test_new_values_load_no_new_module():
    """States, args, spans, tolerances, weights and controllers are run-time values."""

    def field(t, y, args):
        return ops.tanh(y @ args) - t * y

    rng = np.random.default_rng(0)

    def solve(scale, regularizer, **options):
        _, pullback = nde.solve_vjp(
            field, (0.0, scale), rng.normal(size=(2, 3)), rng.normal(size=(3, 3)),
            method="bosh3", regularizer=regularizer, **options,
        )  # fmt: skip
        pullback(rng.normal(size=(2, 3)), 1.0)

    solve(1.0, ndereg.ErrorEstimate())
    loaded = len(module._loaded)
    solve(-2.0, 0.3 * ndereg.ErrorEstimate(), rtol=1e-4, atol=1e-5)
    solve(0.5, 7.0 * ndereg.ErrorEstimate(), controller="PI34", first_step=0.01, max_steps=500)
    assert len(module._loaded) == loaded


def test_functions_are_compiled_once(tmp_path, monkeypatch):
    """For a state in registers and for a row of an array alike, forwards and backwards."""
    monkeypatch.setenv("NDEREG_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(module, "_loaded", {})
    _, pullback = nde.solve_vjp(
        lambda t, y, args: args * y - 0.125 * y * y, (0.0, 1.0), np.ones(2), np.array(0.5),
        t_eval=[0.5, 1.0], method="bosh3",
    )  # fmt: skip
    pullback(np.ones((2, 2)))
    (found,) = module._loaded.values()
    counts = {
        name: len(function.signatures)
        for name, function in vars(found).items()
        if getattr(function, "__module__", "") == found.__name__ and function.signatures
    }
    assert {"field", "linearize", "pullback", "run_step", "run_adjoint", "solve_one"} <= {*counts}
    assert set(counts.values()) == {1}


def test_lines_of_a_stochastic_network():
    """Networks are loops, and a step to an output time is one of the tape; 8,700 lines unrolled."""
    n, m, hidden = 16, 4, 16
    rng = np.random.default_rng(0)
    args = rng.normal(size=(n, hidden)), rng.normal(size=(hidden, n * (m + 1)))

    def drift(t, y, args):
        return ops.tanh(y @ args[0]) @ args[1][:, :n]

    def diffusion(t, y, args):
        return ops.tanh(ops.tanh(y @ args[0]) @ args[1][:, n:]).reshape((-1, n, m))

    problem = prepare(
        numba_backend.NumbaBackend(),
        ndereg.SDE(drift, diffusion, noise="general", calculus="stratonovich"),
        (0.0, 1.0), rng.normal(size=(3, n)), args, t_eval=[0.0, 0.3, 1.0],
        method="stochastic_heun", controller=ndereg.ConstantStep(0.1), batch="independent", key=0,
    )  # fmt: skip
    run = numba_backend.NumbaSolver(problem.plan)._run(problem, gradient=True)
    text = Path(run.routine.module.functions.__file__).read_text()
    assert len(text.splitlines()) <= 1000
    assert "def run_step(" in text and "def run_replay(" not in text
    assert text.count("def run_adjoint(") == 1 and "def run_read_adjoint(" not in text


def python_calls(call):
    """Functions of Python and C that a second, warm call enters."""
    entered = 0

    def count(frame, event, argument):
        nonlocal entered
        entered += event in ("call", "c_call")

    call()
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(None)
    return entered


def test_python_around_a_small_solve():
    """A solve of a few steps takes a microsecond; what is around it is looked up, not made."""
    problem = problems.lotka_volterra(1.0)
    given = (problem.field, problem.t_span, problem.y0, problem.args)

    def gradient():
        sol, pullback = nde.solve_vjp(*given, **OPTIONS)
        pullback(sol.ys)

    assert python_calls(lambda: nde.solve(*given, **OPTIONS)) <= 125
    assert python_calls(gradient) <= 220


def test_python_around_nested_parameters():
    """Twelve calls a leaf of args, most of them to take the containers apart."""
    layers = [{"weight": np.eye(2), "bias": np.zeros(2)} for _ in range(8)]

    def field(t, y, args):
        for layer in args:
            y = y @ layer["weight"] + layer["bias"]
        return y

    calls = python_calls(lambda: nde.solve(field, (0.0, 1.0), np.ones((1, 2)), layers, **OPTIONS))
    assert calls <= 125 + 12 * 16


@pytest.mark.parametrize("steps", [100, 1_000, 10_000])
def test_states_kept_of_many_steps(steps):
    """At most the slots of the adjoint, however many the steps; recomputation stays logarithmic."""
    slots = 16
    kept = Checkpoints(slots)
    advances = 0
    for row in range(steps):
        kept.offer(row, float(row))
        assert len(kept.states) <= slots

    def advance(row, state):
        nonlocal advances
        advances += 1
        assert state == row
        return state + 1.0

    visited = [row for row, state in kept.backwards(steps, advance) if state == row]
    assert visited == list(range(steps - 1, -1, -1))
    assert advances <= steps * np.ceil(np.log2(steps / slots) / np.log2(slots / 2) + 1)


def test_what_is_kept_of_many_fields_is_bounded(monkeypatch):
    monkeypatch.setattr(numba_backend, "MOST_FIELDS", 2)
    plan = ndereg.lower(ndereg.Spec(ndereg.lookup("euler"), adaptive=False))
    solver = numba_backend.NumbaSolver(plan)
    for name in "abc":
        solver._kept(name, lambda name=name: name.upper())
    assert solver._kernels == {"b": "B", "c": "C"}
    monkeypatch.setattr(module, "MOST_MODULES", 2)
    monkeypatch.setattr(module, "_loaded", {})
    found = [module.load(f"number = {i}\n") for i in range(4)]
    assert [part.number for part in found] == [0, 1, 2, 3]
    assert [part.number for part in module._loaded.values()] == [2, 3]
