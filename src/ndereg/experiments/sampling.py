"""How good samples of Markov chains are: their effective number, their mean and covariance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def effective_samples(draws: np.ndarray) -> float:
    """Return the effective sample size of one entry.

    Gelman et al., Bayesian Data Analysis (3rd ed.), sections 11.4 and 11.5; the sum of
    autocorrelations ends as the initial monotone sequence of Geyer does (1992,
    doi:10.1214/ss/1177011137). Of ``n`` draws no more than ``n log10(n)`` count, as in Stan: chains
    whose draws alternate have a sum near 0, which so few cannot tell from a negative one.

    Parameters
    ----------
    draws : array
        ``(chains, samples)``, at least two of both.

    Raises
    ------
    ValueError
        If there are fewer, if one is not finite, or if all are the same.

    Examples
    --------
    >>> import numpy as np
    >>> draws = np.random.default_rng(0).normal(size=(8, 500))
    >>> bool(3000 < effective_samples(draws) < 5000)
    True
    """
    if draws.ndim != 2 or min(draws.shape) < 2:
        raise ValueError(
            "expected draws (chains, samples), at least two of both, received the shape "
            f"{draws.shape}"
        )
    if not np.isfinite(draws).all() or np.all(draws == draws[0, 0]):
        raise ValueError(
            "expected finite draws that differ, received a constant, nan or inf; try leaving such "
            "chains out"
        )
    chains, count = draws.shape
    centred = draws - draws.mean(1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(centred, 2 * count, axis=1)) ** 2
    covariances = np.fft.irfft(spectrum, axis=1)[:, :count] / count
    within = np.mean(covariances[:, 0]) * count / (count - 1)
    total = within * (count - 1) / count + np.var(draws.mean(1), ddof=1)
    correlations = 1.0 - (within - covariances.mean(0) * count / (count - 1)) / total
    pairs = correlations[0 : count - count % 2 : 2] + correlations[1:count:2]
    positive = pairs[: np.argmax(pairs < 0)] if np.any(pairs < 0) else pairs
    monotone = np.minimum.accumulate(positive)
    time = max(2.0 * float(np.sum(monotone)) - 1.0, 1.0 / math.log10(chains * count))
    return chains * count / time


def figures_of_funnel(samples: np.ndarray, gradients: float, deviation: float) -> dict[str, float]:
    """Return what Neal's funnel is judged by, as Jelincic, Foster and Kidger (2024) do.

    Errors are means of absolute differences over the entries, in which the first entry, of whose
    exponential the others have their variance, weighs as much as all others. For that of the
    covariance every entry is first divided by its deviation, given the first.

    Parameters
    ----------
    samples : array
        ``(chains, samples, entries)``.
    gradients : float
        That all samples took.
    deviation : float
        Of the first entry.
    """
    chains, count, entries = samples.shape
    sizes = np.array([effective_samples(samples[:, :, i]) for i in range(entries)])
    scaled = samples / np.exp(samples[:, :, :1] / 2.0)
    scaled[:, :, 0] = samples[:, :, 0] / deviation
    covariance = np.cov(scaled.reshape(-1, entries), rowvar=False)
    weights = np.full(entries, 0.5 / (entries - 1))
    weights[0] = 0.5
    error: Any = np.abs(covariance - np.eye(entries))
    return {
        "gradients": gradients / (chains * count),
        "effective_gradients": gradients / float(sizes.min()),
        "effective": float(sizes.min()) / (chains * count),
        "mean_error": float(weights @ np.abs(samples.mean((0, 1)))),
        "covariance_error": float(weights @ error @ weights),
    }
