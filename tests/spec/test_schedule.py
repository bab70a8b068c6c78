"""Weights over training; one that follows the evaluations on a simulated training."""

import math

import jax
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ndereg import Constant, ExponentialDecay, InverseDecay, NFEBudget


def simulate(budget, counted, steps=6000, lag=60.0, seed=0):
    """Return weights and counts of a training whose evaluations follow the weight late.

    ``counted(weight)`` is where the count would settle. It gets there over ``lag`` steps, and comes
    as whole steps of Tsit5, scattered by one now and then.
    """
    random = np.random.default_rng(seed)
    weight, state = budget.start, math.log(counted(budget.start))
    weights, counts = [], []
    for _ in range(steps):
        state += (math.log(counted(weight)) - state) / lag
        attempts = round((math.exp(state) - 2) / 6) + int(random.random() < 0.1)
        counts.append(2 + 6 * attempts)
        weights.append(weight)
        weight = budget.update(weight, counts[-1])
    return np.array(weights), np.array(counts)


def falling(weight):
    """The sensitivity of the docstring, 0.2: from 120 evaluations at 0.01 to 30 at 10."""
    return 48 * weight**-0.2


@pytest.mark.parametrize("target", [32, 40, 65, 90])
@pytest.mark.parametrize("start", [0.05, 1.0, 20.0])
def test_the_count_settles_at_the_target(target, start):
    weights, counts = simulate(NFEBudget(target, start), falling)
    assert counts[-2000:].mean() == pytest.approx(target, rel=0.1)
    expected = (48 / target) ** 5  # where falling(weight) is the target
    assert 0.5 < np.median(weights[-2000:]) / expected < 2.0


def test_the_limit_of_the_gain_is_where_it_starts_to_oscillate():
    """``gain < 1 / (4 s tau)``: at the default there is no overshoot, at ten times it, there is."""

    def whole_steps(weight):
        return 2 + 6 * round((falling(weight) - 2) / 6)

    smooth, wild = (
        simulate(NFEBudget(40, 0.05, gain=gain), whole_steps, 3000) for gain in (0.02, 0.2)
    )
    reached = (48 / 40) ** 5
    assert smooth[0].max() < 2.5 * reached
    assert wild[0].max() > 4 * reached


def test_what_cannot_be_reached_drives_the_weight_to_its_bound():
    weights, _ = simulate(NFEBudget(20, largest=30.0), lambda _: 56.0, 2000)
    assert weights[-1] == 30.0
    weights, _ = simulate(NFEBudget(90, smallest=0.5), lambda _: 56.0, 2000)
    assert weights[-1] == 0.5


def test_one_update_is_the_law():
    budget = NFEBudget(40, gain=0.5)
    assert budget.update(2.0, 160) == pytest.approx(2.0 * math.sqrt(4.0), rel=1e-15)
    assert budget.update(2.0, 40) == 2.0
    assert budget.update(2.0, np.int64(10)) == pytest.approx(1.0, rel=1e-15)


def test_the_evaluations_of_independent_samples_are_no_number():
    nfev = np.array([14, 26])
    with pytest.raises(ValueError, match=r"one number as nfev, .* \(2,\).*sum\(nfev\) / len"):
        NFEBudget(40).update(1.0, nfev)
    assert NFEBudget(20).update(1.0, sum(nfev) / len(nfev)) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 0}, "target > 0"),
        ({"target": float("nan")}, "finite number for target"),
        ({"target": 40, "gain": -0.1}, "gain > 0"),
        ({"target": 40, "start": 0.0}, "start > 0"),
        ({"target": 40, "start": 1e9}, "smallest <= start <= largest"),
        ({"target": "40"}, "finite number for target"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NFEBudget(**options)


@pytest.mark.parametrize(
    "weight",
    [
        Constant(0.3),
        ExponentialDecay(100.0, 10.0, 3000),
        ExponentialDecay(0.1, 5.0, 30),
        InverseDecay(2.0, 0.1),
    ],
)
def test_a_step_may_be_traced(weight):
    traced = jax.jit(lambda step: weight(step) * 1.0)
    for step in (0, 1, 29, 1500, 3000, 9000):
        assert float(traced(step)) == pytest.approx(weight(step), rel=2e-6)
        assert float(weight(torch.tensor(step))) == pytest.approx(weight(step), rel=2e-6)


@given(start=st.floats(1e-3, 1e3), end=st.floats(1e-3, 1e3), steps=st.integers(1, 10_000))
def test_an_exponential_weight_is_that_of_the_paper(start, end, steps):
    weight = ExponentialDecay(start, end, steps)
    assert weight(0) == start and weight(steps) == end and weight(steps + 7) == end
    for step in (steps / 3, steps / 2):
        expected = start * math.exp(-math.log(start / end) / steps * step)
        assert weight(step) == pytest.approx(expected, rel=1e-12)
