"""From a traced graph to the source text of a compiled kernel.

Calling conventions (``args``, ``work``, ``residuals``, ``args_bar`` and ``constants`` are tuples of
arrays; arrays are C-contiguous, and none that is written may overlap another)::

    field(t, y, args, work, out, dims, constants[, sample])
    linearize(t, y, args, work, residuals, out, dims, constants[, sample])
    pullback(t, y, args, work, residuals, k_bar, y_bar, args_bar, dims, constants[, sample])

``t`` is a float64 scalar; ``y``, ``out``, ``k_bar`` and ``y_bar`` are flat, in the state's dtype;
the leaves of ``args`` and ``args_bar`` have their own shapes and dtypes. ``out`` and ``y_bar`` are
overwritten, ``args_bar`` is added to. ``work`` and ``residuals`` are flat arrays of the sizes and
dtypes that the kernel states. ``dims`` and ``constants`` are data of the kernel: one text serves
every batch size, since lengths above 16 are read from ``dims``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndereg.backends.numba.fuse import Output, Planner
from ndereg.backends.numba.lowering import lower
from ndereg.backends.numba.nests import write_nest
from ndereg.backends.numba.placement import Nest
from ndereg.backends.numba.products import write_item
from ndereg.backends.numba.scalarise import MOST_OPERATIONS, write_scalars
from ndereg.backends.numba.storage import allocate
from ndereg.backends.numba.text import Text
from ndereg.backends.numba.views import VIEWS, Buffer, View, contiguous
from ndereg.trace.graph import Graph

__all__ = ["HEADER", "Kernel", "emit"]

#: What the text of a kernel needs to be a module.
HEADER = """\
import math

import numpy as np

from ndereg.backends.numba.blas import gemm, gemv
from ndereg.backends.numba.compiler import kernel
from ndereg.backends.numba.elementary import (
    cos, cosh, erf, exp, expm1, log, log1p, sigmoid, sin, sinh, tan, tanh
)
from ndereg.backends.numba.entries import entries, entries_from, room
from ndereg.backends.numba.operations import (
    ceil, floor, is_finite, is_nan, larger, nearest, plus, select, sign, smaller, times
)
"""

_PARAMETERS = {
    "field": ("t", "y", "args", "work", "out"),
    "linearize": ("t", "y", "args", "work", "residuals", "out"),
    "pullback": ("t", "y", "args", "work", "residuals", "k_bar", "y_bar", "args_bar"),
}


@dataclass(frozen=True, eq=False)
class Kernel:
    """The text of one compiled function, and the data it is called with.

    Attributes
    ----------
    name : str
        Of the function in ``source``.
    source : str
        Definition with its decorator; together with ``HEADER`` a module.
    parameters : tuple of str
    work : tuple of (str, int)
        Dtype and size of every scratch array.
    residuals : tuple of (str, int)
        Dtype and size of every array handed from ``linearize`` to ``pullback``.
    dims : ndarray
        Run-time lengths, int64.
    constants : tuple of ndarray
        Flat arrays.
    """

    name: str
    source: str
    parameters: tuple[str, ...]
    work: tuple[tuple[str, int], ...]
    residuals: tuple[tuple[str, int], ...]
    dims: NDArray[np.int64]
    constants: tuple[NDArray[np.generic], ...]


def emit(
    graph: Graph,
    name: str,
    kind: str = "field",
    zero: Sequence[bool] = (),
    most: int = MOST_OPERATIONS,
) -> Kernel:
    """Write the kernel of a graph.

    Parameters
    ----------
    graph : Graph
        For ``"field"`` as traced; for ``"linearize"`` and ``"pullback"`` the two graphs of
        :func:`ndereg.trace.vjp.linearize` by the state and all leaves of args.
    name : str
        Of the function.
    kind : {"field", "linearize", "pullback"}
    zero : sequence of bool
        For every output of a pullback whether it vanishes; then nothing is added.
    most : int
        Operations of the longest kernel that is written without loops.

    Returns
    -------
    Kernel

    Examples
    --------
    >>> kernel = emit(trace(field, ...), "field")
    >>> function = getattr(load(HEADER + kernel.source), "field")
    """
    scalars, text = lower(graph, products=False), Text()
    frame = _Frame(scalars, kind, text)
    work: list[Buffer] = []
    if not write_scalars(scalars, frame.homes, frame.uniform, frame.outputs(zero), text, most):
        graph, text = lower(graph), Text()
        frame = _Frame(graph, kind, text)
        outputs = frame.outputs(zero)
        planner = Planner(graph, frame.homes, frame.uniform, outputs)
        plan = planner.plan()
        work = allocate(plan)
        for item in plan.items:
            if isinstance(item, Nest):
                write_nest(planner, item, text)
            else:
                write_item(planner, item, text)
    for i in range(len(work)):
        text.unpacked(f"w{i}", f"entries(work[{i}])")
    parameters = (*_PARAMETERS[kind], "dims", "constants", *(["sample"] * frame.has_sample))
    head = f"@kernel\ndef {name}({', '.join(parameters)}):"
    return Kernel(
        name=name,
        source=f"{head}\n{text.assembled()}\n",
        parameters=parameters,
        work=tuple((buffer.dtype, buffer.size) for buffer in work),
        residuals=frame.residuals(),
        dims=text.dims,
        constants=text.arrays,
    )


class _Frame:
    """The arguments of a kernel: which node of the graph is which."""

    def __init__(self, graph: Graph, kind: str, text: Text) -> None:
        self.graph, self.kind, self._text = graph, kind, text
        self.homes: dict[int, View] = {}
        self.uniform = _uniform(graph)
        names = graph.input_names
        self.has_sample = names[-1] == "sample"
        positions = list(graph.inputs)
        if self.has_sample:
            positions.pop()
        self._residuals: list[int] = []
        if kind == "pullback":
            self._give(text.unpacked("k_bar", "entries(k_bar)"), positions.pop())
            while re.fullmatch(r"residual\[\d+\]", names[len(positions) - 1]):
                self._residuals.insert(0, positions.pop())
        time, state, *self._args = positions
        self._give_time(time)
        self._give(text.unpacked("y", "entries(y)"), state)
        for number, i in enumerate(self._args):
            self._give(text.unpacked(f"a{number}", f"entries(args[{number}])"), i)
        for number, i in enumerate(self._residuals):
            self._give(text.unpacked(f"r{number}", f"entries(residuals[{number}])"), i)
        for i, node in enumerate(graph.nodes):
            if node.op == "constant" and i not in self.uniform:
                self._give(text.array(graph.constants[int(str(node.attr("index")))]), i)

    def _give(self, name: str, i: int, role: str = "given") -> None:
        node = self.graph.nodes[i]
        self.homes[i] = contiguous(Buffer(role, name, node.dtype, node.size), node.shape)

    def _give_time(self, i: int) -> None:
        dtype = self.graph.nodes[i].dtype
        name = "t" if dtype == "float64" else self._text.unpacked("t_", f"np.{dtype}(t)")
        self._give(name, i, "scalar")

    def outputs(self, zero: Sequence[bool]) -> list[Output]:
        """Where the outputs of the graph go."""
        nodes = [self.graph.nodes[i] for i in self.graph.outputs]
        if self.kind == "pullback":
            names = [self._text.unpacked("y_bar", "entries(y_bar)")] + [
                self._text.unpacked(f"g{i}", f"entries(args_bar[{i}])")
                for i in range(len(nodes) - 1)
            ]
        else:
            names = [self._text.unpacked("out", "entries(out)")] + [
                self._text.unpacked(f"r{i}", f"entries(residuals[{i}])")
                for i in range(len(nodes) - 1)
            ]
            self._residuals = list(self.graph.outputs[1:])
        return [
            Output(
                i,
                Buffer("output", name, node.dtype, node.size),
                self.kind == "pullback" and number > 0,
            )
            for number, (i, node, name) in enumerate(
                zip(self.graph.outputs, nodes, names, strict=True)
            )
            if not (number > 0 and number < len(zero) and zero[number])
        ]

    def residuals(self) -> tuple[tuple[str, int], ...]:
        """Dtype and size of the residuals."""
        nodes = [self.graph.nodes[i] for i in self._residuals]
        return tuple((node.dtype, node.size) for node in nodes)


def _uniform(graph: Graph) -> dict[int, object]:
    """Nodes all of whose entries are one known number."""
    values: dict[int, object] = {}
    for i, node in enumerate(graph.nodes):
        if node.op == "constant" and node.size == 1:
            values[i] = graph.constants[int(str(node.attr("index")))].item()
        elif node.op in VIEWS and node.inputs[0] in values:
            values[i] = values[node.inputs[0]]
    return values
