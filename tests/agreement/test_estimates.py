"""The solver's own estimates of random fields, and a random end, in one total on every backend."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ndereg
from ndereg.structure import flatten
from ndereg.testing.strategies import fields

from .conftest import Bench, close


@pytest.mark.parametrize(
    ("name", "examples"),
    [
        ("torch", 8),
        pytest.param("numba", 2, marks=pytest.mark.slow),
        pytest.param("jax", 2, marks=pytest.mark.slow),
    ],
)
def test_random_fields(name: str, examples: int, reference: Bench) -> None:
    """Every regularizer of the solver's own estimates, and a random end, in one total.

    The steps are long, the last one (1.6) too: the estimates of short ones may be rounding, which
    no two backends share.
    """

    @settings(max_examples=examples, deadline=None, derandomize=True)
    @given(
        data=st.data(),
        batch=st.sampled_from(["joint", "independent"]),
        step=st.sampled_from(["own", "first"]),
    )
    def agrees(data: st.DataObject, batch: str, step: str) -> None:
        drawn = data.draw(fields(batch=batch))  # type: ignore[arg-type]
        random = np.random.default_rng(5)
        y0, args = drawn.state.values(random), drawn.values(random)
        error = ndereg.ErrorEstimate()
        local = ndereg.Local(error, "unbiased", through_state=True, step=step)  # type: ignore[arg-type]
        stiffness = 0.3 * ndereg.StiffnessEstimate(reduce="max")
        options: dict[str, Any] = {
            "method": "dopri5", "key": 5, "rtol": 1e-6, "atol": 1e-6, "batch": batch,
            "controller": ndereg.ConstantStep(2.1),
            "regularizer": error + stiffness + local + ndereg.Steer(0.3),
        }  # fmt: skip
        leaves, structure = flatten(y0)
        zeros = structure.unflatten([np.zeros_like(leaf) for leaf in leaves])
        bar = np.ones(len(leaves[0])) if batch == "independent" else 1.0
        found = []
        for bench in (reference, Bench(name)):
            sol, *gradients = bench.gradient(
                drawn.function,
                (0.0, 6.0),
                y0,
                args,
                zeros,
                bar,
                **options,
            )
            found.append([bench.get(sol.penalty), *gradients])
        assert np.all(found[0][0] > 0)
        double = drawn.state.dtypes[0] in ("float64", "complex128")
        close(found[1], found[0], 1e-10 if double else 2e-2)

    with jax.enable_x64(True) if name == "jax" else nullcontext():
        agrees()
