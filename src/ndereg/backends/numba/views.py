"""Strided views of flat buffers: how a value lies in memory and how structure moves it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ndereg.trace.builder import node_ranges
from ndereg.trace.graph import Node

__all__ = ["VIEWS", "Buffer", "View", "contiguous"]

#: Operations that only change where an entry is looked up.
VIEWS = frozenset({"broadcast", "reshape", "permute", "slice", "take_sample"})


@dataclass(eq=False)
class Buffer:
    """A flat array of the kernel, or with ``role="scalar"`` a local variable.

    Attributes
    ----------
    role : {"given", "output", "scratch", "scalar"}
    name : str
        In the text; a scratch buffer has none until it is given a slot.
    """

    role: str
    name: str
    dtype: str
    size: int


@dataclass(frozen=True)
class View:
    """Entry ``index`` lies at ``offset + sample_stride · sample + Σ strides · index``."""

    buffer: Buffer
    offset: int
    sample_stride: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def squeezed(self) -> View:
        """Without the axes of length one."""
        kept = [i for i, length in enumerate(self.shape) if length != 1]
        shape, strides = (tuple(values[i] for i in kept) for values in (self.shape, self.strides))
        return replace(self, shape=shape, strides=strides)

    def is_like(self, other: View) -> bool:
        """Whether both look up the same entries in buffers of equal extent, axis by axis."""
        one, two = self.squeezed, other.squeezed
        return (one.offset, one.sample_stride, one.shape, one.strides) == (
            two.offset,
            two.sample_stride,
            two.shape,
            two.strides,
        )

    @property
    def is_contiguous(self) -> bool:
        """Whether the entries are adjacent in row-major order."""
        plain = contiguous(self.buffer, self.shape)
        return self.squeezed.strides == plain.squeezed.strides

    def broadcast(self, shape: tuple[int, ...]) -> View:
        """Repeat along new and unit axes."""
        lead = len(shape) - len(self.shape)
        strides = tuple(
            0 if length == 1 and wanted != 1 else stride
            for length, stride, wanted in zip(self.shape, self.strides, shape[lead:], strict=True)
        )
        return replace(self, shape=shape, strides=(0,) * lead + strides)

    def permute(self, axes: Sequence[int]) -> View:
        """Reorder axes."""
        shape = tuple(self.shape[i] for i in axes)
        return replace(self, shape=shape, strides=tuple(self.strides[i] for i in axes))

    def slice(self, ranges: Sequence[range]) -> View:
        """Select a range of every axis."""
        offset = self.offset
        for r, stride in zip(ranges, self.strides, strict=True):
            offset += r.start * stride if len(r) else 0
        strides = tuple(r.step * stride for r, stride in zip(ranges, self.strides, strict=True))
        return replace(self, offset=offset, shape=tuple(map(len, ranges)), strides=strides)

    def row(self, axis: int) -> View:
        """Keep the run-time sample's row of an axis, with length one."""
        if self.shape[axis] == 1:
            return self
        return replace(
            self,
            sample_stride=self.sample_stride + self.strides[axis],
            shape=(*self.shape[:axis], 1, *self.shape[axis + 1 :]),
            strides=(*self.strides[:axis], 0, *self.strides[axis + 1 :]),
        )

    def reshape(self, shape: tuple[int, ...]) -> View | None:
        """Split and merge axes; None where the entries do not lie so."""
        if math.prod(shape) == 0:
            return replace(self, shape=shape, strides=(0,) * len(shape))
        merged = _merged(self.squeezed)
        strides: list[int] = []
        remaining = list(merged)
        length, stride = remaining.pop() if remaining else (1, 0)
        for wanted in reversed(shape):
            if wanted == 1:
                strides.append(0)
                continue
            if length == 1:
                length, stride = remaining.pop()
            if length % wanted:
                return None
            strides.append(stride)
            length, stride = length // wanted, stride * wanted
        return replace(self, shape=shape, strides=tuple(reversed(strides)))

    def apply(self, node: Node) -> View | None:
        """Return the view of ``node``, a structural operation on the value seen here."""
        if node.op == "broadcast":
            return self.broadcast(node.shape)
        if node.op == "reshape":
            return self.reshape(node.shape)
        if node.op == "permute":
            return self.permute(axes_of(node))
        if node.op == "slice":
            return self.slice(node_ranges(node))
        return self.row(axis_of(node))


def _merged(view: View) -> list[tuple[int, int]]:
    """Lengths and strides with every pair of axes joined that one stride can walk."""
    merged: list[tuple[int, int]] = []
    for length, stride in zip(view.shape, view.strides, strict=True):
        if merged and merged[-1][1] == stride * length:
            merged[-1] = (merged[-1][0] * length, stride)
        else:
            merged.append((length, stride))
    return merged


def contiguous(buffer: Buffer, shape: tuple[int, ...]) -> View:
    """Return the whole buffer in row-major order."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(0 if length == 1 else step)
        step *= length
    return View(buffer, 0, 0, shape, tuple(reversed(strides)))


def axes_of(node: Node) -> tuple[int, ...]:
    """Return the axes of a permutation or a reduction."""
    axes = node.attr("axes")
    assert isinstance(axes, tuple)
    return axes


def axis_of(node: Node) -> int:
    """Return the axis of an operation along one axis."""
    axis = node.attr("axis")
    assert isinstance(axis, int)
    return axis
