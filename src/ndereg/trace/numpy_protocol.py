"""NumPy functions applied to traced arrays: which function of ours stands for which of NumPy's.

Tables are by name, so that functions of newer or older NumPy versions are found too, and ufuncs
of other packages (``scipy.special.expit``) with the name they are known under.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from ndereg.trace import creation, elementwise, linalg, lookup, reductions, shaping
from ndereg.trace.errors import TraceError

__all__ = ["call_function", "call_ufunc"]

_UFUNCS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(elementwise, name)
        for name in (
            *("add", "subtract", "multiply", "divide", "negative", "positive", "absolute", "sign"),
            *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "square", "cbrt"),
            *("reciprocal", "sin", "cos", "tan", "sinh", "cosh", "tanh", "floor", "ceil", "trunc"),
            *("rint", "remainder", "fmod", "floor_divide", "divmod", "minimum", "maximum"),
            *("less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "hypot"),
            *("logical_and", "logical_or", "logical_xor", "logical_not", "isnan", "isinf"),
            *("isfinite", "signbit", "copysign", "heaviside", "logaddexp", "deg2rad", "rad2deg"),
            *("bitwise_and", "bitwise_or", "bitwise_xor", "float_power", "erf"),
        )
    },
    "true_divide": elementwise.divide,
    "power": elementwise.pow,
    "mod": elementwise.remainder,
    "arcsin": elementwise.asin,
    "arccos": elementwise.acos,
    "arctan": elementwise.atan,
    "arctan2": elementwise.atan2,
    "arcsinh": elementwise.asinh,
    "arccosh": elementwise.acosh,
    "arctanh": elementwise.atanh,
    "conjugate": elementwise.conj,
    "invert": elementwise.bitwise_invert,
    "fabs": elementwise.absolute,
    "radians": elementwise.deg2rad,
    "degrees": elementwise.rad2deg,
    "clip": elementwise.clip,
    "expit": elementwise.sigmoid,
    "matmul": linalg.matmul,
    "vecdot": linalg.vecdot,
    "matvec": linalg.matvec,
}

_REDUCTIONS_OF: dict[str, Callable[..., Any]] = {
    "add": reductions.sum,
    "multiply": reductions.prod,
    "maximum": reductions.max,
    "minimum": reductions.min,
    "logical_and": reductions.all,
    "logical_or": reductions.any,
}

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(module, name)
        for module, names in {
            elementwise: "where clip nan_to_num real imag angle sinc round",
            reductions: (
                "sum prod max min mean var std average any all count_nonzero ptp "
                "cumulative_sum cumsum"
            ),
            shaping: (
                "reshape ravel matrix_transpose moveaxis swapaxes expand_dims squeeze "
                "broadcast_to broadcast_arrays stack unstack split array_split hstack vstack "
                "dstack column_stack append flip roll repeat tile take diff meshgrid pad diagonal "
                "tril triu"
            ),
            linalg: (
                "dot inner vdot outer tensordot trace cross einsum norm vector_norm matrix_norm"
            ),
            creation: "zeros_like ones_like empty_like full_like",
            lookup: "select interp",
        }.items()
        for name in names.split()
    },
    "concatenate": shaping.concat,
    "concat": shaping.concat,
    "transpose": shaping.permute_dims,
    "permute_dims": shaping.permute_dims,
    "around": elementwise.round,
    "amax": reductions.max,
    "amin": reductions.min,
    "atleast_1d": lambda *arrays: _each(shaping.atleast_1d, arrays),
    "atleast_2d": lambda *arrays: _each(shaping.atleast_2d, arrays),
    "copy": elementwise.positive,
    "astype": elementwise.astype,
    "fliplr": lambda x: shaping.flip(x, 1),
    "flipud": lambda x: shaping.flip(x, 0),
    "shape": lambda x: creation.asarray(x).shape,
    "ndim": lambda x: creation.asarray(x).ndim,
    "size": lambda x: creation.asarray(x).size,
    "iscomplexobj": lambda x: creation.asarray(x).dtype.kind == "c",
    "isrealobj": lambda x: creation.asarray(x).dtype.kind != "c",
    "result_type": lambda *operands: _result_type(*operands),
    **{name: reductions.refuse_data_dependent(name) for name in ("argmax", "argmin", "sort")},
}


def _each(function: Callable[[Any], Any], arrays: Sequence[Any]) -> Any:
    return function(arrays[0]) if len(arrays) == 1 else tuple(map(function, arrays))


def _result_type(*operands: Any) -> Any:
    from ndereg.trace.namespace import result_type

    return result_type(*operands)


def call_ufunc(ufunc: Any, method: str, inputs: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Apply a ufunc to operands of which one is traced."""
    name = ufunc.__name__
    if kwargs.pop("out", None) is not None:
        raise TraceError(
            f"{name}(..., out=...)",
            "writing into an array (also by 'a += traced') changes it in place",
            "a = a + b, or the function without out=",
        )
    table = _REDUCTIONS_OF if method == "reduce" else _UFUNCS
    if method == "reduce":
        kwargs.setdefault("axis", 0)
    if method == "accumulate" and name == "add":
        return reductions.cumsum(inputs[0], kwargs.get("axis", 0))
    if method == "outer" and name in _UFUNCS:
        return _outer(_UFUNCS[name], inputs)
    if method not in {"__call__", "reduce"} or name not in table:
        shown = name if method == "__call__" else f"{name}.{method}"
        raise TraceError(
            f"numpy.{shown}",
            "this function is not supported",
            "to express it with arithmetic, where, sums and matrix products",
        )
    return _call(f"numpy.{name}", table[name], inputs, kwargs)


def _outer(function: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    left, right = (creation.asarray(x) for x in inputs)
    return function(left.reshape((*left.shape, *(1,) * right.ndim)), right)


def call_function(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Apply one of NumPy's array functions to arguments of which one is traced."""
    name = function.__name__
    shown = f"{function.__module__}.{name}"
    if kwargs.pop("out", None) is not None:
        raise TraceError(f"{shown}(..., out=...)", "it writes in place", "leaving out= away")
    if name not in _FUNCTIONS:
        raise TraceError(
            shown,
            "this function is not supported",
            "to express it with arithmetic, where, sums and matrix products",
        )
    return _call(shown, _FUNCTIONS[name], args, kwargs)


def _call(
    shown: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise TraceError(
            f"{shown} with these arguments", str(error), "the arguments that the array API has"
        ) from None
    return function(*args, **kwargs)
