"""Fields traced for the backends that have no automatic differentiation of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ndereg.backends.base import Problem
from ndereg.field import Field
from ndereg.trace import evaluate, trace
from ndereg.trace.graph import Graph

FieldPullback = Callable[[Any, Any, Sequence[Any], Any], tuple[Any, Sequence[Any]]]


def trace_field(problem: Problem) -> Graph:
    """Trace the field of a problem."""
    layout = problem.layout
    return trace(
        problem.field,
        state_structure=layout.structure,
        state_shapes=layout.shapes,
        state_dtypes=layout.dtypes,
        dtype=layout.dtype,
        args_structure=problem.args_structure,
        args_shapes=[arg.shape for arg in problem.args],
        args_dtypes=[str(arg.dtype) for arg in problem.args],
        batch=layout.batch,
    )


def field_pullback(problem: Problem) -> FieldPullback:
    """The field's VJP on flat arrays, evaluated in NumPy.

    A :class:`ndereg.Field` with its own ``vjp`` is called; everything else is traced.

    Raises
    ------
    TypeError
        If the field can neither be traced nor brings a ``vjp``.
    """
    layout, field = problem.layout, problem.field
    if isinstance(field, Field) and field.vjp is not None:
        return _own_pullback(problem, field.vjp)
    from ndereg.trace.vjp import linearize

    forward, pullback, *_ = linearize(trace_field(problem))
    shape = (layout.entries,) if layout.batch is None else (layout.batch, layout.entries)

    def pull(t: Any, y: Any, args: Sequence[Any], k_bar: Any) -> tuple[Any, Sequence[Any]]:
        inputs = [t, y.reshape(shape), *args]
        _, *residuals = evaluate(forward, inputs)
        y_bar, *args_bar = evaluate(pullback, [*inputs, *residuals, k_bar.reshape(shape)])
        return y_bar.reshape(y.shape), args_bar

    return pull


def _own_pullback(problem: Problem, vjp: Callable[..., Any]) -> FieldPullback:
    from ndereg.structure import flatten

    layout = problem.layout

    class _Arrays:
        @staticmethod
        def cast(array: Any, dtype: str) -> Any:
            return np.asarray(array).astype(dtype, copy=False)

        @staticmethod
        def concat(arrays: Sequence[Any]) -> Any:
            return np.concatenate(arrays, axis=-1)

    backend: Any = _Arrays()

    def pull(t: Any, y: Any, args: Sequence[Any], k_bar: Any) -> tuple[Any, Sequence[Any]]:
        state = layout.structure.unflatten(layout.unflatten(backend, y))
        bar = layout.structure.unflatten(layout.unflatten(backend, k_bar))
        y_bar, args_bar = vjp(t, state, problem.args_structure.unflatten(list(args)), bar)
        return layout.flatten(backend, flatten(y_bar)[0]), flatten(args_bar)[0]

    return pull
