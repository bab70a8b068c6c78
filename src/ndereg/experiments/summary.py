"""Means over seeds, and ratios to the row without a regularizer, of the same seeds where it can."""

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
    """One regularizer with one weight; times in seconds.

    Ratios, and ``baseline``, the mean score of the row without a regularizer, are those of the
    same seeds, where that row has them.
    """

    name: str
    """As the table has it: with the weight where several of one regularizer are compared."""
    regularizer: str
    score: Quantity
    nfev: Quantity
    train_s: Quantity
    predict_s: Quantity
    compile_s: Quantity
    baseline: float | None


def row_names(trained: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Name the rows of regularizers with weights, in order of appearance.

    Examples
    --------
    >>> row_names([("none", "0"), ("error", "1"), ("error", "9"), ("none", "0")])
    {('none', '0'): 'none', ('error', '1'): 'error 1', ('error', '9'): 'error 9'}
    """
    pairs = list(dict.fromkeys(trained))
    names = [regularizer for regularizer, _ in pairs]
    return {
        (name, weight): f"{name} {weight}" if names.count(name) > 1 else name
        for name, weight in pairs
    }


def grouped(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Return the results of every row, by its name."""
    found = list(results)
    names = row_names((result.regularizer, result.weight) for result in found)
    groups: dict[str, list[Result]] = {name: [] for name in names.values()}
    for result in found:
        groups[names[result.regularizer, result.weight]].append(result)
    return groups


def summarize(results: Iterable[Result], metric: Metric) -> list[Row]:
    """Return a row for every regularizer and weight, in order of appearance."""
    groups = grouped(results)
    baseline = groups.get(BASELINE)
    return [_row(name, group, baseline, metric) for name, group in groups.items()]


def _row(name: str, group: list[Result], baseline: list[Result] | None, metric: Metric) -> Row:
    seeds = {result.seed for result in group}
    alike = [result for result in baseline or () if result.seed in seeds] or baseline or []

    def quantity(name: str, with_ratio: bool = True) -> Quantity:
        values = [float(getattr(result, name)) for result in group]
        base = [float(getattr(result, name)) for result in alike]
        return _quantity(values, base if with_ratio else [])

    return Row(
        name=name,
        regularizer=group[0].regularizer,
        score=_quantity([result.scores[metric.name] for result in group], []),
        nfev=quantity("nfev"),
        train_s=quantity("train_s"),
        predict_s=quantity("predict_s"),
        compile_s=quantity("compile_s", with_ratio=False),
        baseline=statistics.fmean(r.scores[metric.name] for r in alike) if alike else None,
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
        row.name,
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
