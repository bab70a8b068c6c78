"""The report: one HTML file that carries its plots, and the plots as files."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path

from ndereg.experiments import figures
from ndereg.experiments.collection import Collection
from ndereg.experiments.published import comparison
from ndereg.experiments.storage import write_bytes
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
<p>NFE: evaluations of the field when the test set, or the part of it that the recipe names, is
solved as one batch. Training time leaves out compilation, which stands in its own column. After
each value: its ratio to the row without a regularizer. {seeds}</p>
{published}
<h2>Over training</h2>
<img alt="evaluations, score and loss over training" src="data:image/png;base64,{training}">
<h2>Along t</h2>
<p>The accepted steps of the solver on the same batch: dotted with the initial parameters, solid
after training.</p>
<img alt="step size, error and stiffness along t" src="data:image/png;base64,{solver}">
<h2>Work against precision</h2>
<p>Left: the trained models solved at other tolerances; the error is that of the prediction against
a fine solve of the same model in double precision. Right: every run's score against what its
prediction costs.</p>
<img alt="evaluations against error, score against evaluations"
src="data:image/png;base64,{precision}">
<h2>Settings</h2>
{commands}
{settings}
</html>
"""


def write_report(collection: Collection, folder: Path) -> Path:
    """Write ``report.html``, ``training.png``, ``solver.png`` and ``precision.png``."""
    recipe, results = collection.recipe, collection.results
    images = {
        "training": figures.png(figures.training_figure(collection.records, recipe.metric)),
        "solver": figures.png(figures.solver_figure(results)),
        "precision": figures.png(figures.precision_figure(results, recipe.metric)),
    }
    for name, image in images.items():
        write_bytes(folder / f"{name}.png", image)
    rows = summarize(results, recipe.metric)
    page = _PAGE.format(
        title=html.escape(f"ndereg: {recipe.name}, {collection.settings.backend}"),
        table=_table(columns(recipe.metric), [cells(row, recipe.metric) for row in rows]),
        seeds="± is the sample standard deviation over seeds."
        if any(row.nfev.deviation is not None for row in rows)
        else "",
        published=_published(collection),
        commands="".join(f"<pre>{html.escape(text)}</pre>" for text in collection.commands),
        settings=_table(["setting", "value"], _settings(collection)),
        **{name: base64.b64encode(image).decode() for name, image in images.items()},
    )
    path = folder / "report.html"
    write_bytes(path, page.encode())
    return path


def _published(collection: Collection) -> str:
    """Return a table for every paper that has rows of ours."""
    metric = collection.recipe.metric
    rows = summarize(collection.results, metric)
    parts = []
    for paper in collection.recipe.papers:
        if (table := comparison(rows, paper, metric)) is not None:
            parts += [f"<h2>Beside {html.escape(paper.citation)}</h2>", _table(*table)]
    return "\n".join(parts)


def _settings(collection: Collection) -> list[list[str]]:
    settings = dataclasses.asdict(collection.settings)
    settings |= {
        "regularizers": list(dict.fromkeys(r.regularizer for r in collection.results)),
        "weights": {r.regularizer: r.weight for r in collection.results},
        "seeds": sorted({r.seed for r in collection.results}),
        "optimizer steps": collection.results[0].steps,
        "training samples": collection.results[0].samples,
    }
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
