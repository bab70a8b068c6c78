"""The forward solve: one ``while_loop`` whose body attempts a step of every running sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ndereg.backends.interpreter import Runners
from ndereg.backends.jax import clock
from ndereg.backends.jax.clock import Time
from ndereg.backends.jax.field import LaneField
from ndereg.backends.jax.inputs import Rows
from ndereg.backends.jax.machine import JaxMachine
from ndereg.backends.jax.outputs import Outputs
from ndereg.backends.jax.scalars import Scalars, States, stand_in
from ndereg.backends.jax.tape import Tape
from ndereg.plan.control import MEMORY, MEMORY_START
from ndereg.spec.status import Status

Carry = dict[str, Any]
RUNNING = float(Status.RUNNING)


@dataclass(frozen=True)
class Capacity:
    """Sizes of buffers, which XLA has to know: attempts recorded, mesh rows and states taped."""

    attempts: int = 0
    rows: int = 0
    states: int = 0


class Loop:
    """One solve of all samples of all lanes."""

    def __init__(
        self,
        runners: Runners,
        field: LaneField,
        rows: Rows,
        programs: tuple[str, str],
        capacity: Capacity,
    ) -> None:
        """``programs`` are the names of those that start and control the steps."""
        self.runners, self.spec = runners, runners.plan.spec
        self.rows = rows
        self.first, control = programs
        self.control = getattr(runners, control)
        machine = self.machine = JaxMachine(field)
        numbers = rows.named_numbers()
        length = clock.difference(rows.t1, rows.t0)
        direction = jnp.where(length >= 0, machine.scalar(1.0), machine.scalar(-1.0))
        self.values: dict[str, Any] = {
            **numbers,
            "spacing": machine.scalar(clock.spacing()),
            "direction": direction,
            "span": jnp.abs(length),
            "dt": numbers["dt"] * direction,
        }
        if field.noise is not None:
            self.values |= {"cell": field.noise.cell, **field.noise.medium}
        self.tape = Tape(machine, capacity.rows, capacity.states) if capacity.rows else None
        if self.tape is not None:
            self.values["max_steps"] = jnp.minimum(numbers["max_steps"], float(capacity.rows))
        self.outputs = None
        if rows.t_eval is not None:
            self.outputs = Outputs(runners, machine, rows, direction, taped=self.tape is not None)
        self.attempts = capacity.attempts

    def run(self) -> Carry:
        """The carry after the last iteration, its scalars by name."""
        carry, scalars = self.start()
        layout = Scalars(scalars)

        def attempt(packed: tuple[Any, Carry]) -> tuple[Any, Carry]:
            carry, scalars = self.attempt(packed[1], layout.unpack(packed[0]))
            return layout.pack(scalars), carry

        packed, carry = lax.while_loop(
            lambda packed: jnp.any(layout.unpack(packed[0])["status"] == RUNNING),
            attempt,
            (layout.pack(scalars), carry),
        )
        y, _ = self.states.unpack(carry["states"])
        return {**carry, **layout.unpack(packed), "y": y}

    def start(self) -> tuple[Carry, Carry]:
        """First stage, first step size, output times at the start; arrays, and scalars."""
        machine, values, rows = self.machine, self.values, self.rows
        first = getattr(self.runners, self.first)
        started = first(machine, {**values, "t": rows.t0, "y": rows.y0})
        standing = values["span"] == 0
        scalars: Carry = {
            **{f"t{i}": part for i, part in enumerate(rows.t0)},
            "h": machine.full(started["h"]).astype(machine.control),
            "status": jnp.where(
                standing, machine.scalar(float(Status.SUCCESS)), machine.full(started["status"])
            ),
            "attempts": machine.scalar(0.0),
            "naccept": machine.scalar(0.0),
            **{
                name: machine.flag(value) if isinstance(value, bool) else machine.scalar(value)
                for name, value in zip(MEMORY, MEMORY_START, strict=True)
                if name in self.control.inputs
            },
            **self._reductions(),
        }
        first_stage = started.get("k1")
        y = rows.y0
        if machine.samples > 1:
            y = stand_in(scalars["status"] == RUNNING, y)
        self.states = States(y, first_stage)
        carry: Carry = {"states": self.states.pack(y, first_stage), "row": jnp.int32(0)}
        if self.outputs is not None:
            carry["outputs"] = self.outputs.start(rows.y0)
        if self.runners.plan.pick is not None:
            none = jnp.full((machine.samples, 1), -1, jnp.int32)
            carry["picked"] = {
                "t": rows.t0, "y": rows.y0, "row": none, "h": machine.scalar(0.0),
                "uniform": rows.draws,
            }  # fmt: skip
        if self.tape is not None:
            carry["tape"] = self.tape.start()
        if self.attempts:
            blank = jnp.full((self.attempts, machine.samples), jnp.nan, machine.control)
            carry["record"] = (blank,) * 4, jnp.zeros(blank.shape, bool)
            carry["attempt"] = jnp.int32(0)
        return carry, scalars

    def _reductions(self) -> Carry:
        start = {}
        for i, term in enumerate(self.spec.terms):
            start[f"P{i}"] = self.machine.scalar(0.0)
            if term.reduce == "max":
                start[f"at{i}"] = self.machine.scalar(-1.0)
        return start

    def attempt(self, carry: Carry, scalars: Carry) -> tuple[Carry, Carry]:
        """One attempted step of every running sample; the others take a step of size zero."""
        machine = self.machine
        t, (y, k1) = time_of(scalars), self.states.unpack(carry["states"])
        running = scalars["status"] == RUNNING
        remaining = jnp.where(running, clock.difference(self.rows.t1, t), 0.0)
        values = {**self.values, "h": scalars["h"], "remaining": remaining}
        begun = self.runners.begin(machine, values)
        h, last = begun["h_try"], begun["last"]
        noise = machine.noise(t, h, carry["row"])
        step = self.runners.step(machine, {**values, "t": t, "h": h, "y": y, "k1": k1, **noise})
        decision = self.control(
            machine, {**values, **scalars, **step, "h": h, "t": t[0], "last": last}
        )
        accept = decision["accept"]
        landed = clock.select(last, self.rows.t1, clock.add(t, h))
        t_next = clock.select(accept, landed, t)
        new_scalars = {
            **scalars,
            **{name: value for name, value in decision.items() if name in scalars},
            **{f"t{i}": part for i, part in enumerate(t_next)},
            "h": machine.full(decision["h_next"]),
            "attempts": scalars["attempts"] + running,
            "naccept": scalars["naccept"] + accept,
        }
        row = carry["row"]
        if self.spec.terms:
            measured = {**scalars, **step, "accept": accept, "row": row.astype(machine.control)}
            new_scalars |= self.runners.accumulate(machine, measured)
        states = self.states.accepted(accept, carry["states"], step["y1"], step.get("k_next"))
        new = {**carry, "states": states, "row": row + jnp.any(accept)}
        if self.runners.plan.pick is not None:
            place = {"t": t, "y": y, "row": row, "h": h}
            known = {**values, "h": h, "accept": accept, "count": scalars["naccept"]}
            new["picked"] = self._pick(carry["picked"], place, known)
        if self.tape is not None:
            new["tape"] = self.tape.offer(carry["tape"], row, t, y, h, accept)
        if self.outputs is not None:
            values = {**step, "t": t, "h": h, "y": y, "t_next": t_next}
            new["outputs"] = self.outputs.answer(carry["outputs"], values, accept, row)
        if self.attempts:
            self._record(carry, new, step, (t, h), accept, running)
        return new, new_scalars

    def _pick(self, picked: Carry, step: Carry, known: Carry) -> Carry:
        """Decide whether the step is the one that a local regularizer starts from."""
        decision = self.runners.pick(self.machine, {**known, "uniform": picked["uniform"]})
        pick = decision["pick"]
        return {
            "t": clock.select(pick, step["t"], picked["t"]),
            "y": jnp.where(pick, step["y"], picked["y"]),
            "row": jnp.where(pick, step["row"], picked["row"]),
            "h": jnp.where(pick, step["h"], picked["h"]),
            "uniform": decision["uniform"],
        }

    def _record(
        self,
        carry: Carry,
        new: Carry,
        step: dict[str, Any],
        place: tuple[Any, Any],
        accept: Any,
        running: Any,
    ) -> None:
        machine, (t, h) = self.machine, place
        columns = [clock.rounded(t, machine.control), h]
        columns += [machine.full(step.get(name, jnp.nan)) for name in ("E", "S")]
        columns = [jnp.where(running, column, jnp.nan) for column in columns]
        blanks, accepted = carry["record"]
        new["record"] = (
            tuple(_put(b, c, carry["attempt"]) for b, c in zip(blanks, columns, strict=True)),
            _put(accepted, accept, carry["attempt"]),
        )
        new["attempt"] = carry["attempt"] + 1

    def result(self, carry: Carry) -> dict[str, Any]:
        """What the caller sees, every array led by the lanes, if any, and the samples.

        ``counts`` are nfev, nsteps, naccept and status, one axis before the samples.
        """
        machine, rows, runners = self.machine, self.rows, self.runners
        penalty = machine.scalar(0.0)
        if self.spec.terms:
            penalty = runners.finish(machine, {**self.values, **carry})["penalty"]
        nfev = carry["attempts"].astype(jnp.int32) * runners.evaluations("step")
        nfev = nfev + jnp.where(self.values["span"] == 0, 0, runners.evaluations(self.first))
        ys = jnp.where(carry["naccept"] > 0, carry["y"], rows.y0)
        if self.outputs is not None:
            ys = carry["outputs"]["ys"]
            outputs = carry["outputs"]
            nfev = nfev + outputs["dense"] * runners.evaluations("dense")
            if runners.plan.dense is None:  # a shorter step for every output within one
                nfev = nfev + outputs["inside"] * runners.evaluations("read")
        counts = (nfev, carry["attempts"], carry["naccept"], carry["status"])
        result = {
            "ys": rows.split(ys),
            "t": rows.split(clock.rounded(time_of(carry), machine.control)[:, 0]),
            "penalty": rows.split(machine.full(penalty)[:, 0].astype(machine.real)),
            "counts": jnp.stack([rows.split(c[:, 0].astype(jnp.int32)) for c in counts], -2),
        }
        if self.attempts:
            blanks, accepted = carry["record"]
            result["steps"] = jax.tree.map(rows.split_rows, (*blanks, accepted))
        return result


def time_of(scalars: Carry) -> Time:
    """The time among the scalars of the loop."""
    return tuple(scalars[name] for name in ("t0", "t1") if name in scalars)


def _put(buffer: Any, column: Any, index: Any) -> Any:
    return lax.dynamic_update_slice(buffer, column.reshape((1, -1)), (index, jnp.int32(0)))
