"""The random end of the time span."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats
import torch

import ndereg
from ndereg.backends.draws import uniform
from ndereg.backends.registry import load_backend
from ndereg.backends.steering import steered

from .conftest import Bench, close

SPAN = (0.5, 2.0)
STEER = ndereg.Steer(0.5)
Y0 = np.array([[1.0, 2.0], [0.5, -1.0]])
OPTIONS: dict[str, Any] = {"method": "bosh3", "rtol": 1e-6, "atol": 1e-6, "regularizer": STEER}


def decay(t: Any, y: Any, args: Any) -> Any:
    return -args * y


def drawn(key: int, t_eval: Any = None, span: Any = SPAN, b: float = 0.5) -> tuple[Any, Any]:
    times = None if t_eval is None else np.asarray(t_eval, float)
    return steered(load_backend("reference"), ndereg.Steer(b), *span, times, key)


def test_ends_are_uniform() -> None:
    ends = [drawn(key)[0] for key in range(500)]
    assert scipy.stats.kstest(ends, "uniform", (1.5, 1.0)).pvalue > 1e-3
    assert 1.5 < min(ends) < 1.51 and 2.49 < max(ends) < 2.5
    assert drawn(7)[0] == drawn(7)[0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_output_times_are_uniform_between_their_neighbours(sign: float) -> None:
    """Published for equal distances: ``U(t - d/2, t + d/2)``; otherwise the order is kept."""
    equal = np.array([0.0, 1.0, 2.0, 3.0]) * sign
    found = [drawn(key, equal, (0.0, 3.0 * sign), 2.0) for key in range(500)]
    for index in (1, 2, 3):
        shift = [sign * (times[index] - equal[index]) for _, times in found]
        assert scipy.stats.kstest(shift, "uniform", (-0.5, 1.0)).pvalue > 1e-3
    assert all(times[0] == 0.0 and end == times[-1] for end, times in found)
    uneven = np.array([0.1, 0.2, 1.9, 2.0, 2.8]) * sign
    for key in range(200):
        end, times = drawn(key, uneven, (0.0, 3.0 * sign), 2.0)
        assert end == 3.0 * sign and np.all(np.diff([0.0, *times, end]) * sign >= 0)
    twice = np.array([2.0, 3.0, 3.0]) * sign
    for key in range(50):
        end, times = drawn(key, twice, (0.0, 3.0 * sign), 2.0)
        assert np.all(np.diff(times) * sign >= 0) and end == times[-1]
    narrow = [drawn(key, equal, (0.0, 3.0 * sign), 0.1)[1] for key in range(200)]
    assert 0.09 < np.max(np.abs(narrow - equal)) <= 0.1


def test_samples_of_their_own_times_share_the_end() -> None:
    times = np.array([[0.5, 2.0], [1.0, 1.8]])
    for key in range(20):
        end, moved = drawn(key, times)
        assert end == max(2.0, moved[0, 1]) and moved[0, 0] == 0.5
        assert np.all(moved <= end) and moved[1, 0] != 1.0


def test_every_backend_draws_the_same_end(bench: Bench, reference: Bench) -> None:
    args = np.array(0.7)
    for times in (None, [0.5, 1.0, 2.0]):
        found, expected = (
            one.solve(decay, SPAN, Y0, args, t_eval=times, key=11, **OPTIONS)
            for one in (bench, reference)
        )
        close(bench.get(found.ts), np.asarray(expected.ts), 1e-15)
        close(bench.get(found.ys), expected.ys, 1e-10)
        ts = np.reshape(expected.ts, (-1, 1, 1))
        close(expected.ys, (Y0 * np.exp(-0.7 * (ts - 0.5))).reshape(expected.ys.shape), 1e-5)
        assert found.penalty == 0.0


def test_it_adds_to_the_others(reference: Bench) -> None:
    """Integrals, local steps and sums over the steps go to the end that was drawn."""
    args = np.array(0.7)
    end = drawn(4)[0]
    others = ndereg.Kinetic() + ndereg.ErrorEstimate() + ndereg.Local(ndereg.ErrorEstimate())
    options = {**OPTIONS, "key": 4, "regularizer": 3.0 * STEER + others + STEER}
    sol = reference.solve(decay, SPAN, Y0, args, **options)
    same = reference.solve(decay, (0.5, end), Y0, args, **{**options, "regularizer": others})
    assert sol.ts == end and sol.penalty == same.penalty and sol.stats == same.stats


def test_keys_of_the_frameworks() -> None:
    face = Bench("torch").face
    y0, args = torch.tensor(Y0), torch.tensor(0.7)
    ends = [
        float(face.solve(decay, SPAN, y0, args, key=torch.Generator().manual_seed(3), **OPTIONS).ts)
        for _ in range(2)
    ]
    assert ends[0] == ends[1] and 1.5 < ends[0] < 2.5
    t1 = torch.tensor(2.0, requires_grad=True)
    sol = face.solve(decay, (0.5, t1), y0, args, key=3, **OPTIONS)
    sol.ys.sum().backward()
    close(t1.grad.numpy(), -0.7 * sol.ys.sum().detach().numpy(), 1e-5)
    backend = load_backend("jax")
    key = jax.random.key(5)
    one, other = (uniform(backend, key, 3, f"ndereg.{name}") for name in ("Local", "Steer"))
    assert not np.any(np.asarray(one) == np.asarray(other))

    def end_of(key: Any) -> Any:
        end, times = steered(backend, STEER, 0.5, 2.0, np.array([1.0, 2.0]), key)
        return end, times

    for first, second in zip(jax.jit(end_of)(key), end_of(key), strict=True):
        close(np.asarray(first), np.asarray(second), 1e-6)
    with pytest.raises(ValueError, match=r"t_eval that are known where ndereg\.Steer"):
        jax.jit(lambda t: steered(backend, STEER, 0.5, 2.0, t, key))(np.array([1.0, 2.0]))


def test_refusals(reference: Bench) -> None:
    with pytest.raises(ValueError, match=r"expected b > 0, received -0\.5"):
        ndereg.Steer(-0.5)
    with pytest.raises(TypeError, match="expected a float for b"):
        ndereg.Steer("0.5")  # type: ignore[arg-type]
    args = np.array(0.7)
    with pytest.raises(ValueError, match=r"less than the span, 0\.5, received 0\.5"):
        reference.solve(decay, (0.0, 0.5), Y0, args, key=0, **OPTIONS)
    with pytest.raises(ValueError, match=r"random choice of ndereg\.Steer, received key=None"):
        reference.solve(decay, SPAN, Y0, args, **OPTIONS)
    with pytest.raises(ValueError, match=r"one ndereg\.Steer in a regularizer"):
        reference.solve(decay, SPAN, Y0, args, key=0, regularizer=STEER + ndereg.Steer(0.1))
