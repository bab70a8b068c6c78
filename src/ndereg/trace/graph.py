"""The intermediate representation of a traced field.

A field is traced once into a :class:`Graph`: a straight line of primitive operations in
static single assignment form, with static shapes and dtypes. Everything that is compiled or
differentiated without a framework starts from it.

Primitive operations
--------------------
``input``        attr ``name``; the arrays the graph is called with
``constant``     attr ``index`` into ``Graph.constants``
elementwise      operands of equal shape (broadcasts and casts are explicit nodes), see
                 :mod:`ndereg.trace.primitives` for the list
``broadcast``    NumPy's rules, to the node's shape
``reshape``      row-major, to the node's shape
``permute``      attr ``axes``: axis ``i`` of the result is axis ``axes[i]`` of the operand
``slice``        attrs ``starts``, ``stops``, ``steps``, one per axis: axis ``i`` of the result is
                 ``range(starts[i], stops[i], steps[i])`` of the operand; a step may be negative,
                 and then a stop of -1 means "down to and including 0"
``embed``        transpose of ``slice``: the operand written into zeros of the node's shape at the
                 positions given by the same three attrs
``concat``       attr ``axis``
``gather``       attrs ``axis``, ``indices`` (non-negative integers)
``scatter_add``  attrs ``axis``, ``indices``; transpose of ``gather``: the operand's slices along
                 ``axis`` added into zeros of the node's shape
``take_sample``  attr ``axis``; inputs (operand, sample): row ``sample`` of ``axis``, kept with
                 size 1 (only in graphs of one sample, whose last input is the int64 scalar
                 ``sample``)
``put_sample``   attr ``axis``; inputs (operand, sample); transpose of ``take_sample``
``sum`` ``max`` ``prod``  attr ``axes`` (sorted, non-negative); the reduced axes are dropped
``matmul``       ``(..., m, k) @ (..., k, n)`` with equal leading axes, both of at least 2 axes
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["DTYPES", "Graph", "Node"]

#: The dtypes a node may have. An ``input`` may also be of another integer dtype; the only node
#: that reads it is then a ``cast`` to ``int64``.
DTYPES = ("float32", "float64", "complex64", "complex128", "bool", "int64")


@dataclass(frozen=True, slots=True)
class Node:
    """One operation: its operands are indices of earlier nodes of the same graph."""

    op: str
    inputs: tuple[int, ...]
    attrs: tuple[tuple[str, Hashable], ...]
    shape: tuple[int, ...]
    dtype: str

    def attr(self, name: str) -> Hashable:
        """Return the attribute ``name``; KeyError where the operation has none of that name."""
        for key, value in self.attrs:
            if key == name:
                return value
        raise KeyError(name)

    @property
    def size(self) -> int:
        """Number of entries of the value."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def ndim(self) -> int:
        """Number of axes of the value."""
        return len(self.shape)


@dataclass(frozen=True, eq=False)
class Graph:
    """A traced function: nodes in topological order, which of them go in, which come out.

    Attributes
    ----------
    nodes : tuple of Node
    inputs : tuple of int
        Indices of the ``input`` nodes, in the order of the call. An input that nothing reads is
        listed all the same, so the signature does not depend on what the function uses.
    outputs : tuple of int
        Indices of the nodes returned; an index may occur more than once, and may be an input.
    constants : tuple of ndarray
        Read-only and C-contiguous.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: tuple[NDArray[np.generic], ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of the call."""
        return tuple(str(self.nodes[i].attr("name")) for i in self.inputs)

    @cached_property
    def _key(self) -> str:
        digest = hashlib.sha256()
        for node in self.nodes:
            digest.update(repr((node.op, node.inputs, node.attrs, node.shape, node.dtype)).encode())
        digest.update(repr((self.inputs, self.outputs)).encode())
        for constant in self.constants:
            digest.update(repr((constant.dtype.str, constant.shape)).encode())
            digest.update(constant.tobytes())
        return digest.hexdigest()

    def key(self) -> str:
        """Hex digest of the whole graph, constants included; equal in every process."""
        return self._key

    def lines(self) -> Iterator[str]:
        """Yield the graph as readable text, one node a line."""
        for i, node in enumerate(self.nodes):
            attrs = ", ".join(f"{name}={value}" for name, value in node.attrs)
            if node.op == "constant":
                attrs += f": {_abridged(self.constants[int(str(node.attr('index')))])}"
            operands = ", ".join(f"%{j}" for j in node.inputs)
            text = f"{node.op}({operands})" + (f" [{attrs}]" if attrs else "")
            shape = "×".join(map(str, node.shape)) or "scalar"
            yield f"%{i}: {node.dtype}[{shape}] = {text}"
        yield "return " + ", ".join(f"%{i}" for i in self.outputs)

    def __str__(self) -> str:
        return "\n".join(self.lines())


def _abridged(constant: NDArray[np.generic]) -> str:
    text = np.array2string(constant, threshold=6, edgeitems=2, precision=6, separator=",")
    return " ".join(text.split())
