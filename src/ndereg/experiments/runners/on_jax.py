"""Training with JAX: one jitted update, optax."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ndereg.jax as nde
from ndereg import Status
from ndereg.experiments.recipe import Batch
from ndereg.experiments.runners import base
from ndereg.models.parameters import Parameters, flatten, map_leaves, unflatten

OPTIMIZERS = {
    "adam": optax.adam,
    "adabelief": optax.adabelief,
    "adadelta": optax.adadelta,
    "adamax": optax.adamax,
    "momentum": partial(optax.sgd, momentum=0.9),
}


def find_device(name: str) -> Any:
    """Return the device of this name."""
    try:
        return jax.devices(name)[0]
    except RuntimeError as error:
        raise ValueError(
            f"device {name!r} is not available to JAX: {error}; try --device cpu"
        ) from error


class Runner(base.Runner):
    """See :class:`ndereg.experiments.runners.base.Runner`.

    The training data stay on the device, a step is dispatched without waiting for the one before,
    and its numbers come back when they are asked for, in two arrays.
    """

    asynchronous = True

    def start(self, params: Parameters) -> None:
        """Take over ``params`` and begin a new optimizer state."""
        self.device = find_device(self.settings.device)
        self.tree = jax.device_put(params, self.device)
        self.optimizer = OPTIMIZERS[self.settings.optimizer](self.settings.rate)
        self.optimizer_state = jax.device_put(self.optimizer.init(self.tree), self.device)
        self.mean: Any = None
        self.rates = unflatten({name: self.task.rate(name) for name in flatten(params)})
        self._update = jax.jit(self._update_of)
        self._average = jax.jit(_averaged)
        self._predict = jax.jit(self._predict_of)
        self._take = jax.jit(_take)

    def place(self, batch: Batch) -> Any:
        """Return arrays on the device."""
        return jax.device_put(batch, self.device)

    def rows(self, data: Any, indices: np.ndarray, draws: Batch) -> Any:
        """Return the batch of some rows of ``data``; only indices and draws are moved."""
        return self._take(data, indices) | draws

    def _loss(self, params: Any, batch: Any, weight: Any, step: Any, key: Any) -> tuple[Any, Any]:
        y0, context = self.task.encode(params, batch)
        sol = nde.solve(
            self.task.field,
            self.task.t_span,
            y0,
            self.task.args(params, context),
            regularizer=self.regularizer,
            key=key,
            throw=False,
            **self.tolerances,
            **self.options,
        )
        objective = self.task.loss(params, sol.ys, context, batch, step)
        penalty = jnp.mean(jnp.asarray(sol.penalty, objective.dtype))
        loss = objective + weight * penalty
        return loss, (jnp.stack([loss, objective, penalty]), _numbers(sol))

    def _update_of(
        self, params: Any, state: Any, batch: Any, weight: Any, step: Any, seed: Any
    ) -> Any:
        # The key is made here, of a traced integer: made outside, it would be a dispatch more, and
        # a plain integer would be compiled in and every step be compiled anew.
        key = jax.random.key(seed)
        (_, numbers), gradient = jax.value_and_grad(self._loss, has_aux=True)(
            params, batch, weight, step, key
        )
        if not self.plain:
            gradient = map_leaves(self._directed, gradient, params, self.rates)
        updates, state = self.optimizer.update(gradient, state, params)
        if self.task.rates:
            updates = map_leaves(lambda update, rate: abs(rate) * update, updates, self.rates)
        moved = self.task.constrained(optax.apply_updates(params, updates))
        return moved, state, numbers

    def _directed(self, gradient: Any, value: Any, rate: float) -> Any:
        return (-1 if rate < 0 else 1) * gradient + self.settings.weight_decay * value

    def _advance(self, batch: Any, weight: float, step: int, key: int) -> tuple[Any, Any, Any]:
        # Arrays that are placed and arrays that are not would be compiled for separately.
        if any(isinstance(array, np.ndarray) for array in batch.values()):
            batch = self.place(batch)
        scalars = np.float32(weight), np.int32(step), np.int32(key)
        return self._update(self.tree, self.optimizer_state, batch, *scalars)

    def warm_up(self, batch: Any) -> None:
        """Compile what :meth:`launch` runs, and change nothing."""
        self.fetch([self._advance(batch, 0.0, 0, 0)[2]])

    def launch(self, batch: Any, weight: float, step: int, key: int = 0) -> Any:
        """Dispatch one optimizer step."""
        self.tree, self.optimizer_state, numbers = self._advance(batch, weight, step, key)
        return numbers

    def average(self, count: int) -> None:
        """Count the parameters into their mean."""
        self.mean = self._average(self.tree if count == 1 else self.mean, self.tree, count)

    def fetch(self, launched: Sequence[Any]) -> list[base.StepResult]:
        """Return the results of dispatched steps, when they are there."""
        results = []
        for numbers, (nfev, status) in jax.device_get(list(launched)):
            _raise_if_failed(status)
            results.append(base.StepResult(*map(float, numbers), int(nfev)))
        return results

    def _solve(self, params: Any, batch: Any, **more: Any) -> tuple[Any, Any]:
        y0, context = self.task.encode(params, batch)
        field, options = self.task.prediction()
        sol = nde.solve(
            field, self.task.t_span, y0, self.task.args(params, context),
            **self.options, **options, **more,
        )  # fmt: skip
        return sol, self.task.decode(params, sol.ys, context)

    def _predict_of(self, params: Any, batch: Any, rtol: Any, atol: Any) -> tuple[Any, Any, Any]:
        sol, output = self._solve(params, batch, rtol=rtol, atol=atol, throw=False)
        return output, *_numbers(sol)

    def predict(
        self, batch: Any, rtol: float | None = None, atol: float | None = None
    ) -> tuple[np.ndarray, int]:
        """Return the prediction and its number of function evaluations."""
        chosen = (rtol or self.settings.rtol, atol or self.settings.atol)
        results = self._predict(self._model(), self.place(batch), *map(np.float32, chosen))
        output, nfev, status = jax.device_get(results)
        _raise_if_failed(status)
        return output, int(nfev)

    def record(self, batch: Any) -> dict[str, np.ndarray]:
        """Return the solver's attempted steps on this batch."""
        sol, _ = self._solve(self._model(), self.place(batch), record=True, **self.tolerances)
        return base.recorded(sol.steps)

    def _model(self) -> Any:
        return self.tree if self.mean is None else self.mean

    def state(self) -> dict[str, np.ndarray]:
        """Return parameters and optimizer state, flat."""
        state = {f"params.{name}": np.asarray(x) for name, x in flatten(self.tree).items()}
        if self.mean is not None:
            state |= {f"average.{name}": np.asarray(x) for name, x in flatten(self.mean).items()}
        for index, leaf in enumerate(jax.tree.leaves(self.optimizer_state)):
            state[f"optimizer.{index}"] = np.asarray(leaf)
        return state

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what :meth:`state` returned."""
        names = flatten(self.tree)
        params = unflatten({name: state[f"params.{name}"] for name in names})
        self.tree = jax.device_put(params, self.device)
        mean = base.named(state, "average.")
        self.mean = jax.device_put(unflatten(mean), self.device) if mean else None
        leaves, structure = jax.tree.flatten(self.optimizer_state)
        saved = [state[f"optimizer.{index}"] for index in range(len(leaves))]
        self.optimizer_state = jax.device_put(jax.tree.unflatten(structure, saved), self.device)


def _numbers(sol: Any) -> Any:
    """Return evaluations and status; of samples with steps of their own, mean and worst."""
    nfev = jnp.round(jnp.mean(jnp.asarray(sol.stats.nfev, jnp.float32))).astype(jnp.int32)
    return jnp.stack([nfev, jnp.max(jnp.asarray(sol.status, jnp.int32))])


def _averaged(mean: Any, params: Any, count: Any) -> Any:
    return jax.tree.map(lambda average, value: average + (value - average) / count, mean, params)


def _take(data: Any, indices: Any) -> Any:
    return {name: array[indices] for name, array in data.items()}


def _raise_if_failed(status: Any) -> None:
    """Report outside the compiled program what could not be raised inside it."""
    found = Status(int(np.asarray(status)))
    if found is not Status.SUCCESS:
        raise RuntimeError(f"{found.name}: {found.message}")
