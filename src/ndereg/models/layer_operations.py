"""Operations of programs that are products, contractions, normalizations and windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from ndereg import ops
from ndereg.models.array_operations import (
    MOST_ENTRIES,
    Array,
    lengths_of,
    matmul,
    pad,
    stack,
)
from ndereg.namespace import namespace_of


def linear(x: Array, weight: Array, bias: Any = None) -> Array:
    """``x`` times the transposed weight, plus the bias; weights as in ``torch.nn.Linear``."""
    product = matmul(x, ops.matrix_transpose(weight))
    return product if bias is None else product + bias


def einsum(equation: str, *operands: Array) -> Array:
    """Einstein summation."""
    if not isinstance(equation, str) or len(equation) > 200:
        raise ValueError(f"expected an einsum equation, received {equation!r:.80}")
    labels = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, operand in zip(labels[0].split(","), operands, strict=True):
        if "." not in term:
            sizes |= dict(zip(term, operand.shape, strict=False))
    if math.prod(sizes.get(label, 1) for label in labels[2]) > MOST_ENTRIES:
        raise ValueError(f"expected at most {MOST_ENTRIES} entries in the result of an einsum")
    return namespace_of(*operands).einsum(equation, *operands)


def contract(
    x: Array, y: Array, over: Sequence[Sequence[int]], batch: Sequence[Sequence[int]]
) -> Array:
    """Sum of products over axes, beside batch axes: ``lax.dot_general``."""
    (over_x, over_y), (batch_x, batch_y) = over, batch
    rows = [i for i in range(len(x.shape)) if i not in (*over_x, *batch_x)]
    columns = [i for i in range(len(y.shape)) if i not in (*over_y, *batch_y)]
    inner = math.prod(x.shape[i] for i in over_x)
    shared = [x.shape[i] for i in batch_x]
    n, m = [x.shape[i] for i in rows], [y.shape[i] for i in columns]
    lengths_of([*shared, *n, *m])
    left = ops.permute_dims(x, (*batch_x, *rows, *over_x))
    right = ops.permute_dims(y, (*batch_y, *over_y, *columns))
    if len(n) != 1 or len(over_x) != 1:
        left = ops.reshape(left, (*shared, math.prod(n), inner))
    if len(m) != 1 or len(over_x) != 1:
        right = ops.reshape(right, (*shared, inner, math.prod(m)))
    product = ops.matmul(left, right)
    return product if len(n) == len(m) == 1 else ops.reshape(product, (*shared, *n, *m))


def layer_norm(
    x: Array, axes: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Array:
    """Normalise the last ``axes`` axes to mean 0 and variance 1, then scale and shift."""
    return ops.layer_norm(x, weight, bias, axes=axes, epsilon=eps)


def group_norm(
    x: Array,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    axis: int = 1,
    batch: int = 1,
) -> Array:
    """Normalise groups of channels, with everything else but the first ``batch`` axes.

    ``axis`` is the one of the channels.
    """
    shape = tuple(x.shape)
    axis %= len(shape)
    if axis == batch == 1:
        return ops.group_norm(x, groups, weight, bias, epsilon=eps)
    grouped = (*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    x = ops.reshape(x, grouped)
    over = tuple(i for i in range(batch, len(grouped)) if i != axis)
    centred = x - ops.mean(x, axis=over, keepdims=True)
    x = centred / ops.sqrt(ops.mean(ops.square(centred), axis=over, keepdims=True) + eps)
    x = ops.reshape(x, shape)
    channels = (shape[axis],) + (1,) * (len(shape) - axis - 1)
    x = x if weight is None else x * ops.reshape(weight, channels)
    return x if bias is None else x + ops.reshape(bias, channels)


def batch_norm(
    x: Array, mean: Array, variance: Array, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Array:
    """Scale and shift channels, axis 1, by statistics that are known."""
    channels = (-1,) + (1,) * (len(x.shape) - 2)
    scale = 1 / ops.sqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    x = (x - ops.reshape(mean, channels)) * ops.reshape(scale, channels)
    return x if bias is None else x + ops.reshape(bias, channels)


def windows(
    x: Array, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[Array]:
    """Entries of ``x`` under each place of a window that moves over the last axes."""
    count = len(size)
    spatial = x.shape[len(x.shape) - count :]
    places = [
        (length - step * (extent - 1) - 1) // move + 1
        for length, extent, move, step in zip(spatial, size, stride, dilation, strict=True)
    ]
    if min(places) < 1 or math.prod(size) > 10_000:
        raise ValueError(f"expected a window that fits into {tuple(spatial)}, received {size}")
    found = []
    for offsets in itertools.product(*(range(extent) for extent in size)):
        key = tuple(
            slice(o * step, o * step + (n - 1) * move + 1, move)
            for o, step, n, move in zip(offsets, dilation, places, stride, strict=True)
        )
        found.append(x[(..., *key)])
    return found


def convolution(
    x: Array,
    weight: Array,
    bias: Any = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[Sequence[int]] = ((0, 0),),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Array:
    """Correlate ``x``, ``(N, C, ...)`` or ``(C, ...)``, with kernels ``(O, C / groups, ...)``."""
    count = len(weight.shape) - 2
    lone = len(x.shape) == count + 1
    x = ops.expand_dims(x, axis=0) if lone else x
    before = tuple(a for a, _ in padding)
    if any(a != b for a, b in padding):
        x = pad(x, [(0, 0), (0, 0), *padding])
        before = (0,) * count
    if groups == 1 and count in (1, 2) and all(step == 1 for step in dilation):
        result = ops.conv(x, weight, stride=tuple(stride), padding=before)
    else:
        x = pad(x, [(0, 0), (0, 0), *((n, n) for n in before)])
        result = _grouped_convolution(x, weight, stride, dilation, groups)
    if bias is not None:
        result = result + ops.reshape(bias, (-1,) + (1,) * count)
    return ops.squeeze(result, axis=0) if lone else result


def _grouped_convolution(x: Array, weight: Array, stride: Any, dilation: Any, groups: int) -> Array:
    samples = x.shape[0]
    outputs, per_group, *kernel = weight.shape
    under = windows(x, kernel, stride, dilation)
    places = tuple(under[0].shape[2:])
    rows, columns = per_group * math.prod(kernel), math.prod(places)
    patches = ops.reshape(stack(under, axis=2), (samples, groups, rows, columns))
    product = matmul(ops.reshape(weight, (groups, outputs // groups, rows)), patches)
    return ops.reshape(product, (samples, outputs, *places))


def average_pool(
    x: Array, size: Sequence[int], stride: Sequence[int], padding: Sequence[Sequence[int]]
) -> Array:
    """Mean over windows of the last axes; padded zeros count."""
    widths = [(0, 0)] * (len(x.shape) - len(size)) + [tuple(p) for p in padding]
    x = pad(x, widths) if any(a or b for a, b in widths) else x
    under = windows(x, size, stride, (1,) * len(size))
    total = under[0]
    for part in under[1:]:
        total = total + part
    return total / len(under)


def max_pool(
    x: Array, size: Sequence[int], stride: Sequence[int], padding: Sequence[Sequence[int]]
) -> Array:
    """Largest entry of windows of the last axes."""
    widths = [(0, 0)] * (len(x.shape) - len(size)) + [tuple(p) for p in padding]
    x = pad(x, widths, -math.inf) if any(a or b for a, b in widths) else x
    under = windows(x, size, stride, (1,) * len(size))
    return ops.max(stack(under), axis=0)
