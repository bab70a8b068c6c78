"""Before the first step: the first stage, the check of the start, the automatic first step."""

from __future__ import annotations

from typing import Literal

from ndereg.plan.builder import Builder, Value, maximum, minimum, where
from ndereg.plan.control import whole_cells
from ndereg.plan.motion import Motion, Rates
from ndereg.plan.program import Program
from ndereg.spec.status import Status
from ndereg.spec.stochastic import Noise, StochasticMethod
from ndereg.spec.tableau import Tableau

FirstSize = Literal["automatic", "given", "own"]


def first_program(
    choice: FirstSize,
    carried: bool,
    adaptive: bool,
    method: Tableau | StochasticMethod,
    noise: Noise | None = None,
) -> Program:
    """``(t, y) -> (status, h, k1)``.

    The first step size ``h`` (signed) is with ``automatic`` that of Hairer, Norsett, Wanner I,
    section II.4, from two evaluations of the field; with ``own`` the ``size`` of a step that was
    taken before; otherwise it is the one given, or without one the constant step. One that is
    chosen exceeds neither the span nor ``dt_max``. ``carried`` hands on the first stage. A
    non-finite state or field at the start is ``NON_FINITE`` at once: with ``adaptive`` steps the
    field is evaluated for that alone, rather than a first step shrunk a thousandfold; a constant
    step ends there anyway.

    Of a stochastic equation drift and diffusion are evaluated, and the first step reckons with
    noise of three standard deviations (as StochasticDiffEq.jl does, Rackauckas, Nie 2017).
    """
    builder = Builder()
    builder.input("t", "scalar")
    direction = builder.input("direction", "scalar")
    motion = Motion(builder, method, noise)
    zero = direction * 0.0
    start_finite = builder.mean(motion.whole.isfinite()).equals(1.0)
    outputs: dict[str, Value] = {}
    if choice == "automatic" or carried or adaptive:
        first = motion.rates(1, 0, "direction", motion.start.slot)
        start_finite = start_finite & builder.mean(first.drift.isfinite()).equals(1.0)
        if first.spread is not None:
            start_finite = start_finite & builder.mean(first.spread.isfinite()).equals(1.0)
        if carried:
            outputs["k1"] = first.stage
        if choice == "automatic":
            outputs["h"] = _first_step(builder, motion, first, direction)
    if choice == "given":
        outputs["h"] = _given_step(builder, direction, adaptive)
    if choice == "own":
        outputs["h"] = builder.input("size", "scalar")
    status = where(start_finite, float(Status.RUNNING), float(Status.NON_FINITE))
    outputs["status"] = status + zero
    return builder.program("first", outputs)


def _given_step(builder: Builder, direction: Value, adaptive: bool) -> Value:
    given, span = builder.input("first_step", "scalar"), builder.input("span", "scalar")
    size = minimum(given, span)
    if adaptive:
        return minimum(size, builder.input("dt_max", "scalar")) * direction
    return where(given.isfinite(), size * direction, builder.input("dt", "scalar"))


def _first_step(builder: Builder, motion: Motion, first: Rates, direction: Value) -> Value:
    y, k1, spread = motion.start, first.drift, first.spread
    rtol, atol = builder.input("rtol", "scalar"), builder.input("atol", "scalar")
    span, dt_max = builder.input("span", "scalar"), builder.input("dt_max", "scalar")
    scale = atol + rtol * abs(y)

    def norm(value: Value) -> Value:
        return builder.mean((abs(value) / scale).square()).sqrt()

    d0 = norm(y).named("d0")
    d1 = norm(k1 if spread is None else abs(k1) + spread).named("d1")
    tiny = (d0 < 1e-5) | (d1 < 1e-5)
    # In single precision the square of a large derivative overflows: then only the span says
    # something of the scale.
    h0 = where(tiny, 1e-6, 0.01 * d0 / where(d1.equals(0.0), 1.0, d1))
    h0 = minimum(where(d1.isfinite(), h0, 1e-6 * span), span)
    trial_step = (h0 * direction).named("h0")
    trial = builder.combine("g0", y.slot, ((trial_step.slot, 1, k1.slot),))
    later = motion.rates(0, 1, trial_step.slot, trial)
    change = builder.combine("dk", None, ((None, 1, later.drift.slot), (None, -1, k1.slot)))
    difference = Value(builder, change)
    if spread is not None and later.spread is not None:
        difference = abs(difference) + (spread + later.spread)
    d2 = (norm(difference) / h0).named("d2")
    largest = maximum(d1, d2)
    flat = largest <= 1e-15
    h1 = where(
        flat,
        maximum(h0 * 1e-3, 1e-6),
        (0.01 / where(flat, 1.0, largest)) ** builder.input("exponent", "scalar"),
    )
    # A trial step into a non-finite field says only that the scale is much smaller.
    h1 = where(d2.isfinite(), h1, h0 * 1e-3)
    size = minimum(100.0 * h0, h1)
    if motion.noisy:  # a path is not resolved below it
        size = maximum(size, builder.input("dt_min", "scalar"))
    size = minimum(size, minimum(span, dt_max))
    if motion.noisy:
        size = whole_cells(builder, size)
    return size * direction
