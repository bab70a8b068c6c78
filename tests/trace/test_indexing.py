"""Indexing of traced arrays follows NumPy's."""

import numpy as np
import pytest

X = np.arange(120.0).reshape(4, 5, 6)
MASK = np.array([True, False, True, True])
KEYS = [
    0,
    -1,
    np.int64(2),
    (1, 2, 3),
    slice(None),
    slice(1, 3),
    slice(None, None, -1),
    slice(3, 0, -2),
    slice(10, None),
    Ellipsis,
    None,
    (Ellipsis, 0),
    (0, Ellipsis, 1),
    (slice(None), None, 2),
    (None, slice(None), Ellipsis, None),
    (slice(None, None, 2), slice(1, None, 3), slice(None, None, -1)),
    [0, 2],
    [[0, 1], [3, 2]],
    np.array([3, 0, 0]),
    np.array([-1, 1]),
    (slice(None), [4, 0]),
    (Ellipsis, [5, 1, 1]),
    ([0, 1], [2, 3]),
    ([0, 1], slice(None), [2, 3]),
    (0, slice(None), [2, 3]),
    (slice(None), 0, [2, 3]),
    (slice(None), [0, 1], [2, 3]),
    ([[0], [1]], [2, 3]),
    (np.ix_([0, 2], [1, 3])),
    (slice(None), np.array([[0, 1]]), None, slice(1, 3)),
    MASK,
    (slice(None), np.array([True, False, False, True, True])),
    X > 50,
    (MASK, 0),
    (MASK, slice(None), [0, 1, 2]),
    [],
]


@pytest.mark.parametrize("key", KEYS, ids=[str(i) for i in range(len(KEYS))])
def test_getitem(tracing, key):
    actual = tracing.run(lambda x: x[key] * 1, X)[0]
    np.testing.assert_array_equal(actual, X[key])
    assert actual.shape == X[key].shape


@pytest.mark.parametrize("key", [4, (0, 0, 0, 0), [5], (0, 9), -5])
def test_out_of_bounds(tracing, key):
    with pytest.raises(IndexError):
        tracing.run(lambda x: x[key], X)


def test_unpacking(tracing):
    def function(y):
        a, b, *rest = y
        return a + b * len(rest)

    np.testing.assert_array_equal(tracing.run(function, X)[0], X[0] + 2 * X[1])


def test_index_from_namespace_constant(tracing):
    """Indices made with the traced namespace are constants, and serve as such."""

    def function(x):
        xp = x.__array_namespace__()
        return x[xp.arange(2)], x[xp.asarray(1)], x[xp.asarray([True, False, False, True])]

    actual = tracing.run(function, X)
    for value, expected in zip(actual, (X[:2], X[1], X[[0, 3]]), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_slices_compose(tracing):
    graph = tracing.graph_of(lambda x: x[1:][::-1][0, ::2][1:], X)
    assert [node.op for node in graph.nodes] == ["input", "slice", "reshape"]
    np.testing.assert_array_equal(
        tracing.run(lambda x: x[1:][::-1][0, ::2][1:], X)[0], X[1:][::-1][0, ::2][1:]
    )
