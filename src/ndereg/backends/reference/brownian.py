"""Brownian paths in plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndereg.backends.brownian import Entries, Increments, Path, as_dtype, host_interval
from ndereg.backends.reference.machine import OPERATIONS
from ndereg.plan.brownian import Areas, Grid


class NumpyPathArrays:
    """Paths in float64 NumPy."""

    operations = OPERATIONS
    block = 1 << 15

    def numbers(self, values: Any) -> Any:
        """float64."""
        return np.asarray(values, np.float64)

    def words(self, values: Any) -> Any:
        """uint32."""
        return np.asarray(values).astype(np.uint32)

    def real(self, words: Any) -> Any:
        """float64."""
        return words.astype(np.float64)

    def concatenate(self, arrays: list[Any], axis: int = 0) -> Any:
        """Along an axis."""
        return np.concatenate(arrays, axis)

    def contract(self, weights: Any, normals: Any) -> Any:
        """One matrix product where the weights are the same for all samples."""
        if weights.shape[-2] > 1:
            return (weights * normals).sum(axis=(1, 2))
        flat = normals.reshape(normals.shape[0] * normals.shape[1], -1)
        totals = weights.reshape(weights.shape[0], -1) @ flat
        return totals.reshape(weights.shape[0], *normals.shape[2:])


class NumpyBrownian:
    """A path in NumPy; see :class:`BrownianSource`."""

    def __init__(self, areas: Areas, words: tuple[int, int], grid: Grid, dtype: str) -> None:
        arrays = NumpyPathArrays()
        self.grid, self.dtype = grid, dtype
        key = np.uint32(words[0]), np.uint32(words[1])
        self.path = Path(areas, key, grid.depth, arrays, arrays)

    def increment(self, s: Any, t: Any, entries: Entries) -> Increments:
        """See :class:`BrownianSource`."""
        interval = host_interval(self.grid, s, t)
        return self._cast(self.path.increment(interval, self.path.components(entries)))

    def direct(self, step: Any, h: Any, entries: Entries) -> Increments:
        """See :class:`BrownianSource`."""
        length = np.abs(np.asarray(h, np.float64)).reshape(-1, 1)
        number = np.asarray(step).astype(np.uint32).reshape(-1, 1)
        return self._cast(self.path.direct(number, length, self.path.components(entries)))

    def _cast(self, increments: Increments) -> Increments:
        return as_dtype(increments, lambda part: part.astype(self.dtype, copy=False))
