"""PyTorch: gradients through autograd, what a field depends on, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ndereg.torch as nde
from ndereg import ops
from ndereg.backends.registry import load_backend
from ndereg.backends.torch import backend
from ndereg.solve import Face

REFERENCE = Face(load_backend("reference"))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=dtype, generator=generator(seed))


def leaf(*shape, seed=0, dtype=torch.float64):
    return normal(*shape, seed=seed, dtype=dtype).requires_grad_()


def bounded(t, y, args):
    return ops.tanh(y @ args["w"]) * args["b"] - 2.0 * y * t


def polynomial(t, y, args):
    return (y @ args["w"]) * args["b"] - 0.3 * y * y * t


class Network(torch.nn.Module):
    def __init__(self, size=3):
        super().__init__()
        torch.manual_seed(5)
        self.first = torch.nn.Linear(size, 4, dtype=torch.float64)
        self.second = torch.nn.Linear(4, size, dtype=torch.float64)

    def forward(self, t, y):
        return self.second(torch.tanh(self.first(y))) * torch.cos(t)


def grads(*tensors):
    found = [tensor.grad for tensor in tensors]
    for tensor in tensors:
        tensor.grad = None
    return found


# The reference


def regularizer(method):
    tableau = nde.lookup(method)
    total = None
    if tableau.adaptive:
        total = nde.ErrorEstimate(reduce="max") + 0.3 * nde.ErrorEstimate(squared=True)
    if tableau.stiffness_pair is not None:
        stiffness = 0.5 * nde.StiffnessEstimate(times_step=True, reduce="mean")
        total = stiffness if total is None else total + stiffness
    return total


def against_reference(field, span, y0, args, tolerance, **options):
    """Solution, stats, record and gradients of both ways of asking for them."""
    put = lambda tree: {k: torch.tensor(v) for k, v in tree.items()}  # noqa: E731
    expected, pull = REFERENCE.solve_vjp(field, span, y0, args, record=True, **options)
    received, torch_pull = nde.solve_vjp(
        field, span, torch.tensor(y0), put(args), record=True, **options
    )
    rng = np.random.default_rng(1)
    ys_bar = rng.normal(size=expected.ys.shape).astype(y0.dtype)
    penalty_bar = rng.normal(size=np.shape(expected.penalty))
    bars = torch.tensor(ys_bar), torch.tensor(penalty_bar)
    d_y0, d_args = pull(ys_bar, penalty_bar)
    t_y0, t_args = torch_pull(*bars)
    for name in ("nfev", "nsteps", "naccept", "nreject"):
        np.testing.assert_array_equal(
            getattr(received.stats, name), getattr(expected.stats, name), err_msg=name
        )
    pairs = [(received.ys, expected.ys), (received.penalty, expected.penalty), (t_y0, d_y0)]
    pairs += [(t_args[name], d_args[name]) for name in args]
    pairs += [(getattr(received.steps, name), getattr(expected.steps, name)) for name in ("t", "h")]
    for actual, wanted in pairs:
        scale = np.nanmax(np.abs(wanted))  # finished samples record nan
        np.testing.assert_allclose(np.asarray(actual), wanted, rtol=0, atol=tolerance * scale)
    np.testing.assert_array_equal(np.asarray(received.steps.accepted), expected.steps.accepted)

    state = torch.tensor(y0, requires_grad=True)
    leaves = {name: torch.tensor(v, requires_grad=True) for name, v in args.items()}
    solution = nde.solve(field, span, state, leaves, **options)
    torch.autograd.backward([solution.ys, solution.penalty], bars)
    assert torch.equal(state.grad, t_y0)
    for name, tensor in leaves.items():
        assert torch.equal(tensor.grad, t_args[name])


@pytest.mark.parametrize("batch", ["joint", "independent"])
@pytest.mark.parametrize("method", nde.names())
def test_every_method_on_a_given_mesh(method, batch):
    # steps so large that the error estimate is not lost in rounding
    tableau = nde.lookup(method)
    step, tolerance = (0.4, 1e-12) if tableau.order < 6 else (1.0, 1e-9)
    rng = np.random.default_rng(0)
    y0, args = 0.5 * rng.normal(size=(2, 3)), {"w": rng.normal(size=(3, 3)), "b": np.ones(3)}
    for field, more in ((bounded, 0), (polynomial, 0.2j)):
        against_reference(
            field, (0.0, 2.0), y0 + more * rng.normal(size=y0.shape), args if not more else {
                name: value.astype(complex) for name, value in args.items()},
            tolerance, method=method, batch=batch, controller=nde.ConstantStep(step),
            rtol=1e-2, atol=1e-3, regularizer=regularizer(method),
            t_eval=[0.0, 0.3, 0.35, 1.7, 2.0],
        )  # fmt: skip


@pytest.mark.parametrize("batch", ["joint", "independent"])
@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.5)])
def test_adaptive_steps_are_the_references(batch, span):
    rng = np.random.default_rng(0)
    y0, args = rng.normal(size=(4, 3)), {"w": 3 * rng.normal(size=(3, 3)), "b": np.ones(3)}
    times = np.linspace(*span, 6)
    if batch == "independent":
        times = np.sort(rng.uniform(min(span), max(span), size=(4, 5)), axis=1)
        times = times if span[0] < span[1] else times[:, ::-1].copy()
    against_reference(
        bounded, span, y0, args, 1e-7, batch=batch, method="dopri5", rtol=1e-4, atol=1e-5,
        first_step=0.5, controller="PI34", t_eval=times, regularizer=nde.ErrorEstimate(),
    )  # fmt: skip


def test_nested_states_and_arguments():
    def field(t, y, args):
        x, (v, z) = y["x"], y["rest"]
        return {"x": v * args[0], "rest": (-x, -z + 0j * t + args[1]["k"])}

    y0 = {"x": np.ones(2), "rest": (np.zeros(2), np.array([1j]))}
    args = (np.array(2.0), {"k": np.array([0.5 + 0.1j])})
    expected = REFERENCE.solve(field, (0.0, 1.0), y0, args, t_eval=[0.5, 1.0])
    tensors = {"x": leaf(2), "rest": (torch.zeros(2, dtype=torch.float64), torch.tensor([1j]))}
    tensors["x"] = torch.ones(2, dtype=torch.float64, requires_grad=True)
    tensors["rest"] = (tensors["rest"][0], tensors["rest"][1].to(torch.complex128))
    given = (torch.tensor(2.0, dtype=torch.float64), {"k": torch.tensor(args[1]["k"])})
    sol = nde.solve(field, (0.0, 1.0), tensors, given, t_eval=[0.5, 1.0])
    np.testing.assert_allclose(sol.ys["x"].detach(), expected.ys["x"], rtol=1e-12)
    np.testing.assert_allclose(sol.ys["rest"][1].detach(), expected.ys["rest"][1], rtol=1e-12)
    assert sol.ys["x"].dtype == torch.float64
    assert sol.ys["rest"][1].dtype == torch.complex128
    sol.ys["rest"][0].sum().backward()
    # x'' = -2 x from x(0) = 1: v(t) = -sin(sqrt(2) t) / sqrt(2), linear in x(0)
    times = np.array([0.5, 1.0])
    expected_grad = np.sum(-np.sin(np.sqrt(2) * times) / np.sqrt(2))
    np.testing.assert_allclose(tensors["x"].grad, expected_grad, rtol=1e-5)


# Gradients on a mesh of their own: the step written out, differentiated by autograd


def unrolled(field, tableau, t, y, h, steps, rtol, atol):
    penalty = 0.0
    for _ in range(steps):
        k = []
        for row, c in zip(tableau.a, tableau.c, strict=True):
            g = y + sum((h * float(a) * k_j for a, k_j in zip(row, k, strict=True)), 0.0 * y)
            k.append(field(torch.tensor(t + float(c) * h, dtype=torch.float64), g))
        y1 = y + sum(h * float(b) * k_j for b, k_j in zip(tableau.b, k, strict=True))
        e = sum(h * float(b) * k_j for b, k_j in zip(tableau.error[0], k, strict=True))
        scale = atol + rtol * torch.maximum(y.abs(), y1.abs())
        penalty = penalty + (e.abs() / scale).square().mean().sqrt() * abs(h)
        t, y = t + h, y1
    return y, penalty


@pytest.mark.parametrize("method", ["tsit5", "cash_karp"])
@pytest.mark.parametrize("checkpoints", [2, 3, 64])
def test_gradient_is_that_of_the_steps_taken(method, checkpoints):
    network, y0 = Network(), leaf(2, 3)
    tensors = [y0, *network.parameters()]
    expected = unrolled(network, nde.lookup(method), 0.0, y0, 0.25, 6, 1e-3, 1e-3)
    torch.autograd.backward([expected[0], expected[1]], [normal(2, 3, seed=9), torch.tensor(0.7)])
    wanted = grads(*tensors)
    sol = nde.solve(
        network, (0.0, 1.5), y0, method=method, controller=nde.ConstantStep(0.25), rtol=1e-3,
        atol=1e-3, regularizer=nde.ErrorEstimate(),
        adjoint=nde.Discrete(checkpoints=checkpoints),
    )  # fmt: skip
    assert torch.allclose(sol.ys, expected[0], rtol=1e-13)
    assert torch.allclose(sol.penalty, expected[1], rtol=1e-10)
    torch.autograd.backward(
        [sol.ys, sol.penalty], [normal(2, 3, seed=9), torch.tensor(0.7, dtype=torch.float64)]
    )
    for actual, right in zip(grads(*tensors), wanted, strict=True):
        assert torch.allclose(actual, right, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_gradcheck(batch):
    def solved(y0, w):
        sol = nde.solve(
            lambda t, y, w: torch.sin(y * w) * (1 + t), (0.0, 1.0), y0, w, batch=batch,
            controller=nde.ConstantStep(0.3), t_eval=[0.1, 1.0], rtol=1e-2, atol=1e-2,
            regularizer=nde.ErrorEstimate() + nde.StiffnessEstimate(reduce="max"),
        )  # fmt: skip
        return sol.ys, sol.penalty

    assert torch.autograd.gradcheck(solved, (leaf(3, 2), leaf(3, 2, seed=1)))


def test_gradcheck_of_complex_states():
    def solved(y0, w):
        return nde.solve(
            lambda t, y, w: w * y * y.conj() + 1j * y, (0.0, 0.6), y0, w,
            controller=nde.ConstantStep(0.2), regularizer=nde.ErrorEstimate(), rtol=1e-2,
        ).ys  # fmt: skip

    assert torch.autograd.gradcheck(
        solved, (leaf(2, dtype=torch.complex128), leaf(2, seed=1, dtype=torch.complex128))
    )


@pytest.mark.parametrize("adjoint", ["discrete", "backsolve"])
def test_times_are_differentiated(adjoint):
    network, y0 = Network(), normal(2, 3)
    options = {"rtol": 1e-10, "atol": 1e-10, "adjoint": adjoint}

    def at_end(t0, t1):
        return nde.solve(network, (t0, t1), y0, **options).ys.square().sum()

    def at_times(t0, times):
        return nde.solve(network, (t0, 1.5), y0, t_eval=times, **options).ys.square().sum()

    start, end = (torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (0.1, 1.3))
    times = torch.tensor([0.1, 0.5, 1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(at_end, (start, end), atol=1e-6)
    assert torch.autograd.gradcheck(at_end, (end, start), atol=1e-6)
    inner = torch.tensor([0.3, 0.5, 1.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(at_times, (start, inner), atol=1e-6)
    value = at_times(torch.tensor(0.1, dtype=torch.float64), times)
    value.backward()
    first = network(torch.tensor(0.1, dtype=torch.float64), y0)
    assert torch.allclose(times.grad[0], (2 * y0 * first).sum())


def test_output_times_of_each_sample_are_differentiated():
    rng = np.random.default_rng(0)
    times = torch.tensor(np.sort(rng.uniform(0.2, 1.0, (3, 2)), axis=1), requires_grad=True)
    y0 = normal(3, 2)

    def solved(times):
        return nde.solve(
            lambda t, y, _: torch.sin(3 * t) * y, (0.0, 1.0), y0, t_eval=times,
            batch="independent", rtol=1e-10, atol=1e-10,
        ).ys.square().sum()  # fmt: skip

    assert torch.autograd.gradcheck(solved, (times,), atol=1e-6)


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_backsolve_agrees_to_the_tolerance(batch):
    network, y0 = Network(), leaf(2, 3)
    found = []
    for adjoint in ("discrete", "backsolve"):
        sol = nde.solve(
            network, (1.0, 0.0), y0, t_eval=[0.8, 0.1], rtol=1e-10, atol=1e-10, adjoint=adjoint,
            batch=batch,
        )  # fmt: skip
        sol.ys.square().sum().backward()
        found.append(grads(y0, *network.parameters()))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-8)


def test_checkpointing_changes_nothing_and_keeps_few_states(monkeypatch):
    network, y0 = Network(), leaf(2, 3)
    kept, found = [], []
    for checkpoints, room in ((2, 0), (3, 0), (4, 0), (5, 0), (1000, 0), (3, 1e9), (1000, 1e9)):
        monkeypatch.setattr(backend, "KEPT_BYTES", room)
        sol = nde.solve(
            network, (0.0, 3.0), y0, rtol=1e-9, t_eval=[0.0, 1.0, 2.5],
            adjoint=nde.Discrete(checkpoints=checkpoints), regularizer=nde.ErrorEstimate(),
        )  # fmt: skip
        assert sol.stats.naccept > 20
        node = sol.penalty.grad_fn.next_functions[0][0]
        kept.append(len(node.saved_tensors) - 3)  # besides ys, y0 and the last state
        (sol.ys.sum() + sol.penalty).backward()
        found.append(torch.cat([g.ravel() for g in grads(y0, *network.parameters())]))
    assert all(count <= slots for count, slots in zip(kept, (2, 3, 4, 5), strict=False))
    # of twelve steps: points and linearizations of seven stages, the values of those that a step
    # hands on and takes over, and the error's arrays
    assert kept[5] - kept[1] == backend.KEPT_STEPS * 3 * (7 * 2 + 2 + 7)
    for other in found[:-1]:
        assert torch.equal(other, found[-1])


def test_linearizations_are_kept_while_they_fit(monkeypatch):
    """Within the memory for them, and of no more steps than states, nothing is evaluated twice."""
    calls = []

    def field(t, y, args):
        calls.append(torch.is_grad_enabled())
        return torch.tanh(-args * y)

    y0, args = leaf(3), leaf(3, seed=1)

    def reverse(**options):
        sol = nde.solve(field, (0.0, 1.0), y0, args, controller=nde.ConstantStep(0.0625), **options)
        assert len(calls) == sol.stats.nfev == 1 + 16 * 6
        calls.clear()
        found = torch.autograd.grad(sol.ys.sum() + sol.penalty, (y0, args))
        count = len(calls)
        calls.clear()
        return count, torch.cat(found)

    for penalty in (None, nde.ErrorEstimate()):
        count, expected = reverse(regularizer=penalty)
        assert count == 0
        count, found = reverse(regularizer=penalty, adjoint=nde.Discrete(checkpoints=2))
        assert count >= (16 - 2 * backend.KEPT_STEPS) * 6
        assert torch.equal(found, expected)
        # -args * y, its tanh and the point: three rows of six stages, of 24 bytes each
        monkeypatch.setattr(backend, "KEPT_BYTES", 3 * 7 * 4 * 24)
        count, found = reverse(regularizer=penalty)
        assert 12 * 6 <= count <= 14 * 6
        assert torch.equal(found, expected)
        monkeypatch.undo()


def test_reverse_pass_evaluates_each_stage_once(monkeypatch):
    monkeypatch.setattr(backend, "KEPT_BYTES", 0)
    calls = []

    def field(t, y, args):
        calls.append(torch.is_grad_enabled())
        return -args * y

    y0, args = leaf(3), leaf(3, seed=1)
    sol = nde.solve(field, (0.0, 1.0), y0, args, controller=nde.ConstantStep(0.125))
    # the first evaluation looks what the field depends on, and serves as the first stage
    assert len(calls) == sol.stats.nfev == 1 + 8 * 6
    calls.clear()
    sol.ys.sum().backward()
    # without a penalty nothing reads the stage at the end of a step
    assert len(calls) == 8 * 6
    assert all(calls)
    calls.clear()
    sol = nde.solve(
        field, (0.0, 1.0), y0, args, controller=nde.ConstantStep(0.125),
        regularizer=nde.ErrorEstimate(),
    )  # fmt: skip
    calls.clear()
    (sol.ys.sum() + sol.penalty).backward()
    assert len(calls) == 1 + 8 * 6


# What the field depends on


def test_module_equals_function():
    network, y0 = Network(), leaf(2, 3)
    parameters = {name: p.detach().clone() for name, p in network.named_parameters()}
    leaves = {name: p.requires_grad_() for name, p in parameters.items()}

    def functional(t, y, args):
        return torch.func.functional_call(network, args, (t, y))

    penalty = nde.ErrorEstimate()
    one = nde.solve(network, (0.0, 1.0), y0, regularizer=penalty)
    (one.ys.sum() + one.penalty).backward()
    expected = grads(y0, *network.parameters())
    other = nde.solve(functional, (0.0, 1.0), y0, leaves, regularizer=penalty)
    (other.ys.sum() + other.penalty).backward()
    assert torch.equal(one.ys, other.ys)
    for right, actual in zip(expected, grads(y0, *leaves.values()), strict=True):
        assert torch.equal(right, actual)
    _, pullback = nde.solve_vjp(network, (0.0, 1.0), y0.detach(), regularizer=penalty)
    d_y0, d_parameters = pullback(torch.ones_like(y0), 1.0)
    assert torch.equal(d_y0, expected[0])
    assert list(d_parameters) == list(parameters)
    for actual, right in zip(d_parameters.values(), expected[1:], strict=True):
        assert torch.equal(actual, right)


def test_modules_are_called_as_they_can_be():
    class WithArgs(torch.nn.Module):
        def forward(self, t, y, args):
            return -args * y

    class Optional(torch.nn.Module):
        def forward(self, t, y, args=None):
            return -y if args is None else -args * y

    y0 = normal(3)
    expected = nde.solve(lambda t, y, args: -y, (0.0, 1.0), y0).ys
    ones = torch.ones(3, dtype=torch.float64)
    assert torch.equal(nde.solve(WithArgs(), (0.0, 1.0), y0, ones).ys, expected)
    assert torch.equal(nde.solve(Optional(), (0.0, 1.0), y0, ones).ys, expected)
    assert torch.equal(nde.solve(Optional(), (0.0, 1.0), y0).ys, expected)
    autonomous = torch.nn.Sequential(torch.nn.Linear(3, 3, dtype=torch.float64), torch.nn.Tanh())
    assert nde.solve(autonomous, (0.0, 1.0), y0).ys.shape == (3,)
    with pytest.raises(TypeError, match=r"forward takes \(t, y\)"):
        nde.solve(WithArgs(), (0.0, 1.0), y0)
    with pytest.raises(TypeError, match=r"forward takes \(t, y, args\)"):
        nde.solve(Network(), (0.0, 1.0), y0, ones)


@pytest.mark.parametrize("adjoint", ["discrete", "backsolve"])
@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_hidden_parameters_are_found(adjoint, batch):
    theta, y0 = leaf(3), normal(2, 3, seed=1)
    options = {"adjoint": adjoint, "batch": batch}
    nde.solve(lambda t, y, a: -a * y, (0.0, 1.0), y0, theta, **options).ys.sum().backward()
    (expected,) = grads(theta)
    nde.solve(lambda t, y, _: -theta * y, (0.0, 1.0), y0, **options).ys.sum().backward()
    (found,) = grads(theta)
    assert torch.allclose(found, expected, rtol=1e-12)


def test_what_a_closure_computed_is_differentiated_once():
    encoder, network = Network(2), torch.nn.Linear(5, 3, dtype=torch.float64)
    x, y0 = normal(4, 2), normal(4, 3, seed=1)
    backwards = []

    class Holder:
        def __init__(self, context):
            self.context = context

        def field(self, t, y, _):
            return network(torch.cat([y, self.context], dim=-1))

    def encode():
        context = encoder(torch.tensor(0.0, dtype=torch.float64), x)
        context.grad_fn.register_prehook(lambda bars: backwards.append(1) and None)
        return context

    parameters = [*encoder.parameters(), *network.parameters()]
    sol = nde.solve(lambda t, y, c: network(torch.cat([y, c], dim=-1)), (0.0, 1.0), y0, encode())
    sol.ys.sum().backward()
    expected = grads(*parameters)
    assert len(backwards) == 1
    context = encode()
    sol = nde.solve(Holder(context).field, (0.0, 1.0), y0)
    # the caller's own use of it is not disturbed
    (sol.ys.sum() + 0.0 * context.sum()).backward()
    assert len(backwards) == 2
    for actual, right in zip(grads(*parameters), expected, strict=True):
        assert torch.allclose(actual, right, rtol=1e-12, atol=1e-14)


def test_what_is_met_later_is_refused_and_not_left_out(monkeypatch):
    theta, y0 = leaf(3), normal(3)

    def field(t, y, _):
        return -theta * y if t > 0.5 else -y

    with pytest.raises(RuntimeError, match="did not use at the start"):
        nde.solve(field, (0.0, 1.0), y0)
    with pytest.raises(RuntimeError, match=r"shape \(3,\)"):
        nde.solve(field, (0.0, 1.0), y0.clone().requires_grad_())
    monkeypatch.setattr(backend, "KEPT_BYTES", 0)  # then the reverse pass comes upon it
    sol = nde.solve(field, (0.0, 1.0), y0.clone().requires_grad_())
    with pytest.raises(RuntimeError, match=r"shape \(3,\)"):
        sol.ys.sum().backward()
    with pytest.raises(ValueError, match="no place for"):
        nde.solve_vjp(lambda t, y, _: -theta * y, (0.0, 1.0), y0)


@pytest.mark.parametrize(
    "field",
    [
        lambda t, y, args: torch.ones_like(y),
        lambda t, y, args: y.detach() * 2,
        lambda t, y, args: y,
        lambda t, y, args: args,
    ],
    ids=["constant", "detached", "state", "args"],
)
def test_fields_may_be_trivial(field):
    y0, args = leaf(3), leaf(3, seed=1)
    sol = nde.solve(field, (0.0, 1.0), y0, args, regularizer=nde.ErrorEstimate())
    (sol.ys.sum() + sol.penalty).backward()
    assert torch.isfinite(y0.grad).all()
    assert (y0.grad != 0).all()
    nde.solve_vjp(field, (0.0, 1.0), y0.detach(), args.detach())[1](torch.ones_like(y0))


def test_frozen_parameters_and_buffers_stay_out():
    network, y0 = Network().requires_grad_(False), normal(2, 3)
    assert not nde.solve(network, (0.0, 1.0), y0).ys.requires_grad
    network.second.requires_grad_(True)
    nde.solve(network, (0.0, 1.0), y0).ys.sum().backward()
    assert network.first.weight.grad is None
    assert network.second.weight.grad is not None
