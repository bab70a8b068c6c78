"""The options of a call that are no arrays or numbers of the run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

from ndereg.catalogue import lookup
from ndereg.catalogue.controllers import CONTROLLERS, lookup_controller
from ndereg.catalogue.serving import refuse_unserved
from ndereg.edge.equation import refuse_integrands
from ndereg.plan.lower import Plan, lower
from ndereg.spec.adjoint import resolve_adjoint
from ndereg.spec.controller import ConstantStep, Controller, PIDController
from ndereg.spec.integrand import Integrand
from ndereg.spec.regularizer import LocalTerm
from ndereg.spec.spec import Spec
from ndereg.spec.steer import Steer
from ndereg.spec.stochastic import Noise, StochasticMethod
from ndereg.spec.tableau import Tableau
from ndereg.summands import summands

Function = TypeVar("Function", bound=Callable[..., Any])
_INTEGRAL = PIDController()
_ELSEWHERE = {
    "solver": "method",
    "stepsize_controller": "controller",
    "dt0": "first_step, or controller=ndereg.ConstantStep(dt) for steps of one size",
    "dt": "controller=ndereg.ConstantStep(dt)",
    "step_size": "controller=ndereg.ConstantStep(dt)",
    "max_step": "controller=ndereg.PIDController(dt_max=...) for the size of a step, max_steps for "
    "their number",
    "min_step": "controller=ndereg.PIDController(dt_min=...)",
    "saveat": "t_eval",
    "teval": "t_eval",
    "t": "t_span=(t0, t1) and t_eval",
    "dense_output": "t_eval, as a solution is known at given times alone",
    **dict.fromkeys(
        ("event", "events", "event_fn"),
        "t_eval and a search in sol.ys, as no events end a solve",
    ),
}
"""What options of diffrax, torchdiffeq and SciPy are here."""


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


def settled(*options: Any) -> Settled:
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
        refuse_integrands(integrands, chosen, resolve_adjoint(adjoint))
    between = local is not None and not local.picks
    over_steps = tuple(term for term in terms if not isinstance(term, LocalTerm))
    plan = _plan(
        chosen, control.adaptive, over_steps, resolve_adjoint(adjoint), batch, dense or between,
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


def closed(function: Function) -> Function:
    """Say of a function that takes any option, to refuse it in words, that it takes those named."""
    shown = inspect.signature(function)
    named = [p for p in shown.parameters.values() if p.kind is not p.VAR_KEYWORD]
    function.__signature__ = shown.replace(parameters=named)  # type: ignore[attr-defined]
    return function


def refuse_unknown_options(function: Callable[..., Any], names: Iterable[str]) -> NoReturn:
    """Refuse options that a function does not have, with those that they resemble or stand for.

    Raises
    ------
    TypeError
        As Python itself does for an unexpected keyword argument.
    """
    received = list(names)
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    near = {name: get_close_matches(name, known, n=1) for name in received}
    meant = {name: found[0] for name, found in near.items() if found} | {
        name: _ELSEWHERE[name] for name in received if name in _ELSEWHERE
    }
    close = [f"{own} for {name}" for name, own in meant.items()] if received[1:] else meant.values()
    hint = f"{'; '.join(close)}, or " if close else ""
    raise TypeError(
        f"expected an option of {function.__name__} among {', '.join(known)}, received "
        f"{', '.join(received)}; try {hint}help({function.__name__}), which describes them all"
    )
