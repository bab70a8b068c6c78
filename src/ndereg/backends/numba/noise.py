"""The noise of a step inside of a compiled solve."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ndereg.backends.base import Problem
from ndereg.backends.numba.brownian import node_room, path_numbers
from ndereg.plan.brownian import Areas
from ndereg.plan.langevin import HALVES
from ndereg.plan.stochastic import INCREMENTS
from ndereg.spec.stochastic import Coupling


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
    halved : bool
        Whether steps ask for the path over both of their halves.
    medium : tuple of str
        Names of what else steps read of the equation.
    apart : bool
        Whether samples have noise of their own, and no entries without any.
    """

    areas: Areas
    direct: bool
    coupling: Coupling
    channels: int
    halved: bool = False
    medium: tuple[str, ...] = ()
    apart: bool = True

    @classmethod
    def of(cls, problem: Problem) -> Drive | None:
        """Return that of a problem; None of an ordinary equation."""
        diffusion = problem.diffusion
        if diffusion is None:
            return None
        path = diffusion.path
        return cls(
            path.areas, path.direct, diffusion.coupling, path.entries.channels,
            problem.plan.halved, tuple(diffusion.medium),
            not (path.entries.shared or path.entries.quiet),
        )  # fmt: skip

    @property
    def columns(self) -> int:
        """Columns of the diffusion where it is a matrix, else 1."""
        return self.channels if self.coupling == "matrix" else 1

    def setup(self, sample: str) -> list[str]:
        """Source before the loop: rows for the increments, the number of the first entry."""
        rows = [f"d_{name} = noise[{i}]" for i, name in enumerate(self._names)]
        return [*rows, f"first_entry = {sample or 0} * path_stride"]

    def block(self, size: str, start: str) -> list[str]:
        """The same for a block of samples, one after the other in the rows."""
        rows = [
            f"d_{name} = noise[{i}][: {size} * {self.channels}]"
            for i, name in enumerate(self._names)
        ]
        return [*rows, f"first_entry = {start} * path_stride"]

    def of_lane(self, lane: str) -> dict[str, str]:
        """Source of what programs read of it for one of the samples of a block."""
        form = "d_{}[{}]" if self.coupling == "scalar" else "entries_from(d_{}, {})"
        place = lane if self.channels == 1 else f"{lane} * {self.channels}"
        increments = {name: form.format(name, place) for name in self._names}
        return increments | {name: name for name in self.medium}

    def increment(self, t: str, h: str, row: str) -> list[str]:
        """Source that fills the rows for the step over ``[t, t + h]``, of number ``row``."""
        if self.direct:
            rows = _rows(self._names)
            return [f"brownian_direct(path, {row}, abs({h}), first_entry, {rows}, nodes)"]
        middle = f"{t} + 0.5 * {h}" if self.halved else ""
        ends = [t, middle, f"{t} + {h}"] if self.halved else [t, f"{t} + {h}"]
        return [
            f"brownian_increment(path, {s}, {e}, first_entry, {_rows(self._names[i : i + 3])}, "
            "nodes)"
            for i, (s, e) in zip((0, 3), pairwise(ends), strict=False)
        ]

    def values(self) -> dict[str, str]:
        """Source of what programs read of the equation: the increments, and its medium."""
        entry = "[0]" if self.coupling == "scalar" else ""
        increments = {name: f"d_{name}{entry}" for name in self._names}
        return increments | {name: name for name in self.medium}

    @property
    def _names(self) -> tuple[str, ...]:
        return HALVES if self.halved else INCREMENTS


def _rows(names: tuple[str, ...]) -> str:
    return ", ".join(f"d_{name}" for name in names)


class Driving:
    """The path of one problem, as compiled loops take it.

    Attributes
    ----------
    numbers : tuple of float
        Size of the smallest step that is resolved, and the medium.
    """

    def __init__(self, problem: Problem) -> None:
        assert problem.diffusion is not None
        path = problem.diffusion.path
        self._areas, self._depth = path.areas, path.grid.depth
        self._path = path_numbers(path.words, path.grid)
        self._width = path.entries.width
        self._stride = 0 if path.entries.shared else path.entries.channels
        # one variable for all entries is a control scalar
        scalar = problem.diffusion.coupling == "scalar"
        self._dtype = np.float64 if scalar else np.dtype(problem.layout.real_dtype)
        self._rows = len(HALVES if problem.plan.halved else INCREMENTS)
        self.numbers = (path.smallest, *problem.diffusion.medium.values())

    def arguments(self, samples: int = 1) -> tuple[Any, ...]:
        """Return the path, and rows and scratch of one thread, for so many samples at once."""
        noise = np.empty((self._rows, samples * self._width), self._dtype)
        return self._path, self._stride, noise, node_room(self._areas, self._depth)
