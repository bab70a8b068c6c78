"""Python text of single operations, in the subset that Numba compiles to plain instructions.

Arithmetic stays in the dtype of the graph: Numba would promote a float32 with a Python number to
float64, so constants are always written with their dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["COMPLEX", "FLOATS", "accumulation", "expression", "initial", "literal"]

FLOATS = frozenset({"float32", "float64"})
COMPLEX = frozenset({"complex64", "complex128"})

_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "pow": "**",
    "remainder": "%",
    "lt": "<",
    "le": "<=",
    "eq": "==",
    "ne": "!=",
    "and": "&",
    "or": "|",
}
#: Of reals; ours where they exist, else the C library's.
_REAL = {
    **{name: name for name in ("exp", "expm1", "log", "log1p", "sin", "cos", "tan")},
    **{name: name for name in ("sinh", "cosh", "tanh", "erf", "sigmoid", "sign")},
    "sqrt": "math.sqrt",
    "arcsin": "math.asin",
    "arccos": "math.acos",
    "arctan": "math.atan",
    "arcsinh": "math.asinh",
    "arccosh": "math.acosh",
    "arctanh": "math.atanh",
    "atan2": "math.atan2",
    "abs": "abs",
    "floor": "floor",
    "ceil": "ceil",
    "round": "nearest",
    "minimum": "smaller",
    "maximum": "larger",
    "isfinite": "is_finite",
    "isnan": "is_nan",
}
_OPERATOR_OF_BOOLEANS = {"add": "|", "mul": "&", "minimum": "&", "maximum": "|"}


def literal(value: Any, dtype: str) -> str:
    """Return a constant in the text, of exactly this dtype."""
    if dtype == "bool":
        return str(bool(value))
    if dtype == "int64":
        return str(int(value))
    if dtype in COMPLEX:
        number = complex(value)
        text = f"complex({_real(number.real)}, {_real(number.imag)})"
        return text if dtype == "complex128" else f"np.complex64({text})"
    number = float(value)
    text = _real(number)
    return text if dtype == "float64" else f"np.float32({text})"


def _real(number: float) -> str:
    if np.isfinite(number):
        return repr(float(number))
    return "np.nan" if np.isnan(number) else ("np.inf" if number > 0 else "-np.inf")


def expression(op: str, operands: list[str], source: str, dtype: str) -> str:
    """Return the operation on named operands of dtype ``source`` (the last's, for ``where``)."""
    first = operands[0]
    if op == "cast":
        return _cast(first, source, dtype)
    if op == "where":
        return f"select({', '.join(operands)})"
    if source == "bool" and op in _OPERATOR_OF_BOOLEANS:
        return f"{first} {_OPERATOR_OF_BOOLEANS[op]} {operands[1]}"
    if op in _INFIX:
        return f"{first} {_INFIX[op]} {operands[1]}"
    if op == "neg":
        return f"-{first}"
    if op == "not":
        return f"not {first}"
    if source in COMPLEX:
        return _of_complex(op, first, dtype)
    if source not in FLOATS and op in {"isfinite", "isnan"}:
        return str(op == "isfinite")
    if op in {"real", "conj"}:
        return first
    return f"{_REAL[op]}({', '.join(operands)})"


def _of_complex(op: str, operand: str, dtype: str) -> str:
    if op in {"real", "imag"}:
        return f"{operand}.{op}"
    if op == "conj":
        return f"{operand}.conjugate()"
    if op == "abs":
        return f"abs({operand})"
    if op in {"isfinite", "isnan"}:
        function, joint = ("is_finite", "&") if op == "isfinite" else ("is_nan", "|")
        return f"{function}({operand}.real) {joint} {function}({operand}.imag)"
    if op == "tanh" and dtype == "complex64":  # Numba's overflows for large real parts
        return f"np.complex64(np.tanh(np.complex128({operand})))"
    return f"np.{op}({operand})"


def _cast(operand: str, source: str, dtype: str) -> str:
    if source == dtype:
        return operand
    if dtype == "bool":
        return f"{operand} != {literal(0, source)}"
    if dtype == "float64" and source != "bool":
        return f"float({operand})"
    return f"np.{dtype}({operand})"


def initial(op: str, dtype: str) -> str:
    """Return what a reduction starts from."""
    if op == "max" and dtype == "int64":
        return str(np.iinfo(np.int64).min)
    start = {"sum": 0, "prod": 1, "max": float("-inf") if dtype in FLOATS else 0}[op]
    return literal(start, dtype)


def accumulation(op: str, total: str, value: str, dtype: str) -> str:
    """Return the text of a reduction's next partial result."""
    if op == "max":
        return f"{total} | {value}" if dtype == "bool" else f"larger({total}, {value})"
    if dtype in FLOATS:
        return f"{'plus' if op == 'sum' else 'times'}({total}, {value})"
    return f"{total} {'+' if op == 'sum' else '*'} {value}"
