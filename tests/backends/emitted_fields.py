"""Fields whose kernels are emitted: what people write, and what layouts make hard."""

import math

import numpy as np
from tests.trace.conftest import trace_field

from ndereg import ops
from ndereg.trace import per_sample


def array(*shape, dtype="float64"):
    values = np.random.default_rng(math.prod(shape)).normal(size=shape)
    return (values / math.sqrt(max(shape[0], 1)) if len(shape) == 2 else values).astype(dtype)


def with_time(y, t):
    return ops.concat([y, ops.broadcast_to(t, (y.shape[0], 1))], axis=1)


def perceptron(t, y, p):
    hidden = ops.tanh(with_time(y, t) @ p[0] + p[1])
    return ops.tanh(with_time(hidden, t) @ p[2] + p[3])


def perceptron_graph(batch, dtype="float64", width=20, hidden=24):
    p = (array(width + 1, hidden), array(hidden), array(hidden + 1, width), array(width))
    return trace_field(
        perceptron, array(batch, width, dtype=dtype), tuple(x.astype(dtype) for x in p)
    )


def attention(t, y, p):
    q, k = y @ p[0], y @ p[1]
    return ops.softmax(ops.matmul(q, ops.matrix_transpose(k)) / 3, axis=-1) @ y * t


def normalized(t, y, p):
    mean = ops.mean(y, axis=-1, keepdims=True)
    spread = ops.mean((y - mean) ** 2, axis=-1, keepdims=True)
    return (y - mean) / ops.sqrt(spread + 1e-3) * p[0] + p[1]


def planets(t, y, mass):
    distance = ops.sqrt(ops.sum(y["x"] ** 2, axis=-1, keepdims=True) + 0.1)
    return {"x": y["v"], "v": -mass * y["x"] / distance**3}


def heat(t, u, rate):
    around = ops.concat([u[-1:], u, u[:1]])
    return rate * (around[2:] - 2 * around[1:-1] + around[:-2]) - u**3


def lotka_volterra(t, y, p):
    return ops.stack([p[0] * y[0] - p[1] * y[0] * y[1], p[2] * y[0] * y[1] - p[3] * y[1]])


def rectified(t, y, p):
    h = ops.maximum(y @ p[0], 0.0)
    g = ops.where(h > p[1], h * h, ops.minimum(h, 1.0) - p[1])
    return g @ p[2] + ops.abs(y)


def coupled(t, y, p):
    z = ops.tanh(y @ p)
    return ops.sum(z[:, None] * z[None, :] * p, axis=1) + ops.prod(z[:3]) + ops.max(y) * t


def rotated(t, y, p):
    return 1j * (p @ y) + ops.exp(1j * t) * ops.conj(y) * ops.abs(y) + ops.tanh(y) * ops.sin(y)


def strided(t, y, p):
    z = y[::-2, :] * p[:10]
    return ops.concat([z, ops.matrix_transpose(ops.matrix_transpose(y[::2])) + z[:, ::-1]], axis=0)


def gathered(t, y, p):
    index = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]
    return y[index] * p[index] + ops.sin(y)


def batched(t, y, p):
    return ops.matmul(y, p) - ops.matrix_transpose(ops.matmul(p, ops.matrix_transpose(y)))


def branching(t, y, p):
    h = ops.tanh(y @ p[0])
    g = h @ p[1]
    return g * h @ p[1] + (g - h) @ p[0]


def transposed(t, y, p):
    z = ops.tanh(ops.matrix_transpose(y))
    back = ops.matrix_transpose(z @ p + z)
    return back * ops.reshape(ops.matrix_transpose(y), (20, 25))


def captured(t, y, p):
    return MATRIX @ y + ops.where(y > 0, t, 0 * t)


MATRIX = array(20, 20)

FIELDS = {
    "perceptron": lambda: perceptron_graph(19),
    "perceptron, float32": lambda: perceptron_graph(19, "float32"),
    "attention": lambda: trace_field(attention, array(3, 18, 24), (array(24, 8), array(24, 8))),
    "normalized": lambda: trace_field(normalized, array(19, 30), (array(30), array(30))),
    "planets": lambda: trace_field(planets, {"x": array(9, 3), "v": array(9, 3)}, np.array(2.0)),
    "heat": lambda: trace_field(heat, array(40), np.array(0.1)),
    "lotka_volterra": lambda: trace_field(lotka_volterra, array(2), array(4)),
    "rectified": lambda: trace_field(
        rectified, array(19, 20), (array(20, 30), array(30), array(30, 20))
    ),
    "coupled": lambda: trace_field(coupled, array(20), array(20, 20)),
    "rotated": lambda: trace_field(rotated, array(20) + 1j * array(20), array(20, 20) + 0j),
    "strided": lambda: trace_field(strided, array(20, 18), array(30, 18)),
    "gathered": lambda: trace_field(gathered, array(20, 17), array(20, 17)),
    "batched": lambda: trace_field(batched, array(5, 20, 20), array(5, 20, 20)),
    "branching": lambda: trace_field(branching, array(20, 20), (array(20, 20), array(20, 20))),
    "transposed": lambda: trace_field(transposed, array(20, 25), array(20, 20)),
    "small matrices": lambda: trace_field(
        lambda t, y, p: p @ y @ p + t * y, array(3, 3), array(3, 3)
    ),
    "matrix and vector": lambda: trace_field(
        lambda t, y, p: ops.tanh(p[0] @ y + p[1]) * t, array(50), (array(50, 50), array(50))
    ),
    "captured": lambda: trace_field(captured, array(20)),
    "swapped": lambda: trace_field(lambda t, y, p: (y[1], y[0]), (array(20), array(20))),
    "identity": lambda: trace_field(lambda t, y, p: y, array(30)),
    "constant": lambda: trace_field(lambda t, y, p: 0 * y + 1, array(30), (array(3),)),
    "whole numbers": lambda: trace_field(
        lambda t, y, p: y * p[0] + p[1], array(30), (np.arange(30), np.arange(30, dtype="int32"))
    ),
    "samples, small": lambda: per_sample(
        trace_field(
            lambda t, y, p: ops.stack([p * y[:, 1], -y[:, 0] * t[:, 0]], axis=1),
            *(array(30, 2), array(30)),
            batch=30,
        ),
        30,
    ),
    "samples, perceptron": lambda: per_sample(
        trace_field(
            lambda t, y, p: ops.tanh(y @ p[0] + p[1] + t * p[3]) @ p[2],
            array(9, 20),
            (array(20, 30), array(30), array(30, 20), array(9, 30)),
            batch=9,
        ),
        9,
    ),
}
