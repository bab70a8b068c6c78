"""The scalars and states that the forward loop carries, in few arrays where they are small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np


def packed(values: Sequence[Any]) -> Any:
    """One vector of single numbers.

    Selected by index, not concatenated: that would be a kernel for every number.
    """
    index = np.arange(len(values))
    vector = jnp.broadcast_to(jnp.reshape(values[0], ()), index.shape)
    for i, value in enumerate(values[1:], 1):
        vector = jnp.where(index == i, jnp.reshape(value, ()), vector)
    return vector


class Scalars:
    """How named scalars lie in the carry of a loop.

    Of a single sample they are one vector: XLA spends a kernel launch and a copy on every carried
    array, which for small states is most of a step. Many samples keep one array a name, whose
    arithmetic is vectorised over the samples.

    Parameters
    ----------
    like : mapping of name to array (samples, 1)
        Scalars and flags as they are before the loop.
    """

    def __init__(self, like: Mapping[str, Any]) -> None:
        self._dtypes = {name: value.dtype for name, value in like.items()}
        self._together = all(value.shape == (1, 1) for value in like.values())
        self._dtype = jnp.result_type(*(d for d in self._dtypes.values() if d != jnp.bool_))

    def pack(self, values: Mapping[str, Any]) -> Any:
        """Return the scalars as they are carried."""
        if not self._together:
            return {name: jnp.asarray(values[name], self._dtypes[name]) for name in self._dtypes}
        return packed([jnp.asarray(values[name], self._dtype) for name in self._dtypes])[None]

    def unpack(self, carried: Any) -> dict[str, Any]:
        """Return the scalars by name."""
        if not self._together:
            return dict(carried)
        return {
            name: carried[:, i : i + 1].astype(dtype)
            for i, (name, dtype) in enumerate(self._dtypes.items())
        }


def stand_in(running: Any, y: Any) -> Any:
    """Give samples that cannot begin the state of one that can.

    They take steps of size zero with the others, and a Jacobian that is not finite would spoil the
    cotangents of what all samples share even when multiplied by zero.
    """
    return jnp.where(running, y, y[jnp.argmax(running[:, 0])])


SMALL_STATE = 64
"""Entries up to which the state and the first stage are carried as one array."""


class States:
    """How the state and, if it is handed on, the first stage lie in the carry."""

    def __init__(self, y: Any, k1: Any | None) -> None:
        self._together = k1 is not None and y.size <= SMALL_STATE

    def pack(self, y: Any, k1: Any | None) -> Any:
        """Return state and first stage as they are carried."""
        return jnp.stack([y, k1]) if self._together else (y, k1)

    def unpack(self, carried: Any) -> tuple[Any, Any | None]:
        """Return the state, and the first stage or None."""
        return carried[0], carried[1]

    def accepted(self, accept: Any, carried: Any, y1: Any, k_next: Any | None) -> Any:
        """Return the new ones where a step is accepted."""
        if self._together:
            return jnp.where(accept, jnp.stack([y1, k_next]), carried)
        y, k1 = carried
        return jnp.where(accept, y1, y), None if k1 is None else jnp.where(accept, k_next, k1)
