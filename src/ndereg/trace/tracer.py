"""Calling a field once with symbolic arrays."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ndereg.structure import Structure, check_leaves, flatten
from ndereg.trace.builder import Builder
from ndereg.trace.errors import TraceError, locate
from ndereg.trace.graph import Graph
from ndereg.trace.primitives import real_dtype
from ndereg.trace.value import building, lift, wrap

__all__ = ["trace"]

Shapes = Sequence[tuple[int, ...]]


def trace(
    field: Callable[[Any, Any, Any], Any],
    *,
    state_structure: Structure,
    state_shapes: Shapes,
    state_dtypes: Sequence[str],
    dtype: str,
    args_structure: Structure,
    args_shapes: Shapes,
    args_dtypes: Sequence[str],
    batch: int | None = None,
    result_shapes: Shapes | None = None,
    what: str = "the result of the field",
) -> Graph:
    """Trace a vector field.

    Parameters
    ----------
    field : callable
        ``field(t, y, args)``, called once.
    state_structure, state_shapes, state_dtypes
        The nested state: one shape and dtype a leaf, in the order of
        :func:`~ndereg.structure.flatten`. With ``batch``, shapes include the leading batch axis.
    dtype : str
        The dtype of the flat state, to which the leaves' dtypes promote.
    args_structure, args_shapes, args_dtypes
        The same for ``args``.
    batch : int, optional
        Number of samples of a state that is solved sample by sample.
    result_shapes : sequence of tuple of int, optional
        Shapes of the leaves of the result; None are those of the state.
    what : str
        Name of the result in errors.

    Returns
    -------
    Graph
        With inputs ``t`` (in the real dtype of the flat state; with ``batch`` of shape
        ``(B, 1, ..., 1)`` with the leaves' number of axes, ``(B,)`` where that differs), ``y``
        (flat: ``(n,)``, or ``(B, n)``) and the leaves of ``args``; and one output, the flat
        derivative, of the shape and dtype of ``y``, or as long as ``result_shapes`` are.

    Raises
    ------
    TraceError
        The field does something that cannot be traced.
    TypeError, ValueError
        Its result has not the structure, shapes or dtypes of the state.
    """
    builder = Builder()
    lead = () if batch is None else (batch,)
    sizes = [math.prod(shape[len(lead) :]) for shape in state_shapes]
    with building(builder):
        time = builder.input("t", _time_shape(state_shapes, batch), real_dtype(dtype))
        flat = builder.input("y", (*lead, sum(sizes)), dtype)
        names = args_structure.paths("args")
        arguments = [
            builder.input(name, shape, kind)
            for name, shape, kind in zip(names, args_shapes, args_dtypes, strict=True)
        ]
        leaves = _split(builder, flat, sizes, state_shapes, state_dtypes)
        state = state_structure.unflatten([wrap(i) for i in leaves])
        args = args_structure.unflatten([wrap(i) for i in arguments])
        result = _called(field, wrap(time), state, args)
        like = "the state" if result_shapes is None else "the state with its noise"
        wanted = state_shapes if result_shapes is None else result_shapes
        received = _leaves(result, what, like, state_structure, wanted, state_dtypes, dtype)
        if result_shapes is not None:
            sizes = [math.prod(shape[len(lead) :]) for shape in result_shapes]
        parts = [
            builder.reshape(lift(x, dtype), (*lead, size))
            for x, size in zip(received, sizes, strict=True)
        ]
        return builder.build([builder.concat(parts, len(lead))])


def _leaves(
    result: Any, what: str, like: str, structure: Structure, shapes: Shapes,
    dtypes: Sequence[str], dtype: str,
) -> list[Any]:  # fmt: skip
    """Return the leaves of a result as arrays, refused where they are not as expected."""
    leaves, received = flatten(result)
    # Leaves too many are refused below, whatever their dtype.
    kinds = itertools.chain(dtypes, itertools.repeat(dtype))
    arrays = [_as_array(x, kind) for x, kind in zip(leaves, kinds, strict=False)]
    check_leaves(
        what, like=like, expected=structure, shapes=shapes, dtypes=dtypes, received=received,
        received_shapes=[x.shape for x in arrays],
        received_dtypes=[x.dtype.name for x in arrays],
    )  # fmt: skip
    return arrays


def _time_shape(shapes: Shapes, batch: int | None) -> tuple[int, ...]:
    if batch is None:
        return ()
    ndims = {len(shape) for shape in shapes}
    return (batch, *(1,) * (ndims.pop() - 1)) if len(ndims) == 1 else (batch,)


def _split(
    builder: Builder, flat: int, sizes: Sequence[int], shapes: Shapes, dtypes: Sequence[str]
) -> list[int]:
    whole = [range(n) for n in builder.shape(flat)]
    leaves: list[int] = []
    start = 0
    for size, shape, kind in zip(sizes, shapes, dtypes, strict=True):
        part = builder.slice(flat, [*whole[:-1], range(start, start + size)])
        leaves.append(builder.reshape(builder.cast(part, kind), tuple(shape)))
        start += size
    return leaves


def _called(field: Callable[[Any, Any, Any], Any], t: Any, y: Any, args: Any) -> Any:
    try:
        return field(t, y, args)
    except Exception as error:
        refusal: BaseException | None = error
        while refusal is not None and not isinstance(refusal, TraceError):
            # NumPy wraps what goes wrong in a conversion in an error of its own.
            refusal = refusal.__cause__
        if refusal is not None:
            raise refusal from None
        locate(error)
        error.add_note("The field was being traced: t, y and args were symbolic arrays.")
        raise


def _as_array(x: Any, dtype: str) -> Any:
    """Return a leaf of the result as an array; Python numbers take the dtype that is expected."""
    scalars = (int, float, complex) if real_dtype(dtype) != dtype else (int, float)
    weak = isinstance(x, scalars) and not isinstance(x, np.generic)
    return wrap(lift(x, dtype if weak else None))
