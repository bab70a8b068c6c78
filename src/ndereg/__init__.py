"""Neural differential equations that stay cheap to solve, on the array framework you have.

This module holds the names of the specification and imports no array framework. Choose one at
import: ``import ndereg.numpy as nde``, ``ndereg.torch`` or ``ndereg.jax``.
"""

from __future__ import annotations

from typing import Any

from ndereg import ops
from ndereg.brownian import BrownianTree
from ndereg.catalogue import lookup, names, register
from ndereg.catalogue.controllers import CONTROLLERS
from ndereg.field import Field
from ndereg.flow import Flow
from ndereg.langevin import UnderdampedLangevin
from ndereg.plan.lower import lower
from ndereg.sde import SDE
from ndereg.spec.adjoint import Backsolve, Discrete, NoAdjoint, Reversible
from ndereg.spec.controller import ConstantStep, PIDController
from ndereg.spec.integrand import Integrand, JacobianFrobenius, Kinetic, Taylor
from ndereg.spec.regularizer import ErrorEstimate, Local, Regularizer, StiffnessEstimate
from ndereg.spec.schedule import Constant, ExponentialDecay, InverseDecay, NFEBudget
from ndereg.spec.spec import Spec
from ndereg.spec.status import SolveError, Status
from ndereg.spec.steer import Steer
from ndereg.spec.stochastic import StochasticTableau
from ndereg.spec.tableau import Tableau

__version__ = "0.1.0"


def compile(spec: Spec, backend: str = "numpy") -> Any:
    """Compile a specification on a backend; what ``solve`` calls. The result is kept.

    Parameters
    ----------
    spec : Spec
    backend : str
        ``"numpy"`` (Numba), ``"torch"``, ``"jax"``, ``"reference"`` or a registered one.

    Returns
    -------
    object
        With ``solve(problem)`` and ``solve_vjp(problem)``
        (:class:`ndereg.backends.base.Compiled`).

    Raises
    ------
    ValueError
        If the method or adjoint cannot serve the specification, or the backend is unknown.
    ImportError
        If the framework is not installed.
    """
    from ndereg.backends.registry import compile_on, load_backend

    return compile_on(spec, load_backend(backend))


def register_backend(name: str, factory: Any) -> None:
    """Make a third-party backend known; see :mod:`ndereg.backends.registry`."""
    from ndereg.backends import registry

    registry.register_backend(name, factory)


def port(model: Any, to: Any, *, example: Any = None) -> Any:
    """Return a model for another framework, with its weights; see :func:`ndereg.models.port.port`.

    ``to`` is ``"torch"`` (a module called as ``f(t, y)``), ``"jax"`` or ``"numpy"`` (a field
    ``f(t, y, args)`` with its weights in ``.params``).
    """
    from ndereg import models

    return models.port(model, to, example=example)


def save(model: Any, path: Any, *, example: Any = None) -> None:
    """Save a model to one file; see :func:`ndereg.models.files.save`."""
    from ndereg import models

    models.save(model, path, example=example)


def load(path: Any) -> Any:
    """Load a model, with NumPy weights; see :func:`ndereg.models.files.load`."""
    from ndereg import models

    return models.load(path)


__all__ = [
    "CONTROLLERS",
    "SDE",
    "Backsolve",
    "BrownianTree",
    "Constant",
    "ConstantStep",
    "Discrete",
    "ErrorEstimate",
    "ExponentialDecay",
    "Field",
    "Flow",
    "Integrand",
    "InverseDecay",
    "JacobianFrobenius",
    "Kinetic",
    "Local",
    "NFEBudget",
    "NoAdjoint",
    "PIDController",
    "Regularizer",
    "Reversible",
    "SolveError",
    "Spec",
    "Status",
    "Steer",
    "StiffnessEstimate",
    "StochasticTableau",
    "Tableau",
    "Taylor",
    "UnderdampedLangevin",
    "compile",
    "load",
    "lookup",
    "lower",
    "names",
    "ops",
    "port",
    "register",
    "register_backend",
    "save",
]
