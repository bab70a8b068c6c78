"""The edge: options and arrays of the user checked, flattened, and turned into a problem.

Everything that can be refused is refused here, before any work is done, with what was expected,
what was received and what to try.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ndereg.backends.base import Array, Backend, Layout, Problem, layout_of
from ndereg.backends.bound import BoundField
from ndereg.backends.draws import uniform
from ndereg.backends.extension import extend
from ndereg.backends.pairs import paired
from ndereg.backends.steering import steered
from ndereg.catalogue import lookup
from ndereg.catalogue.controllers import CONTROLLERS, lookup_controller
from ndereg.catalogue.serving import (
    DEFAULT_METHOD,
    DefaultMethod,
    default_method,
    refuse_unserved,
)
from ndereg.field import is_compiled, refuse_without_args, resolve
from ndereg.flow import Flow
from ndereg.noise import (
    driven,
    outline,
    plain_key,
    refuse_dependence,
    refuse_integrands,
    smallest_step,
    split,
)
from ndereg.plan.lower import Plan, lower
from ndereg.spec.adjoint import resolve_adjoint
from ndereg.spec.controller import ConstantStep, Controller, PIDController
from ndereg.spec.integrand import Integrand
from ndereg.spec.regularizer import LocalTerm, Regularizer
from ndereg.spec.reversible import ReversibleHeun
from ndereg.spec.spec import Batch, Spec
from ndereg.spec.steer import Steer
from ndereg.spec.stochastic import Noise, StochasticMethod
from ndereg.spec.tableau import Tableau
from ndereg.structure import Structure, flatten
from ndereg.summands import summands

SMALLEST_ATOL = 1e-37
"""Added floor of ``atol``: the error scale of a component that is exactly zero stays positive,
also in float32, when a user asks for a purely relative tolerance."""

_INTEGRAL = PIDController()
_DTYPES = ("float32", "float64", "complex64", "complex128")


def prepare(
    backend: Backend,
    field: Callable[..., Any],
    t_span: Any,
    y0: Any,
    args: Any = None,
    *,
    t_eval: Any = None,
    method: str | Tableau | StochasticMethod = DEFAULT_METHOD,
    rtol: Any = 1e-6,
    atol: Any = 1e-9,
    controller: Controller | str | None = None,
    first_step: Any = None,
    max_steps: int = 100_000,
    batch: Batch = "joint",
    regularizer: Regularizer | None = None,
    adjoint: Any = "discrete",
    key: Any = None,
    record: bool = False,
) -> Problem:
    """Check and flatten one call of ``solve``.

    Raises
    ------
    ValueError, TypeError
        Naming what was expected and received, and what to try.
    """
    flow = field if isinstance(field, Flow) else None
    if flow is not None:
        field = flow.field
    field, equation = split(backend, field)
    if not callable(field):
        raise TypeError(
            f"expected a callable field f(t, y, args), received {type(field).__name__}; try a "
            "function, or a module where the face is PyTorch's"
        )
    refuse_without_args(field, "field")
    field, args = resolve(field, args)
    if batch not in ("joint", "independent"):
        raise ValueError(
            f"expected batch='joint' or batch='independent', received {batch!r}; try 'joint', one "
            "step size for the whole state"
        )
    layout, flat = _state(backend, y0, batch)
    leaves, args_structure = _args(backend, args, layout.real_dtype)
    found = outline(backend, equation, layout, flat, leaves, args_structure)
    noise, part = (None, None) if found is None else (found.noise, found.part)
    dense = t_eval is not None
    if isinstance(method, DefaultMethod) and noise is not None:
        method = default_method(noise, adjoint)
    settled = _settled(method, controller, regularizer, adjoint, batch, dense, bool(record), noise)
    plan = settled.plan
    start, end = _span(t_span)
    t0 = _number(backend, start, "t_span[0]", "t_span=(0.0, 1.0)")
    t1 = _number(backend, end, "t_span[1]", "t_span=(0.0, 1.0)")
    times = None if t_eval is None else _output_times(backend, t_eval, t0, t1, layout)
    if settled.steer is not None:
        t1, times = steered(backend, settled.steer, t0, t1, times, plain_key(key))
    rtol, atol = _tolerances(backend, rtol, atol, settled.measured)
    draws = None
    if plan.spec.local is not None:
        draws = uniform(backend, plain_key(key), layout.samples, "ndereg.Local")
    if getattr(field, "in_place", False) or is_compiled(field):
        _refuse_compiled(backend, layout.structure, args_structure)
    parameters = settled.parameters
    diffusion = driven(backend, equation, found, layout, args_structure, plan, key, (t0, t1))
    if diffusion is not None and noise is not None and noise.kind == "additive":
        refuse_dependence(backend, diffusion, t0, flat, leaves)
    if diffusion is not None and plan.spec.adaptive:
        parameters = smallest_step(parameters, diffusion.path)
    problem = Problem(
        spec=plan.spec,
        plan=plan,
        field=field,
        call=BoundField(backend, field, part or layout, args_structure),
        layout=layout,
        y0=flat,
        args=tuple(leaves),
        args_structure=args_structure,
        t0=t0,
        t1=t1,
        t_eval=times,
        rtol=rtol,
        atol=atol,
        parameters=parameters,
        dt=settled.dt,
        first_step=_first_step(backend, first_step),
        max_steps=_max_steps(max_steps),
        weights=settled.weights,
        given_times=(start, end, t_eval),
        draws=draws,
        diffusion=diffusion,
        part=part,
    )
    if isinstance(plan.spec.tableau, ReversibleHeun):
        return paired(backend, problem)
    integrands = settled.integrands
    if integrands or flow is not None:
        return extend(backend, problem, integrands, flow, plain_key(key))
    return problem


@dataclass(frozen=True)
class Settled:
    """What follows from the options that are no arrays or numbers of the run.

    Attributes
    ----------
    plan : Plan
    parameters : tuple of float
        Of the controller.
    dt : float
        Size of a constant step; nan with adaptive steps.
    weights : tuple of float
        Of the terms of the penalty, those over the steps first.
    measured : bool
        Whether anything reads the scaled error.
    integrands : dict of Integrand to float
        What the penalty integrates, with its weights.
    steer : Steer or None
        What moves the end of time.
    """

    plan: Plan
    parameters: tuple[float, ...]
    dt: float
    weights: tuple[float, ...]
    measured: bool
    integrands: dict[Integrand, float]
    steer: Steer | None


def _settled(*options: Any) -> Settled:
    """Settle the options; the same ones are checked once."""
    try:
        return _settle(*options)
    except TypeError:
        pass  # what cannot be hashed is refused below, in words
    return _settle.__wrapped__(*options)


@lru_cache(maxsize=1024)
def _settle(
    method: Any, controller: Any, regularizer: Any, adjoint: Any, batch: Any, dense: bool,
    record: bool, noise: Noise | None,
) -> Settled:  # fmt: skip
    chosen = resolve_method(method)
    control = _controller(controller, stochastic=noise is not None)
    terms, local, integrands, steer = summands(regularizer)
    if noise is not None and integrands:
        refuse_integrands(integrands)
    unbiased = local is not None and local.sampling == "unbiased"
    over_steps = tuple(term for term in terms if not isinstance(term, LocalTerm))
    plan = _plan(
        chosen, control.adaptive, over_steps, resolve_adjoint(adjoint), batch, dense or unbiased,
        record, local, noise,
    )  # fmt: skip
    return Settled(
        plan=plan,
        parameters=control.parameters(_error_order(chosen)),
        dt=control.dt if isinstance(control, ConstantStep) else math.nan,
        weights=tuple(terms.values()),
        measured=control.adaptive or bool(terms),
        integrands=integrands,
        steer=steer,
    )


@lru_cache(maxsize=1024)
def _plan(*fixed: Any) -> Plan:
    """The plan of what is fixed at compile time; equal ones are made and checked once."""
    spec = Spec(*fixed)
    refuse_unserved(spec)
    return lower(spec)


def resolve_method(method: str | Tableau | StochasticMethod) -> Tableau | StochasticMethod:
    """Return a method by name, or check the one given."""
    if isinstance(method, (Tableau, StochasticMethod)):
        from ndereg.catalogue import check

        check(method)
        return method
    if isinstance(method, str):
        return lookup(method)
    raise TypeError(
        "expected method to be a name of the catalogue or an ndereg.Tableau, received "
        f"{type(method).__name__}; try 'tsit5'"
    )


def _error_order(method: Tableau | StochasticMethod) -> float:
    if isinstance(method, StochasticMethod):
        assert method.error_order is not None
        return method.error_order
    return method.error_order or method.order + 1


def _state(backend: Backend, y0: Any, batch: Batch) -> tuple[Layout, Array]:
    given, structure = flatten(y0)
    if not given:
        raise ValueError(
            f"expected a state with at least one array, received y0={y0!r}; try an array of "
            "initial values"
        )
    if len(given) == 1:
        leaves = [backend.array(given[0], structure.paths("y0")[0])]
    else:
        if all(isinstance(leaf, numbers.Number) for leaf in given):
            raise TypeError(
                f"expected arrays in y0, received Python numbers in {structure}; a list is a "
                "nested structure here, try an array of the numbers instead"
            )
        names = structure.paths("y0")
        leaves = [backend.array(leaf, name) for leaf, name in zip(given, names, strict=True)]
    shapes = tuple([tuple(map(int, leaf.shape)) for leaf in leaves])
    layout = _layout(structure, shapes, tuple(map(backend.dtype, leaves)), batch)
    return layout, layout.flatten(backend, leaves)


@lru_cache(maxsize=1024)
def _layout(
    structure: Structure, shapes: tuple[tuple[int, ...], ...], dtypes: tuple[str, ...], batch: Batch
) -> Layout:
    """The layout of a state; equal states are checked once."""
    for name, shape, dtype in zip(structure.paths("y0"), shapes, dtypes, strict=True):
        if dtype not in _DTYPES:
            raise TypeError(
                f"expected {name} to have dtype {', '.join(_DTYPES)}, received "
                f"{dtype}; try converting it to a floating-point dtype"
            )
        if 0 in shape:
            raise ValueError(
                f"expected a non-empty state, received {name} of shape {shape}; try "
                "leaving the solve out where there is nothing to solve"
            )
    samples = None
    if batch == "independent":
        axes = [shape[0] if shape else None for shape in shapes]
        if None in axes or len(set(axes)) != 1:
            raise ValueError(
                "expected every array of y0 to lead with one batch axis for batch='independent', "
                f"received shapes {list(shapes)}; try batch='joint', or "
                "give each array the samples as axis 0"
            )
        samples = axes[0]
    return layout_of(structure, shapes, dtypes, samples)


def _args(backend: Backend, args: Any, dtype: str) -> tuple[list[Array], Structure]:
    """Arrays of args; Python numbers take the real dtype of the state, as weak scalars would."""
    given, structure = flatten(args)
    leaves = []
    for leaf, name in zip(given, structure.paths("args"), strict=True):
        array = backend.array(leaf, name)
        leaves.append(backend.cast(array, dtype) if type(leaf) in (int, float) else array)
    return leaves, structure


def _refuse_compiled(backend: Backend, *structures: Structure) -> None:
    """Refuse what an ``@njit`` field, or one that writes into an argument, cannot take."""
    if not backend.owns(np.zeros(())):
        raise TypeError(
            f"expected a field that computes on the arrays of {backend.name}, received an @njit "
            "function or one that writes into an argument, which take NumPy arrays; try a plain "
            "Python function, or ndereg.numpy"
        )
    for structure in structures:
        if not _kinds(structure) <= {"leaf", "none", "tuple"}:
            raise TypeError(
                "expected tuples or a single array as state and args of an @njit field, received "
                f"{structure}; try a tuple, or a plain Python field"
            )


def _kinds(structure: Structure) -> set[str]:
    return {structure.kind}.union(*map(_kinds, structure.children))


def _number(backend: Backend, value: Any, what: str, example: str) -> Any:
    """Return a finite float, or a traced scalar as it is."""
    if type(value) is float and value - value == 0.0:  # as nearly always; it costs nothing
        return value
    number = _real(backend, value)
    if number is None:
        raise TypeError(
            f"expected a real number for {what}, received {_shown(value)}; try {example}"
        )
    if isinstance(number, float) and not math.isfinite(number):
        raise ValueError(f"expected a finite number for {what}, received {number}; try {example}")
    return number


def _real(backend: Backend, value: Any) -> Any:
    """Return a float, a traced scalar as it is, or None for what is no real number here."""
    if isinstance(value, bool):
        return None
    if isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if not backend.owns(value) and not isinstance(value, (np.ndarray, np.generic)):
        return None
    known = backend.concrete(value)
    if known is None:
        return value if math.prod(value.shape) == 1 and value.dtype.kind in "iuf" else None
    array = np.asarray(known)
    return float(array.reshape(())) if array.size == 1 and array.dtype.kind in "iuf" else None


def _shown(value: Any) -> str:
    """Show what was received, with the type of what does not show it itself."""
    plain = value is None or isinstance(value, (str, bool, numbers.Number, list, tuple, np.ndarray))
    kind = type(value)
    return repr(value) if plain else f"{value!r} of type {kind.__module__}.{kind.__qualname__}"


def _span(t_span: Any) -> tuple[Any, Any]:
    try:
        t0, t1 = t_span
    except (TypeError, ValueError):
        raise ValueError(f"expected t_span=(t0, t1), received {t_span!r}; try (0.0, 1.0)") from None
    return t0, t1


def _output_times(backend: Backend, t_eval: Any, t0: Any, t1: Any, layout: Layout) -> Any:
    known = _known_times(backend, t_eval)
    times = t_eval if known is None else known
    allowed = "(T,)" if layout.batch is None else f"(T,) or ({layout.batch}, T)"
    if times.ndim != 1 and not (times.ndim == 2 and times.shape[0] == layout.batch):
        raise ValueError(
            f"expected t_eval of shape {allowed}, received shape {tuple(times.shape)}; try "
            + ("one row of times a sample" if layout.batch else "[time] for a single time")
        )
    if times.shape[-1] == 0:
        raise ValueError(
            "expected at least one time in t_eval, received none; try t_eval=None for y(t1) alone"
        )
    if known is None:
        return times
    if not np.all(np.isfinite(known)):
        raise ValueError(
            "expected finite times in t_eval, received nan or inf; try times within t_span"
        )
    start, end = backend.concrete(t0), backend.concrete(t1)
    if start is None or end is None:
        return known
    direction = 1.0 if end >= start else -1.0
    if np.any(np.diff(known, axis=-1) * direction < 0):
        raise ValueError(
            f"expected the times of t_eval in the order of integration, from {start} to {end}, "
            "received times out of order; try sorting them"
        )
    low, high = min(start, end), max(start, end)
    # the ends of the span, rounded to the dtype of the times, may lie outside it
    slack = _resolution(backend, t_eval) * max(abs(low), abs(high))
    if low - slack <= known.min() and known.max() <= high + slack:
        known = np.clip(known, low, high)
    if known.min() < low or known.max() > high:
        raise ValueError(
            f"expected the times of t_eval within the span [{low}, {high}], received times from "
            f"{known.min()} to {known.max()}; try a longer t_span"
        )
    return known


def _resolution(backend: Backend, times: Any) -> float:
    """Relative resolution of times in the dtype they were given in."""
    kind = str(np.asarray(backend.concrete(times) if backend.owns(times) else times).dtype)
    return float(np.finfo(kind).eps) if kind.startswith("float") else 0.0


def _known_times(backend: Backend, t_eval: Any) -> Any:
    """Output times as float64; None where they are only known when compiled."""
    refusal = TypeError(
        f"expected real numbers in t_eval, received {_shown(t_eval)}; try a list or an array of "
        "times"
    )
    known: Any = None
    if backend.owns(t_eval):
        known = backend.concrete(t_eval)
        if known is None:
            return None
    elif not hasattr(t_eval, "__dlpack__") or isinstance(t_eval, np.ndarray):
        # what exchanges arrays and is neither is an array of another framework
        try:
            known = np.asarray(t_eval)
        except (TypeError, ValueError, RuntimeError):
            raise refusal from None
    if known is None or (np.size(known) and np.asarray(known).dtype.kind not in "iuf"):
        raise refusal
    return np.asarray(known).astype(np.float64)


def _tolerances(backend: Backend, rtol: Any, atol: Any, measured: bool) -> tuple[Any, Any]:
    """Tolerances; ``measured`` is whether anything reads the scaled error."""
    rtol = _tolerance(backend, rtol, "rtol", "rtol=1e-6")
    atol = _tolerance(backend, atol, "atol", "atol=1e-9")
    if measured and type(rtol) is float and rtol == 0.0 and type(atol) is float and atol == 0.0:
        raise ValueError(
            "expected a positive rtol or atol to measure errors by, received rtol=0 and atol=0; "
            "try rtol=1e-6, or controller=ndereg.ConstantStep(dt) for steps without error control"
        )
    return rtol, atol + SMALLEST_ATOL


def _tolerance(backend: Backend, value: Any, name: str, usual: str) -> Any:
    number = _number(backend, value, name, usual)
    if isinstance(number, float) and number < 0:
        raise ValueError(f"expected {name} >= 0, received {number}; try {usual}")
    return number


def _controller(controller: Any, stochastic: bool) -> Controller:
    if controller is None:
        return CONTROLLERS["PI-rough"] if stochastic else _INTEGRAL
    if isinstance(controller, str):
        return lookup_controller(controller)
    if isinstance(controller, (PIDController, ConstantStep)):
        return controller
    raise TypeError(
        "expected controller to be ndereg.PIDController(...), ndereg.ConstantStep(dt) or a name "
        f"such as 'PI34', received {controller!r}; try controller=None for the I controller"
    )


def _first_step(backend: Backend, first_step: Any) -> Any:
    if first_step is None:
        return None
    size = _number(backend, first_step, "first_step", "first_step=None to have it chosen")
    if isinstance(size, float) and size <= 0:
        raise ValueError(
            f"expected a positive first_step, received {size}; the direction of time comes from "
            "t_span, try its absolute value, or None to have it chosen"
        )
    return size


def _max_steps(max_steps: Any) -> int:
    if type(max_steps) is int and max_steps >= 1:
        return max_steps
    if isinstance(max_steps, bool) or not isinstance(max_steps, numbers.Integral):
        raise TypeError(f"expected an int for max_steps, received {max_steps!r}; try 100_000")
    if max_steps < 1:
        raise ValueError(f"expected max_steps >= 1, received {max_steps}; try 100_000")
    return int(max_steps)
