"""Everything behind one ``ndereg train`` or ``ndereg compare``: a folder, its runs, its report."""

from __future__ import annotations

import dataclasses
import platform
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import ndereg
from ndereg.experiments import experiment
from ndereg.experiments.collection import MACHINE, collect, places
from ndereg.experiments.interrupt import Interrupt
from ndereg.experiments.recipe import Recipe, Settings, Task
from ndereg.experiments.report import write_report
from ndereg.experiments.runners import refuse_absent
from ndereg.experiments.storage import RunFolder, write_json
from ndereg.experiments.training import Interrupted, Length, Listener, Result, Run, Trainer
from ndereg.machine import describe

_VERSIONS = {"numpy": ("numpy", "numba"), "torch": ("torch",), "jax": ("jax", "optax")}


@dataclasses.dataclass(frozen=True)
class Session:
    """A recipe with settings in a folder.

    Runs are trained one after another, never at once, so that their times compare.
    """

    recipe: Recipe
    settings: Settings
    folder: RunFolder
    preset: str = "default"

    @classmethod
    def create(cls, recipe: str, path: Path, preset: str = "default", **chosen: Any) -> Session:
        """Begin in a new folder; it is made when the first model is known to compile.

        Raises
        ------
        ValueError
            If a setting is wrong or the folder holds something already.
        """
        found = experiment(recipe)
        settings = found.requested(preset, **chosen)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(
                f"expected a new or empty output folder, received {path}; try another --out, or "
                "--resume to continue what is there"
            )
        return cls(found, settings, RunFolder(path), preset)

    @classmethod
    def reopen(cls, recipe: str, path: Path, preset: str | None = None, **chosen: Any) -> Session:
        """Continue in the folder of an earlier session, with its settings.

        Raises
        ------
        ValueError
            If the folder holds no session of this recipe, or one with other settings.
        """
        folder = RunFolder(path)
        config = folder.read_config("leave out --resume to start there")
        if config["recipe"] != recipe:
            raise ValueError(f"{path} holds recipe {config['recipe']!r}, received {recipe!r}")
        found = experiment(recipe)
        began = config.get("preset", "default")
        if preset not in (None, began):
            raise ValueError(
                f"expected the preset of {path}, {began!r}, received {preset!r}; leave --preset "
                "out, or start anew with another --out"
            )
        settings = found.settings(began, **config["settings"])
        for name, value in chosen.items():
            kept = getattr(settings, name, None)
            if isinstance(kept, dict):  # of weights, those that are given count
                value = {**kept, **value}
            if kept != (tuple(value) if isinstance(kept, tuple) else value):
                raise ValueError(
                    f"expected the settings of {path}, where {name} is {kept!r}, received "
                    f"{value!r}; leave it out, or start anew with another --out"
                )
        return cls(found, settings, folder, began)

    @property
    def runs(self) -> list[Run]:
        """All trainings, in order."""
        return [
            Run(name, seed) for seed in self.settings.seeds for name in self.settings.regularizers
        ]

    @cached_property
    def task(self) -> Task:
        """The recipe's task; its data are loaded once."""
        return self.recipe.task(self.settings)

    def check(self) -> Length:
        """Find framework and device, load the data, and return how long each training is.

        Raises
        ------
        ValueError
            If something is not there, or the data are fewer than a batch.
        """
        refuse_absent(self.settings)
        return Length.of(self.task, self.settings)

    def results(self) -> list[Result]:
        """Return the finished runs."""
        return [Result(**result) for result in self.folder.read_results()]

    def train(self, listener: Listener | None = None) -> list[Result]:
        """Train what is not trained yet, write the report, return all results.

        Raises
        ------
        Interrupted
            On Ctrl-C, when the checkpoint is on disk.
        """
        listener = listener or Listener()
        self.check()
        results = self.results()
        finished = {(result.regularizer, result.seed) for result in results}
        with Interrupt() as interrupt:
            for run in self.runs:
                if (run.regularizer, run.seed) in finished:
                    self.folder.checkpoint(run.name).unlink(missing_ok=True)
                    continue
                if interrupt.requested and self.folder.config.exists():
                    raise Interrupted(f"before run {run.name}; finished runs are written")
                trainer = Trainer(self.recipe, self.settings, self.task, self.folder, run)
                listener.compiling(run)
                trainer.prepare()
                self._write_config()
                results.append(trainer.train(listener, interrupt))
                write_json(self.folder.results, [dataclasses.asdict(r) for r in results])
                self.folder.checkpoint(run.name).unlink(missing_ok=True)
        write_report(collect([self.folder.path]), self.folder.path)
        return results

    def _write_config(self) -> None:
        """Write the settings, once they are known to work, and where else they were continued."""
        here = {
            "versions": _versions(self.settings.backend),
            "machine": describe(self.settings.device),
        }
        if not self.folder.config.exists():
            began = {
                "recipe": self.recipe.name,
                "preset": self.preset,
                "settings": dataclasses.asdict(self.settings),
            }
            write_json(self.folder.config, began | here)
            return
        config = self.folder.read_config()
        known = places(config)
        if all(_differ(here, each) for each in known):
            write_json(self.folder.config, config | {"continued": [*known[1:], here]})


def _differ(here: dict[str, Any], there: dict[str, Any]) -> bool:
    machines = [each.get("machine", {}) for each in (here, there)]
    lasting = [{name: each.get(name) for name in MACHINE} for each in machines]
    return lasting[0] != lasting[1] or here["versions"] != there.get("versions")


def _versions(backend: str) -> dict[str, str]:
    packages = {name: metadata.version(name) for name in _VERSIONS[backend]}
    return {"ndereg": ndereg.__version__, "python": platform.python_version(), **packages}
