"""Underdamped Langevin dynamics."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class UnderdampedLangevin:
    """``dx = v dt, dv = -gamma v dt - u grad f(x) dt + sqrt(2 gamma u) dW``, in place of a field.

    The state of the solve is the pair ``(x, v)``. Methods of its own integrate friction and noise
    exactly and evaluate the gradient alone: ``"align"``, ``"ubu"``, ``"quicsort"``, ``"should"``
    and ``"quicsort_embedded"``.
    With a potential ``f`` that grows fast enough the law of ``x`` tends to the density
    proportional to ``exp(-f)``, and that of ``v`` to independent normal numbers of variance ``u``.

    Parameters
    ----------
    grad_potential : callable
        ``grad f``, called as ``grad_potential(t, x, args)``, as fields are, and shaped like ``x``.
    gamma : float
        Friction, at least 0.
    u : float
        Inverse mass, positive.
    shared : bool
        With ``batch="independent"``: whether all samples are driven by the same noise.

    Raises
    ------
    TypeError, ValueError
        If ``grad_potential`` is not callable, or ``gamma`` or ``u`` is out of range.

    Notes
    -----
    Real states only. ``gamma`` and ``u`` are run-time values: changing them recompiles nothing, and
    nothing is differentiated by them.

    Examples
    --------
    >>> import numpy as np
    >>> import ndereg.numpy as nde
    >>> normal = nde.UnderdampedLangevin(lambda t, x, args: x, gamma=1.0, u=1.0)
    >>> start = np.zeros((1000, 1)), np.zeros((1000, 1))
    >>> sol = nde.solve(normal, (0.0, 10.0), start, method="quicsort", key=0,
    ...                 controller=nde.ConstantStep(0.5), batch="independent")
    >>> bool(abs(sol.ys[0].std() - 1.0) < 0.1)
    True
    """

    grad_potential: Callable[..., Any]
    gamma: float = 1.0
    u: float = 1.0
    shared: bool = False

    def __post_init__(self) -> None:
        if not callable(self.grad_potential):
            raise TypeError(
                "expected a callable for UnderdampedLangevin.grad_potential, received "
                f"{self.grad_potential!r}; try a function f(t, x, args)"
            )
        for name, positive in (("gamma", False), ("u", True)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise TypeError(
                    f"expected a number for UnderdampedLangevin.{name}, received {value!r}; try 1.0"
                )
            value = float(value)
            if not math.isfinite(value) or value < 0 or (positive and value == 0):
                bound = "positive" if positive else "of at least 0"
                raise ValueError(
                    f"expected a finite UnderdampedLangevin.{name}, {bound}, received {value}; try "
                    "1.0"
                )
            object.__setattr__(self, name, value)
        if not isinstance(self.shared, bool):
            raise TypeError(
                f"expected a bool for UnderdampedLangevin.shared, received {self.shared!r}; try "
                "False"
            )

    @property
    def medium(self) -> dict[str, float]:
        """What the steps read of it: friction, inverse mass, and the size of the noise."""
        rho = math.sqrt(2.0 * self.gamma * self.u)
        return {"gamma": self.gamma, "u": self.u, "rho": rho}
