"""The rewrites that :class:`~ndereg.trace.builder.Builder` applies to single nodes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from ndereg.trace.primitives import real_dtype

if TYPE_CHECKING:
    from ndereg.trace.builder import Builder

__all__ = ["as_range", "canonical", "elementwise", "joined", "sliced"]

#: Integer powers up to this one become products; beyond it pow is as fast and more accurate.
_LARGEST_EXPANDED_POWER = 8


def elementwise(b: Builder, op: str, operands: tuple[int, ...], dtype: str) -> int | None:
    """Return a node that equals the operation, or None if nothing simpler is known."""
    rule = _RULES.get(op)
    return None if rule is None else rule(b, operands)


def _operand(b: Builder, i: int, op: str) -> int | None:
    """Return the operand of node ``i`` if that is the unary operation ``op``."""
    node = b.node(i)
    return node.inputs[0] if node.op == op else None


def _involution(op: str) -> Callable[[Builder, tuple[int, ...]], int | None]:
    return lambda b, operands: _operand(b, operands[0], op)


def _abs(b: Builder, operands: tuple[int, ...]) -> int | None:
    (x,) = operands
    if b.node(x).op == "abs":
        return x
    inner = _operand(b, x, "neg")
    return None if inner is None else b.unary("abs", inner)


def _conj(b: Builder, operands: tuple[int, ...]) -> int | None:
    (x,) = operands
    return x if _is_real(b, x) else _operand(b, x, "conj")


def _real(b: Builder, operands: tuple[int, ...]) -> int | None:
    (x,) = operands
    if _is_real(b, x):
        return x
    for op in ("conj", "cast"):
        inner = _operand(b, x, op)
        if inner is not None and (op == "conj" or b.dtype(inner) == real_dtype(b.dtype(x))):
            return b.unary("real", inner)
    return None


def _imag(b: Builder, operands: tuple[int, ...]) -> int | None:
    (x,) = operands
    return b.full(b.shape(x), 0, b.dtype(x)) if _is_real(b, x) else None


def _is_real(b: Builder, x: int) -> bool:
    return real_dtype(b.dtype(x)) == b.dtype(x)


def _add(b: Builder, operands: tuple[int, ...]) -> int | None:
    x, y = operands
    if b.uniform(x) == 0:
        return y
    if b.uniform(y) == 0:
        return x
    if (inner := _operand(b, y, "neg")) is not None:
        return b.binary("sub", x, inner)
    if (inner := _operand(b, x, "neg")) is not None:
        return b.binary("sub", y, inner)
    return None


def _sub(b: Builder, operands: tuple[int, ...]) -> int | None:
    x, y = operands
    if b.uniform(y) == 0:
        return x
    if b.uniform(x) == 0:
        return b.unary("neg", y)
    inner = _operand(b, y, "neg")
    return None if inner is None else b.binary("add", x, inner)


def _mul(b: Builder, operands: tuple[int, ...]) -> int | None:
    for x, y in (operands, operands[::-1]):
        if b.uniform(x) == 1:
            return y
        if b.uniform(x) == -1:
            return b.unary("neg", y)
    return None


def _div(b: Builder, operands: tuple[int, ...]) -> int | None:
    x, y = operands
    if b.uniform(y) == 1:
        return x
    return b.unary("neg", x) if b.uniform(y) == -1 else None


def _pow(b: Builder, operands: tuple[int, ...]) -> int | None:
    x, y = operands
    exponent = b.uniform(y)
    if exponent is None or (b.dtype(x) == "int64" and exponent < 0):
        return None
    if exponent == 0:
        return b.full(b.shape(x), 1, b.dtype(x))
    if abs(exponent) == 0.5:
        power = b.unary("sqrt", x)
    elif exponent == _as_real(exponent) and float(_as_real(exponent)).is_integer():
        if abs(exponent) > _LARGEST_EXPANDED_POWER:
            return None
        power = _product(b, x, abs(int(_as_real(exponent))))
    else:
        return None
    if _as_real(exponent) > 0:
        return power
    return b.binary("div", b.full(b.shape(x), 1, b.dtype(x)), power)


def _as_real(value: Any) -> Any:
    return value.real if isinstance(value, complex) else value


def _product(b: Builder, x: int, exponent: int) -> int:
    result: int | None = None
    square = x
    while exponent:
        if exponent % 2:
            result = square if result is None else b.binary("mul", result, square)
        exponent //= 2
        square = b.binary("mul", square, square) if exponent else square
    return cast(int, result)


def _same(b: Builder, operands: tuple[int, ...]) -> int | None:
    return operands[0] if operands[0] == operands[1] else None


def _where(b: Builder, operands: tuple[int, ...]) -> int | None:
    condition, x, y = operands
    if x == y:
        return x
    decided = b.uniform(condition)
    if decided is not None:
        return x if decided else y
    inner = _operand(b, condition, "not")
    return None if inner is None else b.where(inner, y, x)


_RULES: dict[str, Callable[[Builder, tuple[int, ...]], int | None]] = {
    "neg": _involution("neg"),
    "not": _involution("not"),
    "abs": _abs,
    "conj": _conj,
    "real": _real,
    "imag": _imag,
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "pow": _pow,
    "minimum": _same,
    "maximum": _same,
    "and": _same,
    "or": _same,
    "where": _where,
}


# Slices and concatenations


def canonical(r: range) -> range:
    """Return the one range written for these indices: tight stop, step 1 where it is free."""
    if len(r) == 0:
        return range(0)
    if len(r) == 1:
        return range(r[0], r[0] + 1)
    return range(r[0], r[-1] + (1 if r.step > 0 else -1), r.step)


def as_range(indices: Sequence[int]) -> range | None:
    """Return the arithmetic progression that ``indices`` are, or None."""
    if len(indices) < 2:
        return canonical(range(indices[0], indices[0] + 1)) if len(indices) else range(0)
    step = indices[1] - indices[0]
    if step == 0 or any(q - p != step for p, q in itertools.pairwise(indices)):
        return None
    return canonical(range(indices[0], indices[-1] + (1 if step > 0 else -1), step))


def sliced(b: Builder, x: int, ranges: Sequence[range]) -> int | None:
    """Simplify a slice: of everything, of a slice, a broadcast, a reshape, a part of a concat."""
    node = b.node(x)
    if all(r == range(length) for r, length in zip(ranges, node.shape, strict=True)):
        return x
    if node.op == "slice":
        starts, steps = (cast(tuple[int, ...], node.attr(name)) for name in ("starts", "steps"))
        composed = [
            range(start + step * r.start, start + step * r.stop, step * r.step)
            for start, step, r in zip(starts, steps, ranges, strict=True)
        ]
        return b.slice(node.inputs[0], composed)
    if node.op == "broadcast":
        return _slice_of_broadcast(b, node.inputs[0], ranges)
    if node.op == "concat":
        return _slice_of_concat(b, x, ranges)
    if node.op == "reshape":
        return _slice_of_reshape(b, node.inputs[0], node.shape, ranges)
    return None


def _slice_of_reshape(
    b: Builder, source: int, shape: tuple[int, ...], ranges: Sequence[range]
) -> int | None:
    """Slice first, where the reshape only adds or drops axes of length 1."""
    before = b.shape(source)
    if [n for n in before if n != 1] != [n for n in shape if n != 1]:
        return None
    result = tuple(len(r) for r in ranges)
    if 0 in result:
        return None
    chosen = iter([r for r, n in zip(ranges, shape, strict=True) if n != 1])
    return b.reshape(
        b.slice(source, [range(1) if n == 1 else next(chosen) for n in before]), result
    )


def _slice_of_broadcast(b: Builder, source: int, ranges: Sequence[range]) -> int:
    shape = b.shape(source)
    aligned = ranges[len(ranges) - len(shape) :]
    inner = [range(1) if length == 1 else r for length, r in zip(shape, aligned, strict=True)]
    # An empty selection along a repeated axis must still be empty afterwards.
    return b.broadcast(b.slice(source, inner), tuple(len(r) for r in ranges))


def _slice_of_concat(b: Builder, x: int, ranges: Sequence[range]) -> int | None:
    node = b.node(x)
    axis = cast(int, node.attr("axis"))
    chosen = ranges[axis]
    if len(chosen) == 0:
        return None
    offset = 0
    for part in node.inputs:
        length = b.shape(part)[axis]
        if offset <= min(chosen[0], chosen[-1]) and max(chosen[0], chosen[-1]) < offset + length:
            inner = list(ranges)
            inner[axis] = range(chosen.start - offset, chosen.stop - offset, chosen.step)
            return b.slice(part, inner)
        offset += length
    return None


def joined(b: Builder, parts: Sequence[int], axis: int) -> list[int]:
    """Flatten nested concatenations, drop empty parts, join neighbouring slices of one array."""
    flat: list[int] = []
    for part in parts:
        node = b.node(part)
        nested = node.op == "concat" and node.attr("axis") == axis
        flat.extend(node.inputs if nested else [part])
    filled = [part for part in flat if b.shape(part)[axis] > 0] or flat[:1]
    result = [filled[0]]
    for part in filled[1:]:
        whole = _adjoined(b, result[-1], part, axis)
        if whole is None:
            result.append(part)
        else:
            result[-1] = whole
    return result


def _adjoined(b: Builder, left: int, right: int, axis: int) -> int | None:
    one, two = b.node(left), b.node(right)
    if one.op != "slice" or two.op != "slice" or one.inputs != two.inputs:
        return None
    bounds = [
        [cast(tuple[int, ...], node.attr(name)) for name in ("starts", "stops", "steps")]
        for node in (one, two)
    ]
    first, second = ([range(*triple) for triple in zip(*bound, strict=True)] for bound in bounds)
    for i, (r, s) in enumerate(zip(first, second, strict=True)):
        if i == axis and (r.step != 1 or s.step != 1 or s.start != r.stop):
            return None
        if i != axis and r != s:
            return None
    whole = list(first)
    whole[axis] = range(first[axis].start, second[axis].stop)
    return b.slice(one.inputs[0], whole)
