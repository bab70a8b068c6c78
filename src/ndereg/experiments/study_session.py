"""Everything behind ``ndereg compare`` of a study: a folder, its rows, its report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ndereg.experiments.collection import collect
from ndereg.experiments.interrupt import Interrupt
from ndereg.experiments.report import write_report
from ndereg.experiments.session import Session
from ndereg.experiments.storage import write_json
from ndereg.experiments.study import Outcome
from ndereg.experiments.training import Interrupted


@dataclass(frozen=True)
class StudySession(Session):
    """A study with settings in a folder; its rows are computed one after another."""

    recipe: Any
    settings: Any

    def outcomes(self) -> list[Outcome]:
        """Return the finished rows."""
        return [Outcome(**written) for written in self.folder.read_results()]

    def compute(
        self,
        say: Callable[[str], None] = lambda text: None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> list[Outcome]:
        """Compute what is not computed yet, write the report, return all outcomes.

        ``say`` is told of every row, ``warn`` of those that are left out.

        Raises
        ------
        ValueError
            If no row of the settings can be computed here.
        Interrupted
            On Ctrl-C, when the row in progress is on disk.
        """
        outcomes = self.outcomes()
        finished = {(outcome.row, outcome.seed) for outcome in outcomes}
        absent = {row: why for row in self.settings.rows if (why := self.recipe.absent(row))}
        for why in absent.values():
            warn(why)
        rows = [row for row in self.settings.rows if row not in absent]
        if not rows:
            raise ValueError(
                f"expected a row that can be computed here, received {', '.join(absent)}: "
                f"{' '.join(absent.values())}"
            )
        waiting = [
            (row, seed)
            for seed in self.settings.seeds
            for row in rows
            if (row, seed) not in finished
        ]
        with Interrupt() as interrupt:
            for row, seed in waiting:
                if interrupt.requested:
                    raise Interrupted(f"before {row}-seed{seed}; finished rows are written")
                outcome = self.recipe.compute(self.settings, row, seed)
                self._write_config()
                outcomes.append(outcome)
                results = [each.written() for each in outcomes]
                records = [
                    {name: each[name] for name in ("row", "seed", "seconds")} | each["values"]
                    for each in results
                ]
                self.folder.write_metrics(records)
                write_json(self.folder.results, results)
                say(f"{row}, seed {seed}: {outcome.seconds:.1f} s")
        write_report(collect([self.folder.path]), self.folder.path)
        return outcomes
