"""Scalar operations that kernels need and Numba has no vectorisable form of.

All of them are single LLVM instructions or a few, without a branch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

__all__ = [
    *("ceil", "floor", "is_finite", "is_nan", "larger", "nearest", "plus", "select"),
    *("sign", "smaller", "times"),
]

Generator = Callable[[Any, ir.IRBuilder, Any, Any], ir.Value]


@intrinsic
def select(typing_context: Any, condition: Any, x: Any, y: Any) -> tuple[Any, Generator]:
    """``x if condition else y`` with both evaluated, so that no branch stops vectorisation."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return builder.select(*args)

    return x(types.boolean, x, x), generate


def _of_lanes(name: str, operands: int) -> Any:
    """Return an LLVM intrinsic on floats; ``llvm.maximum`` and others keep NaN, as NumPy does."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        if isinstance(signature.args[0], types.Integer | types.Boolean):
            return _of_integers(name, builder, args)
        kind = args[0].type
        function = builder.module.declare_intrinsic(
            f"llvm.{name}", [kind], ir.FunctionType(kind, [kind] * len(args))
        )
        return builder.call(function, args)

    def unary(typing_context: Any, x: Any) -> tuple[Any, Generator]:
        return x(x), generate

    def binary(typing_context: Any, x: Any, y: Any) -> tuple[Any, Generator]:
        return x(x, x), generate

    return intrinsic(unary if operands == 1 else binary)


def _of_integers(name: str, builder: ir.IRBuilder, args: Any) -> ir.Value:
    if len(args) == 1:  # floor, ceil and nearest integer of an integer
        return args[0]
    order = "<" if name == "minimum" else ">"
    return builder.select(builder.icmp_signed(order, *args), *args)


floor = _of_lanes("floor", 1)
ceil = _of_lanes("ceil", 1)
nearest = _of_lanes("rint", 1)
smaller = _of_lanes("minimum", 2)
larger = _of_lanes("maximum", 2)


@intrinsic
def is_finite(typing_context: Any, x: Any) -> tuple[Any, Generator]:
    """Neither infinite nor NaN."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        (value,) = args
        function = builder.module.declare_intrinsic("llvm.fabs", [value.type])
        bound = ir.Constant(value.type, float("inf"))
        return builder.fcmp_ordered("<", builder.call(function, [value]), bound)

    return types.boolean(x), generate


@intrinsic
def is_nan(typing_context: Any, x: Any) -> tuple[Any, Generator]:
    """Not equal to itself."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return builder.fcmp_unordered("uno", args[0], args[0])

    return types.boolean(x), generate


@intrinsic
def sign(typing_context: Any, x: Any) -> tuple[Any, Generator]:
    """-1, 0 or 1; NaN stays NaN."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        (value,) = args
        kind = value.type
        one, zero, minus = (ir.Constant(kind, number) for number in (1, 0, -1))
        real = isinstance(signature.args[0], types.Float)
        compare = builder.fcmp_ordered if real else builder.icmp_signed
        result = builder.select(compare("<", value, zero), minus, value)
        return builder.select(compare(">", value, zero), one, result)

    return x(x), generate


def _reassociating(name: str) -> Any:
    """Return an accumulation of reals that the compiler may split into partial results."""

    def accumulate(typing_context: Any, total: Any, x: Any) -> tuple[Any, Generator]:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            operation = getattr(builder, name)
            return operation(*args, flags=("reassoc", "contract", "nsz"))

        return total(total, total), generate

    return intrinsic(accumulate)


plus = _reassociating("fadd")
times = _reassociating("fmul")
