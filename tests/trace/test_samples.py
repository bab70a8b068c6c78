"""Which batched fields fall apart into samples, and which are refused."""

import numpy as np
import pytest

from ndereg import ops
from ndereg.trace import evaluate, per_sample

B, N = 3, 4
Y = np.random.default_rng(0).normal(size=(B, N))
T = np.full((B, 1), 0.5)


def sample_graph(tracing, field, args=None, y=Y):
    return per_sample(tracing.trace_field(field, y, args, batch=y.shape[0]), y.shape[0])


COUPLED = {
    "sum over samples": lambda t, y, a: y - ops.sum(y, axis=0),
    "sum over everything": lambda t, y, a: y * ops.sum(y),
    "one sample for all": lambda t, y, a: y - y[0],
    "neighbouring samples": lambda t, y, a: np.roll(y, 1, axis=0),
    "reversed samples": lambda t, y, a: y[::-1],
    "product of samples": lambda t, y, a: (y @ y.T) @ y,
    "matrix over samples": lambda t, y, a: a @ y,
    "spread by reshape": lambda t, y, a: ops.reshape(ops.reshape(y, (N, B))[::-1], (B, N)),
    "mean of t": lambda t, y, a: y * ops.mean(t),
    "transposed": lambda t, y, a: y @ y.T @ y,
    "largest": lambda t, y, a: y / ops.max(y),
    "stacked samples": lambda t, y, a: ops.stack([y[2], y[0], y[1]]),
}


@pytest.mark.parametrize("name", COUPLED)
def test_coupled_samples_are_found(tracing, name):
    assert sample_graph(tracing, COUPLED[name], np.ones((B, B))) is None


def test_independent_of_the_batch_size(tracing):
    """With shared parameters only, the graph of a sample does not know how many there are."""

    def field(t, y, a):
        return ops.tanh(y @ a) * t

    graphs = [
        sample_graph(tracing, field, np.ones((N, N)), np.ones((size, N))).key() for size in (2, 7)
    ]
    assert graphs[0] == graphs[1]


def test_inputs(tracing):
    graph = sample_graph(tracing, lambda t, y, a: y * a["k"][:, None] + t, {"k": np.ones(B)})
    assert graph.input_names == ("t", "y", "args['k']", "sample")
    assert [graph.nodes[i].shape for i in graph.inputs] == [(1, 1), (1, N), (B,), ()]
    assert graph.nodes[graph.outputs[0]].shape == (1, N)


def test_rows_are_taken_of_the_arguments_themselves(tracing):
    """Not of what is computed from them, which would be done for all samples every time."""

    def field(t, y, a):
        rate = ops.exp(ops.sin(a) * 2)
        return y * ops.reshape(rate, (B, 1, 2)).reshape(B, 2)[:, :1]

    graph = sample_graph(tracing, field, np.ones((B, 2)))
    for node in graph.nodes:
        if node.op == "take_sample":
            assert graph.nodes[node.inputs[0]].op == "input"
        elif node.op != "input":
            assert B not in node.shape


def test_rows_of_narrow_integers_are_taken_before_they_are_cast(tracing):
    graph = sample_graph(tracing, lambda t, y, a: -y * a, np.ones((B, N), np.int32))
    again = per_sample(graph, 1)
    for taken in (graph, again):
        rows = [node for node in taken.nodes if node.op == "take_sample"]
        assert [taken.nodes[node.inputs[0]].op for node in rows] == ["input"]


def test_shared_part_of_an_argument_with_as_many_rows_as_samples(tracing):
    """A square matrix is no table of samples only because its size is that of the batch."""
    y = np.random.default_rng(1).normal(size=(N, N))
    W = np.random.default_rng(2).normal(size=(N, N))
    graph = sample_graph(tracing, lambda t, y, W: y @ W + W[0] + y * W, W, y)
    for i in range(N):
        (k,) = evaluate(graph, [T[:1], y[i : i + 1], W, i])
        np.testing.assert_allclose(k[0], y[i] @ W + W[0] + y[i] * W[i], rtol=1e-14)


def test_field_without_state(tracing):
    table = np.arange(12.0).reshape(B, N)
    graph = sample_graph(tracing, lambda t, y, a: a * 2, table)
    for i in range(B):
        np.testing.assert_array_equal(evaluate(graph, [T[:1], Y[:1], table, i])[0][0], table[i] * 2)


def test_constant_field(tracing):
    rows = np.arange(12.0).reshape(B, N)
    graph = sample_graph(tracing, lambda t, y, a: y * 0 + rows)
    for i in range(B):
        np.testing.assert_array_equal(evaluate(graph, [T[:1], Y[:1], i])[0][0], rows[i])


def test_row_of_a_reshaped_table(tracing):
    """The samples' rows may lie inside a longer axis of the argument."""
    table = np.arange(24.0).reshape(2 * B, N)

    def field(t, y, a):
        return y * 0 + ops.reshape(a, (B, 2, N))[:, 1, :]

    graph = sample_graph(tracing, field, table)
    for i in range(B):
        (k,) = evaluate(graph, [T[:1], Y[:1], table, i])
        np.testing.assert_array_equal(k[0], table[2 * i + 1])


def test_batched_images(tracing):
    """Flattened batches of matrices stay separate through two-dimensional products."""
    rng = np.random.default_rng(4)
    y = rng.normal(size=(B, 2, 5))
    W = rng.normal(size=(5, 5))

    def field(t, y, W):
        h = ops.tanh(y @ W)
        mixed = ops.permute_dims(h, (1, 0, 2)) @ W
        return ops.permute_dims(mixed, (1, 0, 2)) * t

    graph = sample_graph(tracing, field, W, y)
    expected = field(np.full((B, 1, 1), 0.5), y, W)
    assert [n.shape for n in graph.nodes if n.op == "matmul"] == [(2, 5), (2, 5)]
    for i in range(B):
        (k,) = evaluate(graph, [np.full((1, 1, 1), 0.5), y[i].reshape(1, -1), W, i])
        np.testing.assert_allclose(k.reshape(2, 5), expected[i], rtol=1e-14)


def test_batch_of_one(tracing):
    def field(t, y, a):
        return y @ y.T * y + a * t

    y, a = Y[:1], np.ones((1, N))
    graph = sample_graph(tracing, field, a, y)
    assert graph.input_names[-1] == "sample"
    np.testing.assert_allclose(evaluate(graph, [T[:1], y, a, 0])[0], field(T[:1], y, a))


def test_nested_state(tracing):
    y = {"x": np.ones((B, 2)), "v": np.full((B, 3, 2), 2.0)}

    def field(t, y, a):
        speed = ops.sum(y["v"], axis=1)
        return {"x": speed * ops.reshape(t, (B, 1)), "v": y["v"] - y["x"][:, None, :]}

    graph = per_sample(tracing.trace_field(field, y, batch=B), B)
    flat = tracing.flat_state(y, B)
    expected = tracing.flat_state(field(T[:, 0], y, None), B)
    for i in range(B):
        (k,) = evaluate(graph, [T[:1, 0], flat[i : i + 1], i])
        np.testing.assert_array_equal(k[0], expected[i])
