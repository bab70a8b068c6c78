"""What people have written in equinox and flax.nnx, ported."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import ndereg.jax as ndj
from ndereg.backends.registry import load_backend
from ndereg.models import MLP, Model, flatten
from ndereg.models.importing.builder import PortError
from ndereg.models.port import port
from ndereg.solve import Face

REFERENCE = Face(load_backend("reference"))
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


class Field(eqx.Module):
    """Written by a user: known layers, a scan, gates, indices, and a scale of its own."""

    mlp: eqx.nn.MLP
    norm: eqx.nn.LayerNorm
    cell: eqx.nn.GRUCell
    scale: jax.Array
    order: jax.Array

    def __init__(self, key):
        self.mlp = eqx.nn.MLP(4, 3, 8, 2, activation=jax.nn.softplus, key=key)
        self.norm = eqx.nn.LayerNorm(3)
        self.cell = eqx.nn.GRUCell(3, 3, key=key)
        self.scale = jnp.asarray(0.5)
        self.order = jnp.array([2, 0, 1])

    def __call__(self, t, y, args):
        h = self.mlp(jnp.concatenate([y, jnp.array([t])]))
        h = self.cell(h, self.norm(y)) + jax.nn.softmax(y) * y[-1] + y[self.order]
        carry, history = jax.lax.scan(lambda c, x: (0.5 * c + x, c * x), h, jnp.stack([h, y]))
        return self.scale * jnp.tanh(carry + history.sum(0))


def field():
    return Field(jax.random.key(3))


def value(module, t, y):
    return np.asarray(module(t, jnp.asarray(y)))


def test_a_module_of_equinox_is_traced_when_it_is_called():
    module, y = field(), RNG.normal(size=3)
    model = port(module, to="numpy")
    np.testing.assert_allclose(model(0.3, y), module(0.3, jnp.asarray(y), None), rtol=1e-12)
    names = {"scale", "norm.weight", "cell.bias_n", "mlp.layers.0.weight"}
    assert names < flatten(model.params).keys()
    np.testing.assert_array_equal(model.params["cell"]["weight_hh"], module.cell.weight_hh)
    with pytest.raises(PortError, match=r"example=\(t, y\)"):
        model.layer.describe()


def test_a_module_of_equinox_is_solved_on_numpy_with_its_gradients():
    module, y0 = field(), RNG.normal(size=3)
    model = port(module, to="numpy", example=y0)
    options = {"rtol": 1e-4, "atol": 1e-4}
    sol, pullback = REFERENCE.solve_vjp(model, (0.0, 1.0), y0, model.params, **options)
    dynamic, static = eqx.partition(module, eqx.is_inexact_array)

    def call(t, y, args):
        return eqx.combine(args, static)(t, y, None)

    leaves, tree = jax.tree.flatten(dynamic)

    def loss(leaves, y0):
        args = list(leaves)
        solved = ndj.solve(lambda t, y, a: call(t, y, jax.tree.unflatten(tree, a)), (0.0, 1.0), y0,
                           args, **options)  # fmt: skip
        return solved.ys.sum(), (solved.ys, solved.stats.nfev)

    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, (ys, nfev)), (leaf_bars, y0_bar) = compiled(leaves, jnp.asarray(y0))
    assert int(nfev) == sol.stats.nfev
    np.testing.assert_allclose(sol.ys, ys, rtol=1e-11)
    d_y0, d_args = pullback(np.ones(3))
    np.testing.assert_allclose(d_y0, y0_bar, rtol=1e-10)
    bars = jax.tree.unflatten(tree, leaf_bars)
    np.testing.assert_allclose(d_args["cell"]["weight_ih"], bars.cell.weight_ih, atol=1e-11)
    np.testing.assert_allclose(
        d_args["mlp"]["layers"]["1"]["weight"], bars.mlp.layers[1].weight, atol=1e-11
    )
    np.testing.assert_allclose(d_args["scale"], bars.scale, rtol=1e-10)


def test_it_goes_on_to_torch_and_back():
    module, y = field(), RNG.normal(size=3)
    there = port(module, to="torch", example=(0.0, y))
    expected = np.asarray(module(0.3, jnp.asarray(y), None))
    received = there(torch.tensor(0.3, dtype=torch.float64), torch.tensor(y)).detach()
    np.testing.assert_allclose(received, expected, rtol=1e-12)
    back = port(there, to="jax")
    np.testing.assert_allclose(back(0.3, jnp.asarray(y), back.params), expected, rtol=1e-12)
    np.testing.assert_array_equal(back.params["norm"]["weight"], module.norm.weight)


def mlp(activation):
    return eqx.nn.MLP(3, 3, 5, 2, activation=activation, final_activation=jnp.tanh, key=KEY)


RNGS = nnx.Rngs(0)
KNOWN = {
    "mlp": (lambda: mlp(jax.nn.elu), (3,)),
    "mlp of its own": (lambda: mlp(lambda x: jnp.where(x > 0, x, 0.1 * jnp.sin(x)) ** 2), (3,)),
    "linear": (lambda: eqx.nn.Linear(3, 3, use_bias=False, key=KEY), (3,)),
    "convolutional": (lambda: eqx.nn.Sequential([
        eqx.nn.Conv1d(2, 4, 3, padding=1, key=KEY), eqx.nn.GroupNorm(2, 4),
        eqx.nn.Lambda(jax.nn.gelu), eqx.nn.Conv1d(4, 2, 1, key=KEY)]), (2, 5)),
    "nnx": (lambda: nnx.Sequential(
        nnx.Linear(3, 4, rngs=RNGS, param_dtype="float64"), nnx.silu,
        nnx.LayerNorm(4, rngs=RNGS, param_dtype="float64"),
        nnx.Linear(4, 3, rngs=RNGS, param_dtype="float64")), (2, 3)),
    "nnx convolutional": (lambda: nnx.Sequential(
        nnx.Conv(2, 4, (3, 3), rngs=RNGS, param_dtype="float64"),
        nnx.GroupNorm(4, num_groups=2, rngs=RNGS, param_dtype="float64"), nnx.relu,
        nnx.Conv(4, 2, (2, 2), padding="VALID", rngs=RNGS, param_dtype="float64")), (2, 4, 5, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known_layers_are_imported_by_their_structure(name):
    make, shape = KNOWN[name]
    module, y = make(), RNG.normal(size=shape)
    model = port(module, to="numpy")
    assert model.layer.type == "program"
    expected = np.asarray(module(jnp.asarray(y)))
    np.testing.assert_allclose(model(0.0, y), expected, rtol=1e-9, atol=1e-11)
    back = port(model, to="torch")
    received = back(torch.tensor(0.0), torch.tensor(y)).detach()
    np.testing.assert_allclose(received, expected, rtol=1e-9, atol=1e-11)


def test_layers_take_a_batch():
    module = mlp(jnp.tanh)
    y = RNG.normal(size=(4, 3))
    expected = jax.vmap(module)(jnp.asarray(y))
    np.testing.assert_allclose(port(module, to="numpy")(0.0, y), expected, rtol=1e-12)


class Gated(nnx.Module):
    """Written by a user in flax.nnx."""

    def __init__(self):
        rngs = nnx.Rngs(1)
        kind = {"rngs": rngs, "param_dtype": jnp.float64}
        self.first = nnx.Linear(4, 8, **kind)
        self.norm = nnx.BatchNorm(8, use_running_average=True, **kind)
        self.cell = nnx.GRUCell(8, 3, **kind)
        self.drop = nnx.Dropout(0.5, rngs=rngs, deterministic=True)

    def __call__(self, t, y):
        x = jnp.concatenate([y, jnp.full((*y.shape[:-1], 1), t)], axis=-1)
        return self.cell(y, self.drop(nnx.relu(self.norm(self.first(x)))))[0] - y


def test_a_module_of_nnx():
    module, y = Gated(), RNG.normal(size=(2, 3))
    model = port(module, to="torch", example=(0.0, y))
    expected = value(module, 0.3, y)
    received = model(torch.tensor(0.3, dtype=torch.float64), torch.tensor(y)).detach()
    np.testing.assert_allclose(received, expected, rtol=1e-11)
    parameters = {name for name, _ in model.named_parameters()}
    assert {"first.kernel", "norm.scale"} < parameters
    assert {"norm.mean", "norm.var"} <= {name for name, _ in model.named_buffers()}
    module.train()
    with pytest.raises(PortError, match=r"(Dropout|BatchNorm) in submodule '(drop|norm)'"):
        port(module, to="numpy", example=y)


class Weighted(eqx.Module):
    weight: jax.Array
    form: object = eqx.field(static=True)

    def __call__(self, t, y):
        return self.form(t, y) * self.weight


FORMS = {
    "indices": lambda t, y: jnp.unstack(y)[0] + y[::-1] + y[1:, None].sum() + y[
        ..., jnp.array([0, 0, 1])] + y[-1],
    "products": lambda t, y: jnp.einsum("i,ij,j->i", y, jnp.outer(y, y), y) + jnp.dot(y, y) * y,
    "shapes": lambda t, y: jnp.tile(y[None], (2, 1)).T.reshape(2, 3).mean(0) + jnp.pad(
        y, (1, 0))[:-1] + jnp.roll(y, 1) + jnp.stack([y, t * y]).max(0) + jnp.cumsum(y),
    "activations": lambda t, y: sum(f(y) for f in (
        jax.nn.gelu, jax.nn.silu, jax.nn.elu, jax.nn.leaky_relu, jax.nn.selu, jax.nn.softplus,
        jax.nn.log_softmax, jax.nn.relu, jax.nn.hard_tanh
    )),
    "numbers": lambda t, y: jnp.clip(y, -1, t) + y**3 + jnp.sqrt(1 + y * y) + jnp.linspace(0, 1, 3)
        + jnp.hypot(y, t) + jnp.logaddexp(y, t) + jax.scipy.special.erf(y) + jnp.exp2(y)
        + jnp.linalg.norm(y) + jnp.var(y) + jnp.abs(y) + jnp.where(y > 0, 1.0, t),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_functions_of_jax(name):
    module, y = Weighted(jnp.asarray(0.7), FORMS[name]), RNG.normal(size=3)
    model = port(module, to="numpy", example=y)
    expected = value(module, 0.3, y)
    np.testing.assert_allclose(model(0.3, y), expected, rtol=1e-10)
    back = port(model, to="torch")
    received = back(torch.tensor(0.3, dtype=torch.float64), torch.tensor(y)).detach()
    np.testing.assert_allclose(received, expected, rtol=1e-10)


REFUSED = {
    "cond": lambda t, y: jax.lax.cond(y[0] > 0, jnp.sin, jnp.cos, y),
    "while": lambda t, y: jax.lax.while_loop(lambda c: c[0] > 0, lambda c: c - 1, y),
    "sort": lambda t, y: jnp.sort(y),
    "gather": lambda t, y: y[jnp.argmax(y)] * y,
    "stop_gradient": lambda t, y: jax.lax.stop_gradient(y) * y,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_ported_is_named(name):
    module = Weighted(jnp.asarray(0.7), REFUSED[name])
    expected = "argmax" if name == "gather" else name
    with pytest.raises(PortError, match=f"cannot port JAX operation '{expected}'"):
        port(module, to="numpy", example=np.ones(3))


def test_other_callables_are_refused():
    with pytest.raises(ValueError, match="expected a Model"):
        port(lambda t, y: y, to="numpy")


def test_float64_weights_need_float64():
    model = Model.init(MLP((2, 2)), 0, "float64")
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        port(model, to="jax")
    assert port(model, to="jax").params["0"]["weight"].dtype == "float64"
