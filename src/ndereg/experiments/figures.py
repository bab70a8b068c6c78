"""The report's plots."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ndereg.experiments.recipe import Metric
from ndereg.experiments.summary import grouped
from ndereg.experiments.training import Result, Trace

COLORS = ("#4d4d4d", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, distinguishable by the colour-blind."""

DASHES = ("-", "--", ":", "-.")
"""Tell apart the rows that come after the colours have been used up."""


def training_figure(records: Sequence[dict[str, Any]], metric: Metric) -> Figure:
    """Plot evaluations, score and loss over training, a line for every run of every ``row``."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    scale = 100.0 if metric.percent else 1.0
    looks = styles(record["row"] for record in records)
    labelled: set[str] = set()
    for row, seed in dict.fromkeys((record["row"], record["seed"]) for record in records):
        lines = [record for record in records if (record["row"], record["seed"]) == (row, seed)]
        tests = [record for record in lines if "test_nfev" in record]
        style = {**looks[row], "linewidth": 1.5}
        label = None if row in labelled else row  # one entry in the legend for all seeds
        labelled.add(row)
        epochs = [record["epoch"] for record in tests]
        panels[0].plot(epochs, [r["test_nfev"] for r in tests], label=label, **style)
        scores = [scale * record[f"test_{metric.name}"] for record in tests]
        panels[1].plot(epochs, scores, **style)
        panels[2].plot([r["epoch"] for r in lines], [r["objective"] for r in lines], **style)
    _label(panels[0], "epoch", "evaluations of a prediction (NFE)")
    _label(panels[1], "epoch", _title(metric))
    _label(panels[2], "epoch", "training loss without penalty")
    if all(record["objective"] > 0 for record in records):  # a negative log-likelihood may not be
        panels[2].set_yscale("log")
    panels[0].legend(frameon=False)
    return figure


def solver_figure(results: Sequence[Result]) -> Figure:
    """Plot step size, error and stiffness along ``t``, before training dotted, after it solid.

    Of the first seed of every row.
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    groups = grouped(results)
    for name, style in styles(groups).items():
        first = min(groups[name], key=lambda result: result.seed)
        color = style["color"]
        _draw(panels, first.after, label=name, **style)
        _draw(panels, first.before, color=color, linestyle=(0, (1, 2)), alpha=0.6)
    _label(panels[0], "t", "step size |h|")
    _label(panels[1], "t", "error estimate E")
    _label(panels[2], "t", "stiffness estimate S")
    panels[0].legend(frameon=False, title="dotted: before training")
    return figure


def precision_figure(results: Sequence[Result], metric: Metric) -> Figure:
    """Plot what a prediction costs: against its error over tolerances, and against the score."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    groups = grouped(results)
    scale = 100.0 if metric.percent else 1.0
    for name, style in styles(groups).items():
        group = groups[name]
        label = name
        for result in group:
            points = result.precision
            errors, nfev = ([point[key] for point in points] for key in ("error", "nfev"))
            panels[0].plot(errors, nfev, marker=".", linewidth=1.2, label=label, **style)
            label = None
        scores = [scale * result.scores[metric.name] for result in group]
        costs = [result.nfev for result in group]
        panels[1].plot(costs, scores, marker="o", linestyle="", color=style["color"])
        place = (float(np.mean(costs)), float(np.mean(scores)))
        panels[1].annotate(name, place, xytext=(5, 5), textcoords="offset points", fontsize=8)
    _label(panels[0], "error of the prediction, relative", "evaluations (NFE)")
    panels[0].set_xscale("log")
    panels[0].invert_xaxis()
    panels[0].legend(frameon=False)
    _label(panels[1], "evaluations of a prediction (NFE)", _title(metric))
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


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return colour and dashes of every row."""
    return {
        name: {
            "color": COLORS[i % len(COLORS)],
            "linestyle": DASHES[i // len(COLORS) % len(DASHES)],
        }
        for i, name in enumerate(dict.fromkeys(names))
    }


def _title(metric: Metric) -> str:
    return metric.title + (" (%)" if metric.percent else "")


def _label(panel: Axes, x: str, y: str) -> None:
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.spines[["top", "right"]].set_visible(False)
