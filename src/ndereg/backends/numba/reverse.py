"""The reverse pass of the discrete adjoint of one sample as Numba source."""

from __future__ import annotations

from ndereg.backends.numba.forward import INFO, Programs, indent, picked
from ndereg.plan.program import Program

REVERSE_PROGRAMS = ("replay", "retreat", "seed", "adjoint", "adjoint_dense", "read_adjoint")


class ReverseRows:
    """Names of the rows of the workspace of the reverse pass."""

    def __init__(self, programs: Programs) -> None:
        plan = programs.plan
        self.names = ["bar", "bar_new", "cur", "cur_new"]
        if plan.shared:
            self.names += ["k_later", "k_first", "kbar", "kbar_new", "y_copy"]
        if plan.read_adjoint is not None:
            self.names += [_sum(name) for name, _ in plan.read_adjoint.outputs]
            self.names += list(_parts(plan.read_adjoint).values())


def _sum(name: str) -> str:
    """Row that sums an output of ``read_adjoint`` over the output times of a step."""
    return f"sum_{name}"


def _parts(read_adjoint: Program) -> dict[str, str]:
    """Row of each slot that ``read_adjoint`` returns; outputs may share a slot."""
    slots = dict.fromkeys(slot for _, slot in read_adjoint.outputs)
    return {slot: f"part{i}" for i, slot in enumerate(slots)}


def reverse_source(programs: Programs, decorator: str) -> str:
    """Source of ``pull_one``; it calls the programs of :data:`REVERSE_PROGRAMS`.

    ``bar`` returns the cotangent of the start of the span; that of args is added to ``A_bar``.
    """
    kernels = programs.kernels
    head = [
        decorator,
        (
            "def pull_one(t0, t1, parameters, weights, t_eval, info, mesh, states, end, "
            "ys_bar, penalty_bar, y0_bar, W, T, residuals, "
            f"{kernels.loop_environment}, {kernels.linearize_environment}, "
            f"{kernels.pullback_environment}, A_bar{kernels.tail}):"
        ),
    ]
    undone = programs.plan.retreat is not None
    rows = _undone(programs) if undone else _segments(programs)
    body = [*_setup(programs), *rows, *_finish(programs)]
    return "\n".join([*head, *indent(body)]) + "\n"


def _setup(programs: Programs) -> list[str]:
    plan, spec = programs.plan, programs.plan.spec
    names = ReverseRows(programs).names
    lines = ["n = end.shape[0]", *(f"{name} = W[{i}]" for i, name in enumerate(names))]
    medium = () if programs.drive is None else programs.drive.medium
    for name in ("rtol", "atol", *medium):
        lines.append(f"{name} = parameters[{programs.parameters.index(name)}]")
    lines += [f"naccept = info[{INFO.index('naccept')}]", f"t_last = info[{INFO.index('t_end')}]"]
    lines += [
        "rows = int(naccept)",
        "direction = 1.0 if t1 >= t0 else -1.0",
        "first_map = 0 * rows",
    ]
    if programs.drive is not None:
        lines += programs.drive.setup(programs.kernels.sample)
    for i, term in enumerate(spec.terms):
        lines.append(f"weight{i} = weights[{i}]")
        if term.reduce == "max":
            lines.append(f"at{i} = info[{len(INFO) + i}]")
    if spec.dense:
        lines += ["left = t_eval.shape[0] - 1"]
        # outputs that a failed solve never reached have no cotangent
        lines += ["while left >= 0 and (t_eval[left] - t_last) * direction > 0.0:", "    left -= 1"]
        lines += ["for i in range(n):", "    bar[i] = 0.0"]
    else:
        lines += ["for i in range(n):", "    bar[i] = ys_bar[0, i]"]
    if plan.shared:
        used = max(programs[name].maps_used for name in ("adjoint", "adjoint_dense")
                   if name in programs.sources)  # fmt: skip
        lines += [
            f"map_later = {used} + first_map",
            f"map_first = {used + 1} + first_map",
            "for i in range(n):",
            "    kbar[i] = 0.0",
            "y_later = end",
            "if rows > 0:",
            "    " + programs.kernels.linearization("t_last", "y_later", "map_later", "k_later"),
        ]
    return lines


def _segments(programs: Programs) -> list[str]:
    """Three levels of states: kept by the forward pass, and recomputed twice."""
    replay = programs["replay"]
    step = {"t": "mesh[0, row]", "h": "mesh[1, row]"}
    advance = [
        *programs.increment(step["t"], step["h"], "row"),
        replay.call(
            step | {"y": "cur"} | programs.noise,
            dict.fromkeys(replay.outputs, "cur_new"),
        ),
        "cur, cur_new = cur_new, cur",
    ]
    return [
        "slots = states.shape[0]",
        "stride = 1",
        "while (rows + stride - 1) // stride > slots:",  # as often as the forward pass doubled it
        "    stride *= 2",
        "kept = (rows + stride - 1) // stride",
        "second = np.empty((slots, n), states.dtype)",
        "longest = (stride + slots - 1) // slots",
        "third = np.empty((longest, n), states.dtype)",
        "for i in range(kept - 1, -1, -1):",
        "    low = i * stride",
        "    high = min(rows, low + stride)",
        "    pace = (high - low + slots - 1) // slots",
        "    count = (high - low + pace - 1) // pace",
        "    alone = high - low == 1",  # at hand without a copy, as most states are
        "    if not alone:",
        "        for c in range(n):",
        "            cur[c] = states[i, c]",
        "            second[0, c] = cur[c]",
        "    for row in range(low, low + pace * (count - 1)):",
        *indent(advance, 2),
        "        if (row + 1 - low) % pace == 0:",
        "            for c in range(n):",
        "                second[(row + 1 - low) // pace, c] = cur[c]",
        "    for j in range(count - 1, -1, -1):",
        "        begin = low + j * pace",
        "        stop = min(high, begin + pace)",
        "        if not alone:",
        "            for c in range(n):",
        "                cur[c] = second[j, c]",
        "                third[0, c] = cur[c]",
        "        for row in range(begin, stop - 1):",
        *indent(advance, 3),
        "            for c in range(n):",
        "                third[row + 1 - begin, c] = cur[c]",
        "        for row in range(stop - 1, begin - 1, -1):",
        *indent(_row(programs, "states[i] if alone else third[row - begin]"), 3),
    ]


def _undone(programs: Programs) -> list[str]:
    """No states at all: every step is undone before it is transposed."""
    retreat = programs["retreat"]
    return [
        "for c in range(n):",
        "    cur[c] = end[c]",
        "for row in range(rows - 1, -1, -1):",
        *indent(programs.increment("mesh[0, row]", "mesh[1, row]", "row")),
        "    "
        + retreat.call(
            {"t": "mesh[0, row]", "h": "mesh[1, row]", "y": "cur"} | programs.noise,
            dict.fromkeys(retreat.outputs, "cur_new"),
        ),
        "    cur, cur_new = cur_new, cur",
        *indent(_row(programs, "cur")),
    ]


def _row(programs: Programs, y: str) -> list[str]:
    """Source of a transposed step from the state ``y``."""
    plan, spec = programs.plan, programs.plan.spec
    lines = ["t = mesh[0, row]", "h = mesh[1, row]", f"y = {y}"]
    scalars = {"t": "t", "h": "h", "rtol": "rtol", "atol": "atol", "penalty_bar": "penalty_bar",
               "naccept": "naccept", "row": "float(row)"}  # fmt: skip
    for i in range(len(spec.terms)):
        scalars |= {name: name for name in (f"weight{i}", f"at{i}", f"r{i}_bar")}
    if spec.terms:
        seed = programs["seed"]
        lines.append(seed.call(scalars, {name: name for name in seed.results}))
    if spec.dense or plan.shared:
        lines.append("t_next = mesh[0, row + 1] if row + 1 < rows else t_last")
    if spec.dense:
        lines += _outputs(programs)
    lines += programs.increment("t", "h", "row")
    calls = {name: _adjoint_call(programs, name, scalars) for name in ("adjoint", "adjoint_dense")
             if name in programs.sources}  # fmt: skip
    if plan.adjoint_dense is not None:
        lines += ["if inner:", "    " + calls["adjoint_dense"], "else:", "    " + calls["adjoint"]]
    else:
        lines.append(calls["adjoint"])
    if spec.dense:
        lines += ["if inner:", "    for c in range(n):", "        bar_new[c] += sum_y_bar[c]"]
    lines.append("bar, bar_new = bar_new, bar")
    if plan.pick is not None:
        lines += [
            f"if float(row) == {picked('row_picked')}:",
            "    for c in range(n):",
            "        bar[c] += ys_bar[ys_bar.shape[0] - 1, c]",
        ]
    if plan.shared:
        lines += [
            "k_later, k_first = k_first, k_later",
            "kbar, kbar_new = kbar_new, kbar",
            "map_later, map_first = map_first, map_later",
            "y_later = y if alone else y_copy",
            "if not alone:",
            "    for c in range(n):",
            "        y_copy[c] = y[c]",
        ]
    return lines


def _adjoint_call(programs: Programs, name: str, scalars: dict[str, str]) -> str:
    plan, source = programs.plan, programs[name]
    program = plan.programs()[name]
    last = f"k{plan.spec.tableau.stages}"
    values = scalars | {
        **programs.noise, "y": "y", "y1_bar": "bar", "k_next_bar": "kbar", last: "k_later",
        f"{last}_map": "map_later", f"{last}_map@t": "t_next", f"{last}_map@y": "y_later",
    }  # fmt: skip
    if plan.dense is not None and plan.read_adjoint is not None:
        values |= {name: f"sum_{name}" for name, _ in plan.read_adjoint.outputs if name != "y_bar"}
    slots = dict(program.outputs)
    outputs = {slots["y_bar"]: "bar_new"}
    if plan.shared:
        outputs |= {
            slots["k1"]: "k_first", slots["k1_bar"]: "kbar_new", slots["k1_map"]: "map_first",
        }  # fmt: skip
    return source.call(values, outputs)


def _outputs(programs: Programs) -> list[str]:
    """Cotangents of the output times in a row."""
    plan, source = programs.plan, programs["read_adjoint"]
    assert plan.read_adjoint is not None
    parts = _parts(plan.read_adjoint)
    outputs = plan.read_adjoint.outputs
    sums = [f"{_sum(name)}[c] += {parts[slot]}[c]" for name, slot in outputs]
    zeros = [f"{_sum(name)}[c] = 0.0" for name, _ in outputs]
    values = {"theta": "theta", "y_theta_bar": "ys_bar[left]"}
    place = ["theta = (t_eval[left] - t) / h"]
    if plan.dense is None:
        values |= {"t": "t", "h": "shorter", "y": "y"} | programs.noise
        place = [
            "shorter = brownian_share(t_eval[left], t, h)",
            *programs.increment("t", "shorter", "row"),
        ]
    return [
        "inner = False",
        "while left >= 0 and (t_eval[left] - t) * direction > 0.0:",
        "    if t_eval[left] == t_next:",
        "        for c in range(n):",
        "            bar[c] += ys_bar[left, c]",
        "    else:",
        "        if not inner:",
        "            inner = True",
        "            for c in range(n):",
        *indent(zeros, 4),
        *indent([*place, source.call(values, parts)], 2),
        "        for c in range(n):",
        *indent(sums, 3),
        "    left -= 1",
    ]


def _finish(programs: Programs) -> list[str]:
    plan = programs.plan
    lines: list[str] = []
    if plan.shared:
        lines += [
            "if rows > 0:",
            "    " + programs.kernels.pulled("t0", "y_later", "map_later", "kbar", "bar_new"),
            "    for c in range(n):",
            "        bar[c] += bar_new[c]",
        ]
    if plan.spec.dense:
        lines += [
            "while left >= 0:",
            "    for c in range(n):",
            "        bar[c] += ys_bar[left, c]",
            "    left -= 1",
        ]
    return [*lines, "for c in range(n):", "    y0_bar[c] = bar[c]"]


def many_reverse_source(programs: Programs, decorator: str) -> str:
    """Source of ``pull_many``: every sample solved again with its tape, then pulled back."""
    kernels = programs.kernels
    sample, tail = kernels.sample, kernels.tail
    recorded = "_, " if programs.plan.spec.record else ""
    environment = (
        f"{kernels.loop_environment}, {kernels.linearize_environment}, "
        f"{kernels.pullback_environment}"
    )
    return f"""
{decorator}
def pull_many(start, stop, t0, t1, y0, parameters, weights, t_eval, ys, info, states, end,
              ys_bar, penalty_bar, y0_bar, W, T, V, residuals, {environment}, A_bar):
    for {sample or "b"} in range(start, stop):
        b = {sample or "b"}
        {recorded}mesh, = solve_kept(
            t0, t1, y0[b], parameters, weights, t_eval[b], ys, info[b], W, T, states, end,
            {kernels.loop_environment}{tail})
        pull_one(t0, t1, parameters, weights, t_eval[b], info[b], mesh, states, end,
                 ys_bar[b], penalty_bar[b], y0_bar[b], V, T, residuals,
                 {environment}, A_bar{tail})
"""
