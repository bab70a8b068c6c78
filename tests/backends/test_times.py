"""The penalty is a constant of the times, which alone have the gradient of the exact solution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import torch

import ndereg
import ndereg.jax as nde_jax
import ndereg.torch as nde_torch

OPTIONS = {
    "method": "bosh3", "rtol": 1e-6, "atol": 1e-6, "regularizer": 3.0 * ndereg.ErrorEstimate(),
}  # fmt: skip
EXPECTED = (1.0 * np.exp(-0.7), -1.0 * np.exp(-0.7))
"""Derivatives of ``exp(-(t1 - t0))`` by ``t0`` and ``t1``."""


def test_in_torch():
    t0, t1 = (torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (0.0, 0.7))
    y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    sol = nde_torch.solve(lambda t, y, a: -y, (t0, t1), y0, **OPTIONS)
    found = torch.autograd.grad(sol.ys.sum() + sol.penalty, (t0, t1), retain_graph=True)
    np.testing.assert_allclose([float(bar) for bar in found], EXPECTED, rtol=1e-4)
    found = torch.autograd.grad(sol.penalty, (t0, t1), allow_unused=True)
    assert all(bar is None or float(bar) == 0.0 for bar in found)


def test_in_jax():
    def loss(times, weight):
        sol = nde_jax.solve(lambda t, y, a: -y, times, jnp.ones(1), max_steps=256, **OPTIONS)
        return weight * sol.ys.sum() + sol.penalty

    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(loss))
        np.testing.assert_allclose(gradient((0.0, 0.7), 1.0), EXPECTED, rtol=1e-4)
        np.testing.assert_allclose(gradient((0.0, 0.7), 0.0), 0.0, atol=1e-12)
