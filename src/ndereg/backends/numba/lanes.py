"""Arithmetic on LLVM values, to write elementary functions as straight-line formulas.

An elementary function that is a call to the C library cannot be vectorised: the loop around it
runs one element at a time. Written as branch-free arithmetic it becomes a few packed
instructions an element. Doing that in Python source would cost type inference for some forty
operations a function; here a formula over :class:`Lane` appends the instructions directly.

Flags: kernels are compiled with floating-point contraction only, so ``a * b + c`` may become a
fused multiply-add and nothing else is rearranged. Formulas that need the unrounded product ask
for :meth:`Lane.fma`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

__all__ = ["DOUBLE", "SINGLE", "Bits", "Format", "Lane", "elementary", "polynomial"]


@dataclass(frozen=True)
class Format:
    """A binary floating-point format, as LLVM and the bit tricks see it."""

    name: str  # suffix of LLVM's intrinsics
    float_type: ir.Type
    int_type: ir.IntType
    mantissa: int  # explicit bits
    bias: int

    @property
    def magic(self) -> float:
        """1.5 · 2^mantissa: adding it rounds to an integer, which is then in the low bits."""
        return 1.5 * 2.0**self.mantissa


SINGLE = Format("f32", ir.FloatType(), ir.IntType(32), 23, 127)
DOUBLE = Format("f64", ir.DoubleType(), ir.IntType(64), 52, 1023)


class Bits:
    """An integer of the width of a :class:`Lane`; ``+ - & >> <<`` act on its bits."""

    __slots__ = ("builder", "format", "value")

    def __init__(self, builder: ir.IRBuilder, form: Format, value: ir.Value) -> None:
        self.builder, self.format, self.value = builder, form, value

    def _other(self, other: Bits | int) -> ir.Value:
        return other.value if isinstance(other, Bits) else ir.Constant(self.format.int_type, other)

    def _new(self, value: ir.Value) -> Bits:
        return Bits(self.builder, self.format, value)

    def __add__(self, other: Bits | int) -> Bits:
        return self._new(self.builder.add(self.value, self._other(other)))

    def __sub__(self, other: Bits | int) -> Bits:
        return self._new(self.builder.sub(self.value, self._other(other)))

    def __and__(self, other: Bits | int) -> Bits:
        return self._new(self.builder.and_(self.value, self._other(other)))

    def __rshift__(self, count: int) -> Bits:
        """Arithmetic shift: the sign is kept."""
        return self._new(self.builder.ashr(self.value, self._other(count)))

    def __lshift__(self, count: int) -> Bits:
        return self._new(self.builder.shl(self.value, self._other(count)))

    def equals(self, other: int) -> ir.Value:
        """Boolean: equal to a constant."""
        return self.builder.icmp_signed("==", self.value, self._other(other))

    def as_lane(self) -> Lane:
        """Return the float of these bits."""
        return Lane(
            self.builder,
            self.format,
            self.builder.bitcast(self.value, self.format.float_type),
        )

    def to_float(self) -> Lane:
        """Return the float of this integer's value."""
        return Lane(
            self.builder,
            self.format,
            self.builder.sitofp(self.value, self.format.float_type),
        )


class Lane:
    """A real number under construction; arithmetic appends instructions to the builder."""

    __slots__ = ("builder", "format", "value")

    def __init__(self, builder: ir.IRBuilder, form: Format, value: ir.Value) -> None:
        self.builder, self.format, self.value = builder, form, value

    def _other(self, other: Lane | float) -> ir.Value:
        return other.value if isinstance(other, Lane) else self.constant(other).value

    def _new(self, value: ir.Value) -> Lane:
        return Lane(self.builder, self.format, value)

    def constant(self, number: float) -> Lane:
        """Return a constant of this format."""
        return self._new(ir.Constant(self.format.float_type, number))

    def __add__(self, other: Lane | float) -> Lane:
        return self._new(self.builder.fadd(self.value, self._other(other)))

    def __radd__(self, other: float) -> Lane:
        return self._new(self.builder.fadd(self._other(other), self.value))

    def __sub__(self, other: Lane | float) -> Lane:
        return self._new(self.builder.fsub(self.value, self._other(other)))

    def __rsub__(self, other: float) -> Lane:
        return self._new(self.builder.fsub(self._other(other), self.value))

    def __mul__(self, other: Lane | float) -> Lane:
        return self._new(self.builder.fmul(self.value, self._other(other)))

    def __rmul__(self, other: float) -> Lane:
        return self * other

    def __truediv__(self, other: Lane | float) -> Lane:
        return self._new(self.builder.fdiv(self.value, self._other(other)))

    def __rtruediv__(self, other: float) -> Lane:
        return self._new(self.builder.fdiv(self._other(other), self.value))

    def __neg__(self) -> Lane:
        return self._new(self.builder.fneg(self.value))

    def __lt__(self, other: Lane | float) -> ir.Value:
        return self.builder.fcmp_ordered("<", self.value, self._other(other))

    def __gt__(self, other: Lane | float) -> ir.Value:
        return self.builder.fcmp_ordered(">", self.value, self._other(other))

    def equals(self, other: Lane | float) -> ir.Value:
        """Boolean: ordered and equal."""
        return self.builder.fcmp_ordered("==", self.value, self._other(other))

    def call(self, name: str, *others: Lane | float) -> Lane:
        """Return an LLVM intrinsic of this value and the others, all of this format."""
        kind = self.format.float_type
        values = [self.value, *(self._other(other) for other in others)]
        function = self.builder.module.declare_intrinsic(
            f"llvm.{name}", [kind], ir.FunctionType(kind, [kind] * len(values))
        )
        return self._new(self.builder.call(function, values))

    def fma(self, factor: Lane | float, addend: Lane | float) -> Lane:
        """``self · factor + addend`` rounded once, whatever the processor."""
        return self.call("fma", factor, addend)

    def muladd(self, factor: Lane | float, addend: Lane | float) -> Lane:
        """``self · factor + addend``, fused where the processor can."""
        return self.call("fmuladd", factor, addend)

    def magnitude(self) -> Lane:
        """Absolute value."""
        return self.call("fabs")

    def with_sign_of(self, other: Lane) -> Lane:
        """Return the magnitude with another value's sign."""
        return self.call("copysign", other)

    def where(self, condition: ir.Value, otherwise: Lane | float) -> Lane:
        """``self if condition else otherwise``, both evaluated."""
        return self._new(self.builder.select(condition, self.value, self._other(otherwise)))

    def below(self, bound: float) -> Lane:
        """``min(self, bound)``, where NaN stays NaN."""
        return self.constant(bound).where(self > bound, self)

    def above(self, bound: float) -> Lane:
        """``max(self, bound)``, where NaN stays NaN."""
        return self.constant(bound).where(self < bound, self)

    def bits(self) -> Bits:
        """Return the bit pattern as an integer."""
        return Bits(
            self.builder,
            self.format,
            self.builder.bitcast(self.value, self.format.int_type),
        )

    def rounded(self) -> tuple[Lane, Bits]:
        """Return the nearest integer as a float and as an integer, for |x| < 2^mantissa / 4.

        Through the magic constant rather than a conversion: a NaN is then an arbitrary integer
        instead of undefined behaviour, and every instruction has a packed form.
        """
        shifted = self + self.format.magic
        magic = self.constant(self.format.magic)
        return shifted - magic, shifted.bits() - magic.bits()

    def widened(self) -> Lane:
        """Return the value in double precision."""
        if self.format is DOUBLE:
            return self
        return Lane(self.builder, DOUBLE, self.builder.fpext(self.value, DOUBLE.float_type))

    def narrowed(self, form: Format) -> Lane:
        """Return the value rounded to a format."""
        if self.format is form:
            return self
        return Lane(self.builder, form, self.builder.fptrunc(self.value, form.float_type))


def power_of_two(exponent: Bits) -> Lane:
    """2^exponent for exponents of normal numbers."""
    return ((exponent + exponent.format.bias) << exponent.format.mantissa).as_lane()


def polynomial(x: Lane, coefficients: Sequence[float]) -> Lane:
    """Horner's rule; coefficients by rising power."""
    result = x.constant(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result.muladd(x, coefficient)
    return result


def elementary(formula: Callable[[Lane], Lane]) -> Any:
    """Make a formula callable from compiled code, on float32 and float64 scalars."""

    def typer(typing_context: Any, x: Any) -> Any:
        if not isinstance(x, types.Float):
            return None

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            form = SINGLE if signature.args[0] == types.float32 else DOUBLE
            return formula(Lane(builder, form, args[0])).value

        return x(x), generate

    typer.__name__ = formula.__name__
    typer.__doc__ = formula.__doc__
    return intrinsic(typer)
