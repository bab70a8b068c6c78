"""Planning a kernel: what is computed where, in which loop, and kept in which memory.

A plan is a list of items run in order: nests of loops, matrix products and indexed copies. The
rules, in the order in which they are applied:

1. A value is written where it is wanted: straight into an output, into its part of a
   concatenation, or added to a cotangent; a sum with a matrix product is the product added to
   what the other operand left there.
2. A value gets memory of its own only if a matrix product reads it, if it is a reduction or a
   product, if several computations read it, or if repeating it under a broadcast would cost more
   than reading it. Reshapes, transposes, slices and broadcasts are only views.
3. Values over the same domain are computed in the same nest where the order allows it. Memory
   that only the own nest would read back is dropped again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndereg.backends.numba.placement import Placement, Plan, Task
from ndereg.backends.numba.views import VIEWS, Buffer, View, axes_of, axis_of, contiguous
from ndereg.trace.builder import node_ranges
from ndereg.trace.graph import Graph, Node
from ndereg.trace.primitives import ELEMENTWISE, REDUCTIONS

__all__ = ["Output", "Planner", "Trail", "matrix_layout"]

#: Structural nodes between a value and the domain of a nest, the one next to the value first.
Trail = tuple[int, ...]

#: Cheaper to repeat than to write and read back, where the operands are in memory.
_CHEAP = frozenset({"neg", "cast", "conj", "real", "imag", "not", "add", "sub", "mul"})
#: Operations on the way from memory to a value; bounds the recursion over expressions.
_DEEPEST = 100
#: Written into their destination by something better than an elementwise loop.
_DIRECT = frozenset({"matmul", "embed", "put_sample", "scatter_add"})


@dataclass(frozen=True)
class Output:
    """Where a result goes: written, or added to what is there."""

    node: int
    buffer: Buffer
    accumulate: bool = False


def matrix_layout(view: View) -> tuple[bool, int] | None:
    """``(transposed, stride)`` of the last two axes for BLAS, None if they do not lie so."""
    (rows, columns), (down, across) = view.shape[-2:], view.strides[-2:]
    if rows == 0 or columns == 0:
        return False, max(columns, 1)
    if (across == 1 or columns == 1) and (rows == 1 or down >= columns):
        return False, max(down, columns)
    if (down == 1 or rows == 1) and (columns == 1 or across >= rows):
        return True, max(across, rows)
    return None


class Planner:
    """Builds the plan of a graph.

    Parameters
    ----------
    graph : Graph
        Lowered.
    homes : dict of node to View
        Inputs and constants that lie in memory.
    uniform : dict of node to object
        Constants that are written as literals.
    outputs : sequence of Output
    """

    def __init__(
        self,
        graph: Graph,
        homes: dict[int, View],
        uniform: dict[int, object],
        outputs: Sequence[Output],
    ) -> None:
        self.graph, self.nodes, self.homes = graph, graph.nodes, dict(homes)
        self.uniform = uniform
        self._given = set(homes)
        self._tasks: list[Task] = []
        self._shared = self._find_shared(outputs)
        self._deep = self._find_deep()
        claimed = [self._claim(output) for output in outputs]
        for output, root in zip(outputs, claimed, strict=True):
            if root is not None:
                self._expand(root, self.homes[root], False, root=True)
            else:
                dest = contiguous(output.buffer, self.nodes[output.node].shape)
                self._expand(output.node, dest, output.accumulate)

    def plan(self) -> Plan:
        """Give memory to what needs it, then place every task."""
        known = -1
        while known != len(self.homes):
            known = len(self.homes)
            for task in self._tasks:  # grows while operands are found to need memory
                for _ in self._reads(task):
                    pass
        tasks = sorted(self._tasks, key=lambda task: task.order)
        return Placement(self.graph, self.homes, self._reads).run(tasks)

    # What is read how often

    def _find_shared(self, outputs: Sequence[Output]) -> set[int]:
        """Nodes whose value is needed in more than one place, views looked through."""
        readers: list[set[tuple[int, Trail]]] = [set() for _ in self.nodes]
        for number, output in enumerate(outputs):
            readers[output.node].add((-1 - number, ()))
        for i in reversed(range(len(self.nodes))):
            node = self.nodes[i]
            if node.op in VIEWS:
                readers[node.inputs[0]] |= {(at, (i, *trail)) for at, trail in readers[i]}
                continue
            for j in node.inputs:
                readers[j].add((i, ()))
        return {i for i, places in enumerate(readers) if len(places) > 1}

    def _find_deep(self) -> set[int]:
        """Nodes at which long chains of elementwise operations are cut into several loops."""
        depth = [0] * len(self.nodes)
        deep = set()
        for i, node in enumerate(self.nodes):
            if node.op in ELEMENTWISE | VIEWS:
                depth[i] = max((depth[j] for j in node.inputs), default=0) + 1
            if depth[i] > _DEEPEST and node.op in ELEMENTWISE:
                deep.add(i)
                depth[i] = 0
        return deep

    def _is_cheap(self, i: int) -> bool:
        node = self.nodes[i]
        return node.op in _CHEAP and all(self._is_leaf(j) for j in node.inputs)

    def _is_leaf(self, i: int) -> bool:
        while i not in self.homes and self.nodes[i].op in VIEWS:
            i = self.nodes[i].inputs[0]
        return i in self.homes or i in self.uniform

    def table(self, i: int) -> NDArray[np.int64]:
        """Return the indices of a gather or scatter."""
        return np.array(self.nodes[i].attr("indices"), dtype=np.int64)

    # Destinations

    def _claim(self, output: Output) -> int | None:
        """Make an output the memory of the value that is written there, if it has none yet."""
        node = output.node
        while self.nodes[node].op == "reshape" and node not in self.homes:
            node = self.nodes[node].inputs[0]
        if output.accumulate or node in self.homes or node in self.uniform:
            return None
        if self.nodes[node].op == "permute" and node not in self._shared:
            return None
        self.homes[node] = contiguous(output.buffer, self.nodes[node].shape)
        return node

    def _materialise(self, i: int, addressed: bool = False) -> View:
        """Give a value memory of its own, and the tasks that fill it.

        A single entry is a local variable, unless it is ``addressed`` by what reads it.
        """
        node = self.nodes[i]
        local = node.size == 1 and node.op in ELEMENTWISE | REDUCTIONS | VIEWS and not addressed
        role = "scalar" if local else "scratch"
        buffer = Buffer(role, f"s{i}" if local else "", node.dtype, node.size)
        self.homes[i] = contiguous(buffer, node.shape)
        self._expand(i, self.homes[i], False, root=True)
        return self.homes[i]

    def _task(
        self,
        kind: str,
        i: int,
        dest: View,
        accumulate: bool,
        after: Sequence[Task],
        root: bool = False,
    ) -> list[Task]:
        # A copy comes after everything that makes the value.
        own = i + 0.5 if kind == "store" and not root else float(i)
        order = max([own, *(task.order for task in after)])
        task = Task(kind, i, dest, accumulate, tuple(after), order, root)
        self._tasks.append(task)
        return [task]

    def _expand(
        self,
        i: int,
        dest: View,
        accumulate: bool,
        after: Sequence[Task] = (),
        root: bool = False,
    ) -> list[Task]:
        """Tasks that bring the value of node ``i`` into ``dest``."""
        node = self.nodes[i]
        if accumulate and self.uniform.get(i, 1) == 0:
            return []
        if not root:
            if i in self.homes or i in self.uniform:
                return self._task("store", i, dest, accumulate, after)
            inner = self._inverse(node, dest)
            if inner is not None:
                return self._expand(node.inputs[0], inner, accumulate, after)
            if i in self._shared:
                return self._task("store", i, dest, accumulate, after)
        if node.op in {"embed", "put_sample", "concat"}:
            return self._expand_parts(node, dest, accumulate, after)
        direct = [j for j in self._terms(i) if self._is_direct(j)]
        if direct:
            return self._expand_sum(i, direct, dest, accumulate, after)
        if node.op == "matmul":
            if matrix_layout(dest) is not None:
                return self._task("matmul", i, dest, accumulate, after)
            self._materialise(i)
            return self._task("store", i, dest, accumulate, after)
        if node.op in REDUCTIONS and (node.op == "sum" or not accumulate):
            return self._task("reduce", i, dest, accumulate, after)
        if node.op == "gather":
            return self._task("gather", i, dest, accumulate, after)
        if node.op == "scatter_add":
            filled = [] if accumulate else self._task("fill", i, dest, False, after)
            return self._task("scatter", i, dest, True, filled or after)
        if node.op in REDUCTIONS and not root:
            self._materialise(i)
        return self._task("store", i, dest, accumulate, after, root)

    def _expand_sum(
        self, i: int, direct: Sequence[int], dest: View, accumulate: bool, after: Sequence[Task]
    ) -> list[Task]:
        """Products are added to the other terms, which a single loop puts there before.

        BLAS would fill its result with zeros first, so a bias added this way costs nothing.
        """
        rest = tuple(j for j in self._terms(i) if j not in direct)
        tasks: list[Task] = []
        if rest:
            tasks = self._task("store", max(rest), dest, accumulate, after)
            tasks[0].terms = rest
        for j in sorted(direct):
            tasks += self._expand(j, dest, accumulate or bool(tasks), tasks or after)
        return tasks

    def _terms(self, i: int) -> list[int]:
        """Terms of a sum, of which no partial sum is needed elsewhere; empty for no sum."""
        if self.nodes[i].op != "add":
            return []
        terms: list[int] = []
        for j in self.nodes[i].inputs:
            inner = [] if j in self._shared or j in self.homes else self._terms(j)
            terms += inner or [j]
        return terms

    def _expand_parts(
        self, node: Node, dest: View, accumulate: bool, after: Sequence[Task]
    ) -> list[Task]:
        """Return the value is made of others, each in its own region of ``dest``."""
        if node.op == "concat":
            tasks, start = [], 0
            for j in node.inputs:
                length = self.nodes[j].shape[axis_of(node)]
                region = [range(n) for n in node.shape]
                region[axis_of(node)] = range(start, start + length)
                start += length
                tasks += self._expand(j, dest.slice(region), accumulate, after)
            return tasks
        inside = dest.slice(node_ranges(node)) if node.op == "embed" else dest.row(axis_of(node))
        filled = [] if accumulate else self._task("fill", node.inputs[0], dest, False, after)
        inner = self._expand(node.inputs[0], inside, accumulate, filled or after)
        if filled:
            filled[0].order = min(task.order for task in [*filled, *inner])
        return filled + inner

    def _inverse(self, node: Node, dest: View) -> View | None:
        """Where the operand of a reshape or permutation goes when the result goes to ``dest``."""
        if node.op == "reshape":
            return dest.reshape(self.nodes[node.inputs[0]].shape)
        if node.op == "permute":
            axes = axes_of(node)
            return dest.permute([axes.index(i) for i in range(len(axes))])
        return None

    def _is_direct(self, i: int) -> bool:
        while self.nodes[i].op in {"reshape", "permute"} and i not in self._shared:
            i = self.nodes[i].inputs[0]
        return self.nodes[i].op in _DIRECT and i not in self._shared and i not in self.homes

    # What a task reads

    def _reads(self, task: Task) -> Iterator[tuple[int, View]]:
        """Values in memory that a task reads and how; gives memory to what lacks it."""
        if task.kind == "fill":
            return
        node = self.nodes[task.node]
        if task.kind == "store":
            for i in task.terms or (task.node,):
                yield from self.leaves(i, (), task.root)
        elif task.kind == "reduce":
            yield from self.leaves(node.inputs[0], ())
        else:
            for i in node.inputs[:2] if task.kind == "matmul" else node.inputs[:1]:
                yield from self._whole(i, matrix=task.kind == "matmul")

    def _whole(self, i: int, matrix: bool) -> Iterator[tuple[int, View]]:
        """Return a value that is read by something other than an elementwise loop."""
        leaf, trail = self.source(i)
        if leaf not in self.homes and leaf not in self.uniform:
            self._materialise(leaf, addressed=True)
        view = self.along(leaf, trail) if leaf in self.homes else None
        if view is None or view.buffer.role == "scalar":
            leaf, view = i, self._materialise(i, addressed=True)
        elif matrix and matrix_layout(view) is None:
            leaf, view = i, self._materialise(i)
        yield leaf, view

    def source(self, i: int) -> tuple[int, Trail]:
        """Return the node that has or could have memory, under the structural nodes above it."""
        trail: Trail = ()
        while i not in self.homes and self.nodes[i].op in VIEWS:
            trail = (i, *trail)
            i = self.nodes[i].inputs[0]
        return i, trail

    def along(self, leaf: int, trail: Trail) -> View | None:
        """Return the view of a value through structural nodes, None where there is none."""
        view: View | None = self.homes[leaf]
        for i in trail:
            view = None if view is None else view.apply(self.nodes[i])
        return view

    def leaves(self, i: int, trail: Trail, root: bool = False) -> Iterator[tuple[int, View]]:
        """Values in memory that node ``i`` is computed from over the domain after ``trail``."""
        node = self.nodes[i]
        if i in self.uniform:
            return
        if i in self.homes and not root:
            yield self.read(i, trail)
        elif node.op in VIEWS:
            yield from self.leaves(node.inputs[0], (i, *trail))
        elif node.op not in ELEMENTWISE or (not root and self._wants_memory(i, trail)):
            self._materialise(i)
            yield self.read(i, trail)
        else:
            for j in dict.fromkeys(node.inputs):
                yield from self.leaves(j, trail)

    def read(self, leaf: int, trail: Trail) -> tuple[int, View]:
        """Return what is read, and how, for a value in memory under structural nodes."""
        view: View | None = self.homes[leaf]
        for position, i in enumerate(trail):
            assert view is not None
            moved = view.apply(self.nodes[i])
            if moved is None:
                # A reshape of what is not contiguous: copy its operand first.
                operand = self.nodes[i].inputs[0]
                if operand not in self.homes:
                    self._materialise(operand)
                return self.read(operand, trail[position:])
            view = moved
        assert view is not None
        return leaf, view

    def _wants_memory(self, i: int, trail: Trail) -> bool:
        node = self.nodes[i]
        if node.size == 1 or i in self._deep:
            return True
        if any(self._is_direct(j) for j in self._terms(i)):
            return True
        if self._is_cheap(i):
            return False
        repeated = any(
            self.nodes[j].op == "broadcast"
            and self.nodes[j].size > self.nodes[self.nodes[j].inputs[0]].size
            for j in trail
        )
        return repeated or i in self._shared
