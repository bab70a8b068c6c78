"""The law of a Brownian path, exactly: its weights are known, and so is every covariance."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

import ndereg.plan.brownian as plan_brownian
from ndereg.backends.brownian import Entries, host_interval, weigh
from ndereg.backends.reference.brownian import NumpyPathArrays
from ndereg.backends.registry import load_backend
from ndereg.plan.brownian import WAVELETS, brownian_plan, grid

KERNELS = {
    "W": lambda y: np.ones_like(y),
    "H": lambda y: -y,
    "K": lambda y: y * y / 2 - 1 / 24,
}
"""What the noise over an interval is integrated against, ``y`` from -1/2 to 1/2."""
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(4)


def exact_covariance(intervals, areas):
    """Of W, H, K over all pairs of intervals, by an exact quadrature of their overlaps."""
    names = [(s, t, area) for s, t in intervals for area in areas]
    found = np.zeros((len(names), len(names)))
    for i, (s, t, a) in enumerate(names):
        for j, (u, v, b) in enumerate(names):
            lower, upper = max(s, u), min(t, v)
            if lower < upper:
                r = (lower + upper) / 2 + (upper - lower) / 2 * NODES
                values = KERNELS[a]((r - (s + t) / 2) / (t - s)) * KERNELS[b](
                    (r - (u + v) / 2) / (v - u)
                )
                found[i, j] = (upper - lower) / 2 * np.sum(NODE_WEIGHTS * values)
    return found


def covariance(intervals, areas, cells, plan=None):
    """Of the same, as products of the weights of the numbers they share."""
    plan = plan or brownian_plan(areas)
    s, t = np.array(intervals).T
    nodes, weights, _ = weigh(plan, cells.depth, host_interval(cells, s, t), NumpyPathArrays())
    keys = nodes[0].astype(np.int64)[..., 0] << 32 | nodes[1][..., 0]
    known = {key: index for index, key in enumerate(np.unique(keys))}
    columns = np.vectorize(known.get)(keys)
    rows = np.zeros((len(intervals), len(areas), len(known), len(areas)))
    for place, number in np.ndindex(weights.shape[:2]):
        for index in range(len(intervals)):
            weight = weights[place, number, :, index, 0]
            np.add.at(rows[index, place, :, number], columns[:, index], weight)
    rows = rows.reshape(len(intervals) * len(areas), -1)
    return rows @ rows.T


def random_intervals(rng, tolerance):
    """25, whose ends are equal or at least the tolerance apart; short and long ones."""
    cells = np.arange(round(0.5 / tolerance))
    picked = cells[np.sort(rng.permutation(len(cells) - 1)[:5])]
    picked = np.union1d(picked, picked + 1)
    inner = tolerance * (2 * picked + rng.uniform(size=len(picked)))
    times = [0.0, *map(float, inner), 1.0]
    pairs = [(a, b) for i, a in enumerate(times) for b in times[i + 1 :]]
    return [pairs[i] for i in rng.permutation(len(pairs))[:25]]


def deviation(areas, cells, intervals, plan=None, origin=0.0):
    """Largest error of a covariance, in standard deviations; differences from ``origin`` exact."""
    expected = exact_covariance([(s - origin, t - origin) for s, t in intervals], areas)
    scale = np.sqrt(np.diag(expected))
    found = covariance(intervals, areas, cells, plan)
    return np.abs((found - expected) / np.outer(scale, scale)).max()


@pytest.mark.parametrize("areas", ["W", "WH", "WHK"])
@pytest.mark.parametrize("depth", [0, 1, 6, 13])
def test_all_covariances_are_exact(areas, depth):
    """W, H and K over any intervals are jointly what they are for a Brownian motion.

    They are Gaussian, so means and covariances given others are exact with them.
    """
    tolerance = 2.0**-depth
    cells = grid(0.0, 1.0, tolerance)
    assert cells.depth == depth
    intervals = [(0.0, 1.0), (0.3, 1.0), (0.0, 0.3)]
    if depth > 1:
        intervals += random_intervals(np.random.default_rng(depth), tolerance)
    # what rounding the ends of the shortest interval makes of its length
    assert deviation(areas, cells, intervals) < 1e-13 + 1e-15 / tolerance


def test_short_intervals_far_from_the_start_lose_no_digits():
    cells = grid(0.0, 1.0, 2.0**-40)
    h = 2.0**-38
    for start in (0.75, 0.7123, 1 - 3 * h):
        times = start + h * np.arange(4)  # rounded, and so are the lengths
        intervals = [(float(a), float(b)) for a, b in pairwise(times)]
        assert deviation("WHK", cells, intervals, origin=start) < 1e-13


@pytest.mark.parametrize("where", ["variance", "left", "right"])
@pytest.mark.parametrize("number", range(3))
def test_a_wrong_coefficient_is_found(where, number, monkeypatch):
    wavelets = list(WAVELETS["WHK"])
    wrong = wavelets[number]
    value = getattr(wrong, where)
    if where == "variance":
        value = value * Fraction(101, 100)
    else:
        value = tuple(-entry for entry in value)
    wavelets[number] = replace(wrong, **{where: value})
    monkeypatch.setitem(plan_brownian.WAVELETS, "WHK", tuple(wavelets))
    broken = brownian_plan.__wrapped__("WHK")
    cells = grid(0.0, 1.0, 2.0**-5)
    intervals = random_intervals(np.random.default_rng(1), 2.0**-5)
    assert deviation("WHK", cells, intervals) < 1e-12
    assert deviation("WHK", cells, intervals, broken) > 1e-3


def test_a_path_that_is_refined_stays_what_it_was():
    """A finer tolerance adds cells and leaves the others; times on the coarse grid do not move."""
    times = np.arange(17) / 16
    paths = [
        load_backend("reference").brownian("WHK", (1, 2), grid(0.0, 1.0, tolerance), "float64")
        for tolerance in (2.0**-4, 2.0**-20)
    ]
    coarse, fine = (p.increment(times[:-1], times[1:], Entries(1, 3, True)) for p in paths)
    for a, b in zip(coarse, fine, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-15)


def test_neighbouring_intervals_add_up():
    """Chen's relation: raw moments of the noise about one point add."""
    cells = grid(0.0, 8.0, 2.0**-20)
    source = load_backend("reference").brownian("WHK", (1, 2), cells, "float64")
    rng = np.random.default_rng(3)
    s, m, t = np.sort(rng.uniform(0, 8, (3, 200)), axis=0)
    s[:100], t[:100] = m[:100] - rng.uniform(0, 1e-4, 100), m[:100] + rng.uniform(0, 1e-4, 100)
    # differences of such times are not rounded
    s, m, t = (np.round(times * 2.0**40) * 2.0**-40 for times in (s, m, t))

    def moments(a, b):
        w, h, k = source.increment(a, b, Entries(1, 2, True))
        length, offset = (b - a)[:, None], ((a + b - s - t) / 2)[:, None]
        first = -length * h + offset * w
        second = length**2 * (k + w / 24) - offset * length * h + offset**2 / 2 * w
        return w, first, second

    for power, parts in enumerate(zip(moments(s, m), moments(m, t), moments(s, t), strict=True)):
        scale = ((t - s) ** (power + 0.5))[:, None]
        assert np.abs((parts[0] + parts[1] - parts[2]) / scale).max() < 1e-13


def test_the_law_of_many_paths():
    """100,000 paths of one key: normal, and independent over neighbouring intervals."""
    cells, entries = grid(0.0, 2.0, 2.0**-8), Entries(1, 100_000, True)
    source = load_backend("numba").brownian("WHK", (0, 11), cells, "float64")
    numbers = []
    for s, t in ((0.3, 0.9), (0.9, 0.9 + 2.0**-7)):
        found = source.increment(s, t, entries)
        for part, variance in zip(found, (1, 1 / 12, 1 / 720), strict=True):
            numbers.append(part[0] / np.sqrt((t - s) * variance))
            assert stats.kstest(numbers[-1], "norm").pvalue > 1e-3
    related = np.corrcoef(numbers) - np.eye(6)
    assert np.abs(related).max() < 4.5 / np.sqrt(100_000)


def test_backwards():
    source = load_backend("reference").brownian("WHK", (1, 2), grid(4.0, 1.0, 0.01), "float64")
    entries = Entries(1, 3, True)
    forth, back = source.increment(3.1, 1.7, entries), source.increment(1.7, 3.1, entries)
    for a, b, sign in zip(forth, back, (-1, 1, -1), strict=True):
        np.testing.assert_array_equal(a, sign * b)
    mirrored = load_backend("reference").brownian("WHK", (1, 2), grid(0.0, 3.0, 0.01), "float64")
    for a, b in zip(forth, mirrored.increment(4.0 - 3.1, 4.0 - 1.7, entries), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)


def test_no_time_and_outside():
    source = load_backend("reference").brownian("WHK", (1, 2), grid(1.0, 2.0, 0.01), "float64")
    entries = Entries(2, 1)
    for part in source.increment(1.3, 1.3, entries):
        np.testing.assert_array_equal(part, 0.0)
    for s, t in ((0.9, 1.5), (1.5, 2.1), (np.nan, 1.5), (1.5, np.inf)):
        for part in source.increment(s, t, entries):
            assert np.isnan(part).all()
    # the end as a clock may round it
    assert np.isfinite(source.increment(1.5, 2.0 + 4e-16, entries)[0]).all()
    assert np.isfinite(source.increment(1.0 - 2e-16, 1.5, entries)[0]).all()


@pytest.mark.parametrize(
    ("span", "tolerance", "message"),
    [
        ((0.0, 1.0), 0.0, "positive tolerance"),
        ((0.0, 1.0), float("nan"), "positive tolerance"),
        ((0.0, 1.0), 1e-17, "that float64 times between 0.0 and 1.0 resolve"),
        ((1e9, 1e9 + 1), 1e-8, "that float64 times"),
        ((1.0, 1.0), 0.1, "finite span"),
        ((0.0, float("inf")), 0.1, "finite span"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(span, tolerance, message):
    with pytest.raises(ValueError, match=message):
        grid(*span, tolerance)


def test_a_suggested_tolerance_is_accepted():
    grid(0.0, 1.0, 2.0**-50)
    grid(1e9, 1e9 + 1, 9.6e-7)


def test_too_many_entries_are_refused():
    with pytest.raises(ValueError, match=r"at most 2\^32 entries"):
        Entries(2**20, 2**13)
