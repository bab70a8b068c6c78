"""The elementwise primitives: their arity, the dtypes they take and the dtype they give."""

from __future__ import annotations

__all__ = [
    "BINARY",
    "COMMUTATIVE",
    "COMPARISONS",
    "ELEMENTWISE",
    "REDUCTIONS",
    "TRANSCENDENTAL",
    "UNARY",
    "ZERO_GRADIENT",
    "real_dtype",
    "result_dtype",
]

#: Unary operations on real operands only.
_REAL_UNARY = frozenset({"erf", "sigmoid", "floor", "ceil", "round"})

TRANSCENDENTAL = frozenset(
    {
        *("exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh"),
        *("arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh", "erf", "sigmoid"),
    }
)
UNARY = TRANSCENDENTAL | {
    *("neg", "abs", "sign", "floor", "ceil", "round", "conj", "real", "imag", "not"),
    *("isfinite", "isnan", "cast"),
}
COMPARISONS = frozenset({"lt", "le", "eq", "ne"})
BINARY = COMPARISONS | {
    *("add", "sub", "mul", "div", "pow", "minimum", "maximum", "atan2", "remainder", "and", "or"),
}
COMMUTATIVE = frozenset({"add", "mul", "minimum", "maximum", "eq", "ne", "and", "or"})
ELEMENTWISE = UNARY | BINARY | {"where"}
REDUCTIONS = frozenset({"sum", "max", "prod"})

#: Operations whose result does not vary with their operands, almost everywhere.
ZERO_GRADIENT = COMPARISONS | {
    *("floor", "ceil", "round", "not", "and", "or", "isfinite", "isnan"),
}

_REAL_OF = {"complex64": "float32", "complex128": "float64"}
_BOOLEAN_RESULT = COMPARISONS | {"and", "or", "not", "isfinite", "isnan"}
_REAL_BINARY = frozenset({"minimum", "maximum", "atan2", "remainder", "lt", "le"})


def real_dtype(dtype: str) -> str:
    """Return the dtype of the real part."""
    return _REAL_OF.get(dtype, dtype)


def takes_complex(op: str) -> bool:
    """Whether the elementwise operation is defined for complex operands."""
    return op not in _REAL_UNARY and op not in _REAL_BINARY


def result_dtype(op: str, dtype: str) -> str:
    """Return the dtype of an elementwise operation (not ``cast``) whose operands have ``dtype``."""
    if op in _BOOLEAN_RESULT:
        return "bool"
    if op in {"abs", "real", "imag"}:
        return real_dtype(dtype)
    return dtype
