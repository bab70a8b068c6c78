"""A problem whose method advances a pair of states, both of them the user's at the start.

The loop sees the pair ``(z, zh)``, the two one after the other in the flat state; the field sees
one of them, and the user gets ``z``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ndereg.backends.base import Array, Backend, Layout, Problem, Result, layout_of
from ndereg.structure import Structure


def paired(backend: Backend, problem: Problem) -> Problem:
    """Return the problem of the pair that starts from the state twice."""
    layout = problem.layout
    return replace(
        problem,
        asked=problem,
        part=layout,
        layout=pair_layout(layout),
        y0=backend.concat([problem.y0, problem.y0]),
    )


def pair_layout(layout: Layout) -> Layout:
    """Layout of two states one after the other."""
    structure = Structure("tuple", (layout.structure, layout.structure))
    return layout_of(structure, layout.shapes * 2, layout.dtypes * 2, layout.batch)


def first_of_pair(asked: Problem, result: Result) -> Result:
    """Return the result of the user's problem."""
    return replace(result, ys=result.ys[..., : asked.layout.entries])


def pair_cotangent(backend: Backend, asked: Problem, ys_bar: Array) -> Array:
    """Return the cotangent of the pair for that of the solution."""
    layout = asked.layout
    times = 1 if asked.t_eval is None else asked.t_eval.shape[-1]
    flat = backend.reshape(ys_bar, (layout.samples, times, layout.entries))
    zeros = backend.times(np.zeros((layout.samples, times, layout.entries)), ys_bar)
    pair = backend.concat([flat, backend.cast(zeros, layout.dtype)])
    shape = (layout.samples, *(() if asked.t_eval is None else (times,)), 2 * layout.entries)
    return backend.reshape(pair, shape)


def start_cotangent(
    asked: Problem, y0_bar: Array, args_bar: Sequence[Array]
) -> tuple[Array, list[Array]]:
    """Return the cotangents of the state that both of the pair started from, and of args."""
    entries = asked.layout.entries
    return y0_bar[:, :entries] + y0_bar[:, entries:], list(args_bar)
