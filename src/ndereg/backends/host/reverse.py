"""The reverse pass of the discrete adjoint: transposed steps, from the last row to the first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ndereg.backends.host.loop import Row, Tape
from ndereg.backends.host.machine import HostMachine, is_joint
from ndereg.backends.host.outputs import shorter_step
from ndereg.backends.interpreter import Runners
from ndereg.plan.checkpoint import Undone


def pull_back(
    runners: Runners,
    machine: HostMachine,
    tape: Tape,
    ys_bar: Any,
    penalty_bar: Any,
    picked_bar: Any = None,
) -> Any:
    """Return the cotangent of ``y0``; that of args is accumulated in ``machine.args_bar``.

    Parameters
    ----------
    ys_bar : array
        Shaped like ``Result.ys``.
    penalty_bar : array (B,)
    picked_bar : array (B, n) or None
        Cotangent of the state at the start of the row that was picked.
    """
    plan, problem = runners.plan, machine.problem
    constants: dict[str, Any] = {
        "rtol": machine.constant(problem.rtol),
        "atol": machine.constant(problem.atol),
    }
    seeds = {
        **{f"weight{i}": weight for i, weight in enumerate(problem.weights)},
        **tape.reductions,
        "penalty_bar": machine.scalars_of(penalty_bar),
        "naccept": tape.naccept,
    }
    # added to zeros, so that a solve without steps does not hand back the caller's own array
    y_bar = machine.zeros() if plan.spec.dense else machine.zeros() + ys_bar
    carried: dict[str, Any] = {}
    if plan.shared and tape.rows:
        value, linearization = _last_stage(machine, tape)
        carried = {"k_next": value, "k_next_map": linearization, "k_next_bar": machine.zeros()}

    k1_bar = None
    for index, y in _states(runners, machine, tape):
        row = tape.rows[index]
        values = {**constants, "t": row.t, "h": row.h, "y": y, **_renamed(plan, carried)}
        values |= _noise(machine, row, index)
        programs, handed = runners, False
        if row.kept is not None and tape.keeping is not None:
            programs, values = tape.keeping.runners, values | row.kept
            handed = tape.keeping.plan.first_adjoint is not None
            if handed:
                values["k_next_bar"] = machine.zeros() if k1_bar is None else k1_bar
        if plan.spec.terms:
            values |= runners.seed(machine, {**seeds, "row": float(index)})
        y_bar, inner, direct = _take_emissions(runners, machine, row, y, ys_bar, y_bar)
        adjoint = programs.adjoint_dense if inner else programs.adjoint
        out = adjoint(machine, {**values, **inner, "y1_bar": y_bar})
        y_bar = out["y_bar"] if direct is None else out["y_bar"] + direct
        if handed:
            k1_bar = out["k1_bar"]
            if index == 0:
                out = programs.first_adjoint(machine, {**values, "k1_bar": k1_bar})
                y_bar = y_bar + out["y_bar"]
        if picked_bar is not None:
            here = tape.picked == float(index)
            y_bar = machine.select(here, y_bar + picked_bar, y_bar)
        if plan.shared:
            carried = {
                "k_next": out["k1"],
                "k_next_map": out["k1_map"],
                "k_next_bar": out["k1_bar"],
            }
    if carried:
        y_bar = y_bar + machine.pullback(carried["k_next_map"], carried["k_next_bar"])
    for emission in tape.start_emissions:
        y_bar = y_bar + _cotangent(machine, emission, ys_bar, emission.present)
    return y_bar


def _states(runners: Runners, machine: HostMachine, tape: Tape) -> Iterator[tuple[int, Any]]:
    """Rows from the last to the first, with the states at their starts."""

    def advance(index: int, y: Any) -> Any:
        row = tape.rows[index]
        noise = _noise(machine, row, index)
        return runners.replay(machine, {"t": row.t, "h": row.h, "y": y, **noise})["y1"]

    def retreat(index: int, y: Any) -> Any:
        row = tape.rows[index]
        noise = _noise(machine, row, index)
        return runners.retreat(machine, {"t": row.t, "h": row.h, "y": y, **noise})["y0"]

    if isinstance(tape.checkpoints, Undone):
        return tape.checkpoints.backwards(len(tape.rows), retreat, tape.y_end)
    return tape.checkpoints.backwards(len(tape.rows), advance, _unread(runners.plan, tape))


def _noise(machine: HostMachine, row: Row, index: int) -> dict[str, Any]:
    """What was drawn of the path in a row, drawn once more if it was not kept."""
    return machine.noise(row.t, row.h, index) if row.noise is None else row.noise


def _unread(plan: Any, tape: Tape) -> int:
    """Rows, from the first on, whose states nothing reads."""
    keeping = tape.keeping
    if keeping is None or keeping.plan.reads_state or plan.spec.dense:
        return 0
    return keeping.rows


def _last_stage(machine: HostMachine, tape: Tape) -> tuple[Any, Any]:
    """Value and linearization of the last stage of the last row."""
    row = tape.rows[-1]
    if row.kept is None or tape.keeping is None:
        return machine.linearize(tape.t_end, tape.y_end)
    value, linearization = (row.kept[last] for _, last in tape.keeping.plan.carried)
    return value, linearization


def _renamed(plan: Any, carried: dict[str, Any]) -> dict[str, Any]:
    """The shared stage under the name that the transposed program gives it."""
    if not carried:
        return {}
    last = f"k{plan.spec.tableau.stages}"
    return {
        last: carried["k_next"],
        last + "_map": carried["k_next_map"],
        "k_next_bar": carried["k_next_bar"],
    }


def _take_emissions(
    runners: Runners, machine: HostMachine, row: Row, y: Any, ys_bar: Any, y_bar: Any
) -> tuple[Any, dict[str, Any], Any]:
    """Cotangents of the outputs in a row.

    Returns the cotangent of the state at the end of the row, those of the interpolant's
    coefficients (empty if no output is inside the step), and what goes to the start directly.
    """
    inner: dict[str, Any] = {}
    direct: Any = None
    for emission in row.emissions:
        if is_joint(machine) and emission.at_end:
            y_bar = y_bar + _cotangent(machine, emission, ys_bar, True)
            continue
        if not is_joint(machine):
            y_bar = y_bar + _cotangent(machine, emission, ys_bar, emission.at_end)
        inside = emission.present & (~emission.at_end) if not is_joint(machine) else True
        bar = _cotangent(machine, emission, ys_bar, inside)
        values = {"theta": emission.theta, "y_theta_bar": bar, "y": y}
        values |= shorter_step(runners, machine, row.t, emission.theta, row.h)
        out = runners.read_adjoint(machine, values)
        direct = out["y_bar"] if direct is None else direct + out["y_bar"]
        for name, value in out.items():
            if name != "y_bar":
                inner[name] = inner[name] + value if name in inner else value
    return y_bar, inner, direct


def _cotangent(machine: Any, emission: Any, ys_bar: Any, present: Any) -> Any:
    if is_joint(machine):
        bar, shape = ys_bar[:, emission.index, ...], machine.problem.y0.shape
        return bar if bar.shape == shape else bar.reshape(shape)
    return machine.take(ys_bar, emission.index, present)
