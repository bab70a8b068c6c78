"""Output times, answered from the interpolant of accepted steps.

A time belongs to the accepted step that ends at or after it. One equal to the end of a step is the
new state itself, one equal to the start of the span is ``y0``; the interpolant is computed only in
steps that have a time inside.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from ndereg.backends.interpreter import Runners
from ndereg.backends.jax import clock
from ndereg.backends.jax.clock import Time
from ndereg.backends.jax.inputs import Rows
from ndereg.backends.jax.machine import JaxMachine

Carry = dict[str, Any]


class Outputs:
    """Answers output times; every sample has a position of its own among them.

    All samples at the rearmost position are answered together, so that one column of ``ys`` is
    touched at a time: no scatter, which XLA runs entry by entry on CPUs.
    """

    def __init__(
        self, runners: Runners, machine: JaxMachine, rows: Rows, direction: Any, taped: bool
    ) -> None:
        assert rows.t_eval is not None
        self._runners, self._machine = runners, machine
        self._times: Time = rows.t_eval
        self._t0, self._direction = rows.t0, direction
        self._taped = taped
        self._count = rows.t_eval[0].shape[-1]

    def start(self, y0: Any) -> Carry:
        """Answer the times equal to the start."""
        machine, count = self._machine, self._count
        at_start = clock.difference(self._times, self._t0) == 0
        position = jnp.sum(at_start, axis=-1, keepdims=True, dtype=jnp.int32)
        blank = jnp.asarray(jnp.nan, machine.dtype)
        carry: Carry = {
            "ys": jnp.where(at_start[:, :, None], y0[:, None, :], blank),
            "position": position,
            "next": self._time_at(position),
            "dense": jnp.zeros((machine.samples, 1), jnp.int32),
        }
        if self._runners.plan.dense is None:
            carry["inside"] = jnp.zeros((machine.samples, 1), jnp.int32)
        if self._taped:
            shape = (machine.samples, count)
            carry["at"] = {
                "row": jnp.full(shape, -1, jnp.int32),
                "theta": jnp.zeros(shape, machine.control),
                "end": jnp.zeros(shape, bool),
            }
            carry["started"] = position
        return carry

    def answer(self, carry: Carry, values: dict[str, Any], accept: Any, row: Any) -> Carry:
        """Answer the times that the accepted steps have passed."""

        def pending(c: Carry) -> tuple[Any, Any]:
            beyond = clock.difference(c["next"], values["t_next"]) * self._direction
            left = accept & (c["position"] < self._count)
            return left & (beyond < 0), left & (beyond == 0)

        inside = pending(carry)[0]
        carry = {**carry, "dense": carry["dense"] + inside}

        def interior(c: Carry) -> Carry:
            coefficients = {}
            if self._runners.plan.dense is not None:
                coefficients = self._runners.dense(self._machine, values)
            return lax.while_loop(
                lambda c: jnp.any(pending(c)[0]),
                lambda c: self._put(c, pending(c)[0], values, row, coefficients),
                c,
            )

        # at most one round: a loop hands its large buffers on in place, a conditional copies them
        carry = lax.while_loop(lambda c: jnp.any(pending(c)[0]), interior, carry)
        return lax.while_loop(
            lambda c: jnp.any(pending(c)[1]),
            lambda c: self._put(c, pending(c)[1], values, row, None),
            carry,
        )

    def _put(
        self,
        carry: Carry,
        present: Any,
        values: dict[str, Any],
        row: Any,
        coefficients: dict[str, Any] | None,
    ) -> Carry:
        machine, position = self._machine, carry["position"]
        column = jnp.min(jnp.where(present, position, self._count))
        here = present & (position == column)
        if coefficients is None:
            theta, value = machine.scalar(1.0), values["y1"]
        else:
            h = jnp.where(values["h"] == 0, 1.0, values["h"])
            passed = clock.difference(carry["next"], values["t"])
            theta = jnp.where(here, passed / h, 0.0)
            inputs = {**coefficients, "y": values["y"], "theta": theta}
            inputs |= shorter_step(self._runners, machine, values["t"], theta, values["h"])
            value = self._runners.read(machine, inputs)["y_theta"]
        new = {**carry, "ys": _put_column(carry["ys"], value, here, column)}
        if self._taped:
            at = carry["at"]
            index = jnp.broadcast_to(row, here.shape)
            end = machine.flag(coefficients is None)
            new["at"] = {
                "row": _put_column(at["row"], index, here, column),
                "theta": _put_column(at["theta"], theta, here, column),
                "end": _put_column(at["end"], end, here, column),
            }
        if coefficients is not None and "inside" in carry:
            new["inside"] = carry["inside"] + here
        new["position"] = position + here
        new["next"] = self._time_at(new["position"])
        return new

    def _time_at(self, position: Any) -> Time:
        index = jnp.minimum(position, self._count - 1)
        return tuple(jnp.take_along_axis(part, index, axis=-1) for part in self._times)


def shorter_step(
    runners: Runners, machine: JaxMachine, t: Time, theta: Any, h: Any
) -> dict[str, Any]:
    """What the step of a stochastic equation to an output reads: its place and its noise."""
    if runners.plan.dense is not None:
        return {}
    shorter = theta * h
    return {"t": t, "h": shorter, **machine.noise(t, shorter, 0)}


def column_at(values: Any, column: Any) -> Any:
    """Column of ``(samples, times, ...)``, without its axis; of ``(samples, times)`` with it."""
    found = lax.dynamic_slice_in_dim(values, column, 1, axis=1)
    return found[:, 0] if values.ndim > 2 else found


def _put_column(values: Any, new: Any, here: Any, column: Any) -> Any:
    if values.shape[0] > 1:
        new = jnp.where(here, new, column_at(values, column))
    if values.ndim > 2:
        new = new[:, None]
    return lax.dynamic_update_slice_in_dim(values, new, column, axis=1)
