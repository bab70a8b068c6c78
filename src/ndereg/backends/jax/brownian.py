"""Brownian paths on JAX arrays, also inside of transformations."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ndereg.backends.brownian import Entries, Increments, Interval, Path, as_dtype
from ndereg.backends.jax import clock
from ndereg.backends.jax.machine import OPERATIONS as _OPERATIONS
from ndereg.plan.brownian import NARROW_LEVELS, Areas, Grid

MANY = 128
"""Entries from which numbers are made once, and kept; of fewer XLA is faster if it fuses."""


class JaxPathArrays:
    """Paths in float64, or in float32 without JAX's x64 mode."""

    operations = _OPERATIONS
    block = None

    def numbers(self, values: Any) -> Any:
        """In the dtype of control scalars."""
        return jnp.asarray(values, clock.control_dtype())

    def words(self, values: Any) -> Any:
        """uint32."""
        return jnp.asarray(values).astype(jnp.uint32)

    def real(self, words: Any) -> Any:
        """In the dtype of control scalars."""
        return words.astype(clock.control_dtype())

    def concatenate(self, arrays: list[Any], axis: int = 0) -> Any:
        """Along an axis.

        Between these a program is run. Without a barrier XLA would make what two of its outputs
        need once for each, which takes seconds to compile.
        """
        return jax.lax.optimization_barrier(jnp.concatenate(arrays, axis))

    def contract(self, weights: Any, normals: Any) -> Any:
        """A sum of products, which keeps the precision of its operands on every device.

        A sum is fused with what makes the numbers, which on a CPU are then made anew for each of
        the areas, barrier or not; a product of matrices and a loop read them from memory. Of few
        entries the sum is the faster one all the same. A loop is what a CPU is faster at than at
        one small product a sample; elsewhere every iteration would be a kernel to start.
        """
        if normals[0, 0].size < MANY:
            return jnp.sum(weights * normals, axis=(1, 2))
        areas, nodes = len(weights), normals.shape[0] * normals.shape[1]
        weights = weights.reshape(areas, nodes, -1)
        normals = normals.reshape(nodes, *normals.shape[2:])
        if weights.shape[-1] == 1:
            return jnp.tensordot(weights[..., 0], normals, 1, precision="highest")
        if jax.default_backend() != "cpu":
            return jnp.einsum("anb,nbm->abm", weights, normals, precision="highest")

        def add(node: Any, total: Any) -> Any:
            return total + weights[:, node, :, None] * normals[node]

        zero = jnp.zeros_like(weights[:, 0, :, None] * normals[0])
        return jax.lax.fori_loop(0, nodes, add, zero)


def interval(grid: Grid, start: Any, end: Any) -> Interval:
    """Where two times, ``(B, 1)`` or of shape ``()``, are along the path; they may be traced.

    Times are those of the clock, or numbers and arrays.

    Raises
    ------
    ValueError
        If the grid is deeper than pairs of float32 numbers can tell, without the x64 mode.
    """
    if not clock.is_wide() and grid.depth > NARROW_LEVELS:
        raise ValueError(
            f"expected a Brownian path of at most {NARROW_LEVELS} levels without JAX's x64 mode, "
            f"received {grid.depth}; try a larger tolerance, or jax_enable_x64"
        )
    numbers = JaxPathArrays().numbers
    start, end = (time if isinstance(time, tuple) else clock.encode(time) for time in (start, end))
    origin = grid.origin if isinstance(grid.origin, tuple) else clock.encode(grid.origin)
    parts = [
        [jnp.asarray(part * numbers(grid.direction)).reshape(-1, 1) for part in pair]
        for pair in (clock.separation(time, origin) for time in (start, end))
    ]
    low = jnp.zeros_like(parts[0][0][:1])
    pairs = [(pair[0], pair[1] if len(pair) > 1 else low) for pair in parts]
    size = numbers(grid.size)
    return Interval(*pairs, numbers(grid.length), numbers(grid.slack), 1.0 / size)


def words_of(key: Any) -> tuple[Any, Any] | None:
    """Two words of a key of ``jax.random``, typed or raw; None if it is none.

    A Threefry key is two words. Other keys have two words drawn from them.
    """
    if not isinstance(key, (jax.Array, np.ndarray)):
        return None
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    if not typed and not (key.dtype == np.uint32 and key.ndim == 1):
        return None
    data = jax.random.key_data(key) if typed else jnp.asarray(key)
    if data.shape != (2,):
        data = jax.random.bits(key, (2,), jnp.uint32)
    return data[0], data[1]


class JaxBrownian:
    """A path on JAX arrays; see :class:`ndereg.backends.brownian.BrownianSource`.

    Times are of :mod:`ndereg.backends.jax.clock`, or numbers and arrays. They, the key, and all of
    the grid but its depth may be traced.
    """

    def __init__(self, areas: Areas, words: tuple[Any, Any], grid: Grid, dtype: str) -> None:
        self.areas, self.grid = areas, grid
        self.dtype = str(jax.dtypes.canonicalize_dtype(dtype))
        self.words = jnp.asarray(words[0], jnp.uint32), jnp.asarray(words[1], jnp.uint32)

    def increment(self, s: Any, t: Any, entries: Entries) -> Increments:
        """See :class:`ndereg.backends.brownian.BrownianSource`."""
        where = interval(self.grid, s, t)
        parts = (where.start, where.end, where.span, where.slack, where.scale)
        return _increment(self.areas, self.grid.depth, entries, self.dtype, self.words, parts)

    def direct(self, step: Any, h: Any, entries: Entries) -> Increments:
        """See :class:`ndereg.backends.brownian.BrownianSource`."""
        return _direct(self.areas, entries, self.dtype, self.words, step, h)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _increment(
    areas: Areas, depth: int, entries: Entries, dtype: str, words: Any, parts: Any
) -> Increments:
    path = _path(areas, depth, words)
    found = path.increment(Interval(*parts), path.components(entries))
    return as_dtype(found, lambda part: part.astype(dtype))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _direct(areas: Areas, entries: Entries, dtype: str, words: Any, step: Any, h: Any) -> Any:
    path = _path(areas, 0, words)
    length = jnp.abs(jnp.asarray(h, clock.control_dtype())).reshape(-1, 1)
    number = jnp.asarray(step).astype(jnp.uint32).reshape(-1, 1)
    found = path.direct(number, length, path.components(entries))
    return as_dtype(found, lambda part: part.astype(dtype))


def _path(areas: Areas, depth: int, words: Any) -> Path:
    arrays = JaxPathArrays()
    return Path(areas, words, depth, arrays, arrays)
