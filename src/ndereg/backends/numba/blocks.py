"""The forward solve of samples that take the same steps, as Numba source: blocks of them at once.

Constant steps are the same for all samples, so what is decided about a step is decided once, and
the noise of a step is drawn for a whole block. The step itself is a loop over the samples whose
body LLVM turns into vector instructions, as in :mod:`ndereg.backends.numba.packed`; the states of a
block stay in the first cache from the first step to the last.

Everything here assumes that nothing happens: a block in which a sample becomes infinite, or a step
does not move the time, is given back, to be solved one sample after another.
"""

from __future__ import annotations

from ndereg.backends.numba.fields import FieldKernels
from ndereg.backends.numba.forward import INFO, RUNNING, Programs, indent, scalar_values
from ndereg.backends.numba.noise import Drive
from ndereg.backends.numba.packed import MOST_ENTRIES, asked_for_ends
from ndereg.backends.numba.signatures import Kernels, Numbers
from ndereg.plan.control import SPACING
from ndereg.plan.lower import Plan

MOST_AT_ONCE = 512
"""Entries of the states of a block, or as many as are needed for :data:`FEWEST_AT_ONCE` samples."""
FEWEST_AT_ONCE = 64

_ONCE = ("first_given", "begin", "control")


def blockable(
    plan: Plan, kernels: FieldKernels, numbers: Numbers, names: Kernels, drive: Drive | None
) -> bool:
    """Whether samples can be solved in blocks: constant steps of a small real state with noise.

    They are asked for their ends alone, without a penalty, and have noise of their own.
    """
    if drive is None or plan.spec.adaptive or plan.spec.terms or not asked_for_ends(plan):
        return False
    straight = all(not kernel.work and "for " not in kernel.source for kernel in kernels.field)
    small = bool(numbers.rooms(names, "y0")) and (numbers.entries or 0) <= MOST_ENTRIES
    return straight and small and not numbers.complex and bool(kernels.field) and drive.apart


def samples_at_once(entries: int) -> int:
    """Samples of a block."""
    return max(MOST_AT_ONCE // entries, FEWEST_AT_ONCE)


def blocks_source(
    plan: Plan, numbers: Numbers, names: Kernels, kernels: FieldKernels, drive: Drive
) -> str:
    """Source of ``solve_blocks`` with the programs and the fields it calls."""
    once = Programs(plan, numbers, names, "@program", drive)
    inside = Programs(plan, numbers, names, "@inlined_program", drive)
    fields = "\n\n".join(kernel.source for kernel in kernels.field)
    fields = fields.replace("@kernel\ndef field", "@inlined\ndef field")
    start = inside["first_given"].text.replace("def run_first_given", "def run_start")
    texts = [
        "from ndereg.backends.numba.compiler import inlined, inlined_program",
        fields, once.text(_ONCE), start, inside.text(("step",)), _solve(once), _blocks(once),
    ]  # fmt: skip
    return "\n\n".join(texts)


class BlockRows:
    """Names of the vectors that a block holds for each of its samples."""

    def __init__(self, programs: Programs) -> None:
        self.names = ("y", "k1") if programs.plan.carried else ("y",)


def _blocks(programs: Programs) -> str:
    """Source of the loop over the blocks; ``given_back`` are the starts of those that failed."""
    environment = programs.kernels.loop_environment
    size = samples_at_once(programs.numbers.entries or 1)
    return f"""
@program
def solve_blocks(start, stop, t0, t1, y0, parameters, ys, info, given_back, lanes, T,
                   {environment}):
    failed = 0
    for first in range(start, stop, {size}):
        last = min(stop, first + {size})
        if not solve_block(first, last, t0, t1, y0, parameters, ys, info, lanes, T,
                           {environment}):
            given_back[failed] = first
            failed += 1
    return failed
"""


def _solve(programs: Programs) -> str:
    head = (
        "@program\n"
        "def solve_block(start, stop, t0, t1, y0, parameters, ys, info, lanes, T,\n"
        f"                {programs.kernels.loop_environment}):"
    )
    body = [
        *block_setup(programs),
        *_open(programs),
        f"while status == {RUNNING!r}:",
        *indent(_attempt(programs)),
        *_write(programs),
        "return True",
    ]
    return "\n".join([head, *indent(body)]) + "\n"


def block_setup(programs: Programs) -> list[str]:
    """Source of the names that a block of samples is known by."""
    drive, entries = programs.drive, programs.numbers.entries
    assert drive is not None
    assert entries is not None
    size = samples_at_once(entries)
    lines = [f"n = {entries}", "size = stop - start"]
    lines += [
        f"{name}_lanes = entries_from(lanes, {i * size * entries})"
        for i, name in enumerate(BlockRows(programs).names)
    ]
    lines += [f"{name} = {programs.small}" for name in ("y", "y1", "k1", "k_next")]
    lines += [f"{name} = parameters[{i}]" for i, name in enumerate(programs.parameters)]
    lines += drive.block("size", "start")
    return [
        *lines,
        f"spacing = {SPACING!r}",
        "direction = 1.0 if t1 >= t0 else -1.0",
        "span = abs(t1 - t0)",
        "dt = dt * direction",
    ]


def _open(programs: Programs) -> list[str]:
    """Load the states, and look whether all of them can start."""
    values = scalar_values(programs) | {"y": "y", "t": "t"}
    first = programs["first_given"]

    def begin(name: str, status: str, h: str) -> str:
        outputs = {"h": h, "status": status} | dict.fromkeys(first.outputs, "k1")
        return first.call(values, outputs).replace("run_first_given", name)

    loaded = ["for i in range(n):", "    y[i] = y0[sample, i]"]
    stored = [
        f"    {name}_lanes[i * size + lane] = {name}[i]" for name in BlockRows(programs).names
    ]
    return [
        "t = t0",
        "sample = start",
        *loaded,
        begin("run_first_given", "status", "h"),
        "held = 0.0",
        "for lane in range(size):",
        *indent(
            [
                "sample = start + lane",
                *loaded,
                begin("run_start", "started", "_"),
                f"held += select(started == {RUNNING!r}, 0.0, 1.0)",
                "for i in range(n):",
                *stored,
            ]
        ),
        "if held != 0.0:",
        "    return False",
        f"nfev = {programs.evaluations('first_given')!r}",
        "nsteps = 0.0",
        "naccept = 0.0",
        "rows = 0",
        "finite = 1.0",
    ]


def _attempt(programs: Programs) -> list[str]:
    scalars = scalar_values(programs)
    begin, control = programs["begin"], programs["control"]
    lines = [
        begin.call(scalars | {"remaining": "(t1 - t)"}, {"h_try": "h_try", "last": "last"}),
        *programs.increment("t", "h_try", "rows"),
        "lost = 0.0",
        "for lane in range(size):",
        *indent(_step(programs)),
    ]
    scalars["h"] = "h_try"
    results = {name: f"{name}_new" for name in control.results} | {"accept": "accept"}
    return [
        *lines,
        "if lost != 0.0:",
        "    return False",
        control.call(scalars, results),
        "if not accept:",
        "    return False",
        f"nfev += {programs.evaluations('step')!r}",
        "nsteps += 1.0",
        "naccept += 1.0",
        "rows += 1",
        "t = t1 if last else t + h_try",
        "h = h_next_new",
        "status = status_new",
    ]


def _step(programs: Programs) -> list[str]:
    """One step of the sample in a lane."""
    plan, step = programs.plan, programs["step"]
    drive = programs.drive
    assert drive is not None
    slot_of = dict(plan.step.outputs)
    taken = {"y": "y1"} | ({"k1": "k_next"} if plan.carried else {})
    targets = {slot: slot for slot in step.outputs} | {name: name for name in step.results}
    targets |= {slot_of[new]: new for new in taken.values() if new in slot_of}
    targets["finite"] = "whole"
    scalars = scalar_values(programs) | {"h": "h_try"} | drive.of_lane("lane")
    return [
        "sample = start + lane",
        "for i in range(n):",
        *(f"    {name}[i] = {name}_lanes[i * size + lane]" for name in taken),
        step.call(scalars | {"y": "y", "k1": "k1"}, targets),
        "lost += select(whole == 1.0, 0.0, 1.0)",
        "for i in range(n):",
        *(f"    {name}_lanes[i * size + lane] = {new}[i]" for name, new in taken.items()),
    ]


def _write(programs: Programs) -> list[str]:
    lines = ["penalty = 0.0", "for lane in range(size):"]
    lines += [f"    info[start + lane, {i}] = {name}" for i, name in enumerate(INFO[:-1])]
    lines.append(f"    info[start + lane, {len(INFO) - 1}] = t")
    lines += ["    for i in range(n):", "        ys[start + lane, 0, i] = y_lanes[i * size + lane]"]
    return lines
