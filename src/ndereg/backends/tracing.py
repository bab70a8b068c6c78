"""Fields traced for the backends that have no automatic differentiation of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ndereg.backends.base import Problem
from ndereg.backends.bound import note_call, refuse_result
from ndereg.backends.derivatives import Derivatives, Function
from ndereg.field import Field, is_compiled
from ndereg.structure import Structure, check_leaves, flatten
from ndereg.trace import evaluate, trace
from ndereg.trace.array import TracedArray
from ndereg.trace.derivative import jvp, trace_function, vjp
from ndereg.trace.graph import Graph

_RESULTS = (TracedArray, np.ndarray, np.generic, int, float, complex)

FieldPullback = Callable[[Any, Any, Sequence[Any], Any], tuple[Any, Sequence[Any]]]


def trace_field(problem: Problem, name: str = "drift") -> Graph:
    """Trace the field of a problem, or the diffusion of a stochastic equation."""
    layout, result = problem.seen, None
    if name == "diffusion":
        assert problem.diffusion is not None
        result = problem.diffusion.layout.shapes
        problem = replace(problem, field=problem.diffusion.field)
    return trace(
        _checked(problem),
        state_structure=layout.structure,
        state_shapes=layout.shapes,
        state_dtypes=layout.dtypes,
        dtype=layout.dtype,
        args_structure=problem.args_structure,
        args_shapes=[arg.shape for arg in problem.args],
        args_dtypes=[str(arg.dtype) for arg in problem.args],
        batch=layout.batch,
        result_shapes=result,
        what="the result of the field" if result is None else "the result of the diffusion",
    )


def _checked(problem: Problem) -> Callable[[Any, Any, Any], Any]:
    """Return the field such that its errors are noted and foreign results are refused."""
    field = problem.field
    if getattr(field, "in_place", False):
        raise TypeError(
            "expected an @njit function for ndereg.Field(in_place=True), received a Python "
            "function; try numba.njit, or a field that returns dy/dt"
        )

    def called(t: Any, y: Any, args: Any) -> Any:
        try:
            result = field(t, y, args)
        except Exception as error:
            note_call(error, problem.seen, problem.args_structure)
            raise
        for leaf in flatten(result)[0]:
            if not isinstance(leaf, _RESULTS):
                refuse_result(leaf, "NumPy arrays", problem.seen.structure)
        return result

    return called


def refuse_without_vjp(field: Callable[..., Any]) -> None:
    """Raise if a gradient is asked for of a compiled field that does not bring its own.

    Raises
    ------
    ValueError
        Saying how to bring one.
    """
    if is_compiled(field) and getattr(field, "vjp", None) is None:
        raise ValueError(
            "expected a vector-Jacobian product for the gradient of an @njit field, received a "
            "field without one; try ndereg.Field(f, vjp=g) with g(t, y, args, k_bar) -> "
            "(y_bar, args_bar), or a plain Python field, which is differentiated by tracing"
        )


def field_pullback(problem: Problem, name: str = "drift") -> FieldPullback:
    """Return the field's VJP on flat arrays, evaluated in NumPy.

    With ``name="diffusion"`` it is that of the diffusion, which is traced. Of a drift that is a
    :class:`ndereg.Field` the own ``vjp`` is called; everything else is traced.

    Raises
    ------
    TypeError, ValueError
        If the field can neither be traced nor brings a ``vjp``.
    """
    layout, field = problem.seen, problem.field
    if name == "drift" and isinstance(field, Field) and field.vjp is not None:
        return _own_pullback(problem, field.vjp)
    refuse_without_vjp(field)
    from ndereg.trace.vjp import linearize

    forward, pullback, *_ = linearize(trace_field(problem, name))
    lead = () if layout.batch is None else (layout.batch,)
    shape = (*lead, layout.entries)

    def pull(t: Any, y: Any, args: Sequence[Any], k_bar: Any) -> tuple[Any, Sequence[Any]]:
        inputs = [t, y.reshape(shape), *args]
        _, *residuals = evaluate(forward, inputs)
        bar = k_bar.reshape((*lead, -1))
        y_bar, *args_bar = evaluate(pullback, [*inputs, *residuals, bar])
        return y_bar.reshape(y.shape), args_bar

    return pull


class TracedDerivatives(Derivatives):
    """Derivatives of traced functions; on arrays they are evaluated, for one problem each."""

    def __init__(self) -> None:
        self._graph: Graph | None = None

    def owns(self, value: object) -> bool:
        """What is traced, and constants."""
        return isinstance(value, (TracedArray, np.ndarray, np.generic))

    def jvp(
        self, function: Function, primals: Sequence[Any], tangents: Sequence[Any]
    ) -> Sequence[Any]:
        """See :func:`ndereg.trace.derivative.jvp`."""
        return jvp(function, primals, tangents)

    def vjp(
        self, function: Function, primals: Sequence[Any], cotangents: Sequence[Any]
    ) -> Sequence[Any]:
        """See :func:`ndereg.trace.derivative.vjp`."""
        return vjp(function, primals, cotangents)

    def call(self, function: Function, arrays: Sequence[Any]) -> Sequence[Any]:
        """Evaluate the graph of ``function``, traced once, where the arrays are NumPy's."""
        if any(isinstance(array, TracedArray) for array in arrays):
            return function(*arrays)
        if self._graph is None:
            self._graph = trace_function(function, [np.asarray(array) for array in arrays])
        return evaluate(self._graph, arrays)


def _own_pullback(problem: Problem, vjp: Callable[..., Any]) -> FieldPullback:
    layout, args_structure = problem.seen, problem.args_structure
    bound: Any = problem.call
    args_shapes = [arg.shape for arg in problem.args]

    def pull(t: Any, y: Any, args: Sequence[Any], k_bar: Any) -> tuple[Any, Sequence[Any]]:
        given = args_structure.unflatten(list(args))
        try:
            found = vjp(t, bound.state(y), given, bound.state(k_bar))
        except Exception as error:
            note_call(error, layout, args_structure)
            raise
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(
                "expected the field's vjp to return (y_bar, args_bar), received "
                f"{type(found).__name__}; try returning None for args_bar where args is None"
            )
        y_bar = _matching(found[0], "y_bar of the field's vjp", "the state",
                          layout.structure, layout.shapes)  # fmt: skip
        args_bar: list[Any] = []
        if args:
            args_bar = _matching(found[1], "args_bar of the field's vjp", "args",
                                 args_structure, args_shapes)  # fmt: skip
        return layout.flatten(bound.backend, y_bar), args_bar

    return pull


def _matching(
    tree: Any, what: str, like: str, expected: Structure, shapes: Sequence[tuple[int, ...]]
) -> list[Any]:
    """Leaves as arrays, refused if they differ from those of ``like``; dtypes are cast later."""
    leaves, structure = flatten(tree)
    arrays = [np.asarray(leaf) for leaf in leaves]
    kinds = [str(array.dtype) for array in arrays]
    check_leaves(
        what, like=like, expected=expected, shapes=shapes, dtypes=kinds, received=structure,
        received_shapes=[array.shape for array in arrays], received_dtypes=kinds,
    )  # fmt: skip
    return arrays
