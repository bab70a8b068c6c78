"""Brownian paths to look at: what an SDE is solved along."""

from __future__ import annotations

import math
import numbers
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ndereg.plan.brownian import Areas, Grid, brownian_plan, grid

_FRAMEWORKS = {"torch": "torch", "jax": "jax", "jaxlib": "jax"}
"""Backends by the package of an array or a key."""


@dataclass(frozen=True, eq=False)
class BrownianTree:
    """A Brownian path with its Lévy areas, drawn from one key: a virtual Brownian tree.

    Nothing is stored: every value is computed from the key when it is asked for, in a time that
    grows with ``log(1 / tolerance)``. The same integer key is the same path on every backend, to
    rounding. Values at times at least ``tolerance`` apart have the joint law of a Brownian motion
    exactly; closer ones are of the same path, which is smooth at that scale.

    Parameters
    ----------
    key : int, or key of a framework
        In ``[0, 2**64)``; the same as ``jax.random.key(seed)``. From a ``numpy.random.Generator``
        or a ``torch.Generator`` two words are drawn when a value is first asked for.
    t0, t1 : float
        Span. The path starts from 0 at ``t0``, also where ``t1 < t0``.
    shape : tuple of int
        Of the values.
    tolerance : float
        Resolution in time.
    areas : {"W", "WH", "WHK"}
        What is known of an interval: the increment ``W``, the space-time Lévy area ``H`` and the
        space-time-time Lévy area ``K``. Paths with other areas are other paths.

    Raises
    ------
    ValueError
        If the span is empty or not finite, the tolerance is not positive or finer than what float64
        times resolve, the shape is not one, or ``areas`` is none of the above.

    Notes
    -----
    Over ``[s, t]`` with ``h = t - s``, and given independently of each other (arXiv:2405.06464)::

        W = W(t) - W(s)                                         ~ N(0, h)
        H = 1/h  ∫ (W(r) - W(s) - (r - s)/h W) dr               ~ N(0, h / 12)
        K = 1/h² ∫ (W(r) - W(s) - (r - s)/h W) ((s + t)/2 - r) dr  ~ N(0, h / 720)

    Backwards, with ``h < 0``, the same formulas give ``-W``, ``H`` and ``-K``.

    Examples
    --------
    >>> tree = BrownianTree(key=0, t0=0.0, t1=1.0, shape=(2,), tolerance=1e-3, areas="WH")
    >>> first, second, both = (tree.increment(*ends)[0] for ends in ((0, .3), (.3, 1), (0, 1)))
    >>> bool(abs(first + second - both).max() < 1e-14)
    True
    """

    key: Any
    t0: float
    t1: float
    shape: tuple[int, ...]
    tolerance: float
    areas: Areas = "W"

    def __post_init__(self) -> None:
        brownian_plan(self.areas)
        try:
            shape = tuple(int(length) for length in self.shape)
            fits = shape == tuple(self.shape) and min(shape, default=0) >= 0
        except TypeError:
            fits = False
        if not fits:
            raise ValueError(
                f"expected a tuple of lengths as shape, received {self.shape!r}; try (1,)"
            )
        object.__setattr__(self, "shape", shape)
        _ = self.grid

    @cached_property
    def grid(self) -> Grid:
        """The cells of time."""
        return grid(self.t0, self.t1, self.tolerance)

    def increment(self, s: Any, t: Any, backend: str | None = None) -> tuple[Any, ...]:
        """Return ``W``, and ``H`` and ``K`` if the areas have them, over ``[s, t]``.

        Parameters
        ----------
        s, t : float, or arrays (B,)
            Times within the span, in either order. Arrays are of as many intervals of the path.
        backend : str or None
            What computes: ``"numpy"`` (Numba), ``"torch"``, ``"jax"``, ``"reference"``. None is the
            framework of the times or of the key, else NumPy.

        Returns
        -------
        tuple of arrays (*shape) or (B, *shape)
            float64; without JAX's x64 mode float32.

        Raises
        ------
        ValueError
            If a time is outside the span. Where JAX traces the times, the result is nan instead.
            If the backend has no Brownian paths.
        """
        from ndereg.backends.base import with_paths
        from ndereg.backends.registry import load_backend

        found = with_paths(load_backend(backend or self._framework(s, t)))
        return self._increment(found, s, t)

    def __call__(self, s: Any, t: Any, backend: str | None = None) -> tuple[Any, ...]:
        """Return the same as :meth:`increment`."""
        return self.increment(s, t, backend)

    def _framework(self, *times: Any) -> str:
        for value in (*times, self.key):
            package = type(value).__module__.partition(".")[0]
            if package in _FRAMEWORKS and _FRAMEWORKS[package] in sys.modules:
                return _FRAMEWORKS[package]
        return "numpy"

    def _increment(self, backend: Any, s: Any, t: Any) -> tuple[Any, ...]:
        from ndereg.backends.brownian import Entries

        times = [self._time(backend, value, what) for value, what in ((s, "s"), (t, "t"))]
        arrays = [value for value in (s, t) if backend.owns(value)]
        words = self.words(backend)
        like = arrays[0] if arrays else None
        source = backend.brownian(self.areas, words, self.grid, "float64", like)
        entries = Entries(1, math.prod(self.shape), shared=True)
        found = source.increment(*times, entries)
        shape = self.shape
        if any(getattr(value, "ndim", 0) for value in times):
            shape = (found[0].shape[0], *self.shape)
        return tuple(part.reshape(shape) for part in found if part is not None)

    def words(self, backend: Any) -> tuple[Any, Any]:
        """Return the two words that the path is drawn from; what a generator gave at first stays.

        Keys of JAX are read again each time: inside a transformation they are not to be kept.
        """
        from ndereg.backends.draws import key_words

        drawn: dict[str, Any] = self.__dict__
        if "_drawn" in drawn:
            return drawn["_drawn"]  # type: ignore[no-any-return]
        words = key_words(backend, self.key)
        if all(isinstance(word, numbers.Integral) for word in words):
            object.__setattr__(self, "_drawn", words)
        return words

    def _time(self, backend: Any, value: Any, what: str) -> Any:
        """Return a time as a number or an array ``(B,)``, within the span if that can be told."""
        import numpy as np

        if isinstance(value, numbers.Real) and not backend.owns(value):
            value = known = float(value)
        elif isinstance(value, np.ndarray):  # times of a path are NumPy's on every backend
            known = value
        else:
            known = backend.concrete(backend.array(value, what))
        if getattr(value, "ndim", 0) > 1:
            raise ValueError(
                f"expected {what} to be a number or an array (B,), received shape "
                f"{tuple(value.shape)}; try {what}.reshape(-1)"
            )
        if known is None:
            return value
        ends = [known] if isinstance(known, float) else [float(known.min()), float(known.max())]
        first, last = min(self.t0, self.t1), max(self.t0, self.t1)
        for end in ends:
            if not first <= end <= last:
                raise ValueError(
                    f"expected {what} within the span of the Brownian path, from {self.t0} to "
                    f"{self.t1}, received {end}; try a path over a longer span"
                )
        return value
