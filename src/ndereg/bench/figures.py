"""Work against precision: the error that a solver reaches, and the time it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
"""Tolerances of a work-precision diagram."""

_MARKERS = {"numpy": "o", "jax": "s", "torch": "^"}


def work_precision(points: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Plot error against time, a line for every solver.

    Parameters
    ----------
    points : sequence of dict
        With ``framework``, ``solver``, ``ours``, ``error`` and ``seconds``.
    title : str
    """
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    panel = figure.subplots()
    for framework, solver in dict.fromkeys((p["framework"], p["solver"]) for p in points):
        line = [p for p in points if (p["framework"], p["solver"]) == (framework, solver)]
        panel.loglog(
            [p["error"] for p in line],
            [p["seconds"] for p in line],
            marker=_MARKERS[framework],
            linewidth=2.0 if line[0]["ours"] else 1.0,
            linestyle="-" if line[0]["ours"] else "--",
            label=f"{solver} ({framework})",
        )
    panel.invert_xaxis()
    panel.set_xlabel("error, relative to the solution")
    panel.set_ylabel("seconds")
    panel.set_title(title)
    panel.grid(visible=True, which="both", alpha=0.2)
    panel.legend(frameon=False, fontsize=8)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
