"""What a study is: rows that are computed, not trained.

A :class:`Study` names its rows and the figures that each of them gets; from settings, a row and a
seed it computes an :class:`Outcome`. Folders, ``--resume``, collections and the report are those of
trainings.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_type_hints

from matplotlib.figure import Figure

from ndereg.experiments.choices import refuse_repeated, refuse_unknown
from ndereg.experiments.published import Table
from ndereg.experiments.recipe import BACKENDS
from ndereg.precision import x64
from ndereg.solve import Face


@dataclass(frozen=True)
class StudySettings:
    """What every study lets one choose; a study adds its own fields in a subclass.

    Every field is JSON-ready, so ``config.json`` rebuilds it.
    """

    backend: str = "numpy"
    rows: tuple[str, ...] = ()
    """All of the study's by default."""
    seeds: tuple[int, ...] = (0,)
    paths: int = 64

    device: ClassVar[str] = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows))
        object.__setattr__(self, "seeds", tuple(self.seeds))
        refuse_unknown("a backend", (self.backend,), BACKENDS)
        if not self.seeds or not all(isinstance(s, int) and 0 <= s < 2**64 for s in self.seeds):
            raise ValueError(
                f"expected seeds of at least 0 and below 2^64, received {self.seeds}; try --seeds 3"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"expected different seeds, received {self.seeds}; try --seeds 3")
        for name, kind in get_type_hints(type(self)).items():
            if kind is int and not isinstance(getattr(self, name), int):
                raise ValueError(f"expected an integer as {name}, received {getattr(self, name)!r}")
        if self.paths < 2:
            raise ValueError(f"expected paths >= 2, received {self.paths}; try --paths 64")


@dataclass(frozen=True)
class Outcome:
    """What a study says about a row and a seed.

    Parameters
    ----------
    row : str
    seed : int
    values : dict
        The figures of the table by the names of the study's columns; nan where there is none.
    seconds : float
        Of computing it, compilation included.
    curves : dict
        Lists of numbers that the study's plot needs.
    """

    row: str
    seed: int
    values: dict[str, float]
    seconds: float
    curves: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = {name: math.nan if x is None else x for name, x in self.values.items()}
        curves = {k: [math.nan if x is None else x for x in xs] for k, xs in self.curves.items()}
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "curves", curves)

    def written(self) -> dict[str, Any]:
        """Return it for JSON, which has no nan: null stands for it, and is read as nan."""
        found = dataclasses.asdict(self)
        found["values"] = {name: _finite(x) for name, x in self.values.items()}
        found["curves"] = {name: [_finite(x) for x in xs] for name, xs in self.curves.items()}
        return found


@dataclass(frozen=True)
class Column:
    """A figure of the table."""

    name: str
    title: str
    digits: int = 3
    """Significant ones."""

    def text(self, values: Sequence[float]) -> str:
        """Return mean and, of several, the sample standard deviation."""
        mean = statistics.fmean(values)
        text = _plain(mean, self.digits)
        if len(values) < 2 or mean != mean:
            return text
        return f"{text} ± {_plain(statistics.stdev(values), 2)}"


@dataclass(frozen=True)
class PublishedRows:
    """What a paper reports of a study: figures by row and column, those it gives."""

    citation: str
    rows: Mapping[str, Mapping[str, float]]


class Study(ABC):
    """What ``ndereg compare`` computes by name, without training anything."""

    name: ClassVar[str]
    settings_type: ClassVar[type[StudySettings]] = StudySettings
    rows: ClassVar[Mapping[str, str]]
    """What each row is, in a few words."""
    columns: ClassVar[Sequence[Column]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}}
    papers: ClassVar[Sequence[PublishedRows]] = ()
    legend: ClassVar[Mapping[str, str]]
    """What the columns mean, by their titles; of several at once, with commas between them."""
    heading: ClassVar[str]
    caption: ClassVar[str]
    """Of the plot."""

    def settings(self, preset: str = "default", **chosen: Any) -> StudySettings:
        """Return a preset with the user's choices on top, checked.

        Raises
        ------
        ValueError
            If the study lacks the preset, an option or a row, or a value is out of range.
        """
        refuse_unknown("a preset", (preset,), self.presets)
        known = sorted(each.name for each in dataclasses.fields(self.settings_type))
        refuse_unknown(f"a setting of the study {self.name!r}", sorted(chosen), known)
        settings = self.settings_type(
            **{"rows": tuple(self.rows), **self.presets[preset], **chosen}
        )
        refuse_unknown("rows", settings.rows, self.rows)
        refuse_repeated("rows", settings.rows)
        return settings

    def requested(self, preset: str, **given: Any) -> StudySettings:
        """Return :meth:`settings`, of which every choice has an effect."""
        return self.settings(preset, **given)

    def meanings(self) -> list[str]:
        """Return a sentence for every column, as it stands beneath the table."""
        legend = {**self.legend, "time": "of computing the row, compilation included"}
        return [f"{titles}: {meaning}." for titles, meaning in legend.items()]

    def absent(self, row: str) -> str | None:
        """Return why a row is left out here, such as a package that is not installed; or None."""
        return None

    @abstractmethod
    def compute(self, settings: Any, row: str, seed: int) -> Outcome:
        """Compute a row."""

    @abstractmethod
    def figure(self, outcomes: Sequence[Outcome]) -> Figure:
        """Plot."""

    def table(self, outcomes: Iterable[Outcome]) -> Table:
        """Return headings and a line for every row, means and deviations over the seeds."""
        lines = []
        for row, group in by_row(outcomes).items():
            figures = [c.text([each.values[c.name] for each in group]) for c in self.columns]
            seconds = statistics.fmean(each.seconds for each in group)
            lines.append([row, *figures, f"{seconds:.1f} s"])
        return ["row", *(column.title for column in self.columns), "time"], lines

    def beside(self, outcomes: Iterable[Outcome], paper: PublishedRows) -> Table | None:
        """Return our figures and a paper's next to each other; None without a row of it."""
        groups = {row: g for row, g in by_row(outcomes).items() if row in paper.rows}
        given = [c for c in self.columns if any(c.name in paper.rows[row] for row in groups)]
        if not given:
            return None
        lines = []
        for row, group in groups.items():
            line, theirs = [row], paper.rows[row]
            for column in given:
                line.append(column.text([each.values[column.name] for each in group]))
                line.append(column.text([theirs.get(column.name, float("nan"))]))
            lines.append(line)
        return ["row", *(name for c in given for name in (c.title, "paper"))], lines


def by_row(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """Return the outcomes of every row, in order of appearance."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.row, []).append(outcome)
    return groups


def face(backend: str) -> Face:
    """Return ``ndereg.numpy``, ``ndereg.torch`` or ``ndereg.jax``."""
    found: Any = importlib.import_module(f"ndereg.{backend}")
    return found


def double(backend: str) -> AbstractContextManager[Any]:
    """Return a context in which the backend computes in float64, for which JAX has to be asked."""
    if backend != "jax":
        return nullcontext()
    return x64(True)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(value: float, digits: int) -> str:
    if value != value:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
