"""Optimizers for the NumPy backend, which has no framework to take them from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015, Algorithm 1), in the arithmetic of the parameters' dtype.

    With gradient ``g`` at step ``n = 1, 2, ...``::

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        p = p - learning_rate (m / (1 - beta1^n)) / (sqrt(v / (1 - beta2^n)) + epsilon)

    ``epsilon`` stands outside the root and after the bias correction, as in ``torch.optim.Adam``
    and ``optax.adam`` at their defaults.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon : float
        As above.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def init(self, params: Arrays) -> Arrays:
        """Return the state before the first step."""
        state = {"count": np.zeros((), np.int64)}
        for name, value in params.items():
            state[f"mean.{name}"] = np.zeros_like(value)
            state[f"square.{name}"] = np.zeros_like(value)
        return state

    def update(self, gradient: Arrays, state: Arrays, params: Arrays) -> tuple[Arrays, Arrays]:
        """Return the parameters and the state after one step; the arguments are left alone."""
        count = int(state["count"]) + 1
        correction1 = 1.0 - self.beta1**count
        correction2 = math.sqrt(1.0 - self.beta2**count)
        new_state: Arrays = {"count": np.asarray(count, np.int64)}
        new_params: Arrays = {}
        for name, value in params.items():
            g = gradient[name]
            mean = self.beta1 * state[f"mean.{name}"] + (1.0 - self.beta1) * g
            square = self.beta2 * state[f"square.{name}"] + (1.0 - self.beta2) * (g * g)
            scale = np.sqrt(square) / correction2 + self.epsilon
            new_params[name] = value - (self.learning_rate / correction1) * (mean / scale)
            new_state[f"mean.{name}"], new_state[f"square.{name}"] = mean, square
        return new_params, new_state


@dataclass(frozen=True)
class AdaMax:
    """AdaMax (Kingma and Ba 2015, Algorithm 2), in the arithmetic of the parameters' dtype.

    With gradient ``g`` at step ``n = 1, 2, ...``::

        m = beta1 m + (1 - beta1) g
        u = max(beta2 u, |g| + epsilon)
        p = p - learning_rate (m / (1 - beta1^n)) / u

    ``epsilon`` stands with the gradient, as in ``torch.optim.Adamax`` and ``optax.adamax``.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon : float
        As above.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def init(self, params: Arrays) -> Arrays:
        """Return the state before the first step."""
        state = {"count": np.zeros((), np.int64)}
        for name, value in params.items():
            state[f"mean.{name}"] = np.zeros_like(value)
            state[f"largest.{name}"] = np.zeros_like(value)
        return state

    def update(self, gradient: Arrays, state: Arrays, params: Arrays) -> tuple[Arrays, Arrays]:
        """Return the parameters and the state after one step; the arguments are left alone."""
        count = int(state["count"]) + 1
        rate = self.learning_rate / (1.0 - self.beta1**count)
        new_state: Arrays = {"count": np.asarray(count, np.int64)}
        new_params: Arrays = {}
        for name, value in params.items():
            g = gradient[name]
            mean = self.beta1 * state[f"mean.{name}"] + (1.0 - self.beta1) * g
            largest = np.maximum(self.beta2 * state[f"largest.{name}"], np.abs(g) + self.epsilon)
            new_params[name] = value - rate * (mean / largest)
            new_state[f"mean.{name}"], new_state[f"largest.{name}"] = mean, largest
        return new_params, new_state


@dataclass(frozen=True)
class AdaBelief:
    """AdaBelief (Zhuang et al. 2020), in the arithmetic of the parameters' dtype.

    With gradient ``g`` at step ``n = 1, 2, ...``::

        m = beta1 m + (1 - beta1) g
        s = beta2 s + (1 - beta2) (g - m)^2 + epsilon
        p = p - learning_rate (m / (1 - beta1^n)) / (sqrt(s / (1 - beta2^n)) + epsilon)

    as ``optax.adabelief`` has it.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon : float
        As above.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-16

    def init(self, params: Arrays) -> Arrays:
        """Return the state before the first step."""
        state = {"count": np.zeros((), np.int64)}
        for name, value in params.items():
            state[f"mean.{name}"] = np.zeros_like(value)
            state[f"spread.{name}"] = np.zeros_like(value)
        return state

    def update(self, gradient: Arrays, state: Arrays, params: Arrays) -> tuple[Arrays, Arrays]:
        """Return the parameters and the state after one step; the arguments are left alone."""
        count = int(state["count"]) + 1
        rate = self.learning_rate / (1.0 - self.beta1**count)
        new_state: Arrays = {"count": np.asarray(count, np.int64)}
        new_params: Arrays = {}
        for name, value in params.items():
            g = gradient[name]
            mean = self.beta1 * state[f"mean.{name}"] + (1.0 - self.beta1) * g
            missed = g - mean
            spread = self.beta2 * state[f"spread.{name}"] + (1.0 - self.beta2) * (missed * missed)
            spread += self.epsilon
            scale = np.sqrt(spread / (1.0 - self.beta2**count)) + self.epsilon
            new_params[name] = value - rate * (mean / scale)
            new_state[f"mean.{name}"], new_state[f"spread.{name}"] = mean, spread
        return new_params, new_state


@dataclass(frozen=True)
class AdaDelta:
    """Adadelta (Zeiler 2012, arXiv:1212.5701), in the arithmetic of the parameters' dtype.

    With gradient ``g``::

        s = decay s + (1 - decay) g^2
        d = sqrt(u + epsilon) / sqrt(s + epsilon) g
        u = decay u + (1 - decay) d^2
        p = p - learning_rate d

    as ``torch.optim.Adadelta`` and ``optax.adadelta`` have it.

    Parameters
    ----------
    learning_rate, decay, epsilon : float
        As above.
    """

    learning_rate: float = 1.0
    decay: float = 0.9
    epsilon: float = 1e-6

    def init(self, params: Arrays) -> Arrays:
        """Return the state before the first step."""
        state: Arrays = {}
        for name, value in params.items():
            state[f"square.{name}"] = np.zeros_like(value)
            state[f"moved.{name}"] = np.zeros_like(value)
        return state

    def update(self, gradient: Arrays, state: Arrays, params: Arrays) -> tuple[Arrays, Arrays]:
        """Return the parameters and the state after one step; the arguments are left alone."""
        new_state: Arrays = {}
        new_params: Arrays = {}
        for name, value in params.items():
            g, moved = gradient[name], state[f"moved.{name}"]
            square = self.decay * state[f"square.{name}"] + (1.0 - self.decay) * (g * g)
            delta = np.sqrt(moved + self.epsilon) / np.sqrt(square + self.epsilon) * g
            new_params[name] = value - self.learning_rate * delta
            new_state[f"square.{name}"] = square
            new_state[f"moved.{name}"] = self.decay * moved + (1.0 - self.decay) * (delta * delta)
        return new_params, new_state


@dataclass(frozen=True)
class Momentum:
    """Gradient descent with momentum (Polyak 1964), in the arithmetic of the parameters' dtype.

    With gradient ``g``::

        v = momentum v + g
        p = p - learning_rate v

    as ``torch.optim.SGD`` and ``optax.sgd`` have it.

    Parameters
    ----------
    learning_rate, momentum : float
        As above.
    """

    learning_rate: float = 1e-1
    momentum: float = 0.9

    def init(self, params: Arrays) -> Arrays:
        """Return the state before the first step."""
        return {f"velocity.{name}": np.zeros_like(value) for name, value in params.items()}

    def update(self, gradient: Arrays, state: Arrays, params: Arrays) -> tuple[Arrays, Arrays]:
        """Return the parameters and the state after one step; the arguments are left alone."""
        new_state = {
            f"velocity.{name}": self.momentum * state[f"velocity.{name}"] + gradient[name]
            for name in params
        }
        new_params = {
            name: value - self.learning_rate * new_state[f"velocity.{name}"]
            for name, value in params.items()
        }
        return new_params, new_state


OPTIMIZERS = {
    "adam": Adam,
    "adabelief": AdaBelief,
    "adadelta": AdaDelta,
    "adamax": AdaMax,
    "momentum": Momentum,
}
"""By the names that recipes use."""
