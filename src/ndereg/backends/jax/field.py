"""A field traced once: what it closes over is an input, its linearization is a list of arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ndereg.backends.base import Layout, Problem
from ndereg.backends.jax import clock
from ndereg.backends.jax.clock import Time
from ndereg.backends.jax.linearization import Linearization, Linearized


@jax.tree_util.register_static
@dataclass(frozen=True)
class Wanted:
    """Positions of the constants and of the leaves of args whose cotangents are wanted.

    ``times`` are the names of the times (``"t0"``, ``"t1"``, ``"t_eval"``) whose are.
    """

    constants: tuple[int, ...] = ()
    args: tuple[int, ...] = ()
    times: tuple[str, ...] = ()


class TracedField:
    """A field as a program of XLA, on the flat state.

    The arrays that it closes over, its constants, are explicit inputs of everything below.
    """

    def __init__(self, problem: Problem) -> None:
        self.layout, layout = problem.layout, problem.seen
        self.entries = layout.entries
        real = np.dtype(layout.real_dtype)
        self.state = jax.ShapeDtypeStruct((layout.samples, layout.entries), layout.dtype)
        self.time = jax.ShapeDtypeStruct(layout.time_shape, real)
        args = tuple(jax.ShapeDtypeStruct(arg.shape, arg.dtype) for arg in problem.args)
        calls = {"drift": problem.call}
        self.matrix, self.path, self.product = False, None, None
        self.pairs = problem.part is not None
        if problem.diffusion is not None:
            if problem.diffusion.coupling == "product":
                self.product = problem.diffusion.call
            elif problem.diffusion.field is not None:
                calls["diffusion"] = problem.diffusion.call
            self.matrix = problem.diffusion.coupling == "matrix"
            self.coupling, self.path = problem.diffusion.coupling, problem.diffusion.path
            # what is given at run time would be kept alive
            self.path = replace(self.path, words=(), grid=replace(self.path.grid, origin=None,
                                direction=None, size=None, length=None))  # fmt: skip
        found: list[Any] = []
        self._jaxprs = {}
        for name, call in calls.items():
            with full_precision():
                traced = jax.make_jaxpr(call)(self.time, self.state, list(args))
            place = slice(len(found), len(found) + len(traced.consts))
            found += [_plain(constant) for constant in traced.consts]
            self._jaxprs[name] = traced.jaxpr, place
        self._constants: list[Any] | None = found
        self.inputs = (
            tuple(jax.ShapeDtypeStruct(np.shape(c), c.dtype) for c in self._constants),
            args,
        )
        self._linearizations: dict[Any, Linearization] = {}

    def __call__(
        self, constants: Sequence[Any], args: Sequence[Any], t: Any, y: Any, name: str = "drift"
    ) -> Any:
        """``f(t, y)``, or the diffusion of a stochastic equation."""
        jaxpr, place = self._jaxprs[name]
        return jax.core.eval_jaxpr(jaxpr, list(constants[place]), t, y, *args)[0]

    def take_constants(self) -> list[Any]:
        """Hand over the constants, so that a field kept for later does not keep them alive."""
        assert self._constants is not None
        constants, self._constants = self._constants, None
        return constants

    def differentiable(self, constants: Sequence[bool], args: Sequence[bool]) -> Wanted:
        """What of the marked constants and args has a cotangent at all."""

        def inexact(marks: Sequence[bool], inputs: Sequence[Any]) -> tuple[int, ...]:
            return tuple(
                i
                for i, (mark, value) in enumerate(zip(marks, inputs, strict=True))
                if mark and jnp.issubdtype(value.dtype, jnp.inexact)
            )

        return Wanted(inexact(constants, self.inputs[0]), inexact(args, self.inputs[1]))

    def linearization(self, wanted: Wanted, name: str = "drift") -> Linearization:
        """Return the field with its pullback, traced once for each choice of cotangents.

        Its inputs are the constants and then the args.
        """
        constants, args = self.inputs
        positions = (*wanted.constants, *(len(constants) + i for i in wanted.args))
        if (name, positions) not in self._linearizations:
            count = len(constants)
            self._linearizations[name, positions] = Linearization(
                lambda inputs, t, y: self(inputs[:count], inputs[count:], t, y, name),
                [*constants, *args],
                self.time,
                self.state,
                positions,
            )
        return self._linearizations[name, positions]


def full_precision() -> AbstractContextManager[None]:
    """Return the setting of JAX in which a field's products are as exact as its dtype.

    By default JAX multiplies single-precision matrices with ten bits on recent GPUs, and fewer on
    TPUs. An error estimate then sees little but that rounding: a solve at 1.4e-8 was measured to
    take 5,354 evaluations on an H200 instead of 56. A precision that the user has chosen, in JAX's
    configuration or in the operation itself, is kept.
    """
    if jax.config.jax_default_matmul_precision is not None:
        return nullcontext()
    return jax.default_matmul_precision("highest")


def _plain(constant: Any) -> Any:
    """JAX wraps NumPy constants of a trace in a type of its own."""
    return constant if isinstance(constant, jax.Array) else np.asarray(constant)


@dataclass(frozen=True)
class Lanes:
    """Solves that ``jax.vmap`` runs side by side, as further samples of one loop.

    Attributes
    ----------
    size : int or None
        None without ``vmap``.
    constants, args : tuple of bool
        Which of the field's inputs differ from lane to lane.
    times : bool
        Whether the output times do.
    """

    size: int | None = None
    constants: tuple[bool, ...] = ()
    args: tuple[bool, ...] = ()
    times: bool = False


@dataclass
class LaneField:
    """The field on all samples of all lanes that run under ``vmap``."""

    traced: TracedField
    lanes: Lanes
    constants: Sequence[Any]
    args: Sequence[Any]
    wanted: Wanted = field(default_factory=Wanted)
    noise: Any = None

    @property
    def samples(self) -> int:
        """Rows of the flat state: samples of all lanes."""
        return self.traced.layout.samples * (self.lanes.size or 1)

    @property
    def layout(self) -> Layout:
        """Layout of one lane."""
        return self.traced.layout

    def evaluate(self, t: Time, y: Any, name: str = "drift") -> Any:
        """Return the field at a time and state of every sample."""
        count = len(self.constants)

        def field(inputs: Sequence[Any], t: Any, y: Any) -> Any:
            return self.traced(inputs[:count], inputs[count:], t, y, name)

        return self._merged(self._mapped(field, self._time(t), self._split(y)), name)

    def product(self, t: Time, y: Any, noise: Any) -> Any:
        """Return the diffusion times the noise, where only that is known of it."""
        count, product = len(self.constants), self.traced.product
        assert product is not None

        def times(inputs: Sequence[Any], t: Any, given: tuple[Any, Any]) -> Any:
            return product(t, given[0], inputs[count:], given[1])

        given = self._split(y), self._split(noise)
        return self._merged(self._mapped(times, self._time(t), given))

    def linearize(self, t: Time, y: Any, name: str = "drift") -> tuple[Any, Linearized]:
        """Return the field, and the field with what its pullback needs."""
        primal = self.traced.linearization(self.wanted, name).primal
        k, kept = self._mapped(primal, self._time(t), self._split(y))
        k = self._merged(k, name)
        return k, Linearized(k, kept)

    def pullback(
        self, at: Linearized, k_bar: Any, name: str = "drift"
    ) -> tuple[Any, list[Any], list[Any]]:
        """Return cotangents of y, wanted constants and wanted args; of the latter one a lane."""
        pull = self.traced.linearization(self.wanted, name).pullback
        at = Linearized(self._split(at.k), at.kept)
        y_bar, *others = self._mapped(pull, at, self._split(k_bar))
        count = len(self.wanted.constants)
        return self._merged(y_bar), others[:count], others[count:]

    def zero_cotangents(self) -> tuple[list[Any], list[Any]]:
        """Zeros in the shapes of the wanted cotangents of constants and args."""

        def zeros(values: Sequence[Any], flags: Sequence[bool], wanted: Sequence[int]) -> list[Any]:
            found = []
            for i in wanted:
                shape = np.shape(values[i])
                if self.lanes.size is not None and not flags[i]:
                    shape = (self.lanes.size, *shape)
                found.append(jnp.zeros(shape, values[i].dtype))
            return found

        return (
            zeros(self.constants, self.lanes.constants, self.wanted.constants),
            zeros(self.args, self.lanes.args, self.wanted.args),
        )

    def _mapped(self, function: Callable[..., Any], first: Any, second: Any) -> Any:
        """``function(inputs, first, second)``, over the lanes if there are any."""
        inputs = [*self.constants, *self.args]
        if self.lanes.size is None:
            return function(inputs, first, second)
        flags = (*self.lanes.constants, *self.lanes.args)
        axes = [0 if flag else None for flag in flags]
        return jax.vmap(function, in_axes=(axes, 0, 0))(inputs, first, second)

    def _time(self, t: Time) -> Any:
        shape = self.layout.time_shape
        if self.lanes.size is not None:
            shape = (self.lanes.size, *shape)
        return clock.rounded(t, self.layout.real_dtype).reshape(shape)

    def _split(self, y: Any) -> Any:
        lead = () if self.lanes.size is None else (self.lanes.size,)
        return y.reshape((*lead, self.layout.samples, -1))

    def _merged(self, y: Any, name: str = "drift") -> Any:
        tail = (-1,) if name == "diffusion" and self.traced.matrix else ()
        return y.reshape((self.samples, self.traced.entries, *tail))
