"""The reversible Heun method: a step that can be undone exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ndereg.spec.stochastic import Calculus, ServedKind, StochasticMethod


@dataclass(frozen=True, repr=False)
class ReversibleHeun(StochasticMethod):
    """A step of a pair ``(z, zh)``, both of them ``y0`` at the start.

    With ``mu = f(t, zh)`` and ``sigma = g(t, zh)``, which the next step takes over from this one::

        zh1 = 2 z0 - zh0 + h mu0 + sigma0 W
        z1  = z0 + h (mu0 + mu1) / 2 + (sigma0 + sigma1) W / 2

    ``z`` is the solution. The same step with ``-h`` and ``-W`` from ``(z1, zh1)`` leads back to
    ``(z0, zh0)``, in closed form (Kidger, Foster, Li, Lyons 2021, arXiv:2105.13493). The error
    estimate is ``h (mu1 - mu0) / 2 + (sigma1 - sigma0) W / 2``.

    Examples
    --------
    >>> from ndereg.catalogue import lookup
    >>> lookup("reversible_heun").reversible
    True
    """

    name: str = "reversible_heun"
    orders: tuple[tuple[ServedKind, float], ...] = (
        ("diagonal", 1.0), ("scalar", 1.0), ("general", 0.5), ("additive", 1.0),
    )  # fmt: skip
    reference: str = "Kidger, Foster, Li, Lyons, arXiv:2105.13493"

    calculus: Calculus = field(default="stratonovich", init=False)
    error_order: float = field(default=1.0, init=False)
    stages: int = field(default=2, init=False)
    adaptive: bool = field(default=True, init=False)
    pairs: ClassVar[bool] = True
    fsal: ClassVar[bool] = True
    reversible: ClassVar[bool] = True
