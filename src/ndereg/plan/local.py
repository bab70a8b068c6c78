"""The extra step of a local regularizer: where it starts, what it contributes, its transpose."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ndereg.plan.builder import Builder, Value, where
from ndereg.plan.program import Program
from ndereg.plan.start import FirstSize, first_program
from ndereg.plan.step import record_step
from ndereg.plan.transpose import transpose
from ndereg.spec.spec import LocalStep, Spec


@dataclass(frozen=True)
class LocalPlan:
    """The programs of the extra step.

    Attributes
    ----------
    spec : Spec
        What was lowered.
    start : Program
        ``(t, y, span) -> status, h, k1`` as before the first step of a solve, ``span`` being what
        is left of the time. With constant steps ``h`` is the given ``first_step``, of a step that
        the solve took its ``size``.
    step : Program
        ``(t, h, y, k1, rtol, atol, weight0, ...) -> penalty``. A stochastic step takes the noise
        over ``h``, and ``k1`` only where a step hands its last stage on to the next.
    adjoint : Program
        The step transposed, ``(..., penalty_bar) -> y_bar`` where the gradient goes through the
        state, and else without an output: the cotangents of args are all there is. ``k1`` then is
        a constant; otherwise it is evaluated again.
    """

    spec: Spec
    start: Program
    step: Program
    adjoint: Program

    @property
    def unpicked(self) -> float:
        """Penalty of a sample whose solve came to no step that it could pick.

        That it has no step at all is known; what there is beyond its last one is not.
        """
        assert self.spec.local is not None
        return 0.0 if self.spec.local.sampling == "biased" else math.nan

    def programs(self) -> dict[str, Program]:
        """All programs by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Program)}


def local_plan(spec: Spec) -> LocalPlan | None:
    """Lower the extra step; None where there is none."""
    if spec.local is None:
        return None
    through_state = spec.local.through_state
    recomputed, penalty = _step(spec, carried=not through_state)
    return LocalPlan(
        spec=spec,
        start=first_program(_size(spec), True, True, spec.tableau, spec.noise),
        step=_step(spec, carried=True)[0],
        adjoint=transpose(recomputed, [(penalty, "penalty_bar")], ["y"] if through_state else []),
    )


def _size(spec: Spec) -> FirstSize:
    assert spec.local is not None
    if spec.local.step == "own":
        return "own"
    return "automatic" if spec.adaptive else "given"


def _step(spec: Spec, carried: bool) -> tuple[Program, str]:
    """The step and the slot of its penalty."""
    assert spec.local is not None
    builder = Builder()
    seen = record_step(builder, spec, carried)
    penalty: Value | None = None
    for i, term in enumerate(spec.local.terms, len(spec.terms)):
        value = term.value(seen) * builder.input(f"weight{i}", "scalar")
        penalty = value if penalty is None else penalty + value
    assert penalty is not None
    program = builder.program("local", {"penalty": penalty})
    return program, penalty.slot


def pick_program(local: LocalStep) -> Program | None:
    """``(accept, uniform, ...) -> (pick, uniform)``: whether a step is the one, as far as is known.

    The last one that was picked is it. None where the extra step is none of the solve's.
    """
    if not local.picks:
        return None
    return _covering_step() if local.sampling == "unbiased" else _any_step()


def _covering_step() -> Program:
    """The accepted step within which the share ``uniform`` of the ``span`` is passed.

    A share of 1, as single precision may round one to, is covered by the last step.
    """
    builder = Builder()
    accept = builder.input("accept", "flag")
    uniform = builder.input("uniform", "scalar")
    span, direction = builder.input("span", "scalar"), builder.input("direction", "scalar")
    left = (builder.input("remaining", "scalar") - builder.input("h", "scalar")) * direction
    pick = accept & (left <= (1.0 - uniform) * span)
    # no later step passes what is behind the start
    return builder.program("pick", {"pick": pick, "uniform": where(pick, 2.0, uniform)})


def _any_step() -> Program:
    """One of the accepted steps, all as likely.

    A reservoir of one (Vitter 1985, doi:10.1145/3147.3165), so that no step has to be kept: the
    step after ``count`` others replaces what was picked with probability ``1 / (count + 1)``. What
    that decision leaves undecided of the uniform number is uniform again and serves the next.
    """
    builder = Builder()
    accept = builder.input("accept", "flag")
    uniform = builder.input("uniform", "scalar")
    others = builder.input("count", "scalar")
    scaled = uniform * (others + 1.0)
    first = others.equals(0.0)
    taken = first | (scaled < 1.0)
    rest = (scaled - 1.0) / where(first, 1.0, others)
    return builder.program(
        "pick",
        {"pick": accept & taken, "uniform": where(accept, where(taken, scaled, rest), uniform)},
    )
