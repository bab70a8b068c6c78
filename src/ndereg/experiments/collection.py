"""Runs of one experiment, from one output folder or from several.

Trainings of different rows, weights and seeds may run at once, each into a folder of its own; here
their results come together again.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndereg.experiments import experiment
from ndereg.experiments.options import OPTIONS, written_setting
from ndereg.experiments.recipe import Recipe, Settings
from ndereg.experiments.storage import RunFolder
from ndereg.experiments.study import Outcome, Study, StudySettings
from ndereg.experiments.summary import row_names
from ndereg.experiments.training import Result

FREE = ("regularizers", "weights", "seeds", "epochs", "steps", "evaluate_every", "threads", "data",
        "rows")  # fmt: skip
"""Settings in which the folders of one experiment may differ. How long was trained and on how much
is compared by the steps and the samples of the results."""


MACHINE = ("device", "processor", "cores")
"""What makes a machine another one; how busy it was does not."""


@dataclass(frozen=True)
class Collection:
    """Results of one experiment.

    Parameters
    ----------
    recipe : Recipe or Study
    settings : Settings or StudySettings
        Of the first folder; the others agree but for :data:`FREE`.
    results : tuple of Result or of Outcome
        Of all finished runs.
    records : tuple of dict
        The lines of ``metrics.jsonl`` of all runs, with the ``row`` of the table they belong to.
    commands : tuple of str
        What trained the runs, a command for every folder.
    machines : tuple of dict
        What they ran on, each once.
    versions : dict
        Of the packages.
    """

    recipe: Recipe | Study
    settings: Settings | StudySettings
    results: tuple[Any, ...]
    records: tuple[dict[str, Any], ...] = ()
    commands: tuple[str, ...] = ()
    machines: tuple[dict[str, Any], ...] = ()
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)


def collect(folders: Sequence[Path]) -> Collection:
    """Read the finished runs of output folders.

    Raises
    ------
    ValueError
        If a folder is not one of an experiment, if they are not of the same one, if two hold the
        same run, or if one holds no finished run.
    """
    if not folders:
        raise ValueError("expected at least one output folder, received none")
    opened = [RunFolder(path) for path in folders]
    configs = [folder.read_config() for folder in opened]
    recipe = experiment(configs[0]["recipe"])
    settings = [
        _settings(recipe, config, folder) for config, folder in zip(configs, opened, strict=True)
    ]
    for folder, other in zip(folders[1:], settings[1:], strict=True):
        _refuse_difference(folders[0], settings[0], folder, other)
    found = [folder.read_results() for folder in opened]
    if idle := [path for path, results in zip(folders, found, strict=True) if not results]:
        raise ValueError(
            f"expected a finished run in {', '.join(map(str, idle))}, received none; try --resume "
            "to finish what is there, or a report without it"
        )
    pairs = [
        (path, _result(recipe, chosen, result))
        for path, chosen, results in zip(folders, settings, found, strict=True)
        for result in results
    ]
    _refuse_mixture(pairs)
    results = tuple(result for _, result in pairs)
    whereabouts = [place for config in configs for place in places(config)]
    return Collection(
        recipe=recipe,
        settings=settings[0],
        results=results,
        records=_records(recipe, opened, settings, results),
        commands=tuple(dict.fromkeys(map(command, configs))),
        machines=_machines(place["machine"] for place in whereabouts if "machine" in place),
        versions=_versions(place.get("versions", {}) for place in whereabouts),
    )


def places(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return machine and versions of every session in a folder: of the first, and where it went on.

    Sessions on the same machine with the same versions are one.
    """
    began = {name: config[name] for name in ("versions", "machine") if name in config}
    return [began, *config.get("continued", ())]


def _machines(found: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Return each machine once, as it was first."""
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    for machine in found:
        kept.setdefault(tuple(machine.get(name) for name in MACHINE), machine)
    return tuple(kept.values())


def _versions(found: Iterable[Mapping[str, str]]) -> dict[str, str]:
    several: dict[str, dict[str, None]] = {}
    for versions in found:
        for name, version in versions.items():
            several.setdefault(name, {})[version] = None
    return {name: " and ".join(versions) for name, versions in several.items()}


def _records(
    recipe: Recipe | Study,
    folders: Sequence[RunFolder],
    settings: Sequence[Any],
    results: Sequence[Any],
) -> tuple[dict[str, Any], ...]:
    """Return the lines of ``metrics.jsonl``, with the row of the table that they belong to."""
    if isinstance(recipe, Study):
        return tuple(record for folder in folders for record in folder.read_metrics())
    names = row_names([(result.regularizer, result.weight) for result in results])
    weights = [
        {name: recipe.written_weight(chosen, name) for name in recipe.regularizers}
        for chosen in settings
    ]
    return tuple(
        record | {"row": name}
        for folder, written in zip(folders, weights, strict=True)
        for record in folder.read_metrics()
        if (name := names.get((record["regularizer"], written[record["regularizer"]])))
    )


def command(config: Mapping[str, Any]) -> str:
    """Return the command that trains with the settings of a ``config.json``.

    Examples
    --------
    >>> settings = {"seeds": [3, 4], "regularizers": ["error"], "weights": {"error": "5:1"}}
    >>> command({"recipe": "digits", "preset": "default", "settings": settings})
    'ndereg compare digits --regularizers error --weight error=5:1 --seed 3 --seeds 2'
    """
    recipe, preset = experiment(config["recipe"]), config.get("preset", "default")
    default: Any = recipe.settings(preset)
    words = ["ndereg", "compare", recipe.name]
    words += [] if preset == "default" else ["--preset", preset]
    chosen = {name: config["settings"].get(name) for name in vars(default)}
    if isinstance(recipe, Study):
        pass
    elif chosen["steps"] is None and default.steps is None:
        del chosen["steps"]
    else:  # one of the two says how long
        del chosen["epochs" if chosen["steps"] is not None else "steps"]
    for name, value in chosen.items():
        if name not in config["settings"] or _plain(getattr(default, name)) == _plain(value):
            continue
        if name == "weights":
            others = chosen.get("schedule", default.schedule) != default.schedule
            given = {k: w for k, w in value.items() if others or default.weights.get(k) != w}
            words += [word for k, w in given.items() for word in ("--weight", f"{k}={w}")]
        elif name == "seeds":
            words += ["--seed", str(value[0])] if value[0] else []
            words += ["--seeds", str(len(value))] if len(value) > 1 else []
        elif name in ("regularizers", "rows"):
            words += [f"--{name}", ",".join(value)]
        elif name == "data":
            words += ["--data", Path(value).name]
        elif value is not None or name not in OPTIONS:
            words += written_setting(name, value)
    return shlex.join(words)


def _result(recipe: Recipe | Study, settings: Any, written: dict[str, Any]) -> Result | Outcome:
    """Return a result; before results named their weight, the settings did."""
    if isinstance(recipe, Study):
        return Outcome(**written)
    result = Result(**written)
    weight = result.weight or recipe.written_weight(settings, result.regularizer)
    return dataclasses.replace(result, weight=weight)


def _settings(
    recipe: Recipe | Study, config: Mapping[str, Any], folder: RunFolder
) -> Settings | StudySettings:
    if config["recipe"] != recipe.name:
        raise ValueError(
            f"expected folders of one experiment, received {recipe.name!r} and, in {folder.path}, "
            f"{config['recipe']!r}; try a report for each"
        )
    return recipe.settings(config.get("preset", "default"), **config["settings"])


def _refuse_difference(first: Path, ours: Any, path: Path, theirs: Any) -> None:
    for name, value in vars(ours).items():
        other = getattr(theirs, name)
        if name not in FREE and value != other:
            raise ValueError(
                f"expected folders of one experiment, received {name}={value!r} in {first} and "
                f"{other!r} in {path}; try a report for each"
            )


def _refuse_mixture(pairs: Sequence[tuple[Path, Result | Outcome]]) -> None:
    """Refuse runs of different lengths or data, and runs that are there twice."""
    first_path, first = pairs[0]
    seen: dict[tuple[Any, ...], Path] = {}
    for path, result in pairs:
        if isinstance(result, Outcome):
            name, run = result.row, (result.row, result.seed)
        else:
            _refuse_lengths(first_path, first, path, result)
            name, run = result.regularizer, (result.regularizer, result.weight, result.seed)
        if run in seen:
            raise ValueError(
                f"expected every run once, received {name!r} with seed {result.seed} "
                f"in {seen[run]} and in {path}; try leaving one of them out"
            )
        seen[run] = path


def _refuse_lengths(first_path: Path, first: Any, path: Path, result: Result) -> None:
    for name in ("steps", "samples"):
        if getattr(result, name) != getattr(first, name):
            raise ValueError(
                f"expected runs of one length on the same data, received {name} "
                f"{getattr(first, name)} in {first_path} and {getattr(result, name)} in "
                f"{path}; try a report for each"
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
