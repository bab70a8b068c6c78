"""A field that the user compiled, as a graph of tensor operations.

``torch.compile(field)`` says that the field may be compiled. Called as it is, it would be entered
anew for every stage: its guards are checked and its kernels are started from Python, which for a
small field costs more than its arithmetic. So the compiler's front end hands the graph over here
instead, once a solve, with all that it guards (the module's mode, numbers that a closure holds,
shapes), and :mod:`ndereg.backends.torch.kernels` compiles whole steps around it.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ndereg.structure import Structure, flatten


@dataclass(eq=False)
class FieldGraph:
    """The operations of a field, and where the inputs and results of the graph belong.

    Attributes
    ----------
    module : torch.fx.GraphModule
    inputs : tuple
        Of every input ``"t"``, a position among the arrays of state and args, or ``"held"`` for a
        tensor that the field holds itself (a parameter, a buffer, what a closure refers to).
    results : tuple of (bool, int)
        Of every array of the result whether it is an output of the graph, else an input, and which.
    structure : Structure
        Of the result.
    kernels : dict
        What was compiled around it.
    """

    module: Any
    inputs: tuple[Any, ...] = ()
    results: tuple[tuple[bool, int], ...] = ()
    structure: Structure | None = None
    kernels: dict[Any, Any] = field(default_factory=dict)

    def __call__(
        self, t: torch.Tensor, arrays: Sequence[torch.Tensor], held: Sequence[torch.Tensor]
    ) -> Any:
        """Evaluate; ``arrays`` are those of state and args, ``held`` what the field holds."""
        rest = iter(held)
        given = [
            t if role == "t" else next(rest) if role == "held" else arrays[role]
            for role in self.inputs
        ]
        found = self.module(*given)
        assert self.structure is not None
        return self.structure.unflatten(
            [(found if computed else given)[index] for computed, index in self.results]
        )


@dataclass
class Captured:
    """A graph, what the field holds in this solve, and its value where it was captured."""

    graph: FieldGraph
    held: list[torch.Tensor]
    value: Any


MOST_VARIANTS = 64
"""Graphs of one field: shapes, and values that the compiler takes for constants."""


def _apart() -> dict[str, Any]:
    """Options under which a field's variants are counted by themselves, where PyTorch has them.

    It counts those of one source, which all modules share where they are called, and stops at 8.
    """
    known = inspect.signature(torch.compile).parameters
    options = {"isolate_recompiles": True, "recompile_limit": MOST_VARIANTS}
    return {name: value for name, value in options.items() if name in known}


_HARMLESS = (r"(?s).*functools\.lru_cache", r"(?s)The \.grad attribute of a Tensor")
"""Warnings of the compiler about its own doing: the cache is that of a namespace by type
(:mod:`ndereg.ops`), and it looks at the gradient of what a closure holds."""


class Capture:
    """The graphs of one compiled field, one for every variant that its guards tell apart."""

    def __init__(self, original: Callable[..., Any], options: dict[str, Any]) -> None:
        self.options = options
        """Of the compiler, as the user gave them."""
        self.refused = ""
        self._called: tuple[FieldGraph, tuple[Any, ...], tuple[Any, ...]] | None = None
        self._front = torch.compile(
            original, backend=self._take, fullgraph=True, dynamic=False, **_apart()
        )

    @property
    def field(self) -> Callable[..., Any]:
        """The field, which hands over its graph whenever it is called."""
        return self._front

    def _take(self, module: Any, examples: Sequence[Any]) -> Callable[..., Any]:
        graph = FieldGraph(module)

        def run(*inputs: Any) -> Any:
            outputs = module(*inputs)
            self._called = graph, inputs, outputs
            return outputs

        return run

    def __call__(
        self, call: Callable[[], Any], t: torch.Tensor, arrays: Sequence[torch.Tensor]
    ) -> Captured | None:
        """Capture the field in ``call()``; None, with a warning, where it has no one graph."""
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        self._called = None
        try:
            with torch.no_grad(), warnings.catch_warnings():
                for message in _HARMLESS:
                    warnings.filterwarnings("ignore", message)
                value = call()
            return self._captured(value, t, arrays)
        except (TorchDynamoException, FailOnRecompileLimitHit, _NoGraph) as error:
            self.refused = str(error).strip().splitlines()[0]
            warnings.warn(
                "expected a compiled field that is one graph of tensor operations, received one "
                f"that is not ({self.refused}); its steps are taken eagerly, which is slower. Try "
                "torch.compile(field, fullgraph=True) to see where the graph breaks",
                RuntimeWarning,
                stacklevel=2,
            )
            return None

    def _captured(self, value: Any, t: torch.Tensor, arrays: Sequence[torch.Tensor]) -> Captured:
        if self._called is None:
            raise _NoGraph("it computes nothing")
        (graph, inputs, outputs), self._called = self._called, None
        if not all(isinstance(item, torch.Tensor) for item in (*inputs, *outputs)):
            raise _NoGraph("its graph takes or returns other things than tensors")
        positions = {id(array): position for position, array in enumerate(arrays)}
        roles: list[Any] = []
        held = []
        for item in inputs:
            role = "t" if item is t else positions.get(id(item), "held")
            roles.append(role)
            if role == "held":
                held.append(item)
        leaves, structure = flatten(value)
        graph.inputs, graph.structure = tuple(roles), structure
        graph.results = tuple(_place(leaf, outputs, inputs) for leaf in leaves)
        return Captured(graph, held, value)


class _NoGraph(Exception):
    """The field cannot be had as one graph."""


def _place(leaf: Any, outputs: Sequence[Any], inputs: Sequence[Any]) -> tuple[bool, int]:
    for computed, candidates in ((True, outputs), (False, inputs)):
        for index, candidate in enumerate(candidates):
            if leaf is candidate:
                return computed, index
    raise _NoGraph("it returns what is neither computed nor given")


_CAPTURES: WeakKeyDictionary[Any, Capture | None] = WeakKeyDictionary()


def capture_of(field: Callable[..., Any]) -> Capture | None:
    """Return how to capture a field that was compiled by the default compiler; None for others.

    A field compiled by another backend of ``torch.compile`` is called as it is.
    """
    module = isinstance(field, torch.nn.Module)
    original = getattr(field, "_orig_mod" if module else "_torchdynamo_orig_callable", None)
    if original is None:
        return None
    if field not in _CAPTURES:
        compiler = _compiler_of(field)
        inductor = getattr(compiler, "compiler_name", None) == "inductor"
        options = dict(getattr(compiler, "config", None) or {})
        _CAPTURES[field] = Capture(original, options) if inductor else None
    return _CAPTURES[field]


def _compiler_of(field: Any) -> Any:
    """Return the backend that ``torch.compile`` was given, where it can be told."""
    contexts = [getattr(field, "dynamo_ctx", None)]
    contexts += [cell.cell_contents for cell in getattr(field, "__closure__", None) or ()]
    for context in contexts:
        compiler = getattr(context, "callback", None)
        compiler = getattr(compiler, "_torchdynamo_orig_backend", compiler)
        while compiler is not None and not hasattr(compiler, "compiler_name"):
            compiler = getattr(compiler, "_torchdynamo_orig_backend", None)
        if compiler is not None:
            return compiler
    return None
