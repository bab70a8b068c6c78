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

import builtins
import importlib
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from array_api_compat import is_jax_array, is_numpy_array, is_torch_array

from ndereg.namespace import namespace_of

__all__ = [
    *("abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "broadcast_to", "clip"),
    *("concat", "conj", "conv", "cos", "cosh", "elu", "erf", "exp", "expand_dims", "expm1", "gelu"),
    *("group_norm", "hypot", "imag", "layer_norm", "lipswish", "log", "log1p", "logaddexp"),
    *("logsumexp", "matmul", "matrix_transpose", "max", "maximum", "mean", "min", "minimum"),
    *("ones_like", "permute_dims", "prod", "real", "relu", "reshape", "scan", "sigmoid", "sign"),
    *("silu", "sin", "sinh", "softmax", "softplus", "sqrt", "square", "squeeze", "stack", "sum"),
    *("tan", "tanh", "where", "zeros_like"),
]

Array = Any


def _unary(name: str, summary: str) -> Callable[[Array], Array]:
    def function(x: Array, /) -> Array:
        return getattr(namespace_of(x), name)(x)

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
    xp = namespace_of(x)
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
    xp = namespace_of(x, y)
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
    return namespace_of(condition, x, y).where(condition, x, y)


def clip(x: Array, /, low: Any = None, high: Any = None) -> Array:
    """Limit entries to ``[low, high]``; None leaves that side open."""
    if low is not None:
        x = maximum(x, low)
    return x if high is None else minimum(x, high)


# Products, reductions, shapes


def matmul(x: Array, y: Array, /) -> Array:
    """Matrix product over the last two axes."""
    return namespace_of(x, y).matmul(x, y)


def sum(x: Array, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """Sum over axes."""
    return namespace_of(x).sum(x, axis=axis, keepdims=keepdims)


def prod(
    x: Array, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False
) -> Array:
    """Product over axes."""
    return namespace_of(x).prod(x, axis=axis, keepdims=keepdims)


def mean(
    x: Array, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False
) -> Array:
    """Arithmetic mean over axes."""
    return namespace_of(x).mean(x, axis=axis, keepdims=keepdims)


def max(x: Array, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """Largest entry over axes; entries that tie share the derivative equally."""
    return namespace_of(x).max(x, axis=axis, keepdims=keepdims)


def min(x: Array, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """Smallest entry over axes; entries that tie share the derivative equally."""
    return namespace_of(x).min(x, axis=axis, keepdims=keepdims)


def reshape(x: Array, shape: int | Sequence[int], /) -> Array:
    """Reshape in row-major order; one length may be -1."""
    lengths = (shape,) if isinstance(shape, int) else tuple(shape)
    return namespace_of(x).reshape(x, lengths)


def broadcast_to(x: Array, shape: Sequence[int], /) -> Array:
    """Broadcast to ``shape``."""
    return namespace_of(x).broadcast_to(x, tuple(shape))


def expand_dims(x: Array, /, *, axis: int) -> Array:
    """Insert an axis of length 1."""
    return namespace_of(x).expand_dims(x, axis=axis)


def squeeze(x: Array, /, *, axis: int | tuple[int, ...]) -> Array:
    """Drop axes of length 1."""
    return namespace_of(x).squeeze(x, axis=axis)


def permute_dims(x: Array, axes: Sequence[int], /) -> Array:
    """Permute axes."""
    return namespace_of(x).permute_dims(x, tuple(axes))


def matrix_transpose(x: Array, /) -> Array:
    """Swap the last two axes."""
    return namespace_of(x).matrix_transpose(x)


def concat(arrays: Sequence[Array], /, *, axis: int = 0) -> Array:
    """Join arrays along an axis."""
    return namespace_of(*arrays).concat(list(arrays), axis=axis)


def stack(arrays: Sequence[Array], /, *, axis: int = 0) -> Array:
    """Join arrays along a new axis."""
    return namespace_of(*arrays).stack(list(arrays), axis=axis)


def zeros_like(x: Array, /) -> Array:
    """Zeros in the shape and dtype of ``x``."""
    return namespace_of(x).zeros_like(x)


def ones_like(x: Array, /) -> Array:
    """Ones in the shape and dtype of ``x``."""
    return namespace_of(x).ones_like(x)


# Special functions and activations


def erf(x: Array, /) -> Array:
    """Error function: the framework's own, ``math.erf`` for NumPy."""
    xp = namespace_of(x)
    if is_jax_array(x):
        return importlib.import_module("jax.scipy.special").erf(x)
    if hasattr(xp, "erf"):
        return xp.erf(x)
    flat = xp.reshape(x, (-1,))
    entries = flat.tolist() if is_numpy_array(x) else map(float, flat)
    return xp.reshape(xp.asarray(list(map(math.erf, entries)), dtype=x.dtype), x.shape)


def sigmoid(x: Array, /) -> Array:
    """Logistic function ``1 / (1 + exp(-x))``."""
    xp = namespace_of(x)
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


# Convolutions, normalizations, recurrences


def conv(
    x: Array,
    weight: Array,
    /,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
) -> Array:
    """Cross-correlate with kernels over the last axes, what networks call a convolution.

    PyTorch and JAX compute it themselves; elsewhere it is one product of matrices.

    Parameters
    ----------
    x : array, shape (N, channels, *lengths)
        With one or two lengths.
    weight : array, shape (outputs, channels, *kernel)
    stride, padding : int, or one a length
        Distance between the places of the kernel; zeros put at both ends.

    Returns
    -------
    array, shape (N, outputs, *places)
        With ``places = (length + 2 padding - kernel) // stride + 1``.

    Raises
    ------
    ValueError
        If the shapes do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> conv(np.arange(4.0).reshape(1, 1, 4), np.ones((1, 1, 3)), padding=1)
    array([[[1., 3., 6., 5.]]])
    """
    count = len(x.shape) - 2
    if count not in (1, 2) or len(weight.shape) != count + 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(
            "expected x (N, channels, *lengths) and weight (outputs, channels, *kernel) with one "
            f"or two lengths, received shapes {tuple(x.shape)} and {tuple(weight.shape)}; try "
            "expand_dims for an axis that is absent"
        )
    strides = (stride,) * count if isinstance(stride, int) else tuple(stride)
    pads = (padding,) * count if isinstance(padding, int) else tuple(padding)
    if is_torch_array(x):
        convolve = getattr(importlib.import_module("torch"), f"conv{count}d")
        return convolve(x, weight, stride=strides, padding=pads)
    if is_jax_array(x):
        convolve = importlib.import_module("jax.lax").conv_general_dilated
        return convolve(x, weight, strides, [(pad, pad) for pad in pads])
    return _conv_by_matmul(x, weight, strides, pads)


def _conv_by_matmul(
    x: Array, weight: Array, strides: tuple[int, ...], pads: tuple[int, ...]
) -> Array:
    """Lay the shifted images side by side; the kernels are then rows of a matrix."""
    outputs, channels, *kernel = weight.shape
    for axis, pad in enumerate(pads, start=2):
        if pad:
            shape = (*x.shape[:axis], pad, *x.shape[axis + 1 :])
            zeros = broadcast_to(zeros_like(x[(0,) * len(x.shape)]), shape)
            x = concat([zeros, x, zeros], axis=axis)
    lengths = x.shape[2:]
    places = tuple(
        (length - size) // step + 1
        for length, size, step in zip(lengths, kernel, strides, strict=True)
    )
    if builtins.min(places) < 1:
        raise ValueError(
            f"expected padded lengths of at least the kernel's, {tuple(kernel)}, received "
            f"{tuple(lengths)}; try a larger padding"
        )
    # the channels first: what is copied below is then copied in runs along the last axis
    x = permute_dims(x, (1, 0, *range(2, 2 + len(kernel))))
    shifted = []
    for offset in itertools.product(*map(range, kernel)):
        window = (
            slice(start, start + step * (count - 1) + 1, step)
            for start, step, count in zip(offset, strides, places, strict=True)
        )
        shifted.append(x[(slice(None), slice(None), *window)])
    samples = x.shape[1]
    columns = reshape(stack(shifted, axis=1), (channels * math.prod(kernel), -1))
    product = reshape(weight, (outputs, -1)) @ columns
    product = reshape(product, (outputs, samples, *places))
    return permute_dims(product, (1, 0, *range(2, 2 + len(kernel))))


def group_norm(
    x: Array, groups: int, weight: Any = None, bias: Any = None, /, *, epsilon: float = 1e-5
) -> Array:
    """Normalize groups of channels to mean 0 and variance 1 (Wu and He, ECCV 2018).

    Parameters
    ----------
    x : array, shape (N, channels, *lengths)
    groups : int
        A divisor of ``channels``.
    weight, bias : array, shape (channels,), optional
        Scale and shift afterwards.
    epsilon : float
        Added to the variance.
    """
    shape = tuple(x.shape)
    parts = reshape(x, (shape[0], groups, math.prod(shape[1:]) // groups))
    normal = reshape(_normal(parts, -1, epsilon), shape)
    return _scaled(normal, weight, bias, (shape[1], *(1,) * (len(shape) - 2)))


def layer_norm(
    x: Array, weight: Any = None, bias: Any = None, /, *, axes: int = 1, epsilon: float = 1e-5
) -> Array:
    """Normalize the last ``axes`` axes to mean 0 and variance 1 (Ba et al. 2016).

    Parameters
    ----------
    x : array
    weight, bias : array, optional
        Scale and shift afterwards, in the shape of the last ``axes`` axes.
    axes : int
    epsilon : float
        Added to the variance.
    """
    last = tuple(range(-axes, 0))
    return _scaled(_normal(x, last, epsilon), weight, bias, tuple(x.shape[len(x.shape) - axes :]))


def _normal(x: Array, axis: int | tuple[int, ...], epsilon: float) -> Array:
    centred = x - mean(x, axis=axis, keepdims=True)
    return centred / sqrt(mean(centred * centred, axis=axis, keepdims=True) + epsilon)


def _scaled(x: Array, weight: Any, bias: Any, shape: tuple[int, ...]) -> Array:
    if weight is not None:
        x = x * reshape(weight, shape)
    return x if bias is None else x + reshape(bias, shape)


def scan(
    step: Callable[[Any, Array], Any], carry: Any, xs: Array, /, *,
    reverse: bool = False, every: bool = False,
) -> Any:  # fmt: skip
    """Fold ``carry = step(carry, x)`` over the first axis of ``xs``.

    JAX runs it as ``lax.scan``, whose size does not grow with the length; elsewhere it is a loop,
    unrolled where it is traced.

    Parameters
    ----------
    step : callable
    carry : array
        Its shape and dtype do not change.
    xs : array
        One entry of the first axis a step.
    reverse : bool
        From the last entry to the first.
    every : bool
        Return all carries; the carry is then an array.

    Returns
    -------
    array
        The last ``carry``, or of every entry of ``xs`` the one after it was read.

    Examples
    --------
    >>> import numpy as np
    >>> scan(lambda carry, x: 2 * carry + x, np.array(0.0), np.array([1.0, 2.0, 3.0]))
    np.float64(11.0)
    """
    if is_jax_array(xs) or is_jax_array(carry):
        fold = importlib.import_module("jax.lax").scan

        def pair(c: Any, x: Array) -> tuple[Any, Any]:
            after = step(c, x)
            return after, after if every else None

        return fold(pair, carry, xs, reverse=reverse)[every]
    order = range(xs.shape[0])
    carries = []
    for i in reversed(order) if reverse else order:
        carry = step(carry, xs[i])
        carries.append(carry)
    return stack(carries[::-1] if reverse else carries) if every else carry
