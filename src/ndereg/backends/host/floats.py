"""The control programs of a joint solve, on Python numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def _power(base: float, exponent: float) -> float:
    try:
        return float(base**exponent)
    except (OverflowError, ZeroDivisionError):
        return math.inf


def _logarithm(a: float) -> float:
    return math.log(a) if a > 0 else -math.inf if a == 0 else math.nan


def _larger(a: float, b: float) -> float:
    return a if a >= b or a != a else b


def _smaller(a: float, b: float) -> float:
    return a if a <= b or a != a else b


def _divide(a: float, b: float) -> float:
    if b == 0:
        return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1, b)
    return a / b


FLOAT_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": _divide,
    "safe_div": lambda a, b: 0.0 if b == 0 else a / b,
    "neg": lambda a: -a,
    "abs": abs,
    "unit": lambda a: 0.0 if a == 0 else math.copysign(1.0, a),
    "square": lambda a: a * a,
    "max": _larger,
    "min": _smaller,
    "sqrt": lambda a: math.nan if a != a or a < 0 else math.sqrt(a),
    "log": _logarithm,
    "floor": lambda a: float(math.floor(a)) if math.isfinite(a) else a,
    "pow": _power,
    "where": lambda condition, yes, no: yes if condition else no,
    "isfinite": math.isfinite,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
}
"""Meaning of the operations on Python floats and bools, with IEEE results instead of exceptions."""


class FloatMachine:
    """A machine for programs of scalars only."""

    def apply(self, op: str, *operands: Any) -> Any:
        """An operation on Python numbers."""
        return FLOAT_OPERATIONS[op](*operands)

    def spread_scalar(self, scalar: Any) -> Any:
        """Scalars stay as they are."""
        return scalar
