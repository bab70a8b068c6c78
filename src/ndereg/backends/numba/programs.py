"""Step programs as Numba source.

Elementwise instructions between two evaluations of the field become one loop over the state: every
stage is read once, and what no later block reads never leaves a register. Scalars are locals. What
is elementwise in the channels of the noise, in a diffusion matrix, or in one half of a pair of
states, has loops of its own. A half is no copy: it is the entries of the pair from some place on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ndereg.backends.numba.signatures import Kernels, Numbers, ProgramSource
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
    writes,
)

_VECTORS = ("state", "real", "noise", "diffusion")
_LENGTHS: dict[Kind, str] = {"state": "n", "real": "n", "noise": "m", "diffusion": "rows * m"}
"""How many entries vectors have: those of the state, the channels of the noise, both. A matrix has
a row for every entry that the field sees; half a pair has as many entries."""

SCALAR_TEXT: dict[str, str] = {
    "add": "({} + {})", "sub": "({} - {})", "mul": "({} * {})", "div": "({} / {})",
    "neg": "(-{})", "abs": "abs({})", "square": "({0} * {0})", "sqrt": "np.sqrt({})",
    "log": "log({})", "floor": "floor({})",
    # most controllers have coefficients of zero, and the power takes as long as a stage
    "pow": "({one} if {1} == 0 else {0} ** {1})",
    "lt": "({} < {})", "le": "({} <= {})", "eq": "({} == {})",
    "and": "({} and {})", "or": "({} or {})", "not": "(not {})",
    "where": "({1} if {0} else {2})",
    "max": "({0} if ({0} >= {1} or {0} != {0}) else {1})",
    "min": "({0} if ({0} <= {1} or {0} != {0}) else {1})",
    "safe_div": "({zero} if {1} == 0 else {0} / {1})",
    "isfinite": "is_finite({})",
}  # fmt: skip
"""Meaning of the operations as source; ``{zero}`` and ``{one}`` are typed constants.

Numba's own ``math.isfinite(x)`` looks at ``x - x``, which is 0 once sums may be reassociated.
"""


_BRANCHLESS = {"pow": "select({1} == 0, {one}, exp({1} * log({0})))"}


def emit_program(
    program: Program, name: str, numbers: Numbers, kernels: Kernels, decorator: str
) -> ProgramSource:
    """Emit a program."""
    return _Emitter(program, name, numbers, kernels).source(decorator)


@dataclass
class _Loop:
    body: list[Instruction]
    length: str


class _Emitter:
    def __init__(self, program: Program, name: str, numbers: Numbers, kernels: Kernels) -> None:
        self.program, self.name = program, name
        self.numbers, self.kernels = numbers, kernels
        self.kinds: dict[Slot, Kind] = program.kinds()
        self.halves = program.halves()
        self.parts = {i.dst: i for i in program.body if isinstance(i, Part)}
        self.names = {slot: f"v{i}" for i, slot in enumerate(self.kinds)}
        self.evaluations = {
            i.map: i for i in program.body if isinstance(i, Evaluate) and i.map is not None
        }
        self.output_slots = tuple(
            dict.fromkeys(s for _, s in program.outputs if self.kinds[s] in _VECTORS)
        )
        self.output_maps = tuple(s for _, s in program.outputs if self.kinds[s] == "map")
        self.blocks = self._schedule()
        self.lines: list[str] = []
        self.seconds: dict[str, str] = {}

    # -- schedule ------------------------------------------------------------------------------

    def _reads(self, instruction: Instruction) -> Iterable[Slot]:
        """What has to be there: of a half the pair."""
        yield from map(self._whole, reads(instruction))
        if isinstance(instruction, Pullback) and instruction.map in self.evaluations:
            yield from ("t", self.evaluations[instruction.map].scale)
            yield self._whole(self.evaluations[instruction.map].src)

    def _whole(self, slot: Slot) -> Slot:
        return self.parts[slot].src if slot in self.parts else slot

    def _elementwise(self, instruction: Instruction) -> bool:
        if isinstance(instruction, (Evaluate, Pullback, Outer)):
            return False
        return isinstance(instruction, Mean) or self.kinds[instruction.dst] in _VECTORS

    def _length(self, instruction: Instruction) -> str:
        """Of the loop that an elementwise instruction is in."""
        if isinstance(instruction, Mean):
            return self._slot_length(instruction.src)
        if isinstance(instruction, Join):
            return "rows"
        return self._slot_length(instruction.dst)

    def _slot_length(self, slot: Slot) -> str:
        return "rows" if slot in self.halves else _LENGTHS[self.kinds[slot]]

    def _schedule(self) -> list[_Loop | Instruction]:
        """Fuse elementwise instructions into loops as late as their readers allow."""
        blocks: list[_Loop | Instruction] = []
        pending: list[Instruction] = []

        def flush(needed: set[Slot]) -> None:
            taken: list[Instruction] = []
            kept: list[Instruction] = []
            for instruction in reversed(pending):
                if instruction.dst in needed:
                    taken.append(instruction)
                    needed.update(self._reads(instruction))
                else:
                    kept.append(instruction)
            for length in dict.fromkeys(map(self._length, taken)):
                body = [i for i in reversed(taken) if self._length(i) == length]
                blocks.append(_Loop(body, length))
            pending[:] = kept[::-1]

        for instruction in self.program.body:
            if isinstance(instruction, Part):
                continue
            produced = {p.dst for p in pending}
            if self._elementwise(instruction):
                length = self._length(instruction)
                finished = {
                    p.dst
                    for p in pending
                    if isinstance(p, (Mean, Join)) or self._length(p) != length
                }
                late = finished & set(self._reads(instruction))
                if late:
                    flush(set(late))
                pending.append(instruction)
                continue
            wanted = produced & set(self._reads(instruction))
            if wanted:
                flush(wanted)
            blocks.append(instruction)
        flush({p.dst for p in pending})
        return blocks

    # -- storage -------------------------------------------------------------------------------

    def _stored(self) -> dict[Slot, str]:
        """Where each vector that leaves its block lives: an argument or a scratch row."""
        block_of: dict[Slot, int] = {}
        last: dict[Slot, int] = {}
        for index, block in enumerate(self.blocks):
            for instruction in block.body if isinstance(block, _Loop) else [block]:
                for slot in writes(instruction):
                    block_of[slot] = index
                for slot in self._reads(instruction):
                    last[slot] = index
        inputs = {slot for slot, _ in self.program.inputs}
        places = {slot: self.names[slot] for slot in inputs if self.kinds[slot] in _VECTORS}
        places |= {slot: "o" + self.names[slot] for slot in self.output_slots if slot not in inputs}
        rows: list[int] = []
        joined = {i.dst for i in self.program.body if isinstance(i, Join)}
        for slot, start in sorted(block_of.items(), key=lambda item: item[1]):
            if slot in places or self.kinds[slot] not in _VECTORS:
                continue
            alone = isinstance(self.blocks[start], _Loop) and last.get(slot, start) == start
            if alone and slot not in joined:
                continue
            free = next((i for i, end in enumerate(rows) if end < start), None)
            if free is None:
                free = len(rows)
                rows.append(0)
            rows[free] = last.get(slot, start)
            places[slot] = f"T{free}"
        self.temporaries = len(rows)
        return places

    def _place(self, slot: Slot, half: int = 0) -> str:
        """Where a vector is; of a pair, or for one of its slots, the entries of a half."""
        if slot in self.parts:
            slot, half = self.parts[slot].src, self.parts[slot].index
        whole = self.places[slot]
        if not half:
            return whole
        second = f"{whole}_second"
        self.seconds[second] = f"{second} = entries_from({whole}, rows)"
        return second

    # -- text ----------------------------------------------------------------------------------

    def source(self, decorator: str) -> ProgramSource:
        self.places = self._stored()
        inputs = self.program.inputs
        scalars = tuple(s for s, kind in inputs if kind in ("scalar", "flag"))
        maps = tuple(s for s, kind in inputs if kind == "map")
        vectors = tuple(s for s, kind in inputs if kind in _VECTORS)
        results = tuple(
            name for name, slot in self.program.outputs if self.kinds[slot] in ("scalar", "flag")
        )
        self.map_rows: dict[Slot, str] = {slot: self.names[slot] for slot in maps}
        fresh = 0
        for slot in self.evaluations:
            if slot in self.output_maps:
                self.map_rows[slot] = "o" + self.names[slot]
            else:
                self.map_rows[slot] = f"first_map + {fresh}"
                fresh += 1
        parameters = [self.names[s] for s in scalars]
        for slot in maps:
            parameters += [self.names[slot], self.names[slot] + "t", self.names[slot] + "y"]
        parameters += [self.names[s] for s in vectors]
        parameters += ["o" + self.names[s] for s in self.output_slots]
        parameters += ["o" + self.names[s] for s in self.output_maps]
        if self.temporaries:
            parameters.append("T")
        environment = self._environment()
        if environment:
            parameters.append(environment)
        self._body(tuple(s for s, kind in inputs if kind == "state"))
        returned = [self.names[dict(self.program.outputs)[name]] for name in results]
        if returned:
            self.lines.append(f"return ({', '.join(returned)},)")
        elif not self.lines:
            self.lines.append("pass")
        head = f"{decorator}\ndef {self.name}({', '.join(parameters)}):"
        text = "\n".join([head, *("    " + line for line in self.lines)]) + "\n"
        return ProgramSource(
            self.name, text, scalars, maps, vectors, self.output_slots, results,
            self.output_maps, self.temporaries, fresh, environment,
            bool(self.numbers.rooms(self.kernels, "")),
        )  # fmt: skip

    def _environment(self) -> str:
        k, parts = self.kernels, []
        body = self.program.body
        if any(isinstance(i, Pullback) for i in body):
            parts = ["first_map, residuals", k.field_environment, k.linearize_environment,
                     k.pullback_environment, "A_bar"]  # fmt: skip
        elif any(isinstance(i, Evaluate) and i.map is not None for i in body):
            parts = ["first_map, residuals", k.field_environment, k.linearize_environment]
        elif any(isinstance(i, Evaluate) for i in body):
            parts = [k.field_environment]
        if parts and k.sample:
            parts.append(k.sample)
        return ", ".join(parts)

    def _body(self, states: tuple[Slot, ...]) -> None:
        lines = self.lines
        if states or self.output_slots:
            anchor = self.names[states[0]] if states else "o" + self.names[self.output_slots[0]]
            length = self.numbers.entries
            lines.append(f"n = {length}" if length else f"n = {anchor}.shape[0]")
            kinds = set(self.kinds.values())
            if {"noise", "diffusion"} & kinds:
                lines.append(f"m = {self.numbers.channels}")
            if self.halves or "diffusion" in kinds:
                lines.append("rows = n // 2" if self.numbers.pairs else "rows = n")
            rooms = self.numbers.rooms(self.kernels, anchor)
            lines.extend(f"T{i} = {rooms or f'T[{i}]'}" for i in range(self.temporaries))
        top = len(lines)
        for block in self.blocks:
            if isinstance(block, _Loop):
                self._loop(block)
            elif isinstance(block, Evaluate):
                self._evaluate(block)
            elif isinstance(block, Pullback):
                self._pullback(block)
            elif isinstance(block, Outer):
                self._outer(block)
            elif isinstance(block, Combine):
                lines.append(f"{self.names[block.dst]} = {self._combination(block, self._scalar)}")
            else:
                assert isinstance(block, Apply)
                text = self._operation(block, self._scalar, "0.0", "1.0")
                lines.append(f"{self.names[block.dst]} = {text}")
        lines[top:top] = self.seconds.values()
        inputs = {slot for slot, _ in self.program.inputs}
        for slot in self.output_slots:
            if slot in inputs:
                lines += [f"for i in range({self._slot_length(slot)}):",
                          f"    o{self.names[slot]}[i] = {self.names[slot]}[i]"]  # fmt: skip

    def _time(self, instruction: Evaluate) -> str:
        t, c = self.names["t"], float(instruction.c)
        if c == 0:
            return t
        scale = self.names[instruction.scale]
        return f"{t} + {scale}" if c == 1 else f"{t} + {c!r} * {scale}"

    def _evaluate(self, instruction: Evaluate) -> None:
        t, src = self._time(instruction), self._place(instruction.src)
        dst, field = self.places[instruction.dst], instruction.field
        if instruction.map is None:
            self.lines.append(self.kernels.evaluation(t, src, dst, field))
        else:
            row = self.map_rows[instruction.map]
            self.lines.append(self.kernels.linearization(t, src, row, dst, field))

    def _pullback(self, instruction: Pullback) -> None:
        origin = self.evaluations.get(instruction.map)
        if origin is None:
            t, src = self.names[instruction.map] + "t", self.names[instruction.map] + "y"
        else:
            t, src = self._time(origin), self._place(origin.src)
        row, field = self.map_rows[instruction.map], instruction.field
        bar, dst = self._place(instruction.cotangent), self.places[instruction.dst]
        self.lines.append(self.kernels.pulled(t, src, row, bar, dst, field))

    def _outer(self, instruction: Outer) -> None:
        state, noise = (self._read(slot, i) for slot, i in
                        ((instruction.state, "i"), (instruction.noise, "j")))  # fmt: skip
        self.lines += [
            "for i in range(rows):",
            "    for j in range(m):",
            f"        {self.places[instruction.dst]}[i * m + j] = {state} * {noise}",
        ]

    def _read(self, slot: Slot, index: str) -> str:
        """Source of an entry; scratch rows have the dtype of the state also where they are real."""
        is_real = self.numbers.complex and self.kinds[slot] in ("real", "noise")
        return f"{self._place(slot)}[{index}]{'.real' if is_real else ''}"

    def _loop(self, loop: _Loop) -> None:
        """One pass over the state."""
        inside = {i.dst for i in loop.body}
        head: list[str] = []
        loads: dict[Slot, str] = {}
        for instruction in loop.body:
            for slot in reads(instruction):
                if slot in inside or slot in loads:
                    continue
                name = self.names[slot]
                if isinstance(instruction, Contract):
                    continue
                if self.kinds[slot] in _VECTORS:
                    loads[slot] = f"x{name} = {self._read(slot, 'i')}"
                elif self.kinds[slot] == "scalar" and not isinstance(instruction, Spread):
                    head.append(f"c{name} = {self.numbers.cast(name)}")
        body = list(loads.values())
        tail: list[str] = []
        for instruction in loop.body:
            name = self.names[instruction.dst]
            match instruction:
                case Mean(src=src):
                    head.append(f"{name} = 0.0")
                    body.append(f"{name} += x{self.names[src]}")
                    tail.append(f"{name} /= {loop.length}")
                    continue
                case Join(parts=parts):
                    body += self._joined(instruction.dst, parts)
                    continue
                case Spread(src=src):
                    share = f"{self.names[src]} / {loop.length}"
                    head.append(f"c{name} = {self.numbers.cast(share)}")
                    body.append(f"x{name} = c{name}")
                case Contract():
                    body += self._contraction(instruction)
                case Combine():
                    body.append(f"x{name} = {self._combination(instruction, self._element)}")
                case Apply():
                    literal = self.numbers.literal
                    text = self._operation(instruction, self._element, literal(0), literal(1))
                    body.append(f"x{name} = {text}")
            if instruction.dst in self.places:
                body.append(f"{self.places[instruction.dst]}[i] = x{name}")
        self.lines += list(dict.fromkeys(head))
        self.lines += [f"for i in range({loop.length}):", *("    " + line for line in body), *tail]

    def _joined(self, dst: Slot, parts: tuple[Slot | None, Slot | None]) -> list[str]:
        """An entry of each half of a pair."""
        values = [self.numbers.literal(0) if p is None else self._element(p) for p in parts]
        return [f"{self._place(dst, half)}[i] = {value}" for half, value in enumerate(values)]

    def _contraction(self, instruction: Contract) -> list[str]:
        """One row of a diffusion matrix times the noise, or its sum."""
        total, factor = f"x{self.names[instruction.dst]}", ""
        if instruction.noise is not None:
            factor = f" * {self._read(instruction.noise, 'j')}"
        return [
            f"{total} = {self.numbers.literal(0)}",
            "for j in range(m):",
            f"    {total} += {self._read(instruction.diffusion, 'i * m + j')}{factor}",
        ]

    def _element(self, slot: Slot | Number) -> str:
        if not isinstance(slot, str):
            return self.numbers.literal(slot)
        kind = self.kinds[slot]
        return ("x" if kind in _VECTORS else "c" if kind == "scalar" else "") + self.names[slot]

    def _scalar(self, slot: Slot | Number) -> str:
        return self.names[slot] if isinstance(slot, str) else repr(float(slot))

    def _combination(self, instruction: Combine, operand: Callable[[Slot | Number], str]) -> str:
        groups: dict[Slot | None, list[str]] = {}
        for scale, coefficient, slot in instruction.terms:
            value = operand(slot)
            term = value if coefficient == 1 else f"{operand(coefficient)} * {value}"
            groups.setdefault(scale, []).append(term)
        parts = [] if instruction.base is None else [operand(instruction.base)]
        for scale, terms in groups.items():
            total = " + ".join(terms)
            parts.append(total if scale is None else f"{operand(scale)} * ({total})")
        return " + ".join(parts)

    def _operation(
        self, instruction: Apply, operand: Callable[[Slot | Number], str], zero: str, one: str
    ) -> str:
        values = [operand(src) for src in instruction.srcs]
        vector = self.kinds[instruction.dst] in _VECTORS
        is_state = (
            isinstance(instruction.srcs[0], str) and self.kinds[instruction.srcs[0]] == "state"
        )
        if instruction.op == "unit":
            z = values[0]
            if self.numbers.complex and is_state:
                return f"({z} if {z} == 0 else {z} / abs({z}))"
            return f"({zero} if {z} == 0 else ({one} if {z} > 0 else -{one}))"
        if instruction.op == "isfinite" and vector:
            z = values[0]
            test = f"is_finite({z})"
            if self.numbers.complex and is_state:
                test = f"(is_finite({z}.real) and is_finite({z}.imag))"
            return f"({one} if {test} else {zero})"
        text = SCALAR_TEXT[instruction.op]
        if self.numbers.branchless:
            text = _BRANCHLESS.get(instruction.op, text)
        return text.format(*values, zero=zero, one=one)
