"""Tensors with history that a field uses without being given them.

A closure may hold parameters, or tensors computed from parameters (a context from an encoder). They
are found, never left out: by watching what one evaluation of the field touches, and by walking
its history for whatever was not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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


class _Watch(TorchFunctionMode):
    """Collects tensors with history that enter operations without having left one."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, torch.Tensor] = {}
        self._made: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        for tensor in _tensors((args, tuple(kwargs.values()))):
            if tensor.requires_grad and id(tensor) not in self._made:
                self.found[id(tensor)] = tensor
        result = func(*args, **kwargs)
        # kept alive, so that no other tensor gets their identity
        self._made.update((id(tensor), tensor) for tensor in _tensors((result,)))
        return result


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def observed(
    evaluate: Callable[[], torch.Tensor], point: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the value, and the tensors with older history that entered its computation."""
    with torch.enable_grad():
        began = point.view_as(point).grad_fn._sequence_nr()  # type: ignore[union-attr]
    with _Watch() as watch:
        value = evaluate()
    # what an operation made without being seen (a custom function) is younger than the start
    older = [
        tensor
        for tensor in watch.found.values()
        if tensor.grad_fn is None or tensor.grad_fn._sequence_nr() < began
    ]
    return value, older


def edge(tensor: torch.Tensor) -> Edge | None:
    """Where the history of a tensor ends; None for a leaf."""
    node = tensor.grad_fn
    return None if node is None else (node, tensor.output_nr)


class Boundary:
    """The known tensors at which walks through a field's history end."""

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        self._leaves = {id(tensor) for tensor in known if tensor.grad_fn is None}
        self._edges = {edge(tensor) for tensor in known if tensor.grad_fn is not None}

    def search(
        self,
        value: torch.Tensor,
        point: torch.Tensor,
        known: Sequence[torch.Tensor],
        found: Sequence[torch.Tensor],
    ) -> list[torch.Tensor]:
        """Tensors that ``value`` depends on beside ``point`` and ``known``."""
        given = {id(tensor) for tensor in (point, *known)}
        candidates = [tensor for tensor in found if id(tensor) not in given]
        stops = {edge(tensor): tensor for tensor in candidates if tensor.grad_fn is not None}
        reached: dict[int, torch.Tensor] = {}
        for item in _walk(value, set(stops) | self._edges | {edge(t) for t in known}):
            tensor = stops.get(item) if isinstance(item, tuple) else item
            if tensor is not None and id(tensor) not in given:
                reached[id(tensor)] = tensor
        return list(reached.values())

    def check(
        self, value: torch.Tensor, point: torch.Tensor, known: Sequence[torch.Tensor]
    ) -> None:
        """Refuse a history that reaches a tensor that was not found at the start.

        Raises
        ------
        RuntimeError
            Rather than leaving its gradient out.
        """
        for item in _walk(value, self._edges):
            if isinstance(item, tuple) or item is point or id(item) in self._leaves:
                continue
            raise RuntimeError(LATE.format(f" of shape {tuple(item.shape)}"))


def _walk(value: torch.Tensor, stops: set[Any]) -> Iterator[Any]:
    """Leaves that a history reaches, and those of the ``stops`` that it meets, which end it."""
    if value.grad_fn is None:  # the field returned a leaf as it is, the state itself for instance
        yield value
        return
    first = (value.grad_fn, value.output_nr)
    if first in stops:
        yield first
        return
    seen = {value.grad_fn}
    open_nodes = [value.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        for following in node.next_functions:  # type: ignore[union-attr]
            target = following[0]
            if target is None:
                continue
            if following in stops:
                yield following
            elif target not in seen:
                seen.add(target)
                leaf = getattr(target, "variable", None)
                if leaf is not None:
                    yield leaf
                else:
                    open_nodes.append(target)
