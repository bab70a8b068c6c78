"""Derivatives of a field inside of a field, by JAX's transformations."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import jet

from ndereg.backends.derivatives import Derivatives, Function
from ndereg.backends.jax.linearization import conjugate


class JaxDerivatives(Derivatives):
    """Taylor mode, and forward mode where an operation has no rule for that; reverse mode."""

    def owns(self, value: object) -> bool:
        """JAX arrays, tracers among them."""
        return isinstance(value, jax.Array)

    def jvp(
        self, function: Function, primals: Sequence[Any], tangents: Sequence[Any]
    ) -> Sequence[Any]:
        """See :func:`jax.jvp`."""
        return jax.jvp(_listed(function), tuple(primals), tuple(tangents))[1]

    def vjp(
        self, function: Function, primals: Sequence[Any], cotangents: Sequence[Any]
    ) -> Sequence[Any]:
        """See :func:`jax.vjp`, whose product is the bilinear one."""
        _, pull = jax.vjp(_listed(function), *primals)
        return [conjugate(bar) for bar in pull([conjugate(bar) for bar in cotangents])]

    def vjps(
        self, function: Function, primals: Sequence[Any], cotangents: Sequence[Sequence[Any]]
    ) -> Sequence[Sequence[Any]]:
        """All at once, by :func:`jax.vmap`: what is compiled does not grow with their number."""
        if len(cotangents) == 1:
            return [self.vjp(function, primals, cotangents[0])]
        stacked = [jnp.stack(leaves) for leaves in zip(*cotangents, strict=True)]
        found = jax.vmap(lambda *each: self.vjp(function, primals, each))(*stacked)
        return [[leaf[i] for leaf in found] for i in range(len(cotangents))]

    def total(self, velocity: Function, t: Any, y: Sequence[Any], order: int) -> Sequence[Any]:
        """Taylor coefficients of the solution, each from those before (TayNODE, algorithm 1).

        The work grows with the square of the order, that of nested forward mode exponentially.
        """
        # Taylor mode takes the absolute value of complex numbers for a function of real ones. Where
        # it has no rule it fails in one of many ways (KeyError for a primitive such as lgamma, an
        # escaped tracer for jax.nn.relu); an error of the field itself comes up again below.
        if not any(jnp.iscomplexobj(leaf) for leaf in y):
            with suppress(Exception):
                return _taylor(velocity, t, y, order)
        return super().total(velocity, t, y, order)


def _taylor(velocity: Function, t: Any, y: Sequence[Any], order: int) -> Sequence[Any]:
    found = [velocity(t, *y)]
    time = [jnp.ones_like(t), *[jnp.zeros_like(t)] * (order - 2)]
    while len(found) < order:
        known = len(found)
        series = (time[:known], *(list(terms) for terms in zip(*found, strict=True)))
        value, higher = jet.jet(_listed(velocity), (t, *y), series)
        found = [value, *([terms[i] for terms in higher] for i in range(known))]
    return found[-1]


def _listed(function: Function) -> Any:
    return lambda *arrays: list(function(*arrays))


def refuse_derivative(error: Exception) -> None:
    """Raise in words what JAX says of a derivative that a solve does not have, if it is that.

    Where the solve is inside a ``jax.jit`` of its own, JAX comes upon it later and says it itself.

    Raises
    ------
    TypeError
        For forward mode.
    ValueError
        For reverse mode over reverse mode. Under ``vmap`` JAX has no more than an assertion there.
    """
    said = str(error)
    if "can't apply forward-mode autodiff (jvp) to a custom_vjp" in said:
        raise TypeError(
            "expected derivatives of a solve in reverse mode, received a request for forward mode "
            "(jax.jvp, jax.jacfwd); try jax.grad, jax.vjp or jax.jacrev"
        ) from error
    batched = isinstance(error, AssertionError) and not said and _of_jax(error)
    if batched or "Linearization failed to produce known values" in said:
        raise ValueError(
            "expected first derivatives of a solve only, received a request for second ones; try "
            "jax.lax.stop_gradient on the first ones, or solving the variational equations"
        ) from error


def _of_jax(error: Exception) -> bool:
    """Whether an error was raised by code of JAX."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return str(module).partition(".")[0] in ("jax", "jaxlib")
