"""Losses by name, written once for every framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ndereg import ops


def squared_error(output: Any, target: Any) -> Any:
    """Mean of the squared differences.

    Parameters
    ----------
    output, target : array
        Of one shape.

    Examples
    --------
    >>> import numpy as np
    >>> squared_error(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    np.float64(2.0)
    """
    return ops.mean(ops.square(output - target))


def cross_entropy(output: Any, target: Any) -> Any:
    """Mean cross-entropy of the softmax of logits.

    Parameters
    ----------
    output : array, shape (B, classes)
        Logits.
    target : array, shape (B, classes)
        One row a sample, summing to 1 (one-hot labels).

    Examples
    --------
    >>> import numpy as np
    >>> round(float(cross_entropy(np.zeros((1, 4)), np.eye(4)[:1])), 6)  # log(4)
    1.386294
    """
    return ops.mean(ops.logsumexp(output, axis=1) - ops.sum(target * output, axis=1))


LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "squared_error": squared_error,
    "cross_entropy": cross_entropy,
}


def loss_function(loss: str | Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a loss by name, or the function given.

    Raises
    ------
    ValueError
        For a name that is unknown.
    """
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise ValueError(
            f"expected a loss among {', '.join(LOSSES)} or a function, received {loss!r}; try "
            "'squared_error'"
        )
    return LOSSES[loss]
