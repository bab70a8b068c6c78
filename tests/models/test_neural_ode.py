"""One neural ODE as each framework expects it: the same predictions, the same gradients."""

import copy

import numpy as np
import pytest

import ndereg
from ndereg.models import MLP, Affine, Model, NeuralODE, Recurrent, from_description
from ndereg.models.numpy import NeuralODE as NumpyNeuralODE
from ndereg.models.parameters import flatten, map_leaves

LAYER = NeuralODE(
    field=MLP((4, 6, 4), time="scaled_shifted"),
    encoder=Recurrent(2, 3, reverse=True),
    head=Affine(4, 2),
    t_span=(0.5, 1.5),
    augmentation=1,
    method="dopri5",
    rtol=1e-2,
    atol=1e-2,
)
X = np.random.default_rng(0).normal(size=(5, 7, 2))
REGULARIZER = ndereg.ErrorEstimate()
WEIGHT = 0.3


def numpy_model(**options):
    return NumpyNeuralODE(LAYER, dtype="float64", backend="reference", **options)


@pytest.fixture(scope="module")
def expected():
    """Output, objective and gradients of the reference backend."""
    model = numpy_model(regularizer=REGULARIZER)
    output, solution, _ = model.vjp(X)
    value, gradient = model.gradients(X, np.zeros((5, 2)), penalty_weight=WEIGHT)
    assert solution.penalty > 1e-5
    return output, value, flatten(gradient)


def check(expected, output, value, gradient):
    np.testing.assert_allclose(output, expected[0], rtol=1e-12)
    # the penalty is made of differences that are small beside what is subtracted
    np.testing.assert_allclose(value, expected[1], rtol=1e-10)
    assert gradient.keys() == expected[2].keys()
    for name, grad in gradient.items():
        np.testing.assert_allclose(grad, expected[2][name], rtol=1e-10, atol=1e-13)


def test_in_pytorch(expected):
    import torch

    from ndereg.models.torch import NeuralODE as TorchNeuralODE

    model = TorchNeuralODE(LAYER, dtype=torch.float64, regularizer=REGULARIZER)
    output, solution = model(torch.tensor(X), return_solution=True)
    value = output.square().mean() + WEIGHT * solution.penalty
    value.backward()
    gradient = {name: p.grad.numpy() for name, p in model.named_parameters()}
    check(expected, output.detach().numpy(), value.item(), gradient)


def test_in_equinox(expected):
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from ndereg.models.equinox import NeuralODE as EquinoxNeuralODE

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def objective(model, x):
        output, solution = model(x, return_solution=True)
        return jnp.mean(output**2) + WEIGHT * solution.penalty, output

    with jax.enable_x64(True):
        model = EquinoxNeuralODE(LAYER, dtype="float64", regularizer=REGULARIZER)
        (value, output), gradient = objective(model, jnp.asarray(X))
        check(expected, output, float(value), flatten(gradient.params))
        # equal descriptions are equal trees, so another model compiles nothing
        other = EquinoxNeuralODE(LAYER, dtype="float64", seed=1, regularizer=REGULARIZER)
        assert jax.tree.structure(model) == jax.tree.structure(other)


def test_in_flax(expected):
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from ndereg.models.nnx import NeuralODE as FlaxNeuralODE

    @nnx.jit
    def objective(model, x):
        def inner(model):
            output, solution = model(x, return_solution=True)
            return jnp.mean(output**2) + WEIGHT * solution.penalty, output

        return nnx.value_and_grad(inner, has_aux=True)(model)

    with jax.enable_x64(True):
        model = FlaxNeuralODE(LAYER, dtype="float64", regularizer=REGULARIZER)
        (value, output), gradient = objective(model, jnp.asarray(X))
        found = {
            ".".join(map(str, path[1:])): leaf[...] for path, leaf in nnx.to_flat_state(gradient)
        }
        check(expected, output, float(value), found)
        state = nnx.state(model, nnx.Param)
        nnx.update(model, jax.tree.map(jnp.zeros_like, state))
        assert not model.params["head"]["weight"].any()


def test_compiled_by_numba_and_through_the_bare_layer(expected):
    """The layer as a function of arrays, which is what a saved model is."""
    import torch

    layer = from_description(LAYER.describe())
    params = layer.init(0, "float64")
    np.testing.assert_allclose(layer(0.0, X, params), expected[0], rtol=1e-12)
    in_torch = layer(0.0, torch.tensor(X), map_leaves(torch.tensor, params))
    np.testing.assert_allclose(in_torch.numpy(), expected[0], rtol=1e-12)
    model = Model(layer, params)
    np.testing.assert_allclose(model(0.0, X), expected[0], rtol=1e-12)


def test_states_in_between_go_through_the_head():
    model = numpy_model()
    output, solution = model(X, return_solution=True, t_eval=[0.5, 1.0, 1.5])
    assert output.shape == (3, 5, 2) and solution.ys.shape == (3, 5, 4)
    np.testing.assert_allclose(output[-1], model(X), rtol=1e-12)


def test_gradients_on_numpy_are_those_of_finite_differences():
    model = NumpyNeuralODE(
        LAYER, dtype="float64", backend="reference", controller=ndereg.ConstantStep(0.25)
    )
    target = np.ones((5, 2))
    _, gradient = model.gradients(X, target)
    params, direction = model.params, LAYER.init(9, "float64")
    values = []
    for size in (1e-5, -1e-5):
        model.params = map_leaves(lambda p, d: p + size * d, params, direction)
        values.append(np.mean((model.predict(X) - target) ** 2))
    slope = sum(
        np.sum(g * d) for g, d in zip(
            flatten(gradient).values(), flatten(direction).values(), strict=True
        )
    )  # fmt: skip
    np.testing.assert_allclose((values[0] - values[1]) / 2e-5, slope, rtol=1e-7)


def test_the_input_has_a_gradient_too():
    model = numpy_model()
    output, _, pullback = model.vjp(X)
    x_bar, _ = pullback(np.ones_like(output))
    bumped = X.copy()
    bumped[2, 3, 1] += 1e-5
    slope = (model.predict(bumped).sum() - output.sum()) / 1e-5
    np.testing.assert_allclose(x_bar[2, 3, 1], slope, rtol=1e-3, atol=1e-8)


def test_training_on_numpy_is_repeatable_and_lowers_loss_and_cost():
    x = np.random.default_rng(1).normal(size=(40, 2))
    y = np.eye(2)[(x[:, 0] * x[:, 1] > 0).astype(int)]
    layer = NeuralODE(MLP((3, 8, 3)), head=Affine(3, 2), augmentation=1, rtol=1e-3, atol=1e-3)

    def trained(weight):
        model = NumpyNeuralODE(
            layer, backend="reference", regularizer=ndereg.ErrorEstimate(), dtype="float32"
        )
        history = model.fit(
            x, y, loss="cross_entropy", epochs=40, batch_size=20, learning_rate=0.05,
            penalty_weight=weight,
        )  # fmt: skip
        return model, history, model.predict(x, return_solution=True)[1].penalty

    model, history, penalty = trained(0.0)
    assert history[-1] < 0.7 * history[0]
    assert all(leaf.dtype == np.float32 for leaf in flatten(model.params).values())
    again, repeated, _ = trained(0.0)
    assert repeated == history
    map_leaves(np.testing.assert_array_equal, model.params, again.params)
    _, _, regularized = trained(ndereg.Constant(10.0))
    assert regularized < 0.5 * penalty


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"y": np.ones(5)}, "shape of the output"),
        ({"y": np.ones((4, 2))}, "as many targets as inputs"),
        ({"y": np.ones((5, 2)), "loss": "entropy"}, "expected a loss among"),
        ({"y": np.ones((5, 2)), "batch_size": 0}, "batch_size"),
    ],
)
def test_training_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        numpy_model().fit(X, **arguments)


def test_a_neural_ode_is_no_field():
    with pytest.raises(TypeError, match="contains a solve"):
        ndereg.numpy.solve(LAYER, (0.0, 1.0), X, LAYER.init(0, "float64"))


@pytest.mark.parametrize("framework", ["numpy", "torch", "equinox", "nnx"])
def test_only_its_own_description_is_taken(framework):
    from importlib import import_module

    wrapper = import_module(f"ndereg.models.{framework}").NeuralODE
    with pytest.raises(ValueError, match="NeuralODE"):
        wrapper(MLP((2, 2)))
    with pytest.raises(ValueError, match=r"layer\.init"):
        wrapper(LAYER, {})


# What PyTorch's modules are expected to do


@pytest.fixture
def module():
    from ndereg.models.torch import NeuralODE as TorchNeuralODE

    return TorchNeuralODE(LAYER)


def test_state_dict_is_a_round_trip(module):
    import torch

    from ndereg.models.torch import NeuralODE as TorchNeuralODE

    assert set(module.state_dict()) == set(flatten(LAYER.init(0)))
    other = TorchNeuralODE(LAYER, seed=1)
    x = torch.tensor(X, dtype=torch.float32)
    assert (other(x) != module(x)).any()
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other(x), module(x), rtol=0, atol=0)


def test_modules_are_copied_moved_and_cast(module):
    import torch

    twin = copy.deepcopy(module).double()
    assert twin.layer == module.layer
    assert twin(torch.tensor(X)).dtype is torch.float64
    assert module.params["head"]["weight"].dtype is torch.float32
    assert "meta" in {str(p.device) for p in copy.deepcopy(module).to("meta").parameters()}
    torch.nn.init.zeros_(twin.get_parameter("head.weight"))
    assert module.params["head"]["weight"].any()


def test_replicas_hold_plain_tensors(module):
    """What ``DataParallel`` does to a module, for which it needs no GPU."""
    import torch

    x = torch.tensor(X, dtype=torch.float32)
    before = {k: id(v) for k, v in vars(module).items()}
    expected = module(x)
    assert {k: id(v) for k, v in vars(module).items()} == before

    def replicated(part):
        replica = part._replicate_for_data_parallel()
        for name, child in part._modules.items():
            setattr(replica, name, replicated(child))
        for name, parameter in part._parameters.items():
            setattr(replica, name, parameter * 1.0)
        return replica

    output = replicated(module)(x)
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.slow
def test_compiled_by_torch(module):
    import torch

    x = torch.tensor(X, dtype=torch.float32)
    expected = module(x)
    wrapped = torch.nn.Sequential(module, torch.nn.Tanh())
    torch.testing.assert_close(torch.compile(wrapped, backend="eager")(x), torch.tanh(expected))
    compiled = torch.compile(module, backend="eager")
    output, solution = compiled(x, return_solution=True, regularizer=ndereg.ErrorEstimate())
    torch.testing.assert_close(output, expected)
    (output.sum() + solution.penalty).backward()
    assert all(p.grad is not None for p in module.parameters())


def test_a_layer_is_a_field_of_two_arguments():
    import torch

    import ndereg.torch as nde
    from ndereg.models.torch import Field

    field = Field(MLP((2, 4, 2)), dtype="float64")
    y0 = torch.ones(3, 2, dtype=torch.float64)
    nde.solve(field, (0.0, 1.0), y0).ys.sum().backward()
    model = Model(field.layer, field.params)
    sol = nde.solve(model, (0.0, 1.0), y0)
    torch.testing.assert_close(sol.ys, nde.solve(field, (0.0, 1.0), y0).ys, rtol=0, atol=0)
    assert all(p.grad is not None for p in field.parameters())
