"""Every function of traced arrays gives what NumPy gives."""

import array_api_compat
import array_api_compat.numpy as compat
import numpy as np
import pytest
import scipy.special

from ndereg.trace import TraceError

RNG = np.random.default_rng(1)
X = RNG.normal(size=(3, 4))
Y = RNG.normal(size=(3, 4))
UNIT = RNG.uniform(-0.9, 0.9, size=(3, 4))
POSITIVE = RNG.uniform(0.1, 3.0, size=(3, 4))
Z = X + 1j * Y
V = RNG.normal(size=4)
CUBE = RNG.normal(size=(2, 3, 4))
INTEGERS = np.array([[3, -4, 7], [1, 0, -9]])
MASK = X > 0


def close(actual, expected, tolerance=1e-14):
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


UFUNCS = [
    *("add", "subtract", "multiply", "divide", "minimum", "maximum", "less", "less_equal"),
    *("greater", "greater_equal", "equal", "not_equal", "hypot", "logaddexp", "arctan2"),
    *("remainder", "floor_divide", "fmod", "copysign", "heaviside", "logical_and", "logical_or"),
    *("logical_xor",),
]


@pytest.mark.parametrize("name", UFUNCS)
def test_binary_ufunc(tracing, name):
    function = getattr(np, name)
    close(tracing.run(function, X, Y)[0], function(X, Y))
    close(tracing.run(function, X, V)[0], function(X, V))
    # One operand a NumPy array, on either side, or a number.
    close(tracing.run(lambda x: function(x, Y), X)[0], function(X, Y))
    close(tracing.run(lambda y: function(X, y), Y)[0], function(X, Y))
    close(tracing.run(lambda x: function(x, 0.75), X)[0], function(X, 0.75))


UNARY = {
    **dict.fromkeys(
        [
            *("negative", "positive", "absolute", "sign", "exp", "exp2", "expm1", "square"),
            *("sin", "cos", "tan", "sinh", "cosh", "tanh", "arctan", "arcsinh", "floor", "ceil"),
            *("trunc", "rint", "isnan", "isinf", "isfinite", "signbit", "cbrt", "logical_not"),
            *("deg2rad", "rad2deg", "fabs", "conjugate"),
        ],
        X,
    ),
    **dict.fromkeys(["log", "log2", "log10", "log1p", "sqrt", "reciprocal"], POSITIVE),
    **dict.fromkeys(["arcsin", "arccos", "arctanh"], UNIT),
    "arccosh": POSITIVE + 1,
}


@pytest.mark.parametrize("name", UNARY)
def test_unary_ufunc(tracing, name):
    function, x = getattr(np, name), UNARY[name]
    close(tracing.run(function, x)[0], function(x))


@pytest.mark.parametrize(
    "name",
    [
        *("negative", "absolute", "sign", "exp", "expm1", "log", "log1p", "sqrt", "square"),
        *("sin", "cos", "tan", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan"),
        *("arcsinh", "arccosh", "arctanh", "conjugate", "reciprocal", "isfinite", "isnan"),
    ],
)
def test_complex_ufunc(tracing, name):
    function = getattr(np, name)
    close(tracing.run(function, Z)[0], function(Z))


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_single_precision_stays(tracing, dtype):
    x = Z.astype(dtype) if dtype == "complex64" else X.astype(dtype)

    def function(x):
        return np.sum(np.tanh(2 * x) / 3.0 + x**2 - 1, axis=0) * np.pi

    close(tracing.run(function, x)[0], function(x), 1e-6)


OPERATORS = {
    "arithmetic": lambda x, y: 2 * x - y / 3 + 1 - (4 - x) * y + 5 / (1 + y * y),
    "modulo": lambda x, y: (x % 0.7) + (2.0 % y) + x // 0.3 + 3 // y,
    "powers": lambda x, y: x**2 + x**3 + x**5 + x**-2 + x**0 + x**1 + abs(y) ** 0.5 + x**10,
    "power": lambda x, y: abs(x) ** y + 2.0**y + abs(x) ** -0.5 + abs(x) ** 1.7,
    "negated": lambda x, y: -(+x) + abs(-y),
    "comparison": lambda x, y: (x < y) & (y <= 1) | ~(x > 0) ^ (y >= x),
    "equality": lambda x, y: (x == y) | (x != 0),
    "matmul": lambda x, y: x @ y.T,
    "divmod": lambda x, y: divmod(x, y)[0] + divmod(x, y)[1],
    "in place": lambda x, y: _in_place(x, y),
}


def _in_place(x, y):
    z = x * y
    z += 1
    z -= x
    z *= 2
    z /= 3
    z **= 2
    return z


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(tracing, name):
    function = OPERATORS[name]
    close(tracing.run(function, X, Y)[0], function(X, Y), 1e-13)


METHODS = {
    "attributes": lambda x: x.T @ x + x.mT @ x.real + x.ndim + len(x) + x.size + x.shape[0],
    "reshape": lambda x: x.reshape(4, -1) @ x.reshape((3, 4)),
    "flatten": lambda x: x.flatten() + x.ravel() + x.reshape(-1),
    "transpose": lambda x: x.transpose() + x.transpose(1, 0) + x.swapaxes(0, 1),
    "reductions": lambda x: x.sum() + x.mean() + x.max() + x.min() + x.prod() + x.std() + x.var(),
    "by axis": lambda x: x.sum(axis=1) + x.mean(1) + x.max(axis=-1) + x.min(1) + x.prod(axis=1),
    "keepdims": lambda x: x - x.mean(axis=0, keepdims=True) / x.std(axis=0, keepdims=True),
    "astype": lambda x: x.astype(np.float32).astype("float64") + x.astype(float),
    "copy": lambda x: x.copy() + x.conj() + x.conjugate(),
    "clip": lambda x: x.clip(-0.5, 0.5) + x.clip(max=0.1) + x.round(1),
    "dot": lambda x: x.dot(x.T),
    "cumsum": lambda x: x.cumsum(axis=1) + x.cumsum(0),
    "any": lambda x: (x > 0).any(axis=0) | (x > 0).all(axis=0),
    "diagonal": lambda x: x.diagonal() + x.trace(),
    "take": lambda x: x.take([2, 0], axis=1) + x.repeat(2, axis=1).take([0, 1], axis=1),
    "iteration": lambda x: sum(row * i for i, row in enumerate(x)),
    "unpacking": lambda x: np.stack(tuple(a - b for a, b in [x[:2]])),
    "squeeze": lambda x: x[:1].squeeze() + x[:, :1].squeeze(axis=1)[0],
}


@pytest.mark.parametrize("name", METHODS)
def test_methods(tracing, name):
    function = METHODS[name]
    close(tracing.run(function, X)[0], function(X), 1e-13)


NUMPY = {
    "sum": lambda x: np.sum(x, axis=(0, 1)) + np.sum(x, axis=-1).sum(keepdims=True),
    "mean": lambda x: np.mean(x) * np.average(x, axis=1) + np.average(x, 0, np.ones(3)).sum(),
    "spread": lambda x: np.std(x, axis=0, ddof=1) + np.var(x, axis=0) + np.ptp(x),
    "extrema": lambda x: np.max(x, axis=0) + np.min(x, axis=0) + np.amax(x) + np.amin(x),
    "logical": lambda x: np.any(x > 1, axis=0) | np.all(x > -1, axis=0),
    "count": lambda x: np.count_nonzero(x > 0, axis=0),
    "reduce": lambda x: np.add.reduce(x) + np.multiply.reduce(x, axis=0) + np.maximum.reduce(x),
    "accumulate": lambda x: np.add.accumulate(x, axis=1) + np.cumsum(x).reshape(3, 4),
    "where": lambda x: np.where(x > 0, x, 0.1 * x) + np.where(x < 0, 1, 2),
    "where mask": lambda x: np.where(MASK, x, 0),
    "clip": lambda x: np.clip(x, -1, 1) + np.clip(x, None, 0.3) + np.nan_to_num(x),
    "select": lambda x: np.select([x > 1, x > 0], [x, x**2], -1.0),
    "concatenate": lambda x: np.concatenate([x, np.ones((1, 4)), x[:2]]),
    "concatenate flat": lambda x: np.concatenate([x, Y], axis=None),
    "stack": lambda x: np.stack([x, Y], axis=1) + np.stack((x, x), 1),
    "stacks": lambda x: np.vstack([x, V]) @ np.hstack([x, x])[0, :4],
    "dstack": lambda x: np.dstack([x, x]) + np.column_stack([x[:, 0], x[:, 1]])[:, None, :],
    "append": lambda x: np.append(x, V[None], axis=0),
    "reshape": lambda x: np.reshape(x, (2, 6)) @ np.ravel(x)[:6],
    "transposes": lambda x: np.transpose(x) + np.swapaxes(x, 0, 1) + np.moveaxis(x, 0, 1),
    "expand": lambda x: np.expand_dims(x, (0, 2)) + np.atleast_2d(x)[None, :, None],
    "squeeze": lambda x: np.squeeze(x[None]) + np.squeeze(x[:, None], axis=1),
    "broadcast": lambda x: np.broadcast_to(x, (2, 3, 4)) * np.broadcast_arrays(x, CUBE)[1],
    "flip": lambda x: np.flip(x) + np.flip(x, 0) + np.fliplr(x) + np.flipud(x),
    "roll": lambda x: np.roll(x, 1, axis=0) + np.roll(x, -2, 1) + np.roll(x, 5),
    "roll axes": lambda x: np.roll(x, (1, 2), axis=(0, 1)),
    "repeat": lambda x: np.repeat(x, 2, axis=0) + np.repeat(x, [1, 2, 3], axis=0),
    "tile": lambda x: np.tile(x, 2) + np.tile(x, (1, 2)),
    "take": lambda x: np.take(x, [[0, 1], [2, 0]], axis=0) + np.take(x, [1, 3]).sum(),
    "split": lambda x: np.split(x, 2, axis=1)[1] + np.array_split(x, [1, 3], axis=1)[1],
    "array_split": lambda x: np.array_split(x, 3, axis=1)[0][:, :1] + np.unstack(x)[0],
    "diff": lambda x: np.diff(x) + np.diff(x, n=2, axis=0)[:, :3],
    "pad": lambda x: np.pad(x, ((1, 2), (0, 1))) + np.pad(x, ((2, 1), (1, 0)), mode="edge"),
    "pad around": lambda x: np.pad(x, 1, mode="wrap") + np.pad(x, 1, mode="reflect"),
    "triangles": lambda x: np.tril(x) + np.triu(x, k=1) * 2 + np.trace(x),
    "diagonal": lambda x: np.diagonal(x, offset=1) + np.diagonal(x, -1)[0],
    "meshgrid": lambda x: np.meshgrid(x[0], x[1])[0] + np.meshgrid(x[0], V, indexing="ij")[1],
    "dot": lambda x: np.dot(x, V) + np.inner(x, V) + np.vdot(x, Y) + np.matmul(x, V),
    "dot cube": lambda x: np.dot(x, CUBE.transpose(0, 2, 1)),
    "outer": lambda x: np.outer(x, V) * np.multiply.outer(x, V).reshape(12, 4),
    "tensordot": lambda x: np.tensordot(x, CUBE, axes=([0, 1], [1, 2])) + np.tensordot(x, Y),
    "cross": lambda x: np.cross(x[:, :3], x[:, 1:]) + np.cross(x.T, Y.T).sum(),
    "norm": lambda x: np.linalg.norm(x, axis=1) + np.linalg.norm(x) + np.linalg.norm(x, 1, 1),
    "norms": lambda x: (
        np.linalg.norm(x, np.inf, axis=0) + np.linalg.norm(x, 3, axis=0, keepdims=True)
    ),
    "vecdot": lambda x: np.vecdot(x, Y) + np.vecdot(x, V),
    "like": lambda x: np.zeros_like(x) + np.ones_like(x) * np.full_like(x, 3.0),
    "interp": lambda x: np.interp(x, [-1.0, -0.3, 0.4, 2.0], [3.0, 1.0, -1.0, 0.5]),
    "interp ends": lambda x: np.interp(x, [-0.1, 0.1], [1.0, 2.0], left=-7.0, right=7.0),
    "sinc": lambda x: np.sinc(x) + np.sinc(0 * x),
    "round": lambda x: np.round(x, 1) + np.around(x),
    "integers": lambda x: x * np.arange(4) + np.array([1, 2, 3, 4], dtype=np.int32),
    "queries": lambda x: x * np.shape(x)[0] + np.ndim(x) + np.size(x),
    "matvec": lambda x: np.matvec(CUBE, x[0]) + np.matvec(x[None], V),
    "dot scalar": lambda x: np.dot(x, 2.0) + np.inner(3.0, x),
    "inner": lambda x: np.inner(x, CUBE),
    "booleans": lambda x: ((x > 0) + (x > 1)) * (x < 2) | np.minimum(x > 0, x < 1),
    "sum of booleans": lambda x: (
        np.sum(x > 0, axis=1) + np.mean(x > 0) + np.sum(x > 0, dtype=float)
    ),
    "float power": lambda x: (
        np.float_power(np.abs(x), 2) + np.angle(x) + np.angle(x + 1j, deg=True)
    ),
    "average": lambda x: np.average(x, axis=1, weights=V),
    "zero norm": lambda x: np.linalg.norm(x * MASK, 0, axis=1) + np.linalg.norm(x, -np.inf, axis=1),
    "interp constant": lambda x: np.interp(x, [0.5], [2.0]),
    "pad nothing": lambda x: np.pad(x, ((0, 0), (1, 0)), constant_values=3.0),
    "atleast": lambda x: np.atleast_1d(x[0, 0]) + np.atleast_2d(x[0])[0] + np.atleast_1d(x, x)[1],
    "linspace": lambda x: x + np.linspace(0, 1, 4) * np.eye(3, 4),
}


@pytest.mark.parametrize("name", NUMPY)
def test_numpy_functions(tracing, name):
    function = NUMPY[name]
    close(tracing.run(function, X)[0], function(X), 1e-13)


EINSUMS = [
    ("ij,jk->ik", X, CUBE[0].T),
    ("ij,ij->", X, Y),
    ("ij->ji", X),
    ("ij->j", X),
    ("ii->i", X[:, :3]),
    ("ii", X[:, :3]),
    ("bij,bjk->bik", CUBE, CUBE.transpose(0, 2, 1)),
    ("bij,j->bi", CUBE, V),
    ("i,j->ij", V, V),
    ("ij,jk", X, Y.T),
    ("...j,j->...", CUBE, V),
    ("...ij,...kj->...ik", CUBE, X),
    ("bij,bj,bi->b", CUBE, X[:2], X[:2, :3]),
    ("ij,kj->ikj", X, Y),
    ("bhqd,bhkd->bhqk", CUBE[None], CUBE[None]),
]


@pytest.mark.parametrize(("subscripts", "operands"), [(e[0], e[1:]) for e in EINSUMS])
def test_einsum(tracing, subscripts, operands):
    actual = tracing.run(lambda *xs: np.einsum(subscripts, *xs), *operands)[0]
    close(actual, np.einsum(subscripts, *operands), 1e-13)


MATMULS = [
    ((3, 4), (4, 2)),
    ((4,), (4, 2)),
    ((3, 4), (4,)),
    ((4,), (4,)),
    ((5, 3, 4), (4, 2)),
    ((5, 3, 4), (4,)),
    ((4,), (5, 4, 2)),
    ((3, 4), (5, 4, 2)),
    ((3, 4), (5, 4, 1)),
    ((5, 3, 4), (5, 4, 2)),
    ((2, 1, 3, 4), (5, 4, 2)),
    ((1, 3, 4), (5, 4, 2)),
    ((5, 1, 3, 4), (1, 4, 2)),
]


@pytest.mark.parametrize(("left", "right"), MATMULS)
def test_matmul(tracing, left, right):
    x, y = RNG.normal(size=left), RNG.normal(size=right)
    close(tracing.run(np.matmul, x, y)[0], x @ y, 1e-13)
    close(tracing.run(lambda x, y: x @ (1j * y), x, y)[0], x @ (1j * y), 1e-13)


def test_matmul_with_one_matrix_is_one_product(tracing):
    """Batched vectors times a matrix, written either way, become one two-dimensional product."""
    W, y = RNG.normal(size=(6, 4)), RNG.normal(size=(5, 4))
    for function in (
        lambda W, y: y @ W.T,
        lambda W, y: (W @ y[..., None])[..., 0],
        lambda W, y: np.einsum("ij,bj->bi", W, y),
    ):
        graph = tracing.graph_of(function, W, y)
        shapes = [node.shape for node in graph.nodes if node.op == "matmul"]
        assert shapes in ([(5, 6)], [(6, 5)])
        close(tracing.run(function, W, y)[0], y @ W.T, 1e-13)


NAMESPACE = {
    "elementwise": lambda xp, x: xp.exp(xp.sin(x)) + xp.abs(x) * xp.sign(x) + xp.square(xp.tanh(x)),
    "inverse": lambda xp, x: xp.atan2(x, xp.atan(x) + 3) + xp.asinh(x) + xp.log1p(xp.square(x)),
    "complex": lambda xp, x: xp.real(xp.astype(x, xp.complex128) * 1j) + xp.imag(x * 1j),
    "choice": lambda xp, x: xp.where(x > 0, x, 0.0) + xp.clip(x, -1.0, 1.0) + xp.maximum(x, x**2),
    "reductions": lambda xp, x: xp.sum(x, axis=0) + xp.mean(x, axis=0) + xp.std(x, axis=0),
    "correction": lambda xp, x: xp.var(x, axis=0, correction=1) + xp.prod(x, axis=0) + xp.max(x),
    "manipulation": lambda xp, x: xp.concat([x, xp.flip(x, axis=0)], axis=0),
    "permutation": lambda xp, x: xp.permute_dims(x, (1, 0)) + xp.matrix_transpose(x),
    "shape": lambda xp, x: xp.reshape(x, (-1,)) * xp.reshape(xp.expand_dims(x, axis=0), (12,)),
    "unstack": lambda xp, x: xp.stack(list(xp.unstack(x, axis=1)), axis=0),
    "roll": lambda xp, x: xp.roll(x, 1, axis=1) - 2 * x + xp.roll(x, -1, axis=1),
    "moveaxis": lambda xp, x: xp.moveaxis(x, 0, 1) + xp.squeeze(x[None], axis=0).T,
    "creation": lambda xp, x: x + xp.zeros((3, 4)) + xp.ones(4) * xp.full((3, 1), 2.0),
    "nested": lambda xp, x: xp.asarray([[x[0, 0], 1.0], [2, x[1, 1]]]) + xp.asarray([x[0, 0], 3]),
    "eye": lambda xp, x: x * xp.eye(3, 4) + 0 * xp.empty_like(x),
    "like": lambda xp, x: xp.zeros_like(x) + xp.ones_like(x) + xp.full_like(x, 2.0),
    "arange": lambda xp, x: x * xp.arange(4, dtype=x.dtype) + xp.linspace(0.0, 1.0, 4),
    "asarray": lambda xp, x: x * xp.asarray(V) + xp.asarray(2.0, dtype=x.dtype),
    "linear algebra": lambda xp, x: xp.matmul(x, x.T) + xp.tensordot(x, x, axes=((1,), (1,))),
    "vecdot": lambda xp, x: xp.vecdot(x, x) + xp.linalg.vector_norm(x, axis=1) + xp.sum(x, axis=1),
    "norm": lambda xp, x: xp.linalg.vector_norm(x, axis=0, ord=1) + xp.linalg.vector_norm(x),
    "outer": lambda xp, x: xp.linalg.outer(x[0, :], x[1, :]),
    "cumulative": lambda xp, x: xp.cumulative_sum(x, axis=1) + xp.diff(x, axis=1)[:, :1],
    "initial": lambda xp, x: xp.cumulative_sum(x, axis=0, include_initial=True),
    "tile": lambda xp, x: xp.tile(x, (2, 1)) + xp.repeat(x, 2, axis=0),
    "take": lambda xp, x: xp.take(x, xp.asarray([3, 1]), axis=1),
    "logic": lambda xp, x: xp.logical_and(x > 0, xp.logical_not(x > 1)) | xp.isnan(x),
    "dtypes": lambda xp, x: xp.astype(x > 0, x.dtype) + xp.finfo(x.dtype).eps,
    "constants": lambda xp, x: x * xp.pi + xp.e + xp.where(x > 3, xp.inf, 0.0),
    "trace": lambda xp, x: xp.linalg.trace(x[:, :3]) + xp.linalg.diagonal(x[:, :3]),
    "hypot": lambda xp, x: xp.hypot(x, 1 + x) + xp.logaddexp(x, 2 * x) + xp.copysign(x, -x),
    "remainder": lambda xp, x: xp.remainder(x, 0.3 + x**2) + xp.floor(x) + xp.ceil(x) + xp.trunc(x),
}


@pytest.mark.parametrize("name", NAMESPACE)
def test_namespace(tracing, name):
    function = NAMESPACE[name]

    def with_namespace(x):
        return function(array_api_compat.array_namespace(x), x)

    close(tracing.run(with_namespace, X)[0], function(compat, X), 1e-13)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: np.linalg.norm(x, 2), "the matrix norm ord=2"),
        (lambda x: np.linalg.norm(x, "nuc", axis=(0, 1)), "the matrix norm"),
        (lambda x: np.linalg.matrix_norm(x, ord=2), "matrix_norm with ord=2"),
        (lambda x: np.reshape(x, (4, 3), order="F"), "reshape with order='F'"),
        (lambda x: np.pad(x, 1, mode="median"), "pad with mode='median'"),
        (lambda x: np.einsum(x, [0, 1], [0]), "einsum with lists"),
        (lambda x: -(x > 0), "neg of a boolean"),
        (lambda x: (x > 0) - (x < 1), "difference of booleans"),
        (lambda x: np.max(x > 0), "maximum of bool"),
        (lambda x: np.arange(3) ** -np.sum(x > 0), "integer to a power"),
        (lambda x: (x > 0) @ (x > 0).T, "product of boolean"),
        (lambda x: np.bitwise_and(np.sum(x > 0), 1), "bitwise_and of integers"),
        (lambda x: np.nan_to_num(x * 1j), "nan_to_num of a complex"),
        (lambda x: x[True], "an index True"),
    ],
)
def test_refused_variants(tracing, function, words):
    with pytest.raises(TraceError) as caught:
        tracing.run(function, X)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.einsum("ij,jk", x),
        lambda x: np.einsum("ijk->i", x),
        lambda x: np.tensordot(x, x, axes=1),
        lambda x: np.cross(x, x),
        lambda x: x @ 2.0,
        lambda x: np.transpose(x, (0, 0)),
        lambda x: np.squeeze(x, axis=0),
        lambda x: np.concatenate([x[0, 0], x]),
        lambda x: np.split(x, 3, axis=1),
        lambda x: np.sum(x, axis=(0, 0)),
        lambda x: np.max(x[:0], axis=0),
        lambda x: np.select([x > 0], [x, x]),
        lambda x: np.interp(x, [1.0, 0.0], [0.0, 1.0]),
        lambda x: np.interp(x, [0.0, 1.0], [0.0, 1.0, 2.0]),
        lambda x: x[0].mT,
    ],
)
def test_wrong_shapes(tracing, function):
    with pytest.raises(ValueError):
        tracing.run(function, X)


def test_special_functions_of_scipy(tracing):
    close(tracing.run(scipy.special.expit, X)[0], scipy.special.expit(X))
    close(tracing.run(scipy.special.erf, X)[0], scipy.special.erf(X))


def test_integer_arithmetic(tracing):
    def function(n):
        return n * 2 + n**2 - n // 2 + n % 3, n / 2, n > 0, np.sin(n), np.mean(n), abs(n)

    for actual, expected in zip(tracing.run(function, INTEGERS), function(INTEGERS), strict=True):
        close(actual, expected)


def test_promotion_follows_numpy(tracing):
    single = X.astype(np.float32)

    def function(x):
        return (
            x * 2,
            x * 2.5,
            x * 1j,
            x * np.float64(2),
            x + np.arange(4),
            x / np.int64(2),
            np.where(x > 0, x, 1),
            np.concatenate([x, Y]),
        )

    for actual, expected in zip(tracing.run(function, single), function(single), strict=True):
        close(actual, expected, 1e-6)


@pytest.mark.parametrize("values", [[np.nan, np.inf, -np.inf, 0.0, -0.0, 1e308, -1e308]])
def test_non_finite_values_pass_through(tracing, values):
    x = np.array(values)

    def function(x):
        return 0 * x, x * 1, np.logaddexp(x, 0.0), np.maximum(x, 0), np.nan_to_num(x), np.isinf(x)

    with np.errstate(all="ignore"):
        expected = function(x)
    for actual, value in zip(tracing.run(function, x), expected, strict=True):
        np.testing.assert_array_equal(actual, value)
