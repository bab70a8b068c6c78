"""Elementary functions of compiled kernels: within a few ulp everywhere, and vectorised."""

import mpmath
import numpy as np
import pytest
from numba import njit

from ndereg.backends.numba import elementary

EXACT = {
    **{name: getattr(mpmath, name) for name in ("exp", "expm1", "log", "log1p", "sin", "cos")},
    **{name: getattr(mpmath, name) for name in ("tan", "sinh", "cosh", "tanh", "erf")},
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
}
#: Largest error in units in the last place of the exact result.
ULP = dict.fromkeys(EXACT, 2.0) | {"tanh": 3.0, "expm1": 2.5, "sinh": 2.5, "tan": 2.5}
GROWING = {"exp", "expm1", "sinh", "cosh", "sigmoid", "tanh"}
PERIODIC = {"sin", "cos", "tan"}
_LOOPS = {}


def loop(name):
    """A compiled loop over one function."""
    if name not in _LOOPS:
        function = getattr(elementary, name)

        def apply(x, out):
            for i in range(x.size):
                out[i] = function(x[i])

        _LOOPS[name] = njit(fastmath={"contract"})(apply)
    return _LOOPS[name]


def applied(name, x):
    out = np.empty_like(x)
    loop(name)(x, out)
    return out


def arguments(name, dtype):
    """Arguments of all sizes at which the function is defined and does not overflow."""
    rng = np.random.default_rng(5)
    largest = 708.0 if dtype == "float64" else 87.0
    smallest = 300 if dtype == "float64" else 36
    x = [rng.normal(size=300), 8 * rng.normal(size=200), rng.uniform(-1e-3, 1e-3, 100)]
    x.append(10.0 ** rng.uniform(-smallest, 0, 100))
    if name in GROWING:
        x.append(rng.uniform(-largest, largest, 200))
    if name in PERIODIC:
        x += [rng.uniform(-1e5, 1e5, 100), np.arange(1, 200) * np.pi / 2]
        x.append(rng.uniform(-(2.0**45), 2.0**45, 100))
    if name == "log":
        x = [np.abs(values) for values in x]
        x += [1 + 0.01 * rng.normal(size=100), 10.0 ** rng.uniform(-smallest - 8, smallest, 200)]
    if name == "log1p":
        x = [np.where(values <= -1, -values, values) for values in x]
        x += [10.0 ** rng.uniform(-6, 0, 100) - 1, 10.0 ** rng.uniform(0, smallest, 100)]
    values = np.concatenate(x).astype(dtype)
    return values[values > -1] if name == "log1p" else values


def errors(name, x):
    """Errors in units in the last place."""
    info = np.finfo(x.dtype)
    with mpmath.workprec(300):
        for argument, received in zip(x.tolist(), applied(name, x).tolist(), strict=True):
            exact = EXACT[name](mpmath.mpf(argument))
            exponent = int(mpmath.floor(mpmath.log(abs(exact), 2))) if exact else info.minexp
            last = mpmath.ldexp(1, max(exponent, int(info.minexp)) - info.nmant)
            yield float(abs(received - exact) / last), argument


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EXACT)
def test_error(name, dtype):
    error, argument = max(errors(name, arguments(name, dtype)))
    assert error <= ULP[name], f"{name}({argument!r})"


SPECIAL = [np.inf, -np.inf, np.nan, 0.0, -0.0]
EXPECTED = {
    "exp": [np.inf, 0, np.nan, 1, 1],
    "expm1": [np.inf, -1, np.nan, 0.0, -0.0],
    "log": [np.inf, np.nan, np.nan, -np.inf, -np.inf],
    "log1p": [np.inf, np.nan, np.nan, 0.0, -0.0],
    "sin": [np.nan, np.nan, np.nan, 0.0, -0.0],
    "cos": [np.nan, np.nan, np.nan, 1, 1],
    "tan": [np.nan, np.nan, np.nan, 0.0, -0.0],
    "sinh": [np.inf, -np.inf, np.nan, 0.0, -0.0],
    "cosh": [np.inf, np.inf, np.nan, 1, 1],
    "tanh": [1, -1, np.nan, 0.0, -0.0],
    "erf": [1, -1, np.nan, 0.0, -0.0],
    "sigmoid": [1, 0, np.nan, 0.5, 0.5],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EXACT)
def test_special_values(name, dtype):
    received = applied(name, np.array(SPECIAL, dtype))
    expected = np.array(EXPECTED[name], dtype)
    np.testing.assert_array_equal(received, expected)
    np.testing.assert_array_equal(np.signbit(received[3:]), np.signbit(expected[3:]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_overflow_and_underflow(dtype):
    huge = np.array([np.finfo(dtype).max, -np.finfo(dtype).max], dtype)
    assert applied("exp", huge).tolist() == [np.inf, 0]
    assert applied("expm1", huge).tolist() == [np.inf, -1]
    assert applied("sinh", huge).tolist() == [np.inf, -np.inf]
    assert applied("cosh", huge).tolist() == [np.inf, np.inf]
    assert applied("tanh", huge).tolist() == [1, -1]
    assert applied("sigmoid", huge).tolist() == [1, 0]
    assert applied("erf", huge).tolist() == [1, -1]
    tiny = np.array([np.finfo(dtype).smallest_subnormal], dtype)
    for name in ("expm1", "log1p", "sin", "tan", "sinh", "tanh"):
        assert applied(name, tiny) == tiny, name
    assert np.isfinite(applied("log", tiny)).all()


@pytest.mark.parametrize("name", EXACT)
def test_vectorised(name):
    x = np.linspace(0.1, 0.9, 64, dtype=np.float32)
    applied(name, x)
    function = loop(name)
    signature = next(s for s in function.signatures if s[0].dtype.bitwidth == 32)
    assert "x float>" in function.inspect_llvm(signature)
