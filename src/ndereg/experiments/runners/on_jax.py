"""Training with JAX: one jitted update, optax."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import optax

import ndereg.jax as nde
from ndereg import Status
from ndereg.experiments.recipe import Batch
from ndereg.experiments.runners import base
from ndereg.models.parameters import Parameters, flatten, unflatten

OPTIMIZERS = {
    "adam": optax.adam,
    "adamax": optax.adamax,
    "momentum": partial(optax.sgd, momentum=0.9),
}


class Runner(base.Runner):
    """See :class:`ndereg.experiments.runners.base.Runner`."""

    def start(self, params: Parameters) -> None:
        """Take over ``params`` and begin a new optimizer state."""
        try:
            self.device = jax.devices(self.settings.device)[0]
        except RuntimeError as error:
            raise ValueError(
                f"device {self.settings.device!r} is not available to JAX: {error}"
            ) from error
        self.tree = jax.device_put(params, self.device)
        self.optimizer = OPTIMIZERS[self.settings.optimizer](self.settings.rate)
        self.optimizer_state = jax.device_put(self.optimizer.init(self.tree), self.device)
        self._update = jax.jit(self._update_of)
        self._predict = jax.jit(self._predict_of)

    def _loss(self, params: Any, batch: Any, weight: Any, step: Any, key: Any) -> tuple[Any, Any]:
        y0, context = self.task.encode(params, batch)
        sol = nde.solve(
            self.task.field,
            self.task.t_span,
            y0,
            params["field"],
            regularizer=self.regularizer,
            key=key,
            throw=False,
            **self.options,
        )
        objective = self.task.loss(params, sol.ys, context, batch, step)
        loss = objective + weight * sol.penalty
        return loss, (objective, sol.penalty, sol.stats.nfev, sol.status)

    def _update_of(
        self, params: Any, state: Any, batch: Any, weight: Any, step: Any, key: Any
    ) -> Any:
        (loss, parts), gradient = jax.value_and_grad(self._loss, has_aux=True)(
            params, batch, weight, step, key
        )
        updates, state = self.optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, (loss, *parts)

    def _advance(
        self, batch: Batch, weight: float, step: int, key: int
    ) -> tuple[Any, Any, base.StepResult]:
        # A key of JAX is traced: an integer would be compiled in, and every step be compiled anew.
        traced = jax.device_put(jax.random.key(key), self.device)
        data = jax.device_put(batch, self.device)
        params, state, parts = self._update(
            self.tree, self.optimizer_state, data, np.float32(weight), np.int32(step), traced
        )
        loss, objective, penalty, nfev, status = jax.device_get(parts)
        _raise_if_failed(status)
        result = base.StepResult(float(loss), float(objective), float(penalty), int(nfev))
        return params, state, result

    def warm_up(self, batch: Batch) -> None:
        """Compile what :meth:`step` runs, and change nothing."""
        self._advance(batch, 0.0, 0, 0)

    def step(self, batch: Batch, weight: float, step: int, key: int = 0) -> base.StepResult:
        """Make one optimizer step."""
        self.tree, self.optimizer_state, result = self._advance(batch, weight, step, key)
        return result

    def _solve(self, params: Any, batch: Any, **more: Any) -> tuple[Any, Any]:
        y0, context = self.task.encode(params, batch)
        sol = nde.solve(
            self.task.field, self.task.t_span, y0, params["field"], **self.options, **more
        )
        return sol, self.task.decode(params, sol.ys, context)

    def _predict_of(self, params: Any, batch: Any) -> tuple[Any, Any, Any]:
        sol, output = self._solve(params, batch, throw=False)
        return output, sol.stats.nfev, sol.status

    def predict(self, batch: Batch) -> tuple[np.ndarray, int]:
        """Return the prediction and its number of function evaluations."""
        results = self._predict(self.tree, jax.device_put(batch, self.device))
        output, nfev, status = jax.device_get(results)
        _raise_if_failed(status)
        return output, int(nfev)

    def record(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return the solver's attempted steps on this batch."""
        sol, _ = self._solve(self.tree, jax.device_put(batch, self.device), record=True)
        return base.recorded(sol.steps)

    def state(self) -> dict[str, np.ndarray]:
        """Return parameters and optimizer state, flat."""
        state = {f"params.{name}": np.asarray(x) for name, x in flatten(self.tree).items()}
        for index, leaf in enumerate(jax.tree.leaves(self.optimizer_state)):
            state[f"optimizer.{index}"] = np.asarray(leaf)
        return state

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what :meth:`state` returned."""
        names = flatten(self.tree)
        params = unflatten({name: state[f"params.{name}"] for name in names})
        self.tree = jax.device_put(params, self.device)
        leaves, structure = jax.tree.flatten(self.optimizer_state)
        saved = [state[f"optimizer.{index}"] for index in range(len(leaves))]
        self.optimizer_state = jax.device_put(jax.tree.unflatten(structure, saved), self.device)


def _raise_if_failed(status: Any) -> None:
    """Report outside the compiled program what could not be raised inside it."""
    found = Status(int(np.asarray(status)))
    if found is not Status.SUCCESS:
        raise RuntimeError(f"{found.name}: {found.message}")
