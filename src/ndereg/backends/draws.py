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
    check_seed(seed)
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return np.random.Generator(np.random.Philox(key=int(seed) << 64 | int.from_bytes(digest)))


_CHOICES = ("ndereg.Local", "ndereg.Steer", "ndereg.JacobianFrobenius", "ndereg.Flow")
"""What is chosen at random; a key that can be used once only is folded with the place here."""


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
            f"expected a key for the random choice of {what}, received key=None; try key=0, and "
            "another integer for every solve of a training"
        )
    if not hasattr(backend, "uniform"):
        raise TypeError(
            f"expected a backend that serves {what}, received {backend.name!r}; try one of those "
            "that ndereg brings"
        )
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return stream(int(key), f"solve {what}").random(count)
    choice = _CHOICES.index(what)
    if choice and hasattr(backend, "fold"):
        key = backend.fold(key, choice)
    found = backend.uniform(key, count)
    return _refuse_key(backend, key) if found is None else found


def key_words(backend: Any, key: Any) -> tuple[Any, Any]:
    """Return two words of 32 bits from a key: what a Brownian path is drawn from.

    An integer gives its upper and lower half, which is the data of ``jax.random.key(seed)``; a
    Threefry key of JAX its data. From a generator of NumPy or PyTorch, and from other keys of JAX,
    two words are drawn.

    Raises
    ------
    ValueError
        If there is no key, or an integer is not in ``[0, 2**64)``.
    TypeError
        If it is no key of this backend.
    """
    if key is None:
        raise ValueError(
            "expected a key for the Brownian path, received key=None; try key=0, and another "
            "integer for every path"
        )
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        check_seed(key)
        return int(key) >> 32, int(key) & 0xFFFFFFFF
    found = backend.key_words(key)
    return _refuse_key(backend, key) if found is None else found


def check_seed(seed: object) -> None:
    """Raise ValueError if ``seed`` is not an integer in ``[0, 2**64)``."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
        raise ValueError(f"expected a seed in [0, 2**64), received {seed!r}; try a small integer")


def _refuse_key(backend: Any, key: object) -> Any:
    raise TypeError(
        f"expected an int or {backend.key_types} as key, received {key!r} of type "
        f"{type(key).__module__}.{type(key).__qualname__}; try key=0"
    )
