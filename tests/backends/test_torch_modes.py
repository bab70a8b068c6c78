"""PyTorch: autograd's modes and transforms, the compiler, and arrays at the edge."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import ndereg.torch as nde


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=dtype, generator=generator(seed))


def leaf(*shape, seed=0, dtype=torch.float64):
    return normal(*shape, seed=seed, dtype=dtype).requires_grad_()


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


# Modes and transforms


def test_without_history():
    network, y0 = Network(), leaf(2, 3)
    expected = nde.solve(network, (0.0, 1.0), y0).ys.detach()
    with torch.no_grad():
        assert torch.equal(nde.solve(network, (0.0, 1.0), y0).ys, expected)
        assert not nde.solve(network, (0.0, 1.0), y0).ys.requires_grad
    assert not nde.solve(network, (0.0, 1.0), y0, adjoint="none").ys.requires_grad
    _, pullback = nde.solve_vjp(network, (0.0, 1.0), y0)
    right = pullback(torch.ones_like(y0))[0]
    with torch.inference_mode():
        given = y0 * 1
        assert given.is_inference()
        assert torch.equal(nde.solve(network, (0.0, 1.0), given).ys, expected)
        sol, pullback = nde.solve_vjp(network, (0.0, 1.0), given)
        assert torch.equal(pullback(torch.ones_like(sol.ys))[0], right)


def test_second_derivatives_are_refused():
    y0, args = leaf(3), leaf(3, seed=1)
    sol = nde.solve(lambda t, y, a: -a * y, (0.0, 1.0), y0, args)
    first = torch.autograd.grad(sol.ys.sum(), (y0, args), create_graph=True)
    for wanted in (y0, args):
        with pytest.raises(RuntimeError, match="first derivatives"):
            torch.autograd.grad(first[1].sum(), wanted, retain_graph=True, allow_unused=True)


# PyTorch's own warnings: its compiler and forward mode use what it deprecates
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transforms_are_refused():
    y0 = normal(2, 3)

    def solved(y):
        return nde.solve(lambda t, y, _: -y, (0.0, 1.0), y).ys

    for transformed in (torch.func.vmap(solved), torch.func.jacrev(solved)):
        with pytest.raises(TypeError, match=r"torch\.func"):
            transformed(y0)
    with pytest.raises(TypeError, match=r"torch\.func"):
        torch.func.vmap(lambda w: nde.solve(lambda t, y, _: -w * y, (0.0, 1.0), y0).ys)(y0[:, 0])
    with torch.autograd.forward_ad.dual_level(), pytest.raises(TypeError, match="dual"):
        solved(torch.autograd.forward_ad.make_dual(y0, y0))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_callers_and_fields(backend):
    network, x = Network(), normal(2, 3)

    def model(x):
        sol = nde.solve(network, (0.0, 1.0), torch.tanh(x), regularizer=nde.ErrorEstimate())
        return sol.ys.square().sum() + sol.penalty

    model(x).backward()
    expected = grads(*network.parameters())
    torch._dynamo.reset()
    torch.compile(model, backend=backend)(x).backward()
    for actual, right in zip(grads(*network.parameters()), expected, strict=True):
        assert torch.allclose(actual, right, rtol=1e-10)
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(network, backend=backend)
    sol = nde.solve(compiled, (0.0, 1.0), torch.tanh(x), regularizer=nde.ErrorEstimate())
    (sol.ys.square().sum() + sol.penalty).backward()
    for actual, right in zip(grads(*network.parameters()), expected, strict=True):
        assert torch.allclose(actual, right, rtol=1e-10)
    frames = torch._dynamo.utils.counters["frames"]
    assert 0 < frames["ok"] == frames["total"]


def test_the_compiler_is_not_imported():
    source = (
        "import sys, torch, ndereg.torch as nde\n"
        "a = torch.ones(3, requires_grad=True)\n"
        "nde.solve(lambda t, y, a: -a * y, (0, 1), torch.ones(3), a).ys.sum().backward()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", source], check=True)


# Arrays


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize(
    ("batch", "shape"),
    [("joint", (2, 3)), ("joint", (2,)), ("joint", ()), ("independent", (2, 3)),
     ("independent", (2,))],
)  # fmt: skip
def test_single_precision_stays_so(dtype, batch, shape):
    y0, args = leaf(*shape, dtype=dtype), leaf(*shape, seed=1, dtype=dtype)
    seen = set()

    def field(t, y, args):
        seen.update({(t.dtype, y.dtype)})
        return torch.cos(args) * y * t

    for options in ({}, {"t_eval": [0.2, 1.0]}, {"adjoint": "backsolve"}):
        if "adjoint" not in options:
            options["regularizer"] = nde.ErrorEstimate() + nde.StiffnessEstimate()
        sol = nde.solve(field, (0.0, 1.0), y0, args, batch=batch, rtol=1e-3, atol=1e-3, **options)
        assert (sol.ys.dtype, sol.penalty.dtype) == (dtype, torch.float32)
        (sol.ys.abs().sum() + sol.penalty.sum()).backward()
        assert all(g.dtype == dtype and torch.isfinite(g).all() for g in grads(y0, args))
    assert seen == {(torch.float32, dtype)}


def test_the_callers_tensors_are_left_alone():
    y0, args = normal(2, 3), normal(3, seed=1)
    versions = y0._version, args._version
    copies = y0.clone(), args.clone()
    sol = nde.solve(lambda t, y, a: a * y, (0.0, 1.0), y0, args, t_eval=[0.0, 0.5])
    same = nde.solve(lambda t, y, a: a * y, (1.0, 1.0), y0, args)
    assert same.ys.data_ptr() != y0.data_ptr()
    same.ys.zero_()
    sol.ys.zero_()
    assert (y0._version, args._version) == versions
    assert torch.equal(y0, copies[0])
    assert torch.equal(args, copies[1])


def test_nothing_is_kept_after_the_reverse_pass():
    y0 = leaf(3)
    sol = nde.solve(lambda t, y, _: -y, (0.0, 1.0), y0)
    sol.ys.sum().backward(retain_graph=True)
    (first,) = grads(y0)
    sol.ys.sum().backward()
    assert torch.equal(*grads(y0), first)
    with pytest.raises(RuntimeError, match="second time"):
        sol.ys.sum().backward()
    sol = nde.solve(lambda t, y, _: -y, (0.0, 1.0), y0)
    sol.ys.mul_(2.0)
    with pytest.raises(RuntimeError, match="inplace"):
        sol.ys.sum().backward()


def test_arrays_of_other_kinds_are_refused():
    y0 = normal(3)

    def field(t, y, args):
        return -y

    for y, args, what in [
        (y0.numpy(), None, r"y0 to be a torch\.Tensor, received numpy\.ndarray"),
        (y0, {"a": np.ones(3)}, r"args\['a'\] to be a torch\.Tensor"),
        (y0.to_sparse(), None, "dense"),
        (y0.half(), None, "float16"),
        (y0.to(torch.bfloat16), None, "bfloat16"),
        (torch.ones(3, dtype=torch.int64), None, "int64"),
    ]:
        with pytest.raises(TypeError, match=what):
            nde.solve(field, (0.0, 1.0), y, args)
    for y, args in [({"a": y0, "b": y0.to("meta")}, None), (y0, y0.to("meta"))]:
        with pytest.raises(ValueError, match="meta"):
            nde.solve(field, (0.0, 1.0), y, args)


def test_numbers_are_tensors_of_the_states_dtype():
    sol = nde.solve(lambda t, y, a: -a * y, (0.0, 1.0), torch.ones(()), 0.1)
    assert sol.ys.dtype == torch.float32
    assert nde.solve(lambda t, y, a: -a * y, (0.0, 1.0), 1.0, 2).ys.dtype == torch.float64
