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


class Tape:
    """The tape in the carry of the forward loop, with room for ``rows`` and ``slots``.

    ``slots`` is a power of two, or 0 where steps can be undone: then no state is kept, but the
    time of every row.
    """

    def __init__(self, machine: JaxMachine, rows: int, slots: int) -> None:
        self._machine, self._rows, self._slots = machine, rows, slots

    def start(self) -> Carry:
        """Return an empty tape; one more slot takes what is not kept, so that nothing branches."""
        machine, slots = self._machine, self._slots
        times = 1 if machine.control.itemsize == 8 else 2
        if not slots:
            blank = jnp.zeros((self._rows, machine.samples, 1), machine.control)
            return {"h": blank[..., 0], "t": (blank,) * times}
        return {
            "h": jnp.zeros((self._rows, machine.samples), machine.control),
            "y": jnp.zeros((slots + 1, machine.samples, machine.entries), machine.dtype),
            "t": tuple(
                jnp.zeros((slots + 1, machine.samples, 1), machine.control) for _ in range(times)
            ),
            "stride": jnp.int32(1),
        }

    def offer(self, tape: Carry, row: Any, t: Any, y: Any, h: Any, accept: Any) -> Carry:
        """Keep the step of a row, and its state if it is due.

        Without an accepted sample the next attempt overwrites the row.
        """
        if not self._slots:
            parts = zip(tape["t"], t, strict=True)
            return {
                "h": put_row(tape["h"], jnp.where(accept, h, 0.0)[:, 0], row),
                "t": tuple(put_row(kept, part, row) for kept, part in parts),
            }
        slots, stride = self._slots, tape["stride"]
        advanced = jnp.any(accept)
        full = row == jnp.where(stride == 1, slots, stride * (slots // 2))
        # from all slots to a quarter of them, or from half of them to a quarter
        wider = stride * jnp.where(stride == 1, 4, 2)
        stride = jnp.where(advanced & full, wider, stride)
        due = advanced & (lax.rem(row, stride) == 0)
        slot = jnp.where(due, slot_of(row, slots, self._rows), slots)
        return {
            "h": put_row(tape["h"], jnp.where(accept, h, 0.0)[:, 0], row),
            "y": put_row(tape["y"], y, slot),
            "t": tuple(
                put_row(parts, part, slot) for parts, part in zip(tape["t"], t, strict=True)
            ),
            "stride": stride,
        }


def slot_of(row: Any, slots: int, rows: int) -> Any:
    """Slot of a kept row: the sum of its digits to the base ``slots``, of the ``rows`` there are.

    Rows that are kept together are multiples of ``stride = 2^a slots^i``, at most ``slots / 2`` of
    them. So they differ in two neighbouring digits only, the lower one a multiple of ``2^a`` and
    the upper one less than ``2^a``, whose sum they share with no other.
    """
    total, rest, reach = row, row, slots
    while reach < rows:
        rest = lax.div(rest, jnp.asarray(slots, rest.dtype))
        total = total - rest * (slots - 1)
        reach *= slots
    return total


def put_row(buffer: Any, value: Any, index: Any) -> Any:
    """Return ``buffer`` with ``value`` at ``index`` of axis 0."""
    return lax.dynamic_update_index_in_dim(buffer, value, index, axis=0)


def row_at(buffer: Any, index: Any) -> Any:
    """Return ``buffer[index]``."""
    return lax.dynamic_index_in_dim(buffer, index, axis=0, keepdims=False)
