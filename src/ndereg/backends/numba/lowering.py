"""Rewriting a graph before kernels are planned: fewer and cheaper operations.

* A product over a concatenation (time appended to the state, say) is a sum of products of the
  parts, so that the concatenation is never formed; the same along rows and columns.
* A product with a matrix that repeats one column is an outer product with a sum, which the
  gradient of a bias usually needs as well.
* A slice of a product is the product of slices.
* A tiny product, or one of a dtype that BLAS has none for, is elementwise work and a sum.
* A power of 3/2 or the like, as in laws of gravitation, is products and a square root.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast

from ndereg.backends.numba.expressions import FLOATS
from ndereg.backends.numba.views import axes_of, axis_of
from ndereg.trace.builder import Builder, node_ranges
from ndereg.trace.graph import Graph

__all__ = ["lower"]

#: Up to this many multiplications, loops are faster than the call of a BLAS function.
_TINY_PRODUCT = 256
#: A concatenation is taken apart into at most this many products...
_MOST_PARTS = 4
#: ...each of a single row or of at least so many, as BLAS is slow on slivers.
_LEAST_ROWS = 8
#: Of the exponents written as products.
_LARGEST_POWER = 8.5
_BLAS = {"float32", "float64", "complex64", "complex128"}


def lower(graph: Graph, products: bool = True) -> Graph:
    """Return an equal graph (up to rounding) that is cheaper to run.

    Without ``products``, matrix products are left as they are.
    """
    builder = _Lowering() if products else _Powers()
    uses = Counter(i for node in graph.nodes for i in node.inputs)
    uses.update(graph.outputs)
    placed: dict[int, int] = {}
    for i, name in zip(graph.inputs, graph.input_names, strict=True):
        node = graph.nodes[i]
        placed[i] = builder.input(name, node.shape, node.dtype)
    for i, node in enumerate(graph.nodes):
        if i in placed:
            continue
        if node.op == "constant":
            placed[i] = builder.constant(graph.constants[cast(int, node.attr("index"))])
            continue
        operands = [placed[j] for j in node.inputs]
        if isinstance(builder, _Lowering) and node.op == "slice" and uses[node.inputs[0]] == 1:
            placed[i] = builder.sliced_product(operands[0], node_ranges(node))
        else:
            placed[i] = builder.apply(node, operands)
    return builder.build([placed[i] for i in graph.outputs])


class _Powers(Builder):
    def binary(self, op: str, x: int, y: int) -> int:
        exponent = self.uniform(y) if op == "pow" and self.dtype(x) in FLOATS else None
        if exponent is None or abs(exponent) % 1 != 0.5 or abs(exponent) > _LARGEST_POWER:
            return super().binary(op, x, y)
        whole = self.full(self.shape(x), abs(exponent) - 0.5, self.dtype(x))
        power = self.binary("mul", super().binary("pow", x, whole), self.unary("sqrt", x))
        if exponent > 0:
            return power
        return self.binary("div", self.full(self.shape(x), 1, self.dtype(x)), power)


class _Lowering(_Powers):
    def matmul(self, x: int, y: int) -> int:
        m, k = self.shape(x)[-2:]
        n = self.shape(y)[-1]
        if self.dtype(x) not in _BLAS or m * k * n <= _TINY_PRODUCT or k == 1:
            return self._products(x, y)
        if len(self.shape(x)) == 2 and len(self.shape(y)) == 2:
            for rule in (self._repeated, self._inner_parts, self._outer_parts):
                result = rule(x, y)
                if result is not None:
                    return result
        return super().matmul(x, y)

    def sliced_product(self, x: int, ranges: list[range]) -> int:
        """Return a slice of ``x``, which nothing else reads, moved in front of a matrix product."""
        node = self.node(x)
        if node.op == "matmul":
            (*batch, rows, columns), (a, b) = ranges, node.inputs
            inner = range(self.shape(a)[-1])
            return self.matmul(
                self.slice(a, [*batch, rows, inner]), self.slice(b, [*batch, inner, columns])
            )
        return self.slice(x, ranges)

    def gather(self, x: int, axis: int, indices: Sequence[int]) -> int:
        """Gathering from a single row repeats it."""
        shape = self.shape(x)
        if shape[axis] == 1:
            return self.broadcast(x, (*shape[:axis], len(indices), *shape[axis + 1 :]))
        return super().gather(x, axis, indices)

    def _products(self, x: int, y: int) -> int:
        """Return the product without BLAS."""
        (*batch, m, k), n = self.shape(x), self.shape(y)[-1]
        batch = list(self.shape(x)[:-2]) if len(self.shape(x)) > 2 else list(self.shape(y)[:-2])
        shape = (*batch, m, k, n)
        left = self.broadcast(self.reshape(x, (*self.shape(x), 1)), shape)
        lead = self.shape(y)[:-2]
        right = self.broadcast(self.reshape(y, (*lead, 1, k, n)), shape)
        return self.reduce("sum", self.binary("mul", left, right), [len(shape) - 2])

    def _repeated(self, x: int, y: int) -> int | None:
        """One operand repeats its values along the axis that is summed over."""
        columns = self._constant_along(x, 1)
        if columns is not None:
            total = self.reduce("sum", y, [0])
            return self._products(columns, self.reshape(total, (1, self.shape(y)[1])))
        rows = self._constant_along(y, 0)
        if rows is not None:
            total = self.reduce("sum", x, [1])
            return self._products(self.reshape(total, (self.shape(x)[0], 1)), rows)
        return None

    def _constant_along(self, x: int, axis: int) -> int | None:
        """``x`` with the axis shortened to one, if ``x`` is the broadcast of that."""
        node = self.node(x)
        if node.op == "permute":
            inner = self._constant_along(node.inputs[0], axes_of(node)[axis])
            return None if inner is None else self.permute(inner, axes_of(node))
        if node.op == "reshape":
            return self._constant_reshaped(node.inputs[0], node.shape, axis)
        if node.op != "broadcast":
            return None
        source, shape = self.shape(node.inputs[0]), self.shape(x)
        aligned = (1,) * (len(shape) - len(source)) + source
        if aligned[axis] != 1:
            return None
        shortened = (*shape[:axis], 1, *shape[axis + 1 :])
        return self.broadcast(node.inputs[0], shortened)

    def _constant_reshaped(self, x: int, shape: tuple[int, ...], axis: int) -> int | None:
        """Return the same through a reshape that only adds or drops axes of length one."""
        before = self.shape(x)
        if [length for length in before if length != 1] != [n for n in shape if n != 1]:
            return None
        if shape[axis] == 1:
            return None
        position = [i for i, n in enumerate(shape) if n != 1].index(axis)
        original = [i for i, n in enumerate(before) if n != 1][position]
        inner = self._constant_along(x, original)
        shortened = (*shape[:axis], 1, *shape[axis + 1 :])
        return None if inner is None else self.reshape(inner, shortened)

    def _parts(self, x: int, axis: int) -> list[int] | None:
        """Return what ``x`` is the concatenation of along an axis, where it pays to know."""
        node = self.node(x)
        if node.op == "permute":
            parts = self._parts(node.inputs[0], axes_of(node)[axis])
            return None if parts is None else [self.permute(i, axes_of(node)) for i in parts]
        if node.op != "concat" or axis_of(node) != axis:
            return None
        lengths = [self.shape(i)[axis] for i in node.inputs]
        if len(lengths) > _MOST_PARTS or any(1 < n < _LEAST_ROWS for n in lengths):
            return None
        return list(node.inputs)

    def _inner_parts(self, x: int, y: int) -> int | None:
        """Return a concatenation along the axis that is summed over."""
        left, right = self._parts(x, 1), self._parts(y, 0)
        if left is None and right is None:
            return None
        lengths = (
            [self.shape(i)[1] for i in left] if left else [self.shape(i)[0] for i in right or ()]
        )
        result, start = None, 0
        for length in lengths:
            inner = range(start, start + length)
            start += length
            term = self.matmul(
                self.slice(x, [range(self.shape(x)[0]), inner]),
                self.slice(y, [inner, range(self.shape(y)[1])]),
            )
            result = term if result is None else self.binary("add", result, term)
        return result

    def _outer_parts(self, x: int, y: int) -> int | None:
        """Return a concatenation of rows of the left or of columns of the right operand."""
        rows, columns = self._parts(x, 0), self._parts(y, 1)
        if rows is not None:
            return self.concat([self.matmul(i, y) for i in rows], 0)
        if columns is not None:
            return self.concat([self.matmul(x, i) for i in columns], 1)
        return None

    def slice(self, x: int, ranges: list[range]) -> int:  # type: ignore[override]
        """Return a slice of a transpose is the transpose of a slice, which may simplify further."""
        node = self.node(x)
        if node.op == "permute":
            axes = axes_of(node)
            inner = [range(0)] * len(axes)
            for position, axis in enumerate(axes):
                inner[axis] = ranges[position]
            return self.permute(self.slice(node.inputs[0], inner), axes)
        return super().slice(x, ranges)
