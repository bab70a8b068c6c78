"""Training with PyTorch: autograd through the solve, `torch.optim`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

import ndereg.torch as nde
from ndereg.experiments.recipe import Batch
from ndereg.experiments.runners import base
from ndereg.models.parameters import Parameters, flatten, unflatten

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
}


class Runner(base.Runner):
    """See :class:`ndereg.experiments.runners.base.Runner`."""

    def start(self, params: Parameters) -> None:
        """Take over ``params`` and begin a new optimizer state."""
        try:
            self.device = torch.device(self.settings.device)
            torch.zeros((), device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"device {self.settings.device!r} is not available to PyTorch: {error}"
            ) from error
        torch.set_num_threads(self.settings.threads)
        self.flat = {
            name: self._tensor(value).requires_grad_() for name, value in flatten(params).items()
        }
        make = OPTIMIZERS[self.settings.optimizer]
        self.optimizer = make(list(self.flat.values()), lr=self.settings.learning_rate)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=self.device)

    def _tensors(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {name: self._tensor(array) for name, array in batch.items()}

    def _backward(self, batch: Batch, weight: float, step: int, key: int) -> base.StepResult:
        params = unflatten(self.flat)
        data = self._tensors(batch)
        y0, context = self.task.encode(params, data)
        sol = nde.solve(
            self.task.field,
            self.task.t_span,
            y0,
            params["field"],
            regularizer=self.regularizer,
            key=key,
            **self.options,
        )
        objective = self.task.loss(params, sol.ys, context, data, step)
        loss = objective + weight * sol.penalty
        self.optimizer.zero_grad()
        loss.backward()
        return base.StepResult(
            loss=loss.item(),
            objective=objective.item(),
            penalty=sol.penalty.item(),
            nfev=int(sol.stats.nfev),
        )

    def warm_up(self, batch: Batch) -> None:
        """Run once what :meth:`step` runs, and change nothing."""
        self._backward(batch, 0.0, 0, 0)

    def step(self, batch: Batch, weight: float, step: int, key: int = 0) -> base.StepResult:
        """Make one optimizer step."""
        result = self._backward(batch, weight, step, key)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(step)
        self.optimizer.step()
        return result

    def _solve(self, batch: Batch, **more: Any) -> tuple[Any, Any]:
        params = unflatten(self.flat)
        y0, context = self.task.encode(params, self._tensors(batch))
        sol = nde.solve(
            self.task.field, self.task.t_span, y0, params["field"], **self.options, **more
        )
        return sol, self.task.decode(params, sol.ys, context)

    @torch.no_grad()
    def predict(self, batch: Batch) -> tuple[np.ndarray, int]:
        """Return the prediction and its number of function evaluations."""
        sol, output = self._solve(batch)
        return output.cpu().numpy(), int(sol.stats.nfev)

    @torch.no_grad()
    def record(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return the solver's attempted steps on this batch."""
        sol, _ = self._solve(batch, record=True)
        return base.recorded(sol.steps)

    def state(self) -> dict[str, np.ndarray]:
        """Return parameters and optimizer state, flat."""
        state = {}
        for name, tensor in self.flat.items():
            state[f"params.{name}"] = tensor.detach().cpu().numpy().copy()
            for key, value in self.optimizer.state.get(tensor, {}).items():
                state[f"optimizer.{key}.{name}"] = value.cpu().numpy().copy()
        return state

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what :meth:`state` returned."""
        with torch.no_grad():
            for name, tensor in self.flat.items():
                tensor.copy_(self._tensor(state[f"params.{name}"]))
                for entry, value in state.items():
                    kind, _, rest = entry.partition(".")
                    key, _, owner = rest.partition(".")
                    if kind == "optimizer" and owner == name:
                        # The step count stays on the host: that is where torch.optim keeps it.
                        saved = torch.tensor(value)
                        self.optimizer.state[tensor][key] = (
                            saved if key == "step" else saved.to(self.device)
                        )
