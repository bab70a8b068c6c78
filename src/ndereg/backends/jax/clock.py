"""Time, carried so that small steps advance it even where float64 is not available.

A time is a tuple of arrays: one float64 array, or, without JAX's x64 mode, the high and low parts
of a compensated float32 (Dekker 1971, doi:10.1007/BF01397083), which resolves about ``2^-46``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ndereg.plan.control import SPACING

Time = tuple[Any, ...]


def is_wide() -> bool:
    """Whether float64 is available (``jax_enable_x64``)."""
    return jax.dtypes.canonicalize_dtype(np.float64) == np.float64


def control_dtype() -> Any:
    """The dtype of control scalars."""
    return np.dtype(np.float64 if is_wide() else np.float32)


def spacing() -> float:
    """Relative resolution of a time."""
    return SPACING if is_wide() else 2.0**-45


def encode(values: Any) -> Time:
    """Numbers, a NumPy array or a JAX array as a time."""
    dtype = control_dtype()
    if isinstance(values, jax.Array):
        high = values.astype(dtype)
        return (high,) if is_wide() else (high, jnp.zeros_like(high))
    exact = np.asarray(values, dtype=np.float64)
    high = exact.astype(dtype)
    return (high,) if is_wide() else (high, (exact - high).astype(dtype))


def add(t: Time, h: Any) -> Time:
    """``t + h`` for a time and a scalar."""
    if len(t) == 1:
        return (t[0] + h,)
    total, lost = _two_sum(t[0], h)
    return _normalised(total, lost + t[1])


def difference(a: Time, b: Time) -> Any:
    """``a - b`` as a scalar."""
    if len(a) == 1:
        return a[0] - b[0]
    total, lost = _two_sum(a[0], -b[0])
    return total + (lost + (a[1] - b[1]))


def separation(a: Time, b: Time) -> Time:
    """``a - b`` as a time."""
    if len(a) == 1:
        return (a[0] - b[0],)
    total, lost = _two_sum(a[0], -b[0])
    return _normalised(total, lost + (a[1] - b[1]))


def rounded(t: Time, dtype: Any) -> Any:
    """A time in one floating-point number."""
    return t[0].astype(dtype) if len(t) == 1 else (t[0] + t[1]).astype(dtype)


def select(flag: Any, yes: Time, no: Time) -> Time:
    """``yes`` where the flag holds, else ``no``."""
    return tuple(jnp.where(flag, a, b) for a, b in zip(yes, no, strict=True))


def _two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    total = a + b
    virtual = total - a
    return total, (a - (total - virtual)) + (b - virtual)


def _normalised(high: Any, low: Any) -> Time:
    total = high + low
    return total, low - (total - high)
