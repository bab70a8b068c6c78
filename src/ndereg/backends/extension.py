"""A problem extended by what is integrated along its solution.

That is one component a sample for every integrand of the penalty, and the log-density of a flow,
which the user has in the state. The extended state ``(y, [l], q0, q1, ...)`` is solved like any
other, its field being ``(f, [-div f], rate0, rate1, ...)``. What the user posed is kept beside it,
and results are taken apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import array_api_compat
import numpy as np

from ndereg import ops
from ndereg.backends.base import Array, Backend, Layout, Problem, Result, layout_of
from ndereg.backends.bound import BoundField, checked_leaves, note_call
from ndereg.backends.derivatives import Derivatives
from ndereg.backends.draws import uniform
from ndereg.backends.pairs import first_of_pair, pair_cotangent, start_cotangent
from ndereg.backends.undriven import undriven
from ndereg.field import is_compiled
from ndereg.flow import Divergence, Flow
from ndereg.spec.integrand import Integrand
from ndereg.structure import LEAF, Structure, flatten


@dataclass(frozen=True)
class Density:
    """The log-density that a flow carries along.

    Attributes
    ----------
    divergence : {"exact", "hutchinson"}
    samples : tuple of int
        Shape of the log-density: the leading axes of the state.
    shape : tuple of int
        The same with as many axes as the state, where time has them.
    dtype : str
    """

    divergence: Divergence
    samples: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ExtendedField:
    """A field with rates beside it: ``f(t, (y, [l], *q), args) -> (dy/dt, [-div f], *rates)``.

    ``args`` is ``(args, probe, basis)``, and None in the place of a probe or a basis that nothing
    reads. It holds no array and nothing that changes, so that it is what ``field`` is.
    """

    field: Callable[..., Any]
    integrands: tuple[Integrand, ...]
    density: Density | None
    derivatives: Derivatives
    structure: Structure
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    independent: bool
    real_dtype: str

    def __call__(self, t: Array, y: Any, args: Any) -> Any:
        """Evaluate the field and the rates."""
        given, structure = flatten((t, y[0], args))

        def evaluate(*arrays: Array) -> Sequence[Array]:
            t, state, (own_args, probe, basis) = structure.unflatten(arrays)
            point = Point(self, t, flatten(state)[0], own_args, probe, basis)
            carried = [] if self.density is None else [-1.0 * point.divergence(self.density)]
            rates = [each.rate(point) for each in self.integrands]
            return [*point.derivative(1), *carried, *rates]

        found = self.derivatives.call(evaluate, given)
        count = self.structure.size
        return (self.structure.unflatten(found[:count]), *found[count:])

    def velocity(self, args: Any, t: Array, *y: Array) -> Sequence[Array]:
        """Evaluate the field on leaves, and check what it returns."""
        try:
            result = self.field(t, self.structure.unflatten(y), args)
        except Exception as error:
            note_call(error, self, flatten(args)[1])
            raise
        return checked_leaves(result, y, self.structure, self.derivatives.owns, "the field")

    @property
    def rate_shape(self) -> tuple[int, ...]:
        """Shape of a rate: with as many axes as the state, so that time broadcasts with both."""
        if not self.independent:
            return ()
        return (self.shapes[0][0], *[1] * (max(map(len, self.shapes)) - 1))


class Point:
    """A :class:`ndereg.spec.integrand.SolutionPoint` of arrays; directions are lists of leaves."""

    def __init__(
        self,
        field: ExtendedField,
        t: Array,
        y: Sequence[Array],
        args: Any,
        probe: Any,
        basis: Any,
    ) -> None:
        self._field, self._t, self._y, self._basis = field, t, y, basis
        self._velocity = partial(field.velocity, args)
        self._known: dict[int, Sequence[Array]] = {}
        self._signs = [
            _signs(each, leaf, field.real_dtype) for each, leaf in zip(probe or (), y, strict=False)
        ]
        self._pulled_back: Sequence[Array] | None = None

    def derivative(self, order: int) -> Sequence[Array]:
        """``d^order y / dt^order``."""
        if order not in self._known:
            total = self._field.derivatives.total
            self._known[order] = total(self._velocity, self._t, self._y, order)
        return self._known[order]

    def pulled_back_probe(self) -> Sequence[Array]:
        """``J^T e``."""
        if self._pulled_back is None:
            (self._pulled_back,) = self._vjps([self._signs])
        return self._pulled_back

    def divergence(self, density: Density) -> Array:
        """``div f`` of every sample, or the estimate ``e^T J e``."""
        if density.divergence == "hutchinson":
            directions, products = [self._signs], [self.pulled_back_probe()]
        else:
            directions = [
                [ops.zeros_like(y) + _cast(rows[i], _dtype_name(y))
                 for y, rows in zip(self._y, self._basis, strict=True)]
                for i in range(self._basis[0].shape[0])
            ]  # fmt: skip
            products = self._vjps(directions)
        total: Any = 0.0
        for direction, product in zip(directions, products, strict=True):
            for d, p in zip(direction, product, strict=True):
                entries = ops.reshape(d * p, (*density.samples, -1))
                total = total + _cast(ops.sum(entries, axis=len(density.samples)), density.dtype)
        return ops.reshape(total, density.shape)

    def _vjps(self, directions: Sequence[Sequence[Array]]) -> Sequence[Sequence[Array]]:
        velocity = partial(self._velocity, self._t)
        return self._field.derivatives.vjps(velocity, self._y, directions)

    def mean_square(self, direction: Sequence[Array]) -> Array:
        """Mean of ``|entry| ** 2``, in the shape of a rate."""
        field = self._field
        parts = [_sum_of_squares(leaf, field) for leaf in direction]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        entries = sum(math.prod(shape) for shape in field.shapes)
        if field.independent:
            entries //= field.shapes[0][0]
        return ops.reshape(total, field.rate_shape) * (1.0 / entries)


def _sum_of_squares(leaf: Array, field: ExtendedField) -> Array:
    """Over everything, or over each sample, in the dtype of a rate."""
    is_complex = "complex" in str(leaf.dtype)
    parts = [ops.real(leaf), ops.imag(leaf)] if is_complex else [leaf]
    squares = sum(part * part for part in parts)
    if field.independent:
        summed = ops.sum(ops.reshape(squares, (squares.shape[0], -1)), axis=1)
    else:
        summed = ops.sum(squares)
    return _cast(summed, field.real_dtype)


def _cast(array: Array, dtype: str) -> Array:
    xp = array_api_compat.array_namespace(array)
    return xp.astype(array, getattr(xp, dtype))


def _dtype_name(array: Array) -> str:
    return str(array.dtype).rpartition(".")[2]


def _signs(probe: Array, y: Array, real_dtype: str) -> Array:
    """Signs as they are drawn, in the dtype of the state: of a complex one, those of both parts."""
    dtype = _dtype_name(y)
    if not dtype.startswith("complex"):
        return _cast(probe, dtype)
    parts = _cast(probe, "float64" if dtype == "complex128" else "float32") * math.sqrt(0.5)
    return parts[..., 0] + 1j * parts[..., 1]


# The problem


def extend(
    backend: Backend,
    problem: Problem,
    integrands: dict[Integrand, float],
    flow: Flow | None,
    key: Any,
) -> Problem:
    """Extend a problem by integrands, given with their weights, and by the divergence of a flow.

    The problem of a flow has the log-density in its state and a field that does not know of it.

    Raises
    ------
    ValueError
        If something needs a key and there is none, or the state is none of a flow.
    TypeError
        If the backend or the field cannot serve them.
    """
    derivatives = _derivatives(backend, problem, integrands, flow)
    layout = problem.layout
    state = layout if flow is None else _of_the_field(layout)
    density = None if flow is None else _density(flow, layout, state)
    field = ExtendedField(
        problem.field, tuple(integrands), density, derivatives, state.structure, state.shapes,
        state.dtypes, layout.batch is not None, layout.real_dtype,
    )  # fmt: skip
    count = len(integrands)
    carried = [] if density is None else [(density.shape, density.dtype)]
    added = [*carried, *[(field.rate_shape, layout.real_dtype)] * count]
    extended = layout_of(
        Structure("tuple", (state.structure, *[LEAF] * len(added))),
        (*state.shapes, *[shape for shape, _ in added]),
        (*state.dtypes, *[dtype for _, dtype in added]),
        layout.batch,
    )
    probes: list[Array] = []
    basis: list[Array] = []
    probed = density is not None and density.divergence == "hutchinson"
    if probed or any(each.probed for each in integrands):
        probes = _probes(backend, problem.y0, state, key, probed)
    if density is not None and not probed:
        basis = _basis(backend, problem.y0, state, density)
    args_structure = Structure("tuple", (problem.args_structure, _list(probes), _list(basis)))
    y0 = problem.y0
    if count:
        zeros = _filled(backend, np.zeros((layout.samples, count)), y0, layout.dtype)
        y0 = backend.concat([y0, zeros])
    t_eval, given_times = _with_end(backend, problem) if count else (
        problem.t_eval, problem.given_times
    )  # fmt: skip
    return replace(
        problem,
        asked=problem,
        integral_weights=tuple(integrands.values()),
        field=field,
        call=BoundField(backend, field, extended, args_structure),
        layout=extended,
        y0=y0,
        args=(*problem.args, *probes, *basis),
        args_structure=args_structure,
        t_eval=t_eval,
        given_times=given_times,
        diffusion=undriven(backend, problem, extended, args_structure),
    )


def _list(arrays: Sequence[Array]) -> Structure:
    return Structure("tuple", (LEAF,) * len(arrays)) if arrays else Structure("none")


def _of_the_field(layout: Layout) -> Layout:
    """The layout of ``y``, where that of the state is ``(y, log_density)``."""
    structure = layout.structure
    if structure.kind != "tuple" or len(structure.children) != 2 or structure.children[1] != LEAF:
        raise ValueError(
            f"expected a state (y, log_density) for an ndereg.Flow, received {structure}; try "
            "(y0, zeros), with a zero for every sample"
        )
    shape = layout.shapes[-1]
    for each in layout.shapes[:-1]:
        if each[: len(shape)] != shape:
            raise ValueError(
                "expected a log_density in the shape of the samples, the leading axes of y, for "
                f"an ndereg.Flow, received shape {shape} where y has {each}; try shape {each[:1]}"
            )
    if "complex" in layout.dtype:
        raise TypeError(
            f"expected a real state for an ndereg.Flow, received dtype {layout.dtype}; try real "
            "and imaginary parts as entries of their own"
        )
    return layout_of(structure.children[0], layout.shapes[:-1], layout.dtypes[:-1], layout.batch)


def _density(flow: Flow, layout: Layout, state: Layout) -> Density:
    samples = layout.shapes[-1]
    axes = max(map(len, state.shapes)) if layout.batch is not None else len(samples)
    shape = (*samples, *[1] * (axes - len(samples)))
    return Density(flow.divergence, samples, shape, layout.dtypes[-1])


def _basis(backend: Backend, like: Array, state: Layout, density: Density) -> list[Array]:
    """Unit vectors of a sample, along the first axis; integers, as the probes are."""
    integer = backend.dtype(backend.array(1, "an entry"))
    events = [shape[len(density.samples) :] for shape in state.shapes]
    sizes = [math.prod(event) for event in events]
    identity, start, basis = np.eye(sum(sizes)), 0, []
    for event, size in zip(events, sizes, strict=True):
        columns = identity[:, start : start + size].reshape(-1, *event)
        basis.append(backend.cast(backend.times(columns, like), integer))
        start += size
    return basis


def _derivatives(
    backend: Backend, problem: Problem, integrands: dict[Integrand, float], flow: Flow | None
) -> Any:
    asking = [*([] if flow is None else [flow]), *integrands]
    names = ", ".join(f"ndereg.{type(each).__name__}" for each in asking)
    if not hasattr(backend, "derivatives"):
        raise TypeError(
            f"expected a backend that serves {names}, received {backend.name!r}; try one of those "
            "that ndereg brings"
        )
    if is_compiled(problem.field) or getattr(problem.field, "in_place", False):
        raise TypeError(
            f"expected a plain Python field for {names}, received an @njit function or one that "
            "writes into an argument, which cannot be differentiated along the solution; try the "
            "function without @njit: it is compiled all the same"
        )
    return backend.derivatives()


def _probes(
    backend: Backend, like: Array, layout: Layout, key: Any, of_a_flow: bool
) -> list[Array]:
    """Draw random signs for every entry of the state; integers, which no gradient is asked of."""
    shapes = [
        (*shape, 2) if dtype.startswith("complex") else shape
        for shape, dtype in zip(layout.shapes, layout.dtypes, strict=True)
    ]
    sizes = [math.prod(shape) for shape in shapes]
    what = "ndereg.Flow" if of_a_flow else "ndereg.JacobianFrobenius"
    draws = uniform(backend, key, sum(sizes), what)
    signs = 1.0 - 2.0 * (draws < 0.5)
    if isinstance(signs, np.ndarray):
        signs = backend.times(signs, like)
    integer = backend.dtype(backend.array(1, "a sign"))
    probes, start = [], 0
    for shape, size in zip(shapes, sizes, strict=True):
        part = backend.cast(signs[start : start + size], integer)
        probes.append(backend.reshape(part, shape))
        start += size
    return probes


def _filled(backend: Backend, values: Any, like: Array, dtype: str) -> Array:
    return backend.cast(backend.times(values, like), dtype)


def _with_end(backend: Backend, problem: Problem) -> tuple[Any, tuple[Any, Any, Any]]:
    """Return the output times and, after them, the end of the span, where integrals are read."""
    if problem.t_eval is None:
        return None, problem.given_times
    t0, t1, given = problem.given_times
    times = _appended(backend, problem.t_eval, problem.t1)
    if backend.owns(given) or backend.owns(t1):
        given = _appended(backend, given, t1)
    return times, (t0, t1, given)


def _appended(backend: Backend, times: Any, end: Any) -> Any:
    plain = (np.ndarray, np.generic, int, float, list, tuple)
    if isinstance(times, plain) and isinstance(end, plain):
        times = np.asarray(times, np.float64)
        last = np.broadcast_to(np.float64(end), (*times.shape[:-1], 1))
        return np.concatenate([times, last], axis=-1)
    like = times if backend.owns(times) else end
    times, end = (
        value if backend.owns(value) else backend.times(value, like) for value in (times, end)
    )
    kind = str(np.result_type(backend.dtype(times), backend.dtype(end), np.float32))
    times, end = backend.cast(times, kind), backend.reshape(backend.cast(end, kind), (1,))
    if times.ndim == 1:
        return backend.concat([times, end])
    last = backend.reshape(backend.concat([end] * times.shape[0]), (times.shape[0], 1))
    return backend.concat([times, last])


# Its results and their cotangents


def contracted(backend: Backend, problem: Problem, result: Result) -> tuple[Problem, Result]:
    """Return the problem as it was posed, and its result with the integrals in the penalty."""
    asked = problem.asked
    if asked is None:
        return problem, result
    if problem.part is not None:
        return asked, first_of_pair(asked, result)
    samples, entries = asked.layout.samples, asked.layout.entries
    end = result.ys
    if not problem.integral_weights:
        return asked, result
    if problem.t_eval is not None:
        end = result.ys[:, -1]
        result = replace(result, ys=result.ys[:, :-1])
    penalty = result.penalty
    for i, weight in enumerate(problem.integral_weights):
        integral = backend.reshape(end[:, entries + i], (samples,))
        penalty = penalty + weight * backend.cast(integral, asked.layout.real_dtype)
    return asked, replace(result, ys=result.ys[..., :entries], penalty=penalty)


def extended_cotangent(
    backend: Backend, problem: Problem, ys_bar: Array, penalty_bar: Array
) -> Array:
    """Return the cotangent of the extended result for those of the posed problem's."""
    asked = problem.asked
    if asked is not None and problem.part is not None:
        return pair_cotangent(backend, asked, ys_bar)
    if asked is None or not problem.integral_weights:
        return ys_bar
    layout = problem.layout
    samples, count = layout.samples, len(problem.integral_weights)
    bar = backend.reshape(backend.cast(penalty_bar, layout.dtype), (samples, 1))
    end = backend.concat([bar * weight for weight in problem.integral_weights])
    if asked.t_eval is None:
        return backend.concat([ys_bar, end])
    times = asked.t_eval.shape[-1]
    before = _filled(backend, np.zeros((samples, times, count)), ys_bar, layout.dtype)
    rows = backend.reshape(backend.concat([ys_bar, before]), (samples, times * layout.entries))
    after = _filled(backend, np.zeros((samples, layout.entries - count)), ys_bar, layout.dtype)
    return backend.reshape(backend.concat([rows, after, end]), (samples, times + 1, layout.entries))


def contracted_cotangents(
    problem: Problem, y0_bar: Array, args_bar: Sequence[Array]
) -> tuple[Array, list[Array]]:
    """Return the cotangents of the posed problem: without those of integrals and probes."""
    asked = problem.asked
    if asked is None:
        return y0_bar, list(args_bar)
    if problem.part is not None:
        return start_cotangent(asked, y0_bar, args_bar)
    own, carried = len(asked.args), len(problem.args)
    return y0_bar[:, : asked.layout.entries], [*args_bar[:own], *args_bar[carried:]]
