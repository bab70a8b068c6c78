"""One key, one path: the same numbers on every backend."""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import ndereg
import ndereg.jax
from ndereg.backends.brownian import Entries
from ndereg.backends.draws import key_words
from ndereg.backends.jax import clock
from ndereg.backends.jax.brownian import JaxPathArrays
from ndereg.backends.registry import load_backend
from ndereg.backends.torch.brownian import TensorPath
from ndereg.plan.brownian import grid

BACKENDS = ("numba", "torch", "jax")
CELLS = grid(5.0, 2.0, 1e-5)
WORDS = (123, 456)
PAIRS = 10_000


def queries(count=PAIRS):
    """Random pairs in both orders, half of them close to each other."""
    rng = np.random.default_rng(0)
    s, t = rng.uniform(2, 5, (2, count))
    t[::2] = np.clip(s[::2] + 10 ** rng.uniform(-4.9, -1, t[::2].size), 2, 5)
    return s, t


def arrays(parts):
    return [None if part is None else np.asarray(part) for part in parts]


@pytest.fixture(scope="module")
def expected():
    s, t = queries()
    with jax.enable_x64(True):
        source = load_backend("reference").brownian("WHK", WORDS, CELLS, "float64")
        return source.increment(s, t, Entries(1, 2, True))


def check(found, expected, bound, lengths):
    for part, wanted, variance in zip(found, expected, (1, 1 / 12, 1 / 720), strict=True):
        assert part.shape == wanted.shape
        np.testing.assert_allclose(part, wanted, rtol=0, atol=bound)
        scaled = np.abs(part - wanted) / np.sqrt(lengths * variance)[:, None]
        assert scaled.max() < bound


@pytest.mark.parametrize("backend", BACKENDS)
def test_ten_thousand_pairs(backend, expected):
    s, t = queries()
    with jax.enable_x64(True):
        source = load_backend(backend).brownian("WHK", WORDS, CELLS, "float64")
        found = source.increment(s, t, Entries(1, 2, True))
        check(arrays(found), expected, 1e-12, np.abs(t - s))


def test_tensors_of_any_device(expected):
    """What runs on a GPU, on a CPU: times on the host, and times on the device."""
    some = 1000
    s, t = (times[:some] for times in queries())
    wanted = [part[:some] for part in expected]
    path = TensorPath("WHK", WORDS, CELLS, torch.device("cpu"))
    for times in ((s, t), (torch.tensor(s), torch.tensor(t))):
        check(arrays(path.increment(*times, Entries(1, 2, True))), wanted, 1e-12, np.abs(t - s))
    steps = np.arange(7).reshape(-1, 1)
    wanted = load_backend("reference").brownian("WHK", WORDS, CELLS, "float64")
    pairs = [source.direct(steps, steps * 0.1, Entries(7, 2)) for source in (wanted, path)]
    for a, b in zip(*map(arrays, pairs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=0)


def test_neighbouring_intervals_share_nodes():
    """The numbers are those of a path that is asked for the first time; a third of them is new."""
    entries, cells = Entries(1, 40), grid(0.0, 1.0, 2.0**-16)
    ends = np.linspace(0.0, 1.0, 26)
    forward = list(pairwise(ends))
    others = [(0.9, 0.2), (0.3, 0.3), (0.4, 1.5), (0.0, 1.0)]
    for areas in ("W", "WH", "WHK"):
        path = load_backend("numba").brownian(areas, WORDS, cells, "float64")
        fresh, nodes = [], 0
        for s, t in (*forward, *reversed(forward), *others):
            before = None if path._kept is None else path._kept[1][0].copy()
            found = path.increment(s, t, entries)
            first = load_backend("reference").brownian(areas, WORDS, cells, "float64")
            for part, wanted in zip(found, first.increment(s, t, entries), strict=True):
                assert (part is None) == (wanted is None)
                if part is not None:
                    np.testing.assert_allclose(part, wanted, rtol=0, atol=1e-13)
            if before is not None:
                keys, _, held, _ = path._kept[1]
                fresh.append(int((before != keys).any(axis=0).sum()))
                nodes = max(nodes, int(held.sum()))
        assert nodes <= 2 * cells.depth + 3
        assert np.mean(fresh[: 2 * len(forward) - 1]) < 0.45 * nodes


def test_single_precision():
    """Without float64 times are pairs of float32; the numbers are the same but for rounding."""
    s, t = queries(2000)
    entries = Entries(1, 2, True)
    wanted = load_backend("reference").brownian("WHK", WORDS, CELLS, "float64")
    expected = wanted.increment(s, t, entries)
    for backend in ("numba", "torch"):
        found = load_backend(backend).brownian("WHK", WORDS, CELLS, "float32")
        parts = arrays(found.increment(s, t, entries))
        assert all(part.dtype == np.float32 for part in parts)
        check(parts, expected, 2e-6, np.abs(t - s))
    with jax.enable_x64(False):
        found = load_backend("jax").brownian("WHK", WORDS, CELLS, "float32")
        parts = arrays(found.increment(clock.encode(s), clock.encode(t), entries))
    assert all(part.dtype == np.float32 for part in parts)
    for part, exact, variance in zip(parts, expected, (1, 1 / 12, 1 / 720), strict=True):
        error = np.abs(part - exact) / np.sqrt(np.abs(t - s) * variance)[:, None]
        # a short interval around the middle of a long cell is the difference of rounded places
        assert np.quantile(error, 0.99) < 5e-6
        assert error.max() < 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_entries_and_steps(backend):
    """Samples at times of their own, noise of their own or shared, and steps of a fixed mesh."""
    rng = np.random.default_rng(1)
    s, t = rng.uniform(2, 5, (2, 3, 1))
    with jax.enable_x64(True):
        sources = [
            load_backend(name).brownian("WHK", WORDS, CELLS, "float64")
            for name in ("reference", backend)
        ]
        for entries in (Entries(3, 4), Entries(3, 4, shared=True)):
            wanted, found = (arrays(source.increment(s, t, entries)) for source in sources)
            check(found, wanted, 1e-13, np.abs(t - s)[:, 0])
        steps, h = np.array([[7], [8], [2**31]]), np.full((3, 1), -0.25)
        wanted, found = (arrays(source.direct(steps, h, entries)) for source in sources)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=0)


def test_the_numbers_of_an_entry_do_not_depend_on_the_others():
    source = load_backend("reference").brownian("WHK", WORDS, CELLS, "float64")
    s, t = np.full((3, 1), 2.5), np.full((3, 1), 3.5)
    for a, b in zip(
        source.increment(2.5, 3.5, Entries(1, 12)),
        source.increment(s, t, Entries(3, 4)),
        strict=True,
    ):
        np.testing.assert_allclose(a.reshape(3, 4), b, rtol=1e-13, atol=1e-16)
    many = source.increment(2.5, 3.5, Entries(1, 3000))[0]  # made in several blocks
    np.testing.assert_allclose(
        many[:, :12], source.increment(2.5, 3.5, Entries(1, 12))[0], rtol=1e-13
    )


def test_areas_differ_by_what_they_lack():
    with jax.enable_x64(True):
        for areas in ("W", "WH"):
            sources = [
                load_backend(name).brownian(areas, WORDS, CELLS, "float64")
                for name in ("reference", "jax")
            ]
            for entries in (5, 200):  # few and many are added up otherwise
                wanted, found = (s.increment(2.2, 3.3, Entries(1, entries)) for s in sources)
                for area, a, b in zip("WHK", found, wanted, strict=True):
                    assert (a is None) == (b is None) == (area not in areas)
                    if a is not None:
                        np.testing.assert_allclose(np.asarray(a), b, rtol=0, atol=1e-14)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize(
    "shapes", [(1, 1, 5), (1, 1, 200), (1, 200, 2), (200, 200, 1), (70, 70, 3)]
)
def test_sums_over_nodes_in_jax(platform, shapes, monkeypatch):
    """Samples of weights and of numbers, and channels: every way of adding them up."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    samples, rows, channels = shapes
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(2, 2, 7, samples, 1))
    normals = rng.normal(size=(2, 7, rows, channels))
    wanted = np.sum(weights * normals, axis=(1, 2))
    with jax.enable_x64(True):
        found = JaxPathArrays().contract(jnp.asarray(weights), jnp.asarray(normals))
        assert found.shape == wanted.shape
        np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("entries", [2, 200])
def test_transformations_of_jax(entries):
    """Times, keys and spans that are traced; a lane of ``vmap`` has the path of its key."""
    with jax.enable_x64(True):

        def at(key, t0, s, t):
            return ndereg.BrownianTree(key, 2.0, 5.0, (entries,), 1e-3, "WH").increment(s, t, "jax")

        keys = jax.random.split(jax.random.key(3), 4)
        found = jax.jit(jax.vmap(at, (0, None, None, 0)))(keys, 2.0, 2.25, jnp.arange(1.0, 5.0))
        for lane in range(4):
            # the first two lanes ask for a time before the start
            parts = [part[lane] for part in found]
            if lane < 1:
                assert np.isnan(parts[0]).all()
                continue
            tree = ndereg.BrownianTree(keys[lane], 2.0, 5.0, (entries,), 1e-3, "WH")
            for a, b in zip(parts, tree.increment(2.25, lane + 1.0), strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)


def test_keys():
    """An integer is the key that JAX makes of it; generators are drawn from once."""
    with jax.enable_x64(True):
        seed = 2**40 + 7
        wanted = ndereg.BrownianTree(seed, 0.0, 1.0, (3,), 1e-2)(0.2, 0.7, "reference")[0]
        for key in (jax.random.key(seed), jax.random.PRNGKey(seed)):
            found = ndereg.BrownianTree(key, 0.0, 1.0, (3,), 1e-2)(0.2, 0.7)[0]
            assert isinstance(found, jax.Array)
            np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=1e-15)
        other = jax.random.key(0, impl="rbg")
        assert len(key_words(load_backend("jax"), other)) == 2
    for key, backend in (
        (torch.Generator().manual_seed(1), "torch"),
        (np.random.default_rng(1), "reference"),
    ):
        tree, other = (ndereg.BrownianTree(key, 0.0, 1.0, (3,), 1e-2, "WHK") for _ in range(2))
        first, again, next_one = (np.asarray(x(0.2, 0.7, backend)[0]) for x in (tree, tree, other))
        np.testing.assert_array_equal(first, again)
        assert (next_one != first).all()


def test_arrays_of_the_framework():
    tree = ndereg.BrownianTree(1, 0.0, 1.0, (2, 3), 1e-2, "WHK")
    w, h, _ = tree.increment(torch.tensor(0.1), torch.tensor([0.2, 0.3], dtype=torch.float64))
    assert isinstance(w, torch.Tensor) and w.shape == h.shape == (2, 2, 3)
    assert tree(0.1, 0.2)[0].shape == (2, 3)
    scalar = ndereg.BrownianTree(1, 0.0, 1.0, (), 1e-2, "WHK")
    assert scalar(0.1, 0.2)[0].shape == () and scalar(0.1, np.array([0.2]))[0].shape == (1,)
    assert ndereg.jax.BrownianTree is ndereg.BrownianTree


@pytest.mark.parametrize("backend", ["reference", "numba", "torch", "jax"])
def test_times_outside_are_refused(backend):
    tree = ndereg.BrownianTree(1, 1.0, 0.0, (1,), 1e-2)
    for s, t in ((-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5), (np.array([0.5, 2.0]), 0.5)):
        with pytest.raises(ValueError, match="within the span of the Brownian path"):
            tree.increment(s, t, backend)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"areas": "HW"}, "expected areas to be one of 'W', 'WH', 'WHK', received 'HW'"),
        ({"shape": 3}, "expected a tuple of lengths as shape, received 3"),
        ({"shape": (2, -1)}, "expected a tuple of lengths"),
        ({"t1": 0.0}, "finite span"),
        ({"tolerance": 0.0}, "positive tolerance"),
    ],
)
def test_trees_that_cannot_be_are_refused(options, message):
    good = {"key": 0, "t0": 0.0, "t1": 1.0, "shape": (1,), "tolerance": 0.1, "areas": "W"}
    with pytest.raises(ValueError, match=message):
        ndereg.BrownianTree(**{**good, **options})


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (None, ValueError, "expected a key for the Brownian path"),
        (-1, ValueError, r"expected a seed in \[0, 2\*\*64\)"),
        (2**64, ValueError, "expected a seed"),
        ("seed", TypeError, "expected an int or a numpy.random.Generator as key"),
    ],
)
def test_keys_that_are_none_are_refused(key, error, message):
    tree = ndereg.BrownianTree(key, 0.0, 1.0, (1,), 0.1)
    with pytest.raises(error, match=message):
        tree.increment(0.0, 1.0, "reference")


def test_a_tree_too_deep_for_pairs_of_single_precision_is_refused():
    tree = ndereg.BrownianTree(0, 0.0, 1.0, (1,), 1e-12)
    with jax.enable_x64(False), pytest.raises(ValueError, match="at most 30 levels without"):
        tree.increment(0.0, 1.0, "jax")
