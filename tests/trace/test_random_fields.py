"""Random fields: the graph computes what the field does, sample by sample as well."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from ndereg import ops
from ndereg.trace import evaluate, linearize, per_sample

BATCH, WIDTH = 3, 4
RNG = np.random.default_rng(11)
ARGS = {
    "matrix": RNG.normal(size=(WIDTH, WIDTH)) / 2,
    "row": RNG.normal(size=WIDTH),
    "rate": RNG.normal(size=BATCH),
    "table": RNG.normal(size=(BATCH, WIDTH)),
    "matrices": RNG.normal(size=(BATCH, WIDTH, WIDTH)) / 2,
    "scale": np.array(0.7),
}

# Steps of a field on values of shape (BATCH, WIDTH) that keep samples apart.
UNARY = {
    "tanh": lambda x, t, a: ops.tanh(x),
    "sin": lambda x, t, a: ops.sin(2 * x + t),
    "bell": lambda x, t, a: ops.exp(-(x * x)),
    "sigmoid": lambda x, t, a: ops.sigmoid(x) - 0.5,
    "gelu": lambda x, t, a: ops.gelu(x),
    "root": lambda x, t, a: ops.sqrt(1 + ops.square(x)),
    "relu": lambda x, t, a: ops.relu(x) - 0.1 * x,
    "power": lambda x, t, a: ops.abs(x) ** 1.5 - x**3 / 10,
    "time": lambda x, t, a: x * t - t,
    "matrix": lambda x, t, a: x @ a["matrix"],
    "vectors": lambda x, t, a: (a["matrix"] @ x[..., None])[..., 0],
    "matrices": lambda x, t, a: ops.matmul(a["matrices"], x[:, :, None])[:, :, 0],
    "row": lambda x, t, a: x + a["row"],
    "rate": lambda x, t, a: ops.reshape(a["rate"], (-1, 1)) * x,
    "decay": lambda x, t, a: ops.exp(-ops.square(a["rate"]))[:, None] + x,
    "table": lambda x, t, a: x * ops.tanh(a["table"] + a["row"]),
    "reversed table": lambda x, t, a: x + a["table"][:, ::-1] * a["scale"],
    "centred": lambda x, t, a: x - ops.mean(x, axis=1, keepdims=True),
    "softmax": lambda x, t, a: ops.softmax(x, axis=-1),
    "largest": lambda x, t, a: x - 0.5 * ops.max(x, axis=1, keepdims=True),
    "norm": lambda x, t, a: x / (1 + ops.sqrt(ops.sum(x * x, axis=1)))[:, None],
    "neighbours": lambda x, t, a: ops.concat([x[:, 1:], x[:, :1]], axis=1) - x,
    "flipped": lambda x, t, a: x[:, ::-1],
    "chosen": lambda x, t, a: x[:, [2, 0, 0, 3]],
    "swapped": lambda x, t, a: ops.reshape(
        ops.permute_dims(ops.reshape(x, (BATCH, 2, 2)), (0, 2, 1)), (BATCH, WIDTH)
    ),
    "small matrix": lambda x, t, a: ops.reshape(
        ops.reshape(x, (BATCH, 2, 2)) @ a["matrix"][:2, :2], (BATCH, WIDTH)
    ),
    "transposed": lambda x, t, a: ops.matrix_transpose(a["matrix"] @ ops.matrix_transpose(x)),
    "outer": lambda x, t, a: ops.sum(x[:, :, None] * x[:, None, :], axis=2) / 4,
    "stacked": lambda x, t, a: ops.stack([x[:, i] for i in (3, 1, 2, 0)], axis=1),
}
BINARY = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / (2 + ops.cos(y)),
    "where": lambda x, y: ops.where(x > y, x, 0.5 * y),
    "minimum": ops.minimum,
    "maximum": lambda x, y: ops.maximum(x, y),
    "halves": lambda x, y: ops.concat([x[:, :2], y[:, 2:]], axis=1),
    "attention": lambda x, y: ops.matmul(
        ops.softmax(x[:, :, None] * y[:, None, :], axis=-1), y[:, :, None]
    )[..., 0],
}
STEP = st.one_of(
    st.tuples(st.sampled_from(sorted(UNARY)), st.integers(0, 9)),
    st.tuples(st.sampled_from(sorted(BINARY)), st.integers(0, 9), st.integers(0, 9)),
)
PROGRAMS = st.lists(STEP, min_size=1, max_size=8)


def field_of(program):
    def field(t, y, args):
        values = [y]
        for name, *operands in program:
            chosen = [values[-1 - i % len(values)] for i in operands]
            if name in UNARY:
                values.append(UNARY[name](chosen[0], t, args))
            else:
                values.append(BINARY[name](*chosen))
        return values[-1]

    return field


def state(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(BATCH, WIDTH)), rng.uniform(0, 2, size=(BATCH, 1))


@settings(max_examples=150)
@given(program=PROGRAMS, seed=st.integers(0, 2**16))
def test_graph_computes_the_field(tracing, program, seed):
    y, _ = state(seed)
    field, t = field_of(program), np.array(0.8)
    graph = tracing.trace_field(field, y, ARGS)
    (actual,) = evaluate(graph, [t, y.ravel(), *(ARGS[key] for key in sorted(ARGS))])
    expected = field(t, y, ARGS).ravel()
    np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-13 * np.abs(expected).max())


@settings(max_examples=150)
@given(program=PROGRAMS, seed=st.integers(0, 2**16))
def test_samples_one_by_one(tracing, program, seed):
    """The graph of one sample gives the rows of the batch, and the rows of its gradients."""
    y, t = state(seed)
    field = field_of(program)
    batched = tracing.trace_field(field, y, ARGS, batch=BATCH)
    single = per_sample(batched, BATCH)
    assert single is not None
    leaves = [ARGS[key] for key in sorted(ARGS)]
    expected = field(t, y, ARGS)
    scale = 1 + np.abs(expected).max()
    k_bar = np.random.default_rng(seed + 1).normal(size=y.shape)
    whole = pulled(batched, [t, y, *leaves], k_bar)
    parts = []
    for i in range(BATCH):
        row = slice(i, i + 1)
        inputs = [t[row], y[row], *leaves, i]
        (k,) = evaluate(single, inputs)
        np.testing.assert_allclose(k, expected[row], rtol=1e-13, atol=1e-13 * scale)
        parts.append(pulled(single, inputs, k_bar[row]))
    y_bar = np.concatenate([part[0] for part in parts])
    sums = [sum(bars) for bars in zip(*(part[1:] for part in parts), strict=True)]
    for actual, bar in zip([y_bar, *sums], whole, strict=True):
        assert actual.shape == bar.shape
        np.testing.assert_allclose(actual, bar, rtol=1e-11, atol=1e-11 * (1 + np.abs(bar).max()))


def pulled(graph, inputs, k_bar):
    forward, pullback, _ = linearize(graph)
    _, *residuals = evaluate(forward, inputs)
    sample = inputs[-1:] if graph.input_names[-1] == "sample" else []
    own = inputs[:-1] if sample else inputs
    return evaluate(pullback, [*own, *residuals, k_bar, *sample])


@pytest.mark.parametrize("name", [*sorted(UNARY), *sorted(BINARY)])
def test_single_steps(tracing, name):
    """Every step by itself, so that a failure above has a small example."""
    program = [(name, 0) if name in UNARY else (name, 0, 0)]
    test_samples_one_by_one.hypothesis.inner_test(tracing, program, 5)
    test_graph_computes_the_field.hypothesis.inner_test(tracing, program, 5)


def test_gradients_by_differences(tracing):
    """A long field, its gradients against central differences."""
    program = [(name, 0) for name in sorted(UNARY)] + [("where", 0, 4), ("attention", 0, 2)]
    y, _ = state(3)
    field, t = field_of(program), np.array(0.8)
    graph = tracing.trace_field(field, y, ARGS)
    inputs = [t, y.ravel(), *(ARGS[key] for key in sorted(ARGS))]
    rng = np.random.default_rng(2)
    k_bar = rng.normal(size=y.size)
    bars = pulled(graph, inputs, k_bar)
    tangents = [rng.normal(size=np.shape(x)) for x in inputs[1:]]

    def at(h):
        moved = [x + h * v for x, v in zip(inputs[1:], tangents, strict=True)]
        return evaluate(graph, [t, *moved])[0] @ k_bar

    h = 1e-5
    expected = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    actual = sum(np.sum(bar * v) for bar, v in zip(bars, tangents, strict=True))
    assert actual == pytest.approx(expected, rel=1e-7)
