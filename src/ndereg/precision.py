"""The precision that JAX computes in; the other frameworks have that of their arrays."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any


def x64(wanted: bool) -> AbstractContextManager[Any]:
    """Return a context in which JAX has float64, or not, in any version that is supported."""
    import jax

    enable: Any = getattr(jax, "enable_x64", None)
    if enable is None:  # before JAX 0.8
        from jax.experimental import enable_x64 as enable
    context: AbstractContextManager[Any] = enable(wanted)
    return context
