"""The report's plots."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ndereg.experiments.recipe import Metric
from ndereg.experiments.training import Result, Trace

COLORS = ("#4d4d4d", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, distinguishable by the colour-blind."""


def training_figure(records: Sequence[dict[str, Any]], metric: Metric) -> Figure:
    """Plot evaluations, score and loss over training, a line for every run."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    scale = 100.0 if metric.percent else 1.0
    color_of = _colors([record["regularizer"] for record in records])
    for run in dict.fromkeys(record["run"] for record in records):
        rows = [record for record in records if record["run"] == run]
        tests = [record for record in rows if "test_nfev" in record]
        style = {"color": color_of[rows[0]["regularizer"]], "linewidth": 1.5}
        label = rows[0]["regularizer"] if _first_of(run, records) else None
        epochs = [record["epoch"] for record in tests]
        panels[0].plot(epochs, [r["test_nfev"] for r in tests], label=label, **style)
        scores = [scale * record[f"test_{metric.name}"] for record in tests]
        panels[1].plot(epochs, scores, **style)
        panels[2].plot([r["epoch"] for r in rows], [r["objective"] for r in rows], **style)
    _label(panels[0], "epoch", "evaluations to predict the test set")
    _label(panels[1], "epoch", metric.title + (" (%)" if metric.percent else ""))
    _label(panels[2], "epoch", "training loss without penalty")
    panels[2].set_yscale("log")
    panels[0].legend(frameon=False)
    return figure


def solver_figure(results: Sequence[Result]) -> Figure:
    """Plot step size, error and stiffness along ``t``, before training dashed, after it solid."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    color_of = _colors([result.regularizer for result in results])
    seed = results[0].seed
    for result in results:
        if result.seed != seed:
            continue
        color = color_of[result.regularizer]
        _draw(panels, result.after, color=color, label=result.regularizer)
        _draw(panels, result.before, color=color, linestyle="--", alpha=0.5)
    _label(panels[0], "t", "step size |h|")
    _label(panels[1], "t", "error estimate E")
    _label(panels[2], "t", "stiffness estimate S")
    panels[0].legend(frameon=False, title="dashed: before training")
    return figure


def png(figure: Figure) -> bytes:
    """Render."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _draw(panels: Sequence[Axes], trace: Trace, **style: Any) -> None:
    accepted = np.asarray(trace["accepted"], bool)
    times = np.asarray(trace["t"], float)[accepted]
    for panel, name in zip(panels, ("h", "error", "stiffness"), strict=True):
        values = np.abs(np.asarray(trace[name], float)[accepted])
        panel.plot(times, values, marker=".", linewidth=1, **style)


def _colors(names: Sequence[str]) -> dict[str, str]:
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(dict.fromkeys(names))}


def _first_of(run: str, records: Sequence[dict[str, Any]]) -> bool:
    """Return whether ``run`` is its regularizer's first, the one that carries the legend."""
    name = next(record["regularizer"] for record in records if record["run"] == run)
    return run == next(record["run"] for record in records if record["regularizer"] == name)


def _label(panel: Axes, x: str, y: str) -> None:
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.spines[["top", "right"]].set_visible(False)
