"""One call of ``solve`` as a problem."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from ndereg.backends.base import Backend, Problem
from ndereg.backends.bound import BoundField
from ndereg.backends.draws import uniform
from ndereg.backends.extension import extend
from ndereg.backends.pairs import paired
from ndereg.backends.steering import steered
from ndereg.catalogue.serving import DEFAULT_METHOD, DefaultMethod, default_method
from ndereg.edge.arrays import flat_args, flat_state, refuse_compiled
from ndereg.edge.equation import (
    driven,
    named,
    outline,
    refuse_foreign_module,
    split,
)
from ndereg.edge.options import Settled, settled
from ndereg.edge.path import plain_key
from ndereg.edge.scalars import most_steps, size_of_first_step, tolerances
from ndereg.edge.times import checked_times
from ndereg.field import is_compiled, refuse_no_field, resolve
from ndereg.flow import Flow
from ndereg.spec.controller import Controller
from ndereg.spec.regularizer import Regularizer
from ndereg.spec.reversible import ReversibleHeun
from ndereg.spec.spec import Batch
from ndereg.spec.stochastic import StochasticMethod
from ndereg.spec.tableau import Tableau


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
    field, equation = split(backend, field if flow is None else flow.field)
    refuse_no_field(field, *(("field", "y") if equation is None else named(equation)))
    field, args = resolve(field, args)
    if type(field) is not FunctionType:
        refuse_foreign_module(backend, field, "the field")
    layout, flat = flat_state(backend, y0, batch)
    leaves, args_structure = flat_args(backend, args, layout.real_dtype)
    found = outline(backend, equation, layout, flat, leaves, args_structure)
    noise, part = (None, None) if found is None else (found.noise, found.part)
    if isinstance(method, DefaultMethod) and noise is not None:
        method = default_method(noise, adjoint)
    options = settled(
        method, controller, regularizer, adjoint, batch, t_eval is not None, bool(record), noise
    )
    spec = options.plan.spec
    t0, t1, times = checked_times(backend, t_span, t_eval, layout)
    if options.steer is not None:
        t1, times = steered(backend, options.steer, t0, t1, times, plain_key(key))
    rtol, atol = tolerances(backend, rtol, atol, options.measured)
    draws = None
    if spec.local is not None:
        draws = uniform(backend, plain_key(key), layout.samples, "ndereg.Local")
    if getattr(field, "in_place", False) or is_compiled(field):
        refuse_compiled(backend, layout.structure, args_structure)
    problem = Problem(
        spec=spec,
        plan=options.plan,
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
        parameters=options.parameters,
        dt=options.dt,
        first_step=size_of_first_step(backend, first_step),
        max_steps=most_steps(max_steps),
        weights=options.weights,
        given_times=(*t_span, t_eval),
        draws=draws,
        part=part,
    )
    if equation is not None and found is not None:
        problem = driven(backend, problem, equation, found, key)
    return _completed(backend, problem, options, flow, key)


def _completed(
    backend: Backend, problem: Problem, options: Settled, flow: Flow | None, key: Any
) -> Problem:
    """The problem with what its state is beside that of the user."""
    if isinstance(problem.spec.tableau, ReversibleHeun):
        return paired(backend, problem)
    if options.integrands or flow is not None:
        return extend(backend, problem, options.integrands, flow, plain_key(key))
    return problem
