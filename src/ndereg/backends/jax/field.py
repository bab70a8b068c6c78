"""A field traced once: what it closes over is an input, its linearization is a list of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ndereg.backends.base import Layout, Problem
from ndereg.backends.jax import clock
from ndereg.backends.jax.clock import Time


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
        layout = self.layout = problem.layout
        real = np.dtype(layout.real_dtype)
        self.state = jax.ShapeDtypeStruct((layout.samples, layout.entries), layout.dtype)
        self.time = jax.ShapeDtypeStruct(layout.time_shape, real)
        args = tuple(jax.ShapeDtypeStruct(arg.shape, arg.dtype) for arg in problem.args)
        traced = jax.make_jaxpr(problem.call)(self.time, self.state, list(args))
        self._constants: list[Any] | None = [_plain(constant) for constant in traced.consts]
        self._jaxpr = traced.jaxpr
        self.inputs = (
            tuple(jax.ShapeDtypeStruct(np.shape(c), c.dtype) for c in self._constants),
            args,
        )
        self._linearizations: dict[Wanted, _Linearization] = {}

    def __call__(self, constants: Sequence[Any], args: Sequence[Any], t: Any, y: Any) -> Any:
        """``f(t, y)``."""
        return jax.core.eval_jaxpr(self._jaxpr, list(constants), t, y, *args)[0]

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

    def linearization(self, wanted: Wanted) -> _Linearization:
        """The field with its pullback, traced once for each choice of cotangents."""
        wanted = Wanted(wanted.constants, wanted.args)
        if wanted not in self._linearizations:
            self._linearizations[wanted] = _Linearization(self, self.inputs, wanted)
        return self._linearizations[wanted]


def _plain(constant: Any) -> Any:
    """JAX wraps NumPy constants of a trace in a type of its own."""
    return constant if isinstance(constant, jax.Array) else np.asarray(constant)


class _Linearization:
    """``(t, y) -> k, residuals`` and ``(residuals, k_bar) -> cotangents`` as fixed programs.

    Residuals that are inputs of the field themselves (weights, mostly) are not listed: they are
    supplied again to the pullback, so that loops do not carry copies of them.
    """

    def __init__(self, traced: TracedField, inputs: tuple[Any, Any], wanted: Wanted) -> None:
        self._wanted = wanted
        self._complex = jnp.issubdtype(traced.state.dtype, jnp.complexfloating)
        structure: Any = None

        def forward(constants: Any, args: Any, t: Any, y: Any) -> Any:
            nonlocal structure

            def of(y: Any, some_constants: Any, some_args: Any) -> Any:
                return traced(
                    _replaced(constants, wanted.constants, some_constants),
                    _replaced(args, wanted.args, some_args),
                    t,
                    y,
                )

            k, pull = jax.vjp(of, y, [constants[i] for i in wanted.constants],
                              [args[i] for i in wanted.args])  # fmt: skip
            residuals, structure = jax.tree.flatten(pull)
            return [k, *residuals]

        primal = jax.make_jaxpr(forward)(*inputs, traced.time, traced.state)
        outputs = primal.jaxpr.outvars
        order = {var: i for i, var in enumerate(primal.jaxpr.invars)}
        self._primal = primal
        # position of a residual among the inputs, or None where it has to be kept
        self._given = [None if _literal(var) else order.get(var) for var in outputs[1:]]
        shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in outputs[1:]]
        self._pull = jax.make_jaxpr(lambda r, k_bar: jax.tree.unflatten(structure, r)(k_bar))(
            shapes, traced.state
        )

    def primal(
        self, constants: Sequence[Any], args: Sequence[Any], t: Any, y: Any
    ) -> tuple[Any, list[Any]]:
        """The field, and the residuals to keep."""
        given = [*constants, *args, t, y]
        k, *residuals = jax.core.eval_jaxpr(self._primal.jaxpr, self._primal.consts, *given)
        count = len(given) - 2
        # t and y change from point to point: they are kept although they are inputs
        return k, [
            r
            for r, position in zip(residuals, self._given, strict=True)
            if position is None or position >= count
        ]

    def pullback(
        self, constants: Sequence[Any], args: Sequence[Any], kept: Sequence[Any], k_bar: Any
    ) -> tuple[Any, list[Any], list[Any]]:
        """Cotangents of y, of the wanted constants and of the wanted args (real inner product)."""
        given, rest = [*constants, *args], iter(kept)
        residuals = [
            next(rest) if position is None or position >= len(given) else given[position]
            for position in self._given
        ]
        # JAX pulls back without conjugation; programs use the real inner product
        flat = jax.core.eval_jaxpr(
            self._pull.jaxpr, self._pull.consts, *residuals, conjugate(k_bar)
        )
        y_bar, *others = (conjugate(value) for value in flat)
        count = len(self._wanted.constants)
        return y_bar, others[:count], others[count:]


def conjugate(value: Any) -> Any:
    """Complex conjugate; real arrays as they are."""
    return jnp.conj(value) if jnp.iscomplexobj(value) else value


def _literal(var: Any) -> bool:
    return hasattr(var, "val")


def _replaced(values: Sequence[Any], positions: Sequence[int], new: Sequence[Any]) -> list[Any]:
    result = list(values)
    for position, value in zip(positions, new, strict=True):
        result[position] = value
    return result


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

    @property
    def axes(self) -> tuple[Any, Any]:
        """``in_axes`` of constants and args."""
        return (
            [0 if flag else None for flag in self.constants],
            [0 if flag else None for flag in self.args],
        )


@dataclass
class LaneField:
    """The field on all samples of all lanes that run under ``vmap``."""

    traced: TracedField
    lanes: Lanes
    constants: Sequence[Any]
    args: Sequence[Any]
    wanted: Wanted = field(default_factory=Wanted)

    @property
    def samples(self) -> int:
        """Rows of the flat state: samples of all lanes."""
        return self.traced.layout.samples * (self.lanes.size or 1)

    @property
    def layout(self) -> Layout:
        """Layout of one lane."""
        return self.traced.layout

    def evaluate(self, t: Time, y: Any) -> Any:
        """The field at a time and state of every sample."""
        constants, args = list(self.constants), list(self.args)
        time = self._time(t)
        if self.lanes.size is None:
            return self.traced(constants, args, time, y)
        mapped = jax.vmap(self.traced, in_axes=(*self.lanes.axes, 0, 0))
        return self._merged(mapped(constants, args, time, self._split(y)))

    def linearize(self, t: Time, y: Any) -> tuple[Any, list[Any]]:
        """The field, and the residuals of its pullback."""
        constants, args = list(self.constants), list(self.args)
        primal = self.traced.linearization(self.wanted).primal
        if self.lanes.size is None:
            return primal(constants, args, self._time(t), y)
        mapped = jax.vmap(primal, in_axes=(*self.lanes.axes, 0, 0))
        k, residuals = mapped(constants, args, self._time(t), self._split(y))
        return self._merged(k), residuals

    def pullback(self, residuals: Sequence[Any], k_bar: Any) -> tuple[Any, list[Any], list[Any]]:
        """Cotangents of y, wanted constants and wanted args; of the latter one a lane."""
        constants, args = list(self.constants), list(self.args)
        pull = self.traced.linearization(self.wanted).pullback
        if self.lanes.size is None:
            return pull(constants, args, residuals, k_bar)
        mapped = jax.vmap(pull, in_axes=(*self.lanes.axes, 0, 0))
        y_bar, of_constants, of_args = mapped(constants, args, list(residuals), self._split(k_bar))
        return self._merged(y_bar), of_constants, of_args

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

    def _time(self, t: Time) -> Any:
        shape = self.layout.time_shape
        if self.lanes.size is not None:
            shape = (self.lanes.size, *shape)
        return clock.rounded(t, self.layout.real_dtype).reshape(shape)

    def _split(self, y: Any) -> Any:
        return y.reshape((self.lanes.size, self.layout.samples, self.layout.entries))

    def _merged(self, y: Any) -> Any:
        return y.reshape((self.samples, self.layout.entries))
