"""Derivatives inside of a trace: a field may use those of another one, to any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ndereg.trace.builder import Builder
from ndereg.trace.graph import Graph
from ndereg.trace.value import building, current_builder, lift, wrap
from ndereg.trace.vjp import pulled_back

__all__ = ["jvp", "trace_function", "vjp"]

Function = Callable[..., Sequence[Any]]
"""From arrays to a sequence of arrays; what it closes over is a constant of the derivative."""


def vjp(function: Function, primals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
    """Return the cotangents of ``primals`` for those of the results of ``function(*primals)``.

    In the real inner product ``Re(sum(conj(a) * b))``. Called while tracing, with traced arrays;
    ``primals`` are floating-point.
    """
    b = current_builder()
    given = [lift(x) for x in primals]
    places = [b.placeholder(b.shape(i), b.dtype(i)) for i in given]
    outputs = [lift(x) for x in function(*map(wrap, places))]
    bars = pulled_back(
        b, outputs, [lift(bar, b.dtype(i)) for i, bar in zip(outputs, cotangents, strict=True)],
        places,
    )  # fmt: skip
    filled = [
        b.full(b.shape(i), 0, b.dtype(i)) if bar is None else bar
        for i, bar in zip(places, bars, strict=True)
    ]
    return [wrap(i) for i in b.substituted(filled, dict(zip(places, given, strict=True)))]


def jvp(function: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
    """Return the derivatives of the results of ``function(*primals)`` along ``tangents``.

    The transpose of a vector-Jacobian product, which is linear in the cotangents; what it was
    evaluated at is left out of the graph.
    """
    b = current_builder()
    shapes = [(b.shape(i), b.dtype(i)) for i in (lift(x) for x in function(*primals))]
    zeros = [wrap(b.full(shape, 0, dtype)) for shape, dtype in shapes]
    return vjp(lambda *bars: vjp(function, primals, bars), zeros, tangents)


def trace_function(function: Function, arrays: Sequence[Any]) -> Graph:
    """Trace ``function(*arrays)``, whose results are the outputs of the graph."""
    builder = Builder()
    with building(builder):
        inputs = [
            builder.input(f"x{i}", array.shape, array.dtype.name) for i, array in enumerate(arrays)
        ]
        return builder.build([lift(out) for out in function(*map(wrap, inputs))])
