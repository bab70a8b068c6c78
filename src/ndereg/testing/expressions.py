"""Vector fields as expression trees that print as code."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ndereg import ops
from ndereg.structure import LEAF, Structure


@dataclass(frozen=True, repr=False)
class Expression:
    """A node: code with ``{0}``, ``{1}`` for its operands. Its repr is the code.

    Examples
    --------
    >>> Expression("ops.tanh({0})", (Expression("({0} + {0})", (Expression("y"),)),))
    ops.tanh((y + y))
    """

    template: str
    operands: tuple[Expression, ...] = ()

    def __repr__(self) -> str:
        return self.template.format(*self.operands)


@dataclass(frozen=True)
class StateShape:
    """The arrays of a state, without their values.

    Attributes
    ----------
    structure : Structure
    shapes : tuple of shapes
        The batch axis included.
    dtypes : tuple of str
    """

    structure: Structure = LEAF
    shapes: tuple[tuple[int, ...], ...] = ((2,),)
    dtypes: tuple[str, ...] = ("float64",)

    @property
    def paths(self) -> tuple[str, ...]:
        """Code of every leaf, of a state called ``y``."""
        return self.structure.paths("y")

    def values(self, random: np.random.Generator) -> Any:
        """Draw a state of numbers with two decimals, which are easy to read."""
        return self.structure.unflatten(
            [
                draw(random, shape, dtype)
                for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
            ]
        )


def draw(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    """Draw an array of numbers with two decimals, about 1 in size."""
    values = np.round(random.uniform(-1.2, 1.2, shape), 2)
    if dtype.startswith("complex"):
        values = values + 1j * np.round(random.uniform(-1.2, 1.2, shape), 2)
    return np.asarray(values, dtype)


@dataclass(frozen=True)
class DrawnField:
    """One expression a leaf of the state; ``function`` is the field, ``source`` its code.

    Attributes
    ----------
    state : StateShape
    expressions : tuple of Expression
        In the names ``t``, ``y``, ``args`` and ``ops``.
    arguments : tuple of (name, shape, dtype)
        Entries of ``args`` that the expressions read.
    """

    state: StateShape
    expressions: tuple[Expression, ...]
    arguments: tuple[tuple[str, tuple[int, ...], str], ...] = ()
    function: Callable[..., Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "function", compiled(self.source))

    @property
    def source(self) -> str:
        """The field as a Python function."""
        pieces = str(self.state.structure).split("*")
        codes = [*map(repr, self.expressions), ""]
        result = "".join(piece + code for piece, code in zip(pieces, codes, strict=True))
        return f"def field(t, y, args):\n    return {result}\n"

    def values(self, random: np.random.Generator) -> Any:
        """Draw values of ``args``; None if the field reads none."""
        if not self.arguments:
            return None
        return {name: draw(random, shape, dtype) for name, shape, dtype in self.arguments}

    def __repr__(self) -> str:
        return self.source


def compiled(source: str) -> Callable[..., Any]:
    """Return the function ``field`` of a source, with its lines known to tracebacks."""
    name = f"<drawn field {hash(source) & 0xFFFFFFFF:08x}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"ops": ops, "__name__": "drawn"}
    exec(compile(source, name, "exec"), namespace)
    function: Any = namespace["field"]
    function.source = source
    return function


Template = tuple[str, int]
"""Code of a node, and its number of operands."""

_REAL: tuple[Template, ...] = (
    ("ops.tanh({0})", 1), ("ops.sin({0})", 1), ("ops.cos({0})", 1), ("ops.sigmoid({0})", 1),
    ("ops.gelu({0})", 1), ("ops.silu({0})", 1), ("ops.softplus({0})", 1), ("ops.elu({0})", 1),
    ("ops.relu({0})", 1), ("ops.exp(-ops.square({0}))", 1), ("ops.sqrt(1 + ops.square({0}))", 1),
    ("ops.log1p(ops.square({0}))", 1), ("ops.atan({0})", 1), ("ops.erf({0})", 1),
    ("ops.clip({0}, -0.8, 0.9)", 1), ("ops.where({0} > {1}, {0}, 0.5 * {1})", 2),
    ("ops.minimum({0}, {1})", 2), ("ops.maximum({0}, {1})", 2),
    ("({0} / (2.0 + ops.cos({1})))", 2), ("ops.logaddexp({0}, {1})", 2),
)  # fmt: skip
_COMPLEX: tuple[Template, ...] = (
    ("ops.conj({0})", 1), ("({0} * ops.sin(ops.real({0})))", 1),
    ("({0} / (1.5 + ops.cos(ops.imag({0}))))", 1), ("(1j * {0})", 1),
    ("({0} / (1.0 + ops.square(ops.abs({1}))))", 2),
)  # fmt: skip
_ANY: tuple[Template, ...] = (
    ("({0} + {1})", 2), ("({0} - {1})", 2), ("({0} * {1})", 2), ("(0.5 * {0})", 1),
    ("(-{0})", 1), ("({0} * t)", 1),
)  # fmt: skip
_ROWS: tuple[Template, ...] = (
    ("ops.concat([{0}[..., 1:], {0}[..., :1]], axis=-1)", 1),
    ("({0} - ops.mean({0}, axis=-1, keepdims=True))", 1),
    ("({0} * ops.sum({1}, axis=-1, keepdims=True))", 2),
)  # fmt: skip
_REAL_ROWS: tuple[Template, ...] = (
    ("ops.softmax({0}, axis=-1)", 1), ("({0} - ops.max({0}, axis=-1, keepdims=True))", 1),
    ("({0} + ops.logsumexp({1}, axis=-1, keepdims=True))", 2),
)  # fmt: skip


def templates(state: StateShape, leaf: int, batched: bool) -> tuple[Template, ...]:
    """Nodes that keep the shape and dtype of a leaf of the state."""
    shape, dtype = state.shapes[leaf], state.dtypes[leaf]
    real = not dtype.startswith("complex")
    found = _ANY + (_REAL if real else _COMPLEX) + ((f"({{0}} * args['s{leaf}'])", 1),)
    if shape:
        found += _ROWS + (_REAL_ROWS if real else ())
        found += ((f"({{0}} @ args['w{leaf}'])", 1), (f"({{0}} + args['v{leaf}'])", 1))
    for other, (path, kind) in enumerate(zip(state.paths, state.dtypes, strict=True)):
        if other != leaf:
            mean = f"ops.mean({path}, axis=-1, keepdims=True)" if batched else f"ops.mean({path})"
            if real and kind.startswith("complex"):
                mean = f"ops.real({mean})"
            found += ((f"({{0}} * {mean})", 1), (f"({{0}} + {mean})", 1))
    return found


def bounded(expression: Expression, dtype: str, own: str, drive: float, decay: float) -> Expression:
    """Keep a field from blowing up: bounded in ``y``, plus a linear decay."""
    squashed = "ops.tanh({0})"
    if dtype.startswith("complex"):
        squashed = "{0} / (1.0 + ops.square(ops.abs({0})))"
    return Expression(f"{drive!r} * {squashed} - {decay!r} * {own}", (expression,))


def arguments_read(
    state: StateShape, expressions: Sequence[Expression]
) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """Which entries of ``args`` expressions read."""
    code = " ".join(map(repr, expressions))
    found = []
    for leaf, (shape, dtype) in enumerate(zip(state.shapes, state.dtypes, strict=True)):
        width = shape[-1:]
        for name, size in ((f"s{leaf}", ()), (f"v{leaf}", width), (f"w{leaf}", width * 2)):
            if f"args['{name}']" in code:
                found.append((name, size, dtype))
    return tuple(found)
