"""The forward solve: one ``while_loop`` whose body attempts a step of every running sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ndereg.backends.jax import clock
from ndereg.backends.jax.field import LaneField
from ndereg.backends.jax.inputs import Rows
from ndereg.backends.jax.machine import JaxMachine, Runners
from ndereg.backends.jax.outputs import Outputs
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
        first_step_given: bool,
        capacity: Capacity,
    ) -> None:
        self.runners, self.spec = runners, runners.plan.spec
        self.rows, self.first_step_given = rows, first_step_given
        self.first = "first" if self.spec.adaptive and not first_step_given else "first_given"
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
        self.tape = Tape(machine, capacity.rows, capacity.states) if capacity.rows else None
        if self.tape is not None:
            self.values["max_steps"] = jnp.minimum(numbers["max_steps"], float(capacity.rows))
        self.outputs = None
        if rows.t_eval is not None:
            self.outputs = Outputs(runners, machine, rows, direction, taped=self.tape is not None)
        self.attempts = capacity.attempts

    def run(self) -> Carry:
        """The carry after the last iteration."""
        return lax.while_loop(lambda c: jnp.any(c["status"] == RUNNING), self.attempt, self.start())

    def start(self) -> Carry:
        """First stage, first step size, output times at the start."""
        machine, values, rows = self.machine, self.values, self.rows
        first = getattr(self.runners, self.first)
        started = first(machine, {**values, "t": rows.t0, "y": rows.y0})
        if "h" in started:
            h = started["h"]
        elif self.first_step_given:
            h = jnp.minimum(values["first_step"], values["span"]) * values["direction"]
        else:
            h = values["dt"]
        standing = values["span"] == 0
        carry: Carry = {
            "t": rows.t0,
            "y": rows.y0,
            "h": machine.full(h).astype(machine.control),
            "status": jnp.where(
                standing, machine.scalar(float(Status.SUCCESS)), machine.full(started["status"])
            ),
            "attempts": machine.scalar(0.0),
            "naccept": machine.scalar(0.0),
            "row": jnp.int32(0),
            "memory": {
                name: machine.flag(value) if isinstance(value, bool) else machine.scalar(value)
                for name, value in zip(MEMORY, MEMORY_START, strict=True)
            },
            "reductions": self._reductions(),
        }
        if "k1" in started:
            carry["k1"] = started["k1"]
        if self.outputs is not None:
            carry["outputs"] = self.outputs.start(rows.y0)
        if self.tape is not None:
            carry["tape"] = self.tape.start()
        if self.attempts:
            blank = jnp.full((self.attempts, machine.samples), jnp.nan, machine.control)
            carry["record"] = (blank,) * 4, jnp.zeros(blank.shape, bool)
            carry["attempt"] = jnp.int32(0)
        return carry

    def _reductions(self) -> dict[str, Any]:
        start = {}
        for i, term in enumerate(self.spec.terms):
            start[f"P{i}"] = self.machine.scalar(0.0)
            if term.reduce == "max":
                start[f"at{i}"] = self.machine.scalar(-1.0)
        return start

    def attempt(self, carry: Carry) -> Carry:
        """One attempted step of every running sample; the others take a step of size zero."""
        machine, values, t, y = self.machine, self.values, carry["t"], carry["y"]
        running = carry["status"] == RUNNING
        remaining = jnp.where(running, clock.difference(self.rows.t1, t), 0.0)
        begun = self.runners.begin(machine, {"h": carry["h"], "remaining": remaining})
        h, last = begun["h_try"], begun["last"]
        step = self.runners.step(machine, {**values, **_stage(carry), "t": t, "h": h, "y": y})
        decision = self.runners.control(
            machine,
            {
                **values, **carry["memory"],
                **{name: step[name] for name in ("E", "finite") if name in step},
                "h": h, "t": t[0], "last": last, "status": carry["status"],
                "attempts": carry["attempts"],
            },
        )  # fmt: skip
        accept = decision["accept"]
        landed = clock.select(last, self.rows.t1, clock.add(t, h))
        t_next = clock.select(accept, landed, t)
        new = {
            **carry,
            "t": t_next,
            "y": jnp.where(accept, step["y1"], y),
            "h": machine.full(decision["h_next"]),
            "status": decision["status"],
            "attempts": carry["attempts"] + running,
            "naccept": carry["naccept"] + accept,
            "row": carry["row"] + jnp.any(accept),
            "memory": {name: decision.get(name, value) for name, value in carry["memory"].items()},
        }
        if "k1" in carry:
            new["k1"] = jnp.where(accept, step["k_next"], carry["k1"])
        self._observe(carry, new, step, h, accept, running)
        return new

    def _observe(
        self, carry: Carry, new: Carry, step: dict[str, Any], h: Any, accept: Any, running: Any
    ) -> None:
        """Penalties, tape, output times and records of an attempt, into ``new``."""
        machine, t, y = self.machine, carry["t"], carry["y"]
        if carry["reductions"]:
            row = carry["row"].astype(machine.control)
            values = {**carry["reductions"], **step, "accept": accept, "row": row}
            new["reductions"] = self.runners.accumulate(machine, values)
        if self.tape is not None:
            new["tape"] = self.tape.offer(carry["tape"], carry["row"], t, y, h, accept)
        if self.outputs is not None:
            values = {**step, "t": t, "h": h, "y": y, "t_next": new["t"]}
            new["outputs"] = self.outputs.answer(carry["outputs"], values, accept, carry["row"])
        if self.attempts:
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
        """What the caller sees, every array led by the lanes, if any, and the samples."""
        machine, rows, runners = self.machine, self.rows, self.runners
        penalty = machine.scalar(0.0)
        if carry["reductions"]:
            values = {**carry["reductions"], **self.values, "naccept": carry["naccept"]}
            penalty = runners.finish(machine, values)["penalty"]
        nfev = carry["attempts"].astype(jnp.int32) * runners.evaluations("step")
        nfev = nfev + jnp.where(self.values["span"] == 0, 0, runners.evaluations(self.first))
        ys = carry["y"]
        if self.outputs is not None:
            ys = carry["outputs"]["ys"]
            nfev = nfev + carry["outputs"]["dense"] * runners.evaluations("dense")
        result = {
            "ys": rows.split(ys),
            "penalty": rows.split(machine.full(penalty)[:, 0].astype(machine.real)),
            "nfev": rows.split(nfev[:, 0]),
            "nsteps": rows.split(carry["attempts"][:, 0].astype(jnp.int32)),
            "naccept": rows.split(carry["naccept"][:, 0].astype(jnp.int32)),
            "status": rows.split(carry["status"][:, 0].astype(jnp.int32)),
        }
        if self.attempts:
            blanks, accepted = carry["record"]
            result["steps"] = jax.tree.map(rows.split_rows, (*blanks, accepted))
        return result


def _stage(carry: Carry) -> dict[str, Any]:
    return {"k1": carry["k1"]} if "k1" in carry else {}


def _put(buffer: Any, column: Any, index: Any) -> Any:
    return lax.dynamic_update_slice(buffer, column.reshape((1, -1)), (index, jnp.int32(0)))
