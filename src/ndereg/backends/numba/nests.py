"""Text of a nest of loops: the order of its axes, and what is done at which depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ndereg.backends.numba.expressions import accumulation, expression, initial
from ndereg.backends.numba.fuse import Planner, Trail
from ndereg.backends.numba.placement import Nest, Task
from ndereg.backends.numba.text import Text
from ndereg.backends.numba.views import VIEWS, Buffer, View, axes_of, contiguous

__all__ = ["write_fill", "write_nest"]


@dataclass
class _Access:
    """An entry of a buffer for every point of the domain."""

    view: View  # strides along the axes of the domain, zero along the reduced ones


@dataclass
class _Load(_Access):
    name: str


@dataclass
class _Compute:
    name: str
    text: str


@dataclass
class _Store(_Access):
    value: str
    accumulate: bool


@dataclass
class _Reduce(_Access):
    op: str
    value: str
    accumulate: bool
    reduced: tuple[bool, ...]
    name: str = ""
    depth: int | None = None  # of the loops around its own; None: partial results are in memory


@dataclass
class _Body:
    """What is done at every point of the domain."""

    steps: list[_Load | _Compute | _Store | _Reduce] = field(default_factory=list)


class _Tracer:
    """Collects the steps of a nest; every value is computed once."""

    def __init__(self, planner: Planner, nest: Nest, text: Text) -> None:
        self._planner, self._nest, self._text = planner, nest, text
        self._known: dict[object, str] = {}
        self._locals: dict[int, str] = {}
        self.body = _Body()

    def run(self) -> _Body:
        for task in self._nest.tasks:
            self._add(task)
        # What is written may take the place of what is read at the same point.
        self.body.steps.sort(key=lambda step: isinstance(step, _Store | _Reduce))
        return self.body

    def _add(self, task: Task) -> None:
        node = self._planner.nodes[task.node]
        if task.kind == "fill":
            assert task.dest is not None
            value = self._text.constant(0, task.dest.buffer.dtype)
            self.body.steps.append(_Store(task.dest.squeezed, value, False))
            return
        if task.kind == "reduce":
            assert task.dest is not None
            value = self._value(node.inputs[0], ())
            source = self._planner.nodes[node.inputs[0]].shape
            view, reduced = _along_operand(task.dest, source, axes_of(node))
            self.body.steps.append(_Reduce(view, node.op, value, task.accumulate, reduced))
            return
        value = self._sum(task.terms) if task.terms else self._value(task.node, (), task.root)
        if task.root:
            self._locals[task.node] = value
        if task.dest is not None:
            if task.dest.buffer.role == "scalar":
                self.body.steps.append(_Compute(task.dest.buffer.name, value))
            else:
                self.body.steps.append(_Store(task.dest.squeezed, value, task.accumulate))

    def _sum(self, terms: Sequence[int]) -> str:
        total, *rest = (self._value(i, ()) for i in terms)
        for value in rest:
            name = self._text.fresh("v")
            self.body.steps.append(_Compute(name, f"{total} + {value}"))
            total = name
        return total

    def _value(self, i: int, trail: Trail, root: bool = False) -> str:
        """Return the name of a value at the current point."""
        planner, node = self._planner, self._planner.nodes[i]
        if i in planner.uniform:
            return self._text.constant(planner.uniform[i], node.dtype)
        if i in planner.homes and not root:
            return self._leaf(i, trail)
        if node.op in VIEWS:
            return self._value(node.inputs[0], (i, *trail))
        key = (i, self._position(i, trail))
        if key not in self._known:
            operands = [self._value(j, trail) for j in node.inputs]
            source = planner.nodes[node.inputs[-1]].dtype
            name = self._text.fresh("v")
            computed = expression(node.op, operands, source, node.dtype)
            self.body.steps.append(_Compute(name, computed))
            self._known[key] = name
        return self._known[key]

    def _leaf(self, i: int, trail: Trail) -> str:
        leaf, view = self._planner.read(i, trail)
        if view.buffer.role == "scalar":
            return view.buffer.name
        if leaf in self._locals and view.is_like(self._planner.homes[leaf]):
            return self._locals[leaf]
        view = view.squeezed
        if view not in self._known:
            self._known[view] = self._text.fresh("x")
            self.body.steps.append(_Load(view, self._known[view]))
        return self._known[view]

    def _position(self, i: int, trail: Trail) -> object:
        """Which entries are visited; equal for trails that come to the same."""
        node = self._planner.nodes[i]
        view: View | None = contiguous(_ANYWHERE, node.shape)
        for j in trail:
            view = None if view is None else view.apply(self._planner.nodes[j])
        return trail if view is None else view.squeezed


_ANYWHERE = Buffer("given", "", "", 0)


def _along_operand(
    dest: View, shape: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[View, tuple[bool, ...]]:
    """Return the result of a reduction as a view over the operand's axes, and which are reduced."""
    strides = list(dest.strides)
    lengths = []
    for axis, length in enumerate(shape):
        if axis in axes:
            strides.insert(axis, 0)
        lengths.append(length)
    view = replace(dest, shape=tuple(lengths), strides=tuple(strides)).squeezed
    return view, tuple(i in axes for i, length in enumerate(shape) if length != 1)


def write_nest(planner: Planner, nest: Nest, text: Text) -> None:
    """Append the loops of a nest to the text."""
    body = _Tracer(planner, nest, text).run()
    lengths = _arrange(body, nest.domain)
    for step in body.steps:
        if isinstance(step, _Reduce):
            _prepare(step, lengths, text)
    _write_loops(body, lengths, text)


def write_fill(view: View, value: str, text: Text) -> None:
    """Append loops that set all entries of a view."""
    view = view.squeezed
    body = _Body([_Store(view, value, False)])
    _write_loops(body, _arrange(body, view.shape), text)


def _arrange(body: _Body, domain: tuple[int, ...]) -> list[int]:
    """Choose the innermost axis, merge axes; returns the lengths of the loops."""
    accesses = [step for step in body.steps if isinstance(step, _Access)]
    axes = list(range(len(domain)))
    if len(axes) > 1:
        # Packed loads and stores need adjacent entries along the innermost axis.
        def scattered(axis: int) -> int:
            return sum(access.view.strides[axis] not in (0, 1) for access in accesses)

        innermost = min(reversed(axes), key=scattered)
        axes.remove(innermost)
        axes.append(innermost)
    lengths = [domain[i] for i in axes]
    for access in accesses:
        _reorder(access, axes)
    for i in reversed(range(len(lengths) - 1)):
        if all(_merges(access, i) for access in accesses):
            lengths[i : i + 2] = [lengths[i] * lengths[i + 1]]
            for access in accesses:
                _merge(access, i)
    return lengths


def _reorder(access: _Access, axes: Sequence[int]) -> None:
    access.view = access.view.permute(axes)
    if isinstance(access, _Reduce):
        access.reduced = tuple(access.reduced[i] for i in axes)


def _merges(access: _Access, i: int) -> bool:
    view = access.view
    if isinstance(access, _Reduce) and access.reduced[i] != access.reduced[i + 1]:
        return False
    return view.strides[i] == view.strides[i + 1] * view.shape[i + 1]


def _merge(access: _Access, i: int) -> None:
    shape, strides = list(access.view.shape), list(access.view.strides)
    shape[i : i + 2] = [shape[i] * shape[i + 1]]
    strides[i : i + 2] = [strides[i + 1]]
    access.view = replace(access.view, shape=tuple(shape), strides=tuple(strides))
    if isinstance(access, _Reduce):
        access.reduced = (*access.reduced[:i], *access.reduced[i + 1 :])


def _prepare(step: _Reduce, lengths: Sequence[int], text: Text) -> None:
    """Decide where a reduction keeps its partial results, and set them to its neutral element."""
    kept = step.reduced.index(True)
    if all(step.reduced[kept:]):
        step.depth = kept
        local = step.view.buffer.role == "scalar"
        step.name = step.view.buffer.name if local else text.fresh("total")
    elif not step.accumulate:
        shape = tuple(1 if r else n for r, n in zip(step.reduced, lengths, strict=True))
        start = text.typed(initial(step.op, step.view.buffer.dtype), step.view.buffer.dtype)
        write_fill(replace(step.view, shape=shape), start, text)


def _write_loops(body: _Body, lengths: Sequence[int], text: Text) -> None:
    reductions = [step for step in body.steps if isinstance(step, _Reduce)]

    def level(depth: int) -> None:
        own = [step for step in reductions if step.depth == depth]
        for step in own:
            dtype = step.view.buffer.dtype
            text.line(f"{step.name} = {text.typed(initial(step.op, dtype), dtype)}")
        if depth == len(lengths):
            _write_body(body, text)
        else:
            with text.loop(depth, lengths[depth]):
                level(depth + 1)
        for step in own:
            if step.view.buffer.role != "scalar":
                outer = replace(
                    step.view,
                    shape=step.view.shape[:depth],
                    strides=step.view.strides[:depth],
                )
                text.store(outer, step.name, step.accumulate)

    level(0)


def _write_body(body: _Body, text: Text) -> None:
    for step in body.steps:
        if isinstance(step, _Load):
            text.line(f"{step.name} = {text.entry(step.view)}")
        elif isinstance(step, _Compute):
            text.line(f"{step.name} = {step.text}")
        elif isinstance(step, _Store):
            text.store(step.view, step.value, step.accumulate)
        elif step.depth is not None:
            dtype = step.view.buffer.dtype
            text.line(f"{step.name} = {accumulation(step.op, step.name, step.value, dtype)}")
        else:
            entry, dtype = text.entry(step.view), step.view.buffer.dtype
            text.line(f"{entry} = {accumulation(step.op, entry, step.value, dtype)}")
