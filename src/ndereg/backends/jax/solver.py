"""One field under one specification, compiled: the solve, its taped form, and the reverse pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from ndereg.backends.base import NO_TIME_GRADIENT
from ndereg.backends.interpreter import Runners
from ndereg.backends.jax.backsolve import Augmented, refuse_own_times
from ndereg.backends.jax.derivatives import refuse_derivative
from ndereg.backends.jax.field import LaneField, Lanes, TracedField, Wanted
from ndereg.backends.jax.inputs import Inputs, Rows, batchable
from ndereg.backends.jax.linearization import conjugate
from ndereg.backends.jax.local import ExtraStep
from ndereg.backends.jax.loop import Capacity, Loop, time_of
from ndereg.backends.jax.noise import StepNoise
from ndereg.backends.jax.reverse import Reverse, time_cotangents
from ndereg.spec.adjoint import Discrete, NoAdjoint, Reversible

LARGEST_MESH = 2**25
"""Most step sizes, rows times samples, that a differentiated solve has room for; XLA has to know
the size of every buffer. With more than 335 samples it can be reached before ``max_steps``, whose
status the solve then ends with."""
SLOT_BYTES = 2**24
"""Room for kept states, unless eight states are larger: XLA fills it before the solve."""
FEWEST_SLOTS = 8

Tree = dict[str, Any]
_MESH = ("h", "y", "t")
"""What a tape holds of every row, or of some of them."""


@dataclass(frozen=True)
class Options:
    """What is compiled in, besides the specification.

    Attributes
    ----------
    first_step_given : bool
    remembers : bool
        Whether the controller reads the errors of earlier steps: the powers of those are a third
        of a small step.
    recorded : int
        Attempts to record.
    """

    first_step_given: bool = False
    remembers: bool = True
    recorded: int = 0


class Solver:
    """A traced field with the kernels that solve it.

    Every kernel is one jitted program whose run-time inputs are :class:`Inputs`; under ``vmap`` it
    runs the lanes as samples of one loop.
    """

    def __init__(self, runners: Runners, traced: TracedField, options: Options) -> None:
        self.runners, self.traced, self.options = runners, traced, options
        self.spec, self.layout = runners.plan.spec, traced.layout
        local = runners.plan.local
        self.local = None if local is None else Runners(local)
        given = options.first_step_given or not self.spec.adaptive
        self._programs = (
            "first_given" if given else "first",
            "control" if options.remembers else "control_alone",
        )
        self.forward = jax.jit(batchable(self._forward))
        self.extended = jax.jit(batchable(self._extended))
        self.taped = lru_cache(maxsize=None)(self._taped_for)
        self.reverse = lru_cache(maxsize=None)(self._reverse_for)
        self.backsolve = lru_cache(maxsize=None)(self._backsolve_for)
        self.differentiable = lru_cache(maxsize=None)(self._differentiable_for)

    def _setting(self, lanes: Lanes, inputs: Inputs, wanted: Wanted) -> tuple[LaneField, Rows]:
        rows = Rows(inputs, lanes, self.layout.samples)
        noise = None
        if self.spec.noise is not None:
            names, traced = self.runners.plan.noise, self.traced
            noise = StepNoise(
                rows, traced.path, names, traced.coupling, self.layout.samples,
                self.layout.real_dtype, self.runners.plan.halved,
            )  # fmt: skip
        return LaneField(self.traced, lanes, inputs.constants, inputs.args, wanted, noise), rows

    def _forward(self, lanes: Lanes, inputs: Inputs) -> Tree:
        return self._extended(lanes, inputs)[0]

    def _extended(self, lanes: Lanes, inputs: Inputs) -> tuple[Tree, Tree]:
        """The result, and what the extra step of a local regularizer keeps."""
        field, rows = self._setting(lanes, inputs, Wanted())
        capacity = Capacity(attempts=self.options.recorded)
        extra = ExtraStep(self.local, field, rows)
        loop = Loop(self.runners, field, extra.opened, self._programs, capacity)
        carry = loop.run()
        result, kept = extra.close(loop.result(carry), carry)
        return result, jax.tree.map(rows.split, kept)

    def _taped_for(self, max_steps: int) -> Callable[[Inputs], tuple[Tree, Tree]]:
        return jax.jit(batchable(partial(self._taped, max_steps)))

    def _taped(self, max_steps: int, lanes: Lanes, inputs: Inputs) -> tuple[Tree, Tree]:
        adjoint = self.spec.adjoint
        field, rows = self._setting(lanes, inputs, Wanted())
        states = 0
        if isinstance(adjoint, Discrete):
            state = self.layout.entries * rows.total * jnp.dtype(self.layout.dtype).itemsize
            slots = min(adjoint.checkpoints, max(FEWEST_SLOTS, SLOT_BYTES // state))
            states = 1 << (slots.bit_length() - 1)
        capacity = Capacity(
            attempts=self.options.recorded,
            rows=min(max_steps, max(LARGEST_MESH // rows.total, 1)),
            states=states,
        )
        extra = ExtraStep(self.local, field, rows)
        loop = Loop(self.runners, field, extra.opened, self._programs, capacity)
        carry = loop.run()
        result, local = extra.close(loop.result(carry), carry)
        tape, split = carry["tape"], rows.split
        kept = {
            **{name: jax.tree.map(rows.split_rows, tape[name]) for name in _MESH if name in tape},
            **{name: rows.share(tape[name]) for name in ("stride",) if name in tape},
            "rows": rows.share(carry["row"]),
            "t_end": jax.tree.map(split, time_of(carry)),
            "y_end": split(carry["y"]),
            "naccept": split(carry["naccept"]),
            # rows of largest terms; "attempt" and "attempts" are no such rows
            "reductions": {
                name: split(value)
                for name, value in carry.items()
                if name.startswith("at") and name[2:].isdigit()
            },
        }
        if loop.outputs is not None:
            outputs = carry["outputs"]
            kept |= {name: split(outputs[name]) for name in ("position", "started")}
            kept["ys"] = result["ys"]
            kept["at"] = jax.tree.map(split, outputs["at"])
        return result, kept | {"local": jax.tree.map(split, local)}

    def _reverse_for(self, wanted: Wanted) -> Callable[..., Any]:
        return jax.jit(batchable(partial(self._reverse, wanted)))

    def _reverse(
        self,
        wanted: Wanted,
        lanes: Lanes,
        inputs: Inputs,
        kept: Tree,
        ys_bar: Any,
        penalty_bar: Any,
    ) -> Tree:
        field, rows = self._setting(lanes, inputs, wanted)
        merged = {
            name: jax.tree.map(rows.merge, kept[name])
            for name in (
                "t_end",
                "y_end",
                "naccept",
                "reductions",
                "position",
                "started",
                "ys",
                "at",
                "local",
            )
            if name in kept
        }
        merged |= {
            name: jax.tree.map(rows.merge_rows, kept[name]) for name in _MESH if name in kept
        }
        merged |= {name: rows.unshare(kept[name]) for name in ("stride", "rows") if name in kept}
        ys_bar, penalty_bar = rows.merge(ys_bar), rows.merge(penalty_bar)
        extra = ExtraStep(self.local, field, rows)
        state_bar, *others = extra.pull(merged["local"], penalty_bar)
        opened_bar, picked_bar = extra.among_outputs(ys_bar, state_bar)
        bars = (opened_bar, penalty_bar, picked_bar)
        merged["picked"] = merged["local"].get("row")
        y_bar, *found = Reverse(self.runners, field, rows, merged, bars).run()
        constants_bar, args_bar = (_added(*pair) for pair in zip(others, found, strict=True))
        start_bar = y_bar
        spec = self.runners.plan.spec
        if "t0" in wanted.times and (spec.terms or spec.local):
            # the penalty, a property of the steps, is a constant of the times
            nothing = None if state_bar is None else jnp.zeros_like(state_bar)
            opened_bar, picked_bar = extra.among_outputs(ys_bar, nothing)
            bars = (opened_bar, jnp.zeros_like(penalty_bar), picked_bar)
            start_bar, *_ = Reverse(self.runners, field, rows, merged, bars).run()
        times = time_cotangents(field, rows, merged, start_bar, ys_bar, wanted.times)
        return {
            "y0": rows.split(y_bar),
            "constants": constants_bar,
            "args": args_bar,
            **{name: rows.lane_time(value, inputs, name) for name, value in times.items()},
        }

    def _backsolve_for(self, wanted: Wanted) -> Callable[..., Tree]:
        augmented = Augmented(self.traced, wanted)
        solver = Solver(augmented.runners(self.spec), augmented.traced, Options())

        def integrate(inputs: Inputs, kept: Tree, ys_bar: Any, penalty_bar: Any) -> Tree:
            field, rows = self._setting(Lanes(), inputs, wanted)
            extra, ys, local = ExtraStep(self.local, field, rows), kept["ys"], kept["local"]
            state_bar, *others = extra.pull(local, penalty_bar)
            part, given = inputs, (ys, ys_bar)
            if state_bar is not None:
                opened, at = extra.with_time(local["t"])
                part = inputs._replace(t_eval=tuple(times[0] for times in opened.t_eval))
                values = (local["y"], state_bar)
                given = tuple(map(partial(extra.inserted, at), given, values))
            found = augmented.integrate(solver.forward, part, *given)
            found |= augmented.time_cotangents(inputs, ys, ys_bar, found["y0"])
            names = ("constants", "args")
            return found | {
                name: _added(found[name], other) for name, other in zip(names, others, strict=True)
            }

        return jax.jit(integrate)

    def _differentiable_for(self, max_steps: int) -> Callable[[Inputs], Tree]:
        solve = jax.custom_vjp(self.forward)
        solve.defvjp(
            partial(self._forward_rule, max_steps), self._reverse_rule, symbolic_zeros=True
        )
        return solve

    def _forward_rule(self, max_steps: int, inputs: Any) -> tuple[Tree, Any]:
        values = jax.tree.map(lambda leaf: leaf.value, inputs)
        marks = jax.tree.map(lambda leaf: leaf.perturbed, inputs)
        if isinstance(self.spec.adjoint, NoAdjoint):
            raise ValueError(
                "expected a solve that is a constant of the gradient with adjoint='none', "
                "received one that is differentiated; try adjoint='discrete' or 'backsolve'"
            )
        result, kept = self._kept(max_steps, values)
        return result, (self.wanted(marks), values, kept)

    def _kept(self, max_steps: int, inputs: Inputs) -> tuple[Tree, Any]:
        """The result, and what the adjoint needs of the forward solve."""
        if isinstance(self.spec.adjoint, (Discrete, Reversible)):
            return self.taped(max_steps)(inputs)
        refuse_own_times(inputs)
        result, local = self.extended(inputs)
        return result, {"ys": result["ys"], "local": local}

    def _cotangents(
        self, wanted: Wanted, inputs: Inputs, kept: Any, ys_bar: Any, penalty_bar: Any
    ) -> Tree:
        """In the real inner product, in the structure of ``_reverse``."""
        if isinstance(self.spec.adjoint, (Discrete, Reversible)):
            return self.reverse(wanted)(inputs, kept, ys_bar, penalty_bar)
        return self.backsolve(wanted)(inputs, kept, ys_bar, penalty_bar)

    def with_pullback(
        self, max_steps: int, inputs: Inputs
    ) -> tuple[Tree, Callable[[Any, Any], tuple[Any, list[Any]]]]:
        """The solve and its pullback to ``y0`` and args, in the real inner product."""
        wanted = self.traced.differentiable(
            [False] * len(inputs.constants), [True] * len(inputs.args)
        )
        result, kept = self._kept(max_steps, inputs)

        def pullback(ys_bar: Any, penalty_bar: Any) -> tuple[Any, list[Any]]:
            found = self._cotangents(wanted, inputs, kept, ys_bar, penalty_bar)
            args_bar = [jnp.zeros_like(arg) for arg in inputs.args]
            for position, cotangent in zip(wanted.args, found["args"], strict=True):
                args_bar[position] = cotangent
            return found["y0"], args_bar

        return result, pullback

    def wanted(self, marks: Inputs) -> Wanted:
        """The cotangents to compute, from the marks of what is differentiated."""
        found = self.traced.differentiable(marks.constants, marks.args)
        times = [
            name
            for name in ("t0", "t1", "t_eval")
            if getattr(marks, name) is not None and any(getattr(marks, name))
        ]
        if times and self.spec.noise is not None:
            raise ValueError(NO_TIME_GRADIENT)
        return Wanted(found.constants, found.args, tuple(times))

    def _reverse_rule(self, saved: Any, bars: Tree) -> tuple[Inputs]:
        wanted, inputs, kept = saved
        ys_bar, penalty_bar = _instantiated(bars["ys"]), _instantiated(bars["penalty"])
        try:
            found = self._cotangents(wanted, inputs, kept, conjugate(ys_bar), penalty_bar)
        except Exception as error:
            refuse_derivative(error)
            raise

        def placed(values: Any, positions: Any, cotangents: Any) -> tuple[Any, ...]:
            bars: list[Any] = [None] * len(values)
            for position, cotangent in zip(positions, cotangents, strict=True):
                bars[position] = conjugate(cotangent)
            return tuple(bars)

        def time(name: str) -> Any:
            value = getattr(inputs, name)
            if name not in found:
                return None
            return (found[name], *(None for _ in value[1:]))

        return (
            Inputs(
                constants=placed(inputs.constants, wanted.constants, found["constants"]),
                args=placed(inputs.args, wanted.args, found["args"]),
                y0=conjugate(found["y0"]),
                t0=time("t0"),
                t1=time("t1"),
                t_eval=time("t_eval"),
                numbers=None,
            ),
        )


def _added(some: list[Any], others: list[Any]) -> list[Any]:
    return [a + b for a, b in zip(some, others, strict=True)]


def _instantiated(bar: Any) -> Any:
    return jnp.zeros(bar.shape, bar.dtype) if isinstance(bar, SymbolicZero) else bar


def is_traced(inputs: Inputs) -> bool:
    """Whether a transformation of JAX is looking at the inputs."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(inputs))
