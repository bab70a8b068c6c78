"""A fourth backend: step programs on array-api-strict, in eager Python.

It uses nothing but the array API standard and what a third-party backend would import. The field's
vector-Jacobian product comes from its trace, evaluated in NumPy, and so do Brownian paths.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import replace
from typing import Any

import array_api_strict as xp
import numpy as np

from ndereg.backends.base import Problem
from ndereg.backends.host.arrays import ArrayMachine
from ndereg.backends.host.backsolve import backsolve
from ndereg.backends.host.loop import integrate, open_tape
from ndereg.backends.host.reverse import pull_back
from ndereg.backends.interpreter import Runners
from ndereg.backends.reference.brownian import NumpyBrownian
from ndereg.backends.tracing import field_pullback

Array = type(xp.zeros(()))


class StrictBackend:
    """Without Brownian paths."""

    name = "strict"

    def from_numpy(self, array: Any) -> Any:
        return xp.asarray(np.array(array))

    def owns(self, value: object) -> bool:
        return isinstance(value, Array)

    def array(self, value: object, what: str) -> Any:
        if isinstance(value, (Array, numbers.Number)):
            return xp.asarray(value)
        raise TypeError(f"expected {what} to be a strict array, received {type(value)}")

    def dtype(self, array: Any) -> str:
        return str(array.dtype).rpartition(".")[2]

    def cast(self, array: Any, dtype: str) -> Any:
        if self.dtype(array).startswith("complex") and not dtype.startswith("complex"):
            array = xp.real(array)
        return xp.astype(array, getattr(xp, dtype))

    def reshape(self, array: Any, shape: tuple[int, ...]) -> Any:
        return xp.reshape(array, shape)

    def concat(self, arrays: Any) -> Any:
        return xp.concat(list(arrays), axis=-1)

    def concrete(self, value: object) -> Any:
        return np.array(value._array) if isinstance(value, Array) else value

    def times(self, values: Any, like: Any) -> Any:
        return xp.asarray(values, dtype=xp.float64)

    def carried_parameters(self, field: Any) -> dict[str, Any]:
        return {}

    def outlined(self, function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    def probed(self, function: Any, argument: Any) -> Any:
        return self.concrete(function(argument))

    def compile(self, plan: Any) -> StrictSolver:
        return StrictSolver(plan)


class DrivenBackend(StrictBackend):
    """With them."""

    name = "driven strict"

    def brownian(self, areas: Any, words: Any, grid: Any, dtype: str, like: Any = None) -> Any:
        return StrictPath(areas, words, grid, dtype)

    def key_words(self, key: object) -> None:
        return None


class StrictPath:
    def __init__(self, *given: Any) -> None:
        self._path = NumpyBrownian(*given)

    def increment(self, s: Any, t: Any, entries: Any) -> Any:
        ends = map(STRICT.concrete, (s, t))
        return self._strict(self._path.increment(*ends, entries))

    def direct(self, step: Any, h: Any, entries: Any) -> Any:
        return self._strict(self._path.direct(step, STRICT.concrete(h), entries))

    def _strict(self, increments: Any) -> Any:
        return tuple(None if part is None else xp.asarray(part) for part in increments)


STRICT, DRIVEN = StrictBackend(), DrivenBackend()


class StrictSolver:
    def __init__(self, plan: Any) -> None:
        self.runners = Runners(plan)

    def solve(self, problem: Problem) -> Any:
        with np.errstate(all="ignore"):
            return integrate(self.runners, StrictMachine(problem), None)

    def solve_vjp(self, problem: Problem) -> Any:
        vjp, diffusion_vjp = strict_pullback(problem), None
        if problem.diffusion is not None and problem.diffusion.field is not None:
            diffusion_vjp = strict_pullback(problem, "diffusion")
        tape = open_tape(problem.spec.adjoint)
        with np.errstate(all="ignore"):
            result = integrate(self.runners, StrictMachine(problem), tape)

        def pullback(ys_bar: Any, penalty_bar: Any) -> Any:
            with np.errstate(all="ignore"):
                if tape is None:
                    return backsolve(
                        STRICT,
                        lambda plan, part: StrictSolver(plan).solve(part),
                        problem,
                        vjp,
                        result.ys,
                        ys_bar,
                        xp.broadcast_to,
                    )
                machine = StrictMachine(problem, vjp, diffusion_vjp)
                y0_bar = pull_back(self.runners, machine, tape, ys_bar, penalty_bar)
                return y0_bar, machine.args_bar

        return result, pullback


def strict_pullback(problem: Problem, name: str = "drift") -> Any:
    args = tuple(STRICT.concrete(arg) for arg in problem.args)
    pull = field_pullback(replace(problem, args=args), name)

    def pulled(t: Any, y: Any, args: Any, k_bar: Any) -> Any:
        plain = [STRICT.concrete(value) for value in (t, y, k_bar)]
        y_bar, args_bar = pull(plain[0][()], plain[1], [*map(STRICT.concrete, args)], plain[2])
        return xp.asarray(y_bar), [
            None if bar is None else xp.asarray(np.asarray(bar)) for bar in args_bar
        ]

    return pulled


def _where(condition: Any, yes: Any, no: Any) -> Any:
    if isinstance(condition, bool):
        return yes if condition else no
    if not isinstance(yes, Array) and not isinstance(no, Array):
        yes = xp.full(condition.shape, yes, dtype=xp.float64)
    return xp.where(condition, yes, no)


def _unit(a: Any) -> Any:
    size = xp.abs(a)
    return xp.where(a == 0, a, a / xp.where(size == 0, xp.ones_like(size), size))


def _safe_divide(a: Any, b: Any) -> Any:
    zero = b == 0
    return xp.where(zero, 0.0 * b, a / xp.where(zero, xp.ones_like(b), b))


OPERATIONS: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "safe_div": _safe_divide,
    "neg": lambda a: -a,
    "abs": xp.abs,
    "unit": _unit,
    "square": lambda a: a * a,
    "max": xp.maximum,
    "min": xp.minimum,
    "sqrt": xp.sqrt,
    "log": xp.log,
    "floor": xp.floor,
    "pow": lambda a, b: a**b,
    "where": _where,
    "isfinite": xp.isfinite,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
    "and": xp.logical_and,
    "or": xp.logical_or,
    "not": xp.logical_not,
}


class StrictMachine(ArrayMachine):
    operations = OPERATIONS

    def __init__(self, problem: Problem, vjp: Any = None, diffusion_vjp: Any = None) -> None:
        super().__init__(problem)
        self.real = getattr(xp, problem.layout.real_dtype)
        self.vjps = {"drift": vjp, "diffusion": diffusion_vjp}
        self.args_bar = [xp.zeros_like(arg) for arg in problem.args]

    def is_array(self, value: Any) -> bool:
        return isinstance(value, Array)

    def spread_scalar(self, scalar: Any) -> Any:
        return xp.astype(scalar, self.real) if self.is_array(scalar) else scalar

    def mean(self, values: Any) -> Any:
        return xp.mean(xp.astype(values, xp.float64), axis=-1, keepdims=True)

    def field_time(self, t: Any) -> Any:
        t = xp.astype(xp.asarray(t, dtype=xp.float64), self.real)
        return xp.reshape(t, self.layout.time_shape)

    def evaluate(self, t: Any, y: Any, field: str = "drift") -> Any:
        diffusion = self.problem.diffusion
        if field == "drift" or diffusion is None:
            return self.problem.call(self.field_time(t), y, self.problem.args)
        g = diffusion.call(self.field_time(t), y, self.problem.args)
        return xp.reshape(g, (*y.shape, -1)) if diffusion.coupling == "matrix" else g

    def linearize(self, t: Any, y: Any, field: str = "drift") -> Any:
        return self.evaluate(t, y, field), (self.field_time(t), y)

    def pullback(self, linearization: Any, cotangent: Any, field: str = "drift") -> Any:
        y_bar, args_bar = self.vjps[field](*linearization, self.problem.args, cotangent)
        self.accumulate(args_bar)
        return y_bar

    def contract(self, diffusion: Any, noise: Any) -> Any:
        return xp.sum(diffusion if noise is None else diffusion * noise[:, None, :], axis=-1)

    def outer(self, state: Any, noise: Any) -> Any:
        return state[:, :, None] * noise[:, None, :]

    def join(self, first: Any, second: Any) -> Any:
        given = first if first is not None else second
        parts = [xp.zeros_like(given) if each is None else each for each in (first, second)]
        return xp.concat(parts, axis=-1)

    def scalar(self, value: Any) -> Any:
        return value if self.joint else xp.full((self.layout.samples, 1), value)

    def read(self, value: Any) -> Any:
        return float(xp.reshape(value, ())) if self.joint and self.is_array(value) else value

    def select(self, flag: Any, yes: Any, no: Any) -> Any:
        return _where(flag, yes, no)

    def stand_in(self, running: Any, y: Any) -> Any:
        first = int(xp.argmax(xp.astype(running[:, 0], xp.int64)))
        return xp.where(running, y, y[first : first + 1, :])

    def summary(self, flags: Any, counts: Any) -> Any:
        found = [flag if isinstance(flag, bool) else bool(xp.any(flag)) for flag in flags]
        return found, [c if isinstance(c, int) else int(xp.max(c)) for c in counts]

    def zeros(self) -> Any:
        return xp.zeros_like(self.problem.y0)

    def blank(self, times: int) -> Any:
        shape = (self.layout.samples, times, self.layout.entries)
        return xp.full(shape, math.nan, dtype=getattr(xp, self.layout.dtype))

    def column(self, values: Any) -> Any:
        if not values:
            return xp.zeros((0, self.layout.samples))
        rows = [xp.reshape(xp.asarray(value), (-1,)) for value in values]
        return xp.stack(rows)

    def counter(self, value: Any) -> Any:
        return xp.astype(xp.reshape(xp.asarray(value), (self.layout.samples,)), xp.int64)

    def vector(self, value: Any) -> Any:
        return xp.reshape(xp.astype(xp.asarray(value), self.real), (self.layout.samples,))

    def scalars_of(self, values: Any) -> Any:
        shape = (self.layout.samples, 1)
        return (
            xp.zeros(shape) if values is None else xp.astype(xp.reshape(values, shape), xp.float64)
        )

    def sample_times(self, t_eval: Any) -> Any:
        shape = (self.layout.samples, t_eval.shape[-1])
        return xp.asarray(np.broadcast_to(t_eval, shape).copy())

    def positions(self) -> Any:
        return xp.zeros((self.layout.samples, 1), dtype=xp.int64)

    def count(self, flags: Any) -> Any:
        return xp.sum(xp.astype(flags, xp.int64), axis=-1, keepdims=True)

    def next_time(self, times: Any, positions: Any) -> Any:
        most = times.shape[-1]
        index = xp.minimum(positions, xp.asarray(most - 1))
        return index, xp.take_along_axis(times, index, axis=-1), positions < most

    def advance_positions(self, positions: Any, present: Any) -> Any:
        return positions + xp.astype(present, xp.int64)

    def put(self, ys: Any, index: Any, present: Any, value: Any) -> Any:
        for sample in range(self.layout.samples):
            if bool(present[sample, 0]):
                ys[sample, int(index[sample, 0]), :] = value[sample, :]
        return ys

    def take(self, ys_bar: Any, index: Any, present: Any) -> Any:
        rows = [ys_bar[s, int(index[s, 0]), :] for s in range(self.layout.samples)]
        return xp.where(present, xp.stack(rows), xp.zeros_like(self.problem.y0))
