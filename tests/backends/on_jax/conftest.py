"""Double precision, unless a test asks for JAX without its x64 mode."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _precision(request):
    with jax.enable_x64("single_precision" not in request.fixturenames):
        yield


@pytest.fixture
def single_precision():
    """Ask for JAX without its x64 mode."""
