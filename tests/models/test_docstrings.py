"""The examples in the docstrings run."""

import doctest
from importlib import import_module

import pytest

MODULES = [
    *("activations", "convolutional", "dense", "differentiation", "layer", "losses", "mlp"),
    *("model", "neural_ode", "neural_sde", "numpy", "parameters", "recurrent", "sklearn", "torch"),
    *("equinox", "nnx"),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(import_module(f"ndereg.models.{name}"))
    assert found.attempted and not found.failed
