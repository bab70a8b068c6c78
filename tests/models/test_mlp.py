"""The portable perceptron."""

import numpy as np
import pytest

from ndereg.models.mlp import ACTIVATIONS, MLP
from ndereg.models.parameters import flatten, map_leaves


def concatenated(t, y, params, activation):
    """Write the field as the papers do: time appended to the input of every layer."""
    for index in sorted(params):
        layer = params[index]
        weight = np.concatenate([layer["weight"], layer["time"][None]])
        column = np.full((len(y), 1), t)
        y = activation(np.concatenate([y, column], axis=1) @ weight + layer["bias"])
    return y


def test_time_enters_as_one_more_input():
    field = MLP((3, 5, 3), output_activation="tanh")
    params = field.init(0, "float64")
    y = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_allclose(
        field(0.7, y, params), concatenated(0.7, y, params, np.tanh), rtol=1e-14
    )


def test_a_column_of_times_gives_every_sample_its_own():
    field = MLP((3, 5, 3))
    params = field.init(0, "float64")
    y = np.random.default_rng(0).normal(size=(4, 3))
    t = np.linspace(0, 1, 4)[:, None]
    rows = [field(t[i, 0], y[i], params) for i in range(4)]
    np.testing.assert_allclose(field(t, y, params), np.stack(rows), rtol=1e-14)


def test_without_time_the_field_is_autonomous():
    field = MLP((2, 4, 2), time="none")
    params = field.init(1)
    y = np.ones((1, 2), "float32")
    assert "time" not in params["0"]
    np.testing.assert_array_equal(field(0.0, y, params), field(9.0, y, params))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_frameworks_agree(name):
    import jax.numpy as jnp
    import torch

    field = MLP((3, 8, 3), activation=name)
    params = field.init(3)
    y = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    expected = field(0.25, y, params)
    in_torch = field(0.25, torch.tensor(y), map_leaves(torch.tensor, params))
    in_jax = field(0.25, jnp.asarray(y), map_leaves(jnp.asarray, params))
    assert expected.dtype == np.float32
    np.testing.assert_allclose(in_torch.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.asarray(in_jax), expected, rtol=1e-5, atol=1e-6)


def test_initial_values_stay_within_the_bound_of_their_layer():
    params = flatten(MLP((8, 99, 8)).init(0))
    for name, value in params.items():
        fan_in = (8 if name.startswith("0") else 99) + 1
        assert np.abs(value).max() <= fan_in**-0.5
        assert value.dtype == np.float32


def test_another_layer_does_not_change_the_ones_before():
    short, long = MLP((4, 4)).init(0), MLP((4, 4, 4)).init(0)
    np.testing.assert_array_equal(short["0"]["weight"], long["0"]["weight"])


def test_scopes_are_different_networks():
    field = MLP((4, 4))
    a, b = field.init(0, scope="field"), field.init(0, scope="head")
    assert (a["0"]["weight"] != b["0"]["weight"]).all()


def test_equal_descriptions_are_one_key():
    assert hash(MLP((2, 3, 2))) == hash(MLP([2, 3, 2]))
    assert MLP((2, 3, 2)) == MLP([2, 3, 2])


@pytest.mark.parametrize(
    "arguments",
    [
        {"widths": (3,)},
        {"widths": (3, 0)},
        {"widths": (3, 3), "activation": "tan"},
        {"widths": (3, 3), "output_activation": "softmax"},
        {"widths": (3, 3), "time": "appended"},
    ],
)
def test_a_description_that_means_nothing_is_refused(arguments):
    with pytest.raises(ValueError, match=r"expected .* received"):
        MLP(**arguments)
