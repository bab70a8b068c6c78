"""A model is a field on every face, and its weights are arguments."""

import numpy as np
import pytest

import ndereg
import ndereg.jax
import ndereg.numpy
import ndereg.torch
from ndereg.models import MLP, Convolutional, Model, Sequential
from ndereg.models.parameters import flatten, map_leaves

LAYER = MLP((2, 4, 2))
Y0 = np.array([[1.0, -0.5], [0.3, 2.0], [0.0, 1.0]])


def model(seed, layer=LAYER):
    return Model.init(layer, seed, "float64")


@pytest.fixture
def traces(monkeypatch):
    """Count what Numba and JAX trace, and what Numba compiles."""
    from ndereg.backends.jax import backend as jax_backend
    from ndereg.backends.numba import backend, fields

    counts = {"numba": 0, "kernels": 0, "jax": 0}

    def counted(name, function):
        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(fields, "trace_field", counted("numba", fields.trace_field))
    monkeypatch.setattr(backend, "emitted_kernels", counted("kernels", backend.emitted_kernels))
    monkeypatch.setattr(jax_backend, "TracedField", counted("jax", jax_backend.TracedField))
    return counts


def test_faces_agree_and_new_weights_compile_nothing(traces):
    import jax
    import jax.numpy as jnp
    import torch

    layer = MLP((2, 5, 2), time="scaled_shifted")  # met by no other test
    for seed in (0, 1):
        # equal layers, built apart
        field = model(seed, MLP((2, 5, 2), time="scaled_shifted"))
        expected = ndereg.numpy.solve(field, (0.0, 1.0), Y0, field.params).ys
        short = ndereg.numpy.solve(field, (0.0, 1.0), Y0).ys
        np.testing.assert_array_equal(short, expected)
        in_torch = Model(layer, map_leaves(torch.tensor, field.params))
        sol = ndereg.torch.solve(in_torch, (0.0, 1.0), torch.tensor(Y0), in_torch.params)
        np.testing.assert_allclose(sol.ys.numpy(), expected, rtol=1e-12)
        with jax.enable_x64(True):
            in_jax = Model(layer, map_leaves(jnp.asarray, field.params))
            sol = ndereg.jax.solve(in_jax, (0.0, 1.0), jnp.asarray(Y0), in_jax.params)
            np.testing.assert_allclose(np.asarray(sol.ys), expected, rtol=1e-12)
    assert traces == {"numba": 1, "kernels": 1, "jax": 1}


def test_the_short_form_gives_gradients_by_the_weights():
    from ndereg.backends.registry import load_backend
    from ndereg.solve import Face

    reference, field = Face(load_backend("reference")), model(0)
    bars = []
    for args in (field.params, None):
        _, pullback = reference.solve_vjp(field, (0.0, 1.0), Y0, args)
        bars.append(pullback(Y0)[1])
    assert set(bars[1]["0"]) == {"weight", "bias", "time"}
    map_leaves(np.testing.assert_array_equal, *bars)


def test_a_model_is_called_with_its_own_weights_or_others():
    first, second = model(0), model(1)
    np.testing.assert_array_equal(first(0.5, Y0, second.params), second(0.5, Y0))
    assert (first(0.5, Y0) != second(0.5, Y0)).any()


@pytest.mark.parametrize(
    "params",
    [
        {},
        None,
        {"0": {"weight": np.zeros((2, 4))}},
        map_leaves(np.transpose, LAYER.init(0)),
        {**LAYER.init(0), "2": {"weight": np.zeros(2)}},
    ],
)
def test_weights_that_do_not_belong_to_the_layer_are_refused(params):
    with pytest.raises(ValueError, match=r"expected .* received"):
        Model(LAYER, params)


def test_a_model_needs_a_layer():
    with pytest.raises(ValueError, match="expected a Layer"):
        Model(np.tanh, {})


def test_a_convolutional_field_on_every_backend():
    """Compiled by Numba it is shifted slices and a product, in PyTorch a convolution of its own."""
    import torch

    from ndereg.backends.registry import load_backend
    from ndereg.solve import Face

    field = model(0, Convolutional((2, 2, 2), dimensions=1, groups=1, activation="silu"))
    y0 = np.random.default_rng(0).normal(size=(3, 2, 5))
    options = {"method": "heun", "controller": ndereg.ConstantStep(0.25)}
    found = []
    for face in (ndereg.numpy, Face(load_backend("reference"))):
        sol, pullback = face.solve_vjp(field, (0.0, 1.0), y0, field.params, **options)
        found.append((sol.ys, *flatten(pullback(np.cos(y0))[1]).values()))
    params = map_leaves(torch.tensor, field.params)
    sol, pullback = ndereg.torch.solve_vjp(field, (0.0, 1.0), torch.tensor(y0), params, **options)
    bars = flatten(pullback(torch.cos(torch.tensor(y0)))[1]).values()
    found.append((sol.ys.numpy(), *(bar.numpy() for bar in bars)))
    for arrays in found[1:]:
        for actual, expected in zip(arrays, found[0], strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (MLP((2, 4, 2), time="scaled_shifted"), (3, 2)),
        (Convolutional((2, 4, 2), dimensions=1, groups=2), (3, 2, 5)),
        (Sequential((Convolutional((2, 3)), Convolutional((3, 2), time="none"))), (3, 2, 5, 5)),
    ],
)
def test_samples_are_told_apart(layer, shape):
    """So that Numba solves an independent batch sample by sample, in threads."""
    from ndereg.backends.numba.fields import sample_graph
    from ndereg.backends.registry import load_backend
    from ndereg.edge.problem import prepare

    y0 = np.random.default_rng(0).normal(size=shape)
    problem = prepare(load_backend("numba"), model(0, layer), (0.0, 1.0), y0, batch="independent")
    assert "sample" in sample_graph(problem).input_names


def test_a_layer_is_known_by_what_it_describes():
    """The trace of a field is used again for equal layers, and for no others."""
    from ndereg.backends.jax.fingerprint import Fingerprint
    from ndereg.backends.numba.fingerprint import fingerprint
    from ndereg.models.program import Call, Program, Ref

    def program(name, *constants):
        return Program((), (Call(name, (Ref(1), *constants)),), Ref(2))

    pairs = [
        (MLP((2, 4, 2)), MLP((2, 4, 2)), MLP((2, 4, 2), "relu")),
        (Sequential((LAYER,)), Sequential((LAYER,)), Sequential((MLP((2, 4, 2), "relu"),))),
        (program("tanh"), program("tanh"), program("sin")),
        (program("add", 1), program("add", 1), program("add", 1.0)),
    ]
    for first, equal, other in pairs:
        for mark in (fingerprint, lambda layer: Fingerprint(layer).key):
            assert mark(first) is not None
            assert mark(first) == mark(equal) != mark(other)
    # one that the solver does not know may read anything
    assert fingerprint(Unknown((2, 4, 2))) is None


class Unknown(MLP):
    """A layer from outside the library."""
