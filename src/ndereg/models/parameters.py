"""Parameters: nested dictionaries with arrays as leaves, their flat form, their first values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ndereg.backends.draws import stream

Parameters = dict[str, Any]
"""``{name: array or Parameters}``; names hold no dots."""


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give every leaf its dotted name, in sorted order.

    Examples
    --------
    >>> flatten({"head": {"bias": 1}, "field": {"0": {"bias": 2}}})
    {'field.0.bias': 2, 'head.bias': 1}
    """
    flat: dict[str, Any] = {}
    for name in sorted(tree):
        if not isinstance(name, str) or "." in name or not name:
            raise ValueError(f"expected a parameter name without dots, received {name!r}")
        value = tree[name]
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Parameters:
    """Rebuild the nested dictionary from dotted names.

    Examples
    --------
    >>> unflatten({"field.0.bias": 2, "head.bias": 1})
    {'field': {'0': {'bias': 2}}, 'head': {'bias': 1}}
    """
    tree: Parameters = {}
    for dotted, value in flat.items():
        *path, leaf = dotted.split(".")
        node = tree
        for name in path:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise ValueError(f"{dotted!r}: {name!r} is both an array and a group of arrays")
        if leaf in node:
            raise ValueError(f"{dotted!r} is both an array and a group of arrays")
        node[leaf] = value
    return tree


def map_leaves(function: Callable[..., Any], tree: Mapping[str, Any], *rest: Any) -> Parameters:
    """Apply ``function`` leaf by leaf to trees of one structure."""
    return {
        name: map_leaves(function, value, *(other[name] for other in rest))
        if isinstance(value, Mapping)
        else function(value, *(other[name] for other in rest))
        for name, value in tree.items()
    }


def fan_in_uniform(
    seed: int, name: str, shape: tuple[int, ...], fan_in: int, dtype: DTypeLike
) -> np.ndarray:
    """Draw from ``U(-b, b)``, ``b = 1 / sqrt(fan_in)``: the default of ``torch.nn.Linear``."""
    bound = 1.0 / np.sqrt(fan_in)
    return stream(seed, name).uniform(-bound, bound, size=shape).astype(dtype)
