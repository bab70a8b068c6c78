"""Choosing and interpolating between traced values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ndereg.trace import elementwise
from ndereg.trace.linalg import matmul
from ndereg.trace.shaping import expand_dims, stack
from ndereg.trace.value import dtype_name, lift, promoted_dtype, wrap

if TYPE_CHECKING:
    from ndereg.trace.array import TracedArray


def select(conditions: Sequence[Any], choices: Sequence[Any], default: Any = 0) -> TracedArray:
    """Entries of the choice whose condition holds first, else of the default."""
    if len(conditions) != len(choices):
        raise ValueError(f"select: {len(conditions)} conditions for {len(choices)} choices")
    result = default
    for condition, choice in zip(conditions[::-1], choices[::-1], strict=True):
        result = elementwise.where(condition, choice, result)
    return wrap(lift(result))


def interp(x: Any, xp: Any, fp: Any, /, left: Any = None, right: Any = None) -> TracedArray:
    """Piecewise linear interpolation at constant, increasing abscissae ``xp``.

    A product of the values ``fp`` with hat functions of ``x``; differentiable in both.
    """
    knots = np.asarray(xp, dtype=np.float64)
    if knots.ndim != 1 or knots.size < 1 or (np.diff(knots) <= 0).any():
        raise ValueError("interp: expected strictly increasing abscissae in one axis")
    point = wrap(lift(x))
    kind = dtype_name(np.result_type(promoted_dtype(x, 0.0), promoted_dtype(fp)))
    values = wrap(lift(fp, kind))
    if values.shape != knots.shape:
        raise ValueError(f"interp: {knots.size} abscissae for values of shape {values.shape}")
    if knots.size == 1:
        result = values[0] + 0 * point
    else:
        place = expand_dims(point, point.ndim) - knots[:-1].astype(point.dtype)
        ramps = elementwise.clip(place / np.diff(knots).astype(point.dtype), 0.0, 1.0)
        falling = elementwise.subtract(1.0, ramps)
        hats = [falling[..., 0]]
        hats += [ramps[..., i - 1] - ramps[..., i] for i in range(1, knots.size - 1)]
        hats += [ramps[..., knots.size - 2]]
        result = matmul(stack(hats, -1), values)
    if left is not None:
        result = elementwise.where(point < float(knots[0]), left, result)
    if right is not None:
        result = elementwise.where(point > float(knots[-1]), right, result)
    return result
