"""Backends with one defect each, made of the reference by editing its programs or its loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ndereg.backends.host.loop import Tape, _Loop
from ndereg.backends.host.reverse import pull_back
from ndereg.backends.interpreter import Runners
from ndereg.backends.reference.backend import ReferenceBackend, ReferenceSolver
from ndereg.plan.checkpoint import Checkpoints
from ndereg.plan.lower import Plan, lower
from ndereg.plan.program import Apply, Combine, Instruction, Program, Pullback
from ndereg.spec.tableau import Tableau

Edit = Callable[[Program], Program]


def every_step(plan: Plan, edit: Edit) -> Plan:
    """The step in all its forms, so that only a comparison with others can show the defect."""
    return changed(plan, edit, "step", "replay", "adjoint", "adjoint_dense")


def changed(plan: Plan, edit: Edit, *names: str) -> Plan:
    programs = plan.programs()
    return replace(plan, **{name: edit(programs[name]) for name in names if name in programs})


def instruction_by_instruction(change: Callable[[Instruction], Instruction]) -> Edit:
    return lambda program: replace(program, body=tuple(map(change, program.body)))


def wrong_coefficient(plan: Plan) -> Plan:
    """A coefficient of the tableau is off in the tenth digit."""

    def change(instruction: Instruction) -> Instruction:
        match instruction:
            case Combine(dst=("g3" | "y1"), base="y", terms=(*rest, (scale, coefficient, slot))):
                wrong = float(coefficient) * (1 + 1e-10)
                return replace(instruction, terms=(*rest, (scale, wrong, slot)))
        return instruction

    return every_step(plan, instruction_by_instruction(change))


def swapped_rows(plan: Plan) -> Plan:
    """The embedded solution is propagated."""
    t = plan.spec.tableau
    if t.b_embedded is None:
        return plan
    swapped = Tableau(
        t.name,
        t.embedded_order,
        t.a,
        t.b_embedded,
        t.c,
        b_embedded=t.b,
        embedded_order=t.order,
        error_order=t.error_order,
    )
    return lower(replace(plan.spec, tableau=swapped))


def error_without_h(plan: Plan) -> Plan:
    """The error estimate is not multiplied by the step size."""

    def change(instruction: Instruction) -> Instruction:
        match instruction:
            case Combine(dst="e", terms=terms):
                bare = tuple((None, coefficient, slot) for _, coefficient, slot in terms)
                return replace(instruction, terms=bare)
        return instruction

    return every_step(plan, instruction_by_instruction(change))


def penalty_with_signed_h(plan: Plan) -> Plan:
    """``E h`` instead of ``E |h|``."""

    def change(instruction: Instruction) -> Instruction:
        if isinstance(instruction, Apply) and (instruction.op, instruction.srcs) == ("abs", ("h",)):
            return replace(instruction, op="mul", srcs=("h", 1.0))
        return instruction

    return every_step(plan, instruction_by_instruction(change))


def transposed_off_by_one(plan: Plan) -> Plan:
    """Every pullback takes the linearization of the stage before."""

    def edit(program: Program) -> Program:
        maps = [
            i.map for i in program.body if getattr(i, "map", None) and not isinstance(i, Pullback)
        ]

        def change(instruction: Instruction) -> Instruction:
            if isinstance(instruction, Pullback) and instruction.map in maps:
                before = maps[max(maps.index(instruction.map) - 1, 0)]
                return replace(instruction, map=before)
            return instruction

        return instruction_by_instruction(change)(program)

    return changed(plan, edit, "adjoint", "adjoint_dense")


def transposed_wrong_weight(plan: Plan) -> Plan:
    """One coefficient of the transposed step alone is off."""

    def edit(program: Program) -> Program:
        places = [
            n
            for n, i in enumerate(program.body)
            if isinstance(i, Combine)
            and i.dst.endswith("_bar")
            and any(scale == "h" for scale, _, _ in i.terms)
        ]
        body = list(program.body)
        if places:
            wrong: Any = body[places[0]]
            (scale, coefficient, slot), *rest = wrong.terms
            body[places[0]] = replace(
                wrong, terms=((scale, float(coefficient) * (1 + 1e-9), slot), *rest)
            )
        return replace(program, body=tuple(body))

    return changed(plan, edit, "adjoint", "adjoint_dense")


def interpolant_rows_swapped(plan: Plan) -> Plan:
    """Two coefficients of the interpolant change places."""

    def edit(program: Program) -> Program:
        (q0, a), (q1, b), *rest = program.outputs
        return replace(program, outputs=((q0, b), (q1, a), *rest))

    return changed(plan, edit, "dense")


class Unchanged(_Loop):
    pass


class StageReusedAfterRejection(_Loop):
    """After a rejection the next attempt begins with the last stage of the rejected one."""

    def attempt(self) -> None:
        before, step = float(np.sum(self.naccept)), self.runners.step
        seen: dict[str, Any] = {}

        def watched(machine: Any, values: Any) -> Any:
            seen.update(step(machine, values))
            return seen

        self.runners = _With(self.runners, step=watched)
        super().attempt()
        self.runners = self.runners.runners
        if float(np.sum(self.naccept)) == before and "k_next" in seen:
            self.k1 = seen["k_next"]


class PenaltyOnRejectedSteps(_Loop):
    """Rejected steps are added to the penalty."""

    def attempt(self) -> None:
        before, step = float(np.sum(self.naccept)), self.runners.step
        seen: dict[str, Any] = {}

        def watched(machine: Any, values: Any) -> Any:
            seen.update(step(machine, values))
            return seen

        self.runners = _With(self.runners, step=watched)
        super().attempt()
        self.runners = self.runners.runners
        if float(np.sum(self.naccept)) == before and self.reductions:
            values = {**self.reductions, **seen, "accept": True, "row": float(self.rows)}
            self.reductions = self.runners.accumulate(self.machine, values)


class _With:
    """Runners, one of them replaced."""

    def __init__(self, runners: Any, **replaced: Any) -> None:
        self.runners = runners
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["runners"], name)


class FreshNoiseAfterRejection(_Loop):
    """A rejected step is tried again on other noise."""

    def attempt(self) -> None:
        before, sound = float(np.sum(self.naccept)), self.machine
        if getattr(self, "rejected", False):
            self.machine = _With(sound, noise=lambda *given: _turned(sound.noise(*given)))
        super().attempt()
        self.machine = sound
        self.rejected = float(np.sum(self.naccept)) == before


def _turned(noise: dict[str, Any]) -> dict[str, Any]:
    return {name: -value for name, value in noise.items()}


class CheckpointsOffByOne(Checkpoints):
    """The reverse pass takes the state of the row after."""

    def backwards(self, rows: int, advance: Any, unread: int = 0) -> Iterator[tuple[int, Any]]:
        later = None
        for row, state in super().backwards(rows, advance, unread):
            yield row, state if later is None else later
            later = state


class Broken(ReferenceBackend):
    def __init__(
        self, name: str, edit: Any = None, loop: Any = Unchanged, checkpoints: Any = Checkpoints
    ) -> None:
        self.name = name
        self.edit, self.loop, self.checkpoints = edit, loop, checkpoints

    def brownian(self, *given: Any) -> Any:
        path = super().brownian(*given)
        if self.name == "misnumbered":  # the noise of a fixed mesh is that of the step after
            direct = path.direct
            path.direct = lambda step, h, entries: direct(step + 1, h, entries)
        return path

    def compile(self, plan: Plan) -> BrokenSolver:
        return BrokenSolver(self, plan if self.edit is None else self.edit(plan))


class BrokenSolver(ReferenceSolver):
    def __init__(self, backend: Broken, plan: Plan) -> None:
        self.backend = backend
        self.runners = Runners(plan)

    def integrate(self, problem: Any, tape: Tape | None) -> Any:
        loop = self.backend.loop(self.runners, self.machine(problem), tape)
        with np.errstate(all="ignore"):
            loop.start()
            while loop.running:
                loop.attempt()
            return loop.finish()

    def solve(self, problem: Any) -> Any:
        return self.integrate(problem, None)

    def solve_vjp(self, problem: Any) -> Any:
        vjps = [self.field_pullback(problem)]
        if problem.diffusion is not None and problem.diffusion.field is not None:
            vjps.append(self.field_pullback(problem, "diffusion"))
        tape = Tape(self.backend.checkpoints(problem.spec.adjoint.checkpoints))
        result = self.integrate(problem, tape)

        def pullback(ys_bar: Any, penalty_bar: Any) -> Any:
            machine = self.machine(problem, *vjps)
            with np.errstate(all="ignore"):
                y0_bar = pull_back(self.runners, machine, tape, ys_bar, penalty_bar)
            return y0_bar, [np.asarray(bar) for bar in machine.args_bar]

        return result, pullback


DEFECTS: dict[str, tuple[Broken, str]] = {
    "none": (Broken("sound"), ""),
    "wrong coefficient": (Broken("wrong coefficient", wrong_coefficient), "adaptive"),
    "b and b-hat swapped": (Broken("swapped", swapped_rows), "adaptive"),
    "missing h": (Broken("missing h", error_without_h), "error estimate"),
    "signed h": (Broken("signed h", penalty_with_signed_h), "error estimate"),
    "FSAL stage reused after a rejection": (
        Broken("reused", loop=StageReusedAfterRejection), "adaptive"
    ),
    "penalty counted on rejected steps": (
        Broken("counted", loop=PenaltyOnRejectedSteps), "penalty of the error"
    ),
    "transposed program off by one row": (
        Broken("off by one", transposed_off_by_one), "constant steps"
    ),
    "transposed program with another weight": (
        Broken("weight", transposed_wrong_weight), "constant steps"
    ),
    "checkpoints off by one row": (
        Broken("checkpoints", checkpoints=CheckpointsOffByOne), "checkpoints"
    ),
    "fresh noise after a rejection": (
        Broken("fresh", loop=FreshNoiseAfterRejection), "diagonal noise"
    ),
    "noise of a fixed mesh misnumbered": (Broken("misnumbered"), "scalar noise"),
    "interpolant rows swapped": (
        Broken("interpolant", interpolant_rows_swapped), "output times"
    ),
}  # fmt: skip
"""Each backend, and the check that has to fail on it."""
