"""A specification lowered to the programs that a backend runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from ndereg.plan.builder import Builder, Value
from ndereg.plan.control import (
    accumulate_program,
    begin_program,
    control_program,
    finish_program,
    seed_program,
)
from ndereg.plan.langevin import HALVES
from ndereg.plan.local import LocalPlan, local_plan, pick_program
from ndereg.plan.observables import Stages, record_interpolant
from ndereg.plan.program import Evaluate, Program, Slot
from ndereg.plan.reversible import handed_on, retreat_program
from ndereg.plan.start import first_program
from ndereg.plan.step import measured, record_step
from ndereg.plan.stochastic import INCREMENTS
from ndereg.plan.transpose import transpose
from ndereg.spec.adjoint import Discrete, Reversible
from ndereg.spec.spec import Spec
from ndereg.spec.stochastic import StochasticMethod
from ndereg.spec.tableau import Tableau


@dataclass(frozen=True)
class Plan:
    """The programs of a solve.

    Attributes
    ----------
    spec : Spec
        What was lowered.
    first, first_given : Program
        ``(t, y) -> status, h, k1``; without ``h`` where the first step size is given.
    begin : Program
        ``(h, remaining) -> h_try, last``.
    step : Program
        ``(t, h, y[, k1], rtol, atol) -> y1[, k_next][, E][, S][, finite][, r0, ...]`` and, where
        output times are asked for, the stages ``k1, k2, ...`` that ``dense`` reads.
    control, control_alone : Program
        The decision about an attempt; the second one for a controller that does not remember
        earlier steps.
    accumulate, finish, seed : Program
        The penalty over the steps, and its cotangents.
    dense : Program or None
        ``stages -> Q0, ..., Qd``, the interpolant of an accepted step.
    read : Program or None
        ``(y, theta, Q0, ..., Qd) -> y_theta``. Between the times of a stochastic step no polynomial
        has the law of the solution; a shorter step of the method on the same path has it:
        ``(t, h, y, W, ...) -> y_theta`` with ``h`` from the start of the step to the output.
    replay : Program
        ``(t, h, y) -> y1``, to recompute states between checkpoints.
    retreat : Program or None
        ``(t, h, y) -> y0``, the state at the start of a step from the one at its end.
    adjoint, adjoint_dense : Program or None
        The step transposed, without and with cotangents of the interpolant:
        ``(t, h, y, rtol, atol, y1_bar, r0_bar, ..., Q0_bar, ...) -> y_bar``. Where a stage is
        ``shared``, the last stage ``k<s>`` with its map and ``k_next_bar`` (what the later step
        left for it) are inputs as well, and ``k1``, ``k1_map`` and ``k1_bar`` are outputs, for the
        step before.
    read_adjoint : Program or None
        ``(theta, y_theta_bar) -> y_bar, Q0_bar, ...``; of a stochastic step its transpose.
    pick : Program or None
        ``(accept, count, uniform) -> pick, uniform``, one of the accepted steps at random.
    local : LocalPlan or None
        The extra step of a local regularizer.
    carried : bool
        The last stage of a step is the first of the next one (FSAL): ``step`` takes ``k1``.
    shared : bool
        The adjoint shares that stage between two steps as well. It is false where no output reads
        the last stage, which then is dropped.
    noise : tuple of str
        What ``step``, ``read``, ``replay`` and their transposes ask of the Brownian path over the
        step: of ``W``, ``H`` and ``K``, with a 1 or a 2 those over one of its halves.
    """

    spec: Spec
    first: Program
    first_given: Program
    begin: Program
    step: Program
    control: Program
    control_alone: Program
    accumulate: Program
    finish: Program
    seed: Program
    dense: Program | None
    read: Program | None
    replay: Program
    retreat: Program | None
    adjoint: Program | None
    adjoint_dense: Program | None
    read_adjoint: Program | None
    pick: Program | None
    local: LocalPlan | None
    carried: bool
    shared: bool
    noise: tuple[str, ...]

    @property
    def halved(self) -> bool:
        """A step takes two of half its size, and asks for the path over both."""
        return any(name in HALVES for name in self.noise)

    def programs(self) -> dict[str, Program]:
        """All programs by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Program)}


@lru_cache(maxsize=256)
def lower(spec: Spec) -> Plan:
    """Lower a specification; equal specifications share one plan."""
    tableau = spec.tableau
    paired = isinstance(tableau, StochasticMethod) and tableau.pairs
    carried = tableau.fsal and (spec.noise is None or handed_on(spec.noise.coupling))
    step, recorded = _step(spec, carried)
    dense = read = read_adjoint = None
    if spec.dense and spec.noise is not None:
        read = _shorter_step(spec)
        read_adjoint = transpose(read, [(dict(read.outputs)["y_theta"], "y_theta_bar")], ["y"])
    elif spec.dense:
        assert isinstance(tableau, Tableau)
        dense = _dense(spec, recorded)
        read = _read(len(tableau.dense_weights[0]))
        wrt = [slot for slot, kind in read.inputs if kind == "state"]
        out = read.output("y_theta")
        assert out is not None
        read_adjoint = transpose(read, [(out, "y_theta_bar")], wrt)
    adjoint = adjoint_dense = None
    shared = False
    if isinstance(spec.adjoint, (Discrete, Reversible)):
        shared = carried and not paired and (bool(spec.terms) or spec.dense)
        adjoint = _adjoint(spec, shared, with_dense=False)
        adjoint_dense = None if dense is None else _adjoint(spec, shared, with_dense=True)
    local = local_plan(spec)
    read_inputs = {slot for slot, _ in step.inputs}
    if local is not None:
        read_inputs |= {slot for slot, _ in local.step.inputs}
    return Plan(
        spec=spec,
        first=first_program("automatic", carried, spec.adaptive, tableau, spec.noise),
        first_given=first_program("given", carried, spec.adaptive, tableau, spec.noise),
        begin=begin_program(spec.adaptive),
        step=step,
        control=control_program(spec.adaptive, stochastic=spec.noise is not None),
        control_alone=control_program(
            spec.adaptive, remembers=False, stochastic=spec.noise is not None
        ),
        accumulate=accumulate_program(spec.terms),
        finish=finish_program(spec.terms),
        seed=seed_program(spec.terms),
        dense=dense,
        read=read,
        replay=_replay(spec),
        retreat=_retreat(spec),
        adjoint=adjoint,
        adjoint_dense=adjoint_dense,
        read_adjoint=read_adjoint,
        pick=None if spec.local is None else pick_program(spec.local),
        local=local,
        carried=carried,
        shared=shared,
        noise=tuple(name for name in (*INCREMENTS, *HALVES) if name in read_inputs),
    )


def _step(spec: Spec, carried: bool) -> tuple[Program, Stages]:
    builder = Builder()
    seen = record_step(builder, spec, carried)
    stages = seen.stages
    outputs: dict[str, Value | Slot] = {"y1": stages.y1}
    if carried:
        outputs["k_next"] = stages.k[-1]
    if spec.adaptive or (spec.record and measured(spec)):
        outputs["E"] = seen.error
    if spec.record and spec.tableau.stiffness_pair is not None:
        outputs["S"] = seen.stiffness
    if not spec.adaptive:
        outputs["finite"] = seen.finite
    for i, term in enumerate(spec.terms):
        outputs[f"r{i}"] = term.value(seen)
    if spec.dense and spec.noise is None:
        for slot in _dense(spec, stages).inputs:
            if slot[0] in stages.k:
                outputs[slot[0]] = slot[0]
    return builder.program("step", outputs), stages


def _dense(spec: Spec, stages: Stages) -> Program:
    assert isinstance(spec.tableau, Tableau)
    builder = Builder()
    builder.input("t", "scalar")
    builder.input("h", "scalar")
    builder.input("y", "state")
    for slot in stages.k:
        builder.input(slot, "state")
    coefficients = record_interpolant(builder, spec.tableau, stages)
    return builder.program("dense", {f"Q{p}": slot for p, slot in enumerate(coefficients)})


def _read(degree: int) -> Program:
    """Horner's rule for ``y + Q0 + s (Q1 + s (Q2 + ...))`` with ``s = 2 theta - 1``."""
    builder = Builder()
    s = (builder.input("theta", "scalar") * 2.0 - 1.0).named("s").slot
    y = builder.input("y", "state").slot
    value = builder.input(f"Q{degree}", "state").slot
    for p in range(degree - 1, -1, -1):
        lower_order = builder.input(f"Q{p}", "state").slot
        value = builder.combine("v", lower_order, ((s, 1, value),))
    out = builder.combine("y_theta", y, ((None, 1, value),))
    return builder.program("read", {"y_theta": out})


def _replay(spec: Spec) -> Program:
    builder = Builder()
    stages = record_step(builder, spec, carried=False).stages
    return builder.program("replay", {"y1": stages.y1})


def _retreat(spec: Spec) -> Program | None:
    if not isinstance(spec.adjoint, Reversible):
        return None
    assert spec.noise is not None
    return retreat_program(spec.noise)


def _shorter_step(spec: Spec) -> Program:
    builder = Builder()
    stages = record_step(builder, spec, carried=False).stages
    return builder.program("read", {"y_theta": stages.y1})


def _adjoint(spec: Spec, shared: bool, with_dense: bool) -> Program:
    """The transposed step; a shared last stage is given, and the first one handed on."""
    builder = Builder()
    seen = record_step(builder, spec, carried=False)
    stages = seen.stages
    outputs: dict[str, Value | Slot] = {"y1": stages.y1}
    seeds: list[tuple[Slot, Slot]] = [(stages.y1, "y1_bar")]
    for i, term in enumerate(spec.terms):
        value = outputs[f"r{i}"] = term.value(seen)
        seeds.append((value.slot, f"r{i}_bar"))
    if with_dense:
        assert isinstance(spec.tableau, Tableau)
        for p, slot in enumerate(record_interpolant(builder, spec.tableau, stages)):
            outputs[f"Q{p}"] = slot
            seeds.append((slot, f"Q{p}_bar"))
    if not shared:
        return transpose(builder.program("step", outputs), seeds, ["y"])
    first, last = stages.k[0], stages.k[-1]
    outputs |= {"k1": first, "k_next": last}
    seeds.append((last, "k_next_bar"))
    return _shared_transpose(builder.program("step", outputs), seeds, first, last)


def _shared_transpose(
    program: Program, seeds: list[tuple[Slot, Slot]], first: Slot, last: Slot
) -> Program:
    """Transpose with the first stage's pullback left to the step before.

    The first stage becomes an input of the differentiated program, so that its cotangent is an
    output; its evaluation is put back in front, with its map.
    """
    head = next(i for i in program.body if i.dst == first)
    assert isinstance(head, Evaluate)
    rest = tuple(i for i in program.body if i is not head)
    opened = replace(program, inputs=(*program.inputs, (first, "state")), body=rest)
    # keep the evaluations that were given by the later step out of the recomputation
    transposed = transpose(opened, seeds, ["y", first], given=(last,))
    mapped = replace(head, map=first + "_map")
    return Program(
        transposed.name,
        tuple(item for item in transposed.inputs if item[0] != first),
        (mapped, *transposed.body),
        (*transposed.outputs, ("k1", first), ("k1_map", first + "_map")),
    ).pruned()
