"""Brownian paths on the arrays of a framework, all levels and all entries at once.

Numba runs the same programs in a loop instead (:mod:`ndereg.backends.numba.brownian`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from ndereg.backends.interpreter import Runner
from ndereg.plan.brownian import DIRECT, ENDS, Areas, BrownianPlan, Grid, brownian_plan, level_words
from ndereg.plan.normal import draw_bits, threefry
from ndereg.plan.program import Program

Words = tuple[Any, Any]
Increments = tuple[Any, Any, Any]
"""W, H and K over an interval; None for what the areas of a path do not have."""


class PathArrays(Protocol):
    """What a path needs of a framework."""

    operations: Mapping[str, Callable[..., Any]]
    """Of :data:`ndereg.plan.program.OPERATIONS`, those that the programs of a path use."""
    block: int | None
    """Normal numbers that are made at once: what a cache holds, or None without a limit."""

    def numbers(self, values: Any) -> Any:
        """NumPy numbers as the real numbers that paths are computed in."""

    def words(self, values: Any) -> Any:
        """Whole numbers from 0 to ``2^32 - 1``, as :meth:`numbers` or NumPy uint32, as words."""

    def real(self, words: Any) -> Any:
        """Words below 2^31 as numbers."""

    def concatenate(self, arrays: list[Any], axis: int = 0) -> Any:
        """Arrays that agree but in one axis, one after the other."""

    def contract(self, weights: Any, normals: Any) -> Any:
        """Sum over numbers and nodes of weights times normals.

        Weights are ``(areas, numbers, nodes, B, 1)``, normals ``(numbers, nodes, B, m)``; each B
        may be 1.
        """


@dataclass(frozen=True)
class _Arithmetic:
    """A machine for programs of scalars, which here are arrays."""

    operations: Mapping[str, Callable[..., Any]]

    def apply(self, op: str, *operands: Any) -> Any:
        return self.operations[op](*operands)


@cache
def _runner(program: Program) -> Runner:
    return Runner(program)


@dataclass(frozen=True)
class Entries:
    """The noise of a solve: an entry a sample and channel, numbered in this order.

    Attributes
    ----------
    samples, channels : int
    shared : bool
        Whether all samples have the same noise, so that only channels are numbered.
    quiet : int
        Entries of a sample after its channels that nothing is read of: those of a state that no
        noise drives, which have whatever noise there is.

    Raises
    ------
    ValueError
        If there are more than ``2^32`` entries.
    """

    samples: int
    channels: int
    shared: bool = False
    quiet: int = 0

    @property
    def width(self) -> int:
        """Entries of a sample, with those that nothing is read of."""
        return self.channels + self.quiet

    @property
    def joined(self) -> Entries:
        """The same noise as that of one sample."""
        return Entries(1, (1 if self.shared else self.samples) * self.channels)

    def __post_init__(self) -> None:
        if (1 if self.shared else self.samples) * self.channels > 2**32:
            raise ValueError(
                f"expected noise of at most 2^32 entries, received {self.samples} samples of "
                f"{self.channels} channels; try fewer samples at a time, with another key each"
            )


class BrownianSource(Protocol):
    """A Brownian path as a backend's solver asks for it; see ``brownian`` of the backends."""

    def increment(self, s: Any, t: Any, entries: Entries) -> Increments:
        """W, H, K over ``[s, t]``, each ``(B, m)`` in the dtype of the source, None if absent.

        Times are numbers of the backend's clock, the same for all samples or ``(B, 1)``, in either
        order: against the direction of the path W and K change their sign. ``s == t`` gives zeros,
        and what is outside the span is nan. Shared noise over one interval is ``(1, m)``.
        """

    def direct(self, step: Any, h: Any, entries: Entries) -> Increments:
        """W, H, K of step number ``step`` of a fixed mesh, of size ``h``: not those of the path.

        ``step`` is an integer from 0 to ``2^32 - 1``, or an integer array ``(B, 1)``.
        """


@dataclass(frozen=True)
class Interval:
    """An interval of every sample, as positions along the path.

    Attributes
    ----------
    start, end : tuple of two arrays (B, 1)
        A number and what rounding left of it.
    span, slack : number
        Of :class:`ndereg.plan.brownian.Grid`.
    scale : number
        One over the size of the grid.
    """

    start: tuple[Any, Any]
    end: tuple[Any, Any]
    span: Any
    slack: Any
    scale: Any


@dataclass(frozen=True)
class Path:
    """A Brownian path: a key, the depth of its cells, and the arrays it is computed on.

    Parameters
    ----------
    areas : {"W", "WH", "WHK"}
    words : tuple of two
        The key, as words of ``arrays``: of shape ``()``, or ``(B, 1)`` for a key a sample.
    depth : int
        Of the grid.
    arrays : PathArrays
        What normal numbers are computed on.
    times : PathArrays
        What weights are computed on.
    lift : callable
        Numbers and words of ``times`` as those of ``arrays``.
    """

    areas: Areas
    words: Words
    depth: int
    arrays: Any
    times: Any
    lift: Callable[[Any], Any] = lambda values: values

    @property
    def plan(self) -> BrownianPlan:
        """The programs."""
        return brownian_plan(self.areas)

    def components(self, entries: Entries) -> Any:
        """Return words that number the entries of the noise, ``(1, m)`` or ``(B, m)``."""
        rows = 1 if entries.shared else entries.samples
        index = np.arange(rows * entries.channels, dtype=np.uint32)
        index = index.reshape(rows, entries.channels)
        return self.arrays.words(np.concatenate([index, *[index[:, :1]] * entries.quiet], axis=1))

    def increment(self, interval: Interval, components: Any) -> Increments:
        """W, H, K over an interval of every sample, ``(B, m)``, in the arithmetic of the arrays.

        ``components`` is ``(1, m)`` or ``(B, m)``; what is outside the span is nan.
        """
        nodes, weights, signs = weigh(self.plan, self.depth, interval, self.times)
        values = (*nodes, signs["known"], signs["sign"], weights)
        return self._summed(tuple(map(self.lift, values)), components)

    def _summed(self, parts: tuple[Any, ...], components: Any) -> Increments:
        """Sum over the nodes, in halves of the entries where they are too many at once."""
        rows, columns = max(parts[0].shape[1], components.shape[0]), components.shape[1]
        count, block = parts[0].shape[0], self.arrays.block
        if block is not None and count * rows * columns > block and rows * columns > 1:
            axis, middle = (-2, rows // 2) if rows > columns else (-1, columns // 2)
            both = zip(*(halves(part, axis, middle) for part in (*parts, components)), strict=True)
            results = [self._summed(half[:-1], half[-1]) for half in both]
            found = [
                None if a is None else self.arrays.concatenate([a, b], axis)
                for a, b in zip(*results, strict=True)
            ]
            return found[0], found[1], found[2]
        first, second, known, sign, weights = parts
        normals = self._normals(threefry(self.words, (first, second)), components)
        totals = self.arrays.contract(weights, normals)
        results: list[Any] = [None, None, None]
        for place, area in enumerate(self.areas):
            results[place] = totals[place] * (known if area == "H" else sign)
        return results[0], results[1], results[2]

    def direct(self, step: Any, length: Any, components: Any) -> Increments:
        """W, H, K over a step of a fixed mesh, given its number and its length.

        The number are words; both are ``(1, 1)`` or ``(B, 1)``. These are no increments of the path
        that :meth:`increment` shows.
        """
        node = threefry(self.words, (step * 0 + DIRECT, step))
        machine = _Arithmetic(self.arrays.operations)
        deviations = _runner(self.plan.direct)(machine, {"length": length})
        normals = self._normals((node[0][None], node[1][None]), components)
        results: list[Any] = [None, None, None]
        for number, area in enumerate(self.areas):
            results[number] = deviations[f"{area}{number}"] * normals[number, 0]
        return results[0], results[1], results[2]

    def _normals(self, node: Words, components: Any) -> Any:
        """Numbers of nodes ``(nodes, B, 1)``, in ``(numbers, nodes, B, m)``."""
        numbers = np.arange(len(self.areas), dtype=np.uint32).reshape(-1, 1, 1, 1)
        bits = draw_bits(threefry(node, (components, self.arrays.words(numbers))))
        values = dict(zip(("negative", "high", "low"), map(self.arrays.real, bits), strict=True))
        return _runner(self.plan.normal)(_Arithmetic(self.arrays.operations), values)["normal"]


def halves(array: Any, axis: int, middle: int) -> tuple[Any, Any]:
    """Return an array before and after an index, twice the same where the axis has length 1."""
    if array.ndim < -axis or array.shape[axis] == 1:
        return array, array
    if axis == -1:
        return array[..., :middle], array[..., middle:]
    return array[..., :middle, :], array[..., middle:, :]


def weigh(
    plan: BrownianPlan, depth: int, interval: Interval, arrays: Any
) -> tuple[Words, Any, dict[str, Any]]:
    """Return words of the nodes, weights of their numbers, and the signs of the result.

    Words are ``(nodes, B, 1)``, weights ``(areas, numbers, nodes, B, 1)``. Nodes are the root, then
    the halved cells of the lower end and of the upper one, and the last cells of both.
    """
    machine = _Arithmetic(arrays.operations)
    pairs = zip(("high", "low"), interval.start, interval.end, strict=True)
    values: dict[str, Any] = {"span": interval.span, "slack": interval.slack}
    for part, start, end in pairs:
        values |= {f"start_{part}": start, f"end_{part}": end}
    found = _runner(plan.interval)(machine, values)
    counts = arrays.numbers(2.0 ** np.arange(depth + 1)).reshape(-1, 1, 1)
    rates, length = counts * interval.scale, found["length"]
    places = {}
    for end in ENDS:
        inputs = {"high": found[f"{end}_high"], "low": found[f"{end}_low"], "rate": rates}
        places[end] = _runner(plan.locate)(machine, inputs)
    located = {f"{end}.{name}": value for end in ENDS for name, value in places[end].items()}
    ends = _runner(plan.ends)(machine, {**located, "length": length, "rate": rates})
    root = _runner(plan.root)(machine, {**found, "rate": rates[:1]})
    join, cut = arrays.concatenate, slice(None, -1)
    starts = join([ends["lower.start"][cut], ends["upper.start"][cut]])
    stops = join([ends["lower.end"][cut], ends["upper.end"][cut]])
    inputs = {"start": starts, "end": stops, "length": length}
    split = _runner(plan.split)(machine, {**inputs, "rate": join([rates[cut], rates[cut]])})
    # a cell that both ends are in counts with the lower one
    same, choose = ends["same"][cut], arrays.operations["where"]
    twice = join([same & ~same, same])
    inputs = {
        "place": join([ends["lower.start"][-1:], ends["upper.end"][-1:]]),
        "other": join([ends["lower.end"][-1:], ends["upper.start"][-1:]]),
        "side": arrays.numbers([-1.0, 1.0]).reshape(-1, 1, 1),
        "length": length,
    }
    leaf = _runner(plan.leaf)(machine, {**inputs, "rate": rates[-1:]})
    count = len(plan.areas)
    names = [f"{area}{number}" for area in plan.areas for number in range(count)]
    split = {name: choose(twice, 0.0, split[name]) for name in names}
    weights = join([join([part[name][None] for name in names]) for part in (root, split, leaf)], 1)
    shape = (count, count, *weights.shape[1:])
    return _node_words(depth, places, arrays), weights.reshape(shape), found


def _node_words(depth: int, places: dict[str, dict[str, Any]], arrays: Any) -> Words:
    first, second = np.array(level_words(depth), np.uint32).T.reshape(2, -1, 1, 1)
    high, low = [], []
    for end in ENDS:
        place = places[end]
        carry = arrays.words(place["carry"] + 1.0)  # -1 to 1, and words have no sign
        high.append(arrays.words(place["word_high"]) + arrays.words(first))
        low.append(arrays.words(place["word_low"]) + arrays.words(second - 1) + carry)
    rows = []
    for parts in (high, low):
        cells = [part[:-1] for part in parts] + [part[-1:] for part in parts]
        rows.append(arrays.concatenate([parts[0][:1] * 0, *cells]))
    return rows[0], rows[1]


def host_interval(grid: Grid, s: Any, t: Any) -> Interval:
    """Where two times, numbers or NumPy arrays, are along the path."""
    start, end = (
        (np.asarray(time, np.float64).reshape(-1, 1) - grid.origin) * grid.direction
        for time in (s, t)
    )
    nothing = np.zeros((1, 1))
    return Interval((start, nothing), (end, nothing), grid.length, grid.slack, 1.0 / grid.size)


def as_dtype(increments: Increments, cast: Callable[[Any], Any]) -> Increments:
    """Increments, where there are any, in another dtype."""
    w, h, k = (None if part is None else cast(part) for part in increments)
    return w, h, k
