"""The step-size control, the accept rule and the reduction of penalties, as scalar programs.

Where other solvers differ, the choices here are: a step is accepted when ``E <= 1``; a non-finite
``E`` is a rejection with the smallest factor; a rejected step is shrunk by the integral law alone,
so that no history can keep it from shrinking; after a rejection the factor is at most 1; the last
step lands exactly on the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from ndereg.plan.builder import Builder, Value, maximum, minimum, where
from ndereg.plan.program import Program
from ndereg.spec.controller import CONTROL_PARAMETERS
from ndereg.spec.regularizer import Term
from ndereg.spec.status import Status

SMALLEST_ERROR = 1e-10
"""Errors below this are all the same to the controller; it keeps the powers finite."""
SMALLEST_MEMORY = 1e-4
"""Floor of the error that later steps remember (DOPRI5, Hairer, Norsett, Wanner I)."""
RESOLUTION_STEPS = 4
"""A rejected step must stay above this many spacings of the floating-point time."""
SPACING = 2.0**-52
"""Relative resolution of float64 time."""

MEMORY = ("E1", "E2", "h1", "rejected")
"""Slots that the control program carries from attempt to attempt, besides ``h`` and ``status``."""
MEMORY_START = (1.0, 1.0, 0.0, False)
"""Their values before the first attempt."""


def begin_program(adaptive: bool) -> Program:
    """``(h, remaining) -> (h_try, last)``: shorten the last step to land on the end.

    A step that would leave less than one percent of itself to go is stretched over it (as DOPRI5
    does), which saves a tiny last step, but not beyond ``dt_max``; constant steps are stretched
    over a thousandth, which is more than the rounding of a long sum of them.
    """
    builder = Builder()
    h, remaining = builder.input("h", "scalar"), builder.input("remaining", "scalar")
    reach = abs(h) * (1.01 if adaptive else 1.001)
    if adaptive:
        reach = minimum(reach, maximum(abs(h), builder.input("dt_max", "scalar")))
    last = abs(remaining) <= reach
    return builder.program("begin", {"h_try": where(last, remaining, h), "last": last})


HISTORY = ("beta2", "beta3", "alpha")
"""Parameters of a controller that remembers earlier steps: it does where one of them is not 0."""


def remembers(parameters: Sequence[float]) -> bool:
    """Whether a controller with these ``CONTROL_PARAMETERS`` remembers earlier steps."""
    named = dict(zip(CONTROL_PARAMETERS, parameters, strict=True))
    return any(named[name] for name in HISTORY)


def whole_cells(builder: Builder, size: Value) -> Value:
    """Round the size of a step down to cells of the Brownian path, at least one.

    A path is rough: where times differ by rounding, increments differ by its square root, and so do
    the next step sizes, until after a few steps nothing agrees. Rounded steps are the same on every
    backend.
    """
    cell = builder.input("cell", "scalar")
    return maximum((size / cell).floor(), 1.0) * cell


def control_program(adaptive: bool, remembers: bool = True, stochastic: bool = False) -> Program:
    """One decision: from ``E`` (or ``finite``) of an attempt to acceptance, next step and status.

    Inputs: ``E``, the attempted ``h``, ``last``, ``t``, ``spacing`` (relative resolution of
    time), ``status``, ``attempts`` (before this one), ``max_steps``, the memory, and the
    parameters of the controller. Constant steps read ``finite`` and ``dt`` (signed) instead. Steps
    of a stochastic equation are whole ``cell`` of its path.
    Without ``remembers`` the parameters of :data:`HISTORY` are 0: the decision is the same without
    the errors and the step of before, and without their powers, which take longer than all else.
    """
    builder = Builder()
    status = builder.input("status", "scalar")
    last = builder.input("last", "flag")
    running = status.equals(float(Status.RUNNING))
    attempts = builder.input("attempts", "scalar") + 1.0
    exhausted = builder.input("max_steps", "scalar") <= attempts
    ongoing = where(exhausted, float(Status.MAX_STEPS), float(Status.RUNNING))
    h, t = builder.input("h", "scalar"), builder.input("t", "scalar")
    spacing = builder.input("spacing", "scalar")
    # a step that does not move the time would move the state all the same
    still = (~last) & (abs(h) <= abs(t) * spacing * 0.5)
    if not adaptive:
        finite = builder.input("finite", "scalar").equals(1.0)
        ended = where(last, float(Status.SUCCESS), ongoing)
        ended = where(still, float(Status.STEP_UNDERFLOW), ended)
        ended = where(finite, ended, float(Status.NON_FINITE))
        return builder.program(
            "control",
            {
                "accept": running & finite & (~still),
                "h_next": where(running, builder.input("dt", "scalar"), h),
                "status": where(running, ended, status),
            },
        )
    p = {name: builder.input(name, "scalar") for name in CONTROL_PARAMETERS}
    error = builder.input("E", "scalar")
    rejected = builder.input("rejected", "flag")

    finite = error.isfinite()
    good = finite & (error <= 1.0)
    accept = running & good & (~still)
    e0 = maximum(where(finite, error, 1.0), SMALLEST_ERROR)
    # one power of the error serves the law and, after a rejection, the integral law alone
    law = e0 ** -where(good, p["beta1"], p["exponent"])
    memory: dict[str, Value] = {}
    if remembers:
        history, memory = _remembered(builder, p, e0, h, accept)
        law = law * where(good, history, 1.0)
    law = law * p["safety"]
    factor = where(
        good,
        minimum(law, where(rejected, 1.0, p["factor_max"])),
        where(finite, law, p["factor_min"]),
    )
    factor = maximum(factor, p["factor_min"])
    size = minimum(abs(h) * factor, p["dt_max"])
    floor = maximum(
        p["dt_min"],
        abs(t) * spacing * RESOLUTION_STEPS,
    )
    size = where(good, maximum(size, p["dt_min"]), size)
    stuck = (~good) & ((size < floor) | size.equals(0.0))
    failed = where(finite, float(Status.STEP_UNDERFLOW), float(Status.NON_FINITE))
    ended = where(good & last, float(Status.SUCCESS), where(stuck, failed, ongoing))
    ended = where(good & still, float(Status.STEP_UNDERFLOW), ended)
    if stochastic:
        size = whole_cells(builder, size)
    return builder.program(
        "control",
        {
            "accept": accept,
            "h_next": where(h < 0.0, -size, size),
            "status": where(running, ended, status),
            **memory,
            "rejected": running & (~good),
        },
    )


def _remembered(
    builder: Builder, p: dict[str, Value], e0: Value, h: Value, accept: Value
) -> tuple[Value, dict[str, Value]]:
    """Return the factor that the two errors and the step of before give, and the memory to come."""
    e1, e2, h1 = (builder.input(name, "scalar") for name in MEMORY[:3])
    ratio = where(h1.equals(0.0), 1.0, abs(h / where(h1.equals(0.0), 1.0, h1)))
    ratio = where(ratio.equals(0.0), 1.0, ratio)
    history = e1 ** -p["beta2"] * e2 ** -p["beta3"] * ratio ** -p["alpha"]
    return history, {
        "E1": where(accept, maximum(e0, SMALLEST_MEMORY), e1),
        "E2": where(accept, e1, e2),
        "h1": where(accept, h, h1),
    }


def accumulate_program(terms: tuple[Term, ...]) -> Program:
    """Reduce the penalties of the steps: ``P_i`` so far, and at which ``row`` a maximum was."""
    builder = Builder()
    accept = builder.input("accept", "flag")
    outputs: dict[str, Value] = {}
    for i, term in enumerate(terms):
        total, r = builder.input(f"P{i}", "scalar"), builder.input(f"r{i}", "scalar")
        if term.reduce == "max":
            larger = accept & (total < r)
            outputs[f"P{i}"] = where(larger, r, total)
            at = builder.input(f"at{i}", "scalar")
            outputs[f"at{i}"] = where(larger, builder.input("row", "scalar"), at)
        else:
            outputs[f"P{i}"] = total + where(accept, r, 0.0)
    return builder.program("accumulate", outputs)


def finish_program(terms: tuple[Term, ...]) -> Program:
    """``penalty = sum(weight_i P_i)``, the means divided by the number of accepted steps."""
    builder = Builder()
    penalty: Value | None = None
    for i, term in enumerate(terms):
        value = builder.input(f"P{i}", "scalar") * builder.input(f"weight{i}", "scalar")
        if term.reduce == "mean":
            value = value / maximum(builder.input("naccept", "scalar"), 1.0)
        penalty = value if penalty is None else penalty + value
    return builder.program("finish", {} if penalty is None else {"penalty": penalty})


def seed_program(terms: tuple[Term, ...]) -> Program:
    """Cotangent ``r_i_bar`` of each term at the step recorded as ``row``: finish transposed."""
    builder = Builder()
    bar = builder.input("penalty_bar", "scalar")
    outputs: dict[str, Value] = {}
    for i, term in enumerate(terms):
        value = bar * builder.input(f"weight{i}", "scalar")
        if term.reduce == "mean":
            value = value / maximum(builder.input("naccept", "scalar"), 1.0)
        elif term.reduce == "max":
            at = builder.input(f"at{i}", "scalar")
            value = where(at.equals(builder.input("row", "scalar")), value, 0.0)
        outputs[f"r{i}_bar"] = value
    return builder.program("seed", outputs)
