"""Placing the tasks of a kernel: loops over the same domain become one nest where order allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ndereg.backends.numba.views import View
from ndereg.trace.graph import Graph


@dataclass(eq=False)
class Task:
    """Write one value into one place; part of an :class:`Item`.

    ``dest`` is None once it is known that only the own nest reads the value.
    """

    kind: str  # fill, store, reduce, matmul, gather, scatter
    node: int
    dest: View | None
    accumulate: bool
    after: tuple[Task, ...]
    order: float
    root: bool  # dest is the home of the node
    terms: tuple[int, ...] = ()  # of a sum, in place of the node
    place: int = -1


@dataclass(eq=False)
class Item:
    """A step of the plan: one task that is not a loop over elements."""

    tasks: list[Task]
    operands: list[View] = field(default_factory=list)


@dataclass(eq=False)
class Nest(Item):
    """Loops over a domain (axes of length one left out), in which several tasks are done."""

    domain: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The items in order, and where the values that have memory lie."""

    graph: Graph
    items: list[Item]
    homes: dict[int, View]
    reads: list[tuple[int, View, int, bool]]  # node, access, place, through a local variable


Reads = Callable[[Task], Iterable[tuple[int, View]]]
"""What a task reads: nodes that have memory, and how they are seen."""


class Placement:
    """Puts tasks into items, as early as possible into a nest of the same domain."""

    def __init__(self, graph: Graph, homes: dict[int, View], reads: Reads) -> None:
        self._graph, self._homes, self._reads = graph, homes, reads
        self._items: list[Item] = []
        self._writers: dict[int, list[Task]] = {}
        self._all_reads: list[tuple[int, View, int, bool]] = []

    def run(self, tasks: Sequence[Task]) -> Plan:
        """Place tasks in this order, and leave out memory that only the own nest would read."""
        for task in tasks:
            reads = list(self._reads(task))
            if task.kind in {"fill", "store", "reduce"}:
                self._into_nest(task, reads)
            else:
                self._append(Item([], [view for _, view in reads]), task)
                self._record(task, reads)
            for i in self._written(task):
                self._writers.setdefault(i, []).append(task)
        self._drop_unread()
        return Plan(self._graph, self._items, self._homes, self._all_reads)

    def _append(self, item: Item, task: Task) -> None:
        self._items.append(item)
        item.tasks.append(task)
        task.place = len(self._items) - 1

    def _into_nest(self, task: Task, reads: Sequence[tuple[int, View]]) -> None:
        domain = self._domain(task)
        earliest = max((other.place + 1 for other in task.after), default=0)
        for leaf, view in reads:
            for writer in self._writers.get(leaf, ()):
                local = self._is_local(writer, leaf, view, domain)
                earliest = max(earliest, writer.place + (0 if local else 1))
        for place in range(earliest, len(self._items)):
            item = self._items[place]
            if isinstance(item, Nest) and item.domain == domain:
                item.tasks.append(task)
                task.place = place
                break
        else:
            self._append(Nest([], domain=domain), task)
        self._record(task, reads)

    def _domain(self, task: Task) -> tuple[int, ...]:
        node = self._graph.nodes[task.node]
        if task.kind == "reduce":
            shape = self._graph.nodes[node.inputs[0]].shape
        else:
            assert task.dest is not None
            shape = task.dest.shape
        return tuple(length for length in shape if length != 1)

    def _is_local(self, writer: Task, leaf: int, view: View, domain: tuple[int, ...]) -> bool:
        """Whether a reader in the writer's nest finds the value in a local variable."""
        item = self._items[writer.place]
        return (
            writer.kind == "store"
            and writer.root
            and isinstance(item, Nest)
            and item.domain == domain == view.squeezed.shape
            and view.is_like(self._homes[leaf])
        )

    def _record(self, task: Task, reads: Sequence[tuple[int, View]]) -> None:
        for leaf, view in reads:
            local = any(writer.place == task.place for writer in self._writers.get(leaf, ()))
            self._all_reads.append((leaf, view, task.place, local))

    def _drop_unread(self) -> None:
        read = {leaf for leaf, _, _, local in self._all_reads if not local}
        for i, view in self._homes.items():
            if view.buffer.role == "scratch" and i not in read:
                for task in self._writers.get(i, ()):
                    task.dest = None

    def _written(self, task: Task) -> list[int]:
        """Nodes whose memory a task writes to, their own or as a part of a concatenation."""
        assert task.dest is not None
        buffer = task.dest.buffer
        return [i for i, view in self._homes.items() if view.buffer is buffer]
