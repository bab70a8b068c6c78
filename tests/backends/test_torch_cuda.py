"""PyTorch on a CUDA device, where there is one: compiled steps recorded as graphs of kernels."""

from __future__ import annotations

import pytest
import torch

import ndereg
import ndereg.torch as nde
from ndereg.backends.torch import kernels

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]


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
