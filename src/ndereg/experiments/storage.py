"""What a run leaves on disk. A file is either the old one or the new one, never half of one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from ndereg.models.atomic import write_bytes


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Replace ``path`` by a safetensors file of ``arrays``, ``about`` as JSON in its header."""
    metadata = {name: json.dumps(value) for name, value in about.items()}
    plain = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    write_bytes(path, safetensors.numpy.save(plain, metadata))


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what :func:`write_arrays` wrote.

    Raises
    ------
    ValueError
        If the file is not a safetensors file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        return arrays, {name: json.loads(value) for name, value in metadata.items()}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"expected a safetensors file, received {path}: {error}") from error


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The output folder of one ``train`` or ``compare``.

    ========================  ==================================================================
    ``config.json``           recipe, settings, versions
    ``metrics.jsonl``         a line for every epoch of every run
    ``results.json``          what the table shows, for every finished run
    ``checkpoints/``          parameters, optimizer state and progress of every unfinished run
    ``models/``               trained parameters
    ``report.html``, ``*.png``  the report
    ========================  ==================================================================
    """

    path: Path

    @property
    def config(self) -> Path:
        """Where the settings are."""
        return self.path / "config.json"

    @property
    def results(self) -> Path:
        """Where the finished runs are."""
        return self.path / "results.json"

    @property
    def metrics(self) -> Path:
        """Where the epochs are."""
        return self.path / "metrics.jsonl"

    @property
    def report(self) -> Path:
        """Where the report is."""
        return self.path / "report.html"

    def checkpoint(self, run: str) -> Path:
        """Where the unfinished run is."""
        return self.path / "checkpoints" / f"{run}.safetensors"

    def model(self, run: str) -> Path:
        """Where the trained parameters are."""
        return self.path / "models" / f"{run}.safetensors"

    def read_config(self, otherwise: str = "check the path") -> dict[str, Any]:
        """Read ``config.json``; ``otherwise`` is what a user may try if there is none.

        Raises
        ------
        ValueError
            If this is not the folder of a run.
        """
        try:
            config = json.loads(self.config.read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(
                f"expected the output folder of an earlier run, received {self.path}: it has no "
                f"config.json; {otherwise}"
            ) from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.config} is damaged: {error}") from None
        if not isinstance(config, dict) or "recipe" not in config or "settings" not in config:
            raise ValueError(f"expected recipe and settings in {self.config}")
        return config

    def read_results(self) -> list[dict[str, Any]]:
        """Read the finished runs; none if there is no file yet."""
        return json.loads(self.results.read_text()) if self.results.exists() else []

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read all epochs; none if there is no file yet."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text().splitlines()]

    def write_metrics(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Replace all epochs.

        The file is rewritten, not appended to, so that it agrees with the checkpoint written next.
        """
        write_bytes(self.metrics, "".join(json.dumps(r) + "\n" for r in records).encode())
