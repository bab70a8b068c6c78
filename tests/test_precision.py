"""The precision of JAX, in the versions that are supported."""

import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import pytest

import ndereg
from ndereg.precision import x64


@pytest.mark.parametrize("wanted", [True, False])
def test_arrays_are_wide_where_asked_for(wanted):
    before = jnp.ones(1).dtype
    with x64(wanted):
        assert jnp.zeros(1).dtype == ("float64" if wanted else "float32")
    assert jnp.ones(1).dtype == before


def test_jax_before_0_8_has_it_elsewhere(monkeypatch):
    seen = []

    @contextmanager
    def enable_x64(wanted):
        seen.append(wanted)
        yield

    old, experimental = ModuleType("jax"), ModuleType("jax.experimental")
    old.experimental, experimental.enable_x64 = experimental, enable_x64
    monkeypatch.setitem(sys.modules, "jax", old)
    monkeypatch.setitem(sys.modules, "jax.experimental", experimental)
    with x64(True):
        assert seen == [True]


def test_nothing_else_asks_jax_itself():
    sources = Path(ndereg.__file__).parent.rglob("*.py")
    asking = [p.name for p in sources if "enable_x64(" in p.read_text(encoding="utf-8")]
    assert asking == [], asking
    assert hasattr(jax, "enable_x64")  # what the first test went through
