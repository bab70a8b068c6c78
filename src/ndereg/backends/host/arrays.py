"""What the machines of eager frameworks have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ndereg.backends.base import Problem
from ndereg.backends.host.floats import FLOAT_OPERATIONS, FloatMachine
from ndereg.backends.host.noise import Driven
from ndereg.backends.interpreter import Terms, half


class ArrayMachine(Driven):
    """Instructions in terms of operators and a table of functions; subclasses add the framework.

    Subclasses set ``operations`` (the operations on arrays that are not operators) and the array
    functions named below.
    """

    operations: dict[str, Any]

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.layout = problem.layout
        self.joint = problem.layout.batch is None
        self.control: Any = FloatMachine() if self.joint else self
        self.args_bar: list[Any] = []
        self.evaluations = 0

    def is_array(self, value: Any) -> bool:
        """Whether a value is an array rather than a Python number."""
        raise NotImplementedError

    def apply(self, op: str, *operands: Any) -> Any:
        """An operation on arrays, or on Python numbers if there are only those."""
        if any(map(self.is_array, operands)):
            return self.operations[op](*operands)
        return FLOAT_OPERATIONS[op](*operands)

    def combine(self, base: Any, groups: list[tuple[Any, Terms]]) -> Any:
        """Scales that are Python numbers are multiplied into the coefficients."""
        total = base
        for scale, terms in groups:
            if scale is not None and self.is_array(scale):
                part = self.linear(None, [(c, x) for c, x in terms])
                part = self.spread_scalar(scale) * part
                total = part if total is None else total + part
            else:
                factor = 1.0 if scale is None else scale
                total = self.linear(total, [(factor * c, x) for c, x in terms])
        return total

    def linear(self, base: Any, terms: Terms) -> Any:
        """``base + sum(coefficient * array)`` for Python coefficients."""
        total = base
        for coefficient, array in terms:
            if total is None:
                total = array if coefficient == 1 else array * coefficient
            elif coefficient == 1:
                total = total + array
            else:
                total = total + array * coefficient
        return total

    def part(self, pair: Any, index: int) -> Any:
        """One half of a pair of states."""
        return half(pair, index)

    def share(self, scalar: Any) -> Any:
        """A scalar over the number of entries, as it meets a state."""
        return self.spread_scalar(scalar / float(self.layout.entries))

    def scalar(self, value: float | bool) -> Any:
        """Return a control scalar, the same for all samples."""
        raise NotImplementedError

    def constant(self, value: float) -> Any:
        """Return a control scalar that stays as it is."""
        return self.scalar(value)

    def at(self, t: Any, c: float, scale: Any) -> Any:
        """Time of a stage."""
        return t if c == 0 else t + c * scale

    def accumulate(self, cotangents: Sequence[Any]) -> None:
        """Add cotangents of args; None is zero."""
        self.args_bar = [
            total if new is None else total + new
            for total, new in zip(self.args_bar, cotangents, strict=True)
        ]
