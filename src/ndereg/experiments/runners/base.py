"""The interface between the training loop and a backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndereg.experiments.recipe import Batch, Settings, Task
from ndereg.models.parameters import Parameters
from ndereg.spec.regularizer import Regularizer


@dataclass(frozen=True)
class StepResult:
    """One optimizer step: the differentiated loss, its two parts, the forward evaluations."""

    loss: float
    objective: float
    penalty: float
    nfev: int


class Runner(ABC):
    """Holds parameters and optimizer state on one backend, and moves them.

    Parameters
    ----------
    task : Task
        What is trained.
    regularizer : Regularizer or None
        What the solve returns as its penalty.
    settings : Settings
        Method, tolerances, learning rate, device.
    params : Parameters
        Initial values, NumPy arrays.
    """

    def __init__(
        self, task: Task, regularizer: Regularizer | None, settings: Settings, params: Parameters
    ) -> None:
        self.task = task
        self.regularizer = regularizer
        self.settings = settings
        self.options: dict[str, Any] = {
            "method": settings.method,
            "rtol": settings.rtol,
            "atol": settings.atol,
            **task.solve_options(),
        }
        self.start(params)

    @abstractmethod
    def start(self, params: Parameters) -> None:
        """Take over ``params`` and begin a new optimizer state."""

    @abstractmethod
    def warm_up(self, batch: Batch) -> None:
        """Compile what :meth:`step` runs, and change nothing."""

    @abstractmethod
    def step(self, batch: Batch, weight: float, step: int, key: int = 0) -> StepResult:
        """Make optimizer step number ``step`` on ``objective + weight * penalty``.

        ``key``, an integer below 2**31, is what the solve's random choices are made from.
        """

    @abstractmethod
    def predict(self, batch: Batch) -> tuple[np.ndarray, int]:
        """Return the prediction and its number of function evaluations, one solve for the batch."""

    @abstractmethod
    def record(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return the solver's attempted steps on this batch: t, h, error, stiffness, accepted."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Return parameters (names starting with ``params.``) and optimizer state, flat."""

    @abstractmethod
    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what :meth:`state` returned."""

    def params(self) -> dict[str, np.ndarray]:
        """Return the parameters by their dotted names."""
        start = "params."
        return {k[len(start) :]: v for k, v in self.state().items() if k.startswith(start)}


def recorded(steps: Any) -> dict[str, np.ndarray]:
    """Return ``sol.steps`` of any framework as NumPy arrays."""
    names = ("t", "h", "error", "stiffness", "accepted")
    return {name: np.asarray(getattr(steps, name)) for name in names}
