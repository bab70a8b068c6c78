"""The extra step of a local regularizer, on the arrays of eager frameworks.

The solve hands on where the step starts: a random time of its interpolant, or the start of one of
its steps. What then counts as constant of the gradient is kept here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ndereg.backends.base import Problem, Result
from ndereg.backends.host.machine import HostMachine, is_joint
from ndereg.backends.insertion import insert, remove, with_time
from ndereg.backends.interpreter import Runner, Runners
from ndereg.plan.lower import Plan
from ndereg.plan.program import Program
from ndereg.spec.controller import CONTROL_PARAMETERS
from ndereg.spec.status import Status

_STATES = ("y", "k1")


@dataclass
class Start:
    """Where the extra step of every sample starts.

    Attributes
    ----------
    t : control scalar
    y : array (B, n)
    row, h : control scalar or None
        Of a step of the solve: its row of the tape, and its size.
    """

    t: Any
    y: Any
    row: Any = None
    h: Any = None


@dataclass
class Taken:
    """A step that was taken: its constants, and which samples took one."""

    values: dict[str, Any]
    ok: Any


def local_runners(plan: Plan, make: Callable[[Program], Any] = Runner) -> Runners | None:
    """Programs of the extra step, ready to run; None where there is none."""
    return None if plan.local is None else Runners(plan.local, make)


class ExtraStep:
    """The extra step of one solve; of a solve without one, the solve as it is.

    Parameters
    ----------
    xp : module
        ``numpy`` or ``torch``.
    runners : Runners or None
        Of :func:`local_runners`.
    problem : Problem
        As it was asked for.

    Attributes
    ----------
    opened : Problem
        What is to be solved: with the random times among the output times, unless the solve is to
        pick one of its own steps.
    """

    def __init__(self, xp: Any, runners: Runners | None, problem: Problem) -> None:
        self.opened = self._problem = problem
        self._xp, self._runners = xp, runners
        self._position: Any = None
        self.taken: Taken | None = None
        if problem.spec.local is not None and not problem.spec.local.picks:
            draws = np.asarray(problem.draws).reshape(problem.layout.samples, 1)
            t0, t1 = problem.t0, problem.t1
            self._time = np.clip(t0 + draws * (t1 - t0), min(t0, t1), max(t0, t1))
            self.opened, self._position = self._with_time(self._time)

    def _with_time(self, time: Any) -> tuple[Problem, Any]:
        problem = self._problem
        direction = 1.0 if problem.t1 >= problem.t0 else -1.0
        t_eval, position = with_time(problem.t_eval, problem.t1, time, direction)
        return replace(problem, t_eval=t_eval), position

    def close(self, machine: Callable[[], HostMachine], result: Result) -> Result:
        """Take the step; turn the result of ``opened`` into that of the problem."""
        if self._runners is None:
            return result
        problem, joint = self._problem, self._problem.layout.batch is None
        ready = machine()
        self._shape = ready.blank(1).shape
        start = result.picked
        if self._position is not None:
            ys, y = remove(self._xp, self._placed(self._position, result.ys), result.ys)
            time: Any = float(self._time[0, 0]) if joint else ready.draws(self._time)
            start = Start(time, y.reshape(problem.y0.shape))
            if problem.t_eval is None:
                ys = ys.reshape(problem.y0.shape)
            result = replace(result, ys=ys)
        penalty, evaluations, self.taken = take_step(self._runners, ready, start)
        return replace(
            result,
            penalty=result.penalty + penalty,
            nfev=result.nfev + ready.counter(evaluations),
            picked=None,
        )

    def pull(self, machine: HostMachine, penalty_bar: Any) -> Any:
        """Return the cotangent of the state the step starts from, None where there is none."""
        if self._runners is None or self.taken is None:
            return None
        return pull_step(self._runners, machine, self.taken, penalty_bar)

    def among_outputs(self, ys_bar: Any, state_bar: Any) -> tuple[Any, Any]:
        """Return the cotangents of the outputs of ``opened`` and of the step that it picked."""
        if self._position is None:
            return ys_bar, state_bar
        return self._inserted(ys_bar, state_bar), None

    def interrupted(self, ys: Any, ys_bar: Any, state_bar: Any) -> tuple[Problem, Any, Any]:
        """Return what the continuous adjoint integrates through: problem, outputs, cotangents."""
        if state_bar is None:
            return self._problem, ys, ys_bar
        assert self.taken is not None
        values = self.taken.values
        problem, self._position = self._with_time(np.full((1, 1), values["t"]))
        return problem, self._inserted(ys, values["y"]), self._inserted(ys_bar, state_bar)

    def take_states(self) -> list[Any]:
        """Hand over the arrays that :meth:`pull` reads, for the caller to keep."""
        if self.taken is None:
            return []
        return [self.taken.values.pop(name) for name in _STATES]

    def give_states(self, states: Sequence[Any]) -> None:
        """Take back what :meth:`take_states` handed over."""
        if self.taken is not None:
            self.taken.values |= dict(zip(_STATES, states, strict=True))

    def _inserted(self, ys: Any, value: Any) -> Any:
        samples, _, *entries = self._shape
        if self._problem.t_eval is None:
            ys = ys.reshape((samples, 1, *entries))
        if value is None:
            value = self._xp.zeros_like(ys[:, :1])
        value = value.reshape((samples, 1, *entries))
        return insert(self._xp, self._placed(self._position, ys), ys, value)

    def _placed(self, position: Any, like: Any) -> Any:
        xp = self._xp
        return position if xp is np else xp.as_tensor(position, device=like.device)


def take_step(
    runners: Runners, machine: HostMachine, start: Start
) -> tuple[Any, Any, Taken | None]:
    """Return the penalty (B,) of the extra step, its evaluations, and what its reverse pass reads.

    A sample whose solution is not known there has the penalty nan, and no gradient.
    """
    problem = machine.problem
    joint = is_joint(machine)
    direction = 1.0 if problem.t1 >= problem.t0 else -1.0
    span = (problem.t1 - start.t) * direction
    if problem.t0 == problem.t1:
        return machine.vector(machine.scalars_of(None)), machine.scalar(0.0), None
    constants = dict(zip(CONTROL_PARAMETERS, problem.parameters, strict=True))
    constants |= {"rtol": problem.rtol, "atol": problem.atol, "direction": direction}
    constants["first_step"] = problem.dt
    if problem.diffusion is not None:
        constants["cell"] = problem.diffusion.path.smallest
        constants |= problem.diffusion.medium
    values = {name: machine.constant(value) for name, value in constants.items()}
    values |= {f"weight{i}": weight for i, weight in enumerate(problem.weights)}
    values |= {"t": start.t, "y": start.y, "span": span, "size": start.h}
    begun = runners.start(machine, values)
    ok = machine.read(begun["status"]) == float(Status.RUNNING)
    h, unknown = machine.read(begun["h"]), np.nan
    if start.row is not None:
        ok = ok & (start.row >= 0)
        unknown = machine.select(start.row >= 0, np.nan, runners.plan.unpicked)
    some = machine.summary([ok], [])[0][0]
    evaluations = machine.select(ok, float(runners.evaluations("step")), 0.0)
    evaluations = evaluations + float(runners.evaluations("start"))
    nothing = machine.scalars_of(None)
    if not some:
        return machine.vector(nothing + unknown), evaluations, None
    k1 = begun["k1"]
    if not joint:
        h = machine.select(ok, h, 0.0)
        values["y"], k1 = machine.stand_in(ok, start.y), machine.stand_in(ok, k1)
    values |= {"h": h, "k1": k1, **machine.noise(start.t, h, 0)}
    penalty = runners.step(machine, values)["penalty"]
    if not joint:
        penalty = machine.select(ok, penalty, unknown)
    return machine.vector(nothing + penalty), evaluations, Taken(values, ok)


def pull_step(runners: Runners, machine: HostMachine, taken: Taken, penalty_bar: Any) -> Any:
    """Return the cotangent of the state where the step starts, None where that is a constant.

    That of args is accumulated in ``machine.args_bar``.
    """
    bar = machine.scalars_of(penalty_bar)
    if not is_joint(machine):
        bar = machine.select(taken.ok, bar, 0.0)
    return runners.adjoint(machine, {**taken.values, "penalty_bar": bar}).get("y_bar")
