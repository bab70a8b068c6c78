"""Small graphs without loops: every entry of every value is a local variable.

The state of a Lorenz system has three entries; for it a loop costs more than its body. Only the
entries that the outputs depend on are computed, and entries that are known to be zero (of an
embedded cotangent) drop out of sums.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from ndereg.backends.numba.expressions import accumulation, expression
from ndereg.backends.numba.fuse import Output
from ndereg.backends.numba.text import SMALL, Text
from ndereg.backends.numba.views import VIEWS, View, axes_of, axis_of, contiguous
from ndereg.trace.builder import node_ranges
from ndereg.trace.graph import Graph, Node
from ndereg.trace.primitives import ELEMENTWISE, REDUCTIONS

__all__ = ["MOST_IN_LANES", "MOST_OPERATIONS", "write_scalars"]

MOST_OPERATIONS = 400
"""Beyond so many operations loops compile several times faster, and are as fast: an evaluation of a
perceptron with 16 units takes 106 ns straight and 152 ns in loops of 4 entries (300 operations),
132 and 123 ns of 8 (568), 228 and 179 ns of 16 (1104)."""
MOST_IN_LANES = 1000
"""The same of fields that are evaluated for several samples at once, where loops cannot be: 31 ns a
sample against 167 in loops at 836 operations, 211 against 173 at 1104."""

Index = tuple[int, ...]


def write_scalars(
    graph: Graph,
    homes: dict[int, View],
    uniform: dict[int, object],
    outputs: Sequence[Output],
    text: Text,
    most: int = MOST_OPERATIONS,
) -> bool:
    """Append the kernel as straight-line code, of ``most`` operations; else return False."""
    sinks = list(_sinks(graph, homes, outputs))
    needed = _small_nodes(graph, homes, uniform, [i for i, _, _ in sinks], most)
    if needed is None:
        return False
    _Scalars(graph, homes, uniform, text).run(sinks, needed)
    return True


def _sinks(
    graph: Graph, homes: dict[int, View], outputs: Sequence[Output]
) -> Iterator[tuple[int, View, bool]]:
    """Values and where they go; a row put into an array goes to that row alone."""
    for output in outputs:
        dest = contiguous(output.buffer, graph.nodes[output.node].shape)
        yield from _into(graph, homes, output.node, dest, output.accumulate)


def _into(
    graph: Graph, homes: dict[int, View], i: int, dest: View, accumulate: bool
) -> Iterator[tuple[int, View, bool]]:
    node = graph.nodes[i]
    if i not in homes and accumulate:
        if node.op == "put_sample":
            inner = dest.row(axis_of(node))
            yield from _into(graph, homes, node.inputs[0], inner, accumulate)
            return
        if node.op == "add" and node.size > SMALL:
            for j in node.inputs:
                yield from _into(graph, homes, j, dest, accumulate)
            return
        if node.op == "reshape" and node.size > SMALL:
            moved = dest.reshape(graph.nodes[node.inputs[0]].shape)
            if moved is not None:
                yield from _into(graph, homes, node.inputs[0], moved, accumulate)
                return
    yield i, dest, accumulate


def _small_nodes(
    graph: Graph,
    homes: dict[int, View],
    uniform: dict[int, object],
    roots: Sequence[int],
    most: int,
) -> list[int] | None:
    """Return the nodes to compute, None if one, apart from views of what is given, is large."""
    operations = 0
    seen: set[int] = set()
    computed: list[int] = []
    stack = list(roots)
    if any(graph.nodes[i].size > SMALL for i in roots):
        return None
    while stack:
        i = stack.pop()
        if i in seen or i in homes or i in uniform:
            continue
        seen.add(i)
        node = graph.nodes[i]
        source = i
        while graph.nodes[source].op in VIEWS and source not in homes:
            source = graph.nodes[source].inputs[0]
        if node.size > SMALL and source not in homes:
            return None
        inner = node.size
        if node.op in REDUCTIONS:
            inner = graph.nodes[node.inputs[0]].size
        elif node.op == "matmul":
            inner *= 2 * graph.nodes[node.inputs[0]].shape[-1]
        if source not in homes:
            operations += inner
            computed.append(i)
        stack.extend(node.inputs[:1] if node.op in VIEWS | {"put_sample"} else node.inputs)
    return sorted(computed) if operations <= most else None


class _Scalars:
    """Computes each entry once, and equal expressions only once."""

    def __init__(
        self,
        graph: Graph,
        homes: dict[int, View],
        uniform: dict[int, object],
        text: Text,
    ) -> None:
        self._graph, self._homes, self._uniform, self._text = graph, homes, uniform, text
        self._entries: dict[tuple[int, Index], str | None] = {}
        self._named: dict[str, str] = {}

    def run(self, sinks: Sequence[tuple[int, View, bool]], needed: Sequence[int]) -> None:
        for i in needed:  # in order, so that the recursion over operands is never deep
            for index in itertools.product(*map(range, self._graph.nodes[i].shape)):
                self._entry(i, index)
        stores: list[tuple[View, str]] = []
        for i, dest, accumulate in sinks:
            node = self._graph.nodes[i]
            for index in itertools.product(*map(range, node.shape)):
                value = self._entry(i, index)
                if value is not None or not accumulate:
                    value = self._text.constant(0, node.dtype) if value is None else value
                    point = dest.slice([range(j, j + 1) for j in index]).squeezed
                    stores.append((point, f"{'+=' if accumulate else '='} {value}"))
        for point, assignment in stores:
            self._text.line(f"{self._text.entry(point)} {assignment}")
        self._text.drop_unused()

    def _name(self, computed: str, prefix: str = "v") -> str:
        if computed not in self._named:
            name = self._text.fresh(prefix)
            self._text.line(f"{name} = {computed}")
            self._named[computed] = name
        return self._named[computed]

    def _entry(self, i: int, index: Index) -> str | None:
        """Return the name of an entry; None where it is known to be an added zero."""
        key = (i, index)
        if key not in self._entries:
            self._entries[key] = self._computed(i, index)
        return self._entries[key]

    def _certain(self, i: int, index: Index) -> str:
        value = self._entry(i, index)
        return self._text.constant(0, self._graph.nodes[i].dtype) if value is None else value

    def _computed(self, i: int, index: Index) -> str | None:
        node = self._graph.nodes[i]
        if i in self._uniform:
            return self._text.constant(self._uniform[i], node.dtype)
        if node.op == "constant":
            value = self._graph.constants[int(str(node.attr("index")))][index]
            return self._text.constant(value, node.dtype)
        source, view = self._given(i)
        if source:
            return self._load(view, index)
        if node.op in ELEMENTWISE:
            return self._elementwise(node, index)
        if node.op in REDUCTIONS:
            return self._reduced(node, index)
        if node.op == "matmul":
            return self._product(node, index)
        return self._structural(node, index)

    def _given(self, i: int) -> tuple[bool, View | None]:
        """Return a view of an argument, if that is what the node is."""
        trail = []
        while i not in self._homes and self._graph.nodes[i].op in VIEWS:
            trail.append(self._graph.nodes[i])
            i = self._graph.nodes[i].inputs[0]
        view = self._homes.get(i)
        for node in reversed(trail):
            view = None if view is None else view.apply(node)
        return view is not None, view

    def _load(self, view: View | None, index: Index) -> str:
        assert view is not None
        if view.buffer.role == "scalar":
            return view.buffer.name
        point = view.slice([range(j, j + 1) for j in index]).squeezed
        return self._name(self._text.entry(point), "x")

    def _elementwise(self, node: Node, index: Index) -> str | None:
        nodes = self._graph.nodes
        if node.op in {"add", "sub", "neg"}:
            values = [self._entry(j, index) for j in node.inputs]
            if values[-1] is None:
                return values[0] if node.op != "neg" else None
            if values[0] is None:
                return values[-1] if node.op == "add" else self._name(f"-{values[-1]}")
        operands = [self._certain(j, index) for j in node.inputs]
        source = nodes[node.inputs[-1]].dtype
        return self._name(expression(node.op, operands, source, node.dtype))

    def _reduced(self, node: Node, index: Index) -> str | None:
        (operand,) = node.inputs
        axes, shape = axes_of(node), self._graph.nodes[operand].shape
        kept = iter(index)
        ranges = [
            range(length) if axis in axes else (j := next(kept), j + 1)
            for axis, length in enumerate(shape)
        ]
        points = itertools.product(*(r if isinstance(r, range) else range(*r) for r in ranges))
        return self._total(node.op, [self._entry(operand, point) for point in points], node.dtype)

    def _total(self, op: str, values: Sequence[str | None], dtype: str) -> str | None:
        if op != "sum":
            zero = self._text.constant(0, dtype)
            values = [zero if value is None else value for value in values]
        known = [value for value in values if value is not None]
        if not known:
            return None
        total = known[0]
        for value in known[1:]:
            total = self._name(
                f"{total} + {value}" if op == "sum" else accumulation(op, total, value, dtype)
            )
        return total

    def _product(self, node: Node, index: Index) -> str | None:
        left, right = node.inputs
        (*batch, row, column) = index
        terms: list[str | None] = []
        for k in range(self._graph.nodes[left].shape[-1]):
            one = self._entry(left, (*batch, row, k))
            two = self._entry(right, (*batch, k, column))
            known = one is not None and two is not None
            terms.append(self._name(f"{one} * {two}") if known else None)
        return self._total("sum", terms, node.dtype)

    def _structural(self, node: Node, index: Index) -> str | None:
        operand = node.inputs[0]
        shape = self._graph.nodes[operand].shape
        if node.op == "broadcast":
            aligned = index[len(index) - len(shape) :]
            inner = tuple(0 if n == 1 else j for n, j in zip(shape, aligned, strict=True))
            return self._entry(operand, inner)
        if node.op == "reshape":
            return self._entry(operand, _unflattened(_flattened(index, node.shape), shape))
        if node.op == "permute":
            axes = axes_of(node)
            return self._entry(operand, tuple(index[axes.index(i)] for i in range(len(axes))))
        if node.op == "slice":
            ranges = node_ranges(node)
            return self._entry(operand, tuple(r[j] for r, j in zip(ranges, index, strict=True)))
        if node.op == "embed":
            ranges = node_ranges(node)
            if any(j not in r for r, j in zip(ranges, index, strict=True)):
                return None
            inner = tuple(r.index(j) for r, j in zip(ranges, index, strict=True))
            return self._entry(operand, inner)
        return self._along_axis(node, axis_of(node), index)

    def _along_axis(self, node: Node, axis: int, index: Index) -> str | None:
        before, at, behind = index[:axis], index[axis], index[axis + 1 :]
        if node.op == "concat":
            for j in node.inputs:
                length = self._graph.nodes[j].shape[axis]
                if at < length:
                    return self._entry(j, (*before, at, *behind))
                at -= length
        indices = node.attr("indices")
        assert isinstance(indices, tuple)
        operand = node.inputs[0]
        if node.op == "gather":
            return self._entry(operand, (*before, indices[at], *behind))
        hits = [j for j, target in enumerate(indices) if target == at]
        values = [self._entry(operand, (*before, j, *behind)) for j in hits]
        return self._total("sum", values, node.dtype)


def _flattened(index: Index, shape: Index) -> int:
    position = 0
    for j, length in zip(index, shape, strict=True):
        position = position * length + j
    return position


def _unflattened(position: int, shape: Index) -> Index:
    index = []
    for length in reversed(shape):
        index.append(position % length)
        position //= length
    return tuple(reversed(index))
