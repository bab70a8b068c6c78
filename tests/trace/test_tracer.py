"""What a field is called with, and what it must return."""

import sys
from typing import NamedTuple

import numpy as np
import pytest

from ndereg.trace import evaluate


class Phase(NamedTuple):
    q: np.ndarray
    p: np.ndarray


def test_called_once_with_the_structure(tracing):
    calls = []

    def field(t, y, args):
        calls.append((t, y, args))
        return y

    y = {"b": np.ones((2, 3)), "a": (np.ones(2), [np.ones(())])}
    tracing.trace_field(field, y, {"w": [np.ones(4), None]})
    ((t, state, args),) = calls
    assert t.shape == ()
    assert state["b"].shape == (2, 3)
    assert state["a"][1][0].shape == ()
    assert args["w"][0].shape == (4,)
    assert args["w"][1] is None


def test_inputs_are_flat_state_and_leaves(tracing):
    y = Phase(np.ones((2, 3)), np.ones(4))
    graph = tracing.trace_field(lambda t, y, a: Phase(y.q * a["k"], -y.p), y, {"k": np.ones(())})
    assert graph.input_names == ("t", "y", "args['k']")
    assert [graph.nodes[i].shape for i in graph.inputs] == [(), (10,), ()]
    assert [graph.nodes[i].op for i in graph.inputs] == ["input"] * 3
    assert graph.inputs == (0, 1, 2)
    flat = np.arange(10.0)
    (k,) = evaluate(graph, [0.0, flat, 3.0])
    np.testing.assert_array_equal(k, np.concatenate([3 * flat[:6], -flat[6:]]))


def test_unused_inputs_are_kept(tracing):
    graph = tracing.trace_field(lambda t, y, a: y, np.ones(2), (np.ones(3), np.ones(())))
    assert len(graph.inputs) == 4
    assert graph.outputs == (1,)


@pytest.mark.parametrize(
    ("y", "shape"),
    [
        (np.ones((5, 3)), (5, 1)),
        (np.ones((5, 3, 2)), (5, 1, 1)),
        (np.ones(5), (5,)),
        ((np.ones((5, 3)), np.ones((5, 2))), (5, 1)),
        ((np.ones((5, 3)), np.ones((5, 2, 2))), (5,)),
    ],
)
def test_time_of_a_batch(tracing, y, shape):
    times = []

    def field(t, y, args):
        times.append(t)
        return y

    graph = tracing.trace_field(field, y, batch=5)
    assert times[0].shape == shape
    assert graph.nodes[graph.inputs[0]].shape == shape
    assert graph.nodes[graph.inputs[1]].shape[0] == 5
    assert graph.nodes[graph.outputs[0]].shape == graph.nodes[graph.inputs[1]].shape


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_time_has_the_real_dtype_of_the_state(tracing, dtype):
    y = np.ones(3, dtype)
    graph = tracing.trace_field(lambda t, y, a: t * y, y)
    assert graph.nodes[0].dtype == y.real.dtype.name
    assert graph.nodes[graph.outputs[0]].dtype == dtype


def test_mixed_leaves_keep_their_dtypes(tracing):
    y = {"x": np.ones(2, np.float32), "z": np.ones(2, np.complex64)}
    seen = []

    def field(t, y, args):
        seen.extend([y["x"].dtype, y["z"].dtype])
        return {"x": y["z"].real, "z": y["z"] * y["x"]}

    graph = tracing.trace_field(field, y)
    assert seen == [np.float32, np.complex64]
    assert graph.nodes[graph.outputs[0]].dtype == "complex64"
    (k,) = evaluate(graph, [0.0, np.array([1, 2, 3j, 1 + 4j], np.complex64)])
    np.testing.assert_array_equal(k, np.array([0, 1, 3j, 2 + 8j], np.complex64))


def test_integer_arguments(tracing):
    """Narrow integers are widened as they come in; they select and scale."""
    n = np.array([2, 3], dtype=np.int32)
    graph = tracing.trace_field(lambda t, y, n: y * n, np.ones(2), n)
    assert graph.nodes[graph.inputs[2]].dtype == "int32"
    assert {node.dtype for node in graph.nodes if node.op != "input"} <= {"int64", "float64"}
    np.testing.assert_array_equal(evaluate(graph, [0.0, np.ones(2), n])[0], n)


@pytest.mark.parametrize(
    ("result", "expected"), [(0.0, 0.0), (2, 2.0), (np.array(1.5), 1.5), (np.float64(2.5), 2.5)]
)
def test_numbers_as_results(tracing, result, expected):
    graph = tracing.trace_field(lambda t, y, a: result, np.array(1.0))
    assert evaluate(graph, [0.0, np.ones(1)])[0] == expected


def test_numpy_array_as_result(tracing):
    graph = tracing.trace_field(lambda t, y, a: np.array([1.0, 2.0]), np.ones(2))
    np.testing.assert_array_equal(evaluate(graph, [0.0, np.ones(2)])[0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("field", "error", "words"),
    [
        (lambda t, y, a: y[:2], ValueError, ["shape (3,)", "received shape (2,)", "try"]),
        (lambda t, y, a: y[None], ValueError, ["shape (3,)", "(1, 3)", "try reshaping"]),
        (lambda t, y, a: 0.0, ValueError, ["shape (3,)", "received shape ()"]),
        (lambda t, y, a: (y,), TypeError, ["structure", "expected", "received (*,)", "try"]),
        (lambda t, y, a: [y[0], y[1], y[2]], TypeError, ["structure", "try stack([...])"]),
        (lambda t, y, a: None, TypeError, ["structure", "received None"]),
        (lambda t, y, a: {"y": y}, TypeError, ["structure", "{'y': *}"]),
        (lambda t, y, a: y * 1j, TypeError, ["dtype float64", "received complex128", "cast"]),
        (lambda t, y, a: y > 0, TypeError, ["dtype float64", "received bool"]),
        (lambda t, y, a: y.astype("float32"), TypeError, ["float64", "received float32"]),
    ],
)
def test_wrong_results(tracing, field, error, words):
    with pytest.raises(error) as caught:
        tracing.trace_field(field, np.ones(3))
    for word in words:
        assert word in str(caught.value)


def test_wrong_leaf_is_named(tracing):
    y = {"a": np.ones(2), "b": [np.ones(3)]}
    with pytest.raises(ValueError, match=r"the result of the field at \['b'\]\[0\]"):
        tracing.trace_field(lambda t, y, a: {"a": y["a"], "b": [y["a"]]}, y)


def test_dtypes_that_are_refused(tracing):
    for kind in (np.float16, np.longdouble):
        with pytest.raises(TypeError, match=r"expected 'args\[0\]' to have one of the dtypes"):
            tracing.trace_field(lambda t, y, a: y, np.ones(2), (np.ones(2, kind),))


def test_byte_order_of_constants(tracing):
    graphs = [
        tracing.trace_field(lambda t, y, a, w=w: y * w, np.ones(2))
        for w in (np.array([1.0, 2.0], "<f8"), np.array([1.0, 2.0], ">f8"))
    ]
    assert graphs[0].key() == graphs[1].key()
    np.testing.assert_array_equal(evaluate(graphs[1], [0.0, np.ones(2)])[0], [1.0, 2.0])


def test_complex_number_as_result(tracing):
    graph = tracing.trace_field(lambda t, y, a: 1j, np.array(1, np.complex64))
    assert evaluate(graph, [0.0, np.ones(1)])[0] == 1j
    with pytest.raises(TypeError, match="received complex128"):
        tracing.trace_field(lambda t, y, a: 1j, np.array(1.0))


def test_closures_over_arrays_are_constants(tracing):
    W = np.arange(9.0).reshape(3, 3)
    graph = tracing.trace_field(lambda t, y, a: W @ y, np.ones(3))
    np.testing.assert_array_equal(graph.constants[0], W)
    assert not graph.constants[0].flags.writeable
    W[:] = 0
    assert graph.constants[0].any()


def test_deep_fields(tracing):
    """Long chains need no deep recursion anywhere."""
    steps = sys.getrecursionlimit() * 2

    def field(t, y, args):
        for i in range(steps):
            y = y * 1.0001 + i
        return y

    from ndereg.trace import linearize, per_sample

    graph = tracing.trace_field(field, np.ones((2, 1)), batch=2)
    assert len(graph.nodes) > steps
    linearize(per_sample(graph, 2))
