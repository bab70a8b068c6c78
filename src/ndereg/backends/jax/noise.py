"""The noise of a step inside of a compiled solve."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from ndereg.backends.brownian import Path as BrownianPath
from ndereg.backends.brownian import as_dtype, halves
from ndereg.backends.jax import clock
from ndereg.backends.jax.brownian import MANY, JaxPathArrays, interval
from ndereg.backends.jax.clock import Time
from ndereg.backends.jax.inputs import Rows
from ndereg.plan.brownian import Grid
from ndereg.spec.stochastic import Coupling


class StepNoise:
    """What the programs of a solve ask of its Brownian path, for all samples of all lanes.

    Parameters
    ----------
    rows : Rows
    path : Path
        What of it is compiled in: depth, areas, channels, and how samples share it.
    names : tuple of str
        Increments that the programs read.
    coupling : {"diagonal", "scalar", "matrix"}
    samples : int
        Of one lane.
    real : dtype
        Real dtype of the state.
    halved : bool
        Whether a step asks for the path over its halves.

    Attributes
    ----------
    cell : array
        What step sizes are multiples of.
    medium : dict of arrays
        What else steps read of the equation.
    """

    def __init__(
        self,
        rows: Rows,
        path: Any,
        names: tuple[str, ...],
        coupling: Coupling,
        samples: int,
        real: Any,
        halved: bool,
    ) -> None:
        self._names, self._direct = names, path.direct
        # one variable for all entries is a control scalar
        self._dtype = clock.control_dtype() if coupling == "scalar" else real
        given = rows.path
        self.cell = given["grid"][1] * 2.0**-path.grid.depth * path.cells
        if halved:  # both halves of a step are asked for at once, as twice the samples
            given = {
                **given,
                **jax.tree.map(
                    lambda x: jnp.tile(x, (2, 1)),
                    {name: given[name] for name in ("words", "origin", "grid")},
                ),
            }
        direction, size, length = given["grid"]
        self._grid = Grid(given["origin"], direction, size, path.grid.depth, length)
        self.medium, self._halved = given["medium"], halved
        arrays = JaxPathArrays()
        self._path = BrownianPath(path.areas, given["words"], path.grid.depth, arrays, arrays)
        numbers = self._path.components(path.entries)
        numbers = jnp.broadcast_to(numbers, (samples, path.entries.width))
        self._components = jnp.tile(numbers, (rows.total // samples, 1))

    def __call__(self, t: Time, h: Any, step: Any) -> dict[str, Any]:
        """Return the increments over ``[t, t + h]``, of the step of number ``step``, by name."""
        # samples that ended, or never began, may have no step size to speak of
        h = jnp.where(jnp.isfinite(h), h, 0.0)
        if self._halved:
            return self.medium | self._over_halves(t, h)
        if self._direct:
            number = jnp.asarray(step).astype(jnp.uint32).reshape(1, 1)
            return self.medium | self._named(self._drawn(number, jnp.abs(h)))
        found = self._path.increment(interval(self._grid, t, clock.add(t, h)), self._components)
        return self.medium | self._named(found)

    def _drawn(self, number: Any, length: Any) -> Any:
        """Increments of a step of a fixed mesh, made once.

        XLA fuses what makes them into all that reads them, barrier or not, and on a CPU so makes
        the numbers anew: four times in a step of the reversible Heun method, seven times in its
        transpose. What is joined of two halves it does not.
        """
        path, components = self._path, self._components
        rows, columns = components.shape
        if components.size < MANY:
            return path.direct(number, length, components)
        axis, middle = (-2, rows // 2) if columns == 1 else (-1, columns // 2)
        parts = (number, length, components, *path.words)
        both = zip(*(halves(part, axis, middle) for part in parts), strict=True)
        found = [
            replace(path, words=words).direct(number, length, components)
            for number, length, components, *words in both
        ]
        return tuple(
            None if first is None else jnp.concatenate([first, second], axis)
            for first, second in zip(*found, strict=True)
        )

    def _over_halves(self, t: Time, h: Any) -> dict[str, Any]:
        """The path over both halves: XLA compiles one query."""
        middle, rows = clock.add(t, 0.5 * h), self._components.shape[0]
        pairs = zip((*t, *middle), (*middle, *clock.add(t, h)), strict=True)
        joined = [jnp.concatenate(pair) for pair in pairs]
        start, end = tuple(joined[: len(t)]), tuple(joined[len(t) :])
        twice = jnp.tile(self._components, (2, 1))
        found = self._path.increment(interval(self._grid, start, end), twice)
        cut = (slice(None, rows), slice(rows, None))
        halves = [tuple(None if x is None else x[half] for x in found) for half in cut]
        return self._named(halves[0], "1") | self._named(halves[1], "2")

    def _named(self, found: Any, half: str = "") -> dict[str, Any]:
        named = zip(("W", "H", "K"), as_dtype(found, self._cast), strict=True)
        return {name + half: value for name, value in named if name + half in self._names}

    def _cast(self, value: Any) -> Any:
        shape = (*self._components.shape,)
        return jnp.broadcast_to(value, shape).astype(self._dtype)
