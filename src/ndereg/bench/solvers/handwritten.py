"""Fields written by hand for peers that want a compiled function in place."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np

from ndereg.bench.problems import Problem
from ndereg.structure import flatten

compiled = numba.njit(error_model="numpy")


@compiled
def _lotka_volterra(t: float, y: Any, out: Any, p: Any) -> None:
    out[0] = p[0] * y[0] - p[1] * y[0] * y[1]
    out[1] = p[3] * y[0] * y[1] - p[2] * y[1]


@compiled
def _lorenz(t: float, y: Any, out: Any, p: Any) -> None:
    out[0] = p[0] * (y[1] - y[0])
    out[1] = y[0] * (p[1] - y[2]) - y[1]
    out[2] = y[0] * y[1] - p[2] * y[2]


@compiled
def _arenstorf(t: float, y: Any, out: Any, p: Any) -> None:
    mu = p[0]
    nu = 1.0 - mu
    near = (y[0] + mu) ** 2 + y[1] ** 2
    far = (y[0] - nu) ** 2 + y[1] ** 2
    d1, d2 = near * np.sqrt(near), far * np.sqrt(far)
    out[0] = y[2]
    out[1] = y[3]
    out[2] = y[0] + 2.0 * y[3] - nu * (y[0] + mu) / d1 - mu * (y[0] - nu) / d2
    out[3] = y[1] - 2.0 * y[2] - nu * y[1] / d1 - mu * y[1] / d2


@compiled
def _pleiades(t: float, y: Any, out: Any, p: Any) -> None:
    for i in range(7):
        ax = az = 0.0
        for j in range(7):
            if i != j:
                dx, dz = y[j] - y[i], y[7 + j] - y[7 + i]
                distance = dx * dx + dz * dz
                pull = (j + 1.0) / (distance * np.sqrt(distance))
                ax += pull * dx
                az += pull * dz
        out[i], out[7 + i] = y[14 + i], y[21 + i]
        out[14 + i], out[21 + i] = ax, az


FIELDS: dict[str, Callable[..., Any]] = {
    "Lotka-Volterra": _lotka_volterra,
    "Lorenz": _lorenz,
    "Arenstorf": _arenstorf,
    "Pleiades": _pleiades,
}
"""In place, ``f(t, y, out, parameters)``, by the name of the problem."""


def flat_args(problem: Problem) -> Any:
    """The parameters that the fields above read, as one vector."""
    if problem.name == "Pleiades":
        return np.zeros(1)
    return np.concatenate([np.ravel(leaf) for leaf in flatten(problem.args)[0]])


def _repeated(field: Callable[..., Any]) -> Callable[..., Any]:
    @compiled
    def repeat(n: int, t: float, y: Any, out: Any, p: Any) -> None:
        for _ in range(n):
            field(t, y, out, p)
            y[0] += 1e-300 * out[0]

    return repeat


REPEATED = {name: _repeated(field) for name, field in FIELDS.items()}


@cache
def c_function(name: str, counting: bool = False) -> Any:
    """The field as a C callback; ``counting`` adds 1 to a last parameter at every call."""
    from numbalsoda import lsoda_sig

    field, size, parameters = FIELDS[name], *_SIZES[name]

    @numba.cfunc(lsoda_sig)
    def function(t: float, u: Any, du: Any, p: Any) -> None:
        given = numba.carray(p, (parameters + 1,))
        if counting:
            given[parameters] += 1.0
        field(t, numba.carray(u, (size,)), numba.carray(du, (size,)), given)

    return function


@cache
def cyrk_function(name: str) -> Any:
    """The field as CyRK calls it."""
    from CyRK import cyjit

    field, size, parameters = FIELDS[name], *_SIZES[name]

    @cyjit
    def function(du: Any, t: float, u: Any, p: Any) -> None:
        field(
            t, numba.carray(u, (size,)), numba.carray(du, (size,)), numba.carray(p, (parameters,))
        )

    return function


_SIZES = {"Lotka-Volterra": (2, 4), "Lorenz": (3, 3), "Arenstorf": (4, 1), "Pleiades": (28, 1)}
"""Entries of the state and of the parameters."""
