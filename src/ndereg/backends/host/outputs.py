"""Output times, answered from the interpolant of accepted steps.

A time belongs to the accepted step that ends at or after it; a time equal to the end of a step is
the new state itself, one equal to the start of the span is ``y0``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ndereg.backends.host.machine import HostMachine, is_joint
from ndereg.backends.interpreter import Runners


@dataclass
class Emission:
    """One output of every sample that has one in a step.

    ``index`` is the position among the output times; ``theta`` the share of the step passed;
    ``at_end`` whether it is the end of the step; ``present`` which samples have an output here.
    """

    index: Any
    theta: Any
    at_end: Any
    present: Any


class Outputs(Protocol):
    """Output times of a solve, joint or one row a sample."""

    ys: Any

    def at_start(self, y0: Any) -> list[Emission]:
        """Answer the times equal to the start."""

    def pending(self, t_next: Any) -> Any:
        """How many unanswered times lie up to ``t_next``."""

    def emit(
        self, t: Any, h: Any, t_next: Any, y: Any, step: dict[str, Any], most: int
    ) -> tuple[list[Emission], Any]:
        """Answer the pending times; return them and the evaluations this took."""


def open_outputs(runners: Runners, machine: HostMachine) -> Outputs:
    """Outputs for the machine's problem."""
    return JointOutputs(runners, machine) if is_joint(machine) else SampleOutputs(runners, machine)


class JointOutputs:
    """Output times of one joint sample, on Python floats."""

    def __init__(self, runners: Runners, machine: HostMachine) -> None:
        problem = machine.problem
        self._runners, self._machine = runners, machine
        self._times = [float(time) for time in problem.t_eval.reshape(-1)]
        self._direction = 1.0 if problem.t1 >= problem.t0 else -1.0
        self._t0 = float(problem.t0)
        self._next = 0
        self.ys = machine.blank(len(self._times))

    def at_start(self, y0: Any) -> list[Emission]:
        emitted = []
        while self._next < len(self._times) and self._times[self._next] == self._t0:
            self.ys[:, self._next, ...] = y0
            emitted.append(Emission(self._next, 0.0, False, True))
            self._next += 1
        return emitted

    def pending(self, t_next: float) -> int:
        stop = self._next
        while stop < len(self._times) and (self._times[stop] - t_next) * self._direction <= 0:
            stop += 1
        return stop - self._next

    def emit(
        self, t: float, h: float, t_next: float, y: Any, step: dict[str, Any], most: int
    ) -> tuple[list[Emission], float]:
        emitted: list[Emission] = []
        runners, machine = self._runners, self._machine
        interpolant: dict[str, Any] | None = None
        evaluations = 0.0
        for index in range(self._next, self._next + most):
            time = self._times[index]
            theta = (time - t) / h
            if time == t_next:
                self.ys[:, index, ...] = step["y1"]
            else:
                if interpolant is None:
                    values = {**step, "t": t, "h": h, "y": y}
                    interpolant = interpolate(runners, machine, values)
                    evaluations = float(runners.evaluations("dense"))
                values = {**interpolant, "y": y, "theta": theta}
                values |= shorter_step(runners, machine, t, theta, h)
                self.ys[:, index, ...] = runners.read(machine, values)["y_theta"]
                evaluations += float(runners.evaluations("read"))
            emitted.append(Emission(index, theta, time == t_next, True))
        self._next += most
        return emitted, evaluations


class SampleOutputs:
    """Output times where every sample has its own steps; each sample has a position of its own."""

    def __init__(self, runners: Runners, machine: Any) -> None:
        problem = machine.problem
        self._runners, self._machine = runners, machine
        self._direction = 1.0 if problem.t1 >= problem.t0 else -1.0
        self._times = machine.sample_times(problem.t_eval)
        self._t0 = machine.scalar(problem.t0)
        self._next = machine.positions()
        self.ys = machine.blank(int(problem.t_eval.shape[-1]))

    def at_start(self, y0: Any) -> list[Emission]:
        machine = self._machine
        emitted = []
        most = machine.summary([], [machine.count(self._times == self._t0)])[1][0]
        for _ in range(most):
            index, time, present = machine.next_time(self._times, self._next)
            present = present & (time == self._t0)
            self.ys = machine.put(self.ys, index, present, y0)
            emitted.append(Emission(index, time * 0.0, present & False, present))
            self._next = machine.advance_positions(self._next, present)
        return emitted

    def pending(self, t_next: Any) -> Any:
        passed = self._machine.count((self._times - t_next) * self._direction <= 0)
        return passed - self._next

    def emit(
        self, t: Any, h: Any, t_next: Any, y: Any, step: dict[str, Any], most: int
    ) -> tuple[list[Emission], Any]:
        machine, runners = self._machine, self._runners
        interpolant = interpolate(runners, machine, {**step, "t": t, "h": h, "y": y})
        emitted: list[Emission] = []
        interior: Any = None
        used: Any = 0.0
        for _ in range(most):
            index, time, present = machine.next_time(self._times, self._next)
            present = present & ((time - t_next) * self._direction <= 0)
            at_end = present & (time == t_next)
            theta = machine.select(present, (time - t) / machine.select(h == 0, 1.0, h), 0.0)
            values = {**interpolant, "y": y, "theta": theta}
            values |= shorter_step(runners, machine, t, theta, h)
            value = runners.read(machine, values)["y_theta"]
            self.ys = machine.put(
                self.ys, index, present, machine.select(at_end, step["y1"], value)
            )
            inside = present & ~at_end
            interior = inside if interior is None else interior | inside
            used = used + machine.select(inside, float(runners.evaluations("read")), 0.0)
            emitted.append(Emission(index, theta, at_end, present))
            self._next = machine.advance_positions(self._next, present)
        dense = float(runners.evaluations("dense"))
        return emitted, used + machine.select(interior, dense, 0.0)


def interpolate(runners: Runners, machine: HostMachine, values: dict[str, Any]) -> dict[str, Any]:
    """Coefficients of the interpolant of a step; none where outputs are shorter steps."""
    if runners.plan.dense is None:
        return {}
    found: dict[str, Any] = runners.dense(machine, values)
    return found


def shorter_step(
    runners: Runners, machine: HostMachine, t: Any, theta: Any, h: Any
) -> dict[str, Any]:
    """What the step of a stochastic equation to an output reads: its place and its noise."""
    if runners.plan.dense is not None:
        return {}
    shorter = theta * h
    return {"t": t, "h": shorter, **machine.noise(t, shorter, 0)}
