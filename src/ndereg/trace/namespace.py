"""The array API namespace of traced arrays: ``array_api_compat.array_namespace(y)`` is this module.

Besides the functions of the standard it has the ones of NumPy that composed fields use often,
``erf`` and ``sigmoid``.
"""

# Names are those of the array API, some of them also Python's; they are here to be looked up.
# ruff: noqa: A001, A004, F401

from __future__ import annotations

from typing import Any

import numpy as _np

from ndereg.trace import linalg
from ndereg.trace.creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from ndereg.trace.elementwise import absolute as abs
from ndereg.trace.elementwise import (
    acos,
    acosh,
    add,
    angle,
    asin,
    asinh,
    astype,
    atan,
    atan2,
    atanh,
    bitwise_and,
    bitwise_invert,
    bitwise_or,
    bitwise_xor,
    cbrt,
    ceil,
    clip,
    conj,
    copysign,
    cos,
    cosh,
    divide,
    equal,
    erf,
    exp,
    exp2,
    expm1,
    floor,
    floor_divide,
    greater,
    greater_equal,
    heaviside,
    hypot,
    imag,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    log,
    log1p,
    log2,
    log10,
    logaddexp,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    maximum,
    minimum,
    multiply,
    nan_to_num,
    negative,
    not_equal,
    positive,
    pow,
    real,
    reciprocal,
    remainder,
    round,
    sigmoid,
    sign,
    signbit,
    sin,
    sinc,
    sinh,
    sqrt,
    square,
    subtract,
    tan,
    tanh,
    trunc,
    where,
)
from ndereg.trace.errors import UnknownFunctionError as _UnknownFunctionError
from ndereg.trace.linalg import cross, dot, einsum, inner, matmul, outer, tensordot, trace, vecdot
from ndereg.trace.lookup import interp, select
from ndereg.trace.reductions import (
    all,
    any,
    average,
    count_nonzero,
    cumsum,
    cumulative_sum,
    max,
    mean,
    min,
    prod,
    refuse_data_dependent,
    std,
    sum,
    var,
)
from ndereg.trace.shaping import (
    array_split,
    broadcast_arrays,
    broadcast_to,
    column_stack,
    concat,
    diagonal,
    diff,
    expand_dims,
    flip,
    hstack,
    matrix_transpose,
    meshgrid,
    moveaxis,
    pad,
    permute_dims,
    ravel,
    repeat,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    swapaxes,
    take,
    tile,
    tril,
    triu,
    unstack,
    vstack,
)
from ndereg.trace.value import Value as _Value

__array_api_version__ = "2024.12"

pi = _np.pi
e = _np.e
inf = _np.inf
nan = _np.nan
newaxis = None
bool = _np.bool_
int8, int16, int32, int64 = _np.int8, _np.int16, _np.int32, _np.int64
uint8, uint16, uint32, uint64 = _np.uint8, _np.uint16, _np.uint32, _np.uint64
float32, float64 = _np.float32, _np.float64
complex64, complex128 = _np.complex64, _np.complex128
can_cast = _np.can_cast
finfo = _np.finfo
iinfo = _np.iinfo
isdtype = _np.isdtype

arccos, arccosh, arcsin, arcsinh = acos, acosh, asin, asinh
arctan, arctan2, arctanh = atan, atan2, atanh
absolute, conjugate, power = abs, conj, pow
concatenate, transpose = concat, permute_dims
argmax = refuse_data_dependent("argmax")
argmin = refuse_data_dependent("argmin")
argsort = refuse_data_dependent("argsort")
nonzero = refuse_data_dependent("nonzero")
searchsorted = refuse_data_dependent("searchsorted")
sort = refuse_data_dependent("sort")


def result_type(*arrays_and_dtypes: Any) -> _np.dtype[Any]:
    """Return the dtype that operands and dtypes promote to."""
    kinds = [x.dtype if isinstance(x, _Value) else x for x in arrays_and_dtypes]
    return _np.result_type(*kinds)


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise _UnknownFunctionError(
        f"xp.{name}",
        "this function is not supported",
        "to express it with arithmetic, where, sums and matrix products",
    )
