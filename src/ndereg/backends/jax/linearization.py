"""The field and its pullback as two fixed programs, with few arrays between them.

``jax.vjp`` keeps whatever its pullback reads. A loop that hands a linearization from step to step
copies all of it, so here only what would be dear to compute again is kept: not what follows from
the field's inputs alone (a slice of a weight), nor what a cheap operation makes of the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

_CHEAP = frozenset({
    "abs", "add", "and", "broadcast_in_dim", "conj", "convert_element_type", "copy", "div", "eq",
    "expand_dims", "ge", "gt", "imag", "integer_pow", "le", "lt", "max", "min", "mul", "ne", "neg",
    "not", "or", "real", "reshape", "select_n", "sign", "slice", "squeeze", "sub", "square",
    "transpose",
})  # fmt: skip
"""Operations that are made again rather than kept, where their operands are at hand."""


class Linearized(NamedTuple):
    """The field at one point: its value, and what the pullback needs besides."""

    k: Any
    kept: list[Any]


class Linearization:
    """``(inputs, t, y) -> Linearized`` and ``(inputs, Linearized, k_bar) -> cotangents``.

    Parameters
    ----------
    function : callable
        ``function(inputs, t, y) -> k``; ``inputs`` is a list of arrays.
    shapes : sequence of jax.ShapeDtypeStruct
        Of the inputs.
    time, state : jax.ShapeDtypeStruct
    wanted : sequence of int
        Positions of the inputs whose cotangents are wanted, besides that of ``y``.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Any], Any, Any], Any],
        shapes: Sequence[Any],
        time: Any,
        state: Any,
        wanted: Sequence[int],
    ) -> None:
        structure: Any = None

        def forward(inputs: Sequence[Any], t: Any, y: Any) -> list[Any]:
            nonlocal structure

            def of(y: Any, some: Sequence[Any]) -> Any:
                given = list(inputs)
                for position, value in zip(wanted, some, strict=True):
                    given[position] = value
                return function(given, t, y)

            k, pull = jax.vjp(of, y, [inputs[i] for i in wanted])
            residuals, structure = jax.tree.flatten(pull)
            return [k, *residuals]

        traced = jax.make_jaxpr(forward)(list(shapes), time, state)
        program, self._consts = traced.jaxpr, traced.consts
        given, (k, *residuals) = program.invars[: len(shapes)], program.outvars
        kept = _kept(program, given, k, residuals)
        self._primal = _part(program, program.invars, [k, *kept])
        self._restore = _part(program, [*given, k, *kept], residuals)
        avals = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in residuals]
        self._pull = jax.make_jaxpr(lambda r, k_bar: jax.tree.unflatten(structure, r)(k_bar))(
            avals, jax.ShapeDtypeStruct(k.aval.shape, k.aval.dtype)
        )

    def primal(self, inputs: Sequence[Any], t: Any, y: Any) -> Linearized:
        """Return the field and what is kept."""
        k, *kept = jax.core.eval_jaxpr(self._primal, self._consts, *inputs, t, y)
        return Linearized(k, kept)

    def pullback(self, inputs: Sequence[Any], at: Linearized, k_bar: Any) -> list[Any]:
        """Return the cotangents of y and of the wanted inputs, in the real inner product."""
        residuals = jax.core.eval_jaxpr(self._restore, self._consts, *inputs, at.k, *at.kept)
        # JAX pulls back without conjugation
        bars = jax.core.eval_jaxpr(
            self._pull.jaxpr, self._pull.consts, *residuals, conjugate(k_bar)
        )
        return [conjugate(bar) for bar in bars]


def conjugate(value: Any) -> Any:
    """Return the complex conjugate; real arrays as they are."""
    return jnp.conj(value) if jnp.iscomplexobj(value) else value


def _is_literal(var: Any) -> bool:
    return hasattr(var, "val")


def _producers(program: Any) -> dict[Any, Any]:
    return {var: equation for equation in program.eqns for var in equation.outvars}


def _kept(program: Any, given: Sequence[Any], k: Any, residuals: Sequence[Any]) -> list[Any]:
    """Residuals that cannot be restored from the given inputs, the value and each other."""
    fixed = {*given, *program.constvars}
    for equation in program.eqns:
        if all(_is_literal(var) or var in fixed for var in equation.invars):
            fixed.update(equation.outvars)
    producers, at_hand = _producers(program), set(fixed)
    if not _is_literal(k):
        at_hand.add(k)
    order = {var: i for i, var in enumerate(producers)}
    kept: list[Any] = []

    def restorable(var: Any) -> bool:
        if _is_literal(var) or var in at_hand:
            return True
        equation = producers.get(var)
        if equation is None or equation.primitive.name not in _CHEAP:
            return False
        if not all(restorable(operand) for operand in equation.invars):
            return False
        at_hand.add(var)
        return True

    unique = dict.fromkeys(var for var in residuals if not _is_literal(var))
    for var in sorted(unique, key=lambda var: order.get(var, -1)):
        if not restorable(var):
            at_hand.add(var)
            kept.append(var)
    return kept


def _part(program: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Jaxpr:
    """The equations that lead from some variables to others."""
    known = {var for var in inputs if not _is_literal(var)}
    needed = {var for var in outputs if not _is_literal(var)} - known
    equations = []
    for equation in reversed(program.eqns):
        if needed.isdisjoint(equation.outvars):
            continue
        equations.append(equation)
        needed.update(var for var in equation.invars if not _is_literal(var) and var not in known)
    names = program.debug_info._replace(
        arg_names=("",) * len(inputs), result_paths=("",) * len(outputs)
    )
    return Jaxpr(program.constvars, list(inputs), list(outputs), equations[::-1], debug_info=names)
