"""Outcome of a solve."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Why a solve ended.

    A :class:`Status` is an ``int`` (``SUCCESS == 0``), so arrays of statuses, one a sample, are
    ordinary integer arrays. ``RUNNING`` is internal: no finished solve carries it.

    Examples
    --------
    >>> Status(1)
    <Status.MAX_STEPS: 1>
    >>> "max_steps" in Status.MAX_STEPS.message
    True
    """

    RUNNING = -1
    SUCCESS = 0
    MAX_STEPS = 1
    STEP_UNDERFLOW = 2
    NON_FINITE = 3

    @property
    def message(self) -> str:
        """What happened and what to try, as one sentence for a person."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.RUNNING: "the solve has not finished",
    Status.SUCCESS: "the solve reached the end of the time span",
    Status.MAX_STEPS: (
        "the solve used up max_steps before the end of the time span. Try a larger max_steps, "
        "looser tolerances or a shorter span; an explicit method that needs this many steps "
        "often means that the problem is stiff (record=True shows the stiffness estimate)"
    ),
    Status.STEP_UNDERFLOW: (
        "the step size fell below the smallest one that the time, dt_min or the Brownian path of a "
        "stochastic equation can resolve: the "
        "solution is blowing up, is discontinuous there, or the problem is too stiff for the "
        "tolerances. Try looser tolerances, or look at the solution near the failure with "
        "record=True"
    ),
    Status.NON_FINITE: (
        "the vector field or the state is not finite (nan or inf), and no smaller step avoids "
        "it. Try looking at y0, args and the field near the time of failure"
    ),
}


class SolveError(RuntimeError):
    """A solve failed and ``throw=True``.

    Attributes
    ----------
    status : Status
        The failure (of the first failing sample).
    t : float or None
        How far that sample came, where it is known.
    """

    def __init__(self, status: Status, detail: str = "", t: float | None = None) -> None:
        place = "" if t is None else f" at t={t:.6g}"
        super().__init__(
            f"{status.name}{place}: {status.message}{detail}. Pass throw=False to get the "
            "partial solution with its status instead."
        )
        self.status, self.t = status, t
