"""Brownian paths as Numba source: the programs of a path in one function of scalar times.

The nodes of a query and their weights are found first. Then normal numbers are made in loops that
run on packed registers: for a few entries of the noise over the nodes, and for many over the
entries, a block at a time and one step of the computation after another, so that 32-bit words and
64-bit numbers each fill their registers and the tails, 15 percent, are computed where they are.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ndereg.backends.brownian import Entries, Increments
from ndereg.backends.numba.emit import HEADER
from ndereg.backends.numba.module import load
from ndereg.backends.numba.programs import emit_program
from ndereg.backends.numba.signatures import Kernels, Numbers
from ndereg.plan.brownian import DIRECT, Areas, BrownianPlan, Grid, brownian_plan
from ndereg.plan.normal import central_program, draw_bits, outer_program, threefry
from ndereg.plan.program import Program

__all__ = ["NumbaBrownian", "brownian_source", "node_room", "path_functions", "path_numbers"]

BLOCK = 512
"""Entries of the noise whose numbers are made at once: the arrays between stay in the cache."""
FEW = 64
"""Fewer entries are made one after another."""

_NUMBERS = Numbers("float64", "float64", None)


class _Word:
    """A word of 32 bits under construction: every operation is a line of source."""

    def __init__(self, lines: list[str], text: str) -> None:
        self.lines, self.text = lines, text

    def _new(self, operator: str, other: _Word | int) -> _Word:
        right = other.text if isinstance(other, _Word) else f"np.uint32({other})"
        name = f"w{len(self.lines)}"
        self.lines.append(f"{name} = np.uint32({self.text} {operator} {right})")
        return _Word(self.lines, name)

    def __add__(self, other: _Word | int) -> _Word:
        return self._new("+", other)

    def __xor__(self, other: _Word | int) -> _Word:
        return self._new("^", other)

    def __or__(self, other: _Word | int) -> _Word:
        return self._new("|", other)

    def __and__(self, other: _Word | int) -> _Word:
        return self._new("&", other)

    def __lshift__(self, other: int) -> _Word:
        return self._new("<<", other)

    def __rshift__(self, other: int) -> _Word:
        return self._new(">>", other)


def _function(name: str, parameters: str, lines: list[str], result: str, decorator: str) -> str:
    body = "".join(f"    {line}\n" for line in [*lines, f"return {result}"])
    return f"{decorator}\ndef {name}({parameters}):\n{body}\n\n"


def _threefry_source(name: str, decorator: str) -> str:
    lines: list[str] = []
    key, counter = ((_Word(lines, f"{letter}0"), _Word(lines, f"{letter}1")) for letter in "kc")
    first, second = threefry(key, counter)
    result = f"{first.text}, {second.text}"
    return _function(name, "k0, k1, c0, c1", lines, result, decorator)


def _normal_source(program: Program) -> str:
    """One number of a node for one entry of the noise, as a function that loops inline."""
    normal = emit_program(program, "path_quantile", _NUMBERS, Kernels(), "@inlined")
    lines = ["a, b = path_draw(n0, n1, component, np.uint32(number))"]
    lines.append(normal.call(_drawn(lines), {"normal": "z"}))
    function = _function("path_normal", "n0, n1, component, number", lines, "z", "@inlined")
    return f"{_threefry_source('path_draw', '@inlined')}{normal.text.strip()}\n\n\n{function}"


def _drawn(lines: list[str]) -> dict[str, str]:
    """Source of the inputs of a normal number, from the words ``a`` and ``b``."""
    bits = draw_bits((_Word(lines, "a"), _Word(lines, "b")))
    # below 2^31: signed words become numbers in fewer instructions
    names = dict(zip(("negative", "high", "low"), bits, strict=True))
    return {name: f"np.float64(np.int32({bit.text}))" for name, bit in names.items()}


def _block_source(decorator: str) -> str:
    """Numbers of one node for a block of entries, in steps that each are a loop of their own.

    ``path_normals(n0, n1, first, number, count, block)`` leaves them in the first row of the
    numbers of ``block``, the scratch of :func:`block_room`.
    """
    central = emit_program(central_program(), "path_central", _NUMBERS, Kernels(), "@inlined")
    outer = emit_program(outer_program(), "path_outer", _NUMBERS, Kernels(), "@inlined")
    draw = [
        "for i in range(count):",
        "    a[i], b[i] = path_draw(n0, n1, np.uint32(first + i), np.uint32(number))",
    ]
    inner: list[str] = ["a, b = first[i], second[i]"]
    found = {"normal": "normals[i]", "tail": "tails[i]", "outside": "out"}
    inner += [central.call(_drawn(inner), found), "outside[i] = 1 if out else 0"]
    middle = ["for i in range(count):", *(f"    {line}" for line in inner)]
    sort = [
        "found = 0",
        "for i in range(count):",
        "    places[found] = i",
        "    found += np.int64(outside[i])",
        "for j in range(found):",
        "    packed[j] = tails[places[j]]",
        "    negative[j] = np.float64(np.int32(first[places[j]] >> np.uint32(31)))",
    ]
    far = [
        # whole registers: what is beyond the last is a number of before
        "for j in range((found + 7) // 8 * 8):",
        f"    {outer.call({'negative': 'negative[j]', 'tail': 'packed[j]'}, {'normal': 'z'})}",
        "    packed[j] = z",
    ]
    put = ["for j in range(found):", "    normals[places[j]] = packed[j]"]
    whole = [
        "words, numbers, places, outside = block",
        "a, b = entries(words[0]), entries(words[1])",
        "normals, tails, packed, negative = (",
        "    entries(numbers[0]), entries(numbers[1]), entries(numbers[2]), entries(numbers[3]))",
        "places, outside = entries(places), entries(outside)",
        "path_words_of(n0, n1, first, number, count, a, b)",
        "path_middle(count, a, b, normals, tails, outside)",
        "found = path_outside(count, outside, tails, a, places, packed, negative)",
        "path_tails(found, packed, negative)",
        "path_put(found, places, packed, normals)",
    ]
    scaled = ["for i in range(count):", "    row[i] = scale * values[i]"]
    added = ["for i in range(count):", "    row[i] += scale * values[i]"]
    functions = [
        ("path_words_of", "n0, n1, first, number, count, a, b", draw, "None"),
        ("path_middle", "count, first, second, normals, tails, outside", middle, "None"),
        ("path_outside", "count, outside, tails, first, places, packed, negative", sort, "found"),
        ("path_tails", "found, packed, negative", far, "None"),
        ("path_put", "found, places, packed, normals", put, "None"),
        ("path_normals", "n0, n1, first, number, count, block", whole, "None"),
        ("path_scaled", "count, scale, values, row", scaled, "None"),
        ("path_added", "count, scale, values, row", added, "None"),
    ]
    programs = "".join(f"{source.text.strip()}\n\n\n" for source in (central, outer))
    return programs + "".join(_function(*parts, decorator) for parts in functions)


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
            name: emit_program(program, f"path_{name}_program", _NUMBERS, Kernels(), decorator)
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
    numbers = _threefry_source("path_words", decorator) + _normal_source(plan.normal)
    numbers += _block_source(decorator)
    head = "from math import nan\n\nfrom ndereg.backends.numba.compiler import exact, inlined\n\n\n"
    return (
        head
        + numbers
        + programs.text
        + _nodes_source(programs, decorator)
        + _sums_source(plan, programs, decorator)
        + _direct_source(plan, programs, decorator)
        + _function("brownian_share", "time, t, h", [], "(time - t) / h * h", "@exact")
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
    return _function("path_nodes", parameters, lines, "count, known, sign", decorator)


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
    return _function("brownian_increment", parameters, lines, "None", decorator)


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
    return _function("path_again", "path, s, t, W, H, K, nodes, kept", lines, "None", "@kernel")


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
    return _function("path_fill", parameters, fill, "None", decorator) + _function(
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


def block_room(areas: int) -> tuple[Any, ...]:
    """Return scratch for the numbers of a block of entries, and their sums over the nodes."""
    words, numbers = np.empty((2, BLOCK), np.uint32), np.empty((4 + areas, BLOCK + 8))
    return words, numbers, np.empty(BLOCK + 8, np.int32), np.empty(BLOCK, np.uint8)


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
