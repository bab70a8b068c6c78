"""Random numbers from a key: an integer, or a key of the framework."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random stream of one named array.

    Philox is counter-based and specified, so a seed means the same numbers on every platform; a
    stream for each name means that adding one does not change the others.

    Raises
    ------
    ValueError
        If ``seed`` is not an integer in ``[0, 2**64)``.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
        raise ValueError(f"expected a seed in [0, 2**64), received {seed!r}; try a small integer")
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return np.random.Generator(np.random.Philox(key=int(seed) << 64 | int.from_bytes(digest)))


def uniform(backend: Any, key: Any, count: int, what: str) -> Any:
    """Return ``count`` numbers from ``U(0, 1)`` for the random choice called ``what``.

    An integer is the same on every backend: a stream of NumPy's Philox. Everything else is drawn
    from by the framework (:meth:`ndereg.backends.base.Backend.uniform`).

    Raises
    ------
    ValueError
        If there is no key.
    TypeError
        If it is no key of this backend.
    """
    if key is None:
        raise ValueError(
            f"expected a key for the random time of {what}, received key=None; try key=0, and "
            "another integer for every solve of a training"
        )
    if not hasattr(backend, "uniform"):
        raise TypeError(
            f"expected a backend that serves {what}, received {backend.name!r}; try one of those "
            "that ndereg brings"
        )
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return stream(int(key), f"solve {what}").random(count)
    found = backend.uniform(key, count)
    if found is None:
        raise TypeError(
            f"expected an int or {backend.key_types} as key, received {key!r} of type "
            f"{type(key).__module__}.{type(key).__qualname__}; try key=0"
        )
    return found
