"""Steps of which is kept what their transpose would make again, where there is memory for it.

These are the linearizations of the field, and the arrays from which the estimates were made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ndereg.plan.lower import Plan
from ndereg.plan.program import Evaluate, Instruction, Join, Program, Slot, reads
from ndereg.plan.transpose import transpose

FIRST = "first."
"""Before the name under which the start of a solve hands on what was evaluated there."""


@dataclass(frozen=True)
class KeptPlan:
    """The step and its transpose, with all that is dear handed from one to the other.

    Attributes
    ----------
    step : Program
        The step of the plan; what the transposed programs read of it is an output as well.
    first, first_given : Program
        The start of the plan; what the first step takes over from it is an output as well.
    adjoint, adjoint_dense : Program or None
        The transposed programs of the plan; the arrays and maps that the step made are inputs.
    first_adjoint : Program or None
        Where the solution reads what is evaluated at the end of a step, it is pulled back once for
        both steps that share it: ``adjoint`` takes ``k_next_bar`` and returns ``k1_bar``, and this
        program pulls the last of those back to the start of the solve. Else None.
    slots : tuple of Slot
        What the step hands on to its transpose.
    opening : tuple of Slot
        Values and maps that the transpose of the first step has from the start of the solve.
    carried : tuple of (Slot, Slot)
        What the transpose of a later step has in their place, from the step before.
    """

    step: Program
    first: Program
    first_given: Program
    adjoint: Program
    adjoint_dense: Program | None
    first_adjoint: Program | None
    slots: tuple[Slot, ...]
    opening: tuple[Slot, ...]
    carried: tuple[tuple[Slot, Slot], ...]

    @property
    def reads_state(self) -> bool:
        """Whether the transposed step still reads the state that the step began with."""
        return any(slot == "y" for slot, _ in self.adjoint.inputs)

    def programs(self) -> dict[str, Program]:
        """All programs by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Program)}


def kept_plan(plan: Plan) -> KeptPlan | None:
    """Return the programs that keep linearizations; None for a plan that has no use for them.

    That is one without a discrete adjoint, or one whose steps take over an evaluation that the
    transposed step knows by another name.
    """
    if plan.adjoint is None:
        return None
    first, last = _ends(plan)
    own = {i.dst for i in plan.adjoint.body if isinstance(i, Evaluate)}
    if not own.issuperset(first):
        return None
    made = _made(plan.step, first)
    adjoint = _given(plan.adjoint, made)
    adjoint_dense = None if plan.adjoint_dense is None else _given(plan.adjoint_dense, made)
    first_adjoint = None
    twice = first and {slot for slot, _ in adjoint.inputs}.issuperset(map(_map, last))
    if twice and not plan.shared:
        adjoint = _given(_handing_on(plan), made)
        first_adjoint = _given(_first_transposed(plan), made)
    read = {slot for program in (adjoint, adjoint_dense) if program for slot, _ in program.inputs}
    read.update(map(_map, last))
    pairs = [
        pair
        for start, end in zip(first, last, strict=True)
        for pair in ((start, end), (_map(start), _map(end)))
    ]
    carried = tuple(pairs) if first_adjoint is None else ()
    read.update(end for _, end in carried)
    body = []
    slots: list[Slot] = []
    for instruction in plan.step.body:
        if isinstance(instruction, Evaluate) and _map(instruction.dst) in read:
            instruction = replace(instruction, map=_map(instruction.dst))
            slots += [instruction.dst] if instruction.dst in read else []
            slots.append(_map(instruction.dst))
        elif instruction.dst in read & made.keys():
            slots.append(instruction.dst)
        body.append(instruction)
    outputs = dict(plan.step.outputs) | {slot: slot for slot in slots}
    return KeptPlan(
        step=replace(plan.step, body=tuple(body), outputs=tuple(outputs.items())),
        first=_opened(plan.first, first),
        first_given=_opened(plan.first_given, first),
        adjoint=adjoint,
        adjoint_dense=adjoint_dense,
        first_adjoint=first_adjoint,
        slots=tuple(slots),
        opening=tuple(start for start, _ in pairs),
        carried=carried,
    )


def _handing_on(plan: Plan) -> Program:
    """The transpose of the step as it is taken, from what the one before evaluated at its end."""
    read = {"y1", "k_next", *(f"r{i}" for i in range(len(plan.spec.terms)))}
    seeds = [(slot, f"{name}_bar") for name, slot in plan.step.outputs if name in read]
    return transpose(plan.step, seeds, ["y", "k1"])


def _first_transposed(plan: Plan) -> Program:
    slot = plan.first_given.output("k1")
    assert slot is not None
    return transpose(plan.first_given, [(slot, "k1_bar")], ["y"])


def _map(stage: Slot) -> Slot:
    return stage + "_map"


def _ends(plan: Plan) -> tuple[list[Slot], list[Slot]]:
    """Evaluations at the start of a step that are those at the end of the one before."""
    if not plan.carried:
        return [], []
    pairs = zip(_parts(plan.first, "k1"), _parts(plan.step, "k_next"), strict=True)
    both = [(start, end) for start, end in pairs if start is not None and end is not None]
    return [start for start, _ in both], [end for _, end in both]


def _parts(program: Program, output: str) -> tuple[Slot | None, ...]:
    """What an output is joined of; itself if of nothing."""
    slot = program.output(output)
    joins = (i.parts for i in program.body if isinstance(i, Join) and i.dst == slot)
    return next(joins, (slot,))


def _opened(first: Program, stages: list[Slot]) -> Program:
    """The start of a solve, with values and maps of some evaluations as outputs."""
    body = tuple(
        replace(i, map=_map(i.dst)) if isinstance(i, Evaluate) and i.dst in stages else i
        for i in first.body
    )
    found = tuple((FIRST + s, s) for stage in stages for s in (stage, _map(stage)))
    return replace(first, body=body, outputs=(*first.outputs, *found))


def _made(step: Program, first: list[Slot]) -> dict[Slot, Instruction]:
    """What a transposed step need not make again: evaluations, and arrays that the step made alike.

    Numbers are made again: a step hands them on as the host has them.
    """
    kinds = step.kinds()
    return {
        **{
            instruction.dst: instruction
            for instruction in step.body
            if isinstance(instruction, Evaluate) or kinds[instruction.dst] in ("state", "real")
        },
        **{stage: Evaluate(stage, 0, "h", stage) for stage in first},
    }


def _given(program: Program, made: dict[Slot, Instruction]) -> Program:
    """Return the program with what was made already as inputs, values and maps."""
    kinds = program.kinds()
    inputs = list(program.inputs)
    # equal names are the same array where they are made alike from the same arrays
    same = {slot for slot, _ in program.inputs}
    body = []
    for instruction in program.body:
        slot, found = instruction.dst, made.get(instruction.dst)
        if isinstance(instruction, Evaluate) and isinstance(found, Evaluate) and instruction.map:
            inputs += [(slot, kinds[slot]), (instruction.map, "map")]
            same.add(slot)
            continue
        if instruction == found and same.issuperset(reads(instruction)):
            inputs.append((slot, kinds[slot]))
            same.add(slot)
            continue
        body.append(instruction)
    return Program(program.name, tuple(inputs), tuple(body), program.outputs).pruned()
