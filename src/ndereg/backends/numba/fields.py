"""The field of a problem as compiled functions: traced and emitted, or the user's own ``@njit``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndereg.backends.base import Problem
from ndereg.backends.numba.emit import Kernel, emit
from ndereg.backends.numba.fingerprint import fingerprint
from ndereg.backends.numba.scalarise import MOST_OPERATIONS
from ndereg.backends.numba.signatures import FIELDS, function_suffix
from ndereg.backends.tracing import refuse_without_vjp, trace_field
from ndereg.field import Field
from ndereg.plan.program import FieldName
from ndereg.structure import Structure
from ndereg.trace import Graph, linearize, per_sample

_TRACES: dict[Any, tuple[Any, Graph]] = {}
_MOST_TRACES = 512


@dataclass(frozen=True, eq=False)
class FieldKernels:
    """The functions of a field; of a stochastic equation, of drift and diffusion.

    Attributes
    ----------
    source : str
        Definitions of ``field`` and, with gradients, ``linearize`` and ``pullback``, and of the
        same for the diffusion.
    field, linearize, pullback : tuple of Kernel
        Their data, by field; empty for those that are not emitted.
    namespace : dict
        Objects that the source refers to by name; only for the user's own functions, whose
        modules cannot be cached on disk.
    modules : dict
        What was compiled of them; let go with them.
    """

    source: str
    field: tuple[Kernel, ...]
    linearize: tuple[Kernel, ...]
    pullback: tuple[Kernel, ...]
    namespace: dict[str, Any]
    modules: dict[Any, Any] = dataclasses.field(default_factory=dict)


class Coupled(Exception):
    """The field couples samples (or is opaque): they cannot be solved one by one."""


def traced_graph(problem: Problem, name: FieldName = "drift") -> Graph:
    """Trace a problem's drift or diffusion; kept while nothing that it reads has changed."""
    layout, field, result = problem.seen, problem.field, problem.seen
    if name == "diffusion":
        assert problem.diffusion is not None
        field, result = problem.diffusion.field, problem.diffusion.layout
    mark = fingerprint(field)
    key = (
        mark,
        layout,
        result,
        problem.args_structure,
        tuple([(arg.shape, arg.dtype) for arg in problem.args]),
    )
    if mark is not None:
        found = _TRACES.get(key)
        if found is not None:
            return found[1]
    graph = trace_field(problem, name)
    if mark is not None:
        if len(_TRACES) >= _MOST_TRACES:
            _TRACES.pop(next(iter(_TRACES)))
        _TRACES[key] = (field, graph)
    return graph


def emitted_kernels(
    graphs: Sequence[Graph], gradient: bool, most: int = MOST_OPERATIONS
) -> FieldKernels:
    """Kernels of a traced field, or of drift and diffusion; ``most`` is that of :func:`emit`."""
    emitted = [
        _emitted(graph, function_suffix(name), gradient, most)
        for name, graph in zip(FIELDS, graphs, strict=False)
    ]
    source = "\n\n".join(kernel.source for kernels in emitted for kernel in kernels)
    kinds = list(zip(*emitted, strict=True))
    return FieldKernels(source, *(kinds if gradient else (*kinds, (), ())), {})


def _emitted(graph: Graph, suffix: str, gradient: bool, most: int) -> tuple[Kernel, ...]:
    field = emit(graph, "field" + suffix, most=most)
    if not gradient:
        return (field,)
    linear = linearize(graph)
    return (
        field,
        emit(linear.forward, "linearize" + suffix, "linearize"),
        emit(linear.pullback, "pullback" + suffix, "pullback", linear.zero),
    )


def field_graphs(problem: Problem) -> list[Graph]:
    """Trace the field, or drift and diffusion; of an independent batch, one sample of it.

    Raises
    ------
    Coupled
        If samples cannot be told apart.
    """
    diffusion = problem.diffusion
    names = FIELDS if diffusion is not None and diffusion.field is not None else FIELDS[:1]
    traced = traced_graph if problem.layout.batch is None else sample_graph
    return [traced(problem, name) for name in names]


def sample_graph(problem: Problem, name: FieldName = "drift") -> Graph:
    """Trace one sample of an independent batch.

    Raises
    ------
    Coupled
        If the samples cannot be told apart.
    """
    assert problem.layout.batch is not None
    graph = per_sample(traced_graph(problem, name), problem.layout.batch)
    if graph is None:
        raise Coupled
    return graph


def own_kernels(problem: Problem, gradient: bool) -> FieldKernels:
    """Wrap the user's compiled functions in the calling convention of the kernels.

    Raises
    ------
    ValueError
        If a gradient is asked for and there is no ``vjp``.
    """
    field = problem.field if isinstance(problem.field, Field) else Field(problem.field)
    if gradient:
        refuse_without_vjp(field)
    layout = problem.layout
    args = _expression(problem.args_structure, [
        f"A[{i}]" if arg.ndim else f"A[{i}][()]" for i, arg in enumerate(problem.args)
    ])  # fmt: skip
    state = _pieces(problem, "y")
    lines = ["@kernel", "def field(t, y, A, work, out, dims, constants):"]
    if field.in_place:
        lines.append(f"    user_field(t, {state}, {args}, {_pieces(problem, 'out')})")
    else:
        lines.append(f"    k = user_field(t, {state}, {args})")
        lines += _store(layout.structure, "k", layout.sizes, "out")
    namespace: dict[str, Any] = {"user_field": field.function}
    none = np.zeros(0, np.int64)
    kernel = Kernel("field", "", (), (), (), none, ())
    if not gradient:
        return FieldKernels("\n".join(lines) + "\n", (kernel,), (), (), namespace)
    lines += ["", "@kernel", "def linearize(t, y, A, work, residuals, out, dims, constants):",
              "    field(t, y, A, work, out, dims, constants)", "", "@kernel",
              "def pullback(t, y, A, work, residuals, k_bar, y_bar, A_bar, dims, constants):",
              f"    k_bar_state = {_pieces(problem, 'k_bar')}",
              f"    s_bar, a_bar = user_vjp(t, {state}, {args}, k_bar_state)"]  # fmt: skip
    lines += _store(layout.structure, "s_bar", layout.sizes, "y_bar")
    for i, access in enumerate(_accesses(problem.args_structure, "a_bar")):
        if problem.args[i].dtype.kind in "fc":
            lines.append(
                f"    A_bar[{i}][:] += {access}" if problem.args[i].ndim
                else f"    A_bar[{i}][()] = A_bar[{i}][()] + {access}"
            )  # fmt: skip
    namespace["user_vjp"] = field.vjp
    return FieldKernels("\n".join(lines) + "\n", (kernel,), (kernel,), (kernel,), namespace)


def _expression(structure: Structure, leaves: list[str]) -> str:
    if structure.kind == "none":
        return "None"
    return str(structure.unflatten([_Source(leaf) for leaf in leaves]))


class _Source(str):
    """Source text that prints without quotes inside a tuple."""

    def __repr__(self) -> str:
        return str(self)


def _pieces(problem: Problem, name: str) -> str:
    """Source of the flat array ``name`` in the structure and shapes of the state."""
    leaves, start = [], 0
    layout = problem.layout
    for shape, size in zip(layout.shapes, layout.sizes, strict=True):
        leaves.append(f"{name}[{start}:{start + size}].reshape({shape!r})")
        start += size
    return _expression(layout.structure, leaves)


def _accesses(structure: Structure, root: str) -> list[str]:
    return [root + path for path in structure.paths()]


def _store(structure: Structure, root: str, sizes: tuple[int, ...], target: str) -> list[str]:
    lines, start = [], 0
    for access, size in zip(_accesses(structure, root), sizes, strict=True):
        lines.append(f"    {target}[{start}:{start + size}] = np.asarray({access}).reshape({size})")
        start += size
    return lines
