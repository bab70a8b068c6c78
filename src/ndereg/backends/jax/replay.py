"""States of the forward solve, from the last row to the first, recomputed where not kept.

The kept states lie on a stack, in the slots that the forward pass left. To reach a row above the
top of the stack the steps between are replayed, pushing states into free slots: all of them if
there is room, else half of the free slots, evenly spaced, then half of the rest, and so on.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from ndereg.backends.jax import clock
from ndereg.backends.jax.machine import JaxMachine, Runners
from ndereg.backends.jax.tape import EMPTY, put_row, row_at

Carry = dict[str, Any]


class Replay:
    """The stack of states, as a carry of the reverse loop."""

    def __init__(self, runners: Runners, machine: JaxMachine, tape: Carry) -> None:
        self._runners, self._machine = runners, machine
        self._h = tape["h"]
        self._slots = tape["row"].shape[0] - 1
        kept = tape["row"][: self._slots]
        # slots by row, the free ones last; a prefix of this order is the stack
        self._order = jnp.argsort(jnp.where(kept == EMPTY, jnp.iinfo(jnp.int32).max, kept))
        self._start = {
            "y": tape["y"],
            "t": tape["t"],
            "row": tape["row"],
            "depth": jnp.sum(kept != EMPTY, dtype=jnp.int32),
        }

    def start(self) -> Carry:
        """The stack that the forward pass left."""
        return self._start

    def step_size(self, row: Any) -> Any:
        """Step size of every sample in a row."""
        return row_at(self._h, row)[:, None]

    def state(self, stack: Carry, row: Any) -> tuple[Carry, Any, Any]:
        """Time and state at the start of ``row``, and the stack without it."""
        slot = self._order[stack["depth"] - 1]
        found = stack["row"][slot]
        moving = {
            "row": found,
            "t": tuple(row_at(part, slot) for part in stack["t"]),
            "y": row_at(stack["y"], slot),
            "spacing": self._spacing(found, row, stack["depth"]),
            "push": jnp.int32(0),
            "stack": stack,
        }
        moving["push"] = found + moving["spacing"]
        moving = lax.while_loop(lambda c: c["row"] < row, lambda c: self._advance(c, row), moving)
        stack = moving["stack"]
        popped = stack["depth"] - (stack["row"][self._order[stack["depth"] - 1]] == row)
        return {**stack, "depth": popped}, moving["t"], moving["y"]

    def _advance(self, moving: Carry, target: Any) -> Carry:
        machine, stack = self._machine, moving["stack"]
        h = self.step_size(moving["row"])
        y = self._runners.replay(machine, {"t": moving["t"], "h": h, "y": moving["y"]})["y1"]
        t, row = clock.add(moving["t"], h), moving["row"] + 1
        due = (row == moving["push"]) & (row < target)
        slot = jnp.where(due, self._order[stack["depth"]], self._slots)
        depth = stack["depth"] + due
        # past the last state at this spacing, what remains is divided further
        finer = due & (row + moving["spacing"] >= target)
        spacing = jnp.where(finer, self._spacing(row, target, depth), moving["spacing"])
        return {
            "row": row,
            "t": t,
            "y": y,
            "spacing": spacing,
            "push": jnp.where(due, row + spacing, moving["push"]),
            "stack": {
                "y": put_row(stack["y"], y, slot),
                "t": tuple(
                    put_row(parts, part, slot) for parts, part in zip(stack["t"], t, strict=True)
                ),
                "row": stack["row"].at[slot].set(row),
                "depth": depth,
            },
        }

    def _spacing(self, row: Any, target: Any, depth: Any) -> Any:
        """Rows between the states to push; beyond the target if no slot is free."""
        length, free = target - row, self._slots - depth
        parts = jnp.where(length - 1 <= free, length, jnp.maximum(free // 2, 1) + 1)
        spacing = -(-length // jnp.maximum(parts, 1))
        return jnp.where(free > 0, spacing, jnp.maximum(length, 1)).astype(jnp.int32)
