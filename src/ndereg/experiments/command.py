"""``ndereg report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folders = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="FOLDER", help="Output folders of train and compare: runs of one experiment."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Where the report is written; the folder itself if there is one only."),
]
Json = Annotated[
    Path | None, typer.Option("--json", help="Also write the results in short to this file.")
]
Title = Annotated[
    str | None, typer.Option(help="Heading of the results in --json; the recipe's name by default.")
]
Note = Annotated[
    list[str] | None,
    typer.Option(help="What a reader of --json should know, such as what did not reproduce."),
]
Docs = Annotated[
    Path | None,
    typer.Option("--docs", help="Write this page from the files in --results; read no folders."),
]
Results = Annotated[Path, typer.Option(help="Folder of what --json wrote.")]

RESULTS = Path("benchmarks/results/experiments")


def report(
    folders: Folders = None,
    out: Out = None,
    json_file: Json = None,
    title: Title = None,
    note: Note = None,
    docs: Docs = None,
    results: Results = RESULTS,
) -> None:
    """Make one report of the runs in several output folders."""
    try:
        if docs is not None:
            _write_docs(docs, folders, results)
        else:
            _write_report(folders or [], out, json_file, title, note or [])
    except ValueError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None


def _write_report(
    folders: list[Path], out: Path | None, json_file: Path | None, title: str | None, notes: list
) -> None:
    from rich.console import Console

    from ndereg.experiments.collection import collect
    from ndereg.experiments.display import print_results
    from ndereg.experiments.report import write_report
    from ndereg.experiments.results_page import write_results

    if not folders:
        raise ValueError(
            "expected output folders of train or compare, received none; try ndereg report RUNS"
        )
    if out is None and len(folders) != 1:
        raise ValueError(f"expected --out for a report of {len(folders)} folders; try --out DIR")
    if json_file is None and (notes or title):
        raise ValueError("expected --json FILE with --note and --title, which are written there")
    collection = collect(folders)
    console = Console()
    print_results(console, collection.recipe, collection.results)
    page = write_report(collection, out or folders[0])
    console.print(f"Report: {page}", soft_wrap=True, highlight=False)
    if json_file is not None:
        write_results(json_file, title or collection.recipe.name, collection, notes)
        console.print(f"Results: {json_file}", soft_wrap=True, highlight=False)


def _write_docs(docs: Path, folders: list[Path] | None, results: Path) -> None:
    from ndereg.experiments.results_page import page, read_results

    if folders:
        raise ValueError("expected --docs without folders: it reads the files in --results")
    docs.write_text(page(read_results(results)), encoding="utf-8")
    typer.echo(f"wrote {docs}")
