"""Layers are one function on every framework: values and derivatives."""

import json

import numpy as np
import pytest

from ndereg import ops
from ndereg.models import (
    MLP,
    Activation,
    Affine,
    Augmentation,
    Convolutional,
    Entrywise,
    LatentGRU,
    Leading,
    NeuralODE,
    NeuralSDE,
    Power,
    Recurrent,
    Reduction,
    Sequential,
    from_description,
)
from ndereg.models.activations import ACTIVATIONS
from ndereg.models.differentiation import Differentiated, DifferentiatedScan
from ndereg.models.layer import TYPES
from ndereg.models.parameters import flatten, map_leaves, stream, unflatten

LAYERS = {
    "mlp": (MLP((3, 5, 3), "gelu", "tanh"), (4, 3)),
    "mlp without time": (MLP((3, 4), "relu", time="none"), (4, 3)),
    "mlp with time at first": (MLP((3, 5, 3), "lipswish", "tanh", time="first"), (4, 3)),
    "concat squash": (MLP((3, 5, 3), "softplus", time="scaled_shifted"), (4, 3)),
    "affine": (Affine(3, 2), (2, 4, 3)),
    "affine without bias": (Affine(3, 2, bias=False), (4, 3)),
    "entrywise": (Entrywise(3, 4, output_activation="sigmoid"), (2, 4, 3)),
    "activation": (Activation("lipswish"), (4, 3)),
    "augmentation": (Augmentation(2), (2, 3, 4)),
    "augmentation of the last axis": (Augmentation(1, axis=-1), (2, 3, 4)),
    "mean": (Reduction("mean"), (2, 3, 4, 2)),
    "flatten": (Reduction("flatten"), (2, 3, 4)),
    "convolutional": (Convolutional((2, 4, 2), groups=2, output_activation="elu"), (3, 2, 5, 4)),
    "convolutional encoder": (
        Convolutional((2, 3, 4), dimensions=1, stride=2, time="none", activation="silu"),
        (3, 2, 9),
    ),
    "gru": (Recurrent(2, 3), (4, 6, 2)),
    "gru backwards": (Recurrent(2, 3, reverse=True, activation="sigmoid"), (4, 6, 2)),
    "rnn": (Recurrent(2, 3, cell="rnn", reverse=True), (4, 6, 2)),
    "latent gru": (LatentGRU(channels=2, units=3, latent=2), (4, 6, 5)),
    "leading": (Leading(2), (4, 3)),
    "cubes": (Power(3), (4, 3)),
    "sequential": (
        Sequential((MLP((3, 4)), Activation("silu"), Sequential((Affine(4, 2),)))),
        (4, 3),
    ),
}
DESCRIBED = {
    **{name: layer for name, (layer, _) in LAYERS.items()},
    "neural ode": NeuralODE(
        MLP((4, 8, 4)), Recurrent(2, 3), Affine(4, 2), (1.0, 0.0), 1, "dopri5", 1e-3, 0.0
    ),
    "neural sde": NeuralSDE(MLP((4, 8, 4)), Affine(4, 4), Affine(3, 4), Affine(4, 2), (1.0, 0.0)),
}


def inputs(shape):
    return np.random.default_rng(0).normal(size=shape)


def cotangent(shape):
    return np.cos(np.arange(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize("name", LAYERS)
def test_frameworks_agree(name):
    """NumPy and its trace, PyTorch with autograd, JAX: values, and gradients by y and weights."""
    import jax
    import jax.numpy as jnp
    import torch

    layer, shape = LAYERS[name]
    y, params = inputs(shape), layer.init(0, "float64")
    expected = layer(0.7, y, params)

    traced, pullback = Differentiated(lambda y, params: layer(0.7, y, params))(y, params)
    bar = cotangent(expected.shape)
    bars = flatten(dict(zip("yp", pullback(bar), strict=True)))
    np.testing.assert_allclose(traced, expected, rtol=1e-12, atol=1e-15)

    leaves = flatten({"y": y, "p": params})
    tensors = {k: torch.tensor(leaf, requires_grad=True) for k, leaf in leaves.items()}
    tree = unflatten(tensors)
    in_torch = layer(0.7, tree["y"], tree.get("p", {}))
    grads = torch.autograd.grad(in_torch, list(tensors.values()), torch.tensor(bar))
    np.testing.assert_allclose(in_torch.detach().numpy(), expected, rtol=1e-12, atol=1e-15)
    for name, grad in zip(tensors, grads, strict=True):
        np.testing.assert_allclose(bars[name], grad.numpy(), rtol=1e-10, atol=1e-13)

    with jax.enable_x64(True):
        arrays = map_leaves(jnp.asarray, params)
        in_jax = jax.jit(layer, static_argnums=0)(0.7, jnp.asarray(y), arrays)
        np.testing.assert_allclose(np.asarray(in_jax), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["mlp", "convolutional"])
def test_single_precision_stays_single(name):
    import jax.numpy as jnp
    import torch

    layer, shape = LAYERS[name]
    y, params = inputs(shape).astype("float32"), layer.init(0)
    assert layer(np.float32(0.7), y, params).dtype == np.float32
    t = torch.tensor(0.7)
    assert layer(t, torch.tensor(y), map_leaves(torch.tensor, params)).dtype is torch.float32
    in_jax = layer(jnp.float32(0.7), jnp.asarray(y), map_leaves(jnp.asarray, params))
    assert in_jax.dtype == jnp.float32
    value, _ = Differentiated(layer)(np.float32(0.7), y, params)
    assert value.dtype == np.float32


def in_torch(tree):
    import torch

    return map_leaves(lambda leaf: torch.tensor(leaf.T.copy()), tree)


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_recurrences_are_those_of_pytorch(cell):
    import torch

    layer = Recurrent(2, 3, cell=cell)
    y, params = inputs((4, 6, 2)), layer.init(1, "float64")
    peer = {"gru": torch.nn.GRU, "rnn": torch.nn.RNN}[cell](2, 3, batch_first=True).double()
    weights = in_torch(params)
    peer.load_state_dict(
        {
            "weight_ih_l0": weights["input_weight"],
            "weight_hh_l0": weights["hidden_weight"],
            "bias_ih_l0": weights["input_bias"],
            "bias_hh_l0": weights["hidden_bias"],
        }
    )
    states, last = peer(torch.tensor(y))
    ours = layer.states(y, params)
    np.testing.assert_allclose(ours, states.detach().numpy().swapaxes(0, 1), rtol=1e-12)
    np.testing.assert_allclose(layer(0.0, y, params), last[0].detach().numpy(), rtol=1e-12)


def test_reading_backwards_is_reading_the_reversed_sequence():
    y = inputs((4, 6, 2))
    params = Recurrent(2, 3).init(0, "float64")
    backwards = Recurrent(2, 3, reverse=True)(0.0, y, params)
    np.testing.assert_array_equal(backwards, Recurrent(2, 3)(0.0, y[:, ::-1], params))


def test_concat_squash_is_that_of_the_paper():
    layer = MLP((3, 2), time="scaled_shifted")
    params, y, t = layer.init(0, "float64"), inputs((4, 3)), 0.3
    p = params["0"]
    gate = 1 / (1 + np.exp(-(t * p["gate"] + p["gate_bias"])))
    expected = (y @ p["weight"] + p["bias"]) * gate + t * p["time"]
    np.testing.assert_allclose(layer(t, y, params), expected, rtol=1e-14)


@pytest.mark.parametrize("time", ["concatenated", "scaled_shifted"])
def test_every_sample_may_have_its_own_time(time):
    layer = MLP((3, 5, 3), time=time)
    params, y, t = layer.init(0, "float64"), inputs((4, 3)), np.linspace(0, 1, 4)
    rows = [layer(t[i], y[i : i + 1], params)[0] for i in range(4)]
    np.testing.assert_allclose(layer(t[:, None], y, params), rows, rtol=1e-13)
    image = Convolutional((2, 3, 2))
    params, y = image.init(0, "float64"), inputs((4, 2, 5, 5))
    rows = [image(t[i], y[i : i + 1], params)[0] for i in range(4)]
    np.testing.assert_allclose(image(t.reshape(-1, 1, 1, 1), y, params), rows, rtol=1e-12)


def test_the_channel_of_time_is_a_channel():
    layer = Convolutional((2, 3), time="concatenated")
    params, y = layer.init(0, "float64"), inputs((1, 2, 5, 4))
    p = params["0"]
    longer = {"weight": np.concatenate([p["weight"], p["time"]], axis=1), "bias": p["bias"]}
    appended = np.concatenate([y, np.full((1, 1, 5, 4), 0.3)], axis=1)
    plain = Convolutional((3, 3), time="none")
    expected = plain(0.0, appended, {"0": longer})
    np.testing.assert_allclose(layer(0.3, y, params), expected, rtol=1e-12)


@pytest.mark.parametrize("name", DESCRIBED)
def test_descriptions_are_read_back(name):
    layer = DESCRIBED[name]
    data = json.loads(json.dumps(layer.describe()))
    assert from_description(data) == layer
    assert hash(from_description(data)) == hash(layer)
    params = layer.init(3)
    layer.check(params)
    assert map_leaves(np.shape, params) == layer.shapes()
    assert unflatten(flatten(params)).keys() == params.keys()


def test_every_type_is_described():
    ours = {name for name, place in TYPES.items() if ".program:" not in place}
    assert {layer.type for layer in DESCRIBED.values()} == ours


@pytest.mark.parametrize("change", ["absent", "unknown", "null", "text", "nested", "huge", "real"])
@pytest.mark.parametrize("name", DESCRIBED)
def test_a_description_that_was_changed_is_refused(name, change):
    data = DESCRIBED[name].describe()
    field = next(key for key in data if key != "type")
    if change == "absent":
        if field == "how":  # has a default
            return
        del data[field]
    elif change == "unknown":
        data["unknown"] = 1
    else:
        data[field] = {
            "null": None,
            "text": "x" * 10**6,
            "nested": [[[]]],
            "huge": [10**5000] if isinstance(data[field], list) else 10**5000,
            "real": [1.5],
        }[change]
    with pytest.raises(ValueError, match=r"expected .*received") as caught:
        from_description(data)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "mlp",
        {},
        {"type": "os.system"},
        {"type": {"type": "mlp"}},
        {"type": "mlp", "widths": {"type": "mlp", "widths": [1, 1]}},
        {"type": "mlp", "widths": [2, True]},
        {"type": "affine", "inputs": 2**20, "outputs": 2**20},
        {"type": "sequential", "layers": []},
        {"type": "sequential", "layers": [1]},
        {"type": "sequential", "layers": [{"type": "activation", "name": "relu"}] * 10**5},
        {"type": "convolutional", "channels": [2, 2], "kernel": 4},
        {"type": "convolutional", "channels": [2, 3, 2], "groups": 2},
        {"type": "convolutional", "channels": [2, 2], "dimensions": 3},
        {"type": "neural_ode", "field": {"type": "mlp", "widths": [1, 1]}, "rtol": float("nan")},
        {"type": "neural_ode", "field": {"type": "mlp", "widths": [1, 1]}, "method": "rk5"},
        {"type": "neural_ode", "field": {"type": "mlp", "widths": [1, 1]}, "t_span": [0]},
    ],
)
def test_what_describes_nothing_is_refused(data):
    with pytest.raises(ValueError, match=r"expected|unknown"):
        from_description(data)


def test_layers_within_layers_have_a_limit():
    data = {"type": "activation", "name": "relu"}
    for _ in range(100):
        data = {"type": "sequential", "layers": [data]}
    with pytest.raises(ValueError, match="at most 16 layers within layers"):
        from_description(data)


def test_a_sequence_is_needed_to_read_one():
    layer = Recurrent(2, 3)
    with pytest.raises(ValueError, match="sequences of shape"):
        layer(0.0, np.ones((6, 2)), layer.init(0))


def test_activations_are_functions_of_ops():
    from ndereg import ops

    assert all(callable(getattr(ops, name)) for name in ACTIVATIONS)


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_a_bad_seed_is_refused_even_where_nothing_is_drawn(seed):
    with pytest.raises(ValueError, match="expected a seed"):
        Activation("relu").init(seed)


def test_arrays_are_drawn_by_their_dotted_names():
    params = Sequential((Activation("relu"), Affine(4, 2))).init(7, "float64", scope="head")
    drawn = stream(7, "head.1.weight").uniform(-0.5, 0.5, (4, 2))
    np.testing.assert_array_equal(params["1"]["weight"], drawn)


def test_a_latent_gru_is_left_alone_where_nothing_is_observed():
    layer = LatentGRU(channels=2, units=3, latent=2)
    y, params = inputs((4, 6, 5)), layer.init(0, "float64")
    y[:, :, 2:4] = 1.0
    expected = layer(0.0, y, params)
    unseen = np.insert(y, [3, 6], 7.0, axis=1)
    unseen[:, [3, 7], 2:4] = 0.0
    np.testing.assert_array_equal(layer(0.0, unseen, params), expected)
    unseen[0, 3, 2] = 1.0
    moved = layer(0.0, unseen, params) != expected
    assert moved[0].all()
    assert not moved[1:].any()


def test_a_latent_gru_by_its_formulas():
    """Two observations, read backwards, written out."""
    layer = LatentGRU(channels=1, units=2, latent=2)
    x, params = np.array([[0.3, 1.0, 0.5], [0.7, 1.0, 0.1]]), layer.init(0, "float64")
    state = np.zeros(4)
    for row in x[::-1]:
        drive = row @ params["input_weight"] + params["bias"]
        pushed = state @ params["hidden_weight"]
        hidden = np.tanh(drive + pushed)
        u, r = (
            1 / (1 + np.exp(-(part @ params[f"{name}_weight"] + params[f"{name}_bias"])))
            for name, part in (("update", hidden[:2]), ("reset", hidden[2:4]))
        )
        hidden = np.tanh((drive + (np.tile(r, 2) * state) @ params["hidden_weight"])[4:])
        new = hidden @ params["candidate_weight"] + params["candidate_bias"]
        state = (1 - np.tile(u, 2)) * new + np.tile(u, 2) * state
    np.testing.assert_allclose(layer(0.0, x[None], params)[0], state, rtol=1e-12)


@pytest.mark.parametrize(("reverse", "every"), [(False, False), (True, False), (True, True)])
def test_the_gradient_of_a_scan_is_that_of_its_steps(reverse, every):
    def step(carry, x, params):
        return ops.tanh(carry @ params["weight"]) + params["scale"] * x

    carry, xs = inputs((4, 3)), inputs((5, 4, 3)) + 0.1
    params = {"weight": inputs((3, 3)), "scale": np.array(0.7)}
    how = {"reverse": reverse, "every": every}
    unrolled = Differentiated(
        lambda carry, xs, params: ops.scan(lambda c, x: step(c, x, params), carry, xs, **how)
    )
    expected, expected_pullback = unrolled(carry, xs, params)
    value, pullback = DifferentiatedScan(step, **how)(carry, xs, params)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    bar = cotangent(value.shape)
    ours = dict(zip("cxp", pullback(bar), strict=True))
    theirs = dict(zip("cxp", expected_pullback(bar), strict=True))
    for name, leaf in flatten(theirs).items():
        np.testing.assert_allclose(flatten(ours)[name], leaf, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (LatentGRU(2, 3, 2), (4, 6, 4), r"shape \(B, T, 5\)"),
        (Leading(4), (2, 3), "at least 4 entries"),
    ],
)
def test_other_shapes_are_refused(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer(0.0, inputs(shape), layer.init(0))
