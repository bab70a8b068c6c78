"""The forward solve of an ensemble as Numba source: several samples in the lanes of registers.

A small state leaves most of a core idle, as every operation waits for the one before. Here one
attempt is made of :data:`LANES` samples at once, each with its own time and step size, by a loop
over the samples whose whole body LLVM turns into vector instructions. Nothing in it may branch:
what a sample that has rejected its step, or is done, would change is selected instead. A lane whose
sample is done is given the next one, so that lanes are only idle at the very end.
"""

from __future__ import annotations

from dataclasses import replace

from ndereg.backends.numba.fields import FieldKernels
from ndereg.backends.numba.forward import INFO, PARAMETERS, RUNNING, Programs, indent, scalar_values
from ndereg.backends.numba.signatures import Kernels, Numbers
from ndereg.plan.control import MEMORY, MEMORY_START, SPACING
from ndereg.plan.lower import Plan

LANES = 8
"""Samples at once; also the fewest for which this is faster than one after another."""

MOST_ENTRIES = 16
"""Entries of the largest state that is solved like this: all stages of a sample are registers."""

_COUNTERS = ("nfev", "nsteps", "naccept")
_ONCE = ("first", "first_given", "finish")
_SUMS, _POWERS = ("step",), ("begin", "control", "accumulate")


def packable(plan: Plan, kernels: FieldKernels, numbers: Numbers, names: Kernels) -> bool:
    """Whether samples can be solved at once: small and real, asked for their ends alone."""
    plain = asked_for_ends(plan) and not (numbers.complex or names.driven)
    # scratch arrays are those of fields with loops, or matrix products
    source = kernels.source.partition("def linearize")[0]
    straight = not kernels.field[0].work and "for " not in source
    small = bool(numbers.rooms(names, "y0")) and (numbers.entries or 0) <= MOST_ENTRIES
    return plain and straight and small


def asked_for_ends(plan: Plan) -> bool:
    """Whether a solve returns the ends of its samples, and nothing on the way to them."""
    return not (plan.spec.record or plan.spec.dense or plan.pick is not None)


def packed_source(plan: Plan, numbers: Numbers, names: Kernels, kernels: FieldKernels) -> str:
    """Source of ``solve_packed`` with the programs and the field it calls."""
    programs = Programs(plan, numbers, names, "@program")
    step = Programs(plan, numbers, names, "@inlined_program")
    # the elementary functions that powers are made of rely on the order of their sums
    control = Programs(plan, replace(numbers, branchless=True), names, "@inlined")
    field = kernels.source.partition("@kernel\ndef linearize")[0]
    field = field.replace("@kernel\ndef field", "@inlined\ndef field")
    imports = "from ndereg.backends.numba.compiler import inlined, inlined_program"
    texts = [
        imports, field, programs.text(_ONCE), step.text(_SUMS), control.text(_POWERS),
        _solve(programs),
    ]  # fmt: skip
    return "\n\n".join(text for text in texts if text)


class _Lanes:
    """Names of what every lane holds; the array of a scalar ``x`` is ``x_lanes``."""

    def __init__(self, programs: Programs) -> None:
        plan = programs.plan
        self.vectors = ("y", "k1") if plan.carried else ("y",)
        self.penalties = tuple(f"P{i}" for i in range(len(plan.spec.terms)))
        self.latest = tuple(
            f"at{i}" for i, term in enumerate(plan.spec.terms) if term.reduce == "max"
        )
        kept = programs["control"].results
        memory = tuple(name for name in MEMORY if name in kept and name != "rejected")
        self.scalars = ("t", "h", "status", *_COUNTERS, *memory, *self.penalties, *self.latest)

    def start(self, name: str) -> str:
        """Source of a scalar's first value."""
        known = {"t": "t0", "h": "0.0", "status": repr(RUNNING)}
        known |= {name: repr(value) for name, value in zip(MEMORY, MEMORY_START, strict=True)}
        return known.get(name, "-1.0" if name in self.latest else "0.0")


def _solve(programs: Programs) -> str:
    lanes = _Lanes(programs)
    head = (
        "@program\n"
        "def solve_packed(start, stop, t0, t1, y0, parameters, weights, samples, ys, info, T,\n"
        f"                 {programs.kernels.field_environment}):"
    )
    body = [
        *_setup(programs, lanes),
        "while left > 0:",
        *indent(["if running < held:", *indent(_exchange(programs, lanes))]),
        "    running = 0.0",
        f"    for lane in range({LANES}):",
        *indent(_attempt(programs, lanes), 2),
    ]
    return "\n".join([head, *indent(body)]) + "\n"


def _setup(programs: Programs, lanes: _Lanes) -> list[str]:
    entries = programs.numbers.entries
    assert entries is not None
    lines = [f"n = {entries}", "samples = entries(samples)"]
    lines += [f"{name} = {programs.small}" for name in (*lanes.vectors, "y1", "k_next")]
    lines += [f"{name}_lanes = room(y0, {LANES * entries})" for name in lanes.vectors]
    lines += [f"{name}_lanes = room(parameters, {LANES})" for name in lanes.scalars]
    lines += [f"rejected_lanes = room(parameters, {LANES})", f"busy = room(parameters, {LANES})"]
    lines += [f"{name} = parameters[{i}]" for i, name in enumerate(PARAMETERS)]
    lines += [f"weight{i} = weights[{i}]" for i in range(len(programs.plan.spec.terms))]
    lines += [
        f"spacing = {SPACING!r}",
        "direction = 1.0 if t1 >= t0 else -1.0",
        "span = abs(t1 - t0)",
        "dt = dt * direction",
        f"for lane in range({LANES}):",
        "    samples[lane] = start",
        "    busy[lane] = 0.0",
        "    rejected_lanes[lane] = 0.0",
        *(f"    {name}_lanes[lane] = {lanes.start(name)}" for name in lanes.scalars),
        "    status_lanes[lane] = 0.0",
        f"for i in range({LANES * entries}):",
        *(f"    {name}_lanes[i] = 0.0" for name in lanes.vectors),
        "following = start",
        "left = stop - start",
        "running = 0.0",
        "held = 1.0",
    ]
    return lines


def _exchange(programs: Programs, lanes: _Lanes) -> list[str]:
    """Write what is done, and give its lane the next sample."""
    return [
        "held = 0.0",
        f"for lane in range({LANES}):",
        f"    while status_lanes[lane] != {RUNNING!r}:",
        "        if busy[lane] == 1.0:",
        *indent(_write(programs, lanes), 3),
        "            busy[lane] = 0.0",
        "            left -= 1",
        "        if following == stop:",
        "            break",
        *indent(_open(programs, lanes), 2),
        "    held += busy[lane]",
    ]


def _write(programs: Programs, lanes: _Lanes) -> list[str]:
    lines = ["sample = samples[lane]", "penalty = 0.0"]
    lines += [f"{name} = {name}_lanes[lane]" for name in lanes.scalars]
    if lanes.penalties:
        lines.append(programs["finish"].call(scalar_values(programs), {"penalty": "penalty"}))
    lines += [f"info[sample, {i}] = {name}" for i, name in enumerate(INFO[:-1])]
    lines.append(f"info[sample, {len(INFO) - 1}] = t")
    lines += [f"info[sample, {len(INFO) + int(name[2:])}] = {name}" for name in lanes.latest]
    return [*lines, "for i in range(n):", f"    ys[sample, 0, i] = y_lanes[i * {LANES} + lane]"]


def _open(programs: Programs, lanes: _Lanes) -> list[str]:
    values = scalar_values(programs) | {"y": "y"}

    def begin(name: str) -> list[str]:
        source = programs[name]
        outputs = {"h": "h", "status": "status", "k1": "k1"}
        called = source.call(values, outputs | dict.fromkeys(source.outputs, "k1"))
        return [called, f"nfev = {programs.evaluations(name)!r}"]

    chosen = begin("first_given")
    if programs.plan.spec.adaptive:
        chosen = ["if first_step == first_step:", *indent(chosen), "else:",
                  *indent(begin("first"))]  # fmt: skip
    lines = ["sample = following", "following += 1", "samples[lane] = sample", "busy[lane] = 1.0"]
    lines += [f"{name} = {lanes.start(name)}" for name in lanes.scalars]
    lines += ["for i in range(n):", "    y[i] = y0[sample, i]", "    k1[i] = y0[sample, i]"]
    if "k1" not in lanes.vectors:
        lines.pop()
    lines += ["if t0 == t1:", "    status = 0.0", "else:", *indent(chosen)]
    lines += [f"{name}_lanes[lane] = {name}" for name in lanes.scalars]
    lines += ["rejected_lanes[lane] = 0.0", "for i in range(n):"]
    return [
        *lines,
        *(f"    {name}_lanes[i * {LANES} + lane] = {name}[i]" for name in lanes.vectors),
    ]


def _attempt(programs: Programs, lanes: _Lanes) -> list[str]:
    plan = programs.plan
    scalars = scalar_values(programs) | {"row": "naccept"}
    slot_of = dict(plan.step.outputs)
    lines = ["sample = samples[lane]"]
    lines += [f"{name} = {name}_lanes[lane]" for name in lanes.scalars]
    lines += ["rejected = rejected_lanes[lane] != 0.0", "for i in range(n):"]
    lines += [f"    {name}[i] = {name}_lanes[i * {LANES} + lane]" for name in lanes.vectors]
    begin, step, control = programs["begin"], programs["step"], programs["control"]
    lines.append(
        begin.call(scalars | {"remaining": "(t1 - t)"}, {"h_try": "h_try", "last": "last"})
    )
    scalars["h"] = "h_try"
    taken = {"y": "y1"} | ({"k1": "k_next"} if plan.carried else {})
    targets = {slot: slot for slot in step.outputs} | {name: name for name in step.results}
    targets |= {slot_of[new]: new for new in taken.values() if new in slot_of}
    lines.append(step.call(scalars | {"y": "y", "k1": "k1"}, targets))
    results = {name: f"{name}_new" for name in control.results} | {"accept": "accept"}
    lines += [control.call(scalars, results), f"live = select(status == {RUNNING!r}, 1.0, 0.0)"]
    lines += ["t_next = select(last, t1, t + h_try)"]
    lines += ["t_lanes[lane] = select(accept, t_next, t)", "h_lanes[lane] = h_next_new"]
    lines += [
        f"nfev_lanes[lane] = nfev + {programs.evaluations('step')!r} * live",
        "nsteps_lanes[lane] = nsteps + live",
        "naccept_lanes[lane] = naccept + select(accept, 1.0, 0.0)",
        "status_lanes[lane] = status_new",
        f"running += select(status_new == {RUNNING!r}, 1.0, 0.0)",
    ]
    for name in (name for name in MEMORY if name in control.results):
        new = "select(rejected_new, 1.0, 0.0)" if name == "rejected" else f"{name}_new"
        lines.append(f"{name}_lanes[lane] = {new}")
    if lanes.penalties:
        accumulate = programs["accumulate"]
        counted = scalars | {"naccept": "(naccept + 1.0)", "attempts": "(nsteps + 1.0)"}
        lines.append(accumulate.call(counted, {name: f"{name}_new" for name in accumulate.results}))
        lines += [f"{name}_lanes[lane] = {name}_new" for name in accumulate.results]
    lines.append("for i in range(n):")
    return [*lines, *(f"    {name}_lanes[i * {LANES} + lane] = select(accept, {new}[i], {name}[i])"
                      for name, new in taken.items())]  # fmt: skip
