"""The forward solve: attempt, decide, advance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ndereg.backends.base import Result
from ndereg.backends.host.local import Start
from ndereg.backends.host.machine import HostMachine, is_joint
from ndereg.backends.host.noise import medium
from ndereg.backends.host.outputs import Emission, open_outputs
from ndereg.backends.interpreter import Runners
from ndereg.plan.checkpoint import Checkpoints, Undone
from ndereg.plan.control import MEMORY, MEMORY_START, SPACING, remembers
from ndereg.plan.kept import FIRST, KeptPlan
from ndereg.spec.adjoint import Adjoint, Discrete, Reversible
from ndereg.spec.controller import CONTROL_PARAMETERS
from ndereg.spec.status import Status


@dataclass
class Row:
    """One attempt that some sample accepted; ``h`` is 0 for samples that did not.

    ``kept`` are the stages with their linearizations, by slot, and ``noise`` is what was drawn of
    the path, where there was memory for them.
    """

    t: Any
    h: Any
    emissions: list[Emission] = field(default_factory=list)
    kept: dict[str, Any] | None = None
    noise: dict[str, Any] | None = None


@dataclass(frozen=True)
class Keeping:
    """The programs of a :class:`ndereg.plan.kept.KeptPlan`, and for how many rows."""

    plan: KeptPlan
    runners: Runners
    rows: int


@dataclass
class Tape:
    """What the reverse pass needs of the forward one; noise is kept of ``noise_rows``."""

    checkpoints: Checkpoints[Any] | Undone
    keeping: Keeping | None = None
    noise_rows: int = 0
    rows: list[Row] = field(default_factory=list)
    start_emissions: list[Emission] = field(default_factory=list)
    t_end: Any = None
    y_end: Any = None
    naccept: Any = None
    picked: Any = None
    reductions: dict[str, Any] = field(default_factory=dict)


def open_tape(adjoint: Adjoint, keeping: Keeping | None = None, noise_rows: int = 0) -> Tape | None:
    """Return the tape of an adjoint that transposes the steps taken; None of the others."""
    if isinstance(adjoint, Discrete):
        return Tape(Checkpoints(adjoint.checkpoints), keeping, noise_rows)
    return Tape(Undone()) if isinstance(adjoint, Reversible) else None


def integrate(runners: Runners, machine: HostMachine, tape: Tape | None) -> Result:
    """Solve the machine's problem; ``tape`` collects what the discrete adjoint needs."""
    loop = _Loop(runners, machine, tape)
    loop.start()
    while loop.running:
        loop.attempt()
    return loop.finish()


class _Loop:
    """State of one solve."""

    def __init__(self, runners: Runners, machine: HostMachine, tape: Tape | None) -> None:
        problem = machine.problem
        self.runners, self.machine, self.problem, self.tape = runners, machine, problem, tape
        self.spec = problem.spec
        scalar, constant = machine.scalar, machine.constant
        self.direction = 1.0 if problem.t1 >= problem.t0 else -1.0
        self.values: dict[str, Any] = {
            name: constant(value)
            for name, value in zip(CONTROL_PARAMETERS, problem.parameters, strict=True)
        }
        self.values |= {
            "rtol": constant(problem.rtol),
            "atol": constant(problem.atol),
            "spacing": constant(SPACING),
            "max_steps": constant(float(problem.max_steps)),
            "direction": constant(self.direction),
            "span": constant(abs(problem.t1 - problem.t0)),
            "dt": constant(math.copysign(problem.dt, self.direction)),
            "first_step": constant(math.nan if problem.first_step is None else problem.first_step),
        }
        if problem.diffusion is not None:
            self.values["cell"] = constant(problem.diffusion.path.smallest)
            self.values |= medium(machine)
        alone = not remembers(problem.parameters)
        self.control = runners.control_alone if alone else runners.control
        self.memory = dict(zip(MEMORY, map(scalar, MEMORY_START), strict=True))
        self.t, self.t1 = scalar(problem.t0), scalar(problem.t1)
        self.y, self.k1 = problem.y0, None
        self.first_kept: dict[str, Any] = {}
        self.h: Any = scalar(0.0)
        self.status: Any = scalar(float(Status.RUNNING))
        self.nfev, self.nsteps, self.naccept = scalar(0.0), scalar(0.0), scalar(0.0)
        self.rows = 0
        self.reductions: dict[str, Any] = {}
        for i, term in enumerate(self.spec.terms):
            self.reductions[f"P{i}"] = machine.scalars_of(None)
            if term.reduce == "max":
                self.reductions[f"at{i}"] = machine.scalars_of(None) - 1.0
        self.outputs = open_outputs(runners, machine) if self.spec.dense else None
        self.picked: Start | None = None
        if runners.plan.pick is not None:
            self.picked = Start(self.t, self.y, row=scalar(-1.0), h=scalar(0.0))
            self.draws = machine.draws(problem.draws)
        self.recorded: list[tuple[Any, ...]] = []
        self.running = True
        self.noise: dict[str, Any] = {}
        self.standing_in: Any = None

    def start(self) -> None:
        """First stage, first step size, output times at the start."""
        machine, problem, scalar = self.machine, self.problem, self.machine.scalar
        if self.outputs is not None:
            emitted = self.outputs.at_start(self.y)
            if self.tape is not None:
                self.tape.start_emissions = emitted
        if problem.t0 == problem.t1:
            self.status = scalar(float(Status.SUCCESS))
            self.running = False
            return
        given = problem.first_step is not None or not self.spec.adaptive
        name = "first_given" if given else "first"
        values = {**self.values, "t": self.t, "y": self.y}
        keeping = self._keeping()
        runners = self.runners if keeping is None else keeping.runners
        started = getattr(runners, name)(machine, values)
        self.k1 = started.get("k1")
        if keeping is not None:
            self.first_kept = {slot: started[FIRST + slot] for slot in keeping.plan.opening}
        self.nfev = self.nfev + float(self.runners.evaluations(name))
        self.status = machine.read(started["status"])
        self.h = machine.read(started["h"])
        if self.spec.adaptive:  # a given step is one number for all; from now on each has its own
            self.h = self.h + self.t * 0.0
        running = self.status == float(Status.RUNNING)
        flags, _ = machine.summary([running] if is_joint(machine) else [running, ~running], [])
        self.running = flags[0]
        if all(flags) and not is_joint(machine):
            self.y = machine.stand_in(running, self.y)
            self.standing_in = ~running

    def attempt(self) -> None:
        """One attempted step of every running sample."""
        machine, control = self.machine, self.machine.control
        # programs read from one table, which is filled as the attempt goes on
        values = self.values
        values["h"], values["remaining"] = self.h, self.t1 - self.t
        begun = self.runners.begin(control, values)
        h, last = begun["h_try"], begun["last"]
        self.noise = machine.noise(self.t, h, self.rows)
        values.update(self.noise)
        values["t"], values["h"], values["y"], values["k1"] = self.t, h, self.y, self.k1
        keeping = self._keeping()
        step = (self.runners if keeping is None else keeping.runners).step(machine, values)
        # one read of the device: what is only recorded stays there
        decisive = "E" if self.spec.adaptive else "finite"
        values[decisive] = decided = machine.read(step[decisive])
        values.update(self.memory)
        values["last"], values["status"], values["attempts"] = last, self.status, self.nsteps
        decision = self.control(control, values)
        accept = decision["accept"]
        attempted = self.status == float(Status.RUNNING)
        if self.spec.record:
            self._record(h, {**step, decisive: decided}, accept, attempted)
        t_next = machine.select(accept, machine.select(last, self.t1, self.t + h), self.t)
        pending = [] if self.outputs is None else [self.outputs.pending(t_next)]
        running = decision["status"] == float(Status.RUNNING)
        (advanced, self.running), counts = machine.summary([accept, running], pending)
        if advanced:
            self._advance(h, t_next, step, accept, counts)
        evaluations = float(self.runners.evaluations("step"))
        self.nfev = self.nfev + machine.select(attempted, evaluations, 0.0)
        self.nsteps = self.nsteps + machine.select(attempted, 1.0, 0.0)
        self.naccept = self.naccept + machine.select(accept, 1.0, 0.0)
        self.t, self.h, self.status = t_next, decision["h_next"], decision["status"]
        self.memory = {name: decision.get(name, value) for name, value in self.memory.items()}

    def _advance(
        self, h: Any, t_next: Any, step: dict[str, Any], accept: Any, counts: list[int]
    ) -> None:
        machine = self.machine
        row = Row(self.t, machine.select(accept, h, 0.0))
        if self.reductions:
            values = {**self.reductions, **step, "accept": accept, "row": float(self.rows)}
            self.reductions = self.runners.accumulate(machine, values)
        if self.outputs is not None and counts[0]:
            row.emissions, used = self.outputs.emit(self.t, h, t_next, self.y, step, counts[0])
            self.nfev = self.nfev + used
        if self.picked is not None:
            self._pick(self.picked, h, accept)
        if self.tape is not None:
            self._keep(row, step)
            if self.rows < self.tape.noise_rows:
                row.noise = self.noise
            self.tape.checkpoints.offer(self.rows, self.y)
            self.tape.rows.append(row)
        self.rows += 1
        self.y = machine.select(accept, step["y1"], self.y)
        if "k_next" in step:
            self.k1 = machine.select(accept, step["k_next"], self.k1)

    def _keeping(self) -> Keeping | None:
        """Whether the linearizations of the next row are to be kept."""
        keeping = None if self.tape is None else self.tape.keeping
        return None if keeping is None or self.rows >= keeping.rows else keeping

    def _keep(self, row: Row, step: dict[str, Any]) -> None:
        keeping = self._keeping()
        if keeping is None:
            return
        plan = keeping.plan
        row.kept = self.first_kept | {slot: step[slot] for slot in plan.slots}
        self.first_kept = {first: step[last] for first, last in plan.carried}

    def _pick(self, picked: Start, h: Any, accept: Any) -> None:
        """Decide whether the step is the one that a local regularizer starts from."""
        machine = self.machine
        values = {**self.values, "h": h, "accept": accept, "count": self.naccept}
        values["uniform"] = self.draws
        decision = self.runners.pick(machine.control, values)
        pick, self.draws = decision["pick"], decision["uniform"]
        picked.t = machine.select(pick, self.t, picked.t)
        picked.y = machine.select(pick, self.y, picked.y)
        picked.row = machine.select(pick, float(self.rows), picked.row)
        picked.h = machine.select(pick, h, picked.h)

    def _record(self, h: Any, measured: dict[str, Any], accept: Any, attempted: Any) -> None:
        machine = self.machine
        error, stiffness = measured.get("E"), measured.get("S")
        values = [self.t, h, *(math.nan if v is None else v for v in (error, stiffness))]
        self.recorded.append((*(machine.select(attempted, v, math.nan) for v in values), accept))

    def _final(self) -> Any:
        """The state that each sample reached; one that never began has its own again."""
        if self.standing_in is None:
            return self.y
        return self.machine.select(self.standing_in, self.problem.y0, self.y)

    def finish(self) -> Result:
        machine = self.machine
        penalty = machine.scalars_of(None)
        if self.reductions:
            weights = {f"weight{i}": w for i, w in enumerate(self.problem.weights)}
            values = {**self.reductions, **weights, "naccept": self.naccept}
            penalty = self.runners.finish(machine, values)["penalty"]
        if self.tape is not None:
            self.tape.t_end, self.tape.y_end, self.tape.naccept = self.t, self.y, self.naccept
            if self.runners.plan.retreat is not None:  # not in the memory of the result
                self.tape.y_end = self.y + machine.zeros()
            self.tape.reductions = self.reductions
            if self.picked is not None:
                self.tape.picked = self.picked.row
        steps = None
        if self.spec.record:
            columns = list(zip(*self.recorded, strict=True)) or [()] * 5
            steps = tuple(machine.column(column) for column in columns)
        return Result(
            ys=self._final() if self.outputs is None else self.outputs.ys,
            penalty=machine.vector(penalty),
            nfev=machine.counter(self.nfev),
            nsteps=machine.counter(self.nsteps),
            naccept=machine.counter(self.naccept),
            status=machine.counter(self.status),
            steps=steps,
            t=self.t,
            picked=self.picked,
        )
