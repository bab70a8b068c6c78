"""Normal numbers that depend on a key and a counter alone, the same on every backend.

Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw 2011, doi:10.1145/2063384.2063405) turns a
key and a counter, each two words of 32 bits, into two more. One bit is the sign of the normal
number and 52 are the probability of its tail, ``(m + 1/2) 2^-53`` for an integer ``m < 2^52``,
which float64 holds exactly: no backend rounds it differently, and the tails reach 8.2 standard
deviations. The quantile is Wichura's rational function (AS 241, doi:10.2307/2347330), good to
about 1e-16: sums, products and quotients, and in the tails one logarithm and a square root. A
Box-Muller pair would need a cosine, and two counters for one number.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ndereg.plan.builder import Builder, Value, where
from ndereg.plan.program import Program

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
"""Bits by which the second word is rotated, in turns of four rounds."""
PARITY = 0x1BD11BDA
"""What the third word of the key schedule adds, so that no key of zeros is left out."""
SIGN_BIT, HIGH_BITS, LOW_BITS = 31, 31, 21
"""Of the two words of a draw: the sign, and the tail's probability from the top down."""

# Numerators and denominators by increasing power: the middle in 0.425^2 - q^2, the tails in
# r - 1.6 and r - 5 with r = sqrt(-log(p)).
_MIDDLE = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
     1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
     3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
     2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4,
     5.2264952788528545610e3),
)  # fmt: skip
_TAIL = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
     3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
     2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
     1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
     1.05075007164441684324e-9),
)  # fmt: skip
_FAR_TAIL = (
    (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0,
     2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
     2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
     7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7,
     2.04426310338993978564e-15),
)  # fmt: skip


def threefry(key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """Encrypt a counter: two words of 32 bits for two, under a key of two.

    Words are whatever has ``+ ^ | & << >>`` modulo 2^32, signed or not: an arithmetic shift to the
    right is masked.

    Examples
    --------
    >>> import numpy as np
    >>> zero = np.zeros(1, np.uint32)
    >>> [hex(word[0]) for word in threefry((zero, zero), (zero, zero))]
    ['0x6b200159', '0x99ba4efe']
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ PARITY)
    left, right = counter[0] + schedule[0], counter[1] + schedule[1]
    for turn in range(5):
        for count in ROTATIONS[turn % 2]:
            left = left + right
            right = _rotated(right, count) ^ left
        left = left + schedule[(turn + 1) % 3]
        right = right + schedule[(turn + 2) % 3] + (turn + 1)
    return left, right


def _rotated(word: Any, count: int) -> Any:
    return (word << count) | ((word >> (32 - count)) & ((1 << count) - 1))


def draw_bits(words: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    """``(negative, high, low)``, the inputs of :func:`normal_program`, as words."""
    first, second = words
    return (
        (first >> SIGN_BIT) & 1,
        first & ((1 << HIGH_BITS) - 1),
        (second >> (32 - LOW_BITS)) & ((1 << LOW_BITS) - 1),
    )


@cache
def normal_program() -> Program:
    """``(negative, high, low) -> normal``, the numbers being integers in floating point."""
    builder = Builder()
    negative, high, low = (builder.input(n, "scalar") for n in ("negative", "high", "low"))
    tail = _tail(high, low)
    size = where(_is_central(tail), _central(tail), _outer(tail))
    return builder.program("normal", {"normal": _signed(negative, size)})


@cache
def central_program() -> Program:
    """``(negative, high, low) -> normal, tail, outside``: right unless it says ``outside``.

    For loops that leave the costly tails, 15 percent of the numbers, to :func:`outer_program`.
    """
    builder = Builder()
    negative, high, low = (builder.input(n, "scalar") for n in ("negative", "high", "low"))
    tail = _tail(high, low)
    normal = _signed(negative, _central(tail))
    outputs = {"normal": normal, "tail": tail, "outside": ~_is_central(tail)}
    return builder.program("central", outputs)


@cache
def outer_program() -> Program:
    """``(negative, tail) -> normal`` for a probability that is outside of the middle."""
    builder = Builder()
    negative, tail = (builder.input(n, "scalar") for n in ("negative", "tail"))
    return builder.program("outer", {"normal": _signed(negative, _outer(tail))})


def _tail(high: Value, low: Value) -> Value:
    return high * 2.0**-32 + (low * 2.0**-53 + 2.0**-54)


def _is_central(tail: Value) -> Value:
    return 0.5 - tail <= 0.425


def _central(tail: Value) -> Value:
    q = 0.5 - tail
    return q * _rational(0.180625 - q * q, _MIDDLE)


def _outer(tail: Value) -> Value:
    r = (-tail.log()).sqrt()
    return where(r <= 5.0, _rational(r - 1.6, _TAIL), _rational(r - 5.0, _FAR_TAIL))


def _signed(negative: Value, size: Value) -> Value:
    return where(negative <= 0.5, size, -size)


def _rational(x: Value, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Value:
    numerator, denominator = (_polynomial(x, row) for row in coefficients)
    return numerator / denominator


def _polynomial(x: Value, coefficients: tuple[float, ...]) -> Value:
    """By Horner's rule; the constant coefficient comes first."""
    value = x * coefficients[-1] + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        value = value * x + coefficient
    return value
