"""Brownian paths as Numba source: the programs of a path in one function of scalar times.

The nodes of a query and their weights are found first. Then their normal numbers are made: for a
few entries of the noise over the nodes, and for many over the entries.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ndereg.backends.brownian import Entries, Increments
from ndereg.backends.numba.emit import HEADER
from ndereg.backends.numba.module import load
from ndereg.backends.numba.normals import (
    BLOCK,
    FEW,
    NUMBERS,
    block_room,
    block_source,
    function_source,
    normal_source,
    threefry_source,
)
from ndereg.backends.numba.programs import emit_program
from ndereg.backends.numba.signatures import Kernels
from ndereg.plan.brownian import DIRECT, Areas, BrownianPlan, Grid, brownian_plan
from ndereg.plan.program import Program

__all__ = ["NumbaBrownian", "brownian_source", "node_room", "path_functions", "path_numbers"]


class _Programs:
    """The programs of a plan as functions, and the source of calls to them."""

    def __init__(self, plan: BrownianPlan, decorator: str) -> None:
        self.plan = plan
        programs = {
            name: value
            for name, value in vars(plan).items()
            if isinstance(value, Program) and name != "normal"
        }
        self.sources = {
            name: emit_program(program, f"path_{name}_program", NUMBERS, Kernels(), decorator)
            for name, program in programs.items()
        }
        self.text = "".join(source.text.strip() + "\n\n\n" for source in self.sources.values())

    def call(self, name: str, values: dict[str, str], outputs: dict[str, str]) -> str:
        """Source of a call; outputs that are not named are dropped."""
        source = self.sources[name]
        named = {result: outputs.get(result, "_") for result in source.results}
        return source.call(values, named)

    def weights(self, name: str, values: dict[str, str]) -> str:
        """Source of a call that writes the weights of node ``count``."""
        rows = {
            f"{area}{number}": f"weights[{column}, count]"
            for column, (number, area) in enumerate(self.plan.weights)
        }
        return self.call(name, values, rows)


def brownian_source(areas: Areas, decorator: str = "@kernel") -> str:
    """Return the source of the functions of a path, to be put after the header of a module.

    They are called as::

        brownian_increment(path, s, t, first, W, H, K, nodes)
        brownian_direct(path, step, length, first, W, H, K, nodes)

    and write into the rows ``W``, ``H``, ``K`` (any real dtype; what ``areas`` lacks is left alone)
    the increments over ``[s, t]`` of the entries ``first``, ``first + 1``, ... of the noise.
    ``path`` are :func:`path_numbers`, ``nodes`` the scratch of :func:`node_room`. Outside the span
    everything is nan. ``brownian_share(time, t, h)`` is the length of the part of a step from ``t``
    to an output time, rounded as on every backend: where times differ by rounding, a path differs
    by the square root of it.
    """
    plan = brownian_plan(areas)
    programs = _Programs(plan, decorator)
    numbers = threefry_source("path_words", decorator) + normal_source(plan.normal)
    numbers += block_source(decorator)
    head = "from math import nan\n\nfrom ndereg.backends.numba.compiler import exact, inlined\n\n\n"
    return (
        head
        + numbers
        + programs.text
        + _nodes_source(programs, decorator)
        + _sums_source(plan, programs, decorator)
        + _direct_source(plan, programs, decorator)
        + function_source("brownian_share", "time, t, h", [], "(time - t) / h * h", "@exact")
    )


def _nodes_source(programs: _Programs, decorator: str) -> str:
    """Nodes of an interval: their keys and weights, how many they are, and the signs."""
    interval = programs.call(
        "interval",
        {"start_high": "(s - origin) * direction", "start_low": "0.0", "span": "span",
         "end_high": "(t - origin) * direction", "end_low": "0.0",
         "slack": "size * 0.5 / 2.0 ** depth"},
        {"lower_high": "lower", "upper_high": "upper", "length": "length", "known": "known",
         "sign": "sign"},
    )  # fmt: skip
    located = ("cell", "place", "word_high", "word_low", "carry")
    locate = {
        end: programs.call(
            "locate",
            {"high": end, "low": "0.0", "rate": "rate"},
            {name: f"{end}_{name.removeprefix('word_')}" for name in located},
        )
        for end in ("lower", "upper")
    }
    seen = {
        f"{end}.{part}": f"{end}_{part}" for end in locate for part in ("cell", "carry", "place")
    }
    ends = programs.call(
        "ends",
        {**seen, "length": "length", "rate": "rate"},
        {"same": "same", "lower.start": "lower_start", "lower.end": "lower_end",
         "upper.start": "upper_start", "upper.end": "upper_end"},
    )  # fmt: skip
    common = {"length": "length", "rate": "rate"}
    root = programs.weights("root", {**common, "lower_high": "lower", "lower_low": "0.0"})
    split, leaf = {}, {}
    for end, place, other, side in (
        ("lower", "lower_start", "lower_end", "-1.0"),
        ("upper", "upper_end", "upper_start", "1.0"),
    ):
        values = {"start": f"{end}_start", "end": f"{end}_end"}
        split[end] = programs.weights("split", {**common, **values})
        values = {"place": place, "other": other, "side": side}
        leaf[end] = programs.weights("leaf", {**common, **values})

    def node(end: str, weigh: str, indent: str) -> list[str]:
        return [
            f"{indent}keys[0, count], keys[1, count] = path_words(",
            f"{indent}    k0, k1, np.uint32(np.int64({end}_high) + (first_cell >> 32)),",
            f"{indent}    np.uint32(np.int64({end}_low) + (first_cell & 0xFFFFFFFF)))",
            f"{indent}{weigh}",
            f"{indent}count += 1",
        ]

    lines = [
        "k0, k1, origin, direction, size, depth, span = path",
        interval,
        "count = 0",
        "rate = 1.0 / size",
        "keys[0, 0], keys[1, 0] = path_words(k0, k1, np.uint32(0), np.uint32(0))",
        root,
        "count += 1",
        "for level in range(depth + 1):",
        "    first_cell = np.int64(1) << level",
        f"    {locate['lower']}",
        f"    {locate['upper']}",
        f"    {ends}",
        "    if level < depth:",
        *node("lower", split["lower"], "        "),
        "        if not same:",
        *node("upper", split["upper"], "            "),
        "    else:",
        *node("lower", leaf["lower"], "        "),
        *node("upper", leaf["upper"], "        "),
        "    rate *= 2.0",
    ]
    parameters = "path, s, t, keys, weights"
    return function_source("path_nodes", parameters, lines, "count, known, sign", decorator)


def _sums_source(plan: BrownianPlan, programs: _Programs, decorator: str) -> str:
    columns = {pair: column for column, pair in enumerate(plan.weights)}
    numbers = range(len(plan.areas))
    signs = {area: "known" if area == "H" else "sign" for area in plan.areas}
    few = [
        "for i in range(len(W)):",
        "    component = np.uint32(first + i)",
        f"    for number in range({len(plan.areas)}):",
        # whole registers, for keys that may be of an interval before
        "        for n in range((count + 7) // 8 * 8):",
        "            a, b = keys[0, n], keys[1, n]",
        "            normals[number, n] = path_normal(a, b, component, number)",
    ]
    for area in plan.areas:
        terms = [
            f"weights[{columns[number, area]}, n] * normals[{number}, n]" for number in numbers
        ]
        few += [
            "    total = 0.0",
            "    for n in range(count):",
            f"        total = plus(total, {' + '.join(terms)})",
            f"    {area}[i] = total * {signs[area]}",
        ]
    sums = {area: f"entries(block[1][{4 + place}])" for place, area in enumerate(plan.areas)}
    many = [
        f"for start in range(0, len(W), {BLOCK}):",
        f"    size = min(len(W) - start, {BLOCK})",
        "    block[1][4:, :] = 0.0",
        f"    for number in range({len(plan.areas)}):",
        "        for n in range(count):",
        "            path_normals(keys[0, n], keys[1, n], first + start, number, size, block)",
    ]
    many += [
        f"            path_added(size, weights[{len(plan.areas)} * number + {place}, n], "
        f"entries(block[1][0]), {sums[area]})"
        for place, area in enumerate(plan.areas)
    ]
    many += [
        f"    path_scaled(size, {signs[area]}, {sums[area]}, entries_from({area}, start))"
        for area in plan.areas
    ]
    lines = [
        "keys, weights, normals, block = nodes",
        "count, known, sign = path_nodes(path, s, t, keys, weights)",
        f"if len(W) < {FEW}:",
        *(f"    {line}" for line in few),
        "else:",
        *(f"    {line}" for line in many),
    ]
    parameters = "path, s, t, first, W, H, K, nodes"
    return function_source("brownian_increment", parameters, lines, "None", decorator)


def _again_source(plan: BrownianPlan) -> str:
    """An interval of all entries whose nodes are looked for among those of the one before.

    Neighbouring intervals share the nodes of the end between them, and most large cells besides.
    """
    columns = {pair: column for column, pair in enumerate(plan.weights)}
    numbers = range(len(plan.areas))
    lines = [
        "keys, weights, _, block = nodes",
        "known_keys, normals, held, places = kept",
        "count, known, sign = path_nodes(path, s, t, keys, weights)",
        "for n in range(count):",
        "    places[n] = -1",
        "    for r in range(len(held)):",
        "        if held[r] and known_keys[0, r] == keys[0, n] and known_keys[1, r] == keys[1, n]:",
        "            places[n] = r",
        "            break",
        "held[:] = False",
        "for n in range(count):",
        "    if places[n] >= 0:",
        "        held[places[n]] = True",
        "free = 0",
        "for n in range(count):",
        "    if places[n] < 0:",
        "        while held[free]:",
        "            free += 1",
        "        held[free] = True",
        "        places[n] = free",
        "        a, b = keys[0, n], keys[1, n]",
        "        known_keys[0, free], known_keys[1, free] = a, b",
    ]
    lines += [
        f"        path_fill(a, b, np.uint32(0), {number}, 1.0, normals[{number}, free], block)"
        for number in numbers
    ]
    for area in plan.areas:
        lines += [f"{area}[:] = 0.0", "for n in range(count):"]
        lines += [f"    row{number} = normals[{number}, places[n]]" for number in numbers]
        lines += [f"    weight{number} = weights[{columns[number, area]}, n]" for number in numbers]
        terms = " + ".join(f"weight{number} * row{number}[i]" for number in numbers)
        lines += [
            f"    for i in range(len({area})):",
            f"        {area}[i] += {terms}",
            f"for i in range(len({area})):",
            f"    {area}[i] *= {'known' if area == 'H' else 'sign'}",
        ]
    return function_source(
        "path_again", "path, s, t, W, H, K, nodes, kept", lines, "None", "@kernel"
    )


def _direct_source(plan: BrownianPlan, programs: _Programs, decorator: str) -> str:
    """Numbers of the step of a fixed mesh: a row of each area, filled by one function."""
    fill = [
        f"if len(row) < {FEW}:",
        "    for i in range(len(row)):",
        "        row[i] = deviation * path_normal(n0, n1, np.uint32(first + i), number)",
        "else:",
        f"    for start in range(0, len(row), {BLOCK}):",
        f"        size = min(len(row) - start, {BLOCK})",
        "        path_normals(n0, n1, first + start, number, size, block)",
        "        path_scaled(size, deviation, entries(block[1][0]), entries_from(row, start))",
    ]
    deviations = {f"{area}{number}": f"d{number}" for number, area in enumerate(plan.areas)}
    lines = [
        programs.call("direct", {"length": "length"}, deviations),
        f"n0, n1 = path_words(path[0], path[1], np.uint32({DIRECT}), np.uint32(step))",
    ]
    lines += [
        f"path_fill(n0, n1, first, {number}, d{number}, {area}, nodes[3])"
        for number, area in enumerate(plan.areas)
    ]
    parameters = "n0, n1, first, number, deviation, row, block"
    return function_source("path_fill", parameters, fill, "None", decorator) + function_source(
        "brownian_direct", "path, step, length, first, W, H, K, nodes", lines, "None", decorator
    )


_ROWS = """\
@kernel
def path_rows(path, s, t, stride, W, H, K, nodes):
    for b in range(len(W)):
        first = b * stride
        j = b if len(s) > 1 else 0
        brownian_increment(path, s[j], t[j], first, W[b], H[b], K[b], nodes)


@kernel
def path_steps(path, step, length, stride, W, H, K, nodes):
    for b in range(len(W)):
        first = b * stride
        j = b if len(step) > 1 else 0
        brownian_direct(path, step[j], length[j], first, W[b], H[b], K[b], nodes)
"""


def path_numbers(words: tuple[int, int], grid: Grid) -> tuple[Any, ...]:
    """Return what compiled functions know a path by: its key and its cells."""
    key = np.uint32(words[0]), np.uint32(words[1])
    return (*key, grid.origin, grid.direction, grid.size, grid.depth, grid.length)


def node_room(areas: Areas, depth: int) -> tuple[Any, ...]:
    """Return scratch for the nodes of a query: their keys, weights and normal numbers; a block."""
    count, nodes = len(areas), -(-(2 * depth + 3) // 8) * 8
    keys = np.zeros((2, nodes), np.uint32)
    weights, normals = np.empty((count * count, nodes)), np.empty((count, nodes))
    return keys, weights, normals, block_room(count)


@cache
def path_text(areas: Areas) -> str:
    """Return the source of the module of a path."""
    return f"{HEADER}\n\n{brownian_source(areas)}{_again_source(brownian_plan(areas))}{_ROWS}"


@cache
def path_functions(areas: Areas) -> Any:
    """Return the compiled functions of a path: ``path_rows``, ``path_steps``, ``path_again``."""
    return load(path_text(areas))


_NOTHING = np.empty(0)


def _alone(entries: Entries) -> bool:
    """Whether one interval asks for one row of numbers."""
    return entries.shared or entries.samples == 1


KEPT_BYTES = 2**24
"""Room for the normal numbers of the nodes of the latest interval."""
FEWEST_KEPT = 16
"""Entries from which on a search for known nodes pays."""


class NumbaBrownian:
    """A path compiled by Numba; see :class:`ndereg.backends.brownian.BrownianSource`.

    Of the latest interval that all entries were asked for at once, the normal numbers of its nodes
    are kept while they fit into ``KEPT_BYTES``: the next step of a solve shares most of them, and
    draws a third of what it would draw. One is for one solve: threads do not share it.
    """

    def __init__(self, areas: Areas, words: tuple[int, int], grid: Grid, dtype: str) -> None:
        self.areas, self.grid, self.dtype = areas, grid, dtype
        self._numbers = path_numbers(words, grid)
        self._functions = path_functions(areas)
        self._nodes = node_room(areas, grid.depth)
        self._kept: tuple[int, Any] | None = None

    def increment(self, s: Any, t: Any, entries: Entries) -> Increments:
        """See :class:`ndereg.backends.brownian.BrownianSource`."""
        if isinstance(s, float) and isinstance(t, float) and _alone(entries):
            rows = self._rows(entries.width)
            kept = self._again(entries.width)
            if kept is None:
                increment = self._functions.brownian_increment
                increment(self._numbers, s, t, 0, *rows, self._nodes)
            else:
                self._functions.path_again(self._numbers, s, t, *rows, self._nodes, kept)
            return self._found([row[None] for row in rows])
        return self._filled(self._functions.path_rows, entries, (s, t), np.float64)

    def direct(self, step: Any, h: Any, entries: Entries) -> Increments:
        """See :class:`ndereg.backends.brownian.BrownianSource`."""
        if isinstance(step, int) and isinstance(h, float) and _alone(entries):
            rows = self._rows(entries.width)
            self._functions.brownian_direct(self._numbers, step, abs(h), 0, *rows, self._nodes)
            return self._found([row[None] for row in rows])
        steps = np.asarray(step, np.int64), np.abs(h)
        return self._filled(self._functions.path_steps, entries, steps, None)

    def _rows(self, width: int) -> list[Any]:
        """One row of each area, without entries where the path does not have it."""
        count = len(self.areas)
        return [*np.empty((count, width)), *[_NOTHING] * (3 - count)]

    def _filled(self, function: Any, entries: Entries, pair: Any, dtype: Any) -> Increments:
        first, second = (np.asarray(value, dtype).reshape(-1) for value in pair)
        if first.shape != second.shape:
            first, second = map(np.ascontiguousarray, np.broadcast_arrays(first, second))
        rows = len(first) if entries.shared else max(len(first), entries.samples)
        parts = [np.empty((rows, entries.width)) for _ in self.areas]
        parts += [np.empty((rows, 0))] * (3 - len(parts))
        stride = 0 if entries.shared else entries.channels
        function(self._numbers, first, second, stride, *parts, self._nodes)
        return self._found(parts)

    def _found(self, parts: list[Any]) -> Increments:
        """W, H and K, in the dtype of the path."""
        count = len(self.areas)
        found = [part.astype(self.dtype, copy=False) for part in parts[:count]]
        w, h, k = [*found, *[None] * (3 - count)]
        return w, h, k

    def _again(self, width: int) -> Any:
        """Room for the nodes of an interval: keys, normal numbers, which are held, and places."""
        nodes, count = 2 * self.grid.depth + 3, len(self.areas)
        if width < FEWEST_KEPT or 8 * nodes * count * width > KEPT_BYTES:
            return None
        if self._kept is None or self._kept[0] != width:
            keys, normals = np.empty((2, nodes), np.uint32), np.empty((count, nodes, width))
            room = keys, normals, np.zeros(nodes, np.bool_), np.empty(nodes, np.int64)
            self._kept = width, room
        return self._kept[1]
