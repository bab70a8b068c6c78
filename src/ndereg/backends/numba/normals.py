"""The normal numbers of Brownian paths as Numba source.

They are made in loops that run on packed registers: for a few entries of the noise one after
another, and for many a block at a time and one step of the computation after another, so that
32-bit words and 64-bit numbers each fill their registers and the tails, 15 percent, are computed
where they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ndereg.backends.numba.programs import emit_program
from ndereg.backends.numba.signatures import Kernels, Numbers
from ndereg.plan.normal import central_program, draw_bits, outer_program, threefry
from ndereg.plan.program import Program

BLOCK = 512
"""Entries of the noise whose numbers are made at once: the arrays between stay in the cache."""
FEW = 64
"""Fewer entries are made one after another."""

NUMBERS = Numbers("float64", "float64", None)


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


def function_source(
    name: str, parameters: str, lines: list[str], result: str, decorator: str
) -> str:
    """Return the source of a function of ``lines`` that returns ``result``."""
    body = "".join(f"    {line}\n" for line in [*lines, f"return {result}"])
    return f"{decorator}\ndef {name}({parameters}):\n{body}\n\n"


def threefry_source(name: str, decorator: str) -> str:
    """Return the source of the two words that Threefry makes of a key and a counter."""
    lines: list[str] = []
    key, counter = ((_Word(lines, f"{letter}0"), _Word(lines, f"{letter}1")) for letter in "kc")
    first, second = threefry(key, counter)
    result = f"{first.text}, {second.text}"
    return function_source(name, "k0, k1, c0, c1", lines, result, decorator)


def normal_source(program: Program) -> str:
    """One number of a node for one entry of the noise, as a function that loops inline."""
    normal = emit_program(program, "path_quantile", NUMBERS, Kernels(), "@inlined")
    lines = ["a, b = path_draw(n0, n1, component, np.uint32(number))"]
    lines.append(normal.call(_drawn(lines), {"normal": "z"}))
    function = function_source("path_normal", "n0, n1, component, number", lines, "z", "@inlined")
    return f"{threefry_source('path_draw', '@inlined')}{normal.text.strip()}\n\n\n{function}"


def _drawn(lines: list[str]) -> dict[str, str]:
    """Source of the inputs of a normal number, from the words ``a`` and ``b``."""
    bits = draw_bits((_Word(lines, "a"), _Word(lines, "b")))
    # below 2^31: signed words become numbers in fewer instructions
    names = dict(zip(("negative", "high", "low"), bits, strict=True))
    return {name: f"np.float64(np.int32({bit.text}))" for name, bit in names.items()}


def block_source(decorator: str) -> str:
    """Numbers of one node for a block of entries, in steps that each are a loop of their own.

    ``path_normals(n0, n1, first, number, count, block)`` leaves them in the first row of the
    numbers of ``block``, the scratch of :func:`block_room`.
    """
    central = emit_program(central_program(), "path_central", NUMBERS, Kernels(), "@inlined")
    outer = emit_program(outer_program(), "path_outer", NUMBERS, Kernels(), "@inlined")
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
    return programs + "".join(function_source(*parts, decorator) for parts in functions)


def block_room(areas: int) -> tuple[Any, ...]:
    """Return scratch for the numbers of a block of entries, and their sums over the nodes."""
    words, numbers = np.empty((2, BLOCK), np.uint32), np.empty((4 + areas, BLOCK + 8))
    return words, numbers, np.empty(BLOCK + 8, np.int32), np.empty(BLOCK, np.uint8)
