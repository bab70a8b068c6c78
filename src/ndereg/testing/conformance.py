"""What any backend has to fulfil: ``python -m ndereg.testing.conformance mypackage.backend``.

The name is that of a registered backend, ``module:Factory``, or a module that defines one class
with ``compile`` and ``owns``. Exit status 1 if a check fails. In pytest, ``check(backend)`` returns
the report and ``names()`` the checks, to be run one by one with ``check(backend, only=[name])``.

The checks are fixed. They compare with closed forms that need no other backend and with the
reference, on problems that each isolate one duty. What a backend does not offer, such as stochastic
equations without Brownian paths, is no failure.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ndereg.backends.base import Backend
from ndereg.backends.registry import backend_names, load_backend
from ndereg.testing.duties import DUTIES, NotServed
from ndereg.testing.frameworks import Bench


@dataclass(frozen=True)
class Duty:
    """One check: its name, whether it passed, and what was wrong.

    Attributes
    ----------
    name : str
    ok : bool
    summary : str
        What is checked.
    message : str
        What was expected and received, if it failed.
    served : bool
        False of what the backend does not offer, which is no failure; the message says what.
    """

    name: str
    ok: bool
    summary: str
    message: str = ""
    served: bool = True


@dataclass(frozen=True)
class ConformanceReport:
    """The outcome of all checks of a backend."""

    backend: str
    duties: tuple[Duty, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(duty.ok for duty in self.duties)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(duty.name for duty in self.duties if not duty.ok)

    def raise_if_failed(self) -> None:
        """Raise an AssertionError with the messages of the checks that failed."""
        if not self.ok:
            parts = [f"{d.name} ({d.summary}): {d.message}" for d in self.duties if not d.ok]
            raise AssertionError(f"{self.backend} does not conform\n" + "\n".join(parts))

    def table(self) -> Any:
        """Return a rich table."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, title=self.backend)
        table.add_column("check")
        table.add_column("what")
        table.add_column("")
        for duty in self.duties:
            mark = "✓" if duty.served else "not served"
            table.add_row(duty.name, duty.summary, mark if duty.ok else "[bold red]✗[/]")
        return table


def names() -> tuple[str, ...]:
    """Names of the checks."""
    return tuple(DUTIES)


def check(backend: str | Backend, only: Sequence[str] | None = None) -> ConformanceReport:
    """Run the checks on a backend.

    Parameters
    ----------
    backend : str or Backend
        One of another framework than NumPy, PyTorch and JAX needs ``from_numpy(array)``.
    only : sequence of str or None
        Names of checks; None runs all of them.

    Returns
    -------
    ConformanceReport

    Raises
    ------
    ValueError
        If ``only`` names no check.

    Examples
    --------
    >>> check("reference", only=["stability polynomial"]).ok
    True
    """
    unknown = [name for name in only or () if name not in DUTIES]
    if unknown:
        raise ValueError(f"expected names of checks, received {unknown}; try {', '.join(DUTIES)}")
    bench = Bench(backend)
    return ConformanceReport(bench.name, tuple(_outcomes(bench, only or names())))


def _outcomes(bench: Bench, only: Sequence[str]) -> Iterator[Duty]:
    for name in only:
        yield _outcome(bench, name, DUTIES[name])


def _outcome(bench: Bench, name: str, duty: Callable[[Bench], None]) -> Duty:
    summary = inspect.cleandoc(duty.__doc__ or "").partition("\n")[0].rstrip(".")
    try:
        with bench.precision():
            duty(bench)
    except NotServed as error:
        return Duty(name, True, summary, str(error), served=False)
    except AssertionError as error:
        return Duty(name, False, summary, str(error))
    except Exception as error:
        return Duty(name, False, summary, "".join(traceback.format_exception(error)))
    return Duty(name, True, summary)


def find_backend(place: str) -> Backend:
    """Return the backend of a registered name, of ``module:Factory``, or of a module.

    Raises
    ------
    ValueError
        If there is none, or several.
    ImportError
        If the module cannot be imported.
    """
    if place in backend_names():
        return load_backend(place)
    module_name, _, name = place.partition(":")
    module = importlib.import_module(module_name)
    if name:
        made: Backend = getattr(module, name)()
        return made
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and value.__module__.startswith(module_name)
        and all(hasattr(value, method) for method in ("compile", "owns", "array"))
    ]
    if len(found) != 1:
        raise ValueError(
            f"expected one backend in {module_name}, received "
            f"{', '.join(cls.__name__ for cls in found) or 'none'}; try {module_name}:Factory"
        )
    backend: Backend = found[0]()
    return backend


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    from rich.console import Console

    parser = argparse.ArgumentParser(
        prog="python -m ndereg.testing.conformance", description="Check a backend."
    )
    parser.add_argument("backend", help="a registered name, module or module:Factory")
    parser.add_argument("--only", action="append", help="a check; repeatable")
    given = parser.parse_args(arguments)
    sys.path.insert(0, "")
    console = Console()
    try:
        report = check(find_backend(given.backend), given.only)
    except (ValueError, ImportError, TypeError, AttributeError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    console.print(report.table())
    for duty in report.duties:
        if not duty.ok:
            console.print(f"\n{duty.name}: {duty.message}", highlight=False, markup=False)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
