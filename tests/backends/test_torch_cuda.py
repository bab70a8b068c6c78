"""PyTorch on a CUDA device, where there is one: stochastic equations, and recorded steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ndereg
import ndereg.torch as nde
from ndereg.backends.registry import load_backend
from ndereg.backends.torch import kernels
from ndereg.solve import Face

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["stochastic_heun", "reversible_heun", "spark"])
def test_stochastic_equations(device, method):
    """Solutions and gradients along one key are those of the reference, wherever the path is."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA device")
    reference = Face(load_backend("reference"))
    random = np.random.default_rng(0)
    y0, args = random.normal(size=(4, 3)), random.normal(size=(2, 3))
    bar = random.normal(size=(2, 4, 3))
    sde = ndereg.SDE(
        lambda t, y, args: ndereg.ops.tanh(args[0] * y) - t * y,
        lambda t, y, args: 0.3 * ndereg.ops.tanh(args[1] + y), calculus="stratonovich",
    )  # fmt: skip
    options = {"method": method, "key": 5, "t_eval": [0.3, 1.0], "regularizer": None}
    if method == "spark":  # along the tree, asked for steps of any size
        options |= {"rtol": 1e-2, "atol": 1e-2, "regularizer": ndereg.ErrorEstimate()}
    else:
        options["controller"] = ndereg.ConstantStep(0.125)
    sol, pull = reference.solve_vjp(sde, (0.0, 1.0), y0, args, **options)
    penalty_bar = 0.0 if options["regularizer"] is None else 0.7
    expected = [sol.ys, *pull(bar, penalty_bar)]
    state, leaf = (torch.tensor(a, device=device, requires_grad=True) for a in (y0, args))
    found = nde.solve(sde, (0.0, 1.0), state, leaf, **options)
    assert found.stats.nsteps == sol.stats.nsteps
    value = (torch.as_tensor(bar, device=device) * found.ys).sum() + penalty_bar * found.penalty
    for one, other in zip(
        [found.ys, *torch.autograd.grad(value.sum(), (state, leaf))], expected, strict=True
    ):
        assert one.device.type == device
        np.testing.assert_allclose(one.detach().cpu().numpy(), other, rtol=1e-9, atol=1e-9)


@pytest.mark.cuda
def test_recorded_steps(monkeypatch):
    """The same steps and gradients as eager ones; new weights are not recorded again."""
    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA device")
    recorded = []
    record = kernels.Recorded._record
    monkeypatch.setattr(
        kernels.Recorded, "_record", lambda self, *given: (recorded.append(1), record(self, *given))
    )
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).to(
        "cuda", torch.float64
    )
    y0 = torch.randn(5, 3, dtype=torch.float64, device="cuda")
    field = torch.compile(network)

    def gradient(field):
        sol = nde.solve(field, (0.0, 2.0), y0, regularizer=ndereg.ErrorEstimate(), rtol=1e-7)
        value = sol.ys.square().sum() + sol.penalty
        return sol.stats, torch.autograd.grad(value, list(network.parameters()))

    for _ in range(2):
        stats, expected = gradient(network)
        again, found = gradient(field)
        assert again == stats
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05)
    assert len(recorded) == 2
