"""Text of the items of a plan that are not nests: matrix products and indexed copies."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from ndereg.backends.numba.fuse import Planner, matrix_layout
from ndereg.backends.numba.placement import Item, Task
from ndereg.backends.numba.text import Text
from ndereg.backends.numba.views import View, axis_of

__all__ = ["write_item"]


def write_item(planner: Planner, item: Item, text: Text) -> None:
    """Append a matrix product, a gather or a scatter to the text."""
    (task,) = item.tasks
    if task.kind == "matmul":
        _write_product(task, item.operands[0], item.operands[1], text)
    else:
        _write_indexed(planner, task, item.operands[0], text)


def _write_product(task: Task, a: View, b: View, text: Text) -> None:
    c = task.dest
    assert c is not None
    with ExitStack() as stack:
        # The leading axes are loops; what is left of the views are the last two.
        for depth, length in enumerate(c.shape[:-2]):
            stack.enter_context(text.loop(depth, length))
        lead = tuple(_leading(view) for view in (a, b, c))
        matrices = tuple(_last(view) for view in (a, b, c))
        text.line(_call(matrices, tuple(map(text.index, lead)), task.accumulate, text))


def _leading(view: View) -> View:
    return replace(view, shape=view.shape[:-2], strides=view.strides[:-2])


def _last(view: View) -> View:
    return replace(view, shape=view.shape[-2:], strides=view.strides[-2:])


def _call(matrices: tuple[View, ...], starts: tuple[str, ...], accumulate: bool, text: Text) -> str:
    a, b, c = matrices
    start_a, start_b, start_c = starts
    if _is_dense_vector(b, 0) and _is_dense_vector(c, 0):
        matrix, vector, result = (a, start_a), (b, start_b), (c, start_c)
    elif _is_dense_vector(a, 1) and _is_dense_vector(c, 1):
        matrix, vector, result = (b.permute((1, 0)), start_b), (a, start_a), (c, start_c)
    else:
        return _gemm(matrices, starts, accumulate, text)
    if matrix_layout(matrix[0]) is None:
        return _gemm(matrices, starts, accumulate, text)
    (rows, columns), (transposed, stride) = matrix[0].shape, _layout(matrix[0])
    return (
        f"gemv({text.size(rows)}, {text.size(columns)}, {matrix[0].buffer.name}, {matrix[1]}, "
        f"{text.size(stride)}, {transposed}, {vector[0].buffer.name}, {vector[1]}, "
        f"{result[0].buffer.name}, {result[1]}, {accumulate})"
    )


def _is_dense_vector(view: View, axis: int) -> bool:
    return view.shape[1 - axis] == 1 and view.strides[axis] in (0, 1)


def _layout(view: View) -> tuple[bool, int]:
    layout = matrix_layout(view)
    assert layout is not None
    return layout


def _gemm(matrices: tuple[View, ...], starts: tuple[str, ...], accumulate: bool, text: Text) -> str:
    a, b, c = matrices
    start_a, start_b, start_c = starts
    if _layout(c)[0]:  # column-major: Cᵀ = Bᵀ Aᵀ
        a, b, c = (view.permute((1, 0)) for view in (b, a, c))
        start_a, start_b = start_b, start_a
    sizes = ", ".join(text.size(length) for length in (*c.shape, a.shape[1]))
    operands = ", ".join(
        f"{view.buffer.name}, {start}, {text.size(stride)}, {transposed}"
        for view, start in ((a, start_a), (b, start_b))
        for transposed, stride in [_layout(view)]
    )
    result = f"{c.buffer.name}, {start_c}, {text.size(_layout(c)[1])}"
    return f"gemm({sizes}, {operands}, {result}, {accumulate})"


def _write_indexed(planner: Planner, task: Task, operand: View, text: Text) -> None:
    """``gather`` reads, ``scatter_add`` writes through a table of indices along one axis."""
    node, dest = planner.nodes[task.node], task.dest
    assert dest is not None
    table = (axis_of(node), text.array(planner.table(task.node)))
    gathers = task.kind == "gather"
    domain = dest.shape if gathers else operand.shape
    with ExitStack() as stack:
        for depth, length in enumerate(domain):
            stack.enter_context(text.loop(depth, length))
        source = f"{operand.buffer.name}[{text.index(operand, table if gathers else None)}]"
        target = f"{dest.buffer.name}[{text.index(dest, None if gathers else table)}]"
        text.line(f"{target} {'+=' if task.accumulate else '='} {source}")
