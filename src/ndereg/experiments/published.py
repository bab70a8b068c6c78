"""Our ratios to the row without a regularizer, beside those of the papers.

Absolute values depend on the machine, on the part of the data, on how evaluations are counted; the
ratios are what a paper claims.
"""

from __future__ import annotations

from collections.abc import Sequence

from ndereg.experiments.recipe import Metric, Paper, Published
from ndereg.experiments.summary import BASELINE, Row

Table = tuple[list[str], list[list[str]]]


def comparison(rows: Sequence[Row], paper: Paper, metric: Metric) -> Table | None:
    """Return headings and rows, ours and the paper's next to each other; None without a row.

    A score in percent is compared by its difference in points, another one by its ratio.
    """
    ours = {row.name: row for row in rows}
    base, published = ours.get(BASELINE), paper.rows.get(BASELINE)
    if base is None or published is None:
        return None
    found = [row for row in rows if row.regularizer in paper.rows and row.name != BASELINE]
    if not found:
        return None
    score = f"{metric.title}, {'difference' if metric.percent else 'ratio'}"
    pairs = [name for what in (score, "NFE", "training", "prediction") for name in (what, "paper")]
    return (
        ["regularizer", *pairs],
        [_cells(row, base, paper.rows[row.regularizer], published, metric) for row in found],
    )


def _cells(row: Row, base: Row, theirs: Published, their_base: Published, metric: Metric) -> list:
    def change(value: float, reference: float) -> str:
        if metric.percent:
            return f"{100 * (value - reference):+.2f} points"
        return _ratio(value, reference)

    return [
        row.name,
        change(row.score.mean, base.score.mean),
        change(theirs.score, their_base.score),
        *(_ratio(row.nfev.mean, base.nfev.mean), _ratio(theirs.nfev, their_base.nfev)),
        *(_ratio(row.train_s.mean, base.train_s.mean), _ratio(theirs.train, their_base.train)),
        _ratio(row.predict_s.mean, base.predict_s.mean),
        _ratio(theirs.predict, their_base.predict),
    ]


def _ratio(value: float | None, reference: float | None) -> str:
    return "–" if value is None or not reference else f"{value / reference:.2f}×"
