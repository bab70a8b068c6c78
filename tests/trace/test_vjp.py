"""Vector-Jacobian products: every primitive against differences, whole fields against JAX."""

import jax
import numpy as np
import pytest

from ndereg import ops
from ndereg.trace import evaluate, linearize
from ndereg.trace.primitives import COMPARISONS
from ndereg.trace.vjp_rules import RULES

RNG = np.random.default_rng(7)


def pull(graph, inputs, k_bar, wrt=None):
    """Run the forward and the backward graph."""
    forward, pullback, zero = linearize(graph, range(len(inputs)) if wrt is None else wrt)
    out, *residuals = evaluate(forward, inputs)
    np.testing.assert_array_equal(out, evaluate(graph, inputs)[0])
    return evaluate(pullback, [*inputs, *residuals, k_bar]), zero


def random_like(rng, x):
    if x.dtype.kind == "c":
        return (rng.normal(size=x.shape) + 1j * rng.normal(size=x.shape)).astype(x.dtype)
    return rng.normal(size=x.shape).astype(x.dtype)


def inner(a, b):
    return np.sum(np.real(np.conj(a) * b))


def directional(function, inputs, tangents):
    """Derivative along tangents, by central differences of fourth order."""

    def at(h):
        return function(*(x + h * v for x, v in zip(inputs, tangents, strict=True)))

    h = 2e-4
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


def check_against_differences(tracing, function, *inputs, tolerance=1e-8):
    graph = tracing.graph_of(function, *inputs)
    out = evaluate(graph, inputs)[0]
    k_bar = random_like(RNG, out)
    bars, _ = pull(graph, inputs, k_bar)
    for bar, x in zip(bars, inputs, strict=True):
        assert bar.shape == x.shape
        assert bar.dtype == x.dtype
    for _ in range(3):
        tangents = [random_like(RNG, x) for x in inputs]
        change = directional(lambda *xs: evaluate(graph, xs)[0], inputs, tangents)
        expected = inner(k_bar, change)
        actual = sum(inner(bar, v) for bar, v in zip(bars, tangents, strict=True))
        assert actual == pytest.approx(expected, rel=tolerance, abs=tolerance)


REAL = RNG.uniform(0.2, 0.8, size=(3, 4)) * np.sign(RNG.normal(size=(3, 4)))
POSITIVE = np.abs(REAL)
OTHER = RNG.uniform(0.2, 0.8, size=(3, 4)) * np.sign(RNG.normal(size=(3, 4)))
COMPLEX = REAL + 1j * OTHER
CUBE = RNG.normal(size=(2, 3, 4))

# Every primitive: the function that traces to it, and its operands.
PRIMITIVES = {
    **{
        name: (getattr(np, function), (REAL,))
        for name, function in {
            "neg": "negative",
            **{
                name: name
                for name in (
                    *("abs", "exp", "expm1", "sin", "cos", "tan", "sinh", "cosh", "tanh"),
                    *("arcsin", "arccos", "arctan", "arcsinh", "arctanh"),
                )
            },
        }.items()
    },
    **{name: (getattr(np, name), (POSITIVE,)) for name in ("log", "log1p", "sqrt")},
    "arccosh": (np.arccosh, (POSITIVE + 1.5,)),
    "erf": (ops.erf, (REAL,)),
    "sigmoid": (ops.sigmoid, (REAL,)),
    "cast": (lambda x: x * 1j, (REAL,)),
    "add": (np.add, (REAL, OTHER)),
    "sub": (np.subtract, (REAL, OTHER)),
    "mul": (np.multiply, (REAL, OTHER)),
    "div": (np.divide, (REAL, OTHER)),
    "pow": (np.power, (POSITIVE, OTHER)),
    "minimum": (np.minimum, (REAL, OTHER)),
    "maximum": (np.maximum, (REAL, OTHER)),
    "atan2": (np.arctan2, (REAL, OTHER)),
    "remainder": (np.remainder, (np.array([7.3, -7.3, 2.2]), np.array([2.0, 2.0, -1.5]))),
    "where": (lambda x, y: np.where(x > y, x * x, y * y), (REAL, OTHER)),
    "broadcast": (lambda x: np.broadcast_to(x[:, None], (2, 3, 5, 4)) * 1.0, (REAL,)),
    "reshape": (lambda x: np.reshape(x, (2, 6)) @ np.arange(6.0), (REAL,)),
    "permute": (lambda x: np.transpose(x, (2, 0, 1)) ** 2, (CUBE,)),
    "slice": (lambda x: x[::-2, 1:3] * 2, (REAL,)),
    "concat": (lambda x, y: np.concatenate([x, y[:2], x**2]), (REAL, OTHER)),
    "gather": (lambda x: x[:, [0, 3, 3, 1]] * np.arange(4), (REAL,)),
    "sum": (lambda x: np.sum(x * x, axis=(0, 2)), (CUBE,)),
    "max": (lambda x: np.max(x, axis=(0, 2)), (CUBE,)),
    "prod": (lambda x: np.prod(x, axis=(0, 1)), (CUBE,)),
    "matmul": (lambda x, y: x @ y.T, (REAL, OTHER)),
    "matmul batched": (lambda x, y: x @ np.swapaxes(x * y, 1, 2), (CUBE, CUBE + 1)),
}
COMPLEX_PRIMITIVES = {
    **{
        name: (getattr(np, function), (COMPLEX,))
        for name, function in {
            "neg": "negative",
            "real": "real",
            "imag": "imag",
            "conj": "conj",
            **{
                name: name
                for name in (
                    *("abs", "sign", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos"),
                    *("tan", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "arcsinh"),
                    *("arccosh", "arctanh"),
                )
            },
        }.items()
    },
    "sigmoid": (ops.sigmoid, (COMPLEX,)),
    "cast": (lambda x, z: x * z, (REAL, COMPLEX)),
    "add": (np.add, (COMPLEX, REAL)),
    "mul": (np.multiply, (COMPLEX, COMPLEX.T.reshape(3, 4))),
    "div": (np.divide, (REAL, COMPLEX)),
    "pow": (np.power, (COMPLEX, COMPLEX * 0.5)),
    "where": (lambda z: np.where(z.real > 0, z * z, np.conj(z)), (COMPLEX,)),
    "sum": (lambda z: np.sum(z * z, axis=1), (COMPLEX,)),
    "prod": (lambda z: np.prod(z, axis=1), (COMPLEX,)),
    "matmul": (lambda z, x: z @ x.T, (COMPLEX, REAL)),
    "norm": (lambda z: np.linalg.norm(z, axis=0), (COMPLEX,)),
    "vdot": (lambda z: np.vdot(z, z * z), (COMPLEX,)),
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitive(tracing, name):
    function, inputs = PRIMITIVES[name]
    check_against_differences(tracing, function, *inputs)


@pytest.mark.parametrize("name", COMPLEX_PRIMITIVES)
def test_complex_primitive(tracing, name):
    function, inputs = COMPLEX_PRIMITIVES[name]
    check_against_differences(tracing, function, *inputs)


def test_every_rule_is_tested():
    """Transposes are reached by differentiating twice; sample rows by their own tests."""
    tested = {name.split()[0] for name in (*PRIMITIVES, *COMPLEX_PRIMITIVES)}
    assert set(RULES) - tested == {"embed", "scatter_add", "take_sample", "put_sample"}


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (lambda x: np.pad(x[1:], ((2, 0), (0, 1)))[::-1] * x[0, 0], "embed"),
        (lambda x: x[:, [0, 2, 2]] ** 2, "scatter_add"),
    ],
)
def test_second_derivatives(tracing, function, op):
    """The pullback is a graph like any other, and can be differentiated."""
    forward, pullback, _ = linearize(tracing.graph_of(function, REAL), [0])
    assert op in {node.op for node in pullback.nodes}
    out, *residuals = evaluate(forward, [REAL])
    inputs = [REAL, *residuals, random_like(RNG, out)]
    bar = random_like(RNG, REAL)
    twice, _ = pull(pullback, inputs, bar)
    tangents = [random_like(RNG, x) for x in inputs]
    change = directional(lambda *xs: evaluate(pullback, xs)[0], inputs, tangents)
    total = sum(inner(b, v) for b, v in zip(twice, tangents, strict=True))
    assert total == pytest.approx(inner(bar, change), rel=1e-8)


# Conventions


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        (np.abs, [-2.0, 0.0, 3.0], [-1.0, 0.0, 1.0]),
        (np.sign, [-2.0, 0.0, 3.0], [0.0, 0.0, 0.0]),
        (lambda x: np.maximum(x, 1.0), [0.0, 1.0, 2.0], [0.0, 0.5, 1.0]),
        (lambda x: np.minimum(1.0, x), [0.0, 1.0, 2.0], [1.0, 0.5, 0.0]),
        (lambda x: np.max(x), [1.0, 2.0, 2.0], [0.0, 0.5, 0.5]),
        (lambda x: np.min(x), [1.0, 1.0, 2.0], [0.5, 0.5, 0.0]),
        (np.floor, [0.0, 1.5, 2.0], [0.0, 0.0, 0.0]),
        (ops.relu, [-1.0, 0.0, 2.0], [0.0, 0.0, 1.0]),
        (ops.softplus, [-800.0, 0.0, 800.0], [0.0, 0.5, 1.0]),
        (lambda x: np.prod(x), [2.0, 0.0, 3.0], [0.0, 6.0, 0.0]),
        (lambda x: np.prod(x), [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]),
        (lambda x: x**2, [0.0, 1.0, -2.0], [0.0, 2.0, -4.0]),
        (lambda x: 0.0**x, [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]),
        (lambda x: np.where(x > 0, np.sqrt(np.where(x > 0, x, 1)), 0), [4.0, 0.0], [0.25, 0.0]),
    ],
)
def test_conventions(tracing, function, x, expected):
    x = np.array(x)
    graph = tracing.graph_of(function, x)
    (bar,), _ = pull(graph, [x], np.ones(graph.nodes[graph.outputs[0]].shape))
    np.testing.assert_array_equal(bar, expected)


def test_conventions_of_complex_numbers(tracing):
    z = np.array([0j, 3 + 4j])
    for function, expected in ((np.abs, [0, 0.6 + 0.8j]), (np.sign, [0, 0.128 - 0.096j])):
        graph = tracing.graph_of(function, z)
        (bar,), _ = pull(graph, [z], np.ones(2, evaluate(graph, [z])[0].dtype))
        np.testing.assert_allclose(bar, expected, rtol=1e-14)


@pytest.mark.parametrize("op", [*sorted(COMPARISONS), "isfinite", "isnan", "not", "and", "or"])
def test_conditions_carry_no_gradient(tracing, op):
    def function(x):
        chosen = {
            "lt": x < 1,
            "le": x <= 1,
            "eq": x == 1,
            "ne": x != 1,
            "isfinite": np.isfinite(x),
            "isnan": np.isnan(x),
            "not": ~(x < 0),
            "and": (x < 1) & (x > 0),
            "or": (x < 0) | (x > 1),
        }[op]
        return np.where(chosen, 1.0, 2.0)

    (bar,), zero = pull(tracing.graph_of(function, REAL), [REAL], REAL)
    assert zero == (True,)
    np.testing.assert_array_equal(bar, 0 * REAL)


def test_inputs_without_influence(tracing):
    """Their cotangents are zeros of their own shape and dtype, and are marked."""
    count = np.array([1, 2], dtype=np.int32)
    inputs = [REAL, np.float32(2.0).reshape(()), count, OTHER]

    def function(x, t, n, unused):
        return x * np.sum(n)

    bars, zero = pull(tracing.graph_of(function, *map(np.asarray, inputs)), inputs, REAL)
    assert zero == (False, True, True, True)
    np.testing.assert_array_equal(bars[0], 3 * REAL)
    assert [bar.shape for bar in bars] == [(3, 4), (), (2,), (3, 4)]
    assert not any(bar.any() for bar in bars[1:])


def test_default_is_everything_but_time(tracing):
    graph = tracing.trace_field(lambda t, y, args: t * y * args, REAL, OTHER)
    t, y = np.float64(2.0), REAL.ravel()
    forward, pullback, zero = linearize(graph)
    assert pullback.input_names[:3] == ("t", "y", "args")
    assert pullback.input_names[-1] == "k_bar"
    assert zero == (False, False)
    _, *residuals = evaluate(forward, [t, y, OTHER])
    y_bar, args_bar = evaluate(pullback, [t, y, OTHER, *residuals, np.ones(12)])
    np.testing.assert_allclose(y_bar, 2 * OTHER.ravel(), rtol=1e-15)
    np.testing.assert_allclose(args_bar, 2 * REAL, rtol=1e-15)


def test_by_time(tracing):
    graph = tracing.trace_field(lambda t, y, a: np.sin(t * y), REAL)
    bars, _ = pull(graph, [np.array(0.7), REAL.ravel()], np.ones(12), [0, 1])
    np.testing.assert_allclose(bars[0], np.sum(REAL * np.cos(0.7 * REAL)), rtol=1e-14)
    np.testing.assert_allclose(bars[1], (0.7 * np.cos(0.7 * REAL)).ravel(), rtol=1e-14)


# What is stored


def test_tanh_layer_stores_its_output_only(tracing):
    def function(y, W, b):
        return np.tanh(y @ W + b)

    graph = tracing.graph_of(function, REAL, RNG.normal(size=(4, 5)), np.zeros(5))
    forward, _, _ = linearize(graph, [0, 1, 2])
    assert [forward.nodes[i].op for i in forward.outputs] == ["tanh", "tanh"]


def test_polynomial_field_stores_nothing(tracing):
    def lotka_volterra(t, y, args):
        prey, predator = y
        a, b, c, d = args
        return np.stack([a * prey - b * prey * predator, d * prey * predator - c * predator])

    graph = tracing.trace_field(lotka_volterra, np.ones(2), np.ones(4))
    forward, pullback, _ = linearize(graph)
    assert len(forward.outputs) == 1
    # Gradients of the unpacked entries are put together, not added to zeros.
    assert "embed" not in {node.op for node in pullback.nodes}


def test_pieces_of_a_cotangent(tracing):
    """Slices that do not overlap are concatenated with zeros between; others are added up."""

    def apart(y):
        return y[1:3] * y[5:7]

    def overlapping(y):
        return y[0:4] * y[2:6]

    y = RNG.normal(size=8)
    for function, size in ((apart, 2), (overlapping, 4)):
        graph = tracing.graph_of(function, y)
        k_bar = RNG.normal(size=size)
        (bar,), _ = pull(graph, [y], k_bar)
        expected = np.zeros(8)
        starts = (1, 5) if function is apart else (0, 2)
        for i, j in (starts, starts[::-1]):
            expected[i : i + size] += k_bar * y[j : j + size]
        np.testing.assert_allclose(bar, expected, rtol=1e-15)
        _, pullback, _ = linearize(graph, [0])
        assert ("concat" in {node.op for node in pullback.nodes}) == (function is apart)


def test_relu_layer_stores_the_mask_only(tracing):
    graph = tracing.graph_of(lambda y, W: ops.relu(y @ W), REAL, RNG.normal(size=(4, 5)))
    forward, _, _ = linearize(graph, [0, 1])
    assert [forward.nodes[i].dtype for i in forward.outputs] == ["float64", "bool"]


# Against JAX


def mlp(t, y, args):
    h = y
    for W, b in args["layers"]:
        h = ops.tanh(h @ W + b)
    return h * ops.cos(t) + args["gain"] * y


def softmax_attention(t, y, args):
    Q, K, V = (y @ args[name] for name in ("q", "k", "v"))
    scores = ops.softmax(ops.matmul(Q, ops.matrix_transpose(K)) / 2.0, axis=-1)
    return ops.matmul(scores, V) - y


def stencil(t, y, args):
    left = ops.concat([y[:1], y[:-1]])
    right = ops.concat([y[1:], y[-1:]])
    return args * (left - 2 * y + right) - y * (right - left) / 2


def convolution(t, y, args):
    padded = ops.concat([y[-1:], y, y[:1]], axis=0)
    windows = ops.stack([padded[i : i + y.shape[0]] for i in range(3)], axis=-1)
    return ops.sum(windows * args, axis=-1)


def nested(t, y, args):
    position, momentum = y["position"], y["momentum"]
    force = -args["k"] * position - args["gamma"] * momentum + ops.sin(t)
    return {"position": momentum / args["m"], "momentum": force}


def gravity(t, y, args):
    position, velocity = y
    gap = position[:, None, :] - position[None, :, :]
    distance = ops.sqrt(ops.sum(gap * gap, axis=-1) + 0.01)
    pull = args[None, :, None] * gap / ops.expand_dims(distance**3, axis=-1)
    return (velocity, -ops.sum(pull, axis=1))


def activation(function):
    return lambda t, y, args: function(y @ args)


N = RNG.normal
FIELDS = {
    "linear": (lambda t, y, args: args @ y, N(size=4), N(size=(4, 4))),
    "lotka": (
        lambda t, y, a: ops.stack([a[0] * y[0] - a[1] * y[0] * y[1], y[1] * (a[2] * y[0] - a[3])]),
        np.array([1.0, 2.0]),
        N(size=4),
    ),
    "pendulum": (lambda t, y, a: ops.stack([y[1], -a * ops.sin(y[0]) - t]), N(size=2), N(size=())),
    "van der pol": (
        lambda t, y, mu: ops.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]]),
        N(size=2),
        N(size=()),
    ),
    "lorenz": (
        lambda t, y, a: ops.stack(
            [a[0] * (y[1] - y[0]), y[0] * (a[1] - y[2]) - y[1], y[0] * y[1] - a[2] * y[2]]
        ),
        N(size=3),
        N(size=3),
    ),
    "mlp": (
        mlp,
        N(size=(5, 3)),
        {"layers": [(N(size=(3, 7)), N(size=7)), (N(size=(7, 3)), N(size=3))], "gain": N(size=())},
    ),
    "attention": (
        softmax_attention,
        N(size=(4, 6)),
        {"q": N(size=(6, 5)), "k": N(size=(6, 5)), "v": N(size=(6, 6))},
    ),
    "stencil": (stencil, N(size=9), N(size=())),
    "convolution": (convolution, N(size=(8, 2)), N(size=3)),
    "nested": (
        nested,
        {"position": N(size=3), "momentum": N(size=3)},
        {"k": N(size=3), "gamma": N(size=()), "m": np.array(1.3)},
    ),
    "gravity": (gravity, (N(size=(3, 2)), N(size=(3, 2))), np.abs(N(size=3))),
    **{
        function.__name__: (activation(function), N(size=(3, 4)), N(size=(4, 4)))
        for function in (
            *(ops.relu, ops.gelu, ops.silu, ops.softplus, ops.sigmoid, ops.elu, ops.lipswish),
        )
    },
    "gelu tanh": (
        activation(lambda x: ops.gelu(x, approximate=True)),
        N(size=(3, 4)),
        N(size=(4, 4)),
    ),
    "logsumexp": (
        lambda t, y, a: y - ops.logsumexp(y * a, axis=1, keepdims=True),
        N(size=(3, 4)),
        N(size=4),
    ),
    "extrema": (
        lambda t, y, a: ops.maximum(y, a) + ops.minimum(y, 0.2) * ops.max(y) + ops.clip(y, -1, 1),
        N(size=(3, 4)),
        N(size=(3, 4)),
    ),
    "powers": (
        lambda t, y, a: abs(y) ** a + y**3 - 1 / (1 + y**2) + ops.hypot(y, 1.0),
        N(size=4),
        N(size=4),
    ),
    "pieces": (
        lambda t, y, a: ops.where(y > 0, a * y, ops.sin(a * y)) + ops.abs(y) + y * (y > 1),
        N(size=6),
        N(size=()),
    ),
    "norm layer": (
        lambda t, y, a: (
            a
            * (y - ops.mean(y, axis=1, keepdims=True))
            / ops.sqrt(ops.mean(y * y, axis=1, keepdims=True) + 1e-3)
        ),
        N(size=(3, 4)),
        N(size=4),
    ),
    "batched product": (
        lambda t, y, A: ops.matmul(A, y[:, :, None])[:, :, 0],
        N(size=(5, 3)),
        N(size=(5, 3, 3)),
    ),
    "product": (lambda t, y, a: y * ops.prod(a) + ops.prod(y, axis=0), N(size=(3, 2)), N(size=4)),
    "indices": (lambda t, y, a: y[::-1] * a[1:] + y[0] * a[-1] - y * y[-2], N(size=4), N(size=5)),
}


def jax_vjp(field):
    @jax.jit
    def run(t, y, args, k_bar):
        k, vjp = jax.vjp(lambda y, args: field(t, y, args), y, args)
        return k, *vjp(k_bar)

    return run


@pytest.mark.parametrize("name", FIELDS)
def test_against_jax(tracing, name):
    field, y, args = FIELDS[name]
    t = np.asarray(0.3)
    graph = tracing.trace_field(field, y, args)
    k = field(t, y, args)
    k_bar = jax.tree.map(lambda x: random_like(RNG, x), k)
    with jax.enable_x64(True):
        k_jax, y_bar, args_bar = jax.tree.map(np.asarray, jax_vjp(field)(t, y, args, k_bar))
    expected_k = tracing.flat_state(k_jax)
    inputs = [t, tracing.flat_state(y), *jax.tree.leaves(args)]
    np.testing.assert_allclose(evaluate(graph, inputs)[0], expected_k, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        evaluate(graph, inputs)[0], tracing.flat_state(k), rtol=1e-13, atol=1e-14
    )
    (actual_y, *actual), _ = pull(graph, inputs, tracing.flat_state(k_bar), range(1, len(inputs)))
    np.testing.assert_allclose(actual_y, tracing.flat_state(y_bar), rtol=1e-11, atol=1e-12)
    for bar, expected in zip(actual, jax.tree.leaves(args_bar), strict=True):
        np.testing.assert_allclose(bar, expected, rtol=1e-11, atol=1e-12)
