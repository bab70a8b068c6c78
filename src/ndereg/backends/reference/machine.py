"""Instructions on NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ndereg.backends.base import Problem
from ndereg.backends.host.arrays import ArrayMachine
from ndereg.backends.interpreter import named

Pullback = Callable[[Any, Any, Sequence[Any], Any], tuple[Any, Sequence[Any]]]


def _safe_divide(a: Any, b: Any) -> Any:
    zero = b == 0
    return np.where(zero, 0.0, a / np.where(zero, 1.0, b))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "safe_div": _safe_divide,
    "neg": np.negative,
    "abs": np.abs,
    "unit": lambda a: np.where(a == 0, a, a / np.where(a == 0, 1, np.abs(a)).astype(a.dtype)),
    "square": np.square,
    "max": np.maximum,
    "min": np.minimum,
    "sqrt": np.sqrt,
    "log": np.log,
    "floor": np.floor,
    "pow": np.power,
    "where": np.where,
    "isfinite": np.isfinite,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
}


class NumpyMachine(ArrayMachine):
    """A machine on NumPy arrays; ``field_pullback`` is the field's VJP, None without gradients."""

    operations = OPERATIONS

    def __init__(
        self,
        problem: Problem,
        field_pullback: Pullback | None = None,
        diffusion_pullback: Pullback | None = None,
    ) -> None:
        # a solve without steps returns the state it was given, which is the caller's
        super().__init__(replace(problem, y0=problem.y0.copy()))
        self.real = np.dtype(problem.layout.real_dtype)
        self.field_pullback = field_pullback
        self.diffusion_pullback = diffusion_pullback
        self.args_bar = [np.zeros(arg.shape, arg.dtype) for arg in problem.args]

    def is_array(self, value: Any) -> bool:
        return isinstance(value, (np.ndarray, np.generic))

    def spread_scalar(self, scalar: Any) -> Any:
        return scalar.astype(self.real) if self.is_array(scalar) else self.real.type(scalar)

    def linear(self, base: Any, terms: Any) -> Any:
        return super().linear(base, [(self.real.type(c) if c != 1 else 1, x) for c, x in terms])

    def mean(self, values: Any) -> Any:
        return np.mean(values, axis=-1, keepdims=True, dtype=np.float64)

    def field_time(self, t: Any) -> Any:
        """Time as the field sees it."""
        return np.asarray(t, dtype=self.real).reshape(self.layout.time_shape)[()]

    def evaluate(self, t: Any, y: Any, field: str = "drift") -> Any:
        if field == "diffusion":
            return self._diffusion(t, y)
        self.evaluations += 1
        return self.problem.call(self.field_time(t), y, self.problem.args)

    def _diffusion(self, t: Any, y: Any) -> Any:
        diffusion = self.problem.diffusion
        assert diffusion is not None
        if diffusion.coupling == "product":
            return self.field_time(t), y  # its product is asked for
        g = diffusion.call(self.field_time(t), y, self.problem.args)
        return g.reshape((*y.shape, -1)) if diffusion.coupling == "matrix" else g

    def linearize(self, t: Any, y: Any, field: str = "drift") -> tuple[Any, Any]:
        return self.evaluate(t, y, *named(field)), (self.field_time(t), y)

    def pullback(self, linearization: Any, cotangent: Any, field: str = "drift") -> Any:
        t, y = linearization
        pull = self.field_pullback if field == "drift" else self.diffusion_pullback
        assert pull is not None
        y_bar, args_bar = pull(t, y, self.problem.args, cotangent)
        self.accumulate(args_bar)
        return y_bar

    def contract(self, diffusion: Any, noise: Any) -> Any:
        if isinstance(diffusion, tuple):
            equation = self.problem.diffusion
            assert equation is not None
            return equation.call(*diffusion, self.problem.args, noise)
        return (diffusion if noise is None else diffusion * noise[:, None, :]).sum(-1)

    def outer(self, state: Any, noise: Any) -> Any:
        return state[..., None] * noise[:, None, :]

    def join(self, first: Any, second: Any) -> Any:
        given = first if first is not None else second
        parts = [np.zeros_like(given) if each is None else each for each in (first, second)]
        return np.concatenate(parts, axis=-1)

    def scalar(self, value: float | bool) -> Any:
        return value if self.joint else np.full((self.layout.samples, 1), value)

    def draws(self, values: Any) -> Any:
        return float(values[0]) if self.joint else np.asarray(values).reshape(-1, 1)

    def read(self, value: Any) -> Any:
        return value.reshape(()).item() if self.joint and self.is_array(value) else value

    def select(self, flag: Any, yes: Any, no: Any) -> Any:
        if isinstance(flag, bool):
            return yes if flag else no
        return np.where(flag, yes, no)

    def stand_in(self, running: Any, y: Any) -> Any:
        return np.where(running, y, y[np.argmax(running)])

    def summary(self, flags: Sequence[Any], counts: Sequence[Any]) -> tuple[list[bool], list[int]]:
        return [bool(np.any(flag)) for flag in flags], [int(np.max(count)) for count in counts]

    def zeros(self) -> Any:
        return np.zeros((self.layout.samples, self.layout.entries), self.layout.dtype)

    def blank(self, times: int) -> Any:
        shape = (self.layout.samples, times, self.layout.entries)
        return np.full(shape, math.nan, self.layout.dtype)

    def column(self, values: Sequence[Any]) -> Any:
        return np.asarray(values).reshape(len(values), self.layout.samples)

    def counter(self, value: Any) -> Any:
        return np.asarray(value, dtype=np.int64).reshape(self.layout.samples)

    def vector(self, value: Any) -> Any:
        return np.asarray(value, dtype=self.real).reshape(self.layout.samples)

    def scalars_of(self, values: Any) -> Any:
        if values is None:
            return np.zeros((self.layout.samples, 1))
        return np.asarray(values, dtype=np.float64).reshape(self.layout.samples, 1)

    def sample_times(self, t_eval: Any) -> Any:
        """Output times, one row a sample."""
        return np.broadcast_to(t_eval, (self.layout.samples, t_eval.shape[-1]))

    def positions(self) -> Any:
        """Position 0 for every sample."""
        return np.zeros((self.layout.samples, 1), dtype=np.int64)

    def count(self, flags: Any) -> Any:
        """Number of set flags of each sample."""
        return np.sum(flags, axis=-1, keepdims=True)

    def next_time(self, times: Any, positions: Any) -> tuple[Any, Any, Any]:
        """Position, time and existence of the next output of each sample."""
        index = np.minimum(positions, times.shape[-1] - 1)
        return index, np.take_along_axis(times, index, -1), positions < times.shape[-1]

    def advance_positions(self, positions: Any, present: Any) -> Any:
        """Step past an answered output."""
        return positions + present

    def put(self, ys: Any, index: Any, present: Any, value: Any) -> Any:
        """Write a state at each sample's position where present."""
        rows = np.flatnonzero(present)
        ys[rows, index[rows, 0]] = value[rows]
        return ys

    def take(self, ys_bar: Any, index: Any, present: Any) -> Any:
        """Cotangent at each sample's position, 0 where not present."""
        rows = np.arange(self.layout.samples)
        return np.where(present, ys_bar[rows, index[:, 0]], 0)
