"""Losses: written once for every framework, with the pullbacks that NumPy needs."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np


def softmax_cross_entropy(logits: Any, targets: Any) -> Any:
    """Mean cross-entropy of ``softmax(logits)``.

    Parameters
    ----------
    logits : array, shape (B, classes)
        Of any framework.
    targets : array, shape (B, classes)
        One row a sample, summing to 1 (one-hot labels).

    Returns
    -------
    array, shape ()
    """
    xp = array_api_compat.array_namespace(logits)
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    log_normalizer = xp.log(xp.sum(xp.exp(shifted), axis=1))
    return xp.mean(log_normalizer - xp.sum(targets * shifted, axis=1))


def softmax_cross_entropy_vjp(logits: np.ndarray, targets: np.ndarray) -> tuple[Any, np.ndarray]:
    """Return the loss and its gradient ``(softmax(logits) - targets) / B``."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    gradient = (probabilities - targets) / logits.dtype.type(len(logits))
    return softmax_cross_entropy(logits, targets), gradient


def accuracy(logits: np.ndarray, targets: np.ndarray) -> float:
    """Fraction of samples whose largest logit is the largest target."""
    return float(np.mean(logits.argmax(axis=1) == targets.argmax(axis=1)))
