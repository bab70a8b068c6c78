"""Models as equinox modules."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp

import ndereg.jax as face
from ndereg.models.neural_ode import NeuralODE as Description
from ndereg.models.parameters import Parameters, map_leaves
from ndereg.models.validation import instance


class NeuralODE(eqx.Module):
    """A :class:`ndereg.models.NeuralODE` as an equinox module, a tree whose leaves are its weights.

    Parameters
    ----------
    layer : ndereg.models.NeuralODE
        The description; not part of the tree's leaves.
    params : dict, optional
        Nested, of NumPy or JAX arrays; drawn from ``seed`` if absent.
    seed : int
        The same seed gives the same numbers on every framework.
    dtype : dtype
        Of parameters that are drawn.
    **options
        Of ``solve``, for every call: ``regularizer``, ``adjoint``, ``batch``, ... They are static.

    Examples
    --------
    >>> import equinox as eqx
    >>> import jax.numpy as jnp
    >>> import ndereg
    >>> from ndereg.models import MLP, Affine, NeuralODE as Description
    >>> model = NeuralODE(
    ...     Description(MLP((4, 16, 4)), head=Affine(4, 3)), regularizer=ndereg.ErrorEstimate()
    ... )
    >>> @eqx.filter_jit
    ... @eqx.filter_value_and_grad
    ... def loss(model, x):
    ...     output, solution = model(x, return_solution=True)
    ...     return jnp.mean(output**2) + 0.1 * solution.penalty
    >>> value, gradients = loss(model, jnp.ones((5, 4)))
    >>> gradients.params["head"]["weight"].shape
    (4, 3)
    """

    params: Parameters
    layer: Description = eqx.field(static=True)
    options: tuple[tuple[str, Any], ...] = eqx.field(static=True)

    def __init__(
        self,
        layer: Description,
        params: Parameters | None = None,
        *,
        seed: int = 0,
        dtype: Any = "float32",
        **options: Any,
    ) -> None:
        self.layer = instance("layer", layer, Description, "NeuralODE(field)")
        given = layer.init(seed, dtype) if params is None else params
        layer.check(given)
        self.params = map_leaves(jnp.asarray, given)
        self.options = tuple(sorted(options.items()))

    def __call__(self, x: Any, *, return_solution: bool = False, **options: Any) -> Any:
        """Return the output, or ``(output, solution)``.

        Parameters
        ----------
        x : array
            The input: a batch, or one sample under ``jax.vmap`` if encoder and head take one.
        return_solution : bool
            Return the solution too, with ``penalty`` and ``stats``.
        **options
            Of ``solve``, for this call.
        """
        chosen = {**dict(self.options), **options}
        output, solution = self.layer.run(face, x, self.params, **chosen)
        return (output, solution) if return_solution else output
