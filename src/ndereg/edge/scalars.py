"""Real numbers of a call: tolerances, sizes, counts."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from ndereg.backends.base import Backend

SMALLEST_ATOL = 1e-37
"""Added floor of ``atol``: the error scale of a component that is exactly zero stays positive,
also in float32, when a user asks for a purely relative tolerance."""


def finite_number(backend: Backend, value: Any, what: str, example: str) -> Any:
    """Return a finite float, or a traced scalar as it is."""
    if type(value) is float and value - value == 0.0:  # as nearly always; it costs nothing
        return value
    number = real_number(backend, value)
    if number is None:
        raise TypeError(
            f"expected a real number for {what}, received {shown(value)}; try {example}"
        )
    if isinstance(number, float) and not math.isfinite(number):
        raise ValueError(f"expected a finite number for {what}, received {number}; try {example}")
    return number


def real_number(backend: Backend, value: Any) -> Any:
    """Return a float, a traced scalar as it is, or None for what is no real number here."""
    if isinstance(value, bool):
        return None
    if isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if not backend.owns(value) and not isinstance(value, (np.ndarray, np.generic)):
        return None
    known = backend.concrete(value)
    if known is None:
        return value if math.prod(value.shape) == 1 and value.dtype.kind in "iuf" else None
    array = np.asarray(known)
    return float(array.reshape(())) if array.size == 1 and array.dtype.kind in "iuf" else None


def shown(value: Any) -> str:
    """Show what was received, with the type of what does not show it itself."""
    plain = value is None or isinstance(value, (str, bool, numbers.Number, list, tuple, np.ndarray))
    kind = type(value)
    return repr(value) if plain else f"{value!r} of type {kind.__module__}.{kind.__qualname__}"


def tolerances(backend: Backend, rtol: Any, atol: Any, measured: bool) -> tuple[Any, Any]:
    """Return ``rtol`` and ``atol``; ``measured`` is whether anything reads the scaled error."""
    rtol = _tolerance(backend, rtol, "rtol", "rtol=1e-6")
    atol = _tolerance(backend, atol, "atol", "atol=1e-9")
    if measured and type(rtol) is float and rtol == 0.0 and type(atol) is float and atol == 0.0:
        raise ValueError(
            "expected a positive rtol or atol to measure errors by, received rtol=0 and atol=0; "
            "try rtol=1e-6, or controller=ndereg.ConstantStep(dt) for steps without error control"
        )
    return rtol, atol + SMALLEST_ATOL


def _tolerance(backend: Backend, value: Any, name: str, usual: str) -> Any:
    number = finite_number(backend, value, name, usual)
    if isinstance(number, float) and number < 0:
        raise ValueError(f"expected {name} >= 0, received {number}; try {usual}")
    return number


def size_of_first_step(backend: Backend, first_step: Any) -> Any:
    """Return the size of a given first step; it has no sign."""
    if first_step is None:
        return None
    size = finite_number(backend, first_step, "first_step", "first_step=None to have it chosen")
    if isinstance(size, float) and size <= 0:
        raise ValueError(
            f"expected a positive first_step, received {size}; the direction of time comes from "
            "t_span, try its absolute value, or None to have it chosen"
        )
    return size


def most_steps(max_steps: Any) -> int:
    """Return ``max_steps``, a positive int."""
    if type(max_steps) is int and max_steps >= 1:
        return max_steps
    if isinstance(max_steps, bool) or not isinstance(max_steps, numbers.Integral):
        raise TypeError(f"expected an int for max_steps, received {max_steps!r}; try 100_000")
    if max_steps < 1:
        raise ValueError(f"expected max_steps >= 1, received {max_steps}; try 100_000")
    return int(max_steps)
