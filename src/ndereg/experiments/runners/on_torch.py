"""Training with PyTorch: autograd through the solve, `torch.optim`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

import ndereg.torch as nde
from ndereg.experiments.recipe import Batch
from ndereg.experiments.runners import base
from ndereg.experiments.runners.adabelief import AdaBelief
from ndereg.models.parameters import Parameters, flatten, unflatten

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adabelief": AdaBelief,
    "adadelta": torch.optim.Adadelta,
    "adamax": torch.optim.Adamax,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
}


def find_device(name: str) -> torch.device:
    """Return the device of this name."""
    try:
        device = torch.device(name)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {name!r} is not available to PyTorch: {error}; try --device cpu"
        ) from error
    return device


class Runner(base.Runner):
    """See :class:`ndereg.experiments.runners.base.Runner`."""

    def start(self, params: Parameters) -> None:
        """Take over ``params`` and begin a new optimizer state."""
        self.device = find_device(self.settings.device)
        torch.set_num_threads(self.settings.threads)
        self.asynchronous = self.device.type != "cpu"
        self.flat = {
            name: self._tensor(value).requires_grad_() for name, value in flatten(params).items()
        }
        self.mean: dict[str, torch.Tensor] = {}
        groups: dict[float, dict[str, Any]] = {}
        for name, tensor in self.flat.items():
            factor = abs(self.task.rate(name))
            group = groups.setdefault(factor, {"params": [], "factor": factor})
            group["params"].append(tensor)
        make = OPTIMIZERS[self.settings.optimizer]
        self.optimizer = make(list(groups.values()), lr=self.settings.learning_rate)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=self.device)

    def place(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return tensors on the device; on the CPU they share the arrays' memory."""
        return {name: torch.as_tensor(value, device=self.device) for name, value in batch.items()}

    def rows(self, data: Any, indices: np.ndarray, draws: Batch) -> Any:
        """Return the batch of some rows of ``data``; only indices and draws are moved."""
        chosen = torch.as_tensor(indices, device=self.device)
        return {name: value[chosen] for name, value in data.items()} | self.place(draws)

    def _backward(self, batch: Any, weight: float, step: int, key: int) -> tuple[Any, int]:
        params = unflatten(self.flat)
        data = self.place(batch)
        y0, context = self.task.encode(params, data)
        sol = nde.solve(
            self.task.field,
            self.task.t_span,
            y0,
            self.task.args(params, context),
            regularizer=self.regularizer,
            key=key,
            **self.tolerances,
            **self.options,
        )
        objective = self.task.loss(params, sol.ys, context, data, step)
        penalty = sol.penalty.to(objective.dtype).mean()
        loss = objective + weight * penalty
        self.optimizer.zero_grad()
        loss.backward()
        numbers = torch.stack([loss, objective, penalty]).detach()
        return numbers, base.evaluations(sol)

    def warm_up(self, batch: Any) -> None:
        """Run once what :meth:`launch` runs, and change nothing."""
        self._backward(batch, 0.0, 0, 0)

    def launch(self, batch: Any, weight: float, step: int, key: int = 0) -> tuple[Any, int]:
        """Make one optimizer step."""
        launched = self._backward(batch, weight, step, key)
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * self.settings.rate(step)
        with torch.no_grad():
            if not self.plain:
                self._direct()
            self.optimizer.step()
            constrained = flatten(self.task.constrained(unflatten(self.flat)))
            for name, tensor in self.flat.items():
                if constrained[name] is not tensor:
                    tensor.copy_(constrained[name])
        return launched

    def _direct(self) -> None:
        for name, tensor in self.flat.items():
            if tensor.grad is not None:
                if self.task.rate(name) < 0:
                    tensor.grad.neg_()
                tensor.grad.add_(tensor, alpha=self.settings.weight_decay)

    @torch.no_grad()
    def average(self, count: int) -> None:
        """Count the parameters into their mean."""
        if count == 1:
            self.mean = {name: tensor.detach().clone() for name, tensor in self.flat.items()}
        for name, mean in self.mean.items():
            mean.add_((self.flat[name] - mean) / count)

    def fetch(self, launched: Sequence[Any]) -> list[base.StepResult]:
        """Return the results of the steps; on a GPU their losses are waited for here."""
        return [base.StepResult(*numbers.tolist(), nfev) for numbers, nfev in launched]

    def _solve(self, batch: Any, **more: Any) -> tuple[Any, Any]:
        params = unflatten(self.mean or self.flat)
        y0, context = self.task.encode(params, self.place(batch))
        field, options = self.task.prediction()
        sol = nde.solve(
            field, self.task.t_span, y0, self.task.args(params, context),
            **self.options, **options, **more,
        )  # fmt: skip
        return sol, self.task.decode(params, sol.ys, context)

    @torch.no_grad()
    def predict(
        self, batch: Any, rtol: float | None = None, atol: float | None = None
    ) -> tuple[np.ndarray, int]:
        """Return the prediction and its number of function evaluations."""
        chosen = {"rtol": rtol or self.settings.rtol, "atol": atol or self.settings.atol}
        sol, output = self._solve(batch, **chosen)
        return output.cpu().numpy(), base.evaluations(sol)

    @torch.no_grad()
    def record(self, batch: Any) -> dict[str, np.ndarray]:
        """Return the solver's attempted steps on this batch."""
        sol, _ = self._solve(batch, record=True, **self.tolerances)
        return base.recorded(sol.steps)

    def state(self) -> dict[str, np.ndarray]:
        """Return parameters and optimizer state, flat."""
        state = {}
        for name, tensor in self.flat.items():
            state[f"params.{name}"] = tensor.detach().cpu().numpy().copy()
            for key, value in self.optimizer.state.get(tensor, {}).items():
                state[f"optimizer.{key}.{name}"] = value.cpu().numpy().copy()
        state |= {f"average.{name}": mean.cpu().numpy().copy() for name, mean in self.mean.items()}
        return state

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what :meth:`state` returned."""
        mean = base.named(state, "average.")
        self.mean = {name: self._tensor(value) for name, value in mean.items()}
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
