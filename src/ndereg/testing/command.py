"""``ndereg crosscheck``: backends against each other, on random problems or on your own."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

FieldName = Annotated[
    str | None,
    typer.Argument(
        metavar="MODULE:NAME",
        help="An ndereg.testing.Example, a function without arguments that returns one, or a field "
        "f(t, y, args) or an SDE in a module that also has t_span, y0 and, if need be, args and "
        "options, among them the key of an SDE. "
        "Without it random problems are drawn (needs Hypothesis).",
    ),
]
Examples = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="How many (100 random ones; 1 of a field, further ones move y0 and args by 10 %). "
        "About half of the random ones are SDEs, where all backends solve these. Fifteen at a time "
        "share what is compiled: field, method, structure; they differ in numbers, spans, "
        "directions, tolerances, controllers, weights, cotangents and paths.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the random numbers.")]
Backends = Annotated[
    str | None,
    typer.Option(help="Which to compare with the reference, comma-separated; all by default."),
]
Processes = Annotated[int, typer.Option(min=1, help="Of the random search.")]


def crosscheck(
    field: FieldName = None,
    examples: Examples = None,
    seed: Seed = 0,
    backends: Backends = None,
    processes: Processes = 2,
) -> None:
    """Solve problems on every installed backend and compare everything with the reference.

    Prints the largest deviation of each quantity, in units of what rounding can do. Exit status 1
    and a program that reproduces the smallest failing example when backends disagree.
    """
    from rich.console import Console

    from ndereg.testing.report import rows_table, worst_rows
    from ndereg.testing.search import Checked

    console = Console()
    names = None if backends is None else [name.strip() for name in backends.split(",")]
    try:
        left_out = _left_out(names)
        found: Iterator[Checked]
        if field is None:
            count = 100 if examples is None else examples
            found = _random(count, seed, names, processes)
        else:
            count = 1 if examples is None else examples
            found = _given(field, count, seed, names)
        checked = list(_shown(console, found, count))
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    rows = worst_rows(row for one in checked for row in one.rows)
    caption = f"{sum(bool(one.rows) for one in checked)} examples, seed {seed}"
    if left_out:
        caption += "; not installed: " + ", ".join(left_out)
    if rows:
        console.print(rows_table(rows, caption))
    failures = [one.failure for one in checked if one.failure is not None]
    if failures:
        smallest = min(failures, key=lambda failure: len(failure.code))
        console.print(smallest.verdict, highlight=False, markup=False, soft_wrap=True)
        console.print("\nThe smallest failing example:\n")
        typer.echo(smallest.code)
        raise typer.Exit(1)


def _left_out(names: Sequence[str] | None) -> list[str]:
    """Names of the backends that are not installed; refuse what was asked for and is not there."""
    from ndereg.testing.frameworks import chosen_backends

    return [name for name, _ in chosen_backends(names)[1]]


def _random(count: int, seed: int, names: Sequence[str] | None, processes: int) -> Iterator[Any]:
    import ndereg.testing.strategies  # noqa: F401 - refused here, with a message, without Hypothesis
    from ndereg.testing.search import in_processes

    return in_processes(count, seed, names, processes)


def _given(place: str, count: int, seed: int, names: Sequence[str] | None) -> Iterator[Any]:
    from ndereg.testing.search import Checked, Failure

    example = load_example(place)
    for index in range(count):
        one = example.varied(seed + index) if index else example
        report = one.crosscheck(backends=names, seed=seed + index)
        failure = None
        if not report.ok:
            bad = list(dict.fromkeys(row.backend for row in report.failures))
            failure = Failure(report.verdict(), one.code(backends=bad, seed=seed + index))
        yield Checked(report.rows, failure)
        if failure is not None:
            return


def load_example(place: str) -> Any:
    """Return the example that ``MODULE:NAME`` names.

    Raises
    ------
    ValueError
        If it names none.
    ImportError
        If the module cannot be imported.
    """
    from ndereg.testing.example import Example
    from ndereg.testing.paths import STOCHASTIC

    module_name, colon, name = place.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"expected MODULE:NAME, received {place!r}; try mypackage.fields:pendulum")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = importlib.import_module(module_name)
    found = getattr(module, name, None)
    if isinstance(found, Example):
        return found
    if not callable(found) and not isinstance(found, STOCHASTIC):
        raise ValueError(
            f"expected an Example, a function, a field or an SDE called {name!r} in {module_name}, "
            f"received {type(found).__name__}; try a name that the module defines"
        )
    if inspect.isfunction(found) and not inspect.signature(found).parameters:
        made = found()
        if not isinstance(made, Example):
            raise ValueError(
                f"expected {place} to return an ndereg.testing.Example, received "
                f"{type(made).__name__}; try return Example(field, t_span, y0, args)"
            )
        return made
    missing = [key for key in ("t_span", "y0") if not hasattr(module, key)]
    if missing:
        raise ValueError(
            f"expected {' and '.join(missing)} beside the field {name!r} in {module_name}, "
            "received none; try an ndereg.testing.Example"
        )
    return Example(
        found, module.t_span, module.y0, getattr(module, "args", None),
        getattr(module, "options", {}),
    )  # fmt: skip


def _shown(console: Any, found: Iterator[Any], count: int) -> Iterator[Any]:
    """Pass everything on beneath a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("examples", total=count)
        for checked in found:
            if checked.failure is not None:
                progress.update(bar, description="disagreement")
            elif checked.rows:
                progress.advance(bar)
            yield checked
