"""Building graphs: every node is simplified as it is added.

The builder hash-conses (equal nodes are one node), folds constants, removes neutral elements,
composes reshapes, permutations, slices and broadcasts, and moves elementwise work in front of
broadcasts. All of it depends on the order of the calls alone, so a field that is traced twice,
in whatever process, gives the same graph.

Simplifications keep every value up to the sign of zeros; in particular ``0 * x`` stays, because
it is NaN where ``x`` is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Container, Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ndereg.trace import simplify
from ndereg.trace.evaluate import apply_primitive
from ndereg.trace.graph import DTYPES, Graph, Node
from ndereg.trace.primitives import (
    BINARY,
    COMMUTATIVE,
    REDUCTIONS,
    UNARY,
    real_dtype,
    result_dtype,
)

__all__ = ["Builder"]

#: Constants are folded as long as the result does not take more room than this many entries
#: (or than the operands did).
_FOLD_LIMIT = 4096

Attrs = tuple[tuple[str, Hashable], ...]


class Builder:
    """A graph under construction. Nodes are referred to by their index."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._inputs: list[int] = []
        self._constants: list[NDArray[Any]] = []
        self._known: dict[Hashable, int] = {}

    @property
    def count(self) -> int:
        """Number of nodes so far."""
        return len(self._nodes)

    @property
    def inputs(self) -> list[int]:
        """The ``input`` nodes, in the order they were added."""
        return list(self._inputs)

    # What is known of a node

    def node(self, i: int) -> Node:
        """Return node ``i``."""
        return self._nodes[i]

    def shape(self, i: int) -> tuple[int, ...]:
        """Return the shape of node ``i``."""
        return self._nodes[i].shape

    def dtype(self, i: int) -> str:
        """Return the dtype of node ``i``."""
        return self._nodes[i].dtype

    def value(self, i: int) -> NDArray[Any] | None:
        """Return the value of a ``constant`` node, None for any other."""
        node = self._nodes[i]
        return self._constants[cast(int, node.attr("index"))] if node.op == "constant" else None

    def uniform(self, i: int) -> Any:
        """Return the scalar that all entries of a constant node equal, or None."""
        node = self._nodes[i]
        while node.op in {"broadcast", "reshape"}:
            node = self._nodes[node.inputs[0]]
        if node.op == "constant" and node.size == 1:
            return self._constants[cast(int, node.attr("index"))].item()
        return None

    def known(self, i: int) -> NDArray[Any] | None:
        """Return the value of a constant node or a small broadcast of one, None for any other."""
        node = self._nodes[i]
        if node.op != "broadcast" or node.size > _FOLD_LIMIT:
            return self.value(i)
        source = self.value(node.inputs[0])
        return None if source is None else np.broadcast_to(source, node.shape)

    # Leaves

    def input(self, name: str, shape: Sequence[int], dtype: str) -> int:
        """Add an input; a narrow integer dtype is widened to int64 at once."""
        if dtype not in DTYPES and np.dtype(dtype).kind not in "iu":
            raise TypeError(
                f"expected {name!r} to have one of the dtypes {', '.join(DTYPES)} or an integer "
                f"dtype, received {dtype}; try casting it"
            )
        index = self._append(Node("input", (), (("name", name),), tuple(shape), dtype))
        self._inputs.append(index)
        if dtype in DTYPES:
            return index
        return self.add("cast", (index,), (), tuple(shape), "int64")

    def placeholder(self, shape: Sequence[int], dtype: str) -> int:
        """Add a variable to differentiate by; :meth:`substituted` takes it out again."""
        return self._append(Node("input", (), (("name", "placeholder"),), tuple(shape), dtype))

    def constant(self, value: Any, dtype: str | None = None) -> int:
        """Add a constant; one whose entries are all the same is a broadcast scalar."""
        array = np.array(value, dtype=dtype, order="C")
        if array.dtype.name not in DTYPES:
            raise TypeError(f"expected a constant of dtype {DTYPES}, received {array.dtype.name}")
        array = array.astype(array.dtype.name, copy=False)  # in native byte order
        if array.size > 1:
            words = array.reshape(-1, 1).view(np.uint8)
            if (words == words[0]).all():
                return self.broadcast(self.constant(array.flat[0], array.dtype.name), array.shape)
        array.flags.writeable = False
        key = ("constant", array.dtype.name, array.shape, array.tobytes())
        if key not in self._known:
            self._constants.append(array)
            attrs = (("index", len(self._constants) - 1),)
            node = Node("constant", (), attrs, array.shape, array.dtype.name)
            self._known[key] = self._append(node)
        return self._known[key]

    def full(self, shape: Sequence[int], value: Any, dtype: str) -> int:
        """Add an array whose entries all equal ``value``."""
        return self.broadcast(self.constant(value, dtype), tuple(shape))

    # Elementwise operations

    def unary(self, op: str, x: int) -> int:
        """Add a unary elementwise operation (``cast`` has its own method)."""
        return self._elementwise(op, (x,), result_dtype(op, self.dtype(x)))

    def binary(self, op: str, x: int, y: int) -> int:
        """Add a binary elementwise operation on operands of equal shape and dtype."""
        self._check_alike(op, (x, y))
        return self._elementwise(op, (x, y), result_dtype(op, self.dtype(x)))

    def where(self, condition: int, x: int, y: int) -> int:
        """Add a selection; all shapes equal, ``x`` and ``y`` of one dtype."""
        self._check_alike("where", (x, y))
        return self._elementwise("where", (condition, x, y), self.dtype(x))

    def cast(self, x: int, dtype: str) -> int:
        """Add a change of dtype; from complex to real it takes the real part."""
        if real_dtype(self.dtype(x)) != self.dtype(x) and real_dtype(dtype) == dtype:
            x = self.unary("real", x)
        return x if self.dtype(x) == dtype else self._elementwise("cast", (x,), dtype)

    def _check_alike(self, op: str, operands: Sequence[int]) -> None:
        kinds = {(self.shape(i), self.dtype(i)) for i in operands}
        if len(kinds) != 1:
            raise ValueError(f"{op}: expected operands of one shape and dtype, received {kinds}")

    def _elementwise(self, op: str, operands: tuple[int, ...], dtype: str) -> int:
        simpler = simplify.elementwise(self, op, operands, dtype)
        if simpler is not None:
            return simpler
        shape = self.shape(operands[-1])
        hoisted = self._before_broadcast(op, operands, dtype, shape)
        return self.add(op, operands, (), shape, dtype) if hoisted is None else hoisted

    def _before_broadcast(
        self, op: str, operands: tuple[int, ...], dtype: str, shape: tuple[int, ...]
    ) -> int | None:
        """Do the operation on the smaller arrays that the operands are broadcast from."""
        sources = [
            self.node(i).inputs[0] if self.node(i).op == "broadcast" else i for i in operands
        ]
        joint = np.broadcast_shapes(*(self.shape(i) for i in sources))
        if math.prod(joint) >= math.prod(shape):
            return None
        smaller = tuple(self.broadcast(i, joint) for i in sources)
        return self.broadcast(self._elementwise(op, smaller, dtype), shape)

    # Structure

    def broadcast(self, x: int, shape: tuple[int, ...]) -> int:
        """Broadcast to ``shape``."""
        node = self.node(x)
        if node.op == "broadcast":
            x = node.inputs[0]
        if math.prod(self.shape(x)) == math.prod(shape):
            return self.reshape(x, shape)
        if math.prod(self.shape(x)) == 1:
            x = self.reshape(x, ())
        return self.add("broadcast", (x,), (), shape, node.dtype)

    def reshape(self, x: int, shape: tuple[int, ...]) -> int:
        """Reshape in row-major order."""
        node = self.node(x)
        if math.prod(shape) != node.size:
            raise ValueError(f"cannot reshape {node.shape} to {shape}")
        if node.shape == shape:
            return x
        if node.op == "reshape":
            return self.reshape(node.inputs[0], shape)
        if node.op == "broadcast" and self.shape(node.inputs[0]) == ():
            return self.broadcast(node.inputs[0], shape)
        return self.add("reshape", (x,), (), shape, node.dtype)

    def permute(self, x: int, axes: Sequence[int]) -> int:
        """Permute axes: axis ``i`` of the result is axis ``axes[i]`` of ``x``."""
        node = self.node(x)
        if node.op == "permute":
            inner = cast(tuple[int, ...], node.attr("axes"))
            return self.permute(node.inputs[0], [inner[i] for i in axes])
        shape = tuple(node.shape[i] for i in axes)
        moved = [i for i in axes if node.shape[i] != 1]
        if moved == sorted(moved) or node.size == 0:
            return self.reshape(x, shape)
        if node.op == "broadcast" and self.shape(node.inputs[0]) == ():
            return self.broadcast(node.inputs[0], shape)
        return self.add("permute", (x,), (("axes", tuple(axes)),), shape, node.dtype)

    def slice(self, x: int, ranges: Sequence[range]) -> int:
        """Take ``ranges[i]`` of every axis ``i``."""
        ranges = [simplify.canonical(r) for r in ranges]
        simpler = simplify.sliced(self, x, ranges)
        if simpler is not None:
            return simpler
        shape = tuple(len(r) for r in ranges)
        return self.add("slice", (x,), _range_attrs(ranges), shape, self.dtype(x))

    def embed(self, x: int, ranges: Sequence[range], shape: tuple[int, ...]) -> int:
        """Put ``x`` into zeros of ``shape`` at ``ranges``, the transpose of ``slice``."""
        ranges = [simplify.canonical(r) for r in ranges]
        if all(r == range(length) for r, length in zip(ranges, shape, strict=True)):
            return x
        return self.add("embed", (x,), _range_attrs(ranges), shape, self.dtype(x))

    def concat(self, parts: Sequence[int], axis: int) -> int:
        """Concatenate along ``axis``."""
        parts = simplify.joined(self, parts, axis)
        if len(parts) == 1:
            return parts[0]
        shape = list(self.shape(parts[0]))
        shape[axis] = sum(self.shape(i)[axis] for i in parts)
        attrs = (("axis", axis),)
        return self.add("concat", tuple(parts), attrs, tuple(shape), self.dtype(parts[0]))

    def gather(self, x: int, axis: int, indices: Sequence[int]) -> int:
        """Take the slices ``indices`` along ``axis``."""
        shape = self.shape(x)
        progression = simplify.as_range(indices)
        if progression is not None:
            ranges = [range(length) for length in shape]
            ranges[axis] = progression
            return self.slice(x, ranges)
        attrs = (("axis", axis), ("indices", tuple(int(i) for i in indices)))
        gathered = (*shape[:axis], len(indices), *shape[axis + 1 :])
        return self.add("gather", (x,), attrs, gathered, self.dtype(x))

    def scatter_add(self, x: int, axis: int, indices: Sequence[int], length: int) -> int:
        """Add slices into zeros with ``length`` entries along ``axis``."""
        shape = self.shape(x)
        scattered = (*shape[:axis], length, *shape[axis + 1 :])
        progression = simplify.as_range(indices)
        if progression is not None:
            ranges = [range(n) for n in shape]
            ranges[axis] = progression
            return self.embed(x, ranges, scattered)
        attrs = (("axis", axis), ("indices", tuple(int(i) for i in indices)))
        return self.add("scatter_add", (x,), attrs, scattered, self.dtype(x))

    def take_sample(self, x: int, sample: int, axis: int) -> int:
        """Take row ``sample`` of ``axis``, kept with size 1."""
        node = self._nodes[x]
        if node.op == "cast":  # narrow integers are cast where they come in; rows are of inputs
            return self.cast(self.take_sample(node.inputs[0], sample, axis), node.dtype)
        shape = self.shape(x)
        if shape[axis] == 1:
            return x
        shape = (*shape[:axis], 1, *shape[axis + 1 :])
        return self.add("take_sample", (x, sample), (("axis", axis),), shape, self.dtype(x))

    def put_sample(self, x: int, sample: int, axis: int, length: int) -> int:
        """Put ``x`` into zeros as row ``sample`` of ``axis``."""
        shape = self.shape(x)
        shape = (*shape[:axis], length, *shape[axis + 1 :])
        return self.add("put_sample", (x, sample), (("axis", axis),), shape, self.dtype(x))

    # Reductions and products

    def reduce(self, op: str, x: int, axes: Sequence[int]) -> int:
        """Reduce over ``axes`` with ``sum``, ``max`` or ``prod``; the axes are dropped."""
        shape = self.shape(x)
        trivial = {i for i in axes if shape[i] == 1}
        if trivial:
            kept = [i for i in range(len(shape)) if i not in trivial]
            axes = [kept.index(i) for i in axes if i not in trivial]
            return self.reduce(op, self.reshape(x, tuple(shape[i] for i in kept)), axes)
        if not axes:
            return x
        reduced = tuple(length for i, length in enumerate(shape) if i not in axes)
        return self.add(op, (x,), (("axes", tuple(sorted(axes))),), reduced, self.dtype(x))

    def matmul(self, x: int, y: int) -> int:
        """Multiply matrices; the leading axes are broadcast.

        Where one operand is the same matrix for all leading axes, they are moved into the rows
        of the other, and one product of two matrices is left.
        """
        (*x_batch, m, k), (*y_batch, _, n) = self.shape(x), self.shape(y)
        batch = np.broadcast_shapes(tuple(x_batch), tuple(y_batch))
        if not batch:
            return self.add("matmul", (x, y), (), (m, n), self.dtype(x))
        left, right = self._matrix(x), self._matrix(y)
        if left is not None and right is not None:
            return self.broadcast(self.matmul(left, right), (*batch, m, n))
        if right is not None:
            rows = self.reshape(self.broadcast(x, (*batch, m, k)), (math.prod(batch) * m, k))
            return self.reshape(self.matmul(rows, right), (*batch, m, n))
        y = self.broadcast(y, (*batch, k, n))
        if left is not None:
            return self.transpose(self.matmul(self.transpose(y), self.transpose(left)))
        x = self.broadcast(x, (*batch, m, k))
        return self.add("matmul", (x, y), (), (*batch, m, n), self.dtype(x))

    def transpose(self, x: int) -> int:
        """Swap the last two axes."""
        n = len(self.shape(x))
        return self.permute(x, [*range(n - 2), n - 1, n - 2])

    def _matrix(self, x: int) -> int | None:
        """Return the one matrix that ``x`` repeats over its leading axes, if that is so."""
        if self.node(x).op == "broadcast":
            source = self.node(x).inputs[0]
            if len(self.shape(source)) >= 2 and self.shape(source)[-2:] == self.shape(x)[-2:]:
                x = source
        shape = self.shape(x)
        return self.reshape(x, shape[-2:]) if math.prod(shape[:-2]) == 1 else None

    # Whole nodes and graphs

    def apply(self, node: Node, operands: Sequence[int]) -> int:
        """Add an operation like ``node`` of another graph on operands of this one."""
        op, x = node.op, operands[0]
        if op == "cast":
            return self.cast(x, node.dtype)
        if op == "where":
            return self.where(*operands)
        if op in UNARY:
            return self.unary(op, x)
        if op in BINARY:
            return self.binary(op, *operands)
        if op in REDUCTIONS:
            return self.reduce(op, x, cast(tuple[int, ...], node.attr("axes")))
        if op in {"broadcast", "reshape"}:
            return cast(int, getattr(self, op)(x, node.shape))
        if op == "permute":
            return self.permute(x, cast(tuple[int, ...], node.attr("axes")))
        if op == "slice":
            return self.slice(x, node_ranges(node))
        if op == "embed":
            return self.embed(x, node_ranges(node), node.shape)
        if op == "matmul":
            return self.matmul(x, operands[1])
        axis = cast(int, node.attr("axis"))
        if op == "concat":
            return self.concat(operands, axis)
        if op == "take_sample":
            return self.take_sample(x, operands[1], axis)
        if op == "put_sample":
            return self.put_sample(x, operands[1], axis, node.shape[axis])
        indices = cast(tuple[int, ...], node.attr("indices"))
        if op == "gather":
            return self.gather(x, axis, indices)
        return self.scatter_add(x, axis, indices, node.shape[axis])

    def inline(self, graph: Graph, inputs: Sequence[int]) -> list[int]:
        """Add a whole graph, its inputs replaced; return where each of its nodes went."""
        given = dict(zip(graph.inputs, inputs, strict=True))
        placed: list[int] = []
        for i, node in enumerate(graph.nodes):
            if i in given:
                placed.append(given[i])
            elif node.op == "constant":
                placed.append(self.constant(graph.constants[cast(int, node.attr("index"))]))
            else:
                placed.append(self.apply(node, [placed[j] for j in node.inputs]))
        return placed

    def substituted(self, outputs: Sequence[int], values: Mapping[int, int]) -> list[int]:
        """Return ``outputs`` with nodes replaced by the values of ``values``."""
        place = dict(values)
        for i in self.closure(outputs, values):
            node = self._nodes[i]
            if any(j in place for j in node.inputs):
                place[i] = self.apply(node, [place.get(j, j) for j in node.inputs])
        return [place.get(i, i) for i in outputs]

    def add(
        self, op: str, operands: tuple[int, ...], attrs: Attrs, shape: tuple[int, ...], dtype: str
    ) -> int:
        """Add a node as it stands, unless it is known already or its value is."""
        order = tuple(sorted(operands)) if op in COMMUTATIVE else operands
        key = (op, order, attrs, shape, dtype)
        if key not in self._known:
            node = Node(op, operands, attrs, shape, dtype)
            folded = self._folded(node)
            self._known[key] = self._append(node) if folded is None else folded
        return self._known[key]

    def _folded(self, node: Node) -> int | None:
        # Not matmul: its last bits depend on the BLAS, and the key of a graph must not.
        if node.op in {"broadcast", "matmul"}:
            return None
        values = [self.known(i) for i in node.inputs]
        known = [value for value in values if value is not None]
        if len(known) != len(values):
            return None
        if node.size > max(_FOLD_LIMIT, *(value.size for value in known)):
            return None
        with np.errstate(all="ignore"):
            return self.constant(apply_primitive(node, known))

    def _append(self, node: Node) -> int:
        self._nodes.append(node)
        return len(self._nodes) - 1

    def build(self, outputs: Sequence[int], inputs: Sequence[int] | None = None) -> Graph:
        """Return the graph of ``outputs``, without what they do not need.

        ``inputs`` are nodes that become the inputs; None keeps those that were added.
        """
        signature = self._inputs if inputs is None else list(inputs)
        needed = set(signature).union(self.closure(outputs, signature))
        return self._renumbered(sorted(needed), signature, outputs)

    def closure(self, outputs: Sequence[int], given: Container[int] = ()) -> list[int]:
        """Return the nodes that ``outputs`` need, in order, besides the given ones."""
        needed: set[int] = set()
        stack = list(outputs)
        while stack:
            i = stack.pop()
            if i not in needed and i not in given:
                needed.add(i)
                stack.extend(self._nodes[i].inputs)
        return sorted(needed)

    def _renumbered(
        self, kept: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]
    ) -> Graph:
        place = {old: new for new, old in enumerate(kept)}
        nodes: list[Node] = []
        constants: list[NDArray[Any]] = []
        for i in kept:
            node = self._nodes[i]
            attrs = node.attrs
            if node.op == "constant":
                attrs = (("index", len(constants)),)
                constants.append(self._constants[cast(int, node.attr("index"))])
            operands = tuple(place[j] for j in node.inputs)
            nodes.append(Node(node.op, operands, attrs, node.shape, node.dtype))
        return Graph(
            tuple(nodes),
            tuple(place[i] for i in inputs),
            tuple(place[i] for i in outputs),
            tuple(constants),
        )


def node_ranges(node: Node) -> list[range]:
    """Return the ranges of a ``slice`` or ``embed`` node."""
    bounds = [cast(tuple[int, ...], node.attr(name)) for name in ("starts", "stops", "steps")]
    return [range(*triple) for triple in zip(*bounds, strict=True)]


def _range_attrs(ranges: Sequence[range]) -> Attrs:
    return (
        ("starts", tuple(r.start for r in ranges)),
        ("stops", tuple(r.stop for r in ranges)),
        ("steps", tuple(r.step for r in ranges)),
    )
