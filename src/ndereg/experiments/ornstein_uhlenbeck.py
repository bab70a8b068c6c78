"""Ornstein-Uhlenbeck processes, exactly: trajectories, moments, likelihoods.

The equation is linear and its noise does not depend on the state, so that all of them are known in
closed form and nothing here is solved in steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OrnsteinUhlenbeck:
    """``dx = (trend t - rate x) dt + (volatility + growth t) dW``.

    Parameters
    ----------
    rate : float
        Positive.
    volatility, trend, growth : float
        As above.

    Examples
    --------
    >>> process = OrnsteinUhlenbeck(rate=1.0, volatility=0.5)
    >>> mean, covariance = process.law(np.array([0.0, 50.0]), mean=1.0, variance=0.0)
    >>> covariance[1, 1].round(12)  # of the stationary law, volatility^2 / (2 rate)
    np.float64(0.125)
    """

    rate: float
    volatility: float
    trend: float = 0.0
    growth: float = 0.0

    def transition(self, t: float, h: float) -> tuple[float, float, float]:
        """Return ``(decay, shift, variance)``: x(t + h) is normal with mean ``decay x(t) + shift``.

        By parts, ``I_n = ∫ u^n exp(-k (h - u)) du`` over [0, h] is ``(h^n - n I_{n-1}) / k``.
        """
        first, second = _moments(self.rate, h), _moments(2.0 * self.rate, h)
        shift = self.trend * (t * first[0] + first[1])
        now, slope = self.volatility + self.growth * t, self.growth
        variance = now**2 * second[0] + 2.0 * now * slope * second[1] + slope**2 * second[2]
        return math.exp(-self.rate * h), shift, variance

    def trajectories(
        self, times: np.ndarray, start: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        """Return trajectories from ``start`` (N,) at ``times[0]``, shape (N, T)."""
        states = [start]
        for t, h in zip(times[:-1], np.diff(times), strict=True):
            decay, shift, variance = self.transition(float(t), float(h))
            noise = random.standard_normal(len(start))
            states.append(decay * states[-1] + shift + math.sqrt(variance) * noise)
        return np.stack(states, axis=1)

    def law(self, times: np.ndarray, mean: float, variance: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean (T,) and covariance (T, T) of a process that starts normal.

        Parameters
        ----------
        times : array, shape (T,)
        mean, variance : float
            At ``times[0]``.
        """
        means = np.full(len(times), float(mean))
        covariance = np.empty((len(times), len(times)))
        covariance[0, 0] = variance
        for i in range(1, len(times)):
            before = float(times[i - 1])
            decay, shift, added = self.transition(before, float(times[i]) - before)
            means[i] = decay * means[i - 1] + shift
            covariance[i, :i] = covariance[:i, i] = decay * covariance[i - 1, :i]
            covariance[i, i] = decay**2 * covariance[i - 1, i - 1] + added
        return means, covariance


def log_density(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the logarithm of a normal density, (N,), at the rows of ``x`` (N, T)."""
    factor = np.linalg.cholesky(covariance)
    whitened = np.linalg.solve(factor, (x - mean).T)
    constant = len(mean) * math.log(2.0 * math.pi) + 2.0 * np.sum(np.log(np.diag(factor)))
    return -0.5 * (np.sum(np.square(whitened), axis=0) + constant)


def _moments(k: float, h: float) -> tuple[float, float, float]:
    """Return ``∫ u^n exp(-k (h - u)) du`` over [0, h] for n = 0, 1, 2."""
    zeroth = -math.expm1(-k * h) / k
    first = (h - zeroth) / k
    return zeroth, first, (h * h - 2.0 * first) / k
