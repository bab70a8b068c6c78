"""What the host loop asks of a framework, besides running programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ndereg.backends.base import Problem
from ndereg.backends.host.floats import FloatMachine
from ndereg.backends.interpreter import Machine


class HostMachine(Machine, Protocol):
    """A machine for one problem, with the bookkeeping of the loop.

    Control scalars are Python floats where there is one joint sample, and float64 arrays ``(B, 1)``
    where every sample has its own; ``control`` is the machine that runs programs on them.
    """

    problem: Problem
    control: Any
    args_bar: list[Any]

    def scalar(self, value: float | bool) -> Any:
        """A control scalar, the same for all samples."""

    def constant(self, value: float) -> Any:
        """Return a control scalar that stays as it is throughout the solve."""

    def draws(self, values: Any) -> Any:
        """Numbers ``(B,)``, in NumPy, as control scalars."""

    def noise(self, t: Any, h: Any, step: int) -> dict[str, Any]:
        """What a step over ``[t, t + h]``, of number ``step``, reads of the Brownian path."""

    def read(self, value: Any) -> Any:
        """A scalar that a vector program computed, as a control scalar (one host read if joint)."""

    def select(self, flag: Any, yes: Any, no: Any) -> Any:
        """``yes`` where the control flag holds, else ``no``, for scalars and states alike."""

    def stand_in(self, running: Any, y: Any) -> Any:
        """Give samples that cannot begin the state of one that can.

        They take steps of size zero with the others. Where that state is not finite, neither is
        the field's Jacobian, and a zero cotangent pulled back through it would still spoil the
        cotangents of what all samples share.
        """

    def summary(self, flags: Sequence[Any], counts: Sequence[Any]) -> tuple[list[bool], list[int]]:
        """Whether any sample has each flag, and the largest of each count, in one host read."""

    def zeros(self) -> Any:
        """A zero state ``(B, n)``."""

    def blank(self, times: int) -> Any:
        """Room for ``times`` states ``(B, T, n)``, filled with nan."""

    def column(self, values: Sequence[Any]) -> Any:
        """Control scalars, one a row, as an array ``(rows, B)``."""

    def counter(self, value: Any) -> Any:
        """A control scalar as integers ``(B,)``."""

    def vector(self, value: Any) -> Any:
        """A scalar as ``(B,)`` in the real dtype of the state."""

    def scalars_of(self, values: Any) -> Any:
        """An array ``(B,)`` as a scalar that programs read."""


def is_joint(machine: HostMachine) -> bool:
    """Whether control scalars are Python floats."""
    return isinstance(machine.control, FloatMachine)
