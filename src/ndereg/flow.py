"""A continuous normalizing flow: a field that carries a log-density along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Divergence = Literal["exact", "hutchinson"]
DIVERGENCES: tuple[Divergence, ...] = ("exact", "hutchinson")


@dataclass(frozen=True)
class Flow:
    """``d/dt (y, log p) = (f, -div f)``: a field in place of which the log-density is solved, too.

    The state of the solve is ``(y, log_density)``; ``field`` sees ``y`` alone. ``log_density`` has
    the shape of the samples, the leading axes of every array of ``y``: ``(B,)`` for ``B`` points
    in an array ``(B, d)``, ``()`` for a single one. It starts at the log-density at ``y0``, or at
    0, and then ends at the change. Samples are independent of each other: the field of one does
    not depend on another, which is not checked with ``batch="joint"``.

    R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural ordinary differential
    equations", NeurIPS 2018, theorem 1; the estimate is that of W. Grathwohl et al., "FFJORD",
    ICLR 2019 (arXiv:1810.01367).

    Parameters
    ----------
    field : callable
        ``f(t, y, args)``, real.
    divergence : {"exact", "hutchinson"}
        ``"exact"`` is the trace of the Jacobian, one vector-Jacobian product for every entry of a
        sample. ``"hutchinson"`` is ``e^T J e`` with random signs ``e``, drawn from the ``key`` of
        the solve and the same at every point of it: unbiased, at the price of one product.

    Raises
    ------
    TypeError, ValueError
        If the field is not callable, or ``divergence`` is unknown.

    Notes
    -----
    Integrals of a regularizer (:class:`ndereg.Kinetic` and the like) are those of ``field`` along
    ``y``; :class:`ndereg.JacobianFrobenius` has the signs of the divergence, as published (RNODE).

    Examples
    --------
    >>> import numpy as np
    >>> import ndereg.numpy as nde
    >>> shrink = nde.Flow(lambda t, y, args: -args * y)
    >>> points, start = np.ones((5, 2)), np.zeros(5)
    >>> sol = nde.solve(shrink, (0.0, 1.0), (points, start), np.array([1.0, 2.0]))
    >>> y, change = sol.ys
    >>> bool(abs(change - 3.0).max() < 1e-5)  # log det of exp(diag(1, 2))
    True
    """

    field: Callable[..., Any]
    divergence: Divergence = "exact"

    def __post_init__(self) -> None:
        if not callable(self.field):
            raise TypeError(
                f"expected a callable for Flow.field, received {self.field!r}; try a function "
                "f(t, y, args)"
            )
        if self.divergence not in DIVERGENCES:
            raise ValueError(
                f"expected Flow.divergence to be one of {', '.join(DIVERGENCES)}, received "
                f"{self.divergence!r}; try 'exact'"
            )
