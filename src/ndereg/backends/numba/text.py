"""The text of a kernel under construction: lines, names, and numbers that come in at run time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndereg.backends.numba.expressions import literal
from ndereg.backends.numba.views import View

__all__ = ["SMALL", "Text"]

#: Lengths up to this one are written into the text, so that loops over them can be unrolled;
#: others are read from ``dims``, so that one text serves every batch size.
SMALL = 16

#: The same of offsets, which tell that two parts of an array do not overlap: known to the compiler,
#: the accelerations of a gravitational field take a third of the time.
_NEAR = 64

_INDENT = "    "


class Text:
    """Lines of a function body."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 1
        self._names = 0
        self._dims: dict[int, str] = {}
        self._constants: dict[str, str] = {}
        self._unpacked: dict[str, str] = {}
        self._arrays: list[NDArray[Any]] = []

    # Lines

    def line(self, text: str) -> None:
        """Append a line at the current depth."""
        self._lines.append(_INDENT * self._depth + text)

    @contextmanager
    def loop(self, depth: int, length: int) -> Iterator[None]:
        """Everything appended inside is in a loop over one axis."""
        self.line(f"for {index_name(depth)} in range({self.size(length)}):")
        self._depth += 1
        yield
        self._depth -= 1

    def store(self, view: View, value: str, accumulate: bool) -> None:
        """Write or add a value to an entry."""
        self.line(f"{self.entry(view)} {'+=' if accumulate else '='} {value}")

    def drop_unused(self) -> None:
        """Remove variables that nothing reads, in text without loops."""
        used: set[str] = set()
        kept: list[str] = []
        for line in reversed(self._lines):
            target, value = line.split("=", 1)
            name = target.strip()
            if name.isidentifier() and name not in used:
                continue
            used.update(re.findall(r"\w+", line if not name.isidentifier() else value))
            kept.append(line)
        self._lines = kept[::-1]

    # Names and numbers

    def fresh(self, prefix: str) -> str:
        """Return a name not used yet."""
        self._names += 1
        return f"{prefix}{self._names}"

    def size(self, number: int) -> str:
        """Return a length, stride or offset."""
        if number < 0:
            return f"-{self.size(-number)}"
        if number <= SMALL:
            return str(number)
        return self._dims.setdefault(number, f"d{len(self._dims)}")

    def constant(self, value: Any, dtype: str) -> str:
        """Return a number of the graph, with exactly its dtype."""
        return self.typed(literal(value, dtype), dtype)

    def typed(self, text: str, dtype: str) -> str:
        """Return a number already written; named once at the top if it needs a conversion."""
        if dtype in {"float64", "int64", "bool"}:
            return f"({text})" if text.startswith("-") else text
        return self._constants.setdefault(text, f"c{len(self._constants)}")

    def array(self, value: NDArray[Any]) -> str:
        """Name of a constant array, which is passed at run time."""
        flat = np.ascontiguousarray(value).reshape(-1)
        for number, known in enumerate(self._arrays):
            if known.dtype == flat.dtype and np.array_equal(known, flat):
                return self.unpacked(f"q{number}", f"entries(constants[{number}])")
        self._arrays.append(flat)
        number = len(self._arrays) - 1
        return self.unpacked(f"q{number}", f"entries(constants[{number}])")

    def unpacked(self, name: str, source: str) -> str:
        """Return a name for part of an argument, assigned at the top."""
        self._unpacked[name] = source
        return name

    # Entries

    def index(self, view: View, table: tuple[int, str] | None = None) -> str:
        """Return the flat index of the current point; ``table`` maps one axis through an array."""
        near = 0 < view.offset <= _NEAR
        terms = [str(view.offset) if near else self.size(view.offset)] if view.offset else []
        if view.sample_stride:
            terms.append(self._scaled("sample", view.sample_stride))
        for axis, stride in enumerate(view.strides):
            if stride:
                name = index_name(axis)
                if table is not None and table[0] == axis:
                    name = f"{table[1]}[{name}]"
                terms.append(self._scaled(name, stride))
        return " + ".join(terms) or "0"

    def _scaled(self, name: str, stride: int) -> str:
        return name if stride == 1 else f"{name} * {self.size(stride)}"

    def entry(self, view: View) -> str:
        """Return the entry of a view at the current point."""
        return f"{view.buffer.name}[{self.index(view)}]"

    # The whole

    @property
    def dims(self) -> NDArray[np.int64]:
        """Values of the run-time lengths."""
        return np.array(list(self._dims), dtype=np.int64)

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Constant arrays."""
        return tuple(self._arrays)

    def assembled(self) -> str:
        """Return the body: what is unpacked at the top, then the lines."""
        body = "\n".join(self._lines)
        used = set(re.findall(r"\w+", body))
        top = [f"{name} = {source}" for name, source in self._unpacked.items() if name in used]
        top += [f"{name} = dims[{i}]" for i, name in enumerate(self._dims.values())]
        top += [f"{name} = {value}" for value, name in self._constants.items()]
        return "\n".join([*(_INDENT + line for line in top), *([body] if body else [])])


def index_name(depth: int) -> str:
    """Return the variable of the loop at a depth."""
    return "ijklmnpq"[depth] if depth < 8 else f"i{depth}"
