"""Normal distributions of initial states, against PyTorch's."""

import numpy as np
import torch

from ndereg.experiments.normal import divergence_from_standard, drawn

CODE = np.random.default_rng(0).normal(size=(5, 6))


def test_divergence_as_in_pytorch():
    mean, log_variance = torch.tensor(CODE).chunk(2, dim=1)
    normal = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    np.testing.assert_allclose(divergence_from_standard(CODE), expected, rtol=1e-12)
    np.testing.assert_allclose(divergence_from_standard(torch.tensor(CODE)), expected, rtol=1e-12)


def test_drawn_states_have_mean_and_variance():
    noise = np.random.default_rng(1).normal(size=(200_000, 3))
    states = drawn(np.broadcast_to(CODE[0], (len(noise), 6)), noise)
    np.testing.assert_allclose(states.mean(axis=0), CODE[0, :3], atol=0.02)
    np.testing.assert_allclose(states.var(axis=0), np.exp(CODE[0, 3:]), rtol=0.02)
