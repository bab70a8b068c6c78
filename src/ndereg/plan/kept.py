"""Steps of which is kept what their transpose would make again, where there is memory for it.

These are the linearizations of the field, and the arrays from which the estimates were made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ndereg.plan.lower import Plan
from ndereg.plan.program import Evaluate, Instruction, Program, Slot, reads
from ndereg.spec.stochastic import StochasticMethod


@dataclass(frozen=True)
class KeptPlan:
    """The step and its transpose, with all that is dear handed from one to the other.

    Attributes
    ----------
    step : Program
        The step of the plan; what the transposed programs read of it is an output as well.
    adjoint, adjoint_dense : Program or None
        The transposed programs of the plan; the arrays and maps that the step made are inputs.
    slots : tuple of Slot
        What the step hands on to its transpose.
    first, last : tuple of (Slot, Slot)
        Value and map of the first and of the last stage: where the last one is the first of the
        next step, that one has them from here.
    """

    step: Program
    adjoint: Program
    adjoint_dense: Program | None
    slots: tuple[Slot, ...]
    first: tuple[Slot, Slot]
    last: tuple[Slot, Slot]

    def programs(self) -> dict[str, Program]:
        """All programs by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Program)}


def kept_plan(plan: Plan) -> KeptPlan | None:
    """Return the programs that keep linearizations; None for a plan that has no use for them.

    That is one without a discrete adjoint, or of a method that advances a pair of states, whose
    first stages are not evaluations of the field alone.
    """
    method = plan.spec.tableau
    if plan.adjoint is None or (isinstance(method, StochasticMethod) and method.pairs):
        return None
    stages = [f"k{i + 1}" for i in range(plan.spec.tableau.stages)]
    first, last = stages[0], stages[-1]
    made = _made(plan.step, stages)
    adjoint = _given(plan.adjoint, made)
    adjoint_dense = None if plan.adjoint_dense is None else _given(plan.adjoint_dense, made)
    read = {slot for program in (adjoint, adjoint_dense) if program for slot, _ in program.inputs}
    if plan.carried:
        read.add(last + "_map")
    body = []
    slots: list[Slot] = []
    for instruction in plan.step.body:
        if isinstance(instruction, Evaluate) and instruction.dst + "_map" in read:
            instruction = replace(instruction, map=instruction.dst + "_map")
            slots += [instruction.dst, instruction.dst + "_map"]
        elif instruction.dst in read & made.keys():
            slots.append(instruction.dst)
        body.append(instruction)
    outputs = dict(plan.step.outputs) | {slot: slot for slot in slots}
    step = replace(plan.step, body=tuple(body), outputs=tuple(outputs.items()))
    return KeptPlan(
        step=step,
        adjoint=adjoint,
        adjoint_dense=adjoint_dense,
        slots=tuple(slots),
        first=(first, first + "_map"),
        last=(last, last + "_map"),
    )


def _made(step: Program, stages: list[Slot]) -> dict[Slot, Instruction]:
    """What a transposed step need not make again: stages, and arrays that the step made alike.

    Numbers are made again: a step hands them on as the host has them.
    """
    kinds = step.kinds()
    made: dict[Slot, Instruction] = {
        instruction.dst: instruction
        for instruction in step.body
        if kinds[instruction.dst] in ("state", "real") and not isinstance(instruction, Evaluate)
    }
    return made | {stage: Evaluate(stage, 0, "h", stage) for stage in stages}


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
