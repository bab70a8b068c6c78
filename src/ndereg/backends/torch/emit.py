"""Step programs as Python source over tensors.

A program is straight-line code, so it is written out as such: one line of PyTorch an operation,
without an interpreter between them. Slots that only depend on Python numbers stay Python numbers;
combinations are chains of ``add_`` with ``alpha``, which were measured faster than a
matrix-vector product over a buffer of stages from two entries to a million; an operand that
nothing reads again is overwritten where the program made it itself, so that what was just written
is still in the cache; and every array is let go after its last use.

What is passed to the field or comes from it is never overwritten: it may share memory with
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from ndereg.backends.torch.operations import COMPARED, HOST, IN_PLACE, NAMESPACE, TENSOR
from ndereg.backends.torch.sums import Sum
from ndereg.plan.program import (
    Apply,
    Combine,
    Contract,
    Evaluate,
    Instruction,
    Join,
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

_ARRAYS = ("state", "real", "noise", "diffusion")
"""Kinds of slots that are arrays rather than one number a sample."""

HOST_OUTPUTS = ("E", "finite", "h", "status")
"""Outputs of the programs that the host decides by."""

Function = Callable[[Any, Mapping[Slot, Any]], dict[str, Any]]


def gathered(body: Sequence[Instruction]) -> list[Instruction]:
    """Pullbacks moved down to the next one where they do not depend on each other.

    One call of autograd then serves all of them: of the drift and the diffusion of a stage, above
    all.
    """
    found = list(body)
    for index in reversed(range(len(found))):
        pullback = found[index]
        if not isinstance(pullback, Pullback):
            continue
        for later in range(index + 1, len(found)):
            if pullback.dst in reads(found[later]):
                break
            if isinstance(found[later], Pullback):
                found.insert(later - 1, found.pop(index))
                break
    return found


def goes_on(pullbacks: Sequence[Pullback], rest: Sequence[Instruction]) -> bool:
    """Whether what comes next is another pullback, of a cotangent that is known before these."""
    known = rest and isinstance(rest[0], Pullback)
    return bool(known) and {each.dst for each in pullbacks}.isdisjoint(reads(rest[0]))


class EmittedProgram:
    """A program as Python functions, one for every kind of machine that runs it.

    The kind is the machine's ``style``; machines of one style give a program the same slots as
    tensors and the same ones as Python numbers.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.sources: dict[str, str] = {}
        self._functions: dict[str, Function] = {}

    def __call__(self, machine: Any, values: Mapping[Slot, Any]) -> dict[str, Any]:
        """Run on ``values``, which may hold more slots than the program reads."""
        if machine.compiles and machine.field.runs(self):
            return machine.field.run(self, machine, values)  # type: ignore[no-any-return]
        function = self._functions.get(machine.style)
        if function is None:
            function = self._functions[machine.style] = self._emit(machine, values)
        return function(machine, values)

    @cached_property
    def identity(self) -> str:
        """The program in full, whose hash is computed once."""
        return repr(self.program)

    def _emit(self, machine: Any, values: Mapping[Slot, Any]) -> Function:
        inputs = [slot for slot, _ in self.program.inputs]
        tensors = {slot for slot in inputs if isinstance(values[slot], torch.Tensor)}
        source = _Emitter(self.program, tensors, machine).source()
        self.sources[machine.style] = source
        namespace = dict(NAMESPACE)
        exec(compile(source, f"<{self.program.name}>", "exec"), namespace)
        return namespace["run"]  # type: ignore[no-any-return]


class _Emitter:
    """Writes one program for one kind of machine."""

    def __init__(self, program: Program, tensors: set[Slot], machine: Any) -> None:
        self.program = program
        self.body = gathered(program.body)
        self.kinds = program.kinds()
        self.joint: bool = machine.joint
        self.narrow: bool = machine.narrow
        self.complex: bool = machine.is_complex
        self.tensors = tensors
        self.full = {slot for slot, kind in program.inputs if kind in _ARRAYS and slot in tensors}
        """Slots of the full shape of the state; others of kind ``real`` broadcast to it."""
        self.owned: set[Slot] = set()
        """Slots whose memory this program made and nothing else refers to."""
        self.kept = {slot for _, slot in program.outputs}
        self.last: dict[Slot, int] = {}
        for index, instruction in enumerate(self.body):
            self.last |= dict.fromkeys(reads(instruction), index)
        self.lines: list[str] = []
        self.spread: set[Slot] = set()
        self.masks: set[Slot] = set()
        """Slots of zeros and ones."""
        self.read = self._read_means() if self.joint else set()
        self.finite = self._finite_shares()
        """Means of what is finite, by the mask that is not made, and what it would be made of."""
        for mask, src in self.finite.items():
            self.last[src] = max(self.last[src], self.last[mask])
        self.index = 0
        slots = list(self.kinds)
        plain = [slot.replace(".", "_") for slot in slots]
        if len(set(plain)) < len(slots):
            plain = [f"s{index}" for index in range(len(slots))]
        self.names = {slot: f"{name}_" for slot, name in zip(slots, plain, strict=True)}

    def _read_means(self) -> set[Slot]:
        """Means that are read as Python numbers at once, and what follows is arithmetic on them.

        The host needs what comes of them anyway. After several means one read at the end is
        better, except at the start of a solve, where many operations on single numbers follow.
        """
        if not self.program.name.startswith(("step", "first")):
            return set()
        needed = {slot for name, slot in self.program.outputs if name in HOST_OUTPUTS}
        means = set()
        for instruction in reversed(self.program.body):
            if instruction.dst in needed:
                needed.update(reads(instruction))
                if isinstance(instruction, Mean):
                    means.add(instruction.dst)
        return means if len(means) == 1 or self.program.name.startswith("first") else set()

    def _finite_shares(self) -> dict[Slot, Slot]:
        """Masks of finite entries that only a mean reads which the host reads in turn."""
        readers: dict[Slot, list[Instruction]] = {}
        for instruction in self.body:
            for slot in reads(instruction):
                readers.setdefault(slot, []).append(instruction)
        found = {}
        for mask in self.body:
            if isinstance(mask, Apply) and mask.op == "isfinite" and mask.dst not in self.kept:
                means = readers.get(mask.dst, [])
                if all(isinstance(mean, Mean) and mean.dst in self.read for mean in means):
                    found[mask.dst] = str(mask.srcs[0])
        return found

    def source(self) -> str:
        for slot, _ in self.program.inputs:
            self.lines.append(f"{self.names[slot]} = values[{slot!r}]")
        pullbacks: list[Pullback] = []
        for index, instruction in enumerate(self.body):
            self.index = index
            if isinstance(instruction, Pullback):
                pullbacks.append(instruction)
                if goes_on(pullbacks, self.body[index + 1 :]):
                    continue
                self.pull_back(pullbacks)
            else:
                self.visit(instruction)
            read = [slot for each in pullbacks or [instruction] for slot in reads(each)]
            read = [self.finite.get(slot, slot) for slot in read]
            pullbacks = []
            done = [
                self.names[slot]
                for slot in dict.fromkeys(read)
                if self.last[slot] <= self.index
                and slot not in self.kept
                and self.kinds[slot] in (*_ARRAYS, "map")
            ]
            if done:
                self.lines.append("del " + ", ".join(done))
        results = ", ".join(f"{name!r}: {self.names[slot]}" for name, slot in self.program.outputs)
        body = [
            *("evaluate, linearize = machine.evaluate, machine.linearize",) * (not self._scalar()),
            *("pull_back, lift = machine.pull_back, machine.lift",) * (not self._scalar()),
            *("real = machine.real",) * (not self._scalar()),
            *("contract, outer = machine.contract, machine.outer",) * self._mixes(),
            *self.lines,
            "return {" + results + "}",
        ]
        return "def run(machine, values):\n" + "".join(f"    {line}\n" for line in body)

    def _scalar(self) -> bool:
        return (
            not self.tensors
            and not self.full
            and all(isinstance(instruction, Apply) for instruction in self.program.body)
        )

    def _mixes(self) -> bool:
        """Whether there is a diffusion that is a matrix."""
        return any(isinstance(i, (Contract, Outer)) for i in self.program.body)

    def visit(self, instruction: Instruction) -> None:
        name = self.names
        match instruction:
            case Combine(dst=dst, base=base, terms=terms):
                if self.kinds[dst] in _ARRAYS:
                    self.combine(dst, base, terms)
                else:
                    self.combine_scalars(dst, base, terms)
            case Evaluate(dst=dst, c=c, scale=scale, src=src, map=map_, field=field):
                time = name["t"] if c == 0 else f"{name['t']} + {self.product(c, scale)}"
                given = f"({time}, {name[src]}{'' if field == 'drift' else f', {field!r}'})"
                if map_ is None:
                    self.lines.append(f"{name[dst]} = evaluate{given}")
                else:
                    self.lines.append(f"{name[dst]}, {name[map_]} = linearize{given}")
                self.owned.discard(src)
                self.tensors.add(dst)
                self.full.add(dst)
            case Contract(dst=dst, diffusion=diffusion, noise=noise):
                given = f"{name[diffusion]}, {'None' if noise is None else name[noise]}"
                self.matrix(dst, f"contract({given})")
            case Outer(dst=dst, state=state, noise=noise):
                self.matrix(dst, f"outer({name[state]}, {name[noise]})")
            case Part(dst=dst, src=src, index=index):  # shares the memory of the pair
                self.lines.append(f"{name[dst]} = machine.part({name[src]}, {index})")
                self.owned.discard(src)
                self.tensors.add(dst)
                self.full.add(dst)
            case Join(dst=dst, parts=parts):
                given = ", ".join("None" if part is None else name[part] for part in parts)
                self.matrix(dst, f"machine.join({given})")
            case Mean(dst=dst, src=src):
                self.mean(dst, src)
            case Spread(dst=dst, src=src):
                self.lines.append(
                    f"{name[dst]} = {self.scalar_of_vector(src)} / machine.layout.entries"
                )
                self.tensors.add(dst)
            case Apply(dst=dst) if dst not in self.finite:
                self.apply(instruction)

    def pull_back(self, pullbacks: list[Pullback]) -> None:
        """One call for all of them; a history knows its field."""
        name = self.names
        results = ", ".join(name[each.dst] for each in pullbacks)
        given = ", ".join(f"({name[each.map]}, {name[each.cotangent]})" for each in pullbacks)
        self.lines.append(f"{results}, = pull_back({given})")
        self.owned -= {each.cotangent for each in pullbacks}
        self.tensors |= {each.dst for each in pullbacks}
        self.full |= {each.dst for each in pullbacks}

    def matrix(self, dst: Slot, expression: str) -> None:
        self.lines.append(f"{self.names[dst]} = {expression}")
        self.tensors.add(dst)
        self.full.add(dst)
        self.owned.add(dst)

    def mean(self, dst: Slot, src: Slot) -> None:
        if src in self.finite:
            value = self.names[self.finite[src]]
            self.lines.append(f"{self.names[dst]} = machine.share_of_finite({value})")
            return
        value = self.names[src]
        if src in self.masks:
            value = f"machine.share_of_ones({value})"
        else:
            value += ".mean()" if self.joint else ".mean(-1, True)"
        if dst in self.read:
            value += ".item()"
        else:
            self.tensors.add(dst)
            if self.narrow and not self.joint:
                value += ".to(torch.float64)"
        self.lines.append(f"{self.names[dst]} = {value}")

    # Elementwise operations

    def apply(self, instruction: Apply) -> None:
        dst, op, srcs = instruction.dst, instruction.op, instruction.srcs
        vector = self.kinds[dst] in _ARRAYS
        operands = [self.operand(src, vector) for src in srcs]
        on_host = [not isinstance(src, str) or src not in self.tensors for src in srcs]
        if all(on_host):
            template = HOST.get(op, f"float_{op}(" + ", ".join(["{}"] * len(srcs)) + ")")
            self.lines.append(f"{self.names[dst]} = {template.format(*operands)}")
            return
        self.tensors.add(dst)
        full = any(src in self.full for src in srcs)
        if full:
            self.full.add(dst)
        if op == "where":
            expression = self.where(dst, srcs, operands, on_host)
        elif full and (op == "isfinite" or op in COMPARED):
            self.masks.add(dst)
            expression = self.compared(dst, op, srcs, operands)
        elif op in ("max", "min") and any(on_host):
            tensor, number = operands[on_host.index(False)], operands[on_host.index(True)]
            expression = f"{tensor}.clamp({'min' if op == 'max' else 'max'}={number})"
        else:
            expression = TENSOR[op].format(*operands)
            target = self.overwritten(dst, op, srcs) if full else None
            if target is not None:
                first, second = target
                others = operands[second] if second is not None else ""
                expression = IN_PLACE[op][0].format(operands[first], others)
        self.lines.append(f"{self.names[dst]} = {expression}")
        if full and not (op == "where" and on_host[0]):
            self.owned.add(dst)

    def where(
        self, dst: Slot, srcs: tuple[Any, ...], operands: list[str], on_host: list[bool]
    ) -> str:
        condition, yes, no = operands
        if on_host[0]:
            return f"{yes} if {condition} else {no}"
        if srcs[0] in self.full:
            if srcs[2] == 0:
                if self.disposable(srcs[1], dst):
                    return f"{yes}.mul_({condition})"
                if self.disposable(srcs[0], dst):
                    return f"{condition}.mul_({yes})"
                return f"{yes} * {condition}"
            if srcs[1] == 0:
                if self.disposable(srcs[2], dst):
                    return f"{no}.addcmul_({no}, {condition}, value=-1)"
                return f"addcmul({no}, {no}, {condition}, value=-1)"
            condition = f"{condition} != 0"
        # a Python number would be copied to the device, and the host would wait for it
        branches = zip((yes, no), on_host[1:], strict=True)
        yes, no = (f"lift({value})" if host else value for value, host in branches)
        return f"where({condition}, {yes}, {no})"

    def compared(self, dst: Slot, op: str, srcs: tuple[Any, ...], operands: list[str]) -> str:
        if op == "isfinite":
            return f"{operands[0]}.abs().lt_(inf)"
        free = [name for src, name in zip(srcs, operands, strict=True) if self.disposable(src, dst)]
        whole = next(name for src, name in zip(srcs, operands, strict=True) if src in self.full)
        out = free[0] if free else f"torch.empty_like({whole})"
        return f"{COMPARED[op]}({', '.join(operands)}, out={out})"

    def overwritten(
        self, dst: Slot, op: str, srcs: tuple[Any, ...]
    ) -> tuple[int, int | None] | None:
        """Which operand the operation may overwrite, and which is the other one."""
        if op not in IN_PLACE:
            return None
        for first in (0, 1) if len(srcs) == 2 and IN_PLACE[op][1] else (0,):
            src = srcs[first]
            if not self.disposable(src, dst):
                continue
            other = 1 - first if len(srcs) == 2 else None
            if op in ("max", "min") and srcs[other or 0] not in self.tensors:
                continue
            return first, other
        return None

    def disposable(self, slot: Slot | Number, dst: Slot) -> bool:
        """Whether ``dst`` may take the memory of ``slot``."""
        return (
            isinstance(slot, str)
            and slot in self.owned
            and slot in self.full
            and slot not in self.kept
            and self.last[slot] == self.index
            and (self.kinds[slot] == self.kinds[dst] or not self.complex)
        )

    def operand(self, src: Slot | Number, vector: bool) -> str:
        if not isinstance(src, str):
            return repr(float(src))
        if vector and self.kinds[src] == "scalar":
            return self.scalar_of_vector(src)
        return self.names[src]

    def scalar_of_vector(self, slot: Slot) -> str:
        """Name a scalar in the form in which it meets a state."""
        name = self.names[slot]
        if self.joint or not self.narrow or slot not in self.tensors:
            return name
        if slot not in self.spread:
            self.spread.add(slot)
            self.lines.append(f"{name}narrow = {name}.to(real)")
        return f"{name}narrow"

    # Combinations

    def combine_scalars(
        self, dst: Slot, base: Slot | None, terms: tuple[tuple[Slot | None, Number, Slot], ...]
    ) -> None:
        parts = [] if base is None else [self.names[base]]
        for scale, coefficient, slot in terms:
            parts.append(f"{self.product(coefficient, scale)} * {self.names[slot]}")
        self.lines.append(f"{self.names[dst]} = {' + '.join(parts)}")
        used = {base, *(scale for scale, _, _ in terms), *(slot for _, _, slot in terms)}
        if not used.isdisjoint(self.tensors):
            self.tensors.add(dst)

    def product(self, coefficient: Number, scale: Slot | None) -> str:
        value = float(coefficient)
        if scale is None:
            return repr(value)
        return self.names[scale] if value == 1 else f"{self.names[scale]} * {value!r}"

    def combine(
        self, dst: Slot, base: Slot | None, terms: tuple[tuple[Slot | None, Number, Slot], ...]
    ) -> None:
        plain: list[tuple[str | None, Slot]] = []
        scaled: dict[Slot, list[tuple[str | None, Slot]]] = {}
        for scale, coefficient, slot in terms:
            if scale is not None and scale in self.tensors:
                factor = None if coefficient == 1 else repr(float(coefficient))
                scaled.setdefault(scale, []).append((factor, slot))
            else:
                unit = scale is None and coefficient == 1
                plain.append((None if unit else self.product(coefficient, scale), slot))
        total = Sum(self.lines, self.names[dst])
        if base is not None:
            fresh = self.disposable(base, dst)
            total.start(self.names[base], fresh=fresh, full=base in self.full)
        for factor, slot in plain:
            total.add(factor, self.names[slot], slot in self.full)
        for index, (scale, group) in enumerate(scaled.items()):
            size = self.scalar_of_vector(scale)
            if len(group) == 1:
                factor, slot = group[0]
                total.add_scaled(size, factor, self.names[slot])
            else:
                part = Sum(self.lines, f"{self.names[dst]}part{index or ''}")
                for factor, slot in group:
                    part.add(factor, self.names[slot], slot in self.full)
                total.add_scaled(size, None, part.value, part if part.fresh else None)
                if part.fresh and total.value != part.value:
                    self.lines.append(f"del {part.value}")
        if total.value != self.names[dst]:
            self.lines.append(f"{self.names[dst]} = {total.value}")
        self.tensors.add(dst)
        self.full.add(dst)
        if total.fresh:
            self.owned.add(dst)
        else:  # another name of an array
            self.owned -= {base, *(slot for _, _, slot in terms)}
