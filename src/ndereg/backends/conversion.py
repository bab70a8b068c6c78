"""The drift of a stochastic equation in the other calculus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from array_api_compat import is_jax_array, is_torch_array

from ndereg.backends.base import Array
from ndereg.backends.bound import checked_leaves
from ndereg.backends.derivatives import Derivatives, Function
from ndereg.backends.registry import load_backend
from ndereg.structure import flatten


def corrected(
    drift: Callable[..., Any], diffusion: Callable[..., Any], factor: float, columns: bool,
    derivatives: Derivatives | None, inputs: tuple[Array, Any, Any],
) -> Any:  # fmt: skip
    """Evaluate ``f + factor sum_j (dg_j/dy) g_j`` at ``(t, y, args)``, in the structure of ``y``.

    Of diagonal noise, where ``g_j`` is entry ``j`` alone and depends on that entry of the state
    alone, and of scalar noise, which has one column, it is one derivative; otherwise there is one
    for each of the ``columns``. Without ``derivatives`` those of the arrays' framework are taken.

    Raises
    ------
    TypeError, ValueError
        If a result does not match the state, or an operation has no derivative.
    """
    given, structure = flatten(inputs)
    chosen = _of_framework(given) if derivatives is None else derivatives
    state = flatten(inputs[1])[1]

    def evaluate(*arrays: Array) -> Sequence[Array]:
        t, y, args = structure.unflatten(arrays)
        leaves = flatten(y)[0]
        rates = checked_leaves(drift(t, y, args), leaves, state, chosen.owns, "the field")

        def spread(*leaves: Array) -> Sequence[Array]:
            value = diffusion(t, state.unflatten(leaves), args)
            return checked_leaves(
                value, leaves, state, chosen.owns, "the diffusion", columns=columns
            )

        added = _corrections(spread, leaves, chosen, columns)
        return [f + factor * each for f, each in zip(rates, added, strict=True)]

    return state.unflatten(chosen.call(evaluate, given))


def _corrections(
    diffusion: Function, y: Sequence[Array], derivatives: Derivatives, columns: bool
) -> Sequence[Array]:
    """``sum_j (dg_j/dy) g_j``."""
    value = diffusion(*y)
    if not columns:
        return derivatives.jvp(diffusion, y, value)
    total: list[Array] = []
    for j in range(value[0].shape[-1]):
        along = derivatives.jvp(diffusion, y, [leaf[..., j] for leaf in value])
        column = [leaf[..., j] for leaf in along]
        total = [a + b for a, b in zip(total, column, strict=True)] if total else column
    return total


def _of_framework(arrays: Sequence[Any]) -> Derivatives:
    """Derivatives for arrays outside of a solve."""
    name = "reference"
    for framework, is_array in (("torch", is_torch_array), ("jax", is_jax_array)):
        if any(map(is_array, arrays)):
            name = framework
    backend: Any = load_backend(name)
    derivatives: Derivatives = backend.derivatives()
    return derivatives
