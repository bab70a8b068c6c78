"""How it is solved: a specification lowered to straight-line programs, still without arrays."""

from ndereg.plan.lower import Plan, lower
from ndereg.plan.program import (
    Apply,
    Combine,
    Contract,
    Evaluate,
    Join,
    Mean,
    Outer,
    Part,
    Program,
    Pullback,
    Spread,
)
from ndereg.plan.transpose import transpose

__all__ = [
    "Apply",
    "Combine",
    "Contract",
    "Evaluate",
    "Join",
    "Mean",
    "Outer",
    "Part",
    "Plan",
    "Program",
    "Pullback",
    "Spread",
    "lower",
    "transpose",
]
