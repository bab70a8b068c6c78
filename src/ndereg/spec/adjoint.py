"""How a solve is differentiated."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar


@dataclass(frozen=True)
class Discrete:
    """The exact adjoint of the steps taken (discretise, then differentiate).

    The forward pass keeps ``(t, h)`` of every accepted step and the states of at most
    ``checkpoints`` of them; the reverse pass recomputes what lies between two checkpoints, in
    segments of at most ``checkpoints`` states, and the stages of every step. Up to
    ``checkpoints`` accepted steps nothing but the stages is recomputed. Memory is proportional to
    ``checkpoints`` states, whatever the number of steps; a backend may keep the linearizations of
    the stages of some steps too, within bounds of its own that do not grow with their number.

    Raises
    ------
    ValueError
        If ``checkpoints < 2``.

    Examples
    --------
    >>> Discrete(checkpoints=16)
    Discrete(checkpoints=16)
    """

    checkpoints: int = 64

    name: ClassVar[str] = "discrete"

    def __post_init__(self) -> None:
        if isinstance(self.checkpoints, bool) or not isinstance(self.checkpoints, int):
            raise TypeError(
                f"expected an int for checkpoints, received {self.checkpoints!r}; try 64"
            )
        if self.checkpoints < 2:
            raise ValueError(f"expected checkpoints >= 2, received {self.checkpoints}; try 64")


@dataclass(frozen=True)
class Reversible:
    """The exact adjoint of the steps taken, their states recovered by undoing them.

    The gradient of :class:`Discrete`, to the rounding of the recovered states, in O(1) states of
    memory: the forward pass keeps ``(t, h)`` of every accepted step and where the solve ended; the
    reverse pass runs every step backwards, in closed form, along the path that is drawn again from
    the key (Kidger et al. 2021, arXiv:2105.13493). Only methods whose steps can be undone have it.
    """

    name: ClassVar[str] = "reversible"


@dataclass(frozen=True)
class Backsolve:
    """The continuous adjoint, integrated backwards beside the state (Chen et al. 2018).

    O(1) memory; the gradient differs from that of the discrete solution by the solver's error.
    Penalties that are read off the steps of the solve need :class:`Discrete` or
    :class:`Reversible`.
    """

    name: ClassVar[str] = "backsolve"


@dataclass(frozen=True)
class NoAdjoint:
    """The solve is a constant of any gradient; asking for one is an error."""

    name: ClassVar[str] = "none"


Adjoint = Discrete | Reversible | Backsolve | NoAdjoint

ADJOINTS: dict[str, Adjoint] = {
    "discrete": Discrete(),
    "reversible": Reversible(),
    "backsolve": Backsolve(),
    "none": NoAdjoint(),
}


def resolve_adjoint(adjoint: str | Adjoint) -> Adjoint:
    """Return the adjoint named or given.

    Raises
    ------
    ValueError
        If a name is unknown.
    TypeError
        If it is neither a name nor an adjoint.
    """
    if isinstance(adjoint, str):
        if adjoint not in ADJOINTS:
            close = get_close_matches(adjoint, ADJOINTS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"expected the name of an adjoint, received {adjoint!r}; {hint}try one of "
                f"{', '.join(ADJOINTS)}"
            )
        return ADJOINTS[adjoint]
    if isinstance(adjoint, (Discrete, Reversible, Backsolve, NoAdjoint)):
        return adjoint
    raise TypeError(
        f"expected adjoint to be one of {', '.join(ADJOINTS)} or ndereg.Discrete(...), "
        f"received {adjoint!r}; try 'discrete'"
    )
