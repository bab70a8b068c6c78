"""The report: one HTML file that carries its plots, and the plots as files."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Sequence

from ndereg.experiments import figures
from ndereg.experiments.recipe import Recipe, Settings
from ndereg.experiments.storage import RunFolder, write_bytes
from ndereg.experiments.summary import cells, columns, summarize
from ndereg.experiments.training import Result

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
<p>NFE: evaluations of the field when the test set is solved as one batch. Training time leaves out
compilation, which stands in its own column. After each value: its ratio to the row without a
regularizer.</p>
<h2>Over training</h2>
<img alt="evaluations, score and loss over training" src="data:image/png;base64,{training}">
<h2>Along t</h2>
<p>The accepted steps of the solver on the test set: dashed with the initial parameters, solid after
training.</p>
<img alt="step size, error and stiffness along t" src="data:image/png;base64,{solver}">
<h2>Settings</h2>
{settings}
</html>
"""


def write_report(
    recipe: Recipe, settings: Settings, folder: RunFolder, results: Sequence[Result]
) -> None:
    """Write ``report.html``, ``training.png`` and ``solver.png``."""
    records = folder.read_metrics()
    images = {
        "training": figures.png(figures.training_figure(records, recipe.metric)),
        "solver": figures.png(figures.solver_figure(results)),
    }
    for name, image in images.items():
        write_bytes(folder.path / f"{name}.png", image)
    rows = summarize(results, recipe.metric)
    page = _PAGE.format(
        title=html.escape(f"ndereg: {recipe.name}, {settings.backend}"),
        table=_table(columns(recipe.metric), [cells(row, recipe.metric) for row in rows]),
        settings=_table(
            ["setting", "value"],
            [[name, _plain(value)] for name, value in dataclasses.asdict(settings).items()],
        ),
        **{name: base64.b64encode(image).decode() for name, image in images.items()},
    )
    write_bytes(folder.report, page.encode())


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, entries: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(e)}</{tag}>" for e in entries) + "</tr>"

    return "\n".join(
        ["<table>", line("th", header), *(line("td", row) for row in rows), "</table>"]
    )
