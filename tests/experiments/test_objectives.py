"""Losses and their hand-written gradients."""

import numpy as np
import pytest

from ndereg.experiments.objectives import (
    accuracy,
    softmax_cross_entropy,
    softmax_cross_entropy_vjp,
)


@pytest.fixture
def sample():
    random = np.random.default_rng(0)
    logits = 5 * random.normal(size=(6, 4))
    targets = np.eye(4)[random.integers(0, 4, 6)]
    return logits, targets


def test_as_in_pytorch(sample):
    import torch

    logits, targets = (torch.tensor(x) for x in sample)
    expected = torch.nn.functional.cross_entropy(logits, targets)
    np.testing.assert_allclose(softmax_cross_entropy(*sample), expected.numpy(), rtol=1e-12)
    np.testing.assert_allclose(
        softmax_cross_entropy(logits, targets).numpy(), expected.numpy(), rtol=1e-12
    )


def test_gradient_as_in_pytorch(sample):
    import torch

    logits = torch.tensor(sample[0], requires_grad=True)
    torch.nn.functional.cross_entropy(logits, torch.tensor(sample[1])).backward()
    loss, gradient = softmax_cross_entropy_vjp(*sample)
    assert loss == softmax_cross_entropy(*sample)
    np.testing.assert_allclose(gradient, logits.grad.numpy(), rtol=1e-10, atol=1e-15)


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4, 0.0], [0.0, 1e4]], "float32")
    loss, gradient = softmax_cross_entropy_vjp(logits, np.eye(2, dtype="float32"))
    assert loss == 0.0
    assert np.isfinite(gradient).all()


def test_accuracy_counts_the_largest():
    logits = np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    assert accuracy(logits, np.eye(2)[[1, 0, 0]]) == pytest.approx(2 / 3)
