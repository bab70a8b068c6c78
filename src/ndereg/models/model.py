"""A layer with its parameters: a field that ``solve`` takes as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ndereg.models.layer import Layer
from ndereg.models.parameters import Parameters


@dataclass(frozen=True, eq=False)
class Model:
    """A layer and the parameters to evaluate it with.

    To the solver a model is its layer: models of equal layers share what was compiled, and new
    parameters compile nothing. ``solve(model, t_span, y0, model.params)`` and, as a short form,
    ``solve(model, t_span, y0)`` are the same, gradients by ``args`` included.

    Parameters
    ----------
    layer : Layer
    params : dict
        Nested dict of arrays of one framework, as ``layer.init`` returns it.

    Raises
    ------
    ValueError
        If the parameters have not the names and shapes of the layer.

    Examples
    --------
    >>> import numpy as np
    >>> import ndereg.numpy as nde
    >>> from ndereg.models import MLP
    >>> model = Model.init(MLP((2, 8, 2)), seed=0)
    >>> sol = nde.solve(model, (0.0, 1.0), np.ones((3, 2), "float32"), model.params)
    >>> sol.ys.shape
    (3, 2)
    """

    layer: Layer
    params: Parameters

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Layer):
            raise ValueError(
                f"expected a Layer, received {self.layer!r}; try ndereg.models.MLP((2, 16, 2))"
            )
        self.layer.check(self.params)

    @classmethod
    def init(cls, layer: Layer, seed: int, dtype: Any = "float32", scope: str = "field") -> Model:
        """Return a model whose parameters are drawn, as NumPy arrays."""
        return cls(layer, layer.init(seed, dtype, scope))

    def __call__(self, t: Any, y: Any, args: Parameters | None = None) -> Any:
        """Evaluate with ``args``, or with the model's own parameters."""
        return self.layer(t, y, self.params if args is None else args)

    def __ndereg_field__(self, args: Any) -> tuple[Layer, Any]:
        """Return the field and the args that the solver sees."""
        return self.layer, self.params if args is None else args
