"""``ndereg bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

Suite = Annotated[
    str | None,
    typer.Argument(
        help="Single trajectories (small), samples with steps of their own (ensemble), neural "
        "fields (mlp, latent, conv), memory (long), a training step (train), a first call (cold); "
        "stochastic: sde-small, sde-ensemble, sde-mlp, sde-pairs, sde-tree."
    ),
]
Backends = Annotated[
    list[str] | None,
    typer.Option("--backend", help="numpy, jax or torch; repeatable, all if none."),
]
Json = Annotated[Path | None, typer.Option("--json", help="Where the results are written.")]
Cold = Annotated[
    bool, typer.Option("--cold/--no-cold", help="Also start every solver in a new process.")
]
Docs = Annotated[
    Path | None,
    typer.Option("--docs", help="Write this page from the results in --results; run nothing."),
]
Plot = Annotated[
    bool, typer.Option("--plot", help="Also draw work against precision for the first part.")
]
Device = Annotated[str, typer.Option(help="cpu, or cuda for JAX and PyTorch.")]
Results = Annotated[Path, typer.Option(help="Folder of results.")]

RESULTS = Path("benchmarks/results")
CAUSES = "causes.json"


def bench(
    suite: Suite = None,
    backend: Backends = None,
    json_file: Json = None,
    in_new_process: Cold = True,
    plot: Plot = False,
    docs: Docs = None,
    device: Device = "cpu",
    results: Results = RESULTS,
) -> None:
    """Time ndereg beside the installed peers, at matched methods and tolerances.

    Solvers take turns in one process. A table shows times, errors and work,
    and which targets are met; the same goes to RESULTS/SUITE.json, or --json.
    Without a suite, all are run.
    """
    from ndereg import machine
    from ndereg.bench import report
    from ndereg.bench.run import run_suite
    from ndereg.bench.suites import FRAMEWORKS, SUITES

    console = Console()
    if not console.is_terminal:  # a file is as wide as the tables
        console.width = max(console.width, 160)
    if docs is not None:
        _write_docs(docs, results)
        console.print(f"wrote {docs}")
        return
    if suite is None and json_file is not None:
        raise typer.BadParameter("expected a SUITE for --json, received none; try --results FOLDER")
    names = list(SUITES) if suite is None else [suite]
    for name in names:
        if name not in SUITES:
            raise typer.BadParameter(f"expected one of {', '.join(SUITES)}, received {name!r}")
    chosen = tuple(backend or FRAMEWORKS)
    for name in chosen:
        if name not in FRAMEWORKS:
            raise typer.BadParameter(f"expected one of {', '.join(FRAMEWORKS)}, received {name!r}")
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"expected cpu or cuda, received {device!r}")
    if device == "cuda":
        chosen = tuple(name for name in chosen if name != "numpy")
    for name in names:
        about = machine.describe(device)
        with console.status("") as status:
            found = run_suite(
                name, chosen, in_new_process=in_new_process and device == "cpu", device=device,
                progress=status.update,
            )  # fmt: skip
        parts: list[dict[str, Any]] = [part.plain() for part in found]
        for part in parts:
            console.print(report.table(part))
            if part["targets"]:
                console.print(_targets(part))
        suffix = "" if device == "cpu" else f"-{device}"
        path = json_file or results / f"{name}{suffix}.json"
        report.write(path, name, about, parts)
        if plot:
            console.print(f"plot: {_plot(name, chosen, path.with_suffix('.png'))}")
        console.print(f"{about['processor']}, {about['cores']} cores; results: {path}")


def _plot(suite: str, frameworks: tuple[str, ...], path: Path) -> Path:
    from ndereg.bench import figures
    from ndereg.bench.run import work_precision
    from ndereg.bench.suites import SUITES

    part = SUITES[suite]()[0]
    points = work_precision(part, figures.TOLERANCES, frameworks)
    figures.save(figures.work_precision(points, part.title), path)
    return path


def _targets(part: dict[str, Any]) -> Table:
    from ndereg.bench.report import promise

    found = Table("target", "at most", "measured", box=None)
    for target in part["targets"]:
        style = "" if target["met"] is None else "green" if target["met"] else "red"
        found.add_row(*promise(target), style=style)
    return found


def _write_docs(path: Path, results: Path) -> None:
    from ndereg.bench import report
    from ndereg.bench.suites import SUITES

    files = [results / f"{name}{suffix}.json" for suffix in ("", "-cuda") for name in SUITES]
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
    if not found:
        raise typer.BadParameter(
            f"expected results in {results}, found none; try ndereg bench SUITE first"
        )
    reasons = results / CAUSES
    causes = json.loads(reasons.read_text(encoding="utf-8")) if reasons.exists() else []
    path.write_text(report.page(found, causes), encoding="utf-8")
