"""A residual network written in PyTorch, served on NumPy: the same predictions, no framework."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import ndereg.torch as nde
from ndereg.models import Affine, Model, NeuralODE, load, port, save
from ndereg.models.predict import run


class Residual(nn.Module):
    """A field as one writes it: skips, gates, and questions about shapes."""

    def __init__(self, width=4, hidden=8):
        super().__init__()
        self.first = nn.Linear(width + 1, hidden)
        self.second = nn.Linear(hidden, width)
        self.gate = nn.Sequential(nn.Linear(width, width), nn.Sigmoid())

    def forward(self, t, y):
        time = t.expand(y.shape[0], 1)
        out = self.second(nn.functional.silu(self.first(torch.cat([y, time], dim=-1))))
        return self.gate(y) * out - 0.1 * y


def main():
    torch.manual_seed(0)
    field, head = Residual(), nn.Linear(4, 2)
    x = torch.randn(16, 4)
    options = {"method": "bosh3", "rtol": 1e-4, "atol": 1e-4}
    with torch.no_grad():
        solution = nde.solve(field, (0.0, 1.0), x, **options)
        expected = head(solution.ys).numpy()

    ported = port(field, to="numpy")
    print(ported.layer)
    layer = NeuralODE(ported.layer, head=Affine(4, 2), t_span=(0.0, 1.0), **options)
    weights = {"weight": head.weight.detach().numpy().T, "bias": head.bias.detach().numpy()}
    model = Model(layer, {"field": ported.params, "head": weights})
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / "residual.safetensors")
        served = run(load(Path(folder) / "residual.safetensors"), x.numpy())
    print(f"evaluations: {served.nfev} on NumPy, {solution.stats.nfev} in PyTorch")
    print(f"largest difference: {np.abs(served.output - expected).max():.1e}")
    assert served.nfev == solution.stats.nfev
    np.testing.assert_allclose(served.output, expected, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    main()
