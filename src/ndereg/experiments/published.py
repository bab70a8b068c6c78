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
    ours = {row.name for row in rows}
    published = paper.rows.get(BASELINE)
    if BASELINE not in ours or published is None:
        return None
    found = [row for row in rows if row.regularizer in paper.rows and row.name != BASELINE]
    if not found:
        return None
    score = f"{metric.title}, {'difference' if metric.percent else 'ratio'}"
    pairs = [name for what in (score, "NFE", "training", "prediction") for name in (what, "paper")]
    return (
        ["regularizer", *pairs],
        [_cells(row, paper.rows[row.regularizer], published, metric) for row in found],
    )


def _cells(row: Row, theirs: Published, their_base: Published, metric: Metric) -> list[str]:
    def change(value: float, reference: float | None) -> str:
        if reference is None:
            return "–"
        if metric.percent:
            return f"{100 * (value - reference):+.2f} points"
        return _ratio(value, reference)

    return [
        row.name,
        change(row.score.mean, row.baseline),
        change(theirs.score, their_base.score),
        *(_times(row.nfev.ratio), _ratio(theirs.nfev, their_base.nfev)),
        *(_times(row.train_s.ratio), _ratio(theirs.train, their_base.train)),
        *(_times(row.predict_s.ratio), _ratio(theirs.predict, their_base.predict)),
    ]


def _ratio(value: float | None, reference: float | None) -> str:
    return "–" if value is None or not reference else _times(value / reference)


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}×"
