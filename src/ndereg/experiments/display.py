"""Live progress and the final table, on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ndereg.experiments.recipe import Metric, Recipe
from ndereg.experiments.runners.base import StepResult
from ndereg.experiments.study import Study
from ndereg.experiments.summary import cells, columns, summarize
from ndereg.experiments.training import Listener, Result, Run

SHOW_S = 0.1
"""Least seconds between two pictures of a bar."""


class LiveProgress(Listener):
    """A bar for every run, with its loss, evaluations, score and remaining time."""

    def __init__(self, console: Console, metric: Metric) -> None:
        self.metric = metric
        self.bars: dict[str, TaskID] = {}
        self.unshown = 0
        self.shown_at = 0.0
        self.latest: dict[str, Any] = {}
        self.running: Run | None = None
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("epoch {task.fields[epoch]}"),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("NFE {task.fields[nfev]}"),
            TextColumn(f"{metric.title} {{task.fields[score]}}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )

    def __enter__(self) -> LiveProgress:
        """Show the bars."""
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bars as they are, an interrupted one with its last step."""
        if self.running is not None:
            self._show(self.running)
        self.progress.stop()

    def waiting(self, runs: Sequence[Run], several_seeds: bool) -> None:
        """List what will be trained."""
        for run in runs:
            name = run.name if several_seeds else run.regularizer
            blank = dict.fromkeys(("epoch", "loss", "nfev", "score"), "–")
            self.bars[run.name] = self.progress.add_task(name, total=None, start=False, **blank)

    def compiling(self, run: Run) -> None:
        """Say so."""
        self.progress.update(self.bars[run.name], loss="compiling")

    def started(self, run: Run, steps: int, done: int) -> None:
        """Start the clock, compilation done."""
        self.running, self.latest = run, {}
        bar = self.bars[run.name]
        self.progress.update(bar, total=steps, completed=done, loss="–")
        self.progress.start_task(bar)

    def stepped(self, run: Run, epoch: int, result: StepResult) -> None:
        """Advance; a small model makes more steps a second than a terminal shows."""
        self.unshown += 1
        self.latest = {"epoch": epoch, "loss": f"{result.loss:.4f}", "nfev": result.nfev}
        if time.monotonic() - self.shown_at > SHOW_S:
            self._show(run)

    def evaluated(self, run: Run, scores: dict[str, float], nfev: int) -> None:
        """Show the score and what a prediction costs."""
        self.latest |= {"score": self.metric.text(scores[self.metric.name]), "nfev": nfev}
        self._show(run)

    def finished(self, run: Run, result: Result) -> None:
        """Fill the bar, and leave it with what the last step and the last prediction were."""
        self.latest |= {"nfev": result.nfev}
        self._show(run)
        self.running, self.shown_at = None, 0.0

    def _show(self, run: Run) -> None:
        self.progress.update(self.bars[run.name], advance=self.unshown, **self.latest)
        self.unshown, self.shown_at = 0, time.monotonic()


def print_results(console: Console, recipe: Recipe | Study, results: Sequence[Any]) -> None:
    """Print the comparison as a table, and beneath that of a study what its columns mean."""
    if isinstance(recipe, Study):
        headings, lines = recipe.table(results)
    else:
        headings = columns(recipe.metric)
        lines = [cells(row, recipe.metric) for row in summarize(results, recipe.metric)]
    console.print(_table(headings, lines, console.width))
    if isinstance(recipe, Study):
        console.print()
        for meaning in recipe.meanings():
            console.print(meaning, highlight=False, markup=False)


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]], width: int) -> Table:
    """Return a table; where it is wider than the terminal, words stand beneath one another."""
    whole = sum(max(map(len, column)) + 2 for column in zip(headings, *lines, strict=True))
    padding = (0, 1)
    if whole - 2 > width:
        headings = [heading.replace(" ", "\n") for heading in headings]
        lines = [[cell.replace(" ±", "\n±") for cell in line] for line in lines]
        padding = (0, 0)
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True, padding=padding
    )
    for index, heading in enumerate(headings):
        side: Literal["left", "right"] = "left" if index == 0 else "right"
        table.add_column(heading, justify=side, no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table
