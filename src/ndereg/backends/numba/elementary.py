"""Elementary functions that LLVM can vectorise, for float32 and float64.

Branch-free: every element takes the same instructions, so a loop over an array runs on packed
registers. Valid for every argument, infinities, NaN and subnormal numbers included, and within
2 ulp (``tanh``, ``expm1``, ``log1p``, ``sinh``, ``cosh``: 3 ulp), with one exception: ``sin``,
``cos`` and ``tan`` of an argument beyond 2^50, where neighbouring floats are a radian apart,
are numbers with |sin| ≤ 1 without any accuracy.

Polynomials without another source are weighted minimax fits (Lawson's iteration on Chebyshev
nodes, 50 digits), rounded to double; the intervals are given beside them.
"""

from __future__ import annotations

from ndereg.backends.numba.lanes import (
    DOUBLE,
    SINGLE,
    Bits,
    Lane,
    elementary,
    polynomial,
    power_of_two,
)

__all__ = [
    *("FORMULAS", "cos", "cosh", "erf", "exp", "expm1", "log", "log1p"),
    *("sigmoid", "sin", "sinh", "tan", "tanh"),
]

# ln 2 in two parts (Cody and Waite 1980); the first has so few bits that its product with any
# exponent is exact even where multiplication and subtraction are not fused (FreeBSD's e_exp.c).
_LN2 = {
    SINGLE: (6.93145752e-1, 1.42860677e-6),
    DOUBLE: (6.93147180369123816490e-1, 1.90821492927058770002e-10),
}
_LOG2_E = 1.4426950408889634
# (e^r - 1 - r) / r² on |r| ≤ ln 2 / 2.
_EXP = {
    SINGLE: (
        *(0.5, 0.1666666716337204, 0.041666463017463684),
        *(0.00833328627049923, 0.0013933684676885605, 0.0001990754099097103),
    ),
    DOUBLE: (
        *(0.5, 0.1666666666666667, 0.041666666666666685, 0.00833333333332611),
        *(0.0013888888888874326, 0.0001984126987490232, 2.480158734739633e-05),
        *(2.7557255295324003e-06, 2.755725287366537e-07, 2.5105260486114424e-08),
        2.092160232100678e-09,
    ),
}
# Where exp underflows to zero and where it overflows, a little outside, yet within 2^n for the
# n of the largest exponent plus one.
_EXP_RANGE = {SINGLE: (-104.5, 89.0), DOUBLE: (-746.0, 710.0)}
# (log((1+s)/(1-s)) - 2s) / (s · s²) in s²: single fitted on |s| ≤ 0.1717, double FreeBSD's e_log.c.
_LOG = {
    SINGLE: (0.6666666865348816, 0.4000012278556824, 0.28550705313682556, 0.23333248496055603),
    DOUBLE: (
        *(6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01),
        *(2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01),
        1.479819860511658591e-01,
    ),
}
# π/2 in three parts of 53 bits, for fused multiply-adds.
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591833e-33)
_LARGEST_ANGLE = 2.0**50
# FreeBSD's k_sin.c and k_cos.c on |r| ≤ π/4, in r².
_SIN = (
    *(-1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04),
    *(2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10),
)
_COS = (
    *(4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05),
    *(-2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11),
)
# The same for a result of single precision, |r| ≤ 0.8.
_SIN_SINGLE = (
    *(-0.1666666666337962, 0.008333331692851416, -0.00019839990262186696),
    2.7237648373854355e-06,
)
_COS_SINGLE = (
    *(0.04166666666392354, -0.001388888752004109, 2.48005197756229e-05),
    -2.729070326324041e-07,
)
# erf(x)/x - 1 in x² on |x| ≤ 1.
_ERF_SMALL = {
    SINGLE: (
        *(0.12837916612625122, -0.3761262595653534, 0.11283600330352783, -0.026854444295167923),
        *(0.005189534742385149, -0.0008020836394280195, 7.889104745117947e-05),
    ),
    DOUBLE: (
        *(0.1283791670955126, -0.3761263890318375, 0.11283791670954883, -0.026866170645077785),
        *(0.005223977624827891, -0.0008548326981406537, 0.00012055331132532274),
        *(-1.492559576595397e-05, 1.6461008416032996e-06, -1.635039580777888e-07),
        *(1.4660326882901742e-08, -1.137495084832583e-09, 5.960679543233558e-11),
    ),
}
# -log(erfc(x)) on 1 ≤ x ≤ the bound from which erf rounds to 1, weighted by erfc (the form is
# N. Juffa's); the bound is the last number.
_ERF_LARGE = {
    SINGLE: (
        (
            *(-0.00018799473764374852, 1.1295782327651978, 0.6332202553749084),
            *(0.10841817408800125, -0.025208013132214546, 0.004204475320875645),
            *(-0.0004413197166286409, 2.168550963688176e-05),
        ),
        3.95,
    ),
    DOUBLE: (
        (
            *(1.0838842812939733e-06, 1.128368530578673, 0.6366683303268937),
            *(0.10263574163293392, -0.018862057659194457, -0.000588286641907367),
            *(0.002102812077385271, -0.0009229086044005862, 0.00023233897526740499),
            *(-2.8748899505437772e-05, -3.352445064138321e-06, 2.6047298815479804e-06),
            *(-6.741991091325365e-07, 1.0626395303113421e-07, -1.070951327759312e-08),
            *(6.400478970131143e-10, -1.7374372159291335e-11),
        ),
        5.95,
    ),
}


def _reduced_exp(x: Lane) -> tuple[Lane, Bits]:
    """``(e^r - 1, n)`` with x = n ln 2 + r, |r| ≤ ln 2 / 2."""
    high, low = _LN2[x.format]
    shifted, count = (x * _LOG2_E).rounded()
    r = (-shifted).muladd(low, (-shifted).muladd(high, x))
    return (r * r).muladd(polynomial(r, _EXP[x.format]), r), count


def _exp(x: Lane) -> Lane:
    """e^x."""
    lowest, highest = _EXP_RANGE[x.format]
    less_one, count = _reduced_exp(x.below(highest).above(lowest))
    # Two factors, because 2^n alone overflows or is subnormal at the ends of the range.
    half = count >> 1
    return (less_one + 1.0) * power_of_two(half) * power_of_two(count - half)


def _exp_of_negative(x: Lane) -> Lane:
    """e^x for x ≤ 0, zero where the result would be subnormal."""
    smallest = -87.0 if x.format is SINGLE else -708.0
    less_one, count = _reduced_exp(x.above(smallest))
    scale = power_of_two(count)
    return less_one.constant(0.0).where(x < smallest, less_one.muladd(scale, scale))


def _expm1_of_negative(x: Lane) -> Lane:
    """e^x - 1 for x ≤ 0."""
    less_one, count = _reduced_exp(x.above(-88.0 if x.format is SINGLE else -708.0))
    scale = power_of_two(count)
    return less_one.muladd(scale, scale - 1.0)


def _expm1(x: Lane) -> Lane:
    """e^x - 1."""
    _, highest = _EXP_RANGE[x.format]
    # Below -50 the result is -1 in either precision.
    less_one, count = _reduced_exp(x.below(highest).above(-50.0))
    # Half the result, as 2^n overflows before the result does.
    scale = power_of_two(count - 1)
    result = less_one.muladd(scale, scale - 0.5) * 2.0
    # Around zero the halves would lose the last bit of a subnormal number, and -0 its sign.
    small = less_one.where(count.equals(0), result)
    return x.where(x.equals(0.0), small)


def _tanh(x: Lane) -> Lane:
    """Hyperbolic tangent, as -d / (2 + d) with d = e^(-2|x|) - 1, which never cancels."""
    less_one = _expm1_of_negative(x.magnitude() * -2.0)
    return (-less_one / (less_one + 2.0)).with_sign_of(x)


def _sigmoid(x: Lane) -> Lane:
    """1 / (1 + e^-x), from e^-|x| so that neither tail overflows."""
    decay = _exp(-x.magnitude())
    upper = 1.0 / (decay + 1.0)
    return (upper * decay).where(x < 0.0, upper)


def _log_parts(x: Lane) -> tuple[Lane, Lane]:
    """``(f, k)`` with x = 2^k (1 + f), sqrt(1/2) < 1 + f < sqrt(2), for positive normal x."""
    form = x.format
    # Bits of sqrt(1/2), so that the shift below yields k for mantissas around 1, not above 1.
    root = 0x3F3504F3 if form is SINGLE else 0x3FE6A09E667F3BCD
    offset = x.bits() - root
    exponent = offset >> form.mantissa
    mantissa = (x.bits() - (exponent << form.mantissa)).as_lane()
    return mantissa - 1.0, exponent.to_float()


def _log_of_parts(f: Lane, exponent: Lane, correction: Lane | float) -> Lane:
    """log(2^k (1 + f)) + correction; the order of the sums is FreeBSD's e_log.c."""
    high, low = _LN2[f.format]
    s = f / (f + 2.0)
    z = s * s
    half_square = f * f * 0.5
    series = s * (half_square + z * polynomial(z, _LOG[f.format]))
    tail = series + exponent.muladd(low, f.constant(0.0) + correction)
    return exponent.muladd(high, f - (half_square - tail))


def _log(x: Lane) -> Lane:
    """Natural logarithm."""
    bits = x.format.mantissa + 2
    smallest = 2.0 ** (1 - x.format.bias)
    subnormal = x < smallest
    f, exponent = _log_parts((x * 2.0**bits).where(subnormal, x))
    exponent = (exponent - float(bits)).where(subnormal, exponent)
    return _log_ends(x, _log_of_parts(f, exponent, 0.0))


def _log1p(x: Lane) -> Lane:
    """log(1 + x): the rounding error of 1 + x is divided out (FreeBSD's s_log1p.c)."""
    total = x + 1.0
    # What rounding 1 + x lost; the larger operand is subtracted first, which is exact.
    lost = (1.0 - (total - x)).where(x > 1.0, x - (total - 1.0))
    f, exponent = _log_parts(total)
    result = _log_of_parts(f, exponent, lost / total)
    tiny = 2.0 ** -(x.format.mantissa + 2)
    return x.where(x.magnitude() < tiny, _log_ends(total, result))


def _log_ends(x: Lane, result: Lane) -> Lane:
    """Return the logarithm at 0, +inf, NaN and below 0."""
    result = x.constant(float("-inf")).where(x.equals(0.0), result)
    result = x.where(x.equals(float("inf")), result)
    unordered = x.builder.fcmp_unordered("uno", x.value, x.value)
    negative = x.builder.or_(x < 0.0, unordered)
    return x.constant(float("nan")).where(negative, result)


def _reduced_angle(x: Lane) -> tuple[Lane, Lane, Bits]:
    """``(r, tail, q)`` with x = q π/2 + r + tail and |r| ≤ π/4 or a little more.

    Both x and q · (first part of π/2) are multiples of 2^-52 and their difference is below 1, so
    the first fused multiply-add is exact; the second product is split into product and error.
    Good to q = 2^50, as the rounded quotient is then within 1/2 + 1/8 of the true one.
    """
    first, second, third = _HALF_PI
    shifted, quadrant = (x * (2.0 / 3.141592653589793)).rounded()
    negated = -shifted
    rough = negated.fma(first, x)
    product = negated * second
    error = negated.fma(second, -product)
    r = rough + product
    # Dekker's two-sum: what rounding rough + product lost.
    part = r - rough
    lost = (rough - (r - part)) + (product - part)
    return r, negated.muladd(third, lost + error), quadrant


def _sin_and_cos(x: Lane) -> tuple[Lane, Lane, Bits]:
    """Sine and cosine of x in the first quadrant, before q quarter turns, in double precision."""
    wide = x.widened()
    bounded = wide.below(_LARGEST_ANGLE).above(-_LARGEST_ANGLE)
    formula = _single_in_quadrant if x.format is SINGLE else _double_in_quadrant
    sine, cosine, quadrant = formula(bounded)
    undefined = wide - wide  # zero, but NaN for an infinity
    return sine + undefined, cosine + undefined, quadrant


def _double_in_quadrant(x: Lane) -> tuple[Lane, Lane, Bits]:
    r, tail, quadrant = _reduced_angle(x)
    z = r * r
    # FreeBSD's k_sin.c and k_cos.c, with the tail of the reduced argument.
    cubic = z * r
    rest = polynomial(z, _SIN[1:])
    sine = r - ((z * (tail * 0.5 - cubic * rest) - tail) - cubic * _SIN[0])
    half = z * 0.5
    rough = 1.0 - half
    cosine = rough + (((1.0 - rough) - half) + (z * (z * polynomial(z, _COS)) - r * tail))
    return sine, cosine, quadrant


def _single_in_quadrant(x: Lane) -> tuple[Lane, Lane, Bits]:
    """For a result of single precision: a double needs no tail."""
    first, second, _ = _HALF_PI
    shifted, quadrant = (x * (2.0 / 3.141592653589793)).rounded()
    r = (-shifted).muladd(second, (-shifted).fma(first, x))
    z = r * r
    sine = (z * r).muladd(polynomial(z, _SIN_SINGLE), r)
    cosine = (z * z).muladd(polynomial(z, _COS_SINGLE), 1.0 - z * 0.5)
    return sine, cosine, quadrant


def _quarter(x: Lane, turn: int) -> Lane:
    """sin(x + turn π/2)."""
    sine, cosine, quadrant = _sin_and_cos(x)
    quadrant = quadrant + turn
    result = cosine.where((quadrant & 1).equals(1), sine)
    return result.where((quadrant & 2).equals(0), -result).narrowed(x.format)


def _sin(x: Lane) -> Lane:
    """Sine; sin(-0) is -0."""
    return x.where(x.equals(0.0), _quarter(x, 0))


def _cos(x: Lane) -> Lane:
    """Cosine."""
    return _quarter(x, 1)


def _tan(x: Lane) -> Lane:
    """Tangent; every quarter turn exchanges sine and cosine and the sign."""
    sine, cosine, quadrant = _sin_and_cos(x)
    odd = (quadrant & 1).equals(1)
    result = (-cosine).where(odd, sine) / sine.where(odd, cosine)
    return x.where(x.equals(0.0), result.narrowed(x.format))


def _half_exp(x: Lane) -> Lane:
    """e^x / 2 for x ≥ 0; overflows only where half of e^x does."""
    less_one, count = _reduced_exp(x.below(_EXP_RANGE[x.format][1] + 1.0))
    half = count >> 1
    return (less_one + 1.0) * power_of_two(half - 1) * power_of_two(count - half)


def _sinh(x: Lane) -> Lane:
    """Hyperbolic sine; below 1 from e^x - 1, where the exponentials would cancel."""
    size = x.magnitude()
    half = _half_exp(size)
    less_one = _expm1(size.below(1.0))
    near = (less_one + less_one / (less_one + 1.0)) * 0.5
    return near.where(size < 1.0, half - 0.25 / half).with_sign_of(x)


def _cosh(x: Lane) -> Lane:
    """Hyperbolic cosine."""
    half = _half_exp(x.magnitude())
    return half + 0.25 / half


def _erf(x: Lane) -> Lane:
    """Error function: an odd polynomial up to 1, 1 - e^-p(x) from there."""
    small = x * x
    near = (x * polynomial(small, _ERF_SMALL[x.format])) + x
    coefficients, bound = _ERF_LARGE[x.format]
    size = x.magnitude()
    decay = _exp_of_negative(-polynomial(size.below(bound), coefficients))
    far = (1.0 - decay).with_sign_of(x)
    return near.where(size < 1.0, far)


#: The formulas by name of the operation.
FORMULAS = {
    "exp": _exp,
    "expm1": _expm1,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "log": _log,
    "log1p": _log1p,
    "sin": _sin,
    "cos": _cos,
    "tan": _tan,
    "sinh": _sinh,
    "cosh": _cosh,
    "erf": _erf,
}

exp = elementary(_exp)
expm1 = elementary(_expm1)
tanh = elementary(_tanh)
sigmoid = elementary(_sigmoid)
log = elementary(_log)
log1p = elementary(_log1p)
sin = elementary(_sin)
cos = elementary(_cos)
tan = elementary(_tan)
sinh = elementary(_sinh)
cosh = elementary(_cosh)
erf = elementary(_erf)
