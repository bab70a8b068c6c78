"""A normal distribution of an initial state, as an encoder gives it: its code.

A code, (B, 2 n), holds mean and log-variance of n independent entries side by side.
"""

from __future__ import annotations

from typing import Any

from ndereg import ops


def drawn(code: Any, noise: Any) -> Any:
    """Return states that are drawn with standard normal ``noise``, both (B, n)."""
    n = code.shape[1] // 2
    return code[:, :n] + ops.exp(0.5 * code[:, n:]) * noise


def divergence_from_standard(code: Any) -> Any:
    """Return the KL divergence of every entry from a standard normal one, (B, n)."""
    n = code.shape[1] // 2
    mean, log_variance = code[:, :n], code[:, n:]
    return 0.5 * (ops.exp(log_variance) + mean * mean - 1.0 - log_variance)
