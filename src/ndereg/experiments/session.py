"""Everything behind one ``ndereg train`` or ``ndereg compare``: a folder, its runs, its report."""

from __future__ import annotations

import dataclasses
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import ndereg
from ndereg.experiments import lookup
from ndereg.experiments.interrupt import Interrupt
from ndereg.experiments.recipe import Recipe, Settings
from ndereg.experiments.report import write_report
from ndereg.experiments.storage import RunFolder, write_json
from ndereg.experiments.training import Listener, Result, Run, Trainer

_VERSIONS = {"numpy": ("numpy", "numba"), "torch": ("torch",), "jax": ("jax", "optax")}


@dataclasses.dataclass(frozen=True)
class Session:
    """A recipe with settings in a folder.

    Runs are trained one after another, never at once, so that their times compare.
    """

    recipe: Recipe
    settings: Settings
    folder: RunFolder

    @classmethod
    def create(cls, recipe: str, path: Path, preset: str = "default", **chosen: Any) -> Session:
        """Begin in a new folder.

        Raises
        ------
        ValueError
            If a setting is wrong or the folder holds something already.
        """
        found = lookup(recipe)
        settings = found.settings(preset, **chosen)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(
                f"expected a new or empty output folder, received {path}; try another --out, or "
                "--resume to continue what is there"
            )
        session = cls(found, settings, RunFolder(path))
        write_json(
            session.folder.config,
            {
                "recipe": recipe,
                "preset": preset,
                "settings": dataclasses.asdict(settings),
                "versions": _versions(settings.backend),
            },
        )
        return session

    @classmethod
    def reopen(cls, recipe: str, path: Path, **chosen: Any) -> Session:
        """Continue in the folder of an earlier session, with its settings.

        Raises
        ------
        ValueError
            If the folder holds no session of this recipe, or one with other settings.
        """
        folder = RunFolder(path)
        config = folder.read_config()
        if config["recipe"] != recipe:
            raise ValueError(f"{path} holds recipe {config['recipe']!r}, received {recipe!r}")
        found = lookup(recipe)
        settings = found.settings(config.get("preset", "default"), **config["settings"])
        for name, value in chosen.items():
            kept = getattr(settings, name, None)
            if kept != (tuple(value) if isinstance(kept, tuple) else value):
                raise ValueError(
                    f"expected the settings of {path}, where {name} is {kept!r}, received "
                    f"{value!r}; leave it out, or start anew with another --out"
                )
        return cls(found, settings, folder)

    @property
    def runs(self) -> list[Run]:
        """All trainings, in order."""
        return [
            Run(name, seed) for seed in self.settings.seeds for name in self.settings.regularizers
        ]

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
        task = self.recipe.task(self.settings)
        results = self.results()
        finished = {(result.regularizer, result.seed) for result in results}
        with Interrupt() as interrupt:
            for run in self.runs:
                if (run.regularizer, run.seed) in finished:
                    continue
                trainer = Trainer(self.recipe, self.settings, task, self.folder, run)
                results.append(trainer.train(listener, interrupt))
                write_json(self.folder.results, [dataclasses.asdict(r) for r in results])
                self.folder.checkpoint(run.name).unlink(missing_ok=True)
        write_report(self.recipe, self.settings, self.folder, results)
        return results


def _versions(backend: str) -> dict[str, str]:
    packages = {name: metadata.version(name) for name in _VERSIONS[backend]}
    return {"ndereg": ndereg.__version__, "python": platform.python_version(), **packages}
