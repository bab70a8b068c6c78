"""Our optimizers are the frameworks'."""

import numpy as np
import pytest

from ndereg.models.optimizers import AdaBelief, AdaDelta, Adam


@pytest.fixture
def gradients():
    random = np.random.default_rng(0)
    return [{"a": random.normal(size=(3, 2)), "b": random.normal(size=4) * 1e-6} for _ in range(20)]


def ours(gradients, start, optimizer=Adam):
    optimizer = optimizer(learning_rate=0.01)
    params, state = start, optimizer.init(start)
    for gradient in gradients:
        params, state = optimizer.update(gradient, state, params)
    return params


def start():
    return {"a": np.ones((3, 2)), "b": np.zeros(4)}


def test_as_in_pytorch(gradients):
    import torch

    params = {name: torch.tensor(value, requires_grad=True) for name, value in start().items()}
    optimizer = torch.optim.Adam(params.values(), lr=0.01)
    for gradient in gradients:
        for name, tensor in params.items():
            tensor.grad = torch.tensor(gradient[name])
        optimizer.step()
    for name, value in ours(gradients, start()).items():
        np.testing.assert_allclose(value, params[name].detach().numpy(), rtol=1e-12, atol=1e-15)


def test_as_in_optax(gradients):
    import jax
    import optax

    with jax.enable_x64(True):
        optimizer = optax.adam(0.01)
        params = {name: jax.numpy.asarray(value) for name, value in start().items()}
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state)
            params = optax.apply_updates(params, updates)
        for name, value in ours(gradients, start()).items():
            np.testing.assert_allclose(value, np.asarray(params[name]), rtol=1e-10, atol=1e-13)


def test_stays_in_the_dtype_of_the_parameters():
    optimizer = Adam()
    params = {"a": np.ones(2, np.float32)}
    new, state = optimizer.update(params, optimizer.init(params), params)
    assert new["a"].dtype == state["mean.a"].dtype == state["square.a"].dtype == np.float32


def test_leaves_its_arguments_alone(gradients):
    params = start()
    state = Adam().init(params)
    Adam().update(gradients[0], state, params)
    np.testing.assert_array_equal(params["a"], 1.0)
    assert state["count"] == 0


def test_adabelief_as_in_optax(gradients):
    """On NumPy and in PyTorch, which has none of its own."""
    import jax
    import optax
    import torch

    from ndereg.experiments.runners.adabelief import AdaBelief as OfTorch

    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in start().items()}
    of_torch = OfTorch(tensors.values(), lr=0.01)
    with jax.enable_x64(True):
        optimizer = optax.adabelief(0.01)
        params = {name: jax.numpy.asarray(value) for name, value in start().items()}
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state)
            params = optax.apply_updates(params, updates)
            for name, tensor in tensors.items():
                tensor.grad = torch.tensor(gradient[name])
            of_torch.step()
        for name, value in ours(gradients, start(), AdaBelief).items():
            expected = np.asarray(params[name])
            np.testing.assert_allclose(value, expected, rtol=1e-8)
            np.testing.assert_allclose(tensors[name].detach().numpy(), expected, rtol=1e-8)


def test_adadelta_as_in_pytorch_and_optax(gradients):
    import jax
    import optax
    import torch

    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in start().items()}
    of_torch = torch.optim.Adadelta(tensors.values(), lr=0.01)
    with jax.enable_x64(True):
        optimizer = optax.adadelta(0.01)
        params = {name: jax.numpy.asarray(value) for name, value in start().items()}
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            for name, tensor in tensors.items():
                tensor.grad = torch.tensor(gradient[name])
            of_torch.step()
        for name, value in ours(gradients, start(), AdaDelta).items():
            assert np.all(np.abs(value - start()[name]) > 1e-9)
            np.testing.assert_allclose(value, tensors[name].detach().numpy(), rtol=1e-12)
            np.testing.assert_allclose(value, np.asarray(params[name]), rtol=1e-10)
