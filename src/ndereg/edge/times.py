"""The span of a solve, and its output times."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndereg.backends.base import Backend, Layout
from ndereg.edge.scalars import finite_number, shown


def checked_times(
    backend: Backend, t_span: Any, t_eval: Any, layout: Layout
) -> tuple[Any, Any, Any]:
    """Return start, end and output times, as numbers where they are known.

    Raises
    ------
    ValueError, TypeError
        If the span has not two ends, they are no finite numbers, or the output times not in order
        within it.
    """
    try:
        start, end = t_span
    except (TypeError, ValueError):
        raise _no_span(t_span) from None
    t0 = finite_number(backend, start, "t_span[0]", "t_span=(0.0, 1.0)")
    t1 = finite_number(backend, end, "t_span[1]", "t_span=(0.0, 1.0)")
    times = None if t_eval is None else _output_times(backend, t_eval, t0, t1, layout)
    return t0, t1, times


def _no_span(t_span: Any) -> ValueError:
    """Of what has not two entries; of more it is told where output times go."""
    shape: tuple[int, ...] | None = getattr(t_span, "shape", None)
    if shape is None:
        shape = (len(t_span),) if isinstance(t_span, (list, tuple)) else ()
    if len(shape) == 1 and shape[0] > 2:
        return ValueError(
            f"expected t_span=(t0, t1), received {shape[0]} times; try t_span=(ts[0], ts[-1]) and "
            "t_eval=ts for the solution at all of them"
        )
    return ValueError(f"expected t_span=(t0, t1), received {t_span!r}; try (0.0, 1.0)")


def _output_times(backend: Backend, t_eval: Any, t0: Any, t1: Any, layout: Layout) -> Any:
    known = _known_times(backend, t_eval)
    times = t_eval if known is None else known
    allowed = "(T,)" if layout.batch is None else f"(T,) or ({layout.batch}, T)"
    if times.ndim != 1 and not (times.ndim == 2 and times.shape[0] == layout.batch):
        raise ValueError(
            f"expected t_eval of shape {allowed}, received shape {tuple(times.shape)}; try "
            + ("one row of times a sample" if layout.batch else "[time] for a single time")
        )
    if times.shape[-1] == 0:
        raise ValueError(
            "expected at least one time in t_eval, received none; try t_eval=None for y(t1) alone"
        )
    if known is None:
        return times
    if not np.all(np.isfinite(known)):
        raise ValueError(
            "expected finite times in t_eval, received nan or inf; try times within t_span"
        )
    start, end = backend.concrete(t0), backend.concrete(t1)
    if start is None or end is None:
        return known
    direction = 1.0 if end >= start else -1.0
    if np.any(np.diff(known, axis=-1) * direction < 0):
        raise ValueError(
            f"expected the times of t_eval in the order of integration, from {start} to {end}, "
            "received times out of order; try sorting them"
        )
    low, high = min(start, end), max(start, end)
    # the ends of the span, rounded to the dtype of the times, may lie outside it
    slack = _resolution(backend, t_eval) * max(abs(low), abs(high))
    if low - slack <= known.min() and known.max() <= high + slack:
        known = np.clip(known, low, high)
    if known.min() < low or known.max() > high:
        raise ValueError(
            f"expected the times of t_eval within the span [{low}, {high}], received times from "
            f"{known.min()} to {known.max()}; try a longer t_span"
        )
    return known


def _resolution(backend: Backend, times: Any) -> float:
    """Relative resolution of times in the dtype they were given in."""
    kind = str(np.asarray(backend.concrete(times) if backend.owns(times) else times).dtype)
    return float(np.finfo(kind).eps) if kind.startswith("float") else 0.0


def _known_times(backend: Backend, t_eval: Any) -> Any:
    """Output times as float64; None where they are only known when compiled."""
    refusal = TypeError(
        f"expected real numbers in t_eval, received {shown(t_eval)}; try a list or an array of "
        "times"
    )
    known: Any = None
    if backend.owns(t_eval):
        known = backend.concrete(t_eval)
        if known is None:
            return None
    elif not hasattr(t_eval, "__dlpack__") or isinstance(t_eval, np.ndarray):
        # what exchanges arrays and is neither is an array of another framework
        try:
            known = np.asarray(t_eval)
        except (TypeError, ValueError, RuntimeError):
            raise refusal from None
    if known is None or (np.size(known) and np.asarray(known).dtype.kind not in "iuf"):
        raise refusal
    return np.asarray(known).astype(np.float64)
