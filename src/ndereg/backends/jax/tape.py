"""What a differentiated solve keeps: the mesh, and some of its states.

Of every row (an iteration in which some sample accepted) the step sizes are kept, 0 for samples
that did not accept. States are kept at the start of every ``stride``-th row. While ``stride`` is 1
they may use all slots; afterwards at most half of them, at a stride that doubles when those are
full, so that the reverse pass has the other half to recompute what lies between.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from ndereg.backends.jax.machine import JaxMachine

Carry = dict[str, Any]
EMPTY = -1


class Tape:
    """The tape in the carry of the forward loop, with room for ``rows`` and ``slots``."""

    def __init__(self, machine: JaxMachine, rows: int, slots: int) -> None:
        self._machine, self._rows, self._slots = machine, rows, slots

    def start(self) -> Carry:
        """An empty tape. One more slot takes what is not kept, so that writing needs no branch."""
        machine, slots = self._machine, self._slots
        times = 1 if machine.control.itemsize == 8 else 2
        return {
            "h": jnp.zeros((self._rows, machine.samples), machine.control),
            "y": jnp.zeros((slots + 1, machine.samples, machine.entries), machine.dtype),
            "t": tuple(
                jnp.zeros((slots + 1, machine.samples, 1), machine.control) for _ in range(times)
            ),
            "row": jnp.full((slots + 1,), EMPTY, jnp.int32),
            "stride": jnp.int32(1),
        }

    def offer(self, tape: Carry, row: Any, t: Any, y: Any, h: Any, accept: Any) -> Carry:
        """Keep the step of a row, and its state if it is due.

        Without an accepted sample the next attempt overwrites the row.
        """
        slots, kept, stride = self._slots, tape["row"], tape["stride"]
        used = jnp.sum(kept[:slots] != EMPTY)
        full = used >= jnp.where(stride == 1, slots, max(slots // 2, 1))
        thin = full & (row % stride == 0)
        # from all slots to a quarter of them, or from half of them to a quarter
        stride = jnp.where(thin, stride * jnp.where(stride == 1, 4, 2), stride)
        kept = jnp.where(kept % stride == 0, kept, EMPTY)
        due = jnp.any(accept) & (row % stride == 0)
        slot = jnp.where(due, jnp.argmax(kept[:slots] == EMPTY), slots).astype(jnp.int32)
        return {
            "h": put_row(tape["h"], jnp.where(accept, h, 0.0)[:, 0], row),
            "y": put_row(tape["y"], y, slot),
            "t": tuple(
                put_row(parts, part, slot) for parts, part in zip(tape["t"], t, strict=True)
            ),
            "row": kept.at[slot].set(jnp.where(due, row, EMPTY)),
            "stride": stride,
        }


def put_row(buffer: Any, value: Any, index: Any) -> Any:
    """``buffer`` with ``value`` at ``index`` of axis 0."""
    return lax.dynamic_update_index_in_dim(buffer, value, index, axis=0)


def row_at(buffer: Any, index: Any) -> Any:
    """``buffer[index]``."""
    return lax.dynamic_index_in_dim(buffer, index, axis=0, keepdims=False)
