"""The interface between the training loop and a backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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

    Wherever a batch is expected, one of NumPy arrays is moved to the device, and one that
    :meth:`place` or :meth:`rows` returned is there already.

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

    asynchronous = False
    """Whether a step is still running when :meth:`launch` returns."""

    def __init__(
        self, task: Task, regularizer: Regularizer | None, settings: Settings, params: Parameters
    ) -> None:
        self.task = task
        self.regularizer = regularizer
        self.settings = settings
        self.options: dict[str, Any] = {"method": settings.method, **task.solve_options()}
        self.start(params)

    @property
    def tolerances(self) -> dict[str, float]:
        """The tolerances of the training, as keywords of the solve."""
        return {"rtol": self.settings.rtol, "atol": self.settings.atol}

    @abstractmethod
    def start(self, params: Parameters) -> None:
        """Take over ``params`` and begin a new optimizer state."""

    def place(self, batch: Batch) -> Any:
        """Return arrays where the solves run."""
        return batch

    def rows(self, data: Any, indices: np.ndarray, draws: Batch) -> Any:
        """Return the batch of some rows of ``data``, which is placed, and ``draws`` beside them."""
        return {name: array[indices] for name, array in data.items()} | draws

    @abstractmethod
    def warm_up(self, batch: Any) -> None:
        """Compile what :meth:`launch` runs, and change nothing."""

    @abstractmethod
    def launch(self, batch: Any, weight: float, step: int, key: int = 0) -> Any:
        """Make optimizer step number ``step`` on ``objective + weight * penalty``.

        ``key``, an integer below 2**31, is what the solve's random choices are made from. Returns
        what :meth:`fetch` makes a result of; where that is on a device, nothing waits for it.
        """

    def fetch(self, launched: Sequence[Any]) -> list[StepResult]:
        """Return the results of launched steps, when they are there.

        Raises
        ------
        RuntimeError
            If a solve failed.
        """
        return list(launched)

    def step(self, batch: Any, weight: float, step: int, key: int = 0) -> StepResult:
        """Make one optimizer step and wait for its result."""
        return self.fetch([self.launch(batch, weight, step, key)])[0]

    @abstractmethod
    def average(self, count: int) -> None:
        """Count the parameters into their mean over ``count`` steps, as the last of them.

        The model that predicts is from then on the one of the mean.
        """

    @abstractmethod
    def predict(
        self, batch: Any, rtol: float | None = None, atol: float | None = None
    ) -> tuple[np.ndarray, int]:
        """Return the prediction and its number of function evaluations, one solve for the batch.

        Without tolerances, at those of the training.
        """

    @abstractmethod
    def record(self, batch: Any) -> dict[str, np.ndarray]:
        """Return the solver's attempted steps on this batch: t, h, error, stiffness, accepted."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Return parameters, their mean and the optimizer's state, flat.

        Names start with ``params.``, with ``average.`` if there is one, and with ``optimizer.``
        """

    @abstractmethod
    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what :meth:`state` returned."""

    def params(self) -> dict[str, np.ndarray]:
        """Return the parameters of the model by their dotted names."""
        state = self.state()
        return named(state, "average.") or named(state, "params.")

    @property
    def plain(self) -> bool:
        """Whether all parameters descend the loss alike, and gradients are what they are."""
        return not self.task.rates and not self.settings.weight_decay


def named(state: Mapping[str, np.ndarray], start: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin with ``start``, by what follows."""
    return {name[len(start) :]: x for name, x in state.items() if name.startswith(start)}


def evaluations(sol: Any) -> int:
    """Return the evaluations of a solve; of samples with steps of their own, their mean."""
    nfev = sol.stats.nfev
    return round(float(np.mean(nfev.tolist()))) if hasattr(nfev, "tolist") else int(nfev)


def recorded(steps: Any) -> dict[str, np.ndarray]:
    """Return ``sol.steps`` of any framework as NumPy arrays.

    Where samples have steps of their own, it is the first one's.
    """
    names = ("t", "h", "error", "stiffness", "accepted")
    found = {name: np.asarray(getattr(steps, name)) for name in names}
    if found["h"].ndim == 1:
        return found
    first = {name: values[:, 0] for name, values in found.items()}
    made = ~np.isnan(first["h"])
    return {name: values[made] for name, values in first.items()}
