"""Backends by name, built in, registered and from entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest

import ndereg
from ndereg.backends import registry
from ndereg.backends.reference import ReferenceBackend
from ndereg.solve import Face


class Plain(ReferenceBackend):
    """A third-party backend."""

    name = "plain"


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no registration behind."""
    monkeypatch.setattr(registry, "_factories", {})
    registry.load_backend.cache_clear()


def test_a_registered_backend_solves() -> None:
    ndereg.register_backend("plain", Plain)
    assert "plain" in registry.backend_names()
    face = Face(registry.load_backend("plain"))
    sol = face.solve(lambda t, y, args: -y, (0.0, 1.0), np.ones(2), rtol=1e-9)
    np.testing.assert_allclose(sol.ys, np.exp(-1.0), rtol=1e-8)
    with pytest.raises(ValueError, match="registered already"):
        ndereg.register_backend("plain", Plain)


def test_an_entry_point_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("elsewhere", "ndereg.backends.reference:ReferenceBackend", "ndereg.backends")

    def entry_points(group: str) -> Any:
        return [point] if group == "ndereg.backends" else []

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert registry.load_backend("elsewhere").name == "reference"


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"unknown backend 'tensorflow'.*numba"):
        registry.load_backend("tensorflow")


def test_compile_is_cached() -> None:
    spec = ndereg.Spec(ndereg.lookup("tsit5"))
    assert ndereg.compile(spec, "reference") is ndereg.compile(spec, "reference")
    with pytest.raises(ValueError, match="embedded error estimate"):
        ndereg.compile(ndereg.Spec(ndereg.lookup("rk4")), "reference")
