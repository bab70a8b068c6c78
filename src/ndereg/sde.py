"""A stochastic differential equation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ndereg.spec.stochastic import CALCULI, NOISE_KINDS, Calculus, NoiseKind


@dataclass(frozen=True)
class SDE:
    """``dy = drift(t, y, args) dt + diffusion(t, y, args) dW``, in place of a field.

    Parameters
    ----------
    drift : callable
        ``f(t, y, args)``, as the field of an ordinary equation.
    diffusion : callable or None
        ``g(t, y, args)`` of ``noise``; None is no noise at all: the equation is then the ordinary
        one, solved by its methods.
    noise : {"diagonal", "additive", "scalar", "general"}
        ``"diagonal"``: every entry of the state has a Brownian motion of its own; ``g`` is shaped
        like the state. ``"scalar"``: one Brownian motion moves all entries; ``g`` is shaped like
        the state. ``"general"``: ``m`` Brownian motions; every array of ``g`` has one axis more
        than that of the state, of length ``m``. ``"additive"``: ``g`` depends on the time alone,
        and has one of these two shapes, a state's being that of diagonal noise.
    calculus : {"ito", "stratonovich"}
        How the noise is integrated. With additive noise the two are the same.
    shared : bool
        With ``batch="independent"``: whether all samples are driven by the same noise, rather than
        each by its own.

    Raises
    ------
    TypeError, ValueError
        If a field is not callable, or `noise` or `calculus` is unknown.

    Notes
    -----
    With ``t1 < t0`` the noise is integrated in the direction of integration, from ``t0`` to ``t1``.

    Examples
    --------
    >>> import numpy as np
    >>> import ndereg.numpy as nde
    >>> walk = nde.SDE(lambda t, y, args: -y, lambda t, y, args: 0.1 + 0.0 * y, noise="additive")
    >>> walk.calculus
    'ito'
    """

    drift: Callable[..., Any]
    diffusion: Callable[..., Any] | None
    noise: NoiseKind = "diagonal"
    calculus: Calculus = "ito"
    shared: bool = False

    def __post_init__(self) -> None:
        for name in ("drift", "diffusion"):
            value = getattr(self, name)
            if not callable(value) and not (name == "diffusion" and value is None):
                raise TypeError(
                    f"expected a callable for SDE.{name}, received {value!r}; try a function "
                    "f(t, y, args)"
                )
        for name, known in (("noise", NOISE_KINDS), ("calculus", CALCULI)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(
                    f"expected SDE.{name} to be one of {', '.join(known)}, received {value!r}; try "
                    f"{known[0]!r}"
                )
        if not isinstance(self.shared, bool):
            raise TypeError(f"expected a bool for SDE.shared, received {self.shared!r}; try False")
