"""The noise of a step inside of a compiled solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ndereg.backends.base import Problem
from ndereg.backends.numba.brownian import node_room, path_numbers
from ndereg.plan.brownian import Areas
from ndereg.spec.stochastic import Coupling

_ROWS = {"W": "d_W", "H": "d_H", "K": "d_K"}


@dataclass(frozen=True)
class Drive:
    """What of the noise of a solve is compiled in.

    Attributes
    ----------
    areas : {"W", "WH", "WHK"}
        Of the path, which may have more than the method reads.
    direct : bool
        Whether the increments of a step are drawn by its number.
    coupling : {"diagonal", "scalar", "matrix"}
    channels : int
        Of one sample.
    """

    areas: Areas
    direct: bool
    coupling: Coupling
    channels: int

    @classmethod
    def of(cls, problem: Problem) -> Drive | None:
        """Return that of a problem; None of an ordinary equation."""
        diffusion = problem.diffusion
        if diffusion is None:
            return None
        path = diffusion.path
        return cls(path.areas, path.direct, diffusion.coupling, path.entries.channels)

    @property
    def columns(self) -> int:
        """Columns of the diffusion where it is a matrix, else 1."""
        return self.channels if self.coupling == "matrix" else 1

    def setup(self, sample: str) -> list[str]:
        """Source before the loop: rows for the increments, the number of the first entry."""
        rows = [f"{name} = noise[{i}]" for i, name in enumerate(_ROWS.values())]
        return [*rows, f"first_entry = {sample or 0} * path_stride"]

    def increment(self, t: str, h: str, row: str) -> list[str]:
        """Source that fills the rows for the step over ``[t, t + h]``, of number ``row``."""
        rows = ", ".join(_ROWS.values())
        if self.direct:
            called = f"brownian_direct(path, {row}, abs({h}), first_entry, {rows})"
        else:
            called = f"brownian_increment(path, {t}, {t} + {h}, first_entry, {rows}, nodes)"
        return [called]

    def values(self) -> dict[str, str]:
        """Source of the increments as programs read them."""
        entry = "[0]" if self.coupling == "scalar" else ""
        return {area: name + entry for area, name in _ROWS.items()}


class Driving:
    """The path of one problem, as compiled loops take it."""

    def __init__(self, problem: Problem) -> None:
        assert problem.diffusion is not None
        path = problem.diffusion.path
        self._areas, self._depth = path.areas, path.grid.depth
        self._path, self.cell = path_numbers(path.words, path.grid), path.smallest
        self._channels = path.entries.channels
        self._stride = 0 if path.entries.shared else self._channels
        # one variable for all entries is a control scalar
        scalar = problem.diffusion.coupling == "scalar"
        self._dtype = np.float64 if scalar else np.dtype(problem.layout.real_dtype)

    def arguments(self) -> tuple[Any, ...]:
        """Return the path, and rows and scratch of one thread."""
        noise = np.empty((3, self._channels), self._dtype)
        return self._path, self._stride, noise, node_room(self._areas, self._depth)
