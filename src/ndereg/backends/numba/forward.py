"""The forward solve of one sample as Numba source: the programs of a plan inside a while loop."""

from __future__ import annotations

from dataclasses import replace

from ndereg.backends.numba.noise import Drive
from ndereg.backends.numba.programs import emit_program
from ndereg.backends.numba.signatures import Kernels, Numbers, ProgramSource
from ndereg.plan.control import MEMORY, MEMORY_START, SPACING
from ndereg.plan.lower import Plan
from ndereg.spec.controller import CONTROL_PARAMETERS
from ndereg.spec.status import Status

PARAMETERS = (*CONTROL_PARAMETERS, "rtol", "atol", "max_steps", "first_step", "dt", "cell")
"""Run-time numbers in the parameter array, before what steps read of a stochastic equation."""

COUNTS = ("nfev", "nsteps", "naccept", "status")
INFO = (*COUNTS, "penalty", "t_end")
"""What a solve reports in the info array, before the reductions of the penalty."""
PICK = ("uniform", "t_picked", "row_picked", "h_picked")
"""What a solve is given and reports at the end of that array where it picks one of its steps. The
state there is in the last row of the outputs."""

RUNNING = float(Status.RUNNING)


class Programs:
    """Every program of a plan, emitted; ``drive`` is the noise of a stochastic equation."""

    def __init__(
        self,
        plan: Plan,
        numbers: Numbers,
        kernels: Kernels,
        decorator: str,
        drive: Drive | None = None,
    ) -> None:
        self.plan, self.numbers, self.kernels, self.drive = plan, numbers, kernels, drive
        self.sources: dict[str, ProgramSource] = {}
        known: dict[str, ProgramSource] = {}
        for name, program in plan.programs().items():
            source = emit_program(program, f"run_{name}", numbers, kernels, decorator)
            # a step to an output time is that of the tape: equal programs are one function
            equal = known.setdefault(source.text.partition("(")[2], source)
            self.sources[name] = replace(source, name=equal.name, text=equal.text)

    @property
    def small(self) -> str:
        """Source of room for a state of the loop, if that is in registers; else empty."""
        return self.numbers.rooms(self.kernels, "y0")

    def __getitem__(self, name: str) -> ProgramSource:
        return self.sources[name]

    def text(self, names: tuple[str, ...]) -> str:
        """Source of the named programs that the plan has."""
        texts = [self.sources[name].text for name in names if name in self.sources]
        return "\n".join(dict.fromkeys(texts))

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the numbers in the parameter array."""
        return PARAMETERS if self.drive is None else (*PARAMETERS, *self.drive.medium)

    def increment(self, t: str, h: str, row: str) -> list[str]:
        """Source that looks up the noise of a step, where there is any."""
        return [] if self.drive is None else self.drive.increment(t, h, row)

    @property
    def noise(self) -> dict[str, str]:
        """Source of the noise of the step that was looked up last, and of the medium."""
        return {} if self.drive is None else self.drive.values()

    def temporaries(self) -> int:
        """Scratch rows that the programs need."""
        return max(source.temporaries for source in self.sources.values())

    def evaluations(self, name: str) -> float:
        """Field evaluations of a program."""
        return float(self.plan.programs()[name].evaluations())


FORWARD_PROGRAMS = (
    "first", "first_given", "begin", "step", "control", "accumulate", "finish", "dense", "read",
    "pick",
)  # fmt: skip


def indent(lines: list[str], levels: int = 1) -> list[str]:
    """Indented source lines."""
    return ["    " * levels + line for line in lines]


class ForwardRows:
    """Names of the rows of the workspace ``W`` that the forward loop uses."""

    def __init__(self, programs: Programs) -> None:
        plan = programs.plan
        self.names = ["y", "y1"] + (["k1", "k_next"] if plan.carried else [])
        step, self.dense_vectors = programs["step"], ()
        self.stage_slots = {
            slot: f"stage_{slot}" for slot in step.outputs if slot not in self._known(programs)
        }
        self.names += list(self.stage_slots.values())
        if plan.dense is not None:
            self.names += [f"q_{slot}" for slot in programs["dense"].outputs]

    @staticmethod
    def _known(programs: Programs) -> set[str]:
        program = programs.plan.step
        return {slot for name, slot in program.outputs if name in ("y1", "k_next")}


def forward_source(programs: Programs, decorator: str, keep: bool, name: str = "solve_one") -> str:
    """Source of a forward solve; it calls the programs of :data:`FORWARD_PROGRAMS`.

    With ``keep`` it leaves what the reverse pass reads: the state at the ``end`` and at some of the
    accepted steps in ``states``, and in the mesh that is returned the time and size of all. The
    recorded attempts come before it where the plan asks for them. Nothing else is returned, as an
    array object takes as long to make as several steps of a small state.
    """
    rows = ForwardRows(programs)
    head = [
        decorator,
        (
            f"def {name}(t0, t1, y0, parameters, weights, t_eval, ys, info, W, T, "
            f"{'states, end, ' if keep else ''}{programs.kernels.loop_environment}"
            f"{programs.kernels.tail}):"
        ),
    ]
    body = _setup(programs, rows, keep)
    loop = ["while status == -1.0:", *indent(_attempt(programs, rows, keep))]
    finish = _finish(programs, keep)
    return "\n".join([*head, *indent([*body, *loop, *finish])]) + "\n"


def _setup(programs: Programs, rows: ForwardRows, keep: bool) -> list[str]:
    spec = programs.plan.spec
    small = programs.small
    lines = [f"n = {programs.numbers.entries}" if small else "n = y0.shape[0]"]
    lines += [f"{name} = {small or f'W[{i}]'}" for i, name in enumerate(rows.names)]
    lines += [f"{name} = parameters[{i}]" for i, name in enumerate(programs.parameters)]
    if programs.drive is not None:
        lines += programs.drive.setup(programs.kernels.sample)
    # not the literal False: programs called with a literal would be compiled a second time
    start = {name: "t0 != t0" if value is False else repr(value)
             for name, value in zip(MEMORY, MEMORY_START, strict=True)}  # fmt: skip
    lines += [f"{name} = {value}" for name, value in start.items()]
    for i, term in enumerate(spec.terms):
        lines += [f"P{i} = 0.0", f"weight{i} = weights[{i}]"]
        if term.reduce == "max":
            lines.append(f"at{i} = -1.0")
    lines += [
        f"spacing = {SPACING!r}",
        "direction = 1.0 if t1 >= t0 else -1.0",
        "span = abs(t1 - t0)",
        "dt = dt * direction",
        "t = t0",
        "h = 0.0",
        f"status = {RUNNING!r}",
        "nfev = 0.0",
        "nsteps = 0.0",
        "naccept = 0.0",
        "rows = 0",
        "for i in range(n):",
        "    y[i] = y0[i]",
    ]
    if keep:
        lines.append("mesh = np.empty((2, 64))")
        if programs.plan.retreat is None:
            lines += ["slots = states.shape[0]", "kept = 0", "stride = 1"]
    if spec.record:
        lines.append("recorded = np.empty((5, 64))")
    if programs.plan.pick is not None:
        lines += [f"uniform = {picked('uniform')}", *_picked("t0", "-1.0", "0.0", "y0")]
    if spec.dense:
        lines += [
            "passed = 0",
            "while passed < t_eval.shape[0] and t_eval[passed] == t0:",
            "    for i in range(n):",
            "        ys[passed, i] = y0[i]",
            "    passed += 1",
        ]
    lines += ["if t0 == t1:", "    status = 0.0", "else:", *indent(_start(programs))]
    return lines


def _start(programs: Programs) -> list[str]:
    values = scalar_values(programs) | programs.noise | {"y": "y"}
    first, given = programs["first"], programs["first_given"]
    outputs = {"h": "h", "status": "status", "k1": "k1"}

    def begin(source: ProgramSource, name: str) -> list[str]:
        called = source.call(values, outputs | dict.fromkeys(source.outputs, "k1"))
        return [called, f"nfev += {programs.evaluations(name)!r}"]

    if not programs.plan.spec.adaptive:
        return begin(given, "first_given")
    return [
        "if first_step == first_step:",
        *indent(begin(given, "first_given")),
        "else:",
        *indent(begin(first, "first")),
    ]


def scalar_values(programs: Programs) -> dict[str, str]:
    """Source of the scalars that the programs of the loop read."""
    names = [
        *PARAMETERS, *MEMORY, "spacing", "direction", "span", "t", "h", "last", "status", "E",
        "finite", "accept",
    ]  # fmt: skip
    values = {name: name for name in names}
    for i in range(len(programs.plan.spec.terms)):
        values |= {name: name for name in (f"P{i}", f"at{i}", f"r{i}", f"weight{i}")}
    return values | {"row": "float(rows)", "naccept": "naccept", "attempts": "nsteps"}


def _attempt(programs: Programs, rows: ForwardRows, keep: bool) -> list[str]:
    plan, spec = programs.plan, programs.plan.spec
    scalars = scalar_values(programs)
    lines = [
        programs["begin"].call(
            scalars | {"remaining": "(t1 - t)"}, {"h_try": "h_try", "last": "last"}
        )
    ]
    scalars["h"] = "h_try"
    lines += programs.increment("t", "h_try", "rows")
    vectors = {"y": "y", "k1": "k1"} | programs.noise
    step = programs["step"]
    slot_of = dict(plan.step.outputs)
    targets = {slot_of["y1"]: "y1"} | rows.stage_slots
    if "k_next" in slot_of:
        targets[slot_of["k_next"]] = "k_next"
    targets |= {name: name for name in step.results}
    lines.append(step.call(scalars | vectors, targets))
    control = programs["control"]
    results = {name: f"{name}_new" for name in control.results} | {"accept": "accept"}
    lines.append(control.call(scalars, results))
    lines += [f"nfev += {programs.evaluations('step')!r}", "nsteps += 1.0"]
    if spec.record:
        error = "E" if "E" in slot_of else "np.nan"
        stiffness = "S" if "S" in slot_of else "np.nan"
        lines += [
            "if int(nsteps) > recorded.shape[1]:",
            "    grown = np.empty((5, 2 * recorded.shape[1]))",
            "    for i in range(5):",
            "        for j in range(recorded.shape[1]):",
            "            grown[i, j] = recorded[i, j]",
            "    recorded = grown",
            "at = int(nsteps) - 1",
            "recorded[0, at] = t",
            "recorded[1, at] = h_try",
            f"recorded[2, at] = {error}",
            f"recorded[3, at] = {stiffness}",
            "recorded[4, at] = 1.0 if accept else 0.0",
        ]
    lines += ["if accept:", *indent(_advance(programs, rows, slot_of, keep))]
    lines += [f"{name} = {name}_new" for name in control.results if name in MEMORY]
    lines += ["h = h_next_new", "status = status_new"]
    return lines


def _advance(
    programs: Programs, rows: ForwardRows, slot_of: dict[str, str], keep: bool
) -> list[str]:
    plan, spec = programs.plan, programs.plan.spec
    scalars = scalar_values(programs)
    lines = ["t_next = t1 if last else t + h_try", "naccept += 1.0"]
    if spec.terms:
        accumulate = programs["accumulate"]
        lines.append(accumulate.call(scalars, {name: name for name in accumulate.results}))
    if spec.dense:
        lines += _answer(_outputs(programs, rows, slot_of))
    if plan.pick is not None:
        lines += [
            programs["pick"].call(
                scalars
                | {
                    "h": "h_try",
                    "remaining": "(t1 - t)",
                    "count": "(naccept - 1.0)",
                    "uniform": "uniform",
                },
                {"pick": "pick", "uniform": "uniform"},
            ),
            "if pick:",
            *indent(_picked("t", "float(rows)", "h_try", "y")),
        ]
    if keep:
        lines += _MESH if plan.retreat is not None else [*_MESH, *_KEEP]
    lines += ["rows += 1", "t = t_next"]
    taken = [("y", "y1"), *([("k1", "k_next")] if plan.carried else [])]
    if programs.small:  # registers have no address that could be swapped
        return [*lines, "for i in range(n):", *(f"    {old}[i] = {new}[i]" for old, new in taken)]
    return [*lines, *(f"{old}, {new} = {new}, {old}" for old, new in taken)]


_MESH = [
    "if rows == mesh.shape[1]:",
    "    longer = np.empty((2, 2 * rows))",
    "    for j in range(rows):",
    "        longer[0, j] = mesh[0, j]",
    "        longer[1, j] = mesh[1, j]",
    "    mesh = longer",
    "mesh[0, rows] = t",
    "mesh[1, rows] = h_try",
]
"""An accepted step on the tape."""

_KEEP = [
    "if rows % stride == 0 and kept == slots:",
    "    stride *= 2",
    "    kept = (kept + 1) // 2",
    "    for j in range(1, kept):",
    "        for i in range(n):",
    "            states[j, i] = states[2 * j, i]",
    "if rows % stride == 0:",
    "    for i in range(n):",
    "        states[kept, i] = y[i]",
    "    kept += 1",
]
"""The state at its start, where steps cannot be undone."""


def picked(name: str) -> str:
    """Source of an entry of :data:`PICK`."""
    return f"info[info.shape[0] - {len(PICK) - PICK.index(name)}]"


def _picked(t: str, row: str, h: str, y: str) -> list[str]:
    """Note the step that is picked so far."""
    return [
        f"{picked('t_picked')} = {t}",
        f"{picked('row_picked')} = {row}",
        f"{picked('h_picked')} = {h}",
        "for i in range(n):",
        f"    ys[ys.shape[0] - 1, i] = {y}[i]",
    ]


def _outputs(programs: Programs, rows: ForwardRows, slot_of: dict[str, str]) -> list[str]:
    """Source of an output within an accepted step."""
    read = programs["read"]
    read_out = dict.fromkeys(read.outputs, "ys[passed]")
    if programs.plan.dense is None:
        return [
            "shorter = brownian_share(t_eval[passed], t, h_try)",
            *programs.increment("t", "shorter", "rows"),
            read.call({"t": "t", "h": "shorter", "y": "y"} | programs.noise, read_out),
            f"nfev += {programs.evaluations('read')!r}",
        ]
    dense = programs["dense"]
    stages = {slot: rows.stage_slots.get(slot, "") for slot in dense.vectors}
    stages |= {slot_of["y1"]: "y1", "y": "y"}
    if "k_next" in slot_of:
        stages[slot_of["k_next"]] = "k_next"
    interpolant = {slot: f"q_{slot}" for slot in dense.outputs}
    by_name = dict(programs.plan.dense.outputs) if programs.plan.dense else {}
    coefficients = {name: interpolant[slot] for name, slot in by_name.items()}
    return [
        "if not ready:",
        "    " + dense.call({"t": "t", "h": "h_try"} | stages, interpolant),
        f"    nfev += {programs.evaluations('dense')!r}",
        "    ready = True",
        "theta = (t_eval[passed] - t) / h_try",
        read.call({"theta": "theta", "y": "y"} | coefficients, read_out),
    ]


def _answer(inside: list[str]) -> list[str]:
    """Output times of an accepted step; ``inside`` answers one that is not its end."""
    return [
        "ready = False",
        "while passed < t_eval.shape[0] and (t_eval[passed] - t_next) * direction <= 0.0:",
        "    if t_eval[passed] == t_next:",
        "        for i in range(n):",
        "            ys[passed, i] = y1[i]",
        "    else:",
        *indent(inside, 2),
        "    passed += 1",
    ]


def _finish(programs: Programs, keep: bool) -> list[str]:
    spec = programs.plan.spec
    lines = ["penalty = 0.0"]
    if spec.terms:
        lines.append(programs["finish"].call(scalar_values(programs), {"penalty": "penalty"}))
    lines += [f"info[{i}] = {name}" for i, name in enumerate(INFO[:-1])]
    lines.append(f"info[{len(INFO) - 1}] = t")
    for i, term in enumerate(spec.terms):
        if term.reduce == "max":
            lines.append(f"info[{len(INFO) + i}] = at{i}")
    if not spec.dense:
        lines += ["for i in range(n):", "    ys[0, i] = y[i]"]
    else:
        lines += [
            "while passed < t_eval.shape[0]:",
            "    for i in range(n):",
            "        ys[passed, i] = np.nan",
            "    passed += 1",
        ]
    returned = ["recorded"] if spec.record else []
    if keep:
        lines += ["for i in range(n):", "    end[i] = y[i]"]
        returned.append("mesh")
    return [*lines, f"return ({', '.join(returned)},)"] if returned else lines


def many_source(programs: Programs, decorator: str) -> str:
    """Source of ``solve_many``: the samples ``start`` to ``stop`` one after another."""
    sample = programs.kernels.sample
    tail = f", {sample}" if sample else ""
    return f"""
{decorator}
def solve_many(start, stop, t0, t1, y0, parameters, weights, t_eval, ys, info, W, T,
               {programs.kernels.loop_environment}):
    for {sample or "b"} in range(start, stop):
        b = {sample or "b"}
        solve_one(t0, t1, y0[b], parameters, weights, t_eval[b], ys[b], info[b], W, T,
                  {programs.kernels.loop_environment}{tail})
"""
