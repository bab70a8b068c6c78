"""The run-time inputs of a solve, and how lanes of ``jax.vmap`` become samples of one loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from ndereg.backends.base import Problem
from ndereg.backends.jax import clock
from ndereg.backends.jax.clock import Time
from ndereg.backends.jax.field import Lanes
from ndereg.spec.controller import CONTROL_PARAMETERS

NUMBERS = ("rtol", "atol", "dt", "first_step", "max_steps", *CONTROL_PARAMETERS)
"""Names of the leading entries of ``Inputs.numbers``; the weights of the penalty follow."""


class Inputs(NamedTuple):
    """Everything that a compiled solve reads; a pytree.

    ``constants`` are what the field closes over; ``numbers`` one vector of the control scalars;
    ``draws`` random numbers (samples, 1), where a local regularizer needs them; ``path`` key and
    grid of the Brownian path of a stochastic equation.
    """

    constants: tuple[Any, ...]
    args: tuple[Any, ...]
    y0: Any
    t0: Time
    t1: Time
    t_eval: Time | None
    numbers: Any
    draws: Any = None
    path: Any = None


def gather_inputs(problem: Problem, constants: Sequence[Any]) -> Inputs:
    """The inputs of a problem."""
    first_step = np.nan if problem.first_step is None else problem.first_step
    numbers = [problem.rtol, problem.atol, problem.dt, first_step, float(problem.max_steps),
               *problem.parameters, *problem.weights]  # fmt: skip
    dtype = clock.control_dtype()
    if any(isinstance(number, jax.Array) for number in numbers):
        packed: Any = jnp.stack([jnp.asarray(number, dtype).reshape(()) for number in numbers])
    else:
        packed = np.asarray(numbers, dtype)
    return Inputs(
        constants=tuple(constants),
        args=problem.args,
        y0=problem.y0,
        t0=_scalar_time(problem.t0),
        t1=_scalar_time(problem.t1),
        t_eval=None if problem.t_eval is None else clock.encode(problem.t_eval),
        numbers=packed,
        draws=_draws(problem.draws, dtype),
        path=_path(problem, dtype),
    )


def _path(problem: Problem, dtype: Any) -> Any:
    if problem.diffusion is None:
        return None
    path = problem.diffusion.path
    grid = path.grid
    origin = grid.origin if isinstance(grid.origin, tuple) else _scalar_time(grid.origin)
    return {
        "words": tuple(jnp.asarray(word, jnp.uint32) for word in path.words),
        "origin": origin,
        "grid": tuple(jnp.asarray(x, dtype) for x in (grid.direction, grid.size, grid.length)),
        "medium": {k: jnp.asarray(x, dtype) for k, x in problem.diffusion.medium.items()},
    }


def _draws(values: Any, dtype: Any) -> Any:
    if values is None:
        return None
    if isinstance(values, jax.Array):
        return values.astype(dtype)[:, None]
    return np.asarray(values, dtype)[:, None]


def _scalar_time(value: Any) -> Time:
    return clock.encode(value.reshape(()) if isinstance(value, jax.Array) else value)


class Rows:
    """Inputs laid out over the samples of all lanes."""

    def __init__(self, inputs: Inputs, lanes: Lanes, samples: int) -> None:
        self._lead = () if lanes.size is None else (lanes.size,)
        self._samples = samples
        self.total = samples * (lanes.size or 1)
        self.y0 = self._spread(inputs.y0, inputs.y0.shape[-1:])
        self.t0 = tuple(self._scalar(part) for part in inputs.t0)
        self.t1 = tuple(self._scalar(part) for part in inputs.t1)
        self._own_times = lanes.size is not None and lanes.times
        self.t_eval = None
        if inputs.t_eval is not None:
            self.t_eval = tuple(map(self._output_times, inputs.t_eval))
        self.numbers = inputs.numbers
        self.draws = None if inputs.draws is None else self._spread(inputs.draws, (1,))
        self.path = jax.tree.map(self._scalar, inputs.path)

    def number(self, index: int) -> Any:
        """One of the control scalars, for every sample."""
        return self._scalar(self.numbers[..., index])

    def named_numbers(self) -> dict[str, Any]:
        """All control scalars by name, the weights as ``weight0``, ..."""
        weights = self.numbers.shape[-1] - len(NUMBERS)
        names = [*NUMBERS, *(f"weight{i}" for i in range(weights))]
        return {name: self.number(i) for i, name in enumerate(names)}

    def split(self, value: Any) -> Any:
        """``(samples of all lanes, ...)`` as ``(lanes, samples, ...)``, or as it is."""
        return value.reshape((*self._lead, self._samples, *value.shape[1:]))

    def merge(self, value: Any) -> Any:
        """The inverse of :meth:`split`."""
        return value.reshape((self.total, *value.shape[len(self._lead) + 1 :]))

    def split_rows(self, value: Any) -> Any:
        """``(rows, samples of all lanes, ...)`` with the lanes in front."""
        value = value.reshape((value.shape[0], *self._lead, self._samples, *value.shape[2:]))
        return jnp.moveaxis(value, 1, 0) if self._lead else value

    def merge_rows(self, value: Any) -> Any:
        """The inverse of :meth:`split_rows`."""
        value = jnp.moveaxis(value, 0, 1) if self._lead else value
        return value.reshape((value.shape[0], self.total, *value.shape[len(self._lead) + 2 :]))

    def share(self, value: Any) -> Any:
        """A value that all lanes have in common, once a lane."""
        return jnp.broadcast_to(value, (*self._lead, *jnp.shape(value)))

    def unshare(self, value: Any) -> Any:
        """The inverse of :meth:`share`."""
        return value[0] if self._lead else value

    def lane_time(self, value: Any, inputs: Inputs, name: str) -> Any:
        """Cotangents ``(samples of all lanes, times)`` of a time, in its shape in each lane."""
        value = self.split(value)
        if name != "t_eval":
            return value.sum(axis=(-2, -1))
        assert inputs.t_eval is not None
        shared = inputs.t_eval[0].ndim - self._own_times == 1
        return value.sum(axis=-2) if shared else value

    def _spread(self, value: Any, tail: tuple[int, ...]) -> Any:
        shape = (*self._lead, self._samples, *tail)
        return jnp.broadcast_to(value, shape).reshape((self.total, *tail))

    def _scalar(self, value: Any) -> Any:
        value = jnp.asarray(value)
        return self._spread(value.reshape((*value.shape, 1, 1)), (1,))

    def _output_times(self, value: Any) -> Any:
        value = jnp.asarray(value)
        if value.ndim - self._own_times == 1:
            value = value[..., None, :]
        return self._spread(value, value.shape[-1:])


def batchable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``function(lanes, inputs, *others)`` run the lanes of ``vmap`` as samples of one loop.

    JAX would batch a ``while_loop`` by selecting, after every iteration, between the old and the
    new value of everything that it carries, the stored states included.

    With lanes, every leaf of ``others`` and every result leads with the lanes; of ``inputs`` the
    leaves that ``lanes`` names do.
    """

    def for_lanes(size: int | None, flags: Any) -> Callable[..., Any]:
        @custom_vmap
        def call(inputs: Inputs, *others: Any) -> Any:
            return function(_lanes(size, flags), inputs, *others)

        @call.def_vmap
        def _(axis: int, batched: Any, inputs: Inputs, *others: Any) -> Any:
            own, of_others = batched[0], batched[1:]
            merged = jax.tree.map(
                lambda x, new, old: _merge(x, new, old, axis, size), inputs, own, flags
            )
            others = jax.tree.map(
                lambda x, new: _merge(x, new, size is not None, axis, size, always=True),
                others,
                tuple(of_others),
            )
            union = jax.tree.map(lambda new, old: new or old, own, flags)
            result = for_lanes(axis * (size or 1), union)(merged, *others)
            if size is not None:
                result = jax.tree.map(lambda x: x.reshape((axis, size, *x.shape[1:])), result)
            return result, jax.tree.map(lambda _: True, result)

        return call

    def start(inputs: Inputs, *others: Any) -> Any:
        return for_lanes(None, jax.tree.map(lambda _: False, inputs))(inputs, *others)

    return start


def _lanes(size: int | None, flags: Inputs) -> Lanes:
    times = flags.t_eval is not None and flags.t_eval[0]
    return Lanes(size, tuple(flags.constants), tuple(flags.args), times)


def _merge(
    x: Any, new: bool, old: bool, axis: int, size: int | None, *, always: bool = False
) -> Any:
    """A leaf with the new axis in front merged with the lanes that it may have already."""
    if not (new or old or always):
        return x
    if size is None:
        return x if new else jnp.broadcast_to(x, (axis, *jnp.shape(x)))
    shape = jnp.shape(x)[new + old :]
    if not old:
        x = jnp.broadcast_to(x.reshape((axis, 1, *shape)), (axis, size, *shape))
    elif not new:
        x = jnp.broadcast_to(x, (axis, size, *shape))
    return x.reshape((axis * size, *shape))
