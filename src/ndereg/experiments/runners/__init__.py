"""Training steps on each backend, behind one small interface."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ndereg.experiments.recipe import Penalized, Settings, Task
from ndereg.experiments.runners.base import Runner
from ndereg.models.parameters import Parameters


def runner(task: Task, penalized: Penalized, settings: Settings, params: Parameters) -> Runner:
    """Return the runner for ``settings.backend``, starting at ``params``.

    Raises
    ------
    ValueError
        If the backend's framework is not installed.
    """
    return _module(settings.backend).Runner(task, penalized.regularizer, settings, params)


def refuse_absent(settings: Settings) -> None:
    """Refuse a backend whose framework is not installed, and a device that it does not have.

    Raises
    ------
    ValueError
        If there is no such backend or device here.
    """
    _module(settings.backend).find_device(settings.device)


def _module(name: str) -> Any:
    try:
        return import_module(f"ndereg.experiments.runners.on_{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("torch", "jax", "optax"):
            raise
        raise ValueError(
            f"backend {name!r} needs {error.name}; try pip install 'ndereg[{name}]'"
        ) from error
