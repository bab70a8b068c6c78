"""Steps whose linearizations are kept, instead of made again, where there is memory for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ndereg.plan.lower import Plan
from ndereg.plan.program import Evaluate, Kind, Program, Slot


@dataclass(frozen=True)
class KeptPlan:
    """The step and its transpose with the field's linearizations handed from one to the other.

    Attributes
    ----------
    step : Program
        The step of the plan; the stages that the transposed programs read, with their maps, are
        outputs as well.
    adjoint, adjoint_dense : Program or None
        The transposed programs of the plan, whose evaluations are inputs.
    slots : tuple of Slot
        Values and maps that the step makes for its transpose.
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
    """Return the programs that keep linearizations; None for a plan without a discrete adjoint."""
    if plan.adjoint is None:
        return None
    stages = [f"k{i + 1}" for i in range(plan.spec.tableau.stages)]
    first, last = stages[0], stages[-1]
    adjoint = _given(plan.adjoint, stages)
    adjoint_dense = None if plan.adjoint_dense is None else _given(plan.adjoint_dense, stages)
    read = {slot for program in (adjoint, adjoint_dense) if program for slot, _ in program.inputs}
    body = []
    outputs = dict(plan.step.outputs)
    slots: list[Slot] = []
    for instruction in plan.step.body:
        if isinstance(instruction, Evaluate):
            map_ = instruction.dst + "_map"
            carried = plan.carried and instruction.dst == last
            if map_ in read or carried:
                instruction = replace(instruction, map=map_)
                slots += [instruction.dst, map_]
                outputs |= {instruction.dst: instruction.dst, map_: map_}
        body.append(instruction)
    step = replace(plan.step, body=tuple(body), outputs=tuple(outputs.items()))
    return KeptPlan(
        step=step,
        adjoint=adjoint,
        adjoint_dense=adjoint_dense,
        slots=tuple(slots),
        first=(first, first + "_map"),
        last=(last, last + "_map"),
    )


def _given(program: Program, stages: list[Slot]) -> Program:
    """Return the program with its evaluations of stages as inputs, values and maps."""
    inputs = list(program.inputs)
    body = []
    for instruction in program.body:
        if isinstance(instruction, Evaluate) and instruction.map and instruction.dst in stages:
            given: list[tuple[Slot, Kind]] = [(instruction.dst, "state"), (instruction.map, "map")]
            inputs += given
        else:
            body.append(instruction)
    return Program(program.name, tuple(inputs), tuple(body), program.outputs).pruned()
