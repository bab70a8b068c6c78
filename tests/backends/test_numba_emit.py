"""Emitted kernels compute what their graphs do."""

import math
import os
import re
import subprocess
import sys
import types

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from tests.backends.emitted_fields import FIELDS, array, perceptron_graph
from tests.trace.conftest import trace_field

from ndereg import ops
from ndereg.backends.numba.emit import HEADER, emit
from ndereg.backends.numba.lowering import lower
from ndereg.backends.numba.module import load
from ndereg.trace import evaluate, linearize
from ndereg.trace.builder import Builder
from ndereg.trace.primitives import BINARY, UNARY, takes_complex

TOLERANCE = {"float32": 3e-5, "complex64": 3e-5, "float64": 3e-13, "complex128": 3e-13}
SAMPLE = 3


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """Kernels of these tests are compiled anew, and leave nothing behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NDEREG_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
        yield


# Running a kernel, compiled or as plain Python


def compiled(kernel):
    """The compiled function of a kernel."""
    return getattr(load(HEADER + kernel.source), kernel.name)


def interpreted(kernel):
    """The text of a kernel run by Python, which is slow, but needs no compilation."""
    names = {"math": math, "np": np, "kernel": lambda function: function, **INTERPRETED}
    exec(kernel.source, names)
    return names[kernel.name]


def _gemm(m, n, k, *rest):
    def matrix(entries, offset, stride, transposed, rows, columns):
        if transposed:
            return matrix(entries, offset, stride, False, columns, rows).T
        strides = (stride * entries.itemsize, entries.itemsize)
        return np.lib.stride_tricks.as_strided(entries[offset:], (rows, columns), strides)

    a, b, (entries, offset, stride, add) = rest[:4], rest[4:8], rest[8:]
    result = matrix(entries, offset, stride, False, m, n)
    result[...] = (result if add else 0) + matrix(*a, m, k) @ matrix(*b, k, n)


def _gemv(m, n, a, a_offset, a_stride, a_transposed, x, x_offset, y, y_offset, add):
    _gemm(m, 1, n, a, a_offset, a_stride, a_transposed, x, x_offset, 1, False, y, y_offset, 1, add)


INTERPRETED = {
    **{name: getattr(np, name) for name in ("exp", "expm1", "log", "log1p", "sin", "cos", "tan")},
    **{name: getattr(np, name) for name in ("sinh", "cosh", "tanh", "sign", "floor", "ceil")},
    "sigmoid": lambda x: type(x)(1) / (1 + np.exp(-x)),
    "erf": lambda x: type(x)(math.erf(x)),
    "nearest": np.rint,
    "smaller": np.minimum,
    "larger": np.maximum,
    "is_finite": np.isfinite,
    "is_nan": np.isnan,
    "select": lambda condition, x, y: x if condition else y,
    "plus": lambda total, x: total + x,
    "times": lambda total, x: total * x,
    "entries": lambda array: array.reshape(-1),
    "gemm": _gemm,
    "gemv": _gemv,
}


def scratch(specifications):
    """Arrays full of what must not be read."""
    return tuple(np.full(size, 77, dtype) for dtype, size in specifications)


def inputs_of(graph, seed=0):
    """Random values for the inputs of a graph."""
    rng = np.random.default_rng(seed)
    values = []
    for i, name in zip(graph.inputs, graph.input_names, strict=True):
        node = graph.nodes[i]
        if name == "sample":
            values.append(np.array(SAMPLE))
        elif name == "t":
            values.append(np.full(node.shape, 0.37, node.dtype))
        elif node.dtype.startswith("complex"):
            value = rng.normal(size=node.shape) + 1j * rng.normal(size=node.shape)
            values.append(value.astype(node.dtype))
        else:
            values.append(np.array(2 * rng.normal(size=node.shape)).astype(node.dtype))
    return values


def close(received, expected, what):
    """Equal up to rounding, relative to the largest entry; equal NaN and infinities."""
    if expected.dtype.kind not in "fc":
        np.testing.assert_array_equal(received, expected, err_msg=what)
        return
    tolerance = TOLERANCE[expected.dtype.name]
    finite = np.abs(expected[np.isfinite(expected)])
    scale = max(1.0, float(finite.max(initial=0.0)))  # below 1 is what is left of a cancellation
    np.testing.assert_allclose(received, expected, tolerance, tolerance * scale, err_msg=what)


def check_field(graph, run=compiled):
    """The field kernel against the graph."""
    kernel = emit(graph, "field")
    values = inputs_of(graph)
    t, y, *args = values
    tail = [int(args.pop())] if graph.input_names[-1] == "sample" else []
    (expected,) = evaluate(graph, values)
    out = np.full(y.size, 77, y.dtype)
    with np.errstate(all="ignore"):
        run(kernel)(
            *(float(t.flat[0]), y.reshape(-1), tuple(args), scratch(kernel.work), out),
            *(kernel.dims, kernel.constants, *tail),
        )
    close(out, expected.reshape(-1), "field")
    return kernel


def check(graph, run=compiled):
    """All three kernels of a field against its graphs."""
    kernel = check_field(graph, run)
    linear = linearize(graph)
    forward = emit(linear.forward, "linearize", "linearize")
    pullback = emit(linear.pullback, "pullback", "pullback", linear.zero)
    assert forward.residuals == pullback.residuals
    values = inputs_of(graph)
    t, y, *args = values
    sample = [args.pop()] if graph.input_names[-1] == "sample" else []
    tail = [int(index) for index in sample]
    expected, *stored = evaluate(linear.forward, values)
    out, residuals = np.full(y.size, 77, y.dtype), scratch(forward.residuals)
    time = float(t.flat[0])
    with np.errstate(all="ignore"):
        run(forward)(
            *(time, y.reshape(-1), tuple(args), scratch(forward.work), residuals, out),
            *(forward.dims, forward.constants, *tail),
        )
    close(out, expected.reshape(-1), "linearize")
    for number, (one, two) in enumerate(zip(residuals, stored, strict=True)):
        close(one, two.reshape(-1), f"residual {number}")
    k_bar = inputs_of(graph, seed=1)[1]
    y_expected, *args_expected = evaluate(linear.pullback, [t, y, *args, *stored, k_bar, *sample])
    y_bar, args_bar = np.full(y.size, 77, y.dtype), tuple(np.ones_like(arg) for arg in args)
    with np.errstate(all="ignore"):
        run(pullback)(
            *(time, y.reshape(-1), tuple(args), scratch(pullback.work), residuals),
            *(k_bar.reshape(-1), y_bar, args_bar, pullback.dims, pullback.constants, *tail),
        )
    close(y_bar, y_expected.reshape(-1), "y_bar")
    for number, (one, two) in enumerate(zip(args_bar, args_expected, strict=True)):
        if one.dtype.kind in "fc":
            close(one, two + 1, f"args_bar[{number}]")
    return kernel, forward, pullback


COMPILED = ("perceptron, float32", "attention", "planets", "lotka_volterra", "rectified", "rotated")
COMPILED += ("gathered", "samples, small", "samples, perceptron", "coupled", "strided")


@pytest.mark.parametrize("name", FIELDS)
def test_text_of_fields(name):
    check(FIELDS[name](), interpreted)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_fields(name):
    check(FIELDS[name]())


def in_domain(b, op, x):
    """Values at which an operation is defined, from any."""
    if op in {"log", "log1p", "sqrt", "pow"} and b.dtype(x).startswith("float"):
        return b.unary("abs", x)
    if op in {"arcsin", "arccos", "arctanh"} and b.dtype(x).startswith("float"):
        return b.unary("tanh", x)
    if op == "arccosh" and b.dtype(x).startswith("float"):
        return b.binary("add", b.unary("abs", x), b.full(b.shape(x), 1, b.dtype(x)))
    return x


def all_operations(dtype, size):
    """One graph with every elementwise primitive on a state of a dtype."""
    b = Builder()
    real = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    b.input("t", (), real)
    y, p = b.input("y", (size,), dtype), b.input("args", (size,), dtype)
    total = b.binary("mul", y, p)
    for op in sorted((UNARY | BINARY) - {"cast", "not", "and", "or"}):
        if dtype != real and not takes_complex(op):
            continue
        x = in_domain(b, op, y)
        value = b.unary(op, x) if op in UNARY else b.binary(op, x, p)
        if b.dtype(value) == "bool":
            other = b.unary("not", b.binary("eq", y, p))
            value = b.where(b.binary("or", b.binary("and", value, other), value), y, p)
        total = b.binary("add", total, b.cast(value, dtype))
    return b.build([total])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [3, 40])
def test_elementwise_operations(dtype, size):
    check_field(all_operations(dtype, size))


# Random graphs


@st.composite
def graphs(draw):
    """Random graphs over views, elementwise operations, products and reductions."""
    b = Builder()
    rows, columns = draw(st.sampled_from([(2, 3), (4, 5), (3, 18), (1, 20), (19, 2)]))
    t = b.input("t", (), "float64")
    y = b.input("y", (rows * columns,), "float64")
    pool = [
        b.reshape(y, (rows, columns)),
        b.input("args[0]", (rows, columns), "float64"),
        b.input("args[1]", (columns, columns), "float64"),
        b.broadcast(b.input("args[2]", (columns,), "float64"), (rows, columns)),
        b.broadcast(t, (rows, columns)),
    ]
    for _ in range(draw(st.integers(1, 9))):
        x = draw(st.sampled_from(pool))
        step = draw(st.sampled_from(STEPS))
        pool.append(step(b, x, pool, draw))
    total = b.full((rows * columns,), 0.5, "float64")
    for x in pool[-3:]:
        if len(b.shape(x)) and math.prod(b.shape(x)) == rows * columns:
            total = b.binary("add", total, b.reshape(x, (rows * columns,)))
        else:
            mean = b.reduce("sum", x, range(len(b.shape(x))))
            total = b.binary("add", total, b.broadcast(b.unary("tanh", mean), (rows * columns,)))
    return b.build([total])


def _unary(b, x, pool, draw):
    return b.unary(draw(st.sampled_from(["tanh", "neg", "sin", "abs", "sigmoid"])), x)


def _binary(b, x, pool, draw):
    alike = [i for i in pool if b.shape(i) == b.shape(x)]
    op = draw(st.sampled_from(["add", "sub", "mul", "maximum"]))
    return b.binary(op, x, draw(st.sampled_from(alike)))


def _permute(b, x, pool, draw):
    return b.permute(x, draw(st.permutations(range(len(b.shape(x))))))


def _slice(b, x, pool, draw):
    ranges = [range(n) for n in b.shape(x)]
    if not ranges:
        return x
    axis = draw(st.integers(0, len(ranges) - 1))
    r = ranges[axis]
    ranges[axis] = draw(st.sampled_from([r[::-1], r[1:] or r, r[::2], r[:1]]))
    return b.slice(x, ranges)


def _concat(b, x, pool, draw):
    if not b.shape(x):
        return x
    axis = draw(st.integers(0, len(b.shape(x)) - 1))
    same = [
        i
        for i in pool
        if len(b.shape(i)) == len(b.shape(x))
        and all(
            m == n for k, (m, n) in enumerate(zip(b.shape(i), b.shape(x), strict=True)) if k != axis
        )
    ]
    return b.concat([draw(st.sampled_from(same)), x], axis) if b.node(x).size < 200 else x


def _embed(b, x, pool, draw):
    if not b.shape(x) or b.node(x).size > 200:
        return x
    lengths = b.shape(x)
    ranges = [range(1, 1 + n) for n in lengths]
    return b.embed(x, ranges, tuple(n + 2 for n in lengths))


def _gather(b, x, pool, draw):
    if not b.shape(x):
        return x
    length = b.shape(x)[0]
    index = draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=4))
    if draw(st.booleans()):
        return b.gather(x, 0, index)
    part = b.slice(x, [range(min(len(index), length)), *map(range, b.shape(x)[1:])])
    return b.scatter_add(part, 0, index[: b.shape(part)[0]], length)


def _reduce(b, x, pool, draw):
    if not b.shape(x):
        return x
    axis = draw(st.integers(0, len(b.shape(x)) - 1))
    return b.reduce(draw(st.sampled_from(["sum", "max"])), x, [axis])


def _spread(b, x, pool, draw):
    return (
        b.broadcast(x, (draw(st.sampled_from([2, 3])), *b.shape(x))) if len(b.shape(x)) < 3 else x
    )


def _matmul(b, x, pool, draw):
    if len(b.shape(x)) != 2:
        return x
    right = [i for i in pool if len(b.shape(i)) == 2 and b.shape(i)[0] == b.shape(x)[1]]
    return b.matmul(x, draw(st.sampled_from(right))) if right else b.matmul(x, b.transpose(x))


def _reshape(b, x, pool, draw):
    size = b.node(x).size
    return b.reshape(x, draw(st.sampled_from([(size,), (size, 1), (1, size)])))


STEPS = [_unary, _binary, _binary, _permute, _slice, _concat, _embed, _gather, _reduce, _spread]
STEPS += [_matmul, _matmul, _reshape]


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_text_of_random_graphs(graph):
    check(graph, interpreted)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(graphs())
def test_compiled_random_graphs(graph):
    check(graph)


# What a kernel does without


def test_time_beside_the_state_costs_no_copy():
    """No concatenation is formed: one product a layer, into the output or one scratch array."""
    kernel = emit(perceptron_graph(19), "field")
    assert kernel.source.count("gemm(") == 2
    assert len(re.findall(r"^    for ", kernel.source, re.MULTILINE)) == 4
    assert kernel.work == (("float64", 19 * 24),)


def test_gradients_of_matrices_are_added_in_place():
    pullback = emit(linearize(perceptron_graph(19)).pullback, "pullback", "pullback")
    products = re.findall(r"gemm\(.*\)", pullback.source)
    assert len(products) == 4
    assert sum(", g0, 0" in call and call.endswith("True)") for call in products) == 1
    # One hidden layer of scratch; the cotangent of the output is a result before it is scratch.
    assert pullback.work == (("float64", 19 * 24),)


def test_small_states_have_no_loops():
    for kernel in check(FIELDS["lotka_volterra"](), interpreted):
        assert "for " not in kernel.source
        assert kernel.work == ()


def test_one_sample_touches_only_its_row():
    graph = FIELDS["samples, small"]()
    kernel = emit(linearize(graph).pullback, "pullback", "pullback")
    assert "for " not in kernel.source
    assert "[sample] +=" in kernel.source


@pytest.mark.parametrize("size", [2, 20])
def test_long_fields(size):
    """Neither the recursion nor the size of one loop grows with the length of a field."""

    def chain(t, y, p):
        for _ in range(300):
            y = y - 0.01 * ops.tanh(y) * p
        return y

    check_field(trace_field(chain, array(size), array(size)), interpreted)


@pytest.mark.parametrize("exponent", [1.5, -1.5, 0.5, -2.5, 1.7, 3.0])
@pytest.mark.parametrize("size", [3, 20])
def test_powers(exponent, size):
    graph = trace_field(lambda t, y, p: (y * y + 1) ** exponent, array(size))
    for kernel in check(graph, interpreted):
        assert ("**" in kernel.source) == (exponent == 1.7)


def test_what_nothing_reads_is_not_computed():
    kernel = emit(
        trace_field(lambda t, y, p: ops.tanh(p @ y)[0] * y, array(3), array(3, 3)), "field"
    )
    assert kernel.source.count("tanh(") == 1


def test_lowering_keeps_the_function():
    for name in ("perceptron", "attention", "transposed", "branching", "small matrices"):
        graph = FIELDS[name]()
        values = inputs_of(graph)
        for one, two in zip(evaluate(graph, values), evaluate(lower(graph), values), strict=True):
            close(two, one, name)


def test_another_batch_size_runs_the_same_code():
    kernels = [check(perceptron_graph(batch, "float32")) for batch in (19, 33)]
    for one, two in zip(*kernels, strict=True):
        assert one.source == two.source
        assert len(compiled(one).signatures) == 1


def test_loops_are_vectorised():
    kernel = check_field(perceptron_graph(19, "float32"))
    function = compiled(kernel)
    text = function.inspect_llvm(function.signatures[0])
    assert re.search(r"call .*<\d+ x float> @llvm\.fm", text)


# The cache

SCRIPT = """
import sys
sys.path[:0] = {path!r}
import numpy as np
from ndereg.backends.numba.emit import HEADER
from ndereg.backends.numba.module import load
module = load(HEADER + {source!r})
out = np.empty(2)
module.field(0.0, np.ones(2), (np.ones(4),), (), out, np.zeros(0, np.int64), ())
stats = module.field.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), out)
"""


def run_processes(count, directory, source):
    script = SCRIPT.format(path=sys.path, source=source)
    environment = {**os.environ, "NDEREG_CACHE_DIR": str(directory)}
    command = [sys.executable, "-c", script]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    results = [process.communicate(timeout=100)[0] for process in running]
    assert all(process.returncode == 0 for process in running)
    return results


def test_a_second_process_does_not_compile(tmp_path):
    source = emit(FIELDS["lotka_volterra"](), "field").source
    first = run_processes(2, tmp_path, source)  # at once
    (later,) = run_processes(1, tmp_path, source)
    assert later.startswith("1 0 ")
    assert {line.split(maxsplit=2)[2] for line in (*first, later)} == {"[0. 0.]\n"}
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_unwritable_cache_is_replaced(tmp_path, monkeypatch):
    obstacle = tmp_path / "file"
    obstacle.write_text("")
    monkeypatch.setenv("NDEREG_CACHE_DIR", str(obstacle))
    module = load("VALUE = 41")
    assert isinstance(module, types.ModuleType)
    assert module.VALUE == 41
    assert not str(module.__file__).startswith(str(tmp_path))


def test_a_source_is_loaded_once():
    assert load("VALUE = 1") is load("VALUE = 1")
    assert load("VALUE = 1") is not load("VALUE = 2")
