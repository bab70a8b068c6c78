"""The drift of a stochastic equation in the other calculus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from array_api_compat import is_jax_array, is_torch_array

from ndereg.backends.base import Array
from ndereg.backends.bound import checked_leaves
from ndereg.backends.derivatives import Derivatives, Function
from ndereg.backends.registry import load_backend
from ndereg.sde import ConvertedDrift
from ndereg.structure import flatten


def corrected(converted: ConvertedDrift, t: Array, y: Any, args: Any) -> Any:
    """Evaluate a drift less or plus ``1/2 sum_j (dg_j/dy) g_j``, in the structure of ``y``.

    Of diagonal noise, where ``g_j`` is entry ``j`` alone and depends on that entry of the state
    alone, and of scalar noise, which has one column, it is one derivative.

    Raises
    ------
    TypeError, ValueError
        If a result does not match the state, or an operation has no derivative.
    """
    given, structure = flatten((t, y, args))
    found = converted.derivatives
    derivatives: Derivatives = _of_framework(given) if found is None else found
    state = flatten(y)[1]
    sign = -0.5 if converted.calculus == "stratonovich" else 0.5

    def evaluate(*arrays: Array) -> Sequence[Array]:
        t, y, args = structure.unflatten(arrays)
        leaves = flatten(y)[0]
        assert converted.drift is not None
        drift = checked_leaves(
            converted.drift(t, y, args), leaves, state, derivatives.owns, "the field"
        )
        matrix = converted.noise == "general"

        def diffusion(*leaves: Array) -> Sequence[Array]:
            value = converted.diffusion(t, state.unflatten(leaves), args)
            return checked_leaves(
                value, leaves, state, derivatives.owns, "the diffusion", columns=matrix
            )

        added = _corrections(diffusion, leaves, derivatives, matrix)
        return [f + sign * each for f, each in zip(drift, added, strict=True)]

    return state.unflatten(derivatives.call(evaluate, given))


def _corrections(
    diffusion: Function, y: Sequence[Array], derivatives: Derivatives, matrix: bool
) -> Sequence[Array]:
    """``sum_j (dg_j/dy) g_j``."""
    value = diffusion(*y)
    if not matrix:
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
