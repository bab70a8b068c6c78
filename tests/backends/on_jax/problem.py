"""A problem and its precision, for the tests of what is JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np

SPAN = (0.3, 2.1)
TIMES = np.array([0.3, 0.5, 0.9, 1.7, 2.1])
Y0 = np.array([1.0, -0.4])
SAMPLES = np.array([[1.0, 0.0], [0.1, 0.05], [-2.5, 2.0], [0.0, 0.0]])
STIFFNESSES = np.array([[1.0], [4.0], [9.0], [0.5]])


def spring(t, y, args):
    """A driven, damped, non-linear oscillator; joint, or one sample a row."""
    x, v = y[..., :1], y[..., 1:]
    force = -args["k"] * (x + 0.3 * x**3) + args["drive"] * jnp.sin(2.0 * t)
    return jnp.concatenate([v, force - 0.2 * v], axis=-1)


def parameters():
    return {"k": jnp.asarray(2.0), "drive": jnp.asarray(0.7)}


def close(actual, expected, tolerance=1e-10):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
