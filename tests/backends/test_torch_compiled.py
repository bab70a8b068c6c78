"""PyTorch: steps compiled around a field that ``torch.compile`` made.

Most tests leave out the last part, Inductor, whose kernels take seconds to build each: what is
captured, traced and handed to it is run as it is.
"""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
import torch

import ndereg
import ndereg.torch as nde
from ndereg.backends.torch import kernels

pytestmark = [
    # of PyTorch's own compiler
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

OPTIONS = {"method": "bosh3", "rtol": 1e-6, "atol": 1e-6}
PENALTY = ndereg.ErrorEstimate(reduce="max") + 0.3 * ndereg.ErrorEstimate(squared=True)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Network(torch.nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.first = torch.nn.Linear(3, 4, dtype=dtype)
        self.second = torch.nn.Linear(4, 3, dtype=dtype)
        self.pace = 1.0
        with torch.no_grad():
            for seed, parameter in enumerate(self.parameters()):
                parameter.copy_(normal(*parameter.shape, seed=seed))

    def forward(self, t, y):
        return self.pace * self.second(torch.tanh(self.first(y))) * torch.cos(t)


@pytest.fixture
def built(monkeypatch):
    """Count the programs that are compiled, without building them."""
    found = Counter()

    def keep(graph, examples, options):
        found["kernels"] += 1
        return graph

    monkeypatch.setattr(kernels, "inductor", keep)
    return found


def gradients(field, y0, wrt, **options):
    sol = nde.solve(field, (0.0, 2.0), y0, **{**OPTIONS, **options})
    weights = normal(*sol.ys.shape, seed=3, dtype=sol.ys.dtype)
    value = (weights * sol.ys).sum() + sol.penalty.sum()
    return sol, torch.autograd.grad(value, wrt, allow_unused=True)


def assert_same(field, y0, wrt, close=1e-9, **options):
    """The compiled field takes the same steps and has the same gradients."""
    rtol = close
    right, expected = gradients(field, y0, wrt, **options)
    sol, found = gradients(torch.compile(field), y0, wrt, **options)
    assert torch.equal(torch.as_tensor(sol.stats.nsteps), torch.as_tensor(right.stats.nsteps))
    assert torch.equal(torch.as_tensor(sol.stats.nfev), torch.as_tensor(right.stats.nfev))
    torch.testing.assert_close(sol.ys, right.ys, rtol=rtol, atol=rtol)
    torch.testing.assert_close(sol.penalty, right.penalty, rtol=10 * rtol, atol=rtol)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=10 * rtol, atol=10 * rtol)


@pytest.mark.parametrize(
    "options",
    [
        {"regularizer": PENALTY, "record": True},
        {"batch": "independent", "regularizer": PENALTY},
        {"t_eval": [0.0, 0.3, 1.1, 2.0], "regularizer": PENALTY, "method": "tsit5"},
        {"controller": ndereg.ConstantStep(0.05), "adjoint": ndereg.Discrete(checkpoints=3)},
        {"regularizer": ndereg.Local(ndereg.ErrorEstimate()), "key": 1},
    ],
    ids=["joint", "independent", "dense", "checkpoints", "local"],
)
def test_agrees_with_eager_steps(built, options):
    network, y0 = Network(), normal(5, 3, seed=1).requires_grad_()
    assert_same(network, y0, [y0, *network.parameters()], **options)
    assert built["kernels"] >= 2


class Rates(torch.nn.Module):
    """Drift or diffusion of a stochastic equation, with a parameter that both of them hold."""

    def __init__(self, seed, shared, channels=None):
        super().__init__()
        columns = 3 if channels is None else 3 * channels
        self.layer = torch.nn.Linear(3, columns, dtype=torch.float64)
        self.shared, self.channels = shared, channels
        with torch.no_grad():
            self.layer.weight.copy_(0.3 * normal(columns, 3, seed=seed))
            self.layer.bias.copy_(0.3 * normal(columns, seed=seed + 1))

    def forward(self, t, y):
        rates = torch.tanh(self.layer(y)) * self.shared + 0.1 * torch.cos(t)
        if self.channels is None:
            return rates
        return rates.reshape(*y.shape, self.channels)


def stochastic(noise="diagonal", calculus="stratonovich"):
    shared = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    channels = {"general": 2}.get(noise)
    drift, diffusion = Rates(1, shared), Rates(5, shared, channels)
    wrt = [shared, *drift.layer.parameters(), *diffusion.layer.parameters()]

    def equation(wrap):
        return ndereg.SDE(wrap(drift), wrap(diffusion), noise=noise, calculus=calculus)

    return equation, wrt


CONSTANT = {"controller": ndereg.ConstantStep(0.125), "adjoint": ndereg.Discrete(checkpoints=3)}
ADAPTIVE = {"regularizer": PENALTY, "rtol": 1e-2, "atol": 1e-2, "first_step": 0.1}


@pytest.mark.parametrize(
    ("method", "noise", "options"),
    [
        ("stochastic_heun", "diagonal", CONSTANT),
        ("stochastic_heun", "scalar", CONSTANT),
        ("stochastic_heun", "general", {**CONSTANT, "t_eval": [0.0, 0.3, 2.0]}),
        ("reversible_heun", "diagonal", CONSTANT),
        ("reversible_heun", "general", {**CONSTANT, "adjoint": "reversible"}),
        ("spark", "diagonal", ADAPTIVE),
        ("spark", "diagonal", {**ADAPTIVE, "batch": "independent"}),
    ],
    ids=["diagonal", "scalar", "general", "pairs", "undone", "adaptive", "independent"],
)
def test_stochastic_equations(built, method, noise, options):
    """Drift and diffusion are compiled into the steps, with a parameter that both of them hold."""
    equation, wrt = stochastic(noise)
    y0 = normal(4, 3, seed=1).requires_grad_()
    options = {"method": method, "key": 3, **options}
    right, expected = gradients(equation(lambda field: field), y0, [y0, *wrt], **options)
    assert built["kernels"] == 0
    sol, found = gradients(equation(torch.compile), y0, [y0, *wrt], **options)
    assert built["kernels"] >= 2
    torch.testing.assert_close(sol.ys, right.ys, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sol.penalty, right.penalty, rtol=1e-9, atol=1e-9)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_diffusion_that_is_not_compiled(built):
    """Half of an equation is no step; what is compiled is called as it is."""
    equation, wrt = stochastic()
    whole = equation(lambda field: field)
    half = ndereg.SDE(
        torch.compile(whole.drift, backend="eager"), whole.diffusion, calculus="stratonovich"
    )
    y0, options = normal(4, 3, seed=1), {"method": "stochastic_heun", "key": 3, **CONSTANT}
    _, expected = gradients(whole, y0, wrt, **options)
    _, found = gradients(half, y0, wrt, **options)
    assert built["kernels"] == 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_single_precision(built):
    network = Network(torch.float32)
    y0 = normal(5, 3, seed=1, dtype=torch.float32).requires_grad_()
    options = {"rtol": 1e-3, "atol": 1e-3, "regularizer": PENALTY}
    assert_same(network, y0, list(network.parameters()), 2e-5, **options)


def test_structures_and_tensors_of_a_closure(built):
    context = normal(3, seed=4).requires_grad_()
    computed = torch.tanh(context)
    y0 = {"a": normal(2, 3).requires_grad_(), "b": (normal(4, seed=2).requires_grad_(),)}
    args = [normal(3, seed=5).requires_grad_(), normal(4, seed=6)]

    def field(t, y, args):
        pull = args[0] * torch.sin(y["a"]) + computed * t
        return {"a": pull, "b": (y["b"][0] * args[1] - y["a"].sum(),)}

    def solve(field):
        sol = nde.solve(field, (0.0, 1.0), y0, args, **OPTIONS)
        value = sol.ys["a"].square().sum() + sol.ys["b"][0].sum()
        wrt = (y0["a"], y0["b"][0], args[0], context)
        return sol.stats, torch.autograd.grad(value, wrt, retain_graph=True)

    stats, expected = solve(field)
    again, found = solve(torch.compile(field))
    assert again == stats
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert built["kernels"] == 2


def test_what_compiles_again(built):
    """New weights, states, spans, tolerances and weights of a penalty compile nothing."""
    network, y0 = Network(), normal(5, 3, seed=1)
    field = torch.compile(network)

    def step(y0, scale=1.0, **options):
        sol = nde.solve(
            field, (0.0, scale), y0, regularizer=scale * ndereg.ErrorEstimate(),
            **{**OPTIONS, **options},
        )  # fmt: skip
        (sol.ys.sum() + sol.penalty).backward()
        return sol

    step(y0)
    assert built["kernels"] == 2
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    step(-y0, 2.0, rtol=1e-4, controller="PI34", max_steps=500)
    with torch.no_grad():  # the step is the same, with and without a gradient
        nde.solve(field, (0.0, 1.0), y0, regularizer=ndereg.ErrorEstimate(), **OPTIONS)
    assert built["kernels"] == 2
    step(y0[:2])  # another shape
    assert built["kernels"] == 4
    before = step(y0).ys
    assert built["kernels"] == 4
    network.pace = 0.5  # a number that the compiler took for a constant
    after = step(y0)
    assert built["kernels"] == 6
    right = nde.solve(network, (0.0, 1.0), y0, **OPTIONS)
    torch.testing.assert_close(after.ys, right.ys)
    assert not torch.allclose(before, after.ys)


def test_a_field_that_breaks_the_graph_runs_eagerly(built):
    @torch.compiler.disable
    def apart(y):
        return -y * y

    def field(t, y, args):
        return apart(y)

    y0 = normal(3).abs()
    right = nde.solve(field, (0.0, 1.0), y0, **OPTIONS)
    compiled = torch.compile(field)
    with pytest.warns(RuntimeWarning, match=r"one graph of tensor operations.*disable"):
        sol = nde.solve(compiled, (0.0, 1.0), y0, **OPTIONS)
    again = nde.solve(compiled, (0.0, 1.0), y0, **OPTIONS)  # said once
    assert sol.stats == again.stats == right.stats
    assert built["kernels"] == 0


class RecordingDevice:
    """Stands in for ``torch.cuda``: a replay runs what was recorded, into the same memory."""

    class CUDAGraph:
        def replay(self):
            torch._foreach_copy_(self.outputs, list(self.function(*self.inputs)))

    def __init__(self, recorded):
        self._recorded = recorded

    def Stream(self):  # noqa: N802
        return self

    def current_stream(self):
        return self

    def wait_stream(self, _):
        pass

    def stream(self, _):
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def graph(self, graph):
        yield
        graph.function = self._recorded._function
        graph.inputs = [*self._recorded._inputs, *self._recorded.still]
        graph.outputs = self._recorded._outputs


def test_recorded_steps_are_replayed_on_new_values(monkeypatch):
    """Arguments are copied in, results are the caller's own, moved arrays are recorded anew."""
    calls = []

    def function(x, weight):
        calls.append(1)
        return x * weight, x + 1.0

    recorded = kernels.Recorded(function, 1)
    monkeypatch.setattr(kernels.torch, "cuda", RecordingDevice(recorded))
    recorded.still = [weight] = [normal(3)]
    one, two = normal(3, seed=1), normal(3, seed=2)
    first = recorded(one, weight)
    recordings = len(calls)
    second = recorded(two, weight)
    for x, found in ((one, first), (two, second)):
        assert torch.equal(found[0], x * weight)
        assert torch.equal(found[1], x + 1.0)
    assert len(calls) == recordings + 1
    weight.mul_(2.0)
    assert torch.equal(recorded(one, weight)[0], one * weight)
    assert len(calls) == recordings + 2
    recorded.still = [other] = [normal(3, seed=5)]
    assert torch.equal(recorded(one, other)[0], one * other)
    assert len(calls) == 2 * recordings + 2


def test_steps_that_cannot_be_recorded_are_called(monkeypatch):
    def function(x):
        calls.append(1)
        return (x + 1.0,)

    @contextlib.contextmanager
    def graph(self, _):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")
        yield

    calls = []
    recorded = kernels.Recorded(function, 1)
    monkeypatch.setattr(RecordingDevice, "graph", graph)
    monkeypatch.setattr(kernels.torch, "cuda", RecordingDevice(recorded))
    with pytest.warns(RuntimeWarning, match="not permitted when stream is capturing"):
        found = recorded(normal(3))
    assert torch.equal(found[0], normal(3) + 1.0)
    count = len(calls)
    recorded(normal(3))
    assert len(calls) == count + 1


def test_kernels_of_inductor():
    """The whole of it, on a small method: built once, the same steps and gradients."""
    network, y0 = Network(), normal(5, 3, seed=1).requires_grad_()
    wrt = [y0, *network.parameters()]
    options = {"method": "heun_euler", "rtol": 1e-4, "atol": 1e-4, "regularizer": PENALTY}
    assert_same(network, y0, wrt, **options)
