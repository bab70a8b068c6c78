"""Samples that are solved several at once take the steps that each would take alone."""

from __future__ import annotations

from typing import Any

import numpy as np

import ndereg
from ndereg import Status, ops
from ndereg.backends.numba import module, packed

from .conftest import Bench


def growth(t: Any, y: Any, args: Any) -> Any:
    """Predators and prey in a year with seasons; samples along the leading axis."""
    x, p = y[..., 0:1], y[..., 1:2]
    rate = args[..., 0:1] * (1.0 + 0.3 * ops.sin(2.0 * t))
    return ops.concat([rate * x - x * p, ops.tanh(x) * p - args[..., 1:2] * p], axis=-1)


def ensemble(samples: int, dtype: str = "float64") -> tuple[Any, Any]:
    rng = np.random.default_rng(5)
    y0 = rng.uniform(0.5, 1.5, size=(samples, 2)).astype(dtype)
    return y0, rng.uniform(0.5, 2.5, size=(samples, 2)).astype(dtype)


def packed_modules() -> set[str]:
    return {name for name, found in module._loaded.items() if hasattr(found, "solve_packed")}


def test_samples_in_lanes(reference: Bench) -> None:
    """Two chunks with more samples than lanes, of which some fail, forwards and backwards."""
    before = packed_modules()
    bench = Bench("numba")
    regularizer = ndereg.ErrorEstimate(squared=True, reduce="mean") + 0.5 * (
        ndereg.StiffnessEstimate(reduce="max")
    )
    options: dict[str, Any] = {
        "method": "dopri5", "rtol": 1e-6, "atol": 1e-8, "batch": "independent",
        "regularizer": regularizer, "throw": False, "max_steps": 41,
    }  # fmt: skip
    y0, args = ensemble(5 * packed.LANES + 3)
    y0[11, 1] = np.nan
    args[-1] = 0.0
    for span, first_step in (((0.0, 6.0), None), ((4.0, 0.5), 1.5)):
        options["first_step"] = first_step
        expected = reference.solve(growth, span, y0, args, **options)
        found = bench.solve(growth, span, y0, args, **options)
        for name in ("nfev", "nsteps", "naccept", "nreject"):
            np.testing.assert_array_equal(
                getattr(found.stats, name), getattr(expected.stats, name), name
            )
        np.testing.assert_array_equal(found.status, expected.status)
        assert len({*expected.stats.nsteps.tolist()}) > packed.LANES
        np.testing.assert_allclose(found.ys, expected.ys, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.penalty, expected.penalty, rtol=1e-6, atol=1e-12)
        assert found.status[11] == Status.NON_FINITE
    assert expected.stats.nreject.max() > 0
    assert {Status.SUCCESS, Status.MAX_STEPS} < {*found.status.tolist(), *expected.status.tolist()}
    still = bench.solve(growth, (1.0, 1.0), y0, args, **options)
    np.testing.assert_array_equal(still.ys, y0)
    assert len(packed_modules() - before) == 1


def test_constant_steps_in_lanes(reference: Bench) -> None:
    """In single precision; a sample's result does not depend on those beside it."""
    options: dict[str, Any] = {
        "method": "ralston2", "controller": ndereg.ConstantStep(0.11), "batch": "independent",
    }  # fmt: skip
    y0, args = ensemble(3 * packed.LANES + 1, "float32")
    expected = reference.solve(growth, (0.0, 2.0), y0, args, **options)
    found = Bench("numba").solve(growth, (0.0, 2.0), y0, args, **options)
    assert found.ys.dtype == np.float32
    np.testing.assert_array_equal(found.stats.nfev, expected.stats.nfev)
    np.testing.assert_allclose(found.ys, expected.ys, rtol=1e-5)
    last = slice(-packed.LANES, None)
    alone = Bench("numba").solve(growth, (0.0, 2.0), y0[last], args[last], **options)
    np.testing.assert_array_equal(alone.ys, found.ys[last])
