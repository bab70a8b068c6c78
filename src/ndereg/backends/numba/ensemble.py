"""A joint state of many samples as an independent batch, where that makes no difference.

With constant steps the samples of a joint state only meet in the field. If it does not couple them
either, a joint solve is the solve of every sample for itself, which can be made in blocks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ndereg.backends.base import Layout, Problem, layout_of
from ndereg.backends.brownian import Entries
from ndereg.backends.numba.fields import FieldKernels, emitted_kernels, traced_graph
from ndereg.backends.numba.packed import LANES, MOST_ENTRIES, asked_for_ends
from ndereg.backends.numba.signatures import FIELDS
from ndereg.field import is_compiled
from ndereg.plan.lower import Plan
from ndereg.trace import Graph, per_sample

__all__ = ["as_batch", "batch_kernels", "by_sample", "separable", "together"]

MOST_SAMPLES = 1 << 20
"""Of a batch every sample has counts and a status, which take more memory than a small state."""


def separable(plan: Plan) -> bool:
    """Whether the samples of a joint state meet in the field alone."""
    spec = plan.spec
    plain = spec.noise is not None and spec.noise.coupling == "diagonal"
    return plain and not (spec.adaptive or spec.terms) and asked_for_ends(plan)


def as_batch(problem: Problem) -> Problem | None:
    """Return the problem as an independent batch; None if it is none, or one of large samples."""
    layout, diffusion, seen = problem.layout, problem.diffusion, problem.seen
    if layout.batch is not None or len(seen.shapes) != 1 or not seen.shapes[0]:
        return None
    if diffusion is None or diffusion.field is None or is_compiled(problem.field):
        return None
    asked = problem.asked if problem.part is None else problem.asked and problem.asked.asked
    samples = seen.shapes[0][0]
    if asked is not None or not LANES <= samples <= MOST_SAMPLES:
        return None
    one = Entries(1, seen.entries)
    if layout.entries > samples * MOST_ENTRIES or diffusion.path.entries != one:
        return None
    path = replace(diffusion.path, entries=Entries(samples, seen.entries // samples))
    part = _batch_layout(seen, samples)
    return replace(
        problem,
        layout=part if problem.part is None else _batch_layout(layout, samples),
        part=None if problem.part is None else part,
        y0=by_sample(problem.y0, samples, len(layout.shapes)),
        diffusion=replace(diffusion, layout=part, path=path),
    )


def _batch_layout(layout: Layout, samples: int) -> Layout:
    return layout_of(layout.structure, layout.shapes, layout.dtypes, samples)


def by_sample(flat: Any, samples: int, leaves: int) -> Any:
    """Return a flat state, or the two of a pair, with a row for every sample."""
    return flat.reshape(leaves, samples, -1).swapaxes(0, 1).reshape(samples, -1)


def together(rows: Any, leaves: int) -> Any:
    """Return it as it was."""
    return rows.reshape(len(rows), leaves, -1).swapaxes(0, 1).reshape(1, -1)


def batch_kernels(problem: Problem, samples: int, gradient: bool) -> FieldKernels | None:
    """Kernels of one sample of a joint problem; None if its samples are coupled."""
    graphs: list[Graph] = []
    for name in FIELDS:
        graph = per_sample(traced_graph(problem, name), samples, joint=True)
        if graph is None:
            return None
        graphs.append(graph)
    return emitted_kernels(graphs, gradient)
