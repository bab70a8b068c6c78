"""Normal numbers from a counter: known answers, the exact quantile, the law."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from scipy import stats

from ndereg.backends.brownian import Entries
from ndereg.backends.host.floats import FloatMachine
from ndereg.backends.interpreter import Runner
from ndereg.backends.registry import load_backend
from ndereg.plan.brownian import grid
from ndereg.plan.normal import normal_program, threefry


@pytest.mark.parametrize(
    ("key", "counter", "answer"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
@pytest.mark.parametrize("dtype", ["uint32", "int32"])
def test_known_answers_of_threefry(key, counter, answer, dtype):
    """Those of the authors' Random123, for twenty rounds; in signed words too."""
    words = [np.array([word], np.uint32).view(dtype) for word in (*key, *counter)]
    found = threefry((words[0], words[1]), (words[2], words[3]))
    assert tuple(int(word.view(np.uint32)[0]) for word in found) == answer


def test_the_quantile_is_exact_to_rounding():
    rng = np.random.default_rng(0)
    spread = rng.integers(0, 2**52, 3000) >> rng.integers(0, 52, 3000)
    tails = np.concatenate([spread, [0, 1, 2**52 - 1, 2**51]])
    run, machine, normal = Runner(normal_program()), FloatMachine(), statistics.NormalDist()
    for tail in map(int, tails):
        bits = {"high": float(tail >> 21), "low": float(tail & (2**21 - 1))}
        expected = -normal.inv_cdf((tail + 0.5) * 2.0**-53)
        for negative, sign in ((0.0, 1.0), (1.0, -1.0)):
            found = run(machine, {"negative": negative, **bits})["normal"]
            assert abs(found - sign * expected) <= 1e-15 * abs(expected) + 1e-30


def test_the_law_of_steps_of_a_fixed_mesh():
    """100,000 numbers of one key: each is normal, and no two of them are related."""
    source = load_backend("numba").brownian("WHK", (3, 5), grid(0.0, 1.0, 0.5), "float64")
    steps, h = np.arange(1000).reshape(-1, 1), 0.25
    found = source.direct(steps, np.full((1000, 1), -h), Entries(1000, 100))
    numbers = [
        part / np.sqrt(h * variance)
        for part, variance in zip(found, (1, 1 / 12, 1 / 720), strict=True)
    ]
    for part in numbers:
        assert stats.kstest(part.ravel(), "norm").pvalue > 1e-3
        assert stats.kstest(np.square(part.ravel()), "chi2", (1,)).pvalue > 1e-3
        for axis in (0, 1):  # neighbouring steps, neighbouring entries
            shifted = np.mean(part * np.roll(part, 1, axis))
            assert abs(shifted) < 4 / np.sqrt(part.size)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.mean(numbers[a] * numbers[b])) < 4 / np.sqrt(numbers[a].size)
        assert abs(np.mean(numbers[a] ** 2 * numbers[b] ** 2) - 1) < 12 / np.sqrt(1e5)
