"""The functions for portable fields are the same on every framework, derivatives included."""

import math
import subprocess
import sys

import jax
import numpy as np
import pytest
import scipy.special
import torch

from ndereg import ops
from ndereg.trace import evaluate, linearize
from ndereg.trace.builder import Builder
from ndereg.trace.value import building, lift, wrap

X = np.array([[-30.0, -2.5, -1.0], [0.0, 0.3, 40.0]])
UNIT = np.array([[-0.9, -0.5, 0.0], [0.1, 0.5, 0.9]])
OTHER = np.array([[1.0, -2.5, 0.5], [0.0, 0.2, -3.0]])

UNARY = {
    **dict.fromkeys(
        [
            *("abs", "asinh", "atan", "cos", "elu", "erf", "gelu", "lipswish", "relu", "sigmoid"),
            *("sign", "silu", "sin", "softplus", "square", "tanh", "expm1", "exp", "real", "conj"),
        ],
        X,
    ),
    **dict.fromkeys(["asin", "acos", "atanh", "tan", "sinh", "cosh"], UNIT * 0.9 + 0.05),
    **dict.fromkeys(["log", "log1p", "sqrt"], np.abs(UNIT) + 0.1),
    "acosh": np.abs(UNIT) + 1.5,
}
FUNCTIONS = {
    **{name: (getattr(ops, name), (x,)) for name, x in UNARY.items()},
    **{name: (getattr(ops, name), (X, OTHER)) for name in ("minimum", "maximum", "logaddexp")},
    **{name: (getattr(ops, name), (X + 0.1, OTHER)) for name in ("atan2", "hypot")},
    "gelu tanh": (lambda x: ops.gelu(x, approximate=True), (X,)),
    "number first": (lambda x: ops.maximum(-1.0, x) + ops.minimum(2, x), (X,)),
    "number second": (lambda x: ops.maximum(x, -1.0) * ops.logaddexp(x, 0.0), (X,)),
    "where": (lambda x, y: ops.where(x > y, x, 0.0) + ops.where(x < 0, 1.0, y), (X, OTHER)),
    "clip": (lambda x: ops.clip(x, -1.0, 1.0) + ops.clip(x, high=0.5), (X,)),
    "matmul": (lambda x, y: ops.matmul(x, ops.matrix_transpose(y)), (X, OTHER)),
    "sum": (lambda x: ops.sum(x, axis=1) + ops.sum(x) + ops.prod(x, axis=-1), (OTHER,)),
    "mean": (lambda x: x - ops.mean(x, axis=0, keepdims=True) * ops.mean(x), (X,)),
    "max": (lambda x: ops.max(x, axis=1) - ops.min(x, axis=1) + ops.max(x) + ops.min(x), (X,)),
    "softmax": (lambda x: ops.softmax(x) + ops.softmax(x, axis=0), (X,)),
    "logsumexp": (lambda x: ops.logsumexp(x, axis=1) + ops.logsumexp(x, axis=0)[1], (X,)),
    "shapes": (lambda x: ops.reshape(x, (3, 2)) + ops.reshape(ops.reshape(x, -1), (3, 2)), (X,)),
    "axes": (lambda x: ops.squeeze(ops.expand_dims(x, axis=1), axis=1), (X,)),
    "permute": (lambda x: ops.permute_dims(x, (1, 0)) + ops.broadcast_to(x[0], (2, 3)).T, (X,)),
    "joined": (
        lambda x, y: ops.concat([x, y], axis=1) + ops.stack([x, y], axis=1).reshape(2, 6),
        (X, OTHER),
    ),
    "conv": (
        lambda x, w: ops.conv(x, w) + ops.sum(ops.conv(x, w, stride=(2, 1), padding=(2, 1))),
        (np.sin(np.arange(2 * 3 * 5 * 4.0)).reshape(2, 3, 5, 4), OTHER.reshape(1, 3, 2, 1)),
    ),
    "conv in one dimension": (
        lambda x, w: ops.conv(x, w, padding=1) - ops.mean(ops.conv(x, w, stride=2)),
        (np.sin(np.arange(2 * 2 * 6.0)).reshape(2, 2, 6), np.cos(np.arange(12.0)).reshape(2, 2, 3)),
    ),
    "normalizations": (
        lambda x, y: (
            ops.group_norm(x[:, None], 1, y[0, :1], y[1, :1])[:, 0]
            + ops.layer_norm(x, y[0], y[1])
            + ops.layer_norm(x, axes=2, epsilon=0.1)
        ),
        (OTHER, UNIT),
    ),
    "scan": (
        lambda x, y: (
            ops.scan(lambda c, r: ops.tanh(c * r + y[0]), y[1], x, reverse=True)
            + ops.scan(lambda c, r: c * r, y[1], x)
            + ops.sum(x * ops.scan(lambda c, r: c * r, y[1], x, every=True), axis=0)
            + ops.sum(x * ops.scan(lambda c, r: c + r, y[0], x, reverse=True, every=True), axis=0)
        ),
        (OTHER, UNIT),
    ),
    "like": (lambda x: x * ops.ones_like(x) + ops.zeros_like(x), (X,)),
}


def with_trace(function, inputs, bar):
    builder = Builder()
    with building(builder):
        nodes = [builder.input(f"x{i}", x.shape, x.dtype.name) for i, x in enumerate(inputs)]
        graph = builder.build([lift(function(*map(wrap, nodes)))])
    forward, pullback, _ = linearize(graph)
    out, *residuals = evaluate(forward, inputs)
    return out, evaluate(pullback, [*inputs, *residuals, bar(out)])


def with_torch(function, inputs, bar):
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    out = function(*tensors)
    cotangent = torch.as_tensor(bar(out.detach().numpy()))
    grads = torch.autograd.grad(out, tensors, cotangent, allow_unused=True)
    pairs = zip(grads, tensors, strict=True)
    return out.detach().numpy(), [
        (torch.zeros_like(x) if grad is None else grad).numpy() for grad, x in pairs
    ]


def with_jax(function, inputs, bar):
    @jax.jit
    def run(bar, *inputs):
        out, vjp = jax.vjp(function, *inputs)
        return out, vjp(bar)

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, run(bar(function(*inputs)), *inputs))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_frameworks_agree(name):
    function, inputs = FUNCTIONS[name]
    expected = function(*inputs)

    def bar(out):
        return np.cos(np.arange(out.size, dtype=out.dtype)).reshape(out.shape)

    traced, traced_bars = with_trace(function, inputs, bar)
    np.testing.assert_allclose(traced, expected, rtol=1e-13)
    for run in (with_torch, with_jax):
        out, bars = run(function, inputs, bar)
        assert out.dtype == expected.dtype
        np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-15)
        for actual, grad in zip(traced_bars, bars, strict=True):
            np.testing.assert_allclose(actual, grad, rtol=1e-10, atol=1e-13)


def test_every_function_is_tested():
    tested = {
        *UNARY,
        *("minimum", "maximum", "atan2", "hypot", "logaddexp", "where", "clip", "matmul", "sum"),
        *("mean", "max", "min", "prod", "softmax", "logsumexp", "reshape", "expand_dims"),
        *("squeeze", "permute_dims", "matrix_transpose", "broadcast_to", "concat", "stack"),
        *("ones_like", "zeros_like", "imag", "conv", "group_norm", "layer_norm", "scan"),
    }
    assert tested == set(ops.__all__)


def test_convolutions_are_those_of_pytorch():
    x, w = np.sin(np.arange(180.0)).reshape(2, 3, 6, 5), np.cos(np.arange(72.0)).reshape(2, 3, 4, 3)
    for stride, padding in [(1, 0), (2, 1), ((1, 3), (0, 2))]:
        expected = torch.conv2d(torch.tensor(x), torch.tensor(w), stride=stride, padding=padding)
        result = ops.conv(x, w, stride=stride, padding=padding)
        np.testing.assert_allclose(result, expected.numpy(), rtol=1e-12, atol=1e-13)


def test_normalizations_are_those_of_pytorch():
    x, y = np.sin(np.arange(96.0)).reshape(2, 4, 3, 4), np.linspace(-1, 2, 4)
    given = torch.tensor(x), torch.tensor(y)
    expected = torch.nn.functional.group_norm(given[0], 2, given[1], given[1], 1e-3)
    result = ops.group_norm(x, 2, y, y, epsilon=1e-3)
    np.testing.assert_allclose(result, expected.numpy(), rtol=1e-12)
    expected = torch.nn.functional.layer_norm(given[0], (4,), given[1], given[1])
    np.testing.assert_allclose(ops.layer_norm(x, y, y), expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "weight", "padding"),
    [((2, 3, 4), (2, 2, 3), 0), ((3, 4), (1, 3, 4), 0), ((2, 3, 2), (2, 3, 5), 1)],
)
def test_convolutions_that_do_not_fit_are_refused(x, weight, padding):
    with pytest.raises(ValueError, match=r"expected .* received"):
        ops.conv(np.ones(x), np.ones(weight), padding=padding)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["sigmoid", "softplus", "silu", "gelu", "relu", "elu", "softmax"])
def test_no_overflow(name, dtype):
    """No warning, which would be an error here, and the limits are right."""
    x = np.array([-1e4, -200.0, 0.0, 200.0, 1e4], dtype=dtype)
    out = getattr(ops, name)(x)
    assert out.dtype == dtype
    assert np.isfinite(out).all()
    if name in {"softplus", "silu", "gelu", "relu", "elu"}:
        np.testing.assert_allclose(out[-2:], x[-2:])


def test_values():
    x = np.linspace(-6, 6, 25)
    np.testing.assert_allclose(ops.sigmoid(x), scipy.special.expit(x), rtol=1e-14)
    np.testing.assert_allclose(ops.erf(x), scipy.special.erf(x), rtol=1e-14)
    np.testing.assert_allclose(ops.gelu(x), x * scipy.special.ndtr(x), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(ops.gelu(x, approximate=True), ops.gelu(x), atol=5e-4)
    np.testing.assert_allclose(ops.softplus(x), np.logaddexp(x, 0), rtol=1e-14)
    np.testing.assert_allclose(ops.lipswish(x), 0.909 * x * scipy.special.expit(x), rtol=1e-14)
    np.testing.assert_allclose(ops.elu(x, 0.5), np.where(x > 0, x, 0.5 * np.expm1(x)), rtol=1e-14)
    np.testing.assert_allclose(ops.logsumexp(x, axis=0), scipy.special.logsumexp(x), rtol=1e-14)
    assert ops.sigmoid(np.array(-700.0)) == pytest.approx(math.exp(-700), rel=1e-14)


def test_not_a_number_stays():
    x = np.array([np.nan])
    for name in ("relu", "elu", "softplus", "silu", "gelu", "sigmoid", "tanh"):
        assert np.isnan(getattr(ops, name)(x)).all()


@pytest.mark.parametrize("make", [np.asarray, jax.numpy.asarray])
def test_complex_arrays(make):
    z = np.array([1 + 2j, -0.5j])
    for name in ("conj", "real", "imag", "abs", "exp", "tanh", "square"):
        with jax.enable_x64(True):
            actual = np.asarray(getattr(ops, name)(make(z)))
        expected = np.square(z) if name == "square" else getattr(np, name)(z)
        np.testing.assert_allclose(actual, expected, rtol=1e-14)


def test_numpy_constants_mix_with_jax():
    out = ops.concat([jax.numpy.ones(2), np.zeros(1)])
    assert isinstance(out, jax.Array)


def test_under_transformations():
    x = torch.linspace(-2, 2, 5)
    torch.testing.assert_close(torch.func.vmap(ops.gelu)(x), ops.gelu(x))
    y = jax.numpy.linspace(-2, 2, 5)
    total = jax.grad(lambda y: ops.silu(y).sum())
    np.testing.assert_allclose(jax.vmap(jax.grad(ops.silu))(y), total(y))


def test_import_brings_no_framework():
    code = (
        "import sys, ndereg.ops\n"
        "print([m for m in ('numpy', 'torch', 'jax', 'numba') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
