"""Functions for fields that run on every backend: on NumPy, PyTorch, JAX and traced arrays alike.

A field written with these (and with operators, indexing and methods that the frameworks share)
is the same source for all of them. Operands are arrays of one framework, or numbers; NumPy
arrays may be mixed with JAX's and traced ones. None of the formulas overflows where its value
does not, and where a derivative has a convention (``relu`` at 0, ties of ``maximum``) it is the
same on every backend.

No framework is imported here; an array brings its own.
"""

# Names are those of the array API, some of them also Python's.
# ruff: noqa: A001

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

from array_api_compat import array_namespace, is_jax_array, is_numpy_array

__all__ = [
    *("abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "broadcast_to", "clip"),
    *("concat", "conj", "cos", "cosh", "elu", "erf", "exp", "expand_dims", "expm1", "gelu"),
    *("hypot", "imag", "lipswish", "log", "log1p", "logaddexp", "logsumexp", "matmul"),
    *("matrix_transpose", "max", "maximum", "mean", "min", "minimum", "ones_like", "permute_dims"),
    *("prod", "real", "relu", "reshape", "sigmoid", "sign", "silu", "sin", "sinh", "softmax"),
    *("softplus", "sqrt", "square", "squeeze", "stack", "sum", "tan", "tanh", "where"),
    "zeros_like",
]

Array = Any


def _namespace(*operands: Any) -> Any:
    arrays = [x for x in operands if not isinstance(x, (bool, int, float, complex))]
    others = [x for x in arrays if not is_numpy_array(x)]
    return array_namespace(*(others or arrays or operands))


def _unary(name: str, summary: str) -> Callable[[Array], Array]:
    def function(x: Array, /) -> Array:
        return getattr(_namespace(x), name)(x)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{summary}, elementwise."
    return function


acos = _unary("acos", "Inverse cosine")
acosh = _unary("acosh", "Inverse hyperbolic cosine")
asin = _unary("asin", "Inverse sine")
asinh = _unary("asinh", "Inverse hyperbolic sine")
atan = _unary("atan", "Inverse tangent")
atanh = _unary("atanh", "Inverse hyperbolic tangent")
conj = _unary("conj", "Complex conjugate")
cos = _unary("cos", "Cosine")
cosh = _unary("cosh", "Hyperbolic cosine")
exp = _unary("exp", "Exponential")
expm1 = _unary("expm1", "``exp(x) - 1``, accurate near 0")
imag = _unary("imag", "Imaginary part")
log = _unary("log", "Natural logarithm")
log1p = _unary("log1p", "``log(1 + x)``, accurate near 0")
real = _unary("real", "Real part")
sign = _unary("sign", "Sign; its derivative is 0")
sin = _unary("sin", "Sine")
sinh = _unary("sinh", "Hyperbolic sine")
sqrt = _unary("sqrt", "Square root")
tan = _unary("tan", "Tangent")
tanh = _unary("tanh", "Hyperbolic tangent")


def square(x: Array, /) -> Array:
    """Square, elementwise."""
    return x * x


def abs(x: Array, /) -> Array:
    """Absolute value, elementwise; its derivative at 0 is 0."""
    xp = _namespace(x)
    if is_jax_array(x) and not xp.isdtype(x.dtype, "complex floating"):
        # JAX's own has derivative 1 at 0.
        return x * xp.sign(x)
    return xp.abs(x)


# Two and three operands


def _like(x: Any, xp: Any, other: Any) -> Any:
    """Make a number an array where the framework's function takes arrays only."""
    if not isinstance(x, (bool, int, float, complex)):
        return x
    return xp.full_like(other, x)


def _pair(x: Any, y: Any) -> tuple[Any, Any, Any]:
    xp = _namespace(x, y)
    return xp, _like(x, xp, y), _like(y, xp, x)


def minimum(x: Array, y: Array, /) -> Array:
    """Smaller entries; at ties each operand takes half of the derivative."""
    xp, x, y = _pair(x, y)
    return xp.minimum(x, y)


def maximum(x: Array, y: Array, /) -> Array:
    """Larger entries; at ties each operand takes half of the derivative."""
    xp, x, y = _pair(x, y)
    return xp.maximum(x, y)


def atan2(y: Array, x: Array, /) -> Array:
    """Angle of the point ``(x, y)``."""
    xp, y, x = _pair(y, x)
    return xp.atan2(y, x)


def hypot(x: Array, y: Array, /) -> Array:
    """Return ``sqrt(x**2 + y**2)``."""
    return sqrt(x * x + y * y)


def logaddexp(x: Array, y: Array, /) -> Array:
    """Return ``log(exp(x) + exp(y))`` without overflow."""
    xp, x, y = _pair(x, y)
    return xp.logaddexp(x, y)


def where(condition: Array, x: Array, y: Array, /) -> Array:
    """Entries of ``x`` where ``condition``, else of ``y``."""
    return _namespace(condition, x, y).where(condition, x, y)


def clip(x: Array, /, low: Any = None, high: Any = None) -> Array:
    """Limit entries to ``[low, high]``; None leaves that side open."""
    if low is not None:
        x = maximum(x, low)
    return x if high is None else minimum(x, high)


# Products, reductions, shapes


def matmul(x: Array, y: Array, /) -> Array:
    """Matrix product over the last two axes."""
    return _namespace(x, y).matmul(x, y)


def sum(x: Array, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """Sum over axes."""
    return _namespace(x).sum(x, axis=axis, keepdims=keepdims)


def prod(
    x: Array, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False
) -> Array:
    """Product over axes."""
    return _namespace(x).prod(x, axis=axis, keepdims=keepdims)


def mean(
    x: Array, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False
) -> Array:
    """Arithmetic mean over axes."""
    return _namespace(x).mean(x, axis=axis, keepdims=keepdims)


def max(x: Array, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """Largest entry over axes; entries that tie share the derivative equally."""
    return _namespace(x).max(x, axis=axis, keepdims=keepdims)


def min(x: Array, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """Smallest entry over axes; entries that tie share the derivative equally."""
    return _namespace(x).min(x, axis=axis, keepdims=keepdims)


def reshape(x: Array, shape: int | Sequence[int], /) -> Array:
    """Reshape in row-major order; one length may be -1."""
    lengths = (shape,) if isinstance(shape, int) else tuple(shape)
    return _namespace(x).reshape(x, lengths)


def broadcast_to(x: Array, shape: Sequence[int], /) -> Array:
    """Broadcast to ``shape``."""
    return _namespace(x).broadcast_to(x, tuple(shape))


def expand_dims(x: Array, /, *, axis: int) -> Array:
    """Insert an axis of length 1."""
    return _namespace(x).expand_dims(x, axis=axis)


def squeeze(x: Array, /, *, axis: int | tuple[int, ...]) -> Array:
    """Drop axes of length 1."""
    return _namespace(x).squeeze(x, axis=axis)


def permute_dims(x: Array, axes: Sequence[int], /) -> Array:
    """Permute axes."""
    return _namespace(x).permute_dims(x, tuple(axes))


def matrix_transpose(x: Array, /) -> Array:
    """Swap the last two axes."""
    return _namespace(x).matrix_transpose(x)


def concat(arrays: Sequence[Array], /, *, axis: int = 0) -> Array:
    """Join arrays along an axis."""
    return _namespace(*arrays).concat(list(arrays), axis=axis)


def stack(arrays: Sequence[Array], /, *, axis: int = 0) -> Array:
    """Join arrays along a new axis."""
    return _namespace(*arrays).stack(list(arrays), axis=axis)


def zeros_like(x: Array, /) -> Array:
    """Zeros in the shape and dtype of ``x``."""
    return _namespace(x).zeros_like(x)


def ones_like(x: Array, /) -> Array:
    """Ones in the shape and dtype of ``x``."""
    return _namespace(x).ones_like(x)


# Special functions and activations


def erf(x: Array, /) -> Array:
    """Error function: the framework's own, ``math.erf`` for NumPy."""
    xp = _namespace(x)
    if is_jax_array(x):
        return importlib.import_module("jax.scipy.special").erf(x)
    if hasattr(xp, "erf"):
        return xp.erf(x)
    flat = xp.reshape(x, (-1,))
    entries = flat.tolist() if is_numpy_array(x) else map(float, flat)
    return xp.reshape(xp.asarray(list(map(math.erf, entries)), dtype=x.dtype), x.shape)


def sigmoid(x: Array, /) -> Array:
    """Logistic function ``1 / (1 + exp(-x))``."""
    xp = _namespace(x)
    if is_jax_array(x):
        return importlib.import_module("jax.nn").sigmoid(x)
    if hasattr(xp, "sigmoid"):
        return xp.sigmoid(x)
    decay = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, xp.ones_like(x), decay) / (1 + decay)


def relu(x: Array, /) -> Array:
    """Positive part; its derivative at 0 is 0. NaN stays NaN."""
    return where(x <= 0, zeros_like(x), x)


def elu(x: Array, /, alpha: float = 1.0) -> Array:
    """``x`` where positive, else ``alpha * (exp(x) - 1)``."""
    # expm1 sees no large argument: an infinity there would make the derivative NaN.
    negative = where(x > 0, zeros_like(x), x)
    return where(x > 0, x, alpha * expm1(negative))


def softplus(x: Array, /) -> Array:
    """Return ``log(1 + exp(x))``."""
    return maximum(x, zeros_like(x)) + log1p(exp(-abs(x)))


def silu(x: Array, /) -> Array:
    """Return ``x * sigmoid(x)``, also known as swish."""
    return x * sigmoid(x)


def lipswish(x: Array, /) -> Array:
    """Return ``0.909 * x * sigmoid(x)``, which has Lipschitz constant 1.

    R. T. Q. Chen et al., "Residual flows for invertible generative modeling", 2019.
    """
    return 0.909 * silu(x)


def gelu(x: Array, /, approximate: bool = False) -> Array:
    """Return ``x`` times the normal distribution function of ``x``.

    ``approximate`` takes the form with tanh of D. Hendrycks and K. Gimpel, "Gaussian error linear
    units", 2016.
    """
    if approximate:
        return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + erf(x * (1 / math.sqrt(2))))


def logsumexp(x: Array, /, *, axis: int, keepdims: bool = False) -> Array:
    """Return the logarithm of the sum of exponentials along an axis, without overflow."""
    largest = max(x, axis=axis, keepdims=True)
    total = log(sum(exp(x - largest), axis=axis, keepdims=True)) + largest
    return total if keepdims else squeeze(total, axis=axis)


def softmax(x: Array, /, *, axis: int = -1) -> Array:
    """Exponentials along an axis, scaled to sum to 1."""
    weights = exp(x - max(x, axis=axis, keepdims=True))
    return weights / sum(weights, axis=axis, keepdims=True)
