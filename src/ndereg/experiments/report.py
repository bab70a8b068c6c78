"""The report: one HTML file that carries its plots, and the plots as files."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ndereg.experiments import figures
from ndereg.experiments.collection import Collection
from ndereg.experiments.published import Table, comparison
from ndereg.experiments.recipe import Recipe
from ndereg.experiments.storage import write_bytes
from ndereg.experiments.study import Study
from ndereg.experiments.summary import cells, columns, summarize

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ padding: .3rem .9rem; border-bottom: 1px solid #ddd; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
img {{ max-width: 100%; }}
</style>
<h1>{title}</h1>
{table}
<p>{legend}</p>
{published}
{plots}
<h2>Settings</h2>
{commands}
{settings}
</html>
"""

_SEEDS = " ± is the sample standard deviation over seeds."
_LEGEND = """NFE: evaluations of the field when the test set, or the part of it that the recipe
names, is solved as one batch. Training time leaves out compilation, which stands in its own column.
After each value: its ratio to the row without a regularizer."""
_ALONG = """The accepted steps of the solver on the same batch: dotted with the initial parameters,
solid after training."""
_WORK = """Left: the trained models solved at other tolerances; the error is that of the prediction
against a fine solve of the same model in double precision. Right: every run's score against what
its prediction costs."""


@dataclass(frozen=True)
class Plot:
    """A section of the report, and a file of the same name."""

    name: str
    heading: str
    text: str
    alt: str
    figure: Figure


@dataclass(frozen=True)
class Content:
    """What the report of an experiment says, apart from how it looks."""

    table: Table
    legend: str
    plots: tuple[Plot, ...]
    beside: tuple[tuple[str, Table], ...]
    """Tables beside those of papers, by their citation."""
    settings: Mapping[str, Any]


def write_report(collection: Collection, folder: Path) -> Path:
    """Write ``report.html`` and its plots as PNG."""
    content = _studied(collection) if isinstance(collection.recipe, Study) else _trained(collection)
    seeds = {result.seed for result in collection.results}
    plots = []
    for plot in content.plots:
        image = figures.png(plot.figure)
        write_bytes(folder / f"{plot.name}.png", image)
        source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        plots.append(f"<h2>{plot.heading}</h2>\n<p>{plot.text}</p>" if plot.text else
                     f"<h2>{plot.heading}</h2>")  # fmt: skip
        plots.append(f'<img alt="{plot.alt}" src="{source}">')
    beside = [
        part
        for citation, table in content.beside
        for part in (f"<h2>Beside {html.escape(citation)}</h2>", _table(*table))
    ]
    page = _PAGE.format(
        title=html.escape(f"ndereg: {collection.recipe.name}, {collection.settings.backend}"),
        table=_table(*content.table),
        legend=content.legend + (_SEEDS if len(seeds) > 1 else ""),
        published="\n".join(beside),
        plots="\n".join(plots),
        commands="".join(f"<pre>{html.escape(text)}</pre>" for text in collection.commands),
        settings=_table(["setting", "value"], _settings(collection, content.settings)),
    )
    path = folder / "report.html"
    write_bytes(path, page.encode())
    return path


def _trained(collection: Collection) -> Content:
    recipe, results = collection.recipe, collection.results
    assert isinstance(recipe, Recipe)
    metric = recipe.metric
    rows = summarize(results, metric)
    over = figures.training_figure(collection.records, metric)
    work = figures.precision_figure(results, metric)
    compared = [(paper.citation, comparison(rows, paper, metric)) for paper in recipe.papers]
    return Content(
        table=(columns(metric), [cells(row, metric) for row in rows]),
        legend=_LEGEND,
        plots=(
            Plot("training", "Over training", "", "evaluations, score and loss over training",
                 over),
            Plot("solver", "Along t", _ALONG, "step size, error and stiffness along t",
                 figures.solver_figure(results)),
            Plot("precision", "Work against precision", _WORK,
                 "evaluations against error, score against evaluations", work),
        ),
        beside=tuple((citation, table) for citation, table in compared if table is not None),
        settings={
            "regularizers": list(dict.fromkeys(r.regularizer for r in results)),
            "weights": {r.regularizer: r.weight for r in results},
            "optimizer steps": results[0].steps,
            "training samples": results[0].samples,
        },
    )  # fmt: skip


def _studied(collection: Collection) -> Content:
    study, outcomes = collection.recipe, collection.results
    assert isinstance(study, Study)
    compared = [(paper.citation, study.beside(outcomes, paper)) for paper in study.papers]
    rows = dict.fromkeys(outcome.row for outcome in outcomes)
    meanings = "; ".join(f"{row}: {study.rows[row]}" for row in rows)
    legend = " ".join(study.meanings())
    return Content(
        table=study.table(outcomes),
        legend=f"{html.escape(legend)}</p>\n<p>{html.escape(meanings)}.",
        plots=(
            Plot("study", html.escape(study.heading), html.escape(study.caption),
                 html.escape(study.heading), study.figure(outcomes)),
        ),
        beside=tuple((citation, table) for citation, table in compared if table is not None),
        settings={"rows": list(rows)},
    )  # fmt: skip


def _settings(collection: Collection, found: Mapping[str, Any]) -> list[list[str]]:
    settings = dataclasses.asdict(collection.settings) | dict(found)
    settings["seeds"] = sorted({r.seed for r in collection.results})
    machines = [{k: v for k, v in m.items() if k != "versions"} for m in collection.machines]
    rows = [*settings.items(), *collection.versions.items(), *(("machine", m) for m in machines)]
    return [[name, _plain(value)] for name, value in rows]


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={entry}" for name, entry in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, entries: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(e)}</{tag}>" for e in entries) + "</tr>"

    return "\n".join(
        ["<table>", line("th", header), *(line("td", row) for row in rows), "</table>"]
    )
