"""The edge: options and arrays of the user checked, flattened, and turned into a problem.

Everything that can be refused is refused here, before any work is done, with what was expected,
what was received and what to try.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

from ndereg.backends.base import Array, Backend, Layout, Problem
from ndereg.backends.bound import BoundField
from ndereg.catalogue import lookup
from ndereg.catalogue.controllers import lookup_controller
from ndereg.catalogue.serving import refuse_unserved
from ndereg.plan.lower import lower
from ndereg.spec.adjoint import resolve_adjoint
from ndereg.spec.controller import ConstantStep, Controller, PIDController
from ndereg.spec.regularizer import Regularizer, Term
from ndereg.spec.spec import Batch, Spec
from ndereg.spec.tableau import Tableau
from ndereg.structure import Structure, flatten

SMALLEST_ATOL = 1e-37
"""Added floor of ``atol``: the error scale of a component that is exactly zero stays positive,
also in float32, when a user asks for a purely relative tolerance."""

_DTYPES = ("float32", "float64", "complex64", "complex128")


def prepare(
    backend: Backend,
    field: Callable[..., Any],
    t_span: Any,
    y0: Any,
    args: Any = None,
    *,
    t_eval: Any = None,
    method: str | Tableau = "tsit5",
    rtol: Any = 1e-6,
    atol: Any = 1e-9,
    controller: Controller | str | None = None,
    first_step: Any = None,
    max_steps: int = 100_000,
    batch: Batch = "joint",
    regularizer: Regularizer | None = None,
    adjoint: Any = "discrete",
    record: bool = False,
) -> Problem:
    """Check and flatten one call of ``solve``.

    Raises
    ------
    ValueError, TypeError
        Naming what was expected and received, and what to try.
    """
    if not callable(field):
        raise TypeError(
            f"expected a callable field f(t, y, args), received {type(field).__name__}"
        )
    chosen = resolve_method(method)
    control = _controller(controller, chosen)
    terms = _terms(regularizer)
    if batch not in ("joint", "independent"):
        raise ValueError(f"expected batch='joint' or batch='independent', received {batch!r}")
    layout, flat = _state(backend, y0, batch)
    given_span = _span(t_span)
    t0 = _number(backend, given_span[0], "t_span[0]")
    t1 = _number(backend, given_span[1], "t_span[1]")
    times = None if t_eval is None else _output_times(backend, t_eval, t0, t1, layout)
    rtol, atol = _tolerances(backend, rtol, atol, control)
    leaves, args_structure = _args(backend, args, layout.real_dtype)
    spec = Spec(
        tableau=chosen,
        adaptive=control.adaptive,
        terms=tuple(terms),
        adjoint=resolve_adjoint(adjoint),
        batch=batch,
        dense=times is not None,
        record=bool(record),
    )
    refuse_unserved(spec)
    return Problem(
        spec=spec,
        plan=lower(spec),
        field=field,
        call=BoundField(backend, field, layout, args_structure),
        layout=layout,
        y0=flat,
        args=tuple(leaves),
        args_structure=args_structure,
        t0=t0,
        t1=t1,
        t_eval=times,
        rtol=rtol,
        atol=atol,
        parameters=control.parameters(chosen.error_order or chosen.order + 1),
        dt=control.dt if isinstance(control, ConstantStep) else math.nan,
        first_step=_first_step(backend, first_step),
        max_steps=_max_steps(max_steps),
        weights=tuple(terms.values()),
        given_times=(*given_span, t_eval),
    )


def resolve_method(method: str | Tableau) -> Tableau:
    """Return a tableau by name, or check the one given."""
    if isinstance(method, Tableau):
        from ndereg.catalogue import check

        check(method)
        return method
    if isinstance(method, str):
        return lookup(method)
    raise TypeError(
        "expected method to be a name of the catalogue or an ndereg.Tableau, received "
        f"{type(method).__name__}"
    )


def _state(backend: Backend, y0: Any, batch: Batch) -> tuple[Layout, Array]:
    given, structure = flatten(y0)
    if not given:
        raise ValueError("expected a state with at least one array, received an empty y0")
    names = structure.paths("y0")
    if len(given) > 1 and all(isinstance(leaf, numbers.Number) for leaf in given):
        raise TypeError(
            f"expected arrays in y0, received Python numbers in {structure}; a list is a nested "
            "structure here, try an array of the numbers instead"
        )
    leaves = [backend.array(leaf, name) for leaf, name in zip(given, names, strict=True)]
    for name, leaf in zip(names, leaves, strict=True):
        if backend.dtype(leaf) not in _DTYPES:
            raise TypeError(
                f"expected {name} to have dtype {', '.join(_DTYPES)}, received "
                f"{backend.dtype(leaf)}; try converting it to a floating-point dtype"
            )
        if 0 in leaf.shape:
            raise ValueError(
                f"expected a non-empty state, received {name} of shape {tuple(leaf.shape)}"
            )
    samples = None
    if batch == "independent":
        axes = [leaf.shape[0] if leaf.ndim else None for leaf in leaves]
        if None in axes or len(set(axes)) != 1:
            raise ValueError(
                "expected every array of y0 to lead with one batch axis for batch='independent', "
                f"received shapes {[tuple(leaf.shape) for leaf in leaves]}; try batch='joint', or "
                "give each array the samples as axis 0"
            )
        samples = int(axes[0])  # type: ignore[arg-type]
    dtypes = tuple(backend.dtype(leaf) for leaf in leaves)
    layout = Layout(
        structure=structure,
        shapes=tuple(tuple(int(length) for length in leaf.shape) for leaf in leaves),
        dtypes=dtypes,
        dtype=str(np.result_type(*dtypes)),
        batch=samples,
    )
    return layout, layout.flatten(backend, leaves)


def _args(backend: Backend, args: Any, dtype: str) -> tuple[list[Array], Structure]:
    """Arrays of args; Python numbers take the real dtype of the state, as weak scalars would."""
    given, structure = flatten(args)
    leaves = []
    for leaf, name in zip(given, structure.paths("args"), strict=True):
        array = backend.array(leaf, name)
        if type(leaf) in (int, float):
            array = backend.cast(array, dtype)
        leaves.append(array)
    return leaves, structure


def _number(backend: Backend, value: Any, what: str) -> Any:
    """Return a finite float, or a traced scalar as it is."""
    if isinstance(value, (bool, str)) or value is None:
        raise TypeError(f"expected a number for {what}, received {value!r}")
    if isinstance(value, numbers.Real):
        number = float(value)
    else:
        known = backend.concrete(value)
        if known is None:
            return value
        if np.size(known) != 1 or np.asarray(known).dtype.kind not in "iuf":
            raise TypeError(f"expected a real number for {what}, received {value!r}")
        number = float(np.asarray(known).reshape(()))
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number for {what}, received {number}")
    return number


def _span(t_span: Any) -> tuple[Any, Any]:
    try:
        t0, t1 = t_span
    except (TypeError, ValueError):
        raise ValueError(f"expected t_span=(t0, t1), received {t_span!r}") from None
    return t0, t1


def _output_times(backend: Backend, t_eval: Any, t0: Any, t1: Any, layout: Layout) -> Any:
    try:
        known = backend.concrete(t_eval) if backend.owns(t_eval) else np.asarray(t_eval)
        if known is not None:
            known = np.asarray(known).astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"expected numbers in t_eval, received {t_eval!r}") from None
    times = t_eval if known is None else known
    allowed = "(T,)" if layout.batch is None else f"(T,) or ({layout.batch}, T)"
    if times.ndim != 1 and not (times.ndim == 2 and times.shape[0] == layout.batch):
        raise ValueError(
            f"expected t_eval of shape {allowed}, received shape {tuple(times.shape)}"
        )
    if times.shape[-1] == 0:
        raise ValueError("expected at least one time in t_eval; try t_eval=None for y(t1) alone")
    if known is None:
        return times
    if not np.all(np.isfinite(known)):
        raise ValueError("expected finite times in t_eval, received nan or inf")
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
    if known.min() < low or known.max() > high:
        raise ValueError(
            f"expected the times of t_eval within the span [{low}, {high}], received times from "
            f"{known.min()} to {known.max()}; try a longer t_span"
        )
    return known


def _tolerances(backend: Backend, rtol: Any, atol: Any, control: Controller) -> tuple[Any, Any]:
    values = []
    for name, value in (("rtol", rtol), ("atol", atol)):
        number = _number(backend, value, name)
        if isinstance(number, float) and number < 0:
            raise ValueError(f"expected {name} >= 0, received {number}")
        values.append(number)
    if values[0] == 0.0 and values[1] == 0.0 and isinstance(values[0], float):
        raise ValueError(
            "expected a positive rtol or atol, received rtol=0 and atol=0; try rtol=1e-6, or "
            "controller=ndereg.ConstantStep(dt) for steps without error control"
        )
    floor = max(values[1], SMALLEST_ATOL) if isinstance(values[1], float) else values[1]
    return values[0], floor


def _controller(controller: Any, method: Tableau) -> Controller:
    if controller is None:
        return PIDController()
    if isinstance(controller, str):
        return lookup_controller(controller)
    if isinstance(controller, (PIDController, ConstantStep)):
        return controller
    raise TypeError(
        "expected controller to be ndereg.PIDController(...), ndereg.ConstantStep(dt) or a name "
        f"such as 'PI34', received {controller!r}"
    )


def _terms(regularizer: Any) -> dict[Term, float]:
    """Terms and weights; equal terms are one, with the sum of their weights."""
    if regularizer is None:
        return {}
    if not isinstance(regularizer, Regularizer):
        raise TypeError(
            "expected regularizer to be made of ndereg.ErrorEstimate(...) and "
            f"ndereg.StiffnessEstimate(...), received {regularizer!r}"
        )
    terms: dict[Term, float] = {}
    for weight, term in regularizer.terms():
        terms[term] = terms.get(term, 0.0) + weight
    return terms


def _first_step(backend: Backend, first_step: Any) -> Any:
    if first_step is None:
        return None
    size = _number(backend, first_step, "first_step")
    if isinstance(size, float) and size <= 0:
        raise ValueError(
            f"expected a positive first_step, received {size}; the direction of time comes from "
            "t_span"
        )
    return size


def _max_steps(max_steps: Any) -> int:
    if isinstance(max_steps, bool) or not isinstance(max_steps, numbers.Integral):
        raise TypeError(f"expected an int for max_steps, received {max_steps!r}")
    if max_steps < 1:
        raise ValueError(f"expected max_steps >= 1, received {max_steps}")
    return int(max_steps)
