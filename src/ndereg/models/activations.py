"""Activations by name."""

from __future__ import annotations

from typing import Any

from ndereg import ops
from ndereg.models.validation import choice

ACTIVATIONS = ("tanh", "relu", "gelu", "silu", "softplus", "sigmoid", "elu", "lipswish")
"""All are functions of :mod:`ndereg.ops`; ``gelu`` is the exact one, by the error function."""


def check_activation(what: str, name: Any) -> str:
    """Return the name of an activation.

    Raises
    ------
    ValueError
        If it is none.
    """
    return choice(what, name, ACTIVATIONS)


def activate(name: str | None, y: Any) -> Any:
    """Apply an activation; None leaves ``y`` as it is.

    Examples
    --------
    >>> import numpy as np
    >>> activate("relu", np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    return y if name is None else getattr(ops, name)(y)
