"""Running a graph in plain NumPy: the normative meaning of every primitive."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ndereg.trace.graph import Graph, Node

__all__ = ["apply_primitive", "evaluate"]

Array = NDArray[Any]
Kernel = Callable[[Node, Sequence[Array]], Array]


def evaluate(graph: Graph, inputs: Sequence[Any]) -> tuple[Array, ...]:
    """Evaluate a graph.

    Parameters
    ----------
    graph : Graph
    inputs : sequence of array_like
        One for each of ``graph.inputs``, of its shape; dtypes are cast where that loses nothing
        but precision.

    Returns
    -------
    tuple of ndarray
        One for each of ``graph.outputs``; C-contiguous, possibly the inputs themselves.

    Raises
    ------
    ValueError
        The number or the shapes of the inputs are not the graph's.
    """
    if len(inputs) != len(graph.inputs):
        raise ValueError(
            f"expected {len(graph.inputs)} inputs ({', '.join(graph.input_names)}), "
            f"received {len(inputs)}"
        )
    given = dict(zip(graph.inputs, inputs, strict=True))
    values: list[Array] = []
    with np.errstate(all="ignore"):
        for i, node in enumerate(graph.nodes):
            if i in given:
                values.append(_checked_input(node, given[i]))
            elif node.op == "constant":
                values.append(graph.constants[cast(int, node.attr("index"))])
            else:
                values.append(apply_primitive(node, [values[j] for j in node.inputs]))
    return tuple(np.require(values[i], requirements="C") for i in graph.outputs)


def _checked_input(node: Node, value: Any) -> Array:
    array = np.asarray(value)
    if array.shape != node.shape:
        raise ValueError(
            f"input {node.attr('name')!r}: expected shape {node.shape}, received {array.shape}"
        )
    return array.astype(node.dtype, casting="same_kind", copy=False)


def apply_primitive(node: Node, operands: Sequence[Array]) -> Array:
    """Apply one primitive operation to the values of its operands."""
    value = _KERNELS[node.op](node, operands)
    return np.asarray(value, dtype=node.dtype)


def _erf(x: Array) -> Array:
    values = (math.erf(v) for v in x.ravel().tolist())
    return np.fromiter(values, dtype=np.float64, count=x.size).reshape(x.shape)


def _sigmoid(x: Array) -> Array:
    # exp only of what is not positive, so neither tail overflows.
    decay = np.exp(-np.abs(x))
    return cast(Array, np.where(x >= 0, x.dtype.type(1), decay) / (1 + decay))


def _selection(node: Node) -> tuple[slice, ...]:
    starts = cast(tuple[int, ...], node.attr("starts"))
    stops = cast(tuple[int, ...], node.attr("stops"))
    steps = cast(tuple[int, ...], node.attr("steps"))
    return tuple(
        slice(start, None if stop < 0 else stop, step)
        for start, stop, step in zip(starts, stops, steps, strict=True)
    )


def _embed(node: Node, operands: Sequence[Array]) -> Array:
    out = np.zeros(node.shape, node.dtype)
    out[_selection(node)] = operands[0]
    return out


def _at(axis: int, index: Any) -> tuple[Any, ...]:
    return (slice(None),) * axis + (index,)


def _scatter_add(node: Node, operands: Sequence[Array]) -> Array:
    out = np.zeros(node.shape, node.dtype)
    indices = list(cast(tuple[int, ...], node.attr("indices")))
    np.add.at(out, _at(cast(int, node.attr("axis")), indices), operands[0])
    return out


def _take_sample(node: Node, operands: Sequence[Array]) -> Array:
    sample = int(operands[1])
    index = _at(cast(int, node.attr("axis")), slice(sample, sample + 1))
    return cast(Array, operands[0][index])


def _put_sample(node: Node, operands: Sequence[Array]) -> Array:
    out = np.zeros(node.shape, node.dtype)
    sample = int(operands[1])
    out[_at(cast(int, node.attr("axis")), slice(sample, sample + 1))] = operands[0]
    return out


def _elementwise(function: Callable[..., Any]) -> Kernel:
    return lambda node, operands: cast(Array, function(*operands))


def _reduction(function: Callable[..., Any]) -> Kernel:
    return lambda node, operands: cast(Array, function(operands[0], axis=node.attr("axes")))


_KERNELS: dict[str, Kernel] = {
    **{
        name: _elementwise(getattr(np, name))
        for name in (
            *("abs", "sign", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tan"),
            *("sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "arcsinh", "arccosh"),
            *("arctanh", "floor", "ceil", "conj", "real", "imag", "isfinite", "isnan"),
            *("minimum", "maximum", "remainder", "where", "matmul"),
        )
    },
    **{
        name: _elementwise(function)
        for name, function in cast(
            dict[str, Callable[..., Any]],
            {
                "neg": np.negative,
                "round": np.rint,
                "not": np.logical_not,
                "erf": _erf,
                "sigmoid": _sigmoid,
                "add": np.add,
                "sub": np.subtract,
                "mul": np.multiply,
                "div": np.divide,
                "pow": np.power,
                "atan2": np.arctan2,
                "lt": np.less,
                "le": np.less_equal,
                "eq": np.equal,
                "ne": np.not_equal,
                "and": np.logical_and,
                "or": np.logical_or,
            },
        ).items()
    },
    "cast": lambda node, operands: operands[0].astype(node.dtype),
    "broadcast": lambda node, operands: np.broadcast_to(operands[0], node.shape),
    "reshape": lambda node, operands: operands[0].reshape(node.shape),
    "permute": lambda node, operands: operands[0].transpose(
        cast(tuple[int, ...], node.attr("axes"))
    ),
    "slice": lambda node, operands: operands[0][_selection(node)],
    "embed": _embed,
    "concat": lambda node, operands: np.concatenate(operands, axis=cast(int, node.attr("axis"))),
    "gather": lambda node, operands: np.take(
        operands[0],
        np.asarray(node.attr("indices"), dtype=np.intp),
        axis=cast(int, node.attr("axis")),
    ),
    "scatter_add": _scatter_add,
    "take_sample": _take_sample,
    "put_sample": _put_sample,
    "sum": _reduction(np.sum),
    "max": _reduction(np.max),
    "prod": _reduction(np.prod),
}
