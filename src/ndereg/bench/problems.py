"""The problems that are timed, each field written once for all frameworks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ndereg import ops

Field = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Problem:
    """An initial-value problem on NumPy arrays.

    Attributes
    ----------
    name : str
    field : callable
        ``f(t, y, args)``, written with :mod:`ndereg.ops`.
    t_span : (float, float)
    y0 : ndarray
    args : nested structure of ndarrays
    batched : bool
        Axis 0 of ``y0`` are samples, and of args too where ``shared`` is False.
    shared : bool
        Whether the samples share their args.
    diffusion : callable or None
        ``g(t, y, args)`` of the shape of the state, of an equation of Stratonovich with diagonal
        noise.
    """

    name: str
    field: Field
    t_span: tuple[float, float]
    y0: Any
    args: Any
    batched: bool = False
    shared: bool = True
    diffusion: Field | None = None


def lotka_volterra_field(t: Any, y: Any, args: Any) -> Any:
    """Predators and prey; samples, if any, along the leading axes."""
    x, p = y[..., 0], y[..., 1]
    a, b, c, d = args[..., 0], args[..., 1], args[..., 2], args[..., 3]
    return ops.stack([a * x - b * x * p, d * x * p - c * p], axis=-1)


def lotka_volterra(end: float = 100.0) -> Problem:
    """Periodic; the usual parameters 1.5, 1, 3, 1 from (1, 1)."""
    return Problem(
        "Lotka-Volterra", lotka_volterra_field, (0.0, end), np.ones(2),
        np.array([1.5, 1.0, 3.0, 1.0]),
    )  # fmt: skip


def lotka_volterra_ensemble(samples: int, end: float = 10.0) -> Problem:
    """Trajectories with parameters of their own, uniform within 20 % of the usual ones."""
    scale = np.random.default_rng(0).uniform(0.8, 1.2, size=(samples, 4))
    args = np.array([1.5, 1.0, 3.0, 1.0]) * scale
    return Problem(
        f"{samples:,} Lotka-Volterra", lotka_volterra_field, (0.0, end), np.ones((samples, 2)),
        args, batched=True, shared=False,
    )  # fmt: skip


def _lorenz(t: Any, y: Any, args: Any) -> Any:
    a, b, c = args[0], args[1], args[2]
    return ops.stack([a * (y[1] - y[0]), y[0] * (b - y[2]) - y[1], y[0] * y[1] - c * y[2]])


def lorenz(end: float = 10.0) -> Problem:
    """Chaotic: the span is short enough that the tolerances still say something."""
    return Problem(
        "Lorenz", _lorenz, (0.0, end), np.array([1.0, 0.0, 0.0]), np.array([10.0, 28.0, 8.0 / 3.0])
    )


def _arenstorf(t: Any, y: Any, args: Any) -> Any:
    mu = args
    nu = 1.0 - mu
    x, z, u, v = y[0], y[1], y[2], y[3]
    near, far = (x + mu) * (x + mu) + z * z, (x - nu) * (x - nu) + z * z
    d1, d2 = near * ops.sqrt(near), far * ops.sqrt(far)
    return ops.stack([
        u, v,
        x + 2.0 * v - nu * (x + mu) / d1 - mu * (x - nu) / d2,
        z - 2.0 * u - nu * z / d1 - mu * z / d2,
    ])  # fmt: skip


def arenstorf() -> Problem:
    """The restricted three-body problem (Hairer, Norsett, Wanner I, II.0), one period."""
    y0 = np.array([0.994, 0.0, 0.0, -2.00158510637908252240537862224])
    span = (0.0, 17.0652165601579625588917206249)
    return Problem("Arenstorf", _arenstorf, span, y0, np.array(0.012277471))


def _pleiades(t: Any, y: Any, args: Any) -> Any:
    x, z = y[0:7], y[7:14]
    dx, dz = x[None, :] - x[:, None], z[None, :] - z[:, None]
    distance = dx * dx + dz * dz + args["self"]
    pull = args["mass"] / (distance * ops.sqrt(distance))
    return ops.concat([y[14:28], ops.sum(pull * dx, axis=1), ops.sum(pull * dz, axis=1)])


def pleiades(end: float = 3.0) -> Problem:
    """Seven stars in the plane (Hairer, Norsett, Wanner I, II.10)."""
    x = [3.0, 3.0, -1.0, -3.0, 2.0, -2.0, 2.0]
    z = [3.0, -3.0, 2.0, 0.0, 0.0, -4.0, 4.0]
    u = [0.0, 0.0, 0.0, 0.0, 0.0, 1.75, -1.5]
    v = [0.0, 0.0, 0.0, -1.25, 1.0, 0.0, 0.0]
    args = {"mass": np.arange(1.0, 8.0), "self": np.eye(7)}
    return Problem("Pleiades", _pleiades, (0.0, end), np.array([*x, *z, *u, *v]), args)


def perceptron(activation: Callable[[Any], Any]) -> Field:
    """Return the field of a perceptron whose layers are args, time being one of their inputs."""

    def field(t: Any, y: Any, args: Any) -> Any:
        *hidden, last = args
        for layer in hidden:
            y = activation(y @ layer["weight"] + t * layer["time"] + layer["bias"])
        return y @ last["weight"] + t * last["time"] + last["bias"]

    return field


_TANH_FIELD = perceptron(ops.tanh)


def dense_layers(widths: tuple[int, ...], seed: int, gain: float = 1.0) -> list[dict[str, Any]]:
    """Return weights of a perceptron in float32, uniform as PyTorch draws them, times ``gain``."""
    rng = np.random.default_rng(seed)
    layers = []
    for size, width in pairwise(widths):
        bound = gain / np.sqrt(size + 1)
        shapes = {"weight": (size, width), "time": (width,), "bias": (width,)}
        layers.append(
            {n: rng.uniform(-bound, bound, s).astype(np.float32) for n, s in shapes.items()}
        )
    return layers


def mlp(batch: int = 512, width: int = 784, hidden: int = 100) -> Problem:
    """The MNIST field of Opening the Blackbox: one hidden layer of 100, time appended."""
    y0 = np.random.default_rng(1).uniform(0.0, 1.0, (batch, width)).astype(np.float32)
    layers = dense_layers((width, hidden, width), 0, gain=3.0)
    return Problem("MLP", _TANH_FIELD, (0.0, 1.0), y0, layers, batched=True)


def latent(batch: int = 50) -> Problem:
    """A latent field as for PhysioNet: 20 states, four layers, width 50."""
    y0 = np.random.default_rng(1).normal(size=(batch, 20)).astype(np.float32)
    layers = dense_layers((20, 50, 50, 50, 20), 0, gain=3.0)
    return Problem("latent", _TANH_FIELD, (0.0, 1.0), y0, layers, batched=True)


def long_oscillator(steps: int = 10_000) -> tuple[Problem, float]:
    """32 non-linear oscillators of 64 states, and the size of ``steps`` constant steps."""
    rng = np.random.default_rng(0)
    y0 = rng.normal(size=(32, 64))
    weight = rng.normal(size=(64, 64)) / 8.0
    problem = Problem("oscillator", _oscillator, (0.0, 100.0), y0, weight - weight.T, True)
    return problem, 100.0 / steps


def _oscillator(t: Any, y: Any, args: Any) -> Any:
    return ops.tanh(y @ args)


def in_dtype(problem: Problem, dtype: str) -> Problem:
    """The problem in another floating-point dtype."""

    def cast(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: cast(part) for name, part in value.items()}
        if isinstance(value, list):
            return [cast(part) for part in value]
        return np.asarray(value, dtype)

    return replace(problem, y0=cast(problem.y0), args=cast(problem.args))


def _convolution(y: Any, weight: Any) -> Any:
    """3 by 3 convolution with zero padding of (N, C, H, W), each framework's own."""
    if type(y).__module__.startswith("torch"):
        import torch

        return torch.nn.functional.conv2d(y, weight, padding=1)
    if not isinstance(y, np.ndarray) and type(y).__module__.startswith("jax"):
        from jax import lax

        return lax.conv_general_dilated(y, weight, (1, 1), "SAME")
    return _shifted_products(y, weight)


def _shifted_products(y: Any, weight: Any) -> Any:
    """The same as one matrix product over shifted copies of the image."""
    n, c, h, w = y.shape
    rows = ops.zeros_like(y[:, :, :1, :])
    y = ops.concat([rows, y, rows], axis=2)
    columns = ops.zeros_like(y[:, :, :, :1])
    y = ops.concat([columns, y, columns], axis=3)
    shifted = [y[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    patches = ops.reshape(ops.stack(shifted, axis=2), (n, c * 9, h * w))
    product = ops.matmul(ops.reshape(weight, (weight.shape[0], c * 9)), patches)
    return ops.reshape(product, (n, weight.shape[0], h, w))


def _conv_field(t: Any, y: Any, args: Any) -> Any:
    first, last = args
    hidden = _convolution(y, first["weight"]) + first["bias"] + t * first["time"]
    return _convolution(ops.tanh(hidden), last["weight"]) + last["bias"] + t * last["time"]


def conv(batch: int = 32, channels: int = 8, size: int = 32, hidden: int = 64) -> Problem:
    """Two 3 by 3 convolutions with time as a bias of every channel."""
    rng = np.random.default_rng(0)
    layers = []
    for inputs, outputs in ((channels, hidden), (hidden, channels)):
        bound = 1.0 / np.sqrt(9 * inputs)
        shapes = {"weight": (outputs, inputs, 3, 3), "bias": (outputs, 1, 1)}
        shapes["time"] = shapes["bias"]
        layers.append(
            {n: rng.uniform(-bound, bound, s).astype(np.float32) for n, s in shapes.items()}
        )
    y0 = rng.uniform(0.0, 1.0, (batch, channels, size, size)).astype(np.float32)
    return Problem("convolution", _conv_field, (0.0, 1.0), y0, layers, batched=True)
