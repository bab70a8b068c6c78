"""What changes between two calls is noticed, or has no effect."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import ndereg
import ndereg.jax as nde_jax
import ndereg.numpy as nde
import ndereg.torch as nde_torch
from ndereg.backends.numba import threads
from ndereg.backends.registry import load_backend
from ndereg.solve import Face

SPAN = (0.0, 1.0)
OPTIONS = {"method": "heun_euler", "rtol": 1e-3, "atol": 1e-3}
settings = types.ModuleType("settings")
settings.rate = 1.0


class Settings:
    rate = 1.0


def scaled(t, y, args):
    return scaled.rate * y


def configured(t, y, args):
    return settings.rate * y


def classed(t, y, args):
    return Settings.rate * y


@pytest.mark.parametrize(
    ("field", "owner"), [(scaled, scaled), (configured, settings), (classed, Settings)]
)
def test_attributes_that_a_field_reads(field, owner):
    for face, y0 in ((nde, np.ones(2)), (nde_jax, jnp.ones(2))):
        found = []
        for rate in (1.0, 2.0, 1.0):
            owner.rate = rate
            found.append(np.asarray(face.solve(field, SPAN, y0, **OPTIONS).ys)[0])
        assert found[0] == found[2]
        np.testing.assert_allclose(found[:2], np.exp([1.0, 2.0]), rtol=1e-2)


def capturing(rate):
    def field(t, y, args):
        return rate * y

    def rebind(value):
        nonlocal rate
        rate = value

    return field, rebind


def inner(y):
    return y


def nested(t, y, args):
    return inner(y)


def defaulting(t, y, args, rate=1.0):
    return rate * y


def keyword(t, y, args, *, rate=1.0):
    return rate * y


def listing(t, y, args):
    return RATES[0] * y


RATES = [1.0]


def rebindings():
    """Fields that compute ``rate * y`` and, by name, how their rate is changed."""
    closed, rebind = capturing(1.0)
    wrapped, rebind_wrapped = capturing(1.0)
    rate_of = {
        "closure": (closed, rebind),
        "closure of a Field": (ndereg.Field(wrapped), rebind_wrapped),
        "code": (
            lambda t, y, args: y,
            None,
        ),
    }
    rate_of["default"] = (defaulting, lambda rate: setattr(defaulting, "__defaults__", (rate,)))
    rate_of["keyword"] = (keyword, lambda rate: keyword.__kwdefaults__.update(rate=rate))
    rate_of["list"] = (listing, lambda rate: RATES.__setitem__(0, rate))
    rate_of["function"] = (nested, lambda rate: globals().update(inner=lambda y: rate * y))
    coded = rate_of["code"][0]
    codes = {1.0: coded.__code__, 2.0: (lambda t, y, args: 2.0 * y).__code__}
    rate_of["code"] = (coded, lambda rate: setattr(coded, "__code__", codes[rate]))
    return rate_of


@pytest.mark.parametrize("name", sorted(rebindings()))
def test_what_a_field_reads_is_bound_anew(name):
    """Also where a field is recognized by the objects that its names mean."""
    field, rebind = rebindings()[name]
    found = []
    for rate in (1.0, 1.0, 2.0, 2.0, 1.0):
        rebind(rate)
        found += [nde.solve(field, SPAN, np.ones(1), **OPTIONS).ys[0] for _ in range(2)]
    np.testing.assert_allclose(found, np.exp(np.repeat([1, 1, 2, 2, 1], 2)), rtol=1e-2)


def test_zeros_of_either_sign():
    def solve(value):
        return nde.solve(lambda t, y, a: np.copysign(1.0, value) + 0.0 * y, SPAN, np.zeros(1),
                         **OPTIONS).ys[0]  # fmt: skip

    assert solve(0.0) == pytest.approx(1.0)
    assert solve(-0.0) == pytest.approx(-1.0)


def test_an_array_read_as_a_number_in_jax():
    rates = np.ones(2)

    def field(t, y, args):
        return jnp.float32(rates.sum() / 2) * y

    first = nde_jax.solve(field, SPAN, jnp.ones(1), **OPTIONS).ys
    rates *= 2.0
    second = nde_jax.solve(field, SPAN, jnp.ones(1), **OPTIONS).ys
    np.testing.assert_allclose([first[0], second[0]], np.exp([1.0, 2.0]), rtol=1e-2)


def linear(t, y, args):
    return y * args


@pytest.mark.parametrize("name", ["reference", "numba"])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch": "independent"}, {"adjoint": "backsolve"}],
    ids=["joint", "independent", "backsolve"],
)
def test_arrays_overwritten_before_the_pullback(name, options):
    def gradient(overwrite):
        y0, args = np.full((2, 1), 0.5), np.array(-0.7)
        face = Face(load_backend(name))
        sol, pullback = face.solve_vjp(linear, SPAN, y0, args, **OPTIONS, **options)
        if overwrite:
            y0[...], args[...], sol.ys[...] = 7.0, 3.0, -4.0
        return pullback(np.ones((2, 1)))

    for left, right in zip(gradient(False), gradient(True), strict=True):
        assert np.array_equal(left, right)


@pytest.mark.parametrize("adjoint", ["discrete", "backsolve"])
def test_parameters_changed_in_place_before_backward_in_torch(adjoint):
    layer = torch.nn.Linear(2, 2)
    args = torch.tensor(-1.0, requires_grad=True)
    y0 = torch.ones(2, requires_grad=True)
    sol = nde_torch.solve(lambda t, y, a: layer(y) * a, SPAN, y0, args, adjoint=adjoint, **OPTIONS)
    sol.ys.sum().backward(retain_graph=True)
    with torch.no_grad():
        layer.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="expected args and parameters of the field as they"):
        sol.ys.sum().backward()


def test_gradients_of_threads_are_reproducible():
    rng = np.random.default_rng(0)
    y0, rate = rng.normal(size=(500, 1)), np.array(-0.7)
    _, pullback = nde.solve_vjp(linear, SPAN, y0, rate, batch="independent", **OPTIONS)
    bar = rng.normal(size=y0.shape)
    first = pullback(bar)[1]
    assert all(np.array_equal(pullback(bar)[1], first) for _ in range(10))


def test_threads_without_affinity(monkeypatch):
    monkeypatch.delattr(threads.os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("NDEREG_NUM_THREADS", raising=False)
    count = threads.thread_count.__wrapped__
    assert count() >= 1
    monkeypatch.setenv("NDEREG_NUM_THREADS", "3")
    assert count() == 3
    monkeypatch.setenv("NDEREG_NUM_THREADS", "two")
    with pytest.raises(ValueError, match="expected a positive integer in NDEREG_NUM_THREADS"):
        count()


def test_jax_traces_are_kept_where_nothing_changed():
    traced = []

    def field(t, y, args):
        traced.append(1)
        return settings.rate * y

    for _ in range(3):
        jax.block_until_ready(nde_jax.solve(field, SPAN, jnp.ones(3), **OPTIONS).ys)
    assert len(traced) <= 2
