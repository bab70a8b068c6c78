"""How a cotangent passes backwards through each primitive.

Cotangents belong to the real inner product ``Re(sum(conj(a) * b))``: the real and imaginary parts
of a complex gradient are the gradients by the real and imaginary parts. A holomorphic function
therefore multiplies by the conjugate of its derivative.

Where a derivative does not exist: ``abs`` and ``sign`` have derivative 0 at 0; entries that tie
for a ``max``, ``maximum`` or ``minimum`` share the cotangent equally; rounding and comparisons
have derivative 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

from ndereg.trace.builder import Builder, node_ranges
from ndereg.trace.graph import Node
from ndereg.trace.primitives import real_dtype

__all__ = ["pull"]

#: A rule gets the builder, the node, its operands, its result and the cotangent of the result,
#: and returns the cotangents of the operands (None: no dependence).
Rule = Callable[[Builder, Node, Sequence[int], int, int], Sequence[int | None]]


def pull(b: Builder, index: int, cotangent: int) -> Sequence[int | None]:
    """Return the cotangents of the operands of node ``index``."""
    node = b.node(index)
    return RULES[node.op](b, node, node.inputs, index, cotangent)


def _full(b: Builder, like: int, value: complex) -> int:
    return b.full(b.shape(like), value, b.dtype(like))


def _times(b: Builder, g: int, derivative: int) -> int:
    return b.binary("mul", g, b.unary("conj", derivative))


def _over(b: Builder, g: int, divisor: int) -> int:
    return b.binary("div", g, b.unary("conj", divisor))


def _scaled(b: Builder, x: int, factor: float) -> int:
    return b.binary("mul", x, _full(b, x, factor))


def _shifted(b: Builder, x: int, sign: str, constant: float) -> int:
    """Return ``constant + x`` or ``constant - x``."""
    return b.binary(sign, _full(b, x, constant), x)


def _squared(b: Builder, x: int) -> int:
    return b.binary("mul", x, x)


# Unary operations: from (b, x, out, g) to the cotangent of x


def _of_abs(b: Builder, x: int, out: int, g: int) -> int:
    return b.binary("mul", b.cast(g, b.dtype(x)), b.unary("sign", x))


def _of_sign(b: Builder, x: int, out: int, g: int) -> int | None:
    if real_dtype(b.dtype(x)) == b.dtype(x):
        return None
    # z / |z| moves along the circle only: what is left of dz is its part across z.
    along = b.cast(b.unary("real", _times(b, g, out)), b.dtype(x))
    across = b.binary("sub", g, b.binary("mul", out, along))
    size = b.unary("abs", x)
    zero = b.binary("eq", size, _full(b, size, 0))
    safe = b.cast(b.where(zero, _full(b, size, 1), size), b.dtype(x))
    return b.where(zero, _full(b, x, 0), b.binary("div", across, safe))


def _of_sqrt(b: Builder, x: int, out: int, g: int) -> int:
    return _over(b, _scaled(b, g, 0.5), out)


def _of_erf(b: Builder, x: int, out: int, g: int) -> int:
    bell = b.unary("exp", b.unary("neg", _squared(b, x)))
    return b.binary("mul", g, _scaled(b, bell, 2 / math.sqrt(math.pi)))


def _of_imag(b: Builder, x: int, out: int, g: int) -> int:
    wide = b.cast(g, b.dtype(x))
    return b.binary("mul", wide, _full(b, wide, 1j))


def _of_arccosh(b: Builder, x: int, out: int, g: int) -> int:
    # Two roots, for the branch of complex arguments.
    roots = (b.unary("sqrt", b.binary(sign, x, _full(b, x, 1))) for sign in ("sub", "add"))
    return _over(b, g, b.binary("mul", *roots))


def _root_of_circle(b: Builder, x: int) -> int:
    return b.unary("sqrt", _shifted(b, _squared(b, x), "sub", 1))


_UNARY: dict[str, Callable[[Builder, int, int, int], int | None]] = {
    "neg": lambda b, x, out, g: b.unary("neg", g),
    "abs": _of_abs,
    "sign": _of_sign,
    "exp": lambda b, x, out, g: _times(b, g, out),
    "expm1": lambda b, x, out, g: _times(b, g, _shifted(b, out, "add", 1)),
    "log": lambda b, x, out, g: _over(b, g, x),
    "log1p": lambda b, x, out, g: _over(b, g, _shifted(b, x, "add", 1)),
    "sqrt": _of_sqrt,
    "sin": lambda b, x, out, g: _times(b, g, b.unary("cos", x)),
    "cos": lambda b, x, out, g: b.unary("neg", _times(b, g, b.unary("sin", x))),
    "tan": lambda b, x, out, g: _times(b, g, _shifted(b, _squared(b, out), "add", 1)),
    "sinh": lambda b, x, out, g: _times(b, g, b.unary("cosh", x)),
    "cosh": lambda b, x, out, g: _times(b, g, b.unary("sinh", x)),
    "tanh": lambda b, x, out, g: _times(b, g, _shifted(b, _squared(b, out), "sub", 1)),
    "arcsin": lambda b, x, out, g: _over(b, g, _root_of_circle(b, x)),
    "arccos": lambda b, x, out, g: b.unary("neg", _over(b, g, _root_of_circle(b, x))),
    "arctan": lambda b, x, out, g: _over(b, g, _shifted(b, _squared(b, x), "add", 1)),
    "arcsinh": lambda b, x, out, g: _over(
        b, g, b.unary("sqrt", _shifted(b, _squared(b, x), "add", 1))
    ),
    "arccosh": _of_arccosh,
    "arctanh": lambda b, x, out, g: _over(b, g, _shifted(b, _squared(b, x), "sub", 1)),
    "erf": _of_erf,
    "sigmoid": lambda b, x, out, g: b.binary(
        "mul", g, b.binary("mul", out, _shifted(b, out, "sub", 1))
    ),
    "conj": lambda b, x, out, g: b.unary("conj", g),
    "real": lambda b, x, out, g: b.cast(g, b.dtype(x)),
    "imag": _of_imag,
    "cast": lambda b, x, out, g: b.cast(g, b.dtype(x)),
}


def _unary(op: str) -> Rule:
    return lambda b, node, operands, out, g: (_UNARY[op](b, operands[0], out, g),)


# Binary operations


def _div(b: Builder, node: Node, operands: Sequence[int], out: int, g: int) -> Sequence[int | None]:
    first = _over(b, g, operands[1])
    return first, b.unary("neg", _times(b, first, out))


def _pow(b: Builder, node: Node, operands: Sequence[int], out: int, g: int) -> Sequence[int | None]:
    x, p = operands
    zero, one = _full(b, x, 0), _full(b, x, 1)
    lower = b.binary("pow", x, b.binary("sub", p, one))
    slope = b.binary("mul", p, lower)
    if b.uniform(p) is None:
        # x**0 is constant, at x = 0 too, where p * x**(p - 1) is not a number.
        slope = b.where(b.binary("eq", p, zero), zero, slope)
    # At 0 the power does not vary with its exponent, while the logarithm is infinite.
    at_zero = b.binary("eq", x, zero)
    logarithm = b.unary("log", b.where(at_zero, one, x))
    return _times(b, g, slope), _times(b, g, b.binary("mul", out, logarithm))


def _extremum(op: str) -> Rule:
    def rule(
        b: Builder, node: Node, operands: Sequence[int], out: int, g: int
    ) -> Sequence[int | None]:
        x, y = operands
        zero, half = _full(b, g, 0), _scaled(b, g, 0.5)
        tie = b.binary("eq", x, y)
        first = b.binary("lt", x, y) if op == "minimum" else b.binary("lt", y, x)
        to_x = b.where(tie, half, b.where(first, g, zero))
        to_y = b.where(tie, half, b.where(first, zero, g))
        return to_x, to_y

    return rule


def _atan2(
    b: Builder, node: Node, operands: Sequence[int], out: int, g: int
) -> Sequence[int | None]:
    y, x = operands
    share = b.binary("div", g, b.binary("add", _squared(b, x), _squared(b, y)))
    return b.binary("mul", share, x), b.unary("neg", b.binary("mul", share, y))


def _remainder(
    b: Builder, node: Node, operands: Sequence[int], out: int, g: int
) -> Sequence[int | None]:
    quotient = b.unary("floor", b.binary("div", operands[0], operands[1]))
    return g, b.unary("neg", b.binary("mul", g, quotient))


def _where(
    b: Builder, node: Node, operands: Sequence[int], out: int, g: int
) -> Sequence[int | None]:
    zero = _full(b, g, 0)
    return None, b.where(operands[0], g, zero), b.where(operands[0], zero, g)


# Structure


def _broadcast(
    b: Builder, node: Node, operands: Sequence[int], out: int, g: int
) -> Sequence[int | None]:
    shape = b.shape(operands[0])
    extra = len(node.shape) - len(shape)
    repeated = [i + extra for i, n in enumerate(shape) if n == 1 and node.shape[i + extra] != 1]
    summed = b.reduce("sum", g, [*range(extra), *repeated])
    return (b.reshape(summed, shape),)


def _permute(
    b: Builder, node: Node, operands: Sequence[int], out: int, g: int
) -> Sequence[int | None]:
    axes = cast(tuple[int, ...], node.attr("axes"))
    return (b.permute(g, [axes.index(i) for i in range(len(axes))]),)


def _concat(
    b: Builder, node: Node, operands: Sequence[int], out: int, g: int
) -> Sequence[int | None]:
    axis = cast(int, node.attr("axis"))
    parts: list[int] = []
    start = 0
    for operand in operands:
        ranges = [range(n) for n in b.shape(operand)]
        ranges[axis] = range(start, start + len(ranges[axis]))
        parts.append(b.slice(g, ranges))
        start = ranges[axis].stop
    return parts


def _gather(
    b: Builder, node: Node, operands: Sequence[int], out: int, g: int
) -> Sequence[int | None]:
    axis = cast(int, node.attr("axis"))
    indices = cast(tuple[int, ...], node.attr("indices"))
    return (b.scatter_add(g, axis, indices, b.shape(operands[0])[axis]),)


def _scatter_add(
    b: Builder, node: Node, operands: Sequence[int], out: int, g: int
) -> Sequence[int | None]:
    indices = cast(tuple[int, ...], node.attr("indices"))
    return (b.gather(g, cast(int, node.attr("axis")), indices),)


def _take_sample(
    b: Builder, node: Node, operands: Sequence[int], out: int, g: int
) -> Sequence[int | None]:
    axis = cast(int, node.attr("axis"))
    return b.put_sample(g, operands[1], axis, b.shape(operands[0])[axis]), None


def _put_sample(
    b: Builder, node: Node, operands: Sequence[int], out: int, g: int
) -> Sequence[int | None]:
    return b.take_sample(g, operands[1], cast(int, node.attr("axis"))), None


# Reductions and products


def _spread(b: Builder, node: Node, x: int, reduced: int) -> int:
    """Give the result of a reduction the shape of its operand."""
    axes = cast(tuple[int, ...], node.attr("axes"))
    shape = b.shape(x)
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    return b.broadcast(b.reshape(reduced, kept), shape)


def _max(b: Builder, node: Node, operands: Sequence[int], out: int, g: int) -> Sequence[int | None]:
    x, axes = operands[0], cast(tuple[int, ...], node.attr("axes"))
    largest = b.cast(b.binary("eq", x, _spread(b, node, x, out)), node.dtype)
    share = b.binary("div", g, b.reduce("sum", largest, axes))
    return (b.binary("mul", largest, _spread(b, node, x, share)),)


def _prod(
    b: Builder, node: Node, operands: Sequence[int], out: int, g: int
) -> Sequence[int | None]:
    # The product of the others: out / x, unless there are zeros, of which one may be left out.
    x, axes = operands[0], cast(tuple[int, ...], node.attr("axes"))
    zero, one = _full(b, x, 0), _full(b, x, 1)
    vanishes = b.binary("eq", x, zero)
    safe = b.where(vanishes, one, x)
    product = _spread(b, node, x, b.reduce("prod", safe, axes))
    zeros = _spread(b, node, x, b.reduce("sum", b.cast(vanishes, real_dtype(node.dtype)), axes))
    remaining = b.binary("sub", zeros, b.cast(vanishes, b.dtype(zeros)))
    none_left = b.binary("eq", remaining, _full(b, remaining, 0))
    others = b.where(none_left, b.binary("div", product, safe), zero)
    return (_times(b, _spread(b, node, x, g), others),)


def _matmul(
    b: Builder, node: Node, operands: Sequence[int], out: int, g: int
) -> Sequence[int | None]:
    x, y = operands
    return (
        b.matmul(g, b.transpose(b.unary("conj", y))),
        b.matmul(b.transpose(b.unary("conj", x)), g),
    )


RULES: dict[str, Rule] = {
    **{op: _unary(op) for op in _UNARY},
    "add": lambda b, node, operands, out, g: (g, g),
    "sub": lambda b, node, operands, out, g: (g, b.unary("neg", g)),
    "mul": lambda b, node, operands, out, g: (
        _times(b, g, operands[1]),
        _times(b, g, operands[0]),
    ),
    "div": _div,
    "pow": _pow,
    "minimum": _extremum("minimum"),
    "maximum": _extremum("maximum"),
    "atan2": _atan2,
    "remainder": _remainder,
    "where": _where,
    "broadcast": _broadcast,
    "reshape": lambda b, node, operands, out, g: (b.reshape(g, b.shape(operands[0])),),
    "permute": _permute,
    "slice": lambda b, node, operands, out, g: (
        b.embed(g, node_ranges(node), b.shape(operands[0])),
    ),
    "embed": lambda b, node, operands, out, g: (b.slice(g, node_ranges(node)),),
    "concat": _concat,
    "gather": _gather,
    "scatter_add": _scatter_add,
    "take_sample": _take_sample,
    "put_sample": _put_sample,
    "sum": lambda b, node, operands, out, g: (_spread(b, node, operands[0], g),),
    "max": _max,
    "prod": _prod,
    "matmul": _matmul,
}
