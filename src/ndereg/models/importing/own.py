"""Models of this package inside the modules that each framework has for them."""

from __future__ import annotations

from typing import Any

from ndereg.models.layer import Layer
from ndereg.models.model import Model


def own_model(module: Any) -> Model | None:
    """Return the model that a module of ours holds, with the module's arrays; None for others."""
    if isinstance(module, Model):
        return module
    if hasattr(type(module), "__ndereg_model__"):
        found: Model = module.__ndereg_model__()
        return found
    layer = getattr(module, "layer", None)
    if isinstance(layer, Layer) and type(module).__module__.startswith("ndereg."):
        return Model(layer, module.params)
    return None
