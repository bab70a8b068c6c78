"""The random end of the time span, and random output times, of :class:`ndereg.Steer`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ndereg.backends.base import Backend
from ndereg.backends.draws import uniform
from ndereg.spec.steer import Steer


def steered(
    backend: Backend, steer: Steer, t0: Any, t1: Any, t_eval: Any, key: Any
) -> tuple[Any, Any]:
    """Return the end of the span and the output times that are drawn for those asked for.

    Raises
    ------
    ValueError
        If there is no key, ``b`` is not less than the span, or output times are only known when
        compiled.
    TypeError
        If the key is none of this backend.
    """
    start, end = backend.concrete(t0), backend.concrete(t1)
    known = start is not None and end is not None
    if known and not steer.b < abs(end - start):
        raise ValueError(
            f"expected b of ndereg.Steer to be less than the span, {abs(end - start)}, received "
            f"{steer.b}; try {abs(end - start) / 2 or 'a longer span'}"
        )
    if t_eval is None:
        return _time(t1 + steer.b * _displacements(backend, key, ())), None
    if not known or not isinstance(t_eval, np.ndarray):
        raise ValueError(
            "expected t_span and t_eval that are known where ndereg.Steer perturbs output times, "
            "received traced ones; try NumPy arrays, which no transformation of JAX traces"
        )
    reach = np.full(t_eval.shape, steer.b)
    first = np.full((*t_eval.shape[:-1], 1), start)
    last = np.maximum(t_eval[..., -1:], end) if end >= start else np.minimum(t_eval[..., -1:], end)
    gaps = np.abs(np.diff(np.concatenate([first, t_eval, last], axis=-1))) / 2
    # nothing comes after an output at the end, which takes the end along
    at_end = t_eval[..., -1] == end
    gaps[..., -1] = np.where(at_end, math.inf, gaps[..., -1])
    reach = np.minimum(reach, np.minimum(gaps[..., :-1], gaps[..., 1:]))
    moved = t_eval + reach * _displacements(backend, key, t_eval.shape)
    if not np.any(at_end):
        return t1, moved
    # the span ends with the last output of all samples
    ends = np.where(at_end, 0.0, end) + at_end * moved[..., -1]  # which JAX may trace
    return _time(ends.max() if end >= start else ends.min()), moved


def _time(value: Any) -> Any:
    """Return a float, where the value is known."""
    return float(value) if isinstance(value, (np.ndarray, np.generic)) else value


def _displacements(backend: Backend, key: Any, shape: tuple[int, ...]) -> Any:
    """Return numbers from ``U(-1, 1)``: in NumPy, or an array that is known when compiled."""
    draws = uniform(backend, key, math.prod(shape), "ndereg.Steer")
    found = backend.concrete(draws)
    return (2.0 * (draws if found is None else found) - 1.0).reshape(shape)
