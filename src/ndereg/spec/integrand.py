"""Regularizers that integrate something along the solution.

An integrand's formula is written once, in :meth:`Integrand.rate`, over a point of the solution. The
state is extended by its integral, which the solver integrates with the state, and the penalty is
what that has come to at the end of the span. To add one, write a class here with a ``rate``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ndereg.spec.regularizer import Summand


class SolutionPoint(Protocol):
    """What a point ``(t, y)`` offers to an integrand, of the solution that passes through it.

    A direction is what has the structure of the state.
    """

    def derivative(self, order: int) -> Any:
        """Return the direction ``d^order y / dt^order``: of order 1, what the field returns."""

    def pulled_back_probe(self) -> Any:
        """Return ``J^T e``: ``J = df/dy``, ``e`` random signs that do not change during a solve."""

    def mean_square(self, direction: Any) -> Any:
        """Return the mean of ``|entry| ** 2`` over the state, or over that of each sample."""


class Integrand(Summand):
    """Something non-negative that is integrated over the time span.

    Its integral is one more component of the state (of each sample, with
    ``batch="independent"``): the solver controls its error and chooses its steps with it. Every
    adjoint differentiates it. A solve without the regularizer does not pay for it.
    """

    probed: bool = False
    """Whether the rate reads the random signs, which are drawn from the ``key`` of the solve."""

    @property
    def smooth(self) -> bool:
        """Whether the rate reads derivatives after the first: a rough solution has none."""
        return False

    def rate(self, point: SolutionPoint) -> Any:
        """Return the integrand at a point of the solution."""
        raise NotImplementedError


@dataclass(frozen=True)
class Kinetic(Integrand):
    """``integral of mean(|dy/dt| ** 2) dt``, the kinetic energy of the solution (RNODE).

    Finlay, Jacobsen, Nurbekyan, Oberman, "How to train your neural ODE", ICML 2020
    (arXiv:2002.02798). The paper's text has the sum over the state and not the mean, its code has
    half of the mean: their weight ``w`` is ``w * entries`` and ``w / 2`` here.

    Examples
    --------
    >>> import numpy as np
    >>> import ndereg.numpy as nde
    >>> field = lambda t, y, args: -y
    >>> sol = nde.solve(field, (0.0, 1.0), np.ones(3), regularizer=nde.Kinetic())
    >>> bool(abs(sol.penalty - (1 - np.exp(-2)) / 2) < 1e-6)
    True
    """

    def rate(self, point: SolutionPoint) -> Any:
        """``mean(|dy/dt| ** 2)``."""
        return point.mean_square(point.derivative(1))


@dataclass(frozen=True)
class Taylor(Integrand):
    """``integral of mean(|d^K y / dt^K| ** 2) dt``, ``K = order`` (TayNODE).

    The derivative is the total one along the solution: of order 2 it is ``df/dt + (df/dy) f``.
    Kelly, Bettencourt, Johnson, Duvenaud, "Learning differential equations that are easy to solve",
    NeurIPS 2020 (arXiv:2007.04504). The paper's text has the sum over the state; the mean is what
    its code has.

    Parameters
    ----------
    order : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If ``order`` is no positive int.

    Examples
    --------
    >>> import numpy as np
    >>> import ndereg.numpy as nde
    >>> field = lambda t, y, args: 2.0 * y  # the second derivative is 4 y
    >>> sol = nde.solve(field, (0.0, 1.0), np.ones(3), regularizer=nde.Taylor(order=2))
    >>> bool(abs(sol.penalty - 4 * (np.exp(4) - 1)) < 1e-3)
    True
    """

    order: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or not isinstance(self.order, int):
            raise TypeError(f"expected an int for order, received {self.order!r}; try 2")
        if self.order < 1:
            raise ValueError(
                f"expected order >= 1, received {self.order}; try 1, the speed of the solution"
            )

    @property
    def smooth(self) -> bool:
        """All but the first."""
        return self.order > 1

    def rate(self, point: SolutionPoint) -> Any:
        """``mean(|d^K y / dt^K| ** 2)``."""
        return point.mean_square(point.derivative(self.order))


@dataclass(frozen=True)
class JacobianFrobenius(Integrand):
    """``integral of mean(|J^T e| ** 2) dt``, ``J = df/dy`` (RNODE).

    Its expectation is ``integral of |J|_F ** 2 / entries dt``, the squared Frobenius norm over the
    number of entries of the state (of a sample, with ``batch="independent"``), estimated by one
    vector ``e`` of random signs, drawn from the ``key`` of the solve and the same at every point of
    it (Hutchinson 1990). Entries of a complex state have signs ``(±1 ± i) / sqrt(2)``.

    Finlay et al., ICML 2020 (arXiv:2002.02798). The paper's text has the sum, its code the mean,
    which is what is meant here.

    Examples
    --------
    >>> import numpy as np
    >>> import ndereg.numpy as nde
    >>> field = lambda t, y, args: -args * y  # J = -diag(args), so any signs give the same
    >>> args = np.array([1.0, 2.0])
    >>> sol = nde.solve(
    ...     field, (0.0, 3.0), np.ones(2), args, regularizer=nde.JacobianFrobenius(), key=0
    ... )
    >>> bool(abs(sol.penalty - 3.0 * (1 + 4) / 2) < 1e-6)
    True
    """

    probed = True

    def rate(self, point: SolutionPoint) -> Any:
        """``mean(|J^T e| ** 2)``."""
        return point.mean_square(point.pulled_back_probe())
