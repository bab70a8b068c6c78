"""The transposed program: reverse-mode differentiation of straight-line programs.

Every ``Combine`` is transposed, every ``Evaluate`` becomes the ``Pullback`` of its linearization,
and the elementwise instructions follow the rules below, in reverse order. The cotangents of the
outputs flow in at the slots that produced them. Scales, times, tolerances and the noise are
constants of the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ndereg.plan.program import (
    Apply,
    Combine,
    Contract,
    Evaluate,
    Instruction,
    Join,
    Kind,
    Mean,
    Number,
    Outer,
    Part,
    Program,
    Pullback,
    Slot,
    Spread,
    reads,
)

Contribution = tuple[Slot | None, Number, Slot]


def transpose(
    program: Program,
    seeds: Sequence[tuple[Slot, Slot]],
    wrt: Sequence[Slot],
    given: Sequence[Slot] = (),
) -> Program:
    """Return the program of the cotangents of ``wrt``.

    Parameters
    ----------
    program : Program
        What is differentiated. Its instructions are repeated in front where their values are
        needed.
    seeds : sequence of (slot, cotangent)
        Slots of ``program`` that have a cotangent, and the input of the result that holds it.
    wrt : sequence of slot
        Inputs whose cotangents ``slot + "_bar"`` are the outputs. A zero cotangent has no output.
    given : sequence of slot
        Evaluations that the caller supplies, value and map, instead of evaluating them here.

    Returns
    -------
    Program
        Inputs: those of ``program``, the seeds, and what was ``given``.
    """
    forward = [_mapped(instruction) for instruction in program.body]
    recorder = _Transposer(program, forward, seeds, wrt)
    for instruction in reversed(forward):
        recorder.visit(instruction)
    outputs: dict[str, Slot] = {}
    for slot in wrt:
        bar = recorder.cotangent(slot)
        if bar is not None:
            outputs[slot + "_bar"] = bar
    kinds = program.kinds()
    inputs = list(program.inputs)
    inputs += [(bar, kinds[slot]) for slot, bar in seeds]
    for slot in given:
        inputs += [(slot, "state"), (slot + "_map", "map")]
    body = [i for i in forward if i.dst not in given] + recorder.body
    return Program(
        program.name + " transposed", tuple(inputs), tuple(body), tuple(outputs.items())
    ).pruned()


class _Transposer:
    """Cotangents of slots as lists of contributions, summed where they are first read."""

    def __init__(
        self,
        program: Program,
        forward: Sequence[Instruction],
        seeds: Sequence[tuple[Slot, Slot]],
        wrt: Sequence[Slot],
    ) -> None:
        self.kinds: dict[Slot, Kind] = program.kinds()
        self.body: list[Instruction] = []
        self._contributions: dict[Slot, list[Contribution]] = {}
        self._summed: dict[Slot, Slot | None] = {}
        self._applied: dict[tuple[object, ...], Slot] = {}
        self._names = set(self.kinds) | {bar for _, bar in seeds}
        self._active = set(wrt)
        for instruction in forward:
            if isinstance(instruction, Evaluate) or not self._active.isdisjoint(reads(instruction)):
                self._active.add(instruction.dst)
        for slot, bar in seeds:
            self._add(slot, (None, 1, bar))

    def visit(self, instruction: Instruction) -> None:
        bar = self.cotangent(instruction.dst)
        if bar is None:
            return
        match instruction:
            case Combine(base=base, terms=terms):
                if base is not None:
                    self._add(base, (None, 1, bar))
                for scale, coefficient, slot in terms:
                    self._add(slot, (scale, coefficient, bar))
            case Evaluate(src=src, map=map_, field=field):
                assert map_ is not None
                dst = self._fresh(src + "_bar")
                self.body.append(Pullback(dst, map_, bar, field))
                self._add(src, (None, 1, dst))
            case Contract(diffusion=diffusion, noise=noise):
                if noise is None:
                    raise ValueError(f"{instruction} has no cotangent rule")
                dst = self._fresh(diffusion + "_bar")
                self.body.append(Outer(dst, bar, noise))
                self._add(diffusion, (None, 1, dst))
            case Mean(src=src):
                dst = self._fresh(src + "_bar")
                self.body.append(Spread(dst, bar))
                self._add(src, (None, 1, dst))
            case Part(src=src, index=index):
                self._join(src, index, bar)
            case Join(parts=parts):
                for index, part in enumerate(parts):
                    if part in self._active:
                        dst = self._fresh(f"{part}_bar")
                        self.body.append(Part(dst, bar, index))
                        self._add(str(part), (None, 1, dst))
            case Apply():
                self._apply(instruction, bar)
            case _:
                raise ValueError(f"{type(instruction).__name__} cannot be transposed again")

    def cotangent(self, slot: Slot) -> Slot | None:
        """Sum of the contributions to a slot's cotangent, None if there is none."""
        if slot not in self._summed:
            self._summed[slot] = self._sum(slot)
        return self._summed[slot]

    def _sum(self, slot: Slot) -> Slot | None:
        terms = self._contributions.get(slot, [])
        if not terms:
            return None
        if len(terms) == 1 and terms[0][:2] == (None, 1):
            return terms[0][2]
        merged: dict[tuple[Slot | None, Slot], Number] = {}
        for scale, coefficient, source in terms:
            key = (scale, source)
            merged[key] = merged[key] + coefficient if key in merged else coefficient
        bases = [key for key, value in merged.items() if key[0] is None and value == 1]
        base = bases[0][1] if bases else None
        rest = tuple(
            (scale, coefficient, source)
            for (scale, source), coefficient in merged.items()
            if not (scale is None and source == base) and coefficient != 0
        )
        dst = self._fresh(slot + "_bar")
        self.body.append(Combine(dst, base, rest))
        return dst

    def _add(self, slot: Slot, contribution: Contribution) -> None:
        if slot in self._active:
            self._contributions.setdefault(slot, []).append(contribution)

    def _join(self, slot: Slot, index: int, bar: Slot) -> None:
        """Add the cotangent of one half of a pair, beside that of the other where it is known."""
        first, second = (None, bar) if index else (bar, None)
        terms = self._contributions.get(slot, [])
        for join in [i for i in self.body if isinstance(i, Join)]:
            if (None, 1, join.dst) in terms and join.parts[index] is None:
                terms.remove((None, 1, join.dst))
                self.body.remove(join)
                first, second = first or join.parts[0], second or join.parts[1]
                break
        dst = self._fresh(slot + "_bar")
        self.body.append(Join(dst, (first, second)))
        self._add(slot, (None, 1, dst))

    def _fresh(self, name: Slot) -> Slot:
        fresh, count = name, 1
        while fresh in self._names:
            fresh, count = f"{name}.{count}", count + 1
        self._names.add(fresh)
        return fresh

    def _emit(self, op: str, *srcs: Slot | Number) -> Slot:
        found = self._applied.get((op, *srcs))
        if found is None:
            found = self._applied[op, *srcs] = self._fresh("w_bar")
            self.body.append(Apply(found, op, srcs))
        return found

    def _apply(self, instruction: Apply, bar: Slot) -> None:
        """One rule an operation; comparisons and conditions have no cotangent."""
        srcs, dst = instruction.srcs, instruction.dst

        def give(index: int, make: tuple[Slot | Number, ...] | None, sign: int = 1) -> None:
            src = srcs[index]
            if not isinstance(src, str) or src not in self._active:
                return
            if self.kinds[src] == "scalar" and self.kinds[dst] != "scalar":
                raise ValueError(f"{instruction} spreads {src!r}, whose cotangent is not summed")
            value = bar if make is None else self._emit(str(make[0]), *make[1:])
            self._add(src, (None, sign, value))

        match instruction.op:
            case "add":
                give(0, None)
                give(1, None)
            case "sub":
                give(0, None)
                give(1, None, -1)
            case "neg":
                give(0, None, -1)
            case "mul":
                give(0, ("mul", bar, srcs[1]))
                give(1, ("mul", bar, srcs[0]))
            case "div" | "safe_div" as op:
                give(0, (op, bar, srcs[1]))
                if isinstance(srcs[1], str) and srcs[1] in self._active:
                    give(1, ("mul", dst, self._emit(op, bar, srcs[1])), -1)
            case "square":
                give(0, ("mul", self._emit("mul", bar, 2.0), srcs[0]))
            case "sqrt":
                # 0 at 0: an error estimate that vanishes has no direction.
                give(0, ("safe_div", self._emit("mul", bar, 0.5), dst))
            case "log":
                give(0, ("div", bar, srcs[0]))
            case "abs":
                give(0, ("mul", bar, self._emit("unit", srcs[0])))
            case "max":
                first = self._emit("le", srcs[1], srcs[0])
                give(0, ("where", first, bar, 0.0))
                give(1, ("where", first, 0.0, bar))
            case "min":
                first = self._emit("le", srcs[0], srcs[1])
                give(0, ("where", first, bar, 0.0))
                give(1, ("where", first, 0.0, bar))
            case "where":
                give(1, ("where", srcs[0], bar, 0.0))
                give(2, ("where", srcs[0], 0.0, bar))
            case "floor" | "isfinite" | "lt" | "le" | "eq" | "and" | "or" | "not":
                pass
            case op:
                raise ValueError(f"no cotangent rule for {op!r} in {instruction}")


def _mapped(instruction: Instruction) -> Instruction:
    if isinstance(instruction, Evaluate) and instruction.map is None:
        return replace(instruction, map=instruction.dst + "_map")
    return instruction
