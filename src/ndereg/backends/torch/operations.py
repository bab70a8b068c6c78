"""How operations on Python numbers and on tensors are written in emitted source."""

from __future__ import annotations

import math
from typing import Any

import torch

from ndereg.backends.host.floats import FLOAT_OPERATIONS

HOST = {
    "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "neg": "-{}", "abs": "abs({})",
    "square": "{0} * {0}", "where": "{1} if {0} else {2}", "lt": "{} < {}", "le": "{} <= {}",
    "eq": "{} == {}", "and": "{} and {}", "or": "{} or {}", "not": "not {}",
}  # fmt: skip
"""Operations on Python numbers; the others call :data:`FLOAT_OPERATIONS`."""

TENSOR = {
    "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "{} / {}",
    "safe_div": "safe_divide({}, {})", "neg": "-{}", "abs": "{}.abs()", "unit": "{}.sgn()",
    "square": "{}.square()", "max": "maximum({}, {})", "min": "minimum({}, {})",
    "sqrt": "{}.sqrt()", "log": "{}.log()", "floor": "{}.floor()",
    "pow": "power({}, {})", "isfinite": "{}.isfinite()", "lt": "{} < {}",
    "le": "{} <= {}", "eq": "{} == {}", "and": "{} & {}", "or": "{} | {}", "not": "~{}",
}  # fmt: skip

IN_PLACE = {
    "add": ("{}.add_({})", True), "mul": ("{}.mul_({})", True), "sub": ("{}.sub_({})", False),
    "div": ("{}.div_({})", False), "neg": ("{}.neg_()", False), "abs": ("{}.abs_()", False),
    "unit": ("{}.sgn_()", False), "square": ("{}.square_()", False),
    "max": ("maximum({0}, {1}, out={0})", True), "min": ("minimum({0}, {1}, out={0})", True),
    "sqrt": ("{}.sqrt_()", False), "log": ("{}.log_()", False),
    "floor": ("{}.floor_()", False),
}  # fmt: skip
"""Operations that can overwrite their first operand, and whether the operands commute."""

COMPARED = {"lt": "torch.lt", "le": "torch.le", "eq": "torch.eq"}
"""Comparisons of states, written as zeros and ones of their dtype.

With truth values, they and what is selected by them were measured ten times slower.
"""


def safe_divide(a: Any, b: Any) -> Any:
    """Return ``a / b``, and 0 where ``b`` is 0."""
    return (a / b).masked_fill_(b == 0, 0.0)


NAMESPACE: dict[str, Any] = {
    "torch": torch, "add": torch.add, "addcmul": torch.addcmul, "maximum": torch.maximum,
    "minimum": torch.minimum, "power": torch.pow, "where": torch.where, "inf": math.inf,
    "nan": math.nan, "safe_divide": safe_divide,
    **{f"float_{op}": function for op, function in FLOAT_OPERATIONS.items()},
}  # fmt: skip
