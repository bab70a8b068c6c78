"""Random fields of PyTorch go to NumPy, to JAX and back, and stay the same."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "roundtrip.py"


@pytest.fixture(scope="module")
def script():
    """The benchmark, which runs the same on all backends and prints a table."""
    import sys

    spec = importlib.util.spec_from_file_location("roundtrip", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["roundtrip"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def check(row):
    assert row.exact, row
    assert len(set(row.nfev.values())) == 1, row
    assert row.ok, row


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_fifty_random_fields(script, part):
    """All of them solved by the reference; a jump to JAX's arrays for one kind each."""
    for seed in range(part * 10, part * 10 + 10):
        check(script.roundtrip(seed, ("reference",), in_jax=seed % 10 == part))


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "backend"), [(3, "numba"), (2, "jax")])
def test_compiled_backends(script, seed, backend):
    """All fifty on all backends are the script's, which takes half an hour of compiling."""
    check(script.roundtrip(seed, (backend,)))
