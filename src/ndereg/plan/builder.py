"""Recording formulas as instructions.

Formulas (error norms, control laws, regularizers) are written once, as Python over
:class:`Value`; recording them yields the instructions that every backend runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ndereg.plan.program import (
    Apply,
    Combine,
    Contract,
    Evaluate,
    FieldName,
    Instruction,
    Join,
    Kind,
    Mean,
    Number,
    Part,
    Program,
    Slot,
)


class Builder:
    """Records instructions; equal instructions are recorded once."""

    def __init__(self) -> None:
        self._inputs: dict[Slot, Kind] = {}
        self._body: list[Instruction] = []
        self._seen: dict[tuple[object, ...], Slot] = {}
        self._names: set[Slot] = set()

    def input(self, slot: Slot, kind: Kind) -> Value:
        """Declare an input."""
        if slot not in self._inputs:
            self._inputs[slot] = kind
            self._names.add(slot)
        return Value(self, slot)

    def combine(
        self,
        dst: Slot,
        base: Slot | None,
        terms: tuple[tuple[Slot | None, Number, Slot], ...],
    ) -> Slot:
        """Record a combination without its zero terms; an empty one is its base."""
        kept = tuple(term for term in terms if term[1] != 0)
        if not kept:
            if base is None:
                raise ValueError(f"{dst}: a combination of nothing")
            return base
        return self._once((Combine, base, kept), Combine(self._fresh(dst), base, kept))

    def evaluate(
        self,
        dst: Slot,
        c: Number,
        scale: Slot,
        src: Slot,
        mapped: bool = False,
        *,
        field: FieldName = "drift",
        matrix: bool = False,
    ) -> Slot:
        """Record an evaluation; ``mapped`` keeps its linearization as ``dst + "_map"``."""
        name = self._fresh(dst)
        map_ = name + "_map" if mapped else None
        instruction = Evaluate(name, c, scale, src, map_, field, matrix)
        return self._once((Evaluate, field, c, scale, src), instruction)

    def contract(self, dst: Slot, diffusion: Slot, noise: Slot | None = None) -> Slot:
        """Record the product of a diffusion matrix and the noise."""
        instruction = Contract(self._fresh(dst), diffusion, noise)
        return self._once((Contract, diffusion, noise), instruction)

    def part(self, dst: Slot, src: Slot, index: int) -> Slot:
        """Record one half of a pair."""
        return self._once((Part, src, index), Part(self._fresh(dst), src, index))

    def join(self, dst: Slot, first: Slot | None, second: Slot | None) -> Slot:
        """Record a pair; None is zero."""
        parts = (first, second)
        return self._once((Join, parts), Join(self._fresh(dst), parts))

    def mean(self, src: Value, dst: Slot = "q") -> Value:
        """Mean over the entries of the state."""
        return Value(self, self._once((Mean, src.slot), Mean(self._fresh(dst), src.slot)))

    def apply(self, op: str, *srcs: Value | Number, dst: Slot = "s") -> Value:
        """Record an elementwise operation."""
        operands = tuple(src.slot if isinstance(src, Value) else src for src in srcs)
        return Value(self, self._once((op, *operands), Apply(self._fresh(dst), op, operands)))

    def program(self, name: str, outputs: Mapping[str, Value | Slot]) -> Program:
        """Close the recording; what no output needs is dropped."""
        named = tuple(
            (key, value.slot if isinstance(value, Value) else value)
            for key, value in outputs.items()
        )
        return Program(name, tuple(self._inputs.items()), tuple(self._body), named).pruned()

    def rename(self, slot: Slot, name: Slot) -> Slot:
        """Call the slot that was recorded last ``name``, if that is free; return its name."""
        if not self._body or self._body[-1].dst != slot or name in self._names:
            return slot
        self._body[-1] = replace(self._body[-1], dst=name)
        self._names.discard(slot)
        self._names.add(name)
        self._seen = {key: name if found == slot else found for key, found in self._seen.items()}
        return name

    def _fresh(self, name: Slot) -> Slot:
        fresh, count = name, 1
        while fresh in self._names:
            fresh, count = f"{name}.{count}", count + 1
        return fresh

    def _once(self, key: tuple[object, ...], instruction: Instruction) -> Slot:
        found = self._seen.get(key)
        if found is None:
            found = self._seen[key] = instruction.dst
            self._names.add(found)
            self._body.append(instruction)
        return found


class Value:
    """A slot under construction, with operators."""

    __slots__ = ("builder", "slot")

    def __init__(self, builder: Builder, slot: Slot) -> None:
        self.builder = builder
        self.slot = slot

    def named(self, name: Slot) -> Value:
        """The same value, called ``name`` if it was just recorded and the name is free."""
        self.slot = self.builder.rename(self.slot, name)
        return self

    def __add__(self, other: Value | Number) -> Value:
        return self.builder.apply("add", self, other)

    def __radd__(self, other: Number) -> Value:
        return self.builder.apply("add", other, self)

    def __sub__(self, other: Value | Number) -> Value:
        return self.builder.apply("sub", self, other)

    def __rsub__(self, other: Number) -> Value:
        return self.builder.apply("sub", other, self)

    def __mul__(self, other: Value | Number) -> Value:
        return self.builder.apply("mul", self, other)

    def __rmul__(self, other: Number) -> Value:
        return self.builder.apply("mul", other, self)

    def __truediv__(self, other: Value | Number) -> Value:
        return self.builder.apply("div", self, other)

    def __rtruediv__(self, other: Number) -> Value:
        return self.builder.apply("div", other, self)

    def __pow__(self, other: Value | Number) -> Value:
        return self.builder.apply("pow", self, other)

    def __neg__(self) -> Value:
        return self.builder.apply("neg", self)

    def __abs__(self) -> Value:
        return self.builder.apply("abs", self)

    def __lt__(self, other: Value | Number) -> Value:
        return self.builder.apply("lt", self, other)

    def __le__(self, other: Value | Number) -> Value:
        return self.builder.apply("le", self, other)

    def __and__(self, other: Value) -> Value:
        return self.builder.apply("and", self, other)

    def __or__(self, other: Value) -> Value:
        return self.builder.apply("or", self, other)

    def __invert__(self) -> Value:
        return self.builder.apply("not", self)

    def equals(self, other: Value | Number) -> Value:
        """Elementwise equality (``==`` keeps its Python meaning)."""
        return self.builder.apply("eq", self, other)

    def square(self) -> Value:
        """Square of a real or scalar value."""
        return self.builder.apply("square", self)

    def sqrt(self) -> Value:
        """Square root."""
        return self.builder.apply("sqrt", self)

    def log(self) -> Value:
        """Natural logarithm of a real or scalar value."""
        return self.builder.apply("log", self)

    def floor(self) -> Value:
        """Largest integer that is not larger."""
        return self.builder.apply("floor", self)

    def isfinite(self) -> Value:
        """Neither nan nor inf."""
        return self.builder.apply("isfinite", self)


def maximum(a: Value, b: Value | Number) -> Value:
    """Larger of two, nan if either is."""
    return a.builder.apply("max", a, b)


def minimum(a: Value, b: Value | Number) -> Value:
    """Smaller of two, nan if either is."""
    return a.builder.apply("min", a, b)


def where(condition: Value, yes: Value | Number, no: Value | Number) -> Value:
    """``yes`` where the flag holds, else ``no``."""
    return condition.builder.apply("where", condition, yes, no)


def safe_divide(a: Value, b: Value) -> Value:
    """``a / b``, and 0 where ``b`` is 0."""
    return a.builder.apply("safe_div", a, b)
