"""The discrete adjoint: transposed steps, from the last row to the first."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from ndereg.backends.interpreter import Runners
from ndereg.backends.jax import clock
from ndereg.backends.jax.field import LaneField
from ndereg.backends.jax.inputs import Rows
from ndereg.backends.jax.machine import JaxMachine
from ndereg.backends.jax.outputs import column_at, shorter_step
from ndereg.backends.jax.replay import Replay, Retreat

Carry = dict[str, Any]
_SHARED_BARS = ("constants_bar", "args_bar")
"""Cotangents of what all samples share."""


class Reverse:
    """The reverse pass of one solve."""

    def __init__(
        self,
        runners: Runners,
        field: LaneField,
        rows: Rows,
        tape: Carry,
        bars: tuple[Any, Any, Any],
    ) -> None:
        """``bars`` are the cotangents of the outputs, the penalty, and the state picked, or None.

        ``tape["picked"]`` is the row that starts with that state.
        """
        self._runners, self._plan, self._rows = runners, runners.plan, rows
        self._machine = JaxMachine(field)
        self._tape = tape
        self._ys_bar, penalty_bar, self._picked_bar = bars
        trace = Replay if self._plan.retreat is None else Retreat
        self._replay = trace(runners, self._machine, tape)
        numbers = rows.named_numbers()
        self._constants = {"rtol": numbers["rtol"], "atol": numbers["atol"]}
        self._seeds = {
            **numbers,
            **tape["reductions"],
            "naccept": tape["naccept"],
            "penalty_bar": penalty_bar.astype(self._machine.control)[:, None],
        }
        # the interpolant's own cotangents cost nothing more where it needs no stages of its own
        self._dense_always = self._plan.adjoint_dense is not None and (
            runners.evaluations("adjoint_dense") == runners.evaluations("adjoint")
        )

    def run(self) -> tuple[Any, list[Any], list[Any]]:
        """Cotangents of ``y0``, of the wanted constants, and of the wanted args."""
        machine = self._machine
        start = {
            "row": self._tape["rows"],
            "stack": self._replay.start(),
            "y_bar": machine.zeros() if self._plan.spec.dense else self._ys_bar,
            "constants_bar": machine.constants_bar,
            "args_bar": machine.args_bar,
        }
        if self._plan.shared:
            _, at = machine.linearize(self._tape["t_end"], self._tape["y_end"])
            start["shared"] = {"at": at, "bar": machine.zeros()}
        if self._plan.spec.dense:
            start["unread"] = self._tape["position"] - 1
        end = lax.while_loop(lambda c: c["row"] > 0, self._transposed_row, start)
        machine.constants_bar, machine.args_bar = end["constants_bar"], end["args_bar"]
        y_bar = end["y_bar"]
        if self._plan.shared:
            y_bar = y_bar + self._last_shared(end["shared"])
        if self._plan.spec.dense:
            times = jnp.arange(self._ys_bar.shape[1])
            at_start = times < self._tape["started"]
            y_bar = y_bar + jnp.sum(jnp.where(at_start[:, :, None], self._ys_bar, 0), axis=1)
        return y_bar, machine.constants_bar, machine.args_bar

    def _last_shared(self, shared: Carry) -> Any:
        """Pull the first stage of the solve back; without a row there is none, nor a Jacobian."""
        machine, before = self._machine, (self._machine.constants_bar, self._machine.args_bar)
        y_bar = machine.pullback(shared["at"], shared["bar"])
        stepped = self._tape["rows"] > 0
        machine.constants_bar, machine.args_bar = (
            [jnp.where(stepped, new, old) for new, old in zip(*bars, strict=True)]
            for bars in zip((machine.constants_bar, machine.args_bar), before, strict=True)
        )
        return jnp.where(stepped, y_bar, 0)

    def _transposed_row(self, carry: Carry) -> Carry:
        machine, row = self._machine, carry["row"] - 1
        stack, t, y = self._replay.state(carry["stack"], row)
        h = self._replay.step_size(row)
        values = {**self._constants, "t": t, "h": h, "y": y, **machine.noise(t, h, row)}
        if self._plan.shared:
            last, shared = f"k{self._plan.spec.tableau.stages}", carry["shared"]
            values |= {last: shared["at"].k, f"{last}_map": shared["at"]}
            values["k_next_bar"] = shared["bar"]
        if self._plan.spec.terms:
            seeds = {**self._seeds, "row": row.astype(machine.control)}
            values |= self._runners.seed(machine, seeds)
        bars = {
            "y1_bar": carry["y_bar"],
            "constants_bar": carry["constants_bar"],
            "args_bar": carry["args_bar"],
        }
        new = {**carry, "row": row, "stack": stack}
        if self._plan.spec.dense:
            new["unread"], out = self._with_outputs(carry["unread"], values, bars, row)
        else:
            out = self._pull_back("adjoint", values, bars)
        if self._plan.shared:
            new["shared"] = {"at": out["k1_map"], "bar": out["k1_bar"]}
        new |= {name: out[name] for name in ("y_bar", "constants_bar", "args_bar")}
        if self._picked_bar is not None:
            here = self._tape["picked"] == row
            new["y_bar"] = new["y_bar"] + jnp.where(here, self._picked_bar, 0)
        return new

    def _pull_back(self, name: str, values: Carry, bars: Carry) -> Carry:
        machine = self._machine
        machine.constants_bar, machine.args_bar = bars["constants_bar"], bars["args_bar"]
        out = getattr(self._runners, name)(machine, {**values, **bars})
        out = {"k1_bar": machine.zeros(), **out}
        return {**out, "constants_bar": machine.constants_bar, "args_bar": machine.args_bar}

    def _with_outputs(self, unread: Any, values: Carry, bars: Carry, row: Any) -> tuple[Any, Carry]:
        """The transposed row where output times may lie in it."""
        start = {"unread": unread, "y1_bar": bars["y1_bar"]}
        end = self._take(row, start, values)
        unread, bars = end["unread"], {**bars, "y1_bar": end["y1_bar"]}

        def dense(unread: Any, bars: Carry) -> tuple[Any, Carry]:
            program = self._plan.read_adjoint
            assert program is not None
            zeros = self._machine.zeros()
            start = {"unread": unread, "coefficients": {name: zeros for name, _ in program.outputs}}
            if self._plan.dense is None:  # a shorter step has cotangents of the args as well
                start |= {name: bars[name] for name in _SHARED_BARS}
            end = self._take(row, start, values)
            found = end["coefficients"]
            direct = found.pop("y_bar")
            name = "adjoint" if self._plan.dense is None else "adjoint_dense"
            more = {name: end[name] for name in _SHARED_BARS if name in end}
            out = self._pull_back(name, {**values, **found}, {**bars, **more})
            return end["unread"], {**out, "y_bar": out["y_bar"] + direct}

        def plain(unread: Any, bars: Carry) -> tuple[Any, Carry]:
            return unread, self._pull_back("adjoint", values, bars)

        if self._dense_always:
            return dense(unread, bars)
        inside = jnp.any(self._unread_in(row, unread, at_end=False))
        return lax.cond(inside, dense, plain, unread, bars)

    def _unread_in(self, row: Any, unread: Any, at_end: bool) -> Any:
        """Samples whose last unread output is in a row, at its end or inside."""
        index = jnp.maximum(unread, 0)
        at = {
            name: jnp.take_along_axis(self._tape["at"][name], index, axis=-1)
            for name in ("row", "end")
        }
        return (unread >= 0) & (at["row"] == row) & (at["end"] == at_end)

    def _take(self, row: Any, start: Carry, values: Carry) -> Carry:
        """Add the cotangents of a row's outputs to those of what they were read from.

        ``start`` has what is added to: ``y1_bar`` for the outputs at the end of the row, which come
        first, or ``coefficients`` for those inside.
        """
        machine, at_end = self._machine, "y1_bar" in start

        def body(carry: Carry) -> Carry:
            wanted = self._unread_in(row, carry["unread"], at_end)
            column = jnp.max(jnp.where(wanted, carry["unread"], 0))
            here = wanted & (carry["unread"] == column)
            bar = jnp.where(here, column_at(self._ys_bar, column), 0)
            new = {**carry, "unread": carry["unread"] - here}
            if at_end:
                return {**new, "y1_bar": carry["y1_bar"] + bar}
            theta = column_at(self._tape["at"]["theta"], column)
            inputs = {"theta": theta, "y_theta_bar": bar, "y": values["y"]}
            inputs |= shorter_step(self._runners, machine, values["t"], theta, values["h"])
            if "args_bar" in carry:
                machine.constants_bar, machine.args_bar = (carry[name] for name in _SHARED_BARS)
            out = self._runners.read_adjoint(machine, inputs)
            if "args_bar" in carry:
                new |= {name: getattr(machine, name) for name in _SHARED_BARS}
            total = carry["coefficients"]
            return {**new, "coefficients": {name: total[name] + out[name] for name in total}}

        return lax.while_loop(
            lambda c: jnp.any(self._unread_in(row, c["unread"], at_end)), body, start
        )


def time_cotangents(
    field: LaneField, rows: Rows, tape: Carry, y0_bar: Any, ys_bar: Any, wanted: tuple[str, ...]
) -> dict[str, Any]:
    """Cotangents of ``t0``, ``t1`` and ``t_eval``: those of the exact solution.

    The solution moves with its own derivative along the end of the span and along output times,
    and against it along the start.
    """
    found: dict[str, Any] = {}
    if "t0" in wanted:
        found["t0"] = -_product(y0_bar, field.evaluate(rows.t0, rows.y0))
    if rows.t_eval is None:
        if "t1" in wanted:
            y_end = tape["y_end"]
            if "naccept" in tape:  # without a step it may be the state of a sample that stood in
                y_end = jnp.where(tape["naccept"] > 0, y_end, rows.y0)
            found["t1"] = _product(ys_bar, field.evaluate(tape["t_end"], y_end))
        return found
    if "t1" in wanted:
        found["t1"] = jnp.zeros((rows.total, 1), clock.control_dtype())
    if "t_eval" in wanted:
        times, ys = rows.t_eval, tape["ys"]

        def at(index: Any) -> Any:
            t = tuple(column_at(part, index) for part in times)
            y, bar = column_at(ys, index), column_at(ys_bar, index)
            return _product(jnp.where(jnp.isnan(y), 0, bar), field.evaluate(t, y))[:, 0]

        found["t_eval"] = lax.map(at, jnp.arange(ys.shape[1])).T
    return found


def _product(a: Any, b: Any) -> Any:
    """Real inner product of every sample, as a scalar."""
    dtype = clock.control_dtype()
    return jnp.sum(jnp.real(jnp.conj(a) * b), axis=-1, keepdims=True).astype(dtype)
