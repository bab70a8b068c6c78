"""From the graph of a whole batch to the graph of one sample.

A batched field is traced once on all samples, so nothing tells in advance which axis of an
intermediate value is the batch. It is followed through the graph: the batch is a digit of the
row-major position of every entry, and stays one as long as no operation mixes samples.
A value that does not depend on the state is left whole until it meets the batch; what is needed
of it is one row, taken as early as possible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, cast

from ndereg.trace.builder import Builder, node_ranges
from ndereg.trace.graph import Graph, Node
from ndereg.trace.primitives import ELEMENTWISE, REDUCTIONS

__all__ = ["per_sample"]


class Split(NamedTuple):
    """Where the batch is: axis ``axis`` has length ``outer * batch * inner``, in this order."""

    axis: int
    outer: int = 1
    inner: int = 1


_LEADING = Split(0)


class _Coupled(Exception):
    """An operation mixes samples, or cannot be shown not to."""


def per_sample(graph: Graph, batch: int, joint: bool = False) -> Graph | None:
    """Derive the graph of one sample.

    Parameters
    ----------
    graph : Graph
        Traced with ``batch``: inputs ``t`` of shape ``(batch, 1, ..., 1)``, ``y`` and the leaves
        of ``args``, one output of the shape of ``y``.
    batch : int
        Number of samples.
    joint : bool
        Whether the samples were traced as one flat state, ``(batch * n,)``, with one time of shape
        ``()``; so are those of the result, ``(n,)``.

    Returns
    -------
    Graph or None
        With inputs ``t`` of shape ``(1, 1, ..., 1)``, ``y`` of shape ``(1, n)``, the leaves of
        ``args`` whole, and the int64 scalar ``sample``, the row of ``args`` where they have one
        for each sample; the output has shape ``(1, n)``. None where samples are coupled, or
        cannot be shown to be independent.
    """
    names = graph.input_names
    leading = Split(0, 1, graph.nodes[graph.inputs[1]].size // batch) if joint else _LEADING
    try:
        demands = _demanded(graph, batch, leading) if batch != 1 else None
    except _Coupled:
        return None
    b = Builder()
    given: dict[int, int] = {}
    for number, (name, i) in enumerate(zip(names, graph.inputs, strict=True)):
        node = graph.nodes[i]
        shape = (1, *node.shape[1:]) if number < 2 else node.shape
        if joint and number < 2:
            shape = (leading.inner,) if number else ()
        given[i] = b.input(name, shape, node.dtype)
    sample = b.input("sample", (), "int64")
    if demands is None:
        return b.build([b.inline(graph, list(given.values()))[graph.outputs[0]]])
    values: dict[tuple[int, Split | None], int] = {}
    for i, wanted in enumerate(demands):
        for split in sorted(wanted, key=lambda split: split is not None):
            values[i, split] = _placed(b, graph, i, split, batch, given, sample, values)
    return b.build([values[graph.outputs[0], leading]])


# Where the batch is in every node


def _splits(graph: Graph, batch: int, leading: Split) -> list[Split | None]:
    """Return where the batch is in every node that depends on the state or the time."""
    splits: list[Split | None] = []
    for i, node in enumerate(graph.nodes):
        if i in graph.inputs[:2]:
            splits.append(leading if node.shape else None)
            continue
        given = [splits[j] for j in node.inputs]
        shapes = [graph.nodes[j].shape for j in node.inputs]
        free = all(split is None for split in given)
        splits.append(None if free else _result(node, given, shapes, batch))
    return splits


def _result(
    node: Node, given: Sequence[Split | None], shapes: Sequence[tuple[int, ...]], batch: int
) -> Split:
    if node.op == "matmul":
        return _result_of_matmul(node, given)
    known = {split for split in given if split is not None}
    if len(known) != 1:
        raise _Coupled
    (split,) = known
    axis = split.axis
    if node.op == "broadcast":
        return split._replace(axis=axis + len(node.shape) - len(shapes[0]))
    if node.op == "reshape":
        return _checked(_reshaped(split, shapes[0], node.shape, batch))
    if node.op == "permute":
        return split._replace(axis=cast(tuple[int, ...], node.attr("axes")).index(axis))
    if node.op in REDUCTIONS:
        axes = cast(tuple[int, ...], node.attr("axes"))
        if axis in axes:
            raise _Coupled
        return split._replace(axis=axis - sum(i < axis for i in axes))
    if not _leaves_alone(node, axis, shapes[0]):
        raise _Coupled
    return split


def _result_of_matmul(node: Node, given: Sequence[Split | None]) -> Split:
    left, right = given
    rows, columns = len(node.shape) - 2, len(node.shape) - 1
    if left is not None and left.axis == rows and right is None:
        return left
    if right is not None and right.axis == columns and left is None:
        return right
    known = {split for split in given if split is not None}
    if len(known) == 1 and (split := known.pop()).axis < rows:
        return split
    raise _Coupled


def _leaves_alone(node: Node, axis: int, shape: tuple[int, ...]) -> bool:
    """Whether an operation keeps ``axis`` as it is."""
    if node.op in ELEMENTWISE:
        return True
    if node.op in {"slice", "embed"}:
        longer = shape if node.op == "slice" else node.shape
        return node_ranges(node)[axis] == range(longer[axis])
    return node.op in {"concat", "gather", "scatter_add"} and node.attr("axis") != axis


def _reshaped(
    split: Split, before: tuple[int, ...], after: tuple[int, ...], batch: int
) -> Split | None:
    """Find the batch after a reshape; None where it would be spread over several axes."""
    stride = split.inner * math.prod(before[split.axis + 1 :])
    for axis, length in enumerate(after):
        below = math.prod(after[axis + 1 :])
        if below <= stride < below * length and stride % below == 0:
            outer, rest = divmod(below * length, stride * batch)
            return None if rest or not outer else Split(axis, outer, stride // below)
    return None


def _checked(split: Split | None) -> Split:
    if split is None:
        raise _Coupled
    return split


# What is needed of every node


def _demanded(graph: Graph, batch: int, leading: Split) -> list[set[Split | None]]:
    """Return for every node the rows (a split) or the whole (None) that is needed of it."""
    splits = _splits(graph, batch, leading)
    demands: list[set[Split | None]] = [set() for _ in graph.nodes]
    demands[graph.outputs[0]].add(leading)
    for i in reversed(range(len(graph.nodes))):
        node = graph.nodes[i]
        for split in sorted(demands[i], key=lambda split: split is None):
            if splits[i] not in (None, split):
                raise _Coupled
            if i in graph.inputs[:2]:
                continue
            wanted = _operands(graph, node, split, batch)
            if wanted is None:
                demands[i].add(None)
                wanted = [None] * len(node.inputs)
            for j, operand in zip(node.inputs, wanted, strict=True):
                demands[j].add(operand)
    return demands


def _operands(
    graph: Graph, node: Node, split: Split | None, batch: int
) -> Sequence[Split | None] | None:
    """Return what is needed of the operands for the rows ``split`` of a node.

    None if the rows have to be taken of the whole value.
    """
    if split is None:
        return [None] * len(node.inputs)
    if not node.inputs:
        return None
    shapes = [graph.nodes[j].shape for j in node.inputs]
    axis = split.axis
    if node.op == "matmul":
        rows = len(node.shape) - 2
        return [split if axis <= rows else None, split if axis != rows else None]
    if node.op == "broadcast":
        before = axis - len(node.shape) + len(shapes[0])
        repeated = before < 0 or shapes[0][before] != node.shape[axis]
        return [None if repeated else split._replace(axis=before)]
    if node.op == "reshape":
        source = _reshaped(split, node.shape, shapes[0], batch)
        return None if source is None else [source]
    if node.op == "permute":
        return [split._replace(axis=cast(tuple[int, ...], node.attr("axes"))[axis])]
    if node.op in REDUCTIONS:
        axes = cast(tuple[int, ...], node.attr("axes"))
        kept = [i for i in range(len(shapes[0])) if i not in axes]
        return [split._replace(axis=kept[axis])]
    return [split] * len(shapes) if _leaves_alone(node, axis, shapes[0]) else None


# The nodes of the sample's graph


def _local_shape(shape: tuple[int, ...], split: Split) -> tuple[int, ...]:
    return (*shape[: split.axis], split.outer * split.inner, *shape[split.axis + 1 :])


def _placed(
    b: Builder,
    graph: Graph,
    i: int,
    split: Split | None,
    batch: int,
    given: dict[int, int],
    sample: int,
    values: dict[tuple[int, Split | None], int],
) -> int:
    """Add the rows ``split`` (or the whole) of node ``i``."""
    node = graph.nodes[i]
    if i in graph.inputs[:2]:
        return given[i]
    if split is None:
        if node.op == "input":
            return given[i]
        if node.op == "constant":
            return b.constant(graph.constants[cast(int, node.attr("index"))])
        return b.apply(node, [values[j, None] for j in node.inputs])
    wanted = _operands(graph, node, split, batch)
    if wanted is None:
        return _taken(b, values[i, None], split, batch, sample)
    operands = [values[j, s] for j, s in zip(node.inputs, wanted, strict=True)]
    return b.apply(_localized(node, split), operands)


def _localized(node: Node, split: Split) -> Node:
    attrs = node.attrs
    if node.op in {"slice", "embed"}:
        length = split.outer * split.inner
        full = {"starts": 0, "stops": length, "steps": 1}
        attrs = tuple(
            (name, _with_entry(cast(tuple[int, ...], bounds), split.axis, full[name]))
            for name, bounds in attrs
        )
    return replace(node, attrs=attrs, shape=_local_shape(node.shape, split))


def _with_entry(entries: tuple[int, ...], place: int, entry: int) -> tuple[int, ...]:
    return (*entries[:place], entry, *entries[place + 1 :])


def _taken(b: Builder, whole: int, split: Split, batch: int, sample: int) -> int:
    shape = b.shape(whole)
    if split.outer == split.inner == 1:
        return b.take_sample(whole, sample, split.axis)
    before, after = shape[: split.axis], shape[split.axis + 1 :]
    parted = b.reshape(whole, (*before, split.outer, batch, split.inner, *after))
    row = b.take_sample(parted, sample, split.axis + 1)
    return b.reshape(row, _local_shape(shape, split))
