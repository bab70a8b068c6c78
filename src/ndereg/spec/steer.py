"""A random end of the time span, in training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ndereg.spec.regularizer import Summand


@dataclass(frozen=True)
class Steer(Summand):
    """Solve to a random end ``t1' ~ U(t1 - b, t1 + b)``, as if it were ``t1`` (STEER).

    It adds nothing to the penalty: what regularizes is that the loss is asked of ``y(t1')``. A
    solve draws its end where the regularizer is given, and so belongs into training; predictions
    are solves without it. One end is drawn from the ``key`` for the whole batch, also with
    ``batch="independent"``.

    With ``t_eval`` every output time is drawn around what was asked for, by at most ``b`` and at
    most half the distance to the times before and after it (the ends of the span among them), which
    keeps their order; an output at ``t0`` stays there, and one at ``t1`` takes the end of the span
    along. With equal distances and a ``b`` of at least half of one, that is the published
    ``t'_{i+1} ~ U(t_{i+1} - d/2, t_{i+1} + d/2)``. ``sol.ts`` has the times that were drawn.

    Ghosh, Behl, Dupont, Torr, Namboodiri, "STEER: Simple temporal regularization for neural ODEs",
    NeurIPS 2020 (arXiv:2006.10711); for series, Pal et al., ICML 2021 (arXiv:2105.03918).

    Parameters
    ----------
    b : float
        Positive, in the unit of time, and less than the length of the span.

    Raises
    ------
    TypeError, ValueError
        If ``b`` is no positive number.

    Examples
    --------
    >>> import numpy as np
    >>> import ndereg.numpy as nde
    >>> field = lambda t, y, args: -y
    >>> sol = nde.solve(field, (0.0, 1.0), np.ones(1), regularizer=nde.Steer(0.5), key=0)
    >>> bool(0.5 < sol.ts < 1.5), bool(abs(sol.ys[0] - np.exp(-sol.ts)) < 1e-6)
    (True, True)
    """

    b: float

    def __post_init__(self) -> None:
        if isinstance(self.b, bool) or not isinstance(self.b, (int, float)):
            raise TypeError(f"expected a float for b, received {self.b!r}; try 0.5")
        if not (math.isfinite(self.b) and self.b > 0):
            raise ValueError(
                f"expected b > 0, received {self.b!r}; try 0.5, or a solve without ndereg.Steer"
            )
