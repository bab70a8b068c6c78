"""Products, contractions and norms of traced arrays."""

# Names are those of the array API, some of them also Python's.
# ruff: noqa: A002

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ndereg.trace import elementwise, reductions
from ndereg.trace.errors import TraceError, UnknownFunctionError
from ndereg.trace.shaping import (
    diagonal,
    expand_dims,
    matrix_transpose,
    moveaxis,
    permute_dims,
    reshape,
    stack,
)
from ndereg.trace.value import (
    broadcast_shapes,
    current_builder,
    lift,
    normalized_axes,
    normalized_axis,
    promoted_dtype,
    wrap,
)

if TYPE_CHECKING:
    from ndereg.trace.array import TracedArray

__all__ = [
    "cross",
    "diagonal",
    "dot",
    "einsum",
    "inner",
    "matmul",
    "matrix_norm",
    "matrix_transpose",
    "norm",
    "outer",
    "tensordot",
    "trace",
    "vdot",
    "vecdot",
    "vector_norm",
]


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    raise UnknownFunctionError(
        f"linalg.{name}",
        "it is not among the functions that can be traced",
        f"one of {', '.join(__all__)}",
    )


def _pair(x: Any, y: Any) -> tuple[TracedArray, TracedArray]:
    dtype = promoted_dtype(x, y)
    if dtype == "bool":
        raise TraceError("a product of boolean arrays", "it is not supported", "a cast to a number")
    return wrap(lift(x, dtype)), wrap(lift(y, dtype))


def matmul(x: Any, y: Any, /) -> TracedArray:
    """Matrix product; vectors stand as a row on the left, as a column on the right."""
    left, right = _pair(x, y)
    if left.ndim == 0 or right.ndim == 0:
        raise ValueError("matmul: expected operands with at least one axis; try multiply")
    a = reshape(left, (1, left.size)) if left.ndim == 1 else left
    b = reshape(right, (right.size, 1)) if right.ndim == 1 else right
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul: shapes {left.shape} and {right.shape} do not fit together")
    broadcast_shapes("matmul of stacked matrices", a.shape[:-2], b.shape[:-2])
    product = wrap(current_builder().matmul(a._index, b._index))
    rows = product.shape[-2:-1] if left.ndim > 1 else ()
    columns = product.shape[-1:] if right.ndim > 1 else ()
    return reshape(product, (*product.shape[:-2], *rows, *columns))


def dot(x: Any, y: Any, /) -> TracedArray:
    """NumPy's dot: over the last axis of ``x`` and the last but one of ``y``."""
    left, right = _pair(x, y)
    if left.ndim == 0 or right.ndim == 0:
        return elementwise.multiply(left, right)
    if right.ndim <= 2:
        return matmul(left, right)
    return tensordot(left, right, axes=((left.ndim - 1,), (right.ndim - 2,)))


def inner(x: Any, y: Any, /) -> TracedArray:
    """Sum over the last axes of both."""
    left, right = _pair(x, y)
    if left.ndim == 0 or right.ndim == 0:
        return elementwise.multiply(left, right)
    return tensordot(left, right, axes=((left.ndim - 1,), (right.ndim - 1,)))


def vdot(x: Any, y: Any, /) -> TracedArray:
    """Sum of the products of all entries, the first conjugated."""
    left, right = _pair(x, y)
    return matmul(elementwise.conj(reshape(left, (left.size,))), reshape(right, (right.size,)))


def vecdot(x: Any, y: Any, /, *, axis: int = -1) -> TracedArray:
    """Sum of products along an axis, the first factor conjugated."""
    left, right = _pair(x, y)
    return reductions.sum(elementwise.multiply(elementwise.conj(left), right), axis)


def outer(x: Any, y: Any, /) -> TracedArray:
    """Products of every entry of ``x`` with every one of ``y``."""
    left, right = _pair(x, y)
    return reshape(left, (left.size, 1)) * reshape(right, (1, right.size))


def tensordot(x: Any, y: Any, /, axes: Any = 2, **named: Any) -> TracedArray:
    """Contract axes of ``x`` with axes of ``y``: a count, or the two tuples of axes."""
    left, right = _pair(x, y)
    if isinstance(axes, (int, np.integer)):
        over_x = tuple(range(left.ndim - int(axes), left.ndim))
        over_y = tuple(range(int(axes)))
    else:
        over_x, over_y = (tuple(np.atleast_1d(part).tolist()) for part in axes)
    over_x = tuple(normalized_axis(i, left.ndim) for i in over_x)
    over_y = tuple(normalized_axis(i, right.ndim) for i in over_y)
    if [left.shape[i] for i in over_x] != [right.shape[i] for i in over_y]:
        raise ValueError(f"tensordot: shapes {left.shape}, {right.shape} do not fit on {axes}")
    kept_x = [i for i in range(left.ndim) if i not in over_x]
    kept_y = [i for i in range(right.ndim) if i not in over_y]
    k = math.prod(left.shape[i] for i in over_x)
    rows, columns = [left.shape[i] for i in kept_x], [right.shape[i] for i in kept_y]
    a = reshape(permute_dims(left, [*kept_x, *over_x]), (math.prod(rows), k))
    b = reshape(permute_dims(right, [*over_y, *kept_y]), (k, math.prod(columns)))
    return reshape(matmul(a, b), (*rows, *columns))


def trace(x: Any, /, offset: int = 0, axis1: int = 0, axis2: int = 1) -> TracedArray:
    """Sum of the diagonal of the matrices in two axes."""
    return reductions.sum(diagonal(x, offset, axis1, axis2), -1)


def cross(x: Any, y: Any, /, *, axis: int = -1) -> TracedArray:
    """Vector product in three dimensions."""
    left, right = _pair(x, y)
    left, right = moveaxis(left, axis, -1), moveaxis(right, axis, -1)
    if left.shape[-1] != 3 or right.shape[-1] != 3:
        raise ValueError(f"cross: expected 3 entries along axis {axis}")
    a, b = ([v[..., i] for i in range(3)] for v in (left, right))
    parts = [a[i - 2] * b[i - 1] - a[i - 1] * b[i - 2] for i in range(3)]
    return moveaxis(stack(parts, -1), -1, axis)


# Norms


def vector_norm(
    x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: float = 2
) -> TracedArray:
    """Norm of the entries over axes, all of them for None."""
    array = wrap(lift(x))
    if array.dtype.kind in "bi":
        array = elementwise.astype(array, "float64")
    size = elementwise.absolute(array)
    if ord == math.inf:
        return reductions.max(size, axis, keepdims=keepdims)
    if ord == -math.inf:
        return reductions.min(size, axis, keepdims=keepdims)
    if ord == 0:
        count = reductions.count_nonzero(array, axis, keepdims=keepdims)
        return elementwise.astype(count, size.dtype)
    if ord == 1:
        return reductions.sum(size, axis, keepdims=keepdims)
    if ord == 2:
        squares = elementwise.real(array) ** 2
        if array.dtype.kind == "c":
            squares = squares + elementwise.imag(array) ** 2
        return elementwise.sqrt(reductions.sum(squares, axis, keepdims=keepdims))
    return reductions.sum(size**ord, axis, keepdims=keepdims) ** (1 / ord)


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> TracedArray:
    """Frobenius norm over the last two axes."""
    if ord != "fro":
        raise TraceError(f"matrix_norm with ord={ord!r}", "it is not supported", "ord='fro'")
    return vector_norm(x, axis=(-2, -1), keepdims=keepdims)


def norm(x: Any, /, ord: Any = None, axis: Any = None, keepdims: bool = False) -> TracedArray:
    """NumPy's norm: of vectors, and the Frobenius norm of matrices."""
    array = wrap(lift(x))
    if ord is None or ord == "fro":
        return vector_norm(array, axis=axis, keepdims=keepdims)
    if len(normalized_axes(axis, array.ndim)) != 1:
        raise TraceError(f"the matrix norm ord={ord!r}", "it is not supported", "ord='fro'")
    return vector_norm(array, axis=axis, keepdims=keepdims, ord=ord)


# Einstein summation


def einsum(subscripts: Any, /, *operands: Any, optimize: Any = False) -> TracedArray:
    """Einstein summation, two operands at a time from the left, each a matrix product."""
    if not isinstance(subscripts, str):
        raise TraceError("einsum with lists of axes", "it is not supported", "a subscript string")
    dtype = promoted_dtype(*operands)
    arrays = [wrap(lift(x, dtype)) for x in operands]
    terms, result = _parsed(subscripts, [x.ndim for x in arrays])
    pairs = [_without_repeats(x, term) for x, term in zip(arrays, terms, strict=True)]
    while len(pairs) > 1:
        later = set(result).union(*(term for _, term in pairs[2:]))
        pairs = [_contracted(pairs[0], pairs[1], later), *pairs[2:]]
    array, term = _summed_out(*pairs[0], set(result))
    return permute_dims(array, [term.index(label) for label in result])


def _parsed(subscripts: str, ndims: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    text = subscripts.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(ndims):
        raise ValueError(f"einsum: {len(terms)} subscripts for {len(ndims)} operands")
    width = max(
        (n - len(term) + 3 for term, n in zip(terms, ndims, strict=True) if "..." in term),
        default=0,
    )
    dots = [f"...{i}" for i in range(width)]

    def labels(term: str, count: int) -> list[str]:
        if "..." not in term:
            return list(term)
        before, _, after = term.partition("...")
        return [*before, *dots[width - count :], *after]

    split = [labels(t, n - len(t) + 3) for t, n in zip(terms, ndims, strict=True)]
    for term, n in zip(split, ndims, strict=True):
        if len(term) != n:
            raise ValueError(f"einsum: {subscripts!r} does not fit operands with {ndims} axes")
    if arrow:
        return split, labels(right, width)
    letters = [label for label in itertools.chain(*split) if len(label) == 1]
    return split, dots + sorted(label for label in set(letters) if letters.count(label) == 1)


def _without_repeats(array: TracedArray, term: list[str]) -> tuple[TracedArray, list[str]]:
    for label in term:
        while term.count(label) > 1:
            i = term.index(label)
            j = term.index(label, i + 1)
            array = diagonal(array, 0, i, j)
            term = [*(t for k, t in enumerate(term) if k not in (i, j)), label]
    return array, term


def _summed_out(
    array: TracedArray, term: list[str], kept: set[str]
) -> tuple[TracedArray, list[str]]:
    axes = tuple(i for i, label in enumerate(term) if label not in kept)
    if not axes:
        return array, term
    return reductions.sum(array, axes), [label for label in term if label in kept]


def _contracted(
    one: tuple[TracedArray, list[str]], two: tuple[TracedArray, list[str]], later: set[str]
) -> tuple[TracedArray, list[str]]:
    a, in_a = _summed_out(*one, later | set(two[1]))
    b, in_b = _summed_out(*two, later | set(in_a))
    shared = [label for label in in_a if label in in_b]
    over = [label for label in shared if label not in later]
    batch = [label for label in shared if label in later]
    rows = [label for label in in_a if label not in shared]
    columns = [label for label in in_b if label not in shared]
    lengths = dict(zip(in_b, b.shape, strict=True)) | {
        label: n for label, n in zip(in_a, a.shape, strict=True) if n != 1
    }
    term = [*batch, *rows, *columns]
    if not over:
        # Without a sum it is an outer product over the rows and columns.
        left = _aligned(a, in_a, term)
        return left * _aligned(b, in_b, term), term
    a = _blocked(a, in_a, (batch, rows, over), lengths)
    b = _blocked(b, in_b, (batch, over, columns), lengths)
    return reshape(matmul(a, b), tuple(lengths.get(label, 1) for label in term)), term


def _aligned(array: TracedArray, term: list[str], order: list[str]) -> TracedArray:
    present = [label for label in order if label in term]
    moved = permute_dims(array, [term.index(label) for label in present])
    return expand_dims(moved, tuple(i for i, label in enumerate(order) if label not in term))


def _blocked(
    array: TracedArray,
    term: list[str],
    groups: tuple[list[str], list[str], list[str]],
    lengths: dict[str, int],
) -> TracedArray:
    batch, first, second = groups
    moved = permute_dims(array, [term.index(label) for label in (*batch, *first, *second)])
    wide = wrap(
        current_builder().broadcast(
            moved._index, tuple(lengths.get(label, 1) for label in (*batch, *first, *second))
        )
    )
    sizes = [math.prod(lengths.get(label, 1) for label in group) for group in (first, second)]
    return reshape(wide, (*wide.shape[: len(batch)], *sizes))


def matvec(x: Any, y: Any, /) -> TracedArray:
    """Products of matrices and vectors over the leading axes."""
    vector = wrap(lift(y))
    product = matmul(x, expand_dims(vector, vector.ndim))
    return reshape(product, product.shape[:-1])
