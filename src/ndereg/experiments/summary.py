"""Means over seeds, and ratios to the row without a regularizer."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ndereg.experiments.recipe import Metric
from ndereg.experiments.training import Result

BASELINE = "none"


@dataclass(frozen=True)
class Quantity:
    """Mean and sample standard deviation over seeds, and the mean's ratio to the baseline's."""

    mean: float
    deviation: float | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class Row:
    """One regularizer; times in seconds."""

    regularizer: str
    score: Quantity
    nfev: Quantity
    train_s: Quantity
    predict_s: Quantity
    compile_s: Quantity


def summarize(results: Iterable[Result], metric: Metric) -> list[Row]:
    """Return a row for every regularizer, in order of appearance."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.regularizer, []).append(result)
    return [_row(group, groups.get(BASELINE), metric) for group in groups.values()]


def _row(group: list[Result], baseline: list[Result] | None, metric: Metric) -> Row:
    def quantity(name: str, with_ratio: bool = True) -> Quantity:
        values = [float(getattr(result, name)) for result in group]
        base = [float(getattr(result, name)) for result in baseline or ()]
        return _quantity(values, base if with_ratio else [])

    return Row(
        regularizer=group[0].regularizer,
        score=_quantity([result.scores[metric.name] for result in group], []),
        nfev=quantity("nfev"),
        train_s=quantity("train_s"),
        predict_s=quantity("predict_s"),
        compile_s=quantity("compile_s", with_ratio=False),
    )


def _quantity(values: Sequence[float], base: Sequence[float]) -> Quantity:
    mean = statistics.fmean(values)
    return Quantity(
        mean=mean,
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        ratio=mean / statistics.fmean(base) if base else None,
    )


def columns(metric: Metric) -> list[str]:
    """Return the table's headings."""
    return [
        "regularizer",
        metric.title,
        "NFE",
        "training",
        "prediction",
        "compiling",
    ]


def cells(row: Row, metric: Metric) -> list[str]:
    """Return a row as text, each ratio to the baseline after its value."""
    score = metric.text(row.score.mean)
    if row.score.deviation is not None:
        score += f" ± {metric.text(row.score.deviation)}"
    return [
        row.regularizer,
        score,
        _cell(row.nfev, 1, "", 0 if row.nfev.deviation is None else 1),
        _cell(row.train_s, 1, " s", 1),
        _cell(row.predict_s, 1e3, " ms", 1),
        _cell(row.compile_s, 1, " s", 1),
    ]


def _cell(quantity: Quantity, scale: float, unit: str, digits: int) -> str:
    text = f"{scale * quantity.mean:.{digits}f}"
    if quantity.deviation is not None:
        text += f" ± {scale * quantity.deviation:.{digits}f}"
    text += unit
    return text if quantity.ratio is None else f"{text} {quantity.ratio:.2f}×"
