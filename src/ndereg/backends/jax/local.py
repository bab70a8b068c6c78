"""The extra step of a local regularizer, inside of the compiled solve."""

from __future__ import annotations

import copy
from typing import Any

import jax.numpy as jnp

from ndereg.backends.insertion import insert, remove
from ndereg.backends.interpreter import Runners
from ndereg.backends.jax import clock
from ndereg.backends.jax.clock import Time
from ndereg.backends.jax.field import LaneField
from ndereg.backends.jax.inputs import Rows
from ndereg.backends.jax.machine import JaxMachine
from ndereg.backends.jax.scalars import stand_in
from ndereg.spec.status import Status

Tree = dict[str, Any]


class ExtraStep:
    """The extra step of all samples; of a solve without one, the solve as it is.

    Attributes
    ----------
    opened : Rows
        What is to be solved: with the random times among the output times, unless the solve is to
        pick one of its own steps.
    """

    def __init__(self, runners: Runners | None, field: LaneField, rows: Rows) -> None:
        self._runners, self._field, self._rows = runners, field, rows
        self._length = clock.difference(rows.t1, rows.t0)
        self._direction = jnp.where(self._length >= 0, 1.0, -1.0).astype(self._length.dtype)
        self.opened, self._position = rows, None
        spec = None if runners is None else runners.plan.spec
        if spec is not None and spec.local is not None and not spec.local.picks:
            time = clock.add(rows.t0, rows.draws * self._length)
            beyond = clock.difference(time, rows.t1) * self._direction > 0  # by rounding
            self._time = clock.select(beyond, rows.t1, time)
            self.opened, self._position = self.with_time(self._time)

    def with_time(self, time: Time) -> tuple[Rows, Any]:
        """Rows with further output times (samples, 1), and their positions."""
        rows = copy.copy(self._rows)
        times = rows.t1 if rows.t_eval is None else rows.t_eval
        later = clock.difference(times, time) * self._direction
        position = jnp.sum(later <= 0, axis=-1, keepdims=True)
        rows.t_eval = tuple(
            insert(jnp, position, *parts) for parts in zip(times, time, strict=True)
        )
        return rows, position

    def close(self, result: Tree, carry: Tree) -> tuple[Tree, Tree]:
        """Take the step; turn the result of ``opened`` into what was asked for.

        Returns the result, and what :meth:`pull` reads.
        """
        if self._runners is None:
            return result, {}
        rows = self._rows
        if self._position is None:
            start = carry["picked"]
        else:
            ys, y = remove(jnp, self._position, rows.merge(result["ys"]))
            result = {**result, "ys": rows.split(ys[:, 0] if rows.t_eval is None else ys)}
            start = {"t": self._time, "y": y[:, 0]}
        penalty, evaluations, kept = self._taken(start)
        penalty = rows.split(penalty[:, 0]).astype(result["penalty"].dtype)
        more = rows.split(evaluations[:, 0].astype(jnp.int32))
        return {
            **result,
            "penalty": result["penalty"] + penalty,
            "counts": result["counts"].at[..., 0, :].add(more),
        }, kept

    def _taken(self, start: Tree) -> tuple[Any, Any, Tree]:
        assert self._runners is not None
        rows, runners, machine = self._rows, self._runners, JaxMachine(self._field)
        numbers = rows.named_numbers()
        span = jnp.abs(clock.difference(rows.t1, start["t"]))
        values: Tree = {**numbers, "direction": self._direction, "span": span, **start}
        values["size"] = start.get("h")
        if self._field.noise is not None:
            values |= {"cell": self._field.noise.cell, **self._field.noise.medium}
        if not runners.plan.spec.adaptive:
            values["first_step"] = numbers["dt"]
        begun = runners.start(machine, values)
        present, absent = self._length != 0, 0.0
        if "row" in start:
            absent = jnp.where(present, runners.plan.unpicked, 0.0)
            present = present & (start["row"] >= 0)
        ok = (machine.full(begun["status"]) == float(Status.RUNNING)) & present
        h = jnp.where(ok, machine.full(begun["h"]), 0.0).astype(machine.control)
        kept = {**start, "h": h, "k1": begun["k1"], "ok": ok}
        if machine.samples > 1:
            kept |= {name: stand_in(ok, kept[name]) for name in ("y", "k1")}
        noise = machine.noise(start["t"], h, 0)
        found = machine.full(runners.step(machine, {**values, **kept, **noise})["penalty"])
        penalty = jnp.where(ok, found, jnp.where(present, jnp.nan, absent))
        evaluations = runners.evaluations("start") + ok * runners.evaluations("step")
        return penalty, jnp.where(self._length == 0, 0, evaluations), kept

    def pull(self, kept: Tree, penalty_bar: Any) -> tuple[Any, list[Any], list[Any]]:
        """Cotangents of the state where the step starts, of the wanted constants, and of args.

        The first is None where the state is a constant of the gradient.
        """
        machine = JaxMachine(self._field)
        if self._runners is None:
            return None, machine.constants_bar, machine.args_bar
        before = machine.constants_bar, machine.args_bar
        ok = kept["ok"]
        bar = jnp.where(ok, penalty_bar.astype(machine.control)[:, None], 0.0)
        values = {**self._rows.named_numbers(), **kept, "penalty_bar": bar}
        values |= machine.noise(kept["t"], kept["h"], 0)
        y_bar = self._runners.adjoint(machine, values).get("y_bar")
        # without a sample that took the step there is no Jacobian to trust either
        some = jnp.any(ok)
        constants_bar, args_bar = (
            [jnp.where(some, new, old) for new, old in zip(*bars, strict=True)]
            for bars in zip((machine.constants_bar, machine.args_bar), before, strict=True)
        )
        return None if y_bar is None else jnp.where(ok, y_bar, 0), constants_bar, args_bar

    def among_outputs(self, ys_bar: Any, state_bar: Any) -> tuple[Any, Any]:
        """Return the cotangents of the outputs of ``opened`` and of the step that it picked."""
        if self._position is None:
            return ys_bar, state_bar
        return self.inserted(self._position, ys_bar, state_bar), None

    def inserted(self, position: Any, ys: Any, value: Any) -> Any:
        """``ys``, or its cotangent, with ``value`` among the outputs; None is zero."""
        if self._rows.t_eval is None:
            ys = ys[:, None]
        value = jnp.zeros_like(ys[:, :1]) if value is None else value[:, None]
        return insert(jnp, position, ys, value)
