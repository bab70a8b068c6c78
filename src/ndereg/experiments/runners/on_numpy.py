"""Training with NumPy and Numba alone: `solve_vjp`, hand-written pullbacks, our own optimizers."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401, loads the BLAS that Numba calls
from threadpoolctl import ThreadpoolController

import ndereg.numpy as nde
from ndereg.experiments.recipe import Batch
from ndereg.experiments.runners import base
from ndereg.models.optimizers import OPTIMIZERS
from ndereg.models.parameters import Parameters, flatten, map_leaves, unflatten

_BLAS = ThreadpoolController().select(user_api="blas")


def find_device(name: str) -> None:
    """Refuse what is not the CPU."""
    if name != "cpu":
        raise ValueError(
            f"backend 'numpy' runs on the cpu, received device {name!r}; try --backend torch or jax"
        )


class Runner(base.Runner):
    """See :class:`ndereg.experiments.runners.base.Runner`."""

    def start(self, params: Parameters) -> None:
        """Take over ``params`` and begin a new optimizer state."""
        find_device(self.settings.device)
        self.flat = flatten(params)
        self.optimizer = OPTIMIZERS[self.settings.optimizer](self.settings.learning_rate)
        self.optimizer_state = self.optimizer.init(self.flat)
        self.mean: dict[str, np.ndarray] = {}
        self.groups: dict[float, list[str]] = {}
        for name in self.flat:
            self.groups.setdefault(abs(self.task.rate(name)), []).append(name)

    def _gradient(
        self, batch: Batch, weight: float, step: int, key: int
    ) -> tuple[base.StepResult, dict[str, np.ndarray]]:
        with _BLAS.limit(limits=self.settings.threads):
            return self._unlimited_gradient(batch, weight, step, key)

    def _unlimited_gradient(
        self, batch: Batch, weight: float, step: int, key: int
    ) -> tuple[base.StepResult, dict[str, np.ndarray]]:
        params = unflatten(self.flat)
        (y0, context), encoder_pullback = self.task.encode_vjp(params, batch)
        sol, pullback = nde.solve_vjp(
            self.task.field,
            self.task.t_span,
            y0,
            self.task.args(params, context),
            regularizer=self.regularizer,
            key=key,
            **self.tolerances,
            **self.options,
        )
        objective, bars = self.task.loss_vjp(params, sol.ys, context, batch, step)
        params_bar, ys_bar, context_bar = bars
        # A mean over the samples, where each has steps and a penalty of its own.
        penalties = np.asarray(sol.penalty)
        penalty_bar = (
            np.full(penalties.shape, weight / penalties.size) if penalties.ndim else weight
        )
        y0_bar, field_bar = pullback(ys_bar, penalty_bar=penalty_bar)
        if self.task.driven:
            context_bar = map_leaves(operator.add, context_bar, field_bar["context"])
            field_bar = field_bar["params"]
        gradient = map_leaves(operator.add, params_bar, encoder_pullback(y0_bar, context_bar))
        gradient["field"] = map_leaves(operator.add, gradient["field"], field_bar)
        penalty = float(np.mean(penalties))
        result = base.StepResult(
            loss=float(objective) + weight * penalty,
            objective=float(objective),
            penalty=penalty,
            nfev=base.evaluations(sol),
        )
        return result, flatten(gradient)

    def warm_up(self, batch: Batch) -> None:
        """Compile what :meth:`launch` runs, and change nothing."""
        self._gradient(batch, 0.0, 0, 0)

    def launch(self, batch: Batch, weight: float, step: int, key: int = 0) -> base.StepResult:
        """Make one optimizer step."""
        result, gradient = self._gradient(batch, weight, step, key)
        if not self.plain:
            gradient = {name: self._directed(name, g) for name, g in gradient.items()}
        flat: dict[str, np.ndarray] = {}
        state: dict[str, np.ndarray] = {}
        for factor, names in self.groups.items():
            rate = factor * self.settings.rate(step)
            optimizer = dataclasses.replace(self.optimizer, learning_rate=rate)
            some = {name: self.flat[name] for name in names}
            moved, about = optimizer.update(gradient, self.optimizer_state, some)
            flat, state = flat | moved, state | about
        constrained = flatten(self.task.constrained(unflatten(flat)))
        self.flat, self.optimizer_state = constrained, state
        return result

    def _directed(self, name: str, gradient: np.ndarray) -> np.ndarray:
        sign = -1 if self.task.rate(name) < 0 else 1
        return sign * gradient + self.settings.weight_decay * self.flat[name]

    def average(self, count: int) -> None:
        """Count the parameters into their mean."""
        if count == 1:
            self.mean = dict(self.flat)
        self.mean = {
            name: mean + (self.flat[name] - mean) / count for name, mean in self.mean.items()
        }

    def _solve(self, batch: Batch, **more: Any) -> tuple[Any, Any]:
        params = unflatten(self.mean or self.flat)
        y0, context = self.task.encode(params, batch)
        field, options = self.task.prediction()
        with _BLAS.limit(limits=self.settings.threads):
            sol = nde.solve(
                field, self.task.t_span, y0, self.task.args(params, context),
                **self.options, **options, **more,
            )  # fmt: skip
            return sol, self.task.decode(params, sol.ys, context)

    def predict(
        self, batch: Batch, rtol: float | None = None, atol: float | None = None
    ) -> tuple[np.ndarray, int]:
        """Return the prediction and its number of function evaluations."""
        chosen = {"rtol": rtol or self.settings.rtol, "atol": atol or self.settings.atol}
        sol, output = self._solve(batch, **chosen)
        return output, base.evaluations(sol)

    def record(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return the solver's attempted steps on this batch."""
        sol, _ = self._solve(batch, record=True, **self.tolerances)
        return base.recorded(sol.steps)

    def state(self) -> dict[str, np.ndarray]:
        """Return parameters and optimizer state, flat."""
        state = {f"params.{name}": value for name, value in self.flat.items()}
        state |= {f"average.{name}": value for name, value in self.mean.items()}
        state |= {f"optimizer.{name}": value for name, value in self.optimizer_state.items()}
        return state

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what :meth:`state` returned."""
        self.flat = {name: state[f"params.{name}"] for name in self.flat}
        self.mean = base.named(state, "average.")
        self.optimizer_state = {name: state[f"optimizer.{name}"] for name in self.optimizer_state}
