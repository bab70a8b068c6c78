"""Graphs: their key, their text, and the simplifications made while they are built."""

import subprocess
import sys

import numpy as np
import pytest

from ndereg.trace import evaluate
from ndereg.trace.builder import Builder

X = np.arange(6.0).reshape(2, 3)

PROGRAM = """
import numpy as np
from ndereg.trace.builder import Builder
from ndereg.trace.value import building, lift, wrap

builder = Builder()
with building(builder):
    x = wrap(builder.input("x", (3, 3), "float64"))
    y = np.tanh(x @ np.arange(9.0).reshape(3, 3)) + x[[0, 2, 1]] * np.pi
    print(builder.build([lift(np.linalg.norm(y, axis=0))]).key())
"""


def ops_of(graph):
    return [node.op for node in graph.nodes if node.op not in {"input", "constant"}]


def test_key_is_the_same_in_every_process():
    keys = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(keys) == 1
    assert len(keys.pop().strip()) == 64


def test_key_tells_graphs_apart(tracing):
    functions = [
        lambda x: x + 1,
        lambda x: x + 2,
        lambda x: x - 1,
        lambda x: (x + 1).reshape(3, 2),
        lambda x: x + np.ones(3, np.float32),
        lambda x: x + np.array([1.0, 1.0, 1.0 + 1e-15]),
    ]
    keys = [tracing.graph_of(f, X).key() for f in functions]
    keys.append(tracing.graph_of(functions[0], X.astype("f4")).key())
    keys.append(tracing.graph_of(lambda x, y: x + 1, X, X).key())
    # Equal values in the promoted dtype are equal graphs.
    assert keys[0] == keys.pop(4)
    assert len(set(keys)) == len(keys)


def test_text(tracing):
    text = str(tracing.graph_of(lambda x: np.sum(np.tanh(x), axis=0) * 2, X))
    assert text == (
        "%0: float64[2×3] = input() [name=x0]\n"
        "%1: float64[2×3] = tanh(%0)\n"
        "%2: float64[3] = sum(%1) [axes=(0,)]\n"
        "%3: float64[scalar] = constant() [index=0: 2.]\n"
        "%4: float64[3] = broadcast(%3)\n"
        "%5: float64[3] = mul(%2, %4)\n"
        "return %5"
    )


IDENTITIES = {
    "add zero": lambda x: 0 + x + 0.0,
    "subtract zero": lambda x: x - np.zeros((2, 3)),
    "times one": lambda x: 1 * x * np.ones(3) / 1,
    "negated twice": lambda x: np.negative(-x),
    "power one": lambda x: x**1,
    "real": lambda x: np.real(np.conj(x)),
    "reshaped back": lambda x: x.reshape(3, 2).reshape(6).reshape(2, 3),
    "permuted back": lambda x: x.T.T,
    "permuted around": lambda x: np.moveaxis(np.transpose(x[None], (1, 2, 0)), -1, 0)[0],
    "sliced whole": lambda x: x[:][0:2][..., ::1],
    "flipped twice": lambda x: x[::-1][::-1],
    "stacked again": lambda x: np.stack([x[i] for i in range(len(x))]),
    "concatenated again": lambda x: np.concatenate([x[:1], x[1:]]),
    "part of a concat": lambda x: np.concatenate([np.ones((1, 3)), x])[1:],
    "broadcast to itself": lambda x: np.broadcast_to(x, (2, 3)),
    "row of a broadcast": lambda x: np.broadcast_to(x, (4, 2, 3))[2],
    "cast to itself": lambda x: x.astype(np.float64),
    "there and back": lambda x: np.real(x.astype(complex)),
    "unpacked": lambda x: np.array(0.0) + np.vstack([*x]),
    "where of constants": lambda x: np.where(True, x, 0),
    "where of equals": lambda x: np.where(x > 0, x, x),
    "maximum of equals": lambda x: np.maximum(x, x),
    "conjugate": lambda x: x.conj().conj(),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identities_leave_nothing(tracing, name):
    assert ops_of(tracing.graph_of(IDENTITIES[name], X)) == []


def test_not_a_number_is_kept(tracing):
    assert ops_of(tracing.graph_of(lambda x: 0 * x, X)) == ["broadcast", "mul"]
    assert ops_of(tracing.graph_of(lambda x: x - x, X)) == ["sub"]
    assert ops_of(tracing.graph_of(lambda x: x / x, X)) == ["div"]


def test_common_subexpressions(tracing):
    def function(x, y):
        return np.sin(x * y) + np.cos(y * x) + np.sin(y * x)

    assert ops_of(tracing.graph_of(function, X, X)) == ["mul", "sin", "cos", "add", "add"]


def test_constants_are_folded(tracing):
    def function(x):
        return x * (np.pi * np.sqrt(np.asarray(2.0)) + x.__array_namespace__().ones(3)[1])

    assert ops_of(tracing.graph_of(function, X)) == ["broadcast", "mul"]


def test_work_is_done_before_broadcasting(tracing):
    """What depends on time alone is computed once."""

    def function(x, t):
        return x * np.exp(-2 * np.broadcast_to(t, (2, 3)))

    graph = tracing.graph_of(function, X, np.array(0.5))
    (exponential,) = [node for node in graph.nodes if node.op == "exp"]
    assert exponential.shape == ()


def test_dead_code_is_dropped(tracing):
    def function(x):
        np.exp(x) @ x.T
        return x + 1

    assert ops_of(tracing.graph_of(function, X)) == ["broadcast", "add"]


def test_small_powers_are_products(tracing):
    assert ops_of(tracing.graph_of(lambda x: x**3, X)) == ["mul", "mul"]
    assert ops_of(tracing.graph_of(lambda x: x**0.5, X)) == ["sqrt"]
    assert ops_of(tracing.graph_of(lambda x: x**-2.0, X)) == ["mul", "broadcast", "div"]
    assert "pow" in ops_of(tracing.graph_of(lambda x: x**0.3, X))


def test_evaluate_checks_its_inputs(tracing):
    graph = tracing.graph_of(lambda x, y: x + y, X, X)
    with pytest.raises(ValueError, match=r"expected 2 inputs \(x0, x1\), received 1"):
        evaluate(graph, [X])
    with pytest.raises(ValueError, match=r"expected shape \(2, 3\), received \(3,\)"):
        evaluate(graph, [X, X[0]])
    with pytest.raises(TypeError):
        evaluate(graph, [X, 1j * X])


def test_results_are_contiguous(tracing):
    (out,) = evaluate(tracing.graph_of(lambda x: x.T, X), [X])
    assert out.flags.c_contiguous


def test_node_attributes(tracing):
    node = tracing.graph_of(lambda x: x[:, 1:], X).nodes[1]
    assert node.attr("starts") == (0, 1)
    assert (node.size, node.ndim) == (4, 2)
    with pytest.raises(KeyError):
        node.attr("axes")


def test_operands_must_fit():
    builder = Builder()
    x, y = builder.input("x", (2,), "float64"), builder.input("y", (2,), "float32")
    with pytest.raises(ValueError, match="one shape and dtype"):
        builder.binary("add", x, y)
    with pytest.raises(TypeError, match="constant"):
        builder.constant(["text"])
