"""Elementwise functions of the array API (and NumPy's others) on traced arrays.

Whatever is not a primitive is composed of primitives here, so that derivatives and code are
needed for the primitives alone.
"""

# Names are those of the array API, some of them also Python's.
# ruff: noqa: A001, A002

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ndereg.trace.errors import TraceError
from ndereg.trace.primitives import real_dtype, takes_complex
from ndereg.trace.value import (
    broadcast_shapes,
    current_builder,
    dtype_name,
    lift,
    promote,
    promoted_dtype,
    wrap,
)

if TYPE_CHECKING:
    from ndereg.trace.array import TracedArray

_EXACT = ("bool", "int64")
_OF_BOOLEANS = {"add": "or", "mul": "and", "minimum": "and", "maximum": "or"}


def _floating(dtype: str) -> str:
    return "float64" if dtype in _EXACT else dtype


def _check_real(op: str, dtype: str) -> None:
    if real_dtype(dtype) != dtype and not takes_complex(op):
        raise TraceError(f"{op} of a complex array", "it is defined for real arrays", "real or abs")


def _unary(op: str, *, floating: bool = False) -> Callable[[Any], TracedArray]:
    def function(x: Any, /) -> TracedArray:
        dtype = promoted_dtype(x)
        _check_real(op, dtype)
        if dtype == "bool" and op in {"neg", "sign", "abs"}:
            raise TraceError(f"{op} of a boolean array", "it is not a number", "logical_not")
        node = lift(x, _floating(dtype) if floating else dtype)
        return wrap(current_builder().unary(op, node))

    function.__name__ = op
    return function


def _binary(op: str, *, floating: bool = False) -> Callable[[Any, Any], TracedArray]:
    def function(x: Any, y: Any, /) -> TracedArray:
        dtype = promoted_dtype(x, y)
        _check_real(op, dtype)
        builder, nodes, kind = promote(op, x, y, dtype=_floating(dtype) if floating else dtype)
        name = _OF_BOOLEANS.get(op, op) if kind == "bool" else op
        return wrap(builder.binary(name, nodes[0], nodes[1]))

    function.__name__ = op
    return function


def _logical(op: str) -> Callable[[Any, Any], TracedArray]:
    def function(x: Any, y: Any, /) -> TracedArray:
        builder, nodes, _ = promote(op, as_bool(x), as_bool(y))
        return wrap(builder.binary(op, nodes[0], nodes[1]))

    return function


def as_bool(x: Any) -> TracedArray:
    """Return whether the entries differ from zero."""
    node = lift(x)
    builder = current_builder()
    if builder.dtype(node) == "bool":
        return wrap(node)
    zero = builder.full(builder.shape(node), 0, builder.dtype(node))
    return wrap(builder.binary("ne", node, zero))


exp = _unary("exp", floating=True)
expm1 = _unary("expm1", floating=True)
log = _unary("log", floating=True)
log1p = _unary("log1p", floating=True)
sqrt = _unary("sqrt", floating=True)
sin = _unary("sin", floating=True)
cos = _unary("cos", floating=True)
tan = _unary("tan", floating=True)
sinh = _unary("sinh", floating=True)
cosh = _unary("cosh", floating=True)
tanh = _unary("tanh", floating=True)
asin = _unary("arcsin", floating=True)
acos = _unary("arccos", floating=True)
atan = _unary("arctan", floating=True)
asinh = _unary("arcsinh", floating=True)
acosh = _unary("arccosh", floating=True)
atanh = _unary("arctanh", floating=True)
erf = _unary("erf", floating=True)
negative = _unary("neg")
sign = _unary("sign")
conj = _unary("conj")
real = _unary("real")
imag = _unary("imag")
isnan = _unary("isnan", floating=True)
isfinite = _unary("isfinite", floating=True)

add = _binary("add")
multiply = _binary("mul")
divide = _binary("div", floating=True)
minimum = _binary("minimum")
maximum = _binary("maximum")
atan2 = _binary("atan2", floating=True)
remainder = _binary("remainder")
less = _binary("lt")
less_equal = _binary("le")
equal = _binary("eq")
not_equal = _binary("ne")
logical_and = _logical("and")
logical_or = _logical("or")


def absolute(x: Any, /) -> TracedArray:
    """Absolute value; of a complex array, real."""
    return wrap(lift(x)) if promoted_dtype(x) == "bool" else _unary("abs")(x)


def subtract(x: Any, y: Any, /) -> TracedArray:
    """Difference; refused for booleans, as in NumPy."""
    if promoted_dtype(x, y) == "bool":
        raise TraceError("the difference of booleans", "it is not defined", "logical_xor")
    return _binary("sub")(x, y)


def pow(x: Any, y: Any, /) -> TracedArray:
    """Power; small integer and half-integer exponents become products and square roots."""
    dtype = promoted_dtype(x, y)
    if dtype in _EXACT:
        exponent = current_builder().uniform(lift(y))
        if exponent is None or exponent < 0:
            raise TraceError(
                "an integer to a power that is negative or not constant",
                "the result need not be an integer",
                "casting the base to a floating-point dtype",
            )
    builder, nodes, _ = promote("pow", x, y, dtype=dtype)
    return wrap(builder.binary("pow", nodes[0], nodes[1]))


def float_power(x: Any, y: Any, /) -> TracedArray:
    """Power in double precision."""
    wide = np.result_type(promoted_dtype(x, y), np.float64).name
    return pow(astype(x, wide), astype(y, wide))


def greater(x: Any, y: Any, /) -> TracedArray:
    """Whether ``x > y``."""
    return less(y, x)


def greater_equal(x: Any, y: Any, /) -> TracedArray:
    """Whether ``x >= y``."""
    return less_equal(y, x)


def logical_not(x: Any, /) -> TracedArray:
    """Negation."""
    return wrap(current_builder().unary("not", lift(as_bool(x))))


def logical_xor(x: Any, y: Any, /) -> TracedArray:
    """Exclusive or."""
    return not_equal(as_bool(x), as_bool(y))


def _bitwise(name: str, function: Callable[..., TracedArray]) -> Callable[..., TracedArray]:
    def checked(*operands: Any) -> TracedArray:
        if any(promoted_dtype(x) != "bool" for x in operands):
            raise TraceError(f"{name} of integers", "only booleans are supported", "arithmetic")
        return function(*operands)

    checked.__name__ = name
    return checked


bitwise_and = _bitwise("bitwise_and", logical_and)
bitwise_or = _bitwise("bitwise_or", logical_or)
bitwise_xor = _bitwise("bitwise_xor", logical_xor)
bitwise_invert = _bitwise("bitwise_invert", logical_not)


def where(condition: Any, x: Any = None, y: Any = None, /) -> TracedArray:
    """Entries of ``x`` where ``condition``, else of ``y``."""
    if x is None or y is None:
        raise TraceError(
            "where(condition)", "the shape of its result depends on data", "where(condition, x, y)"
        )
    dtype = promoted_dtype(x, y)
    builder = current_builder()
    nodes = [lift(as_bool(condition)), lift(x, dtype), lift(y, dtype)]
    shape = broadcast_shapes("where", *(builder.shape(i) for i in nodes))
    choice, yes, no = (builder.broadcast(i, shape) for i in nodes)
    return wrap(builder.where(choice, yes, no))


def astype(x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> TracedArray:
    """Cast; from complex to real only with ``real``."""
    name = dtype_name(dtype)
    source = promoted_dtype(x)
    if real_dtype(source) != source and real_dtype(name) == name:
        raise TraceError(
            f"a cast from {source} to {name}", "the imaginary part would be lost", "real(x)"
        )
    return as_bool(x) if name == "bool" else wrap(lift(wrap(lift(x)), name))


def positive(x: Any, /) -> TracedArray:
    """Return ``x``."""
    return wrap(lift(x))


def square(x: Any, /) -> TracedArray:
    """Return ``x * x``."""
    return multiply(x, x)


def reciprocal(x: Any, /) -> TracedArray:
    """Return ``1 / x``."""
    return divide(1, x)


def sigmoid(x: Any, /) -> TracedArray:
    """Logistic function; a primitive for real arrays."""
    dtype = promoted_dtype(x)
    if real_dtype(dtype) != dtype:
        return divide(1, add(1, exp(negative(x))))
    return _unary("sigmoid", floating=True)(x)


def log2(x: Any, /) -> TracedArray:
    """Logarithm to base 2."""
    return multiply(log(x), 1 / math.log(2))


def log10(x: Any, /) -> TracedArray:
    """Logarithm to base 10."""
    return multiply(log(x), 1 / math.log(10))


def exp2(x: Any, /) -> TracedArray:
    """Return ``2**x``."""
    return exp(multiply(x, math.log(2)))


def deg2rad(x: Any, /) -> TracedArray:
    """Degrees to radians."""
    return multiply(x, math.pi / 180)


def rad2deg(x: Any, /) -> TracedArray:
    """Radians to degrees."""
    return multiply(x, 180 / math.pi)


def cbrt(x: Any, /) -> TracedArray:
    """Real cube root."""
    return multiply(sign(x), pow(absolute(x), 1 / 3))


def sinc(x: Any, /) -> TracedArray:
    """Return ``sin(pi x) / (pi x)``, 1 at 0."""
    at_zero = equal(x, 0)
    angle = multiply(where(at_zero, 1.0, x), math.pi)
    return where(at_zero, 1.0, divide(sin(angle), angle))


def isinf(x: Any, /) -> TracedArray:
    """Whether entries are infinite."""
    return logical_not(logical_or(isfinite(x), isnan(x)))


def signbit(x: Any, /) -> TracedArray:
    """Whether entries are negative (negative zeros count as zeros)."""
    return less(x, 0)


def trunc(x: Any, /) -> TracedArray:
    """Round towards zero."""
    return where(less(x, 0), ceil(x), floor(x))


def _rounding(op: str) -> Callable[[Any], TracedArray]:
    def function(x: Any, /) -> TracedArray:
        return wrap(lift(x)) if promoted_dtype(x) in _EXACT else _unary(op)(x)

    function.__name__ = op
    return function


floor = _rounding("floor")
ceil = _rounding("ceil")
rint = _rounding("round")


def round(x: Any, /, decimals: int = 0) -> TracedArray:
    """Round half to even."""
    if decimals:
        return divide(rint(multiply(x, 10.0**decimals)), 10.0**decimals)
    return rint(x)


def floor_divide(x: Any, y: Any, /) -> TracedArray:
    """Largest integer not above ``x / y``."""
    # Through the remainder, as in NumPy: floor(x / y) is off by one where x / y rounds up.
    return astype(rint(divide(subtract(x, remainder(x, y)), y)), promoted_dtype(x, y))


def divmod(x: Any, y: Any, /) -> tuple[TracedArray, TracedArray]:
    """Return ``x // y, x % y``."""
    return floor_divide(x, y), remainder(x, y)


def fmod(x: Any, y: Any, /) -> TracedArray:
    """Remainder with the sign of ``x``."""
    return multiply(sign(x), remainder(absolute(x), absolute(y)))


def logaddexp(x: Any, y: Any, /) -> TracedArray:
    """Return ``log(exp(x) + exp(y))`` without overflow."""
    # Equal operands also cover two infinities, whose difference is not a number.
    same = equal(x, y)
    gap = where(same, 0.0, subtract(x, y))
    return add(maximum(x, y), log1p(exp(negative(absolute(gap)))))


def hypot(x: Any, y: Any, /) -> TracedArray:
    """Return ``sqrt(x**2 + y**2)``."""
    return sqrt(add(square(x), square(y)))


def copysign(x: Any, y: Any, /) -> TracedArray:
    """Magnitude of ``x`` with the sign of ``y`` (zeros count as positive)."""
    return where(less(y, 0), negative(absolute(x)), absolute(x))


def heaviside(x: Any, at_zero: Any, /) -> TracedArray:
    """Return 0, ``at_zero`` or 1 by the sign of ``x``."""
    return where(less(x, 0), 0.0, where(equal(x, 0), at_zero, 1.0))


def clip(
    x: Any,
    /,
    min: Any = None,
    max: Any = None,
    *,
    a_min: Any = None,
    a_max: Any = None,
) -> TracedArray:
    """Limit entries to ``[min, max]``; None leaves that side open."""
    low = a_min if min is None else min
    high = a_max if max is None else max
    result = wrap(lift(x))
    if low is not None:
        result = maximum(result, low)
    return result if high is None else minimum(result, high)


def nan_to_num(
    x: Any,
    copy: bool = True,
    nan: float = 0.0,
    posinf: float | None = None,
    neginf: float | None = None,
) -> TracedArray:
    """Replace what is not finite."""
    array = wrap(lift(x))
    if array.dtype.kind == "c":
        raise TraceError("nan_to_num of a complex array", "it is real-valued", "real and imag")
    limits = np.finfo(array.dtype)
    above = float(limits.max) if posinf is None else posinf
    below = float(limits.min) if neginf is None else neginf
    bounded = where(isinf(array), where(less(array, 0), below, above), array)
    return where(isnan(array), nan, bounded)


def angle(z: Any, /, deg: bool = False) -> TracedArray:
    """Argument of a complex number."""
    radians = atan2(imag(z), real(z))
    return rad2deg(radians) if deg else radians
