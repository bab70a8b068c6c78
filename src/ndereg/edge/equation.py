"""A stochastic equation: its drift, its diffusion checked, the path that drives it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

import numpy as np

from ndereg.backends.base import (
    Array,
    Backend,
    Diffusion,
    Layout,
    Problem,
    StochasticBackend,
    layout_of,
    with_paths,
)
from ndereg.backends.bound import BoundField
from ndereg.backends.brownian import Entries
from ndereg.edge.path import path_of_solve, refuse_unresolved, smallest_step
from ndereg.field import is_compiled, refuse_no_field
from ndereg.langevin import UnderdampedLangevin
from ndereg.sde import SDE, ConvertedDrift
from ndereg.spec.adjoint import Adjoint, Discrete, NoAdjoint
from ndereg.spec.integrand import Integrand
from ndereg.spec.stochastic import Noise, StochasticMethod
from ndereg.spec.tableau import Tableau
from ndereg.structure import Structure, check_leaves, flatten

Equation = SDE | UnderdampedLangevin


@dataclass(frozen=True)
class Outline:
    """The diffusion's result: its layout, what is said of the noise, entries of the noise.

    ``part`` is the layout of what the field sees, where that is half of the state.
    """

    layout: Layout
    noise: Noise
    channels: int
    part: Layout | None = None


def split(backend: Backend, field: Any) -> tuple[Any, Equation | None]:
    """Return the drift of an equation, and the equation where there is noise.

    Of Langevin dynamics it is the gradient of the potential.

    Raises
    ------
    ValueError
        If the backend does not solve stochastic equations.
    """
    if not isinstance(field, (SDE, UnderdampedLangevin)):
        return field, None
    if isinstance(field, SDE) and field.diffusion is None:
        return field.drift, None
    with_paths(backend)
    if isinstance(field, UnderdampedLangevin):
        return field.grad_potential, field
    if isinstance(field.drift, ConvertedDrift):
        return _differentiable(backend, field.drift), field
    return field.drift, field


def named(equation: Equation) -> tuple[str, str]:
    """What the function beside the noise is called, and the state that it takes."""
    langevin = isinstance(equation, UnderdampedLangevin)
    return ("grad_potential", "x") if langevin else ("drift", "y")


def _differentiable(backend: Backend, converted: ConvertedDrift) -> ConvertedDrift:
    """A drift in the other calculus, with the derivatives of the backend.

    Raises
    ------
    TypeError
        If the backend has none, or it is not made of plain functions.
    """
    own: Any = backend
    if not hasattr(own, "derivatives"):
        raise TypeError(
            "expected a backend with derivatives for SDE.converted(...), received "
            f"{own.name!r}; try one of those that ndereg brings"
        )
    refuse_no_field(converted.drift, "drift")
    refuse_foreign_module(backend, converted.drift, "the field")
    for function in (converted.drift, converted.diffusion):
        if is_compiled(function) or getattr(function, "in_place", False):  # type: ignore[arg-type]
            raise TypeError(
                "expected plain Python functions for SDE.converted(...), received an @njit "
                "function or one that writes into an argument; try the function that it was made "
                "of, which is compiled all the same"
            )
    return replace(converted, derivatives=own.derivatives())


def refuse_foreign_module(backend: Backend, function: Any, what: str) -> None:
    """Refuse a ``torch.nn.Module`` where the backend does not call modules.

    Raises
    ------
    TypeError
        Saying how to take its weights over.
    """
    torch = sys.modules.get("torch")
    if torch is None or hasattr(backend, "adapted"):
        return
    if isinstance(function, torch.nn.Module):
        to, arrays = ("jax", "JAX") if backend.name == "jax" else ("numpy", "NumPy")
        raise TypeError(
            f"expected a function f(t, y, args) of {arrays} arrays as {what}, received the "
            f"torch.nn.Module {type(function).__name__}; try model = ndereg.port(module, "
            f"to={to!r}), then solve(model, t_span, y0, model.params), or ndereg.torch"
        )


def refuse_integrands(
    integrands: Iterable[Integrand], method: Tableau | StochasticMethod, adjoint: Adjoint
) -> None:
    """Refuse what cannot be integrated along the solution of a stochastic equation.

    What can is one more component of the state, which no noise drives; its rates are those of the
    drift.

    Raises
    ------
    ValueError
    """
    for each in integrands:
        name = f"ndereg.{type(each).__name__}"
        if each.smooth:
            raise ValueError(
                f"expected a regularizer of the drift for a stochastic equation, received {each}: "
                "its solution is rough, and has no second derivative by time; try "
                "ndereg.Kinetic() or ndereg.JacobianFrobenius(), or ndereg.ErrorEstimate()"
            )
        if isinstance(method, StochasticMethod) and method.pairs:
            raise ValueError(
                f"expected a method that advances one state for {name}, which is integrated with "
                f"it, received {method.name!r}, which advances a pair of states; try a "
                "regularizer of the steps, such as ndereg.ErrorEstimate()"
            )
        if not isinstance(adjoint, (Discrete, NoAdjoint)):
            raise ValueError(
                f"expected adjoint='discrete' for {name} with a stochastic equation, received "
                f"{adjoint}; try a regularizer of the steps with another adjoint"
            )


def outline(
    backend: Backend,
    equation: Equation | None,
    layout: Layout,
    y0: Array,
    args: Sequence[Array],
    args_structure: Structure,
) -> Outline | None:
    """Find the shape of the diffusion, and refuse one that does not fit its noise.

    Raises
    ------
    TypeError, ValueError
    """
    if equation is None:
        return None
    if isinstance(equation, SDE):
        refuse_foreign_module(backend, equation.diffusion, "the diffusion")
        if equation.diffusion is not None:
            refuse_no_field(equation.diffusion, "diffusion")
    if isinstance(equation, UnderdampedLangevin):
        part = _position(equation, layout)
        return Outline(part, Noise("langevin", "ito", "diagonal"), part.entries, part)
    diffusion = equation.drift if equation.diffusion is None else equation.diffusion
    if is_compiled(equation.drift) or is_compiled(diffusion):
        raise TypeError(
            "expected plain Python functions in an ndereg.SDE, received an @njit function; try the "
            "function that it was made of, which is compiled all the same"
        )
    kind, calculus = equation.noise, equation.calculus
    if kind == "diagonal":
        return Outline(layout, Noise(kind, calculus, "diagonal"), layout.entries)
    if kind == "scalar":
        return Outline(layout, Noise(kind, calculus, "scalar"), 1)
    shapes = _shapes(backend, equation, layout, y0, args, args_structure)
    ranks = {len(got) - len(shape) for got, shape in zip(shapes, layout.shapes, strict=True)}
    if equation.noise == "additive" and ranks == {0}:
        return Outline(layout, Noise(kind, calculus, "diagonal"), layout.entries)
    columns = {shape[-1] for shape in shapes} if ranks == {1} else set()
    fits = all(got[:-1] == shape for got, shape in zip(shapes, layout.shapes, strict=True))
    if len(columns) != 1 or not fits or 0 in columns:
        one = "that of the state, or " if equation.noise == "additive" else ""
        raise ValueError(
            f"expected the diffusion to have {one}one axis more than the state, of one length m in "
            f"all its arrays, for noise={equation.noise!r}, received shapes {shapes} where the "
            f"state has {list(layout.shapes)}; try noise='diagonal' where every entry has noise of "
            "its own"
        )
    count = columns.pop()
    wide = tuple((*shape, count) for shape in layout.shapes)
    matrix = layout_of(layout.structure, wide, layout.dtypes, layout.batch)
    return Outline(matrix, Noise(kind, calculus, "matrix"), count)


def _position(equation: UnderdampedLangevin, layout: Layout) -> Layout:
    """Layout of the positions, one half of the state."""
    if is_compiled(equation.grad_potential):
        raise TypeError(
            "expected a plain Python function in an ndereg.UnderdampedLangevin, received an @njit "
            "function; try the function that it was made of"
        )
    halves = layout.structure.children
    count = len(layout.shapes) // 2
    alike = layout.structure.kind in ("tuple", "list") and len(halves) == 2
    if not (alike and halves[0] == halves[1] and layout.shapes[:count] == layout.shapes[count:]):
        raise ValueError(
            "expected y0=(x, v) for an ndereg.UnderdampedLangevin, positions and velocities in the "
            f"same structure and shapes, received {layout.structure} of shapes "
            f"{list(layout.shapes)}; try (x, zeros like x)"
        )
    if layout.dtypes[:count] != layout.dtypes[count:] or layout.dtype.startswith("complex"):
        raise TypeError(
            "expected real positions and velocities of the same dtypes for an "
            f"ndereg.UnderdampedLangevin, received {list(layout.dtypes)}; try converting one of "
            "the two"
        )
    return layout_of(halves[0], layout.shapes[:count], layout.dtypes[:count], layout.batch)


def _called(backend: Backend, diffusion: Any, args_structure: Structure) -> Any:
    """The diffusion as ``g(t, y, args)``, also where it is a module of the framework."""
    adapted = getattr(backend, "adapted", None)
    return diffusion if adapted is None else adapted(diffusion, args_structure.kind != "none")


def _shapes(
    backend: Backend,
    equation: SDE,
    layout: Layout,
    y0: Array,
    args: Sequence[Array],
    args_structure: Structure,
) -> list[tuple[int, ...]]:
    """Shapes of the arrays that the diffusion returns."""
    assert equation.diffusion is not None
    bound = BoundField(backend, _called(backend, equation.diffusion, args_structure), layout,
                       args_structure)  # fmt: skip
    zero = backend.times(np.zeros(layout.time_shape), y0)
    t = backend.cast(backend.reshape(zero, layout.time_shape), layout.real_dtype)

    def called(y: Array, leaves: Sequence[Array]) -> Any:
        return bound.nested(t, bound.state(y), args_structure.unflatten(leaves))

    leaves, structure = flatten(backend.outlined(called, y0, list(args)))
    shapes = [tuple(map(int, getattr(leaf, "shape", ()))) for leaf in leaves]
    kinds = layout.dtypes  # those of the result are checked where it is used
    check_leaves(
        "the result of the diffusion", like="the state", expected=layout.structure, shapes=shapes,
        dtypes=kinds, received=structure, received_shapes=shapes, received_dtypes=kinds,
    )  # fmt: skip
    return shapes


def driven(
    backend: Backend, problem: Problem, equation: Equation, found: Outline, key: Any
) -> Problem:
    """Return the problem of an equation: that of its drift, with the noise that drives it.

    Raises
    ------
    TypeError, ValueError
        If there is no key, a tree that does not fit the solve, a diffusion that does not fit its
        noise, or steps that the path does not resolve.
    """
    diffusion = _diffusion(with_paths(backend), problem, equation, found, key)
    if found.noise.kind == "additive":
        refuse_dependence(backend, diffusion, problem)
    if found.noise.kind == "diagonal" and isinstance(problem.field, ConvertedDrift):
        refuse_mixing(backend, diffusion, problem)
    parameters, span = problem.parameters, (problem.t0, problem.t1)
    if problem.spec.adaptive:
        parameters = smallest_step(backend, parameters, problem.first_step, span, diffusion.path)
    else:
        refuse_unresolved(backend, problem.dt, span, diffusion.path)
    return replace(problem, diffusion=diffusion, parameters=parameters)


def _diffusion(
    backend: StochasticBackend, problem: Problem, equation: Equation, found: Outline, key: Any
) -> Diffusion:
    """The diffusion of an equation, and the path that drives it."""
    layout, args_structure = problem.layout, problem.args_structure
    entries = Entries(layout.samples, found.channels, equation.shared)
    path = path_of_solve(backend, key, problem.plan, entries, (problem.t0, problem.t1))
    if isinstance(equation, UnderdampedLangevin):
        return Diffusion(
            None, _no_diffusion, found.layout, "diagonal", path, backend, equation.medium
        )
    assert equation.diffusion is not None
    call = BoundField(
        backend, _called(backend, equation.diffusion, args_structure), layout, args_structure,
        found.layout, "the diffusion",
    )  # fmt: skip
    return Diffusion(equation.diffusion, call, found.layout, found.noise.coupling, path, backend)


_independent: WeakSet[Any] = WeakSet()
"""Functions of no more than time and state that were found to depend on the time alone."""


INSIDE = 0.618
"""Where in the span a diffusion is looked at; at an end it may vanish, whatever it depends on."""


def refuse_dependence(backend: Backend, diffusion: Diffusion, problem: Problem) -> None:
    """Refuse a diffusion of additive noise that depends on the state.

    Its values at the start and at another state, at one time within the span, are compared: once
    for a function that reads nothing else, and at every solve where there are ``args``, parameters
    of a module or variables of a closure, which may be others by then. Where they are only known
    when compiled, or not finite, nothing is said.

    Raises
    ------
    ValueError
    """
    field: Any = diffusion.field
    reads_no_more = _reads_no_more(field, problem.args)
    if reads_no_more and field in _independent:
        return
    value, known = _values(backend, diffusion, problem)
    there = value(known * 1.25 + 1.0)
    differ = _differ(value(known), there)
    if differ:
        raise ValueError(
            "expected a diffusion that depends on the time alone for noise='additive', received "
            "one that changes with the state; try noise='diagonal', or 'general' for a matrix"
        )
    if reads_no_more and differ is False and np.any(there):
        _independent.add(field)


_entrywise: WeakSet[Any] = WeakSet()
"""Functions of no more than time and state whose entries were found not to mix."""


def refuse_mixing(backend: Backend, diffusion: Diffusion, problem: Problem) -> None:
    """Refuse to convert diagonal noise, an entry of which depends on another entry of the state.

    The entries whose number has a binary digit of 1 are moved: those of the diffusion must be as
    where all are, and the others as where none is. Any two entries differ in a digit. When it is
    looked at, and when nothing is said, is as in :func:`refuse_dependence`.

    Raises
    ------
    ValueError
    """
    field: Any = diffusion.field
    reads_no_more = _reads_no_more(field, problem.args)
    if reads_no_more and field in _entrywise:
        return
    value, known = _values(backend, diffusion, problem)
    entries, moved = np.arange(known.shape[-1]), known * 1.25 + 1.0
    here, there = value(known), value(moved)
    if here is None or there is None:
        return
    for digit in range((entries.size - 1).bit_length()):
        chosen = entries >> digit & 1 == 1
        found = value(np.where(chosen, moved, known))
        differ = _differ(np.where(chosen, there, here), found)
        if differ is None:
            return
        if differ:
            raise ValueError(
                "expected a diffusion whose entry i depends on entry i of the state alone for "
                "SDE.converted(...) with noise='diagonal', received one that mixes entries; "
                "try noise='general' with the diagonal matrix, which is converted exactly"
            )
    if reads_no_more and np.any(there):
        _entrywise.add(field)


def _reads_no_more(field: Any, args: Sequence[Array]) -> bool:
    """Whether a function reads time and state alone, as far as that can be seen."""
    return not args and getattr(field, "__closure__", field) is None


def _values(
    backend: Backend, diffusion: Diffusion, problem: Problem
) -> tuple[Callable[[Any], Any], Any]:
    """The diffusion at a time within the span as NumPy knows it, and a state to look at it."""
    layout = diffusion.call.layout  # type: ignore[attr-defined]
    y0, args = problem.y0, problem.args
    ends = [backend.concrete(time) for time in (problem.t0, problem.t1)]
    t0, *others = [float(time) for time in ends if time is not None] or [0.0, 1.0]
    t1 = others[0] if others else t0
    times = np.full(layout.time_shape, t0 + INSIDE * (t1 - t0))

    def value(state: Any) -> Any:
        t = backend.cast(backend.reshape(backend.times(times, y0), layout.time_shape), real)
        return diffusion.call(t, backend.cast(backend.times(state, y0), layout.dtype), args)

    real, known = layout.real_dtype, backend.concrete(y0)
    if known is None or np.iscomplexobj(known):
        known = np.ones(tuple(y0.shape))
    return lambda state: backend.probed(value, state), known


def _differ(first: Any, second: Any) -> bool | None:
    """Whether values differ by more than rounding; None where one is unknown or not finite."""
    if any(each is None or not np.all(np.isfinite(each)) for each in (first, second)):
        return None
    size = np.max(np.abs(first)) + np.max(np.abs(second))
    eps = np.finfo(first.dtype).eps
    return bool(np.max(np.abs(first - second)) > np.sqrt(eps) * size)


def _no_diffusion(t: Any, y: Any, args: Any) -> Any:
    raise NotImplementedError("the noise of Langevin dynamics is part of their methods")
