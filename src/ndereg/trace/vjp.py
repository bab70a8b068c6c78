"""The vector-Jacobian product of a traced field: two graphs, forwards and backwards.

The forward graph also returns the residuals: those values that the backward graph needs and that
are not worth computing again. Outputs of transcendental functions, matrix products and reductions
are stored; cheap elementwise work and views are repeated where their operands are at hand.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from ndereg.trace.builder import Builder, node_ranges
from ndereg.trace.graph import Graph
from ndereg.trace.primitives import ELEMENTWISE, REDUCTIONS, TRANSCENDENTAL, ZERO_GRADIENT
from ndereg.trace.vjp_rules import pull

__all__ = ["Linearized", "linearize", "pulled_back"]

_DIFFERENTIABLE = ("float32", "float64", "complex64", "complex128")
_EXPENSIVE = TRANSCENDENTAL | REDUCTIONS | {"pow", "atan2", "remainder", "matmul"}
#: No larger than what they are made of is large: it is stored in their place.
_VIEWS = frozenset({"broadcast", "reshape", "permute", "cast", "neg", "conj", "not"})
_CHEAP = (ELEMENTWISE - _EXPENSIVE) | _VIEWS | {"slice", "embed", "concat", "take_sample"}


class Linearized(NamedTuple):
    """A function and its vector-Jacobian product.

    Attributes
    ----------
    forward : Graph
        The inputs of the function; outputs are its output and the residuals.
    pullback : Graph
        Inputs are those of the function (without ``sample``), the residuals
        (``residual[0]``, ...), the cotangent ``k_bar`` of the output, and ``sample`` where the
        function has it. Outputs are the cotangents of the inputs that were asked for, each with
        the shape and dtype of its input.
    zero : tuple of bool
        For every output of ``pullback``, whether it vanishes whatever the inputs are.
    """

    forward: Graph
    pullback: Graph
    zero: tuple[bool, ...]


def linearize(graph: Graph, wrt: Sequence[int] | None = None) -> Linearized:
    """Derive the vector-Jacobian product of a graph with one output.

    Parameters
    ----------
    graph : Graph
        As :func:`~ndereg.trace.trace` or :func:`~ndereg.trace.samples.per_sample` return it.
    wrt : sequence of int, optional
        Positions of the inputs to differentiate by; None takes all but ``t`` and ``sample``.

    Returns
    -------
    Linearized
        ``(forward, pullback, zero)``.

    Notes
    -----
    Cotangents belong to the real inner product ``Re(sum(conj(a) * b))``. Conventions where
    a derivative does not exist are listed in :mod:`ndereg.trace.vjp_rules`.
    """
    if len(graph.outputs) != 1:
        raise ValueError(f"expected a graph with one output, received {len(graph.outputs)}")
    names = graph.input_names
    if wrt is None:
        wrt = [i for i, name in enumerate(names) if name not in ("t", "sample")]
    b = Builder()
    inputs = [
        b.input(name, graph.nodes[i].shape, graph.nodes[i].dtype)
        for name, i in zip(names, graph.inputs, strict=True)
    ]
    output = b.inline(graph, inputs)[graph.outputs[0]]
    end = b.count
    cotangent = b.input("k_bar", b.shape(output), b.dtype(output))
    sought = [inputs[i] for i in wrt]
    bars = pulled_back(b, [output], [cotangent], sought)
    zero = tuple(bar is None for bar in bars)
    filled = [
        b.full(b.shape(i), 0, b.dtype(i)) if bar is None else bar
        for i, bar in zip(sought, bars, strict=True)
    ]
    residuals = _residuals(b, filled, end)
    forward = b.build([output, *residuals], inputs=b.inputs[:-1])
    return Linearized(forward, _separated(b, names, residuals, cotangent, filled), zero)


def pulled_back(
    b: Builder, outputs: Sequence[int], cotangents: Sequence[int], sought: Sequence[int]
) -> list[int | None]:
    """Add the cotangents of ``sought``; None where no output depends on one."""
    end = b.count
    active = {i for i in sought if b.dtype(i) in _DIFFERENTIABLE}
    for i in range(end):
        node = b.node(i)
        if node.dtype not in _DIFFERENTIABLE or node.op in ZERO_GRADIENT:
            continue
        if active.intersection(node.inputs):
            active.add(i)
    received: dict[int, list[int]] = {}
    for output, cotangent in zip(outputs, cotangents, strict=True):
        received.setdefault(output, []).append(cotangent)
    totals: dict[int, int] = {}
    for i in reversed(range(end)):
        if i not in active or i not in received:
            continue
        totals[i] = _total(b, received.pop(i))
        if b.node(i).op == "input":
            continue
        for operand, bar in zip(b.node(i).inputs, pull(b, i, totals[i]), strict=True):
            if bar is not None and operand in active:
                received.setdefault(operand, []).append(bar)
    return [totals.get(i) for i in sought]


def _total(b: Builder, parts: Sequence[int]) -> int:
    """Add up the contributions to one cotangent."""
    parts = _merged_samples(b, _tiled(b, parts))
    total = parts[0]
    for part in parts[1:]:
        total = b.binary("add", total, part)
    return total


def _tiled(b: Builder, parts: Sequence[int]) -> list[int]:
    """Replace pieces embedded side by side, from an unpacked array, by one concatenation."""
    embedded = [i for i in parts if b.node(i).op == "embed"]
    if len(embedded) < 2:
        return list(parts)
    shape = b.shape(embedded[0])
    pieces: list[tuple[int, int, int]] = []
    axes: set[int] = set()
    for i in embedded:
        ranges = node_ranges(b.node(i))
        partial = [axis for axis, r in enumerate(ranges) if r != range(shape[axis])]
        if len(partial) != 1 or ranges[partial[0]].step != 1:
            return list(parts)
        axes.add(partial[0])
        pieces.append((ranges[partial[0]].start, ranges[partial[0]].stop, b.node(i).inputs[0]))
    pieces.sort()
    if len(axes) != 1 or any(p[1] > q[0] for p, q in itertools.pairwise(pieces)):
        return list(parts)
    axis = axes.pop()
    rest = [i for i in parts if b.node(i).op != "embed"]
    return [b.concat(_with_gaps(b, pieces, shape, axis, b.dtype(embedded[0])), axis), *rest]


def _with_gaps(
    b: Builder,
    pieces: Sequence[tuple[int, int, int]],
    shape: tuple[int, ...],
    axis: int,
    dtype: str,
) -> list[int]:
    filled: list[int] = []
    place = 0
    for start, stop, piece in [*pieces, (shape[axis], shape[axis], -1)]:
        if start > place:
            gap = (*shape[:axis], start - place, *shape[axis + 1 :])
            filled.append(b.full(gap, 0, dtype))
        if piece >= 0:
            filled.append(piece)
        place = stop
    return filled


def _merged_samples(b: Builder, parts: Sequence[int]) -> list[int]:
    """Add up what goes to one row of an array before it is put there."""
    rest = [i for i in parts if b.node(i).op != "put_sample"]
    rows: dict[int, int] = {}
    for i in parts:
        node = b.node(i)
        if node.op == "put_sample":
            axis = int(str(node.attr("axis")))
            piece = node.inputs[0]
            rows[axis] = b.binary("add", rows[axis], piece) if axis in rows else piece
    samples = [b.node(i).inputs[1] for i in parts if b.node(i).op == "put_sample"]
    shape = b.shape(parts[0])
    return [b.put_sample(x, samples[0], axis, shape[axis]) for axis, x in rows.items()] + rest


# Residuals


def _residuals(b: Builder, bars: Sequence[int], end: int) -> list[int]:
    """Choose what the nodes before ``end`` must hand over for ``bars`` to be computed."""
    needed: set[int] = set()
    seen: set[int] = set()
    stack = list(bars)
    while stack:
        i = stack.pop()
        if i < end:
            needed.add(_stored_for(b, i))
        elif i not in seen:
            seen.add(i)
            stack.extend(b.node(i).inputs)
    at_hand: dict[int, bool] = {}
    chosen: set[int] = {i for i in needed if b.node(i).op not in _CHEAP | {"input", "constant"}}
    for i in sorted(needed):
        if not _recomputable(b, i, chosen, at_hand):
            chosen.add(i)
    return sorted(chosen)


def _stored_for(b: Builder, i: int) -> int:
    while b.node(i).op in _VIEWS:
        i = b.node(i).inputs[0]
    return i


def _recomputable(b: Builder, index: int, chosen: set[int], known: dict[int, bool]) -> bool:
    """Whether node ``index`` follows cheaply from inputs, constants and what is chosen."""
    stack = [index]
    while stack:
        i = stack[-1]
        node = b.node(i)
        if i in chosen or node.op in {"input", "constant"}:
            known[i] = True
        elif node.op not in _CHEAP:
            known[i] = False
        elif missing := [j for j in node.inputs if j not in known]:
            stack.extend(missing)
            continue
        else:
            known[i] = all(known[j] for j in node.inputs)
        stack.pop()
    answer = known[index]
    if not answer:
        # It is stored now, which may bring others within reach.
        known.clear()
    return answer


def _separated(
    b: Builder,
    names: Sequence[str],
    residuals: Sequence[int],
    cotangent: int,
    bars: Sequence[int],
) -> Graph:
    """Return the backward part as a graph of its own."""
    alone = Builder()
    place: dict[int, int] = {}
    samples: list[tuple[str, int]] = []
    for name, i in zip(names, b.inputs, strict=False):
        if name == "sample":
            samples.append((name, i))
        else:
            place[i] = alone.input(name, b.shape(i), b.node(i).dtype)
    for number, i in enumerate(residuals):
        place[i] = alone.input(f"residual[{number}]", b.shape(i), b.dtype(i))
    place[cotangent] = alone.input("k_bar", b.shape(cotangent), b.dtype(cotangent))
    for name, i in samples:
        place[i] = alone.input(name, b.shape(i), b.dtype(i))
    for i in b.closure(bars, place):
        node = b.node(i)
        value = b.value(i)
        if value is not None:
            place[i] = alone.constant(value)
        else:
            place[i] = alone.apply(node, [place[j] for j in node.inputs])
    return alone.build([place[i] for i in bars])
