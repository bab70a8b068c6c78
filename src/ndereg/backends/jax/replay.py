"""States of the forward solve, from the last row to the first, recomputed where not kept.

The kept states lie on a stack, in the slots that the forward pass left. To reach a row above the
top of the stack the steps between are replayed, pushing states into free slots: all of them if
there is room, else half of the free slots, evenly spaced, then half of the rest, and so on.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from ndereg.backends.interpreter import Runners
from ndereg.backends.jax import clock
from ndereg.backends.jax.machine import JaxMachine
from ndereg.backends.jax.scalars import packed
from ndereg.backends.jax.tape import put_row, row_at, slot_of

Carry = dict[str, Any]


class Replay:
    """The stack of states, as a carry of the reverse loop."""

    def __init__(self, runners: Runners, machine: JaxMachine, tape: Carry) -> None:
        self._runners, self._machine = runners, machine
        self._h = tape["h"]
        self._slots = slots = tape["y"].shape[0] - 1
        position = jnp.arange(slots, dtype=jnp.int32)
        kept = position * tape["stride"]
        depth = -(-tape["rows"] // tape["stride"])
        slot = slot_of(kept, slots, tape["h"].shape[0])
        used = jnp.any((slot == position[:, None]) & (position < depth), axis=1)
        # slots by position on the stack: first the used ones, by row, then the free ones
        free = jnp.argsort(used)[jnp.maximum(position - depth, 0)]
        self._order = jnp.where(position < depth, slot, free).astype(jnp.int32)
        # one more row number belongs to the slot that takes what is not pushed
        rows = jnp.append(kept, jnp.int32(0))
        self._start = {"y": tape["y"], "t": tape["t"], "row": rows, "depth": depth}

    def start(self) -> Carry:
        """Return the stack that the forward pass left."""
        return self._start

    def step_size(self, row: Any) -> Any:
        """Return the step size of every sample in a row."""
        return row_at(self._h, row)[:, None]

    def state(self, stack: Carry, row: Any) -> tuple[Carry, Any, Any]:
        """Return the stack without the state at the start of ``row``, its time, and the state."""
        top = stack["depth"] - 1
        slot, found = self._order[top], stack["row"][top]
        spacing = self._spacing(found, row, stack["depth"])
        moving = {
            "place": packed([found, found + spacing, spacing, stack["depth"]]),
            "t": tuple(row_at(part, slot) for part in stack["t"]),
            "y": row_at(stack["y"], slot),
            "stack": {name: stack[name] for name in ("y", "t", "row")},
        }
        moving = lax.while_loop(
            lambda c: c["place"][0] < row, lambda c: self._advance(c, row), moving
        )
        depth = moving["place"][3]
        popped = depth - (moving["stack"]["row"][depth - 1] == row)
        return {**moving["stack"], "depth": popped}, moving["t"], moving["y"]

    def _advance(self, moving: Carry, target: Any) -> Carry:
        """Replay one row; push its end if it is due."""
        machine, stack = self._machine, moving["stack"]
        row, push, spacing, depth = (moving["place"][i] for i in range(4))
        h = self.step_size(row)
        noise = machine.noise(moving["t"], h, row)
        values = {"t": moving["t"], "h": h, "y": moving["y"], **noise}
        y = self._runners.replay(machine, values)["y1"]
        t, row = clock.add(moving["t"], h), row + 1
        due = (row == push) & (row < target)
        position = jnp.where(due, depth, self._slots)
        slot = jnp.where(due, self._order[jnp.minimum(depth, self._slots - 1)], self._slots)
        depth = depth + due
        # past the last state at this spacing, what remains is divided further
        finer = due & (row + spacing >= target)
        spacing = jnp.where(finer, self._spacing(row, target, depth), spacing)
        return {
            "place": packed([row, jnp.where(due, row + spacing, push), spacing, depth]),
            "t": t,
            "y": y,
            "stack": {
                "y": put_row(stack["y"], y, slot),
                "t": tuple(
                    put_row(parts, part, slot) for parts, part in zip(stack["t"], t, strict=True)
                ),
                "row": put_row(stack["row"], row, position),
            },
        }

    def _spacing(self, row: Any, target: Any, depth: Any) -> Any:
        """Rows between the states to push; beyond the target if no slot is free."""
        length, free = target - row, self._slots - depth
        parts = jnp.where(length - 1 <= free, length, jnp.maximum(free // 2, 1) + 1)
        spacing = -(-length // jnp.maximum(parts, 1))
        return jnp.where(free > 0, spacing, jnp.maximum(length, 1)).astype(jnp.int32)


class Retreat:
    """The same where steps can be undone: what is carried is the state at the end of a row."""

    def __init__(self, runners: Runners, machine: JaxMachine, tape: Carry) -> None:
        self._runners, self._machine = runners, machine
        self._h, self._t, self._end = tape["h"], tape["t"], tape["y_end"]

    def start(self) -> Carry:
        """Return the end of the solve."""
        return {"y": self._end}

    def step_size(self, row: Any) -> Any:
        """Return the step size of every sample in a row."""
        return row_at(self._h, row)[:, None]

    def state(self, carried: Carry, row: Any) -> tuple[Carry, Any, Any]:
        """Return what to carry on, the time at the start of ``row``, and the state there."""
        machine = self._machine
        t, h = tuple(row_at(part, row) for part in self._t), self.step_size(row)
        values = {"t": t, "h": h, "y": carried["y"], **machine.noise(t, h, row)}
        y = self._runners.retreat(machine, values)["y0"]
        return {"y": y}, t, y
