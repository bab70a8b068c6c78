"""One further output time of every sample, put among those that were asked for and taken out again.

A solve answers output times in their order. The time of a local regularizer goes in at a
``position`` of its own in every sample, after the times that are equal to it. The functions work
on the arrays of NumPy, PyTorch and JAX, whose functions ``xp`` has; the times are axis 1, and a
position is shaped ``(samples, 1)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def position_of(times: Any, time: Any, direction: float) -> Any:
    """Position at which ``time`` (samples, 1) goes into ``times`` (samples, T)."""
    return ((times - time) * direction <= 0).sum(-1, keepdims=True)


def insert(xp: Any, position: Any, values: Any, value: Any) -> Any:
    """``values`` (samples, T, ...) with ``value`` (samples, 1, ...) put in at the position."""
    before = xp.concatenate([values, value], axis=1)
    after = xp.concatenate([value, values], axis=1)
    index = _index(xp, position, before)
    return xp.where(index < 0, before, xp.where(index == 0, value, after))


def remove(xp: Any, position: Any, values: Any) -> tuple[Any, Any]:
    """Return ``values`` without what is at the position, and that, (samples, 1, ...)."""
    index = _index(xp, position, values)
    rest = xp.where(index[:, :-1] < 0, values[:, :-1], values[:, 1:])
    return rest, xp.where(index == 0, values, 0).sum(1)[:, None]


def _index(xp: Any, position: Any, values: Any) -> Any:
    """Places counted from the position, (samples, T, 1, ...)."""
    places = xp.arange(values.shape[1])
    if xp.__name__ == "torch":
        places = places.to(values.device)
    shape = (-1, values.shape[1], *(1,) * (len(values.shape) - 2))
    return (places - position).reshape(shape)


def with_time(t_eval: Any, end: float, time: Any, direction: float) -> tuple[Any, Any]:
    """Output times with ``time`` (samples, 1), and its positions, in NumPy.

    Without ``t_eval`` the end of the span is the only other time. The times keep their shape where
    there is one sample.
    """
    asked = np.asarray([end]) if t_eval is None else t_eval
    times = np.broadcast_to(asked, (time.shape[0], asked.shape[-1]))
    position = position_of(times, time, direction)
    merged = insert(np, position, times, time)
    return (merged[0] if time.shape[0] == 1 and asked.ndim == 1 else merged), position
