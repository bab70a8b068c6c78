"""Tensors with history that a field uses without being given them.

A closure may hold parameters, or tensors computed from parameters (a context from an encoder). They
are found, never left out: leaves by walking the history of one evaluation of the field, and
computed tensors, whose own history is none of the field's business, by watching what enters it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

LATE = (
    "expected the field to use the same tensors throughout, received one{} with requires_grad=True "
    "that it did not use at the start of the solve, so that its gradient would be lost; try "
    "passing it in args"
)

Edge = tuple[Any, int]
"""A node of a history and the index of its output."""


class Boundary:
    """The known tensors at which walks through a field's history end."""

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        leaves = [tensor for tensor in known if tensor.grad_fn is None]
        self._leaves = {id(tensor) for tensor in leaves}
        self._edges = {_edge(tensor) for tensor in known if tensor.grad_fn is not None}
        self._known = {(None, 0), *self._edges, *map(_edge_of_leaf, leaves)}

    def check(self, value: torch.Tensor, point: torch.Tensor) -> None:
        """Refuse a history that reaches a tensor that is neither known nor ``point``.

        Raises
        ------
        RuntimeError
            Rather than leaving its gradient out.
        """
        if self._only_known(value, point):
            return
        for item in _walk(value, self._edges):
            if isinstance(item, tuple) or item is point or id(item) in self._leaves:
                continue
            raise RuntimeError(LATE.format(f" of shape {tuple(item.shape)}"))

    def _only_known(self, value: torch.Tensor, point: torch.Tensor) -> bool:
        """Whether a history ends at known tensors only: a shorter walk, made for every stage."""
        if value.grad_fn is None:
            return False
        # an edge that was met needs no other visit, nor does one that ends the walk
        met = self._known.copy()
        waiting = [value.grad_fn]
        for node in waiting:
            for edge in node.next_functions:
                if edge in met:
                    continue
                following = edge[0]
                if type(following) is _Leaf and following.variable is not point:
                    return False
                met.add(edge)
                waiting.append(following)
        return True


def dependencies(
    evaluate: Callable[[], torch.Tensor], point: torch.Tensor, known: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Evaluate; return the value and what it depends on beside ``point`` and ``known``.

    Called with autograd on.
    """
    began = point.view_as(point).grad_fn._sequence_nr()  # type: ignore[union-attr]
    value = evaluate()
    if not value.requires_grad:
        return value, []
    given = {id(tensor) for tensor in (point, *known)}
    stops: dict[Edge, torch.Tensor] = {
        _edge(tensor): tensor for tensor in known if tensor.grad_fn is not None
    }
    found = list(_walk(value, stops, began))
    if any(isinstance(item, tuple) and item not in stops for item in found):
        # Something older than the evaluation: look at it being used. What goes unseen all the
        # same (it was used by compiled code) is differentiated back to its leaves, every time.
        stops |= {
            _edge(tensor): tensor for tensor in _entering(evaluate) if tensor.grad_fn is not None
        }
        found = list(_walk(value, stops))
    tensors = [stops[item] if isinstance(item, tuple) else item for item in found]
    return value, list({id(t): t for t in tensors if id(t) not in given}.values())


def _edge(tensor: torch.Tensor) -> Edge:
    return tensor.grad_fn, tensor.output_nr


def _edge_of_leaf(tensor: torch.Tensor) -> Edge:
    """The edge at which histories that reach a leaf end."""
    edge = torch.autograd.graph.get_gradient_edge(tensor)
    return edge.node, edge.output_nr


_Leaf: Any = type(_edge_of_leaf(torch.zeros((), requires_grad=True))[0])
"""Of the nodes that end a history, whose ``next_functions`` are empty."""


def _walk(
    value: torch.Tensor, stops: Any, began: int | None = None
) -> Iterator[torch.Tensor | Edge]:
    """Leaves that a history reaches, and edges that end it: ``stops``, or older than ``began``."""
    if value.grad_fn is None:  # the field returned a leaf as it is, the state itself for instance
        yield value
        return
    waiting = [_edge(value)]
    seen = set()
    while waiting:
        edge = waiting.pop()
        node = edge[0]
        if node is None:
            continue
        if edge in stops:
            yield edge
        elif node not in seen:
            leaf = getattr(node, "variable", None)
            if leaf is None and began is not None and node._sequence_nr() < began:
                yield edge  # not marked as seen: its other outputs count as well
                continue
            seen.add(node)
            if leaf is None:
                waiting.extend(node.next_functions)
            else:
                yield leaf


class _Watch(TorchFunctionMode):
    """Collects the tensors with history that enter operations."""

    def __init__(self) -> None:
        super().__init__()
        self.entered: list[torch.Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        self.entered += [t for t in _tensors((args, tuple(kwargs.values()))) if t.requires_grad]
        return func(*args, **kwargs)


def _entering(evaluate: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    with _uncompiled(), _Watch() as watch:
        evaluate()
    return watch.entered


def _uncompiled() -> AbstractContextManager[Any]:
    """Run compiled functions as they were written; to be watched once would spoil them for good."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)
