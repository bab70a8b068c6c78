"""Models as flax.nnx modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

import ndereg.jax as face
from ndereg.models.neural_ode import NeuralODE as Description
from ndereg.models.parameters import Parameters
from ndereg.models.validation import instance


class NeuralODE(nnx.Module):
    """A :class:`ndereg.models.NeuralODE` as a flax.nnx module.

    Parameters
    ----------
    layer : ndereg.models.NeuralODE
        The description.
    params : dict, optional
        Nested, of NumPy or JAX arrays; drawn from ``seed`` if absent.
    seed : int
        The same seed gives the same numbers on every framework.
    dtype : dtype
        Of parameters that are drawn.
    **options
        Of ``solve``, for every call: ``regularizer``, ``adjoint``, ``batch``, ...

    Attributes
    ----------
    weights : dict
        Nested, of ``nnx.Param``; of ``nnx.Variable`` where arrays hold integers.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import ndereg
    >>> from flax import nnx
    >>> from ndereg.models import MLP, Affine, NeuralODE as Description
    >>> model = NeuralODE(
    ...     Description(MLP((4, 16, 4)), head=Affine(4, 3)), regularizer=ndereg.ErrorEstimate()
    ... )
    >>> @nnx.jit
    ... @nnx.value_and_grad
    ... def loss(model, x):
    ...     output, solution = model(x, return_solution=True)
    ...     return jnp.mean(output**2) + 0.1 * solution.penalty
    >>> value, gradients = loss(model, jnp.ones((5, 4)))
    >>> gradients["weights"]["head"]["weight"].shape
    (4, 3)
    """

    def __init__(
        self,
        layer: Description,
        params: Parameters | None = None,
        *,
        seed: int = 0,
        dtype: Any = "float32",
        **options: Any,
    ) -> None:
        given = instance("layer", layer, Description, "NeuralODE(field)")
        self.layer = nnx.static(given)
        weights = layer.init(seed, dtype) if params is None else params
        layer.check(weights)
        self.weights = nnx.data(_each(_variable, weights))
        self.options = nnx.static(tuple(sorted(options.items())))

    @property
    def params(self) -> Parameters:
        """The weights as plain arrays, nested, as the layer takes them."""
        return _each(lambda variable: variable[...], self.weights)

    def __call__(self, x: Any, *, return_solution: bool = False, **options: Any) -> Any:
        """Return the output, or ``(output, solution)``.

        Parameters
        ----------
        x : array
            The input.
        return_solution : bool
            Return the solution too, with ``penalty`` and ``stats``.
        **options
            Of ``solve``, for this call.
        """
        chosen = {**dict(self.options), **options}
        output, solution = self.layer.run(face, x, self.params, **chosen)
        return (output, solution) if return_solution else output


def _variable(value: Any) -> Any:
    array = jnp.asarray(value)
    return (nnx.Param if jnp.issubdtype(array.dtype, jnp.inexact) else nnx.Variable)(array)


def _each(function: Any, tree: Mapping[str, Any]) -> Parameters:
    """Apply a function to the leaves; ``map_leaves`` would take a state of flax for a leaf."""
    return {
        name: _each(function, value) if isinstance(value, (Mapping, nnx.State)) else function(value)
        for name, value in tree.items()
    }
