"""Models as ``torch.nn.Module``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import ndereg.torch as face
from ndereg.backends.torch.eager import eager
from ndereg.models.layer import Layer, Shapes
from ndereg.models.neural_ode import NeuralODE as Description
from ndereg.models.parameters import Parameters


class _Group(torch.nn.Module):
    """Parameters under one name."""


class LayerModule(torch.nn.Module):
    """A layer with its parameters as a module; the base of :class:`Field` and :class:`NeuralODE`.

    ``state_dict()`` has the dotted names of :func:`ndereg.models.flatten`: ``field.0.weight``.

    Parameters
    ----------
    layer : Layer
    params : dict, optional
        Nested, of NumPy arrays or tensors, which are copied; drawn from ``seed`` if absent.
    seed : int
        The same seed gives the same numbers on every framework.
    dtype : torch.dtype or str, optional
        Of parameters that are drawn, float32 if absent; others are converted to it.
    device : optional
        Where the parameters are.
    """

    def __init__(
        self,
        layer: Layer,
        params: Parameters | None = None,
        *,
        seed: int = 0,
        dtype: torch.dtype | str | None = None,
        device: Any = None,
    ) -> None:
        super().__init__()
        kind = dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch.")
        if params is None:
            params = layer.init(seed, "float32" if dtype is None else kind)
        layer.check(params)
        self.layer = layer
        self._shapes = layer.shapes()
        wanted = None if dtype is None else getattr(torch, kind)
        _register(self, params, wanted, device)

    @property
    def params(self) -> Parameters:
        """The parameters, nested, as the layer takes them."""
        return _gathered(self, self._shapes)

    def extra_repr(self) -> str:
        """Show the layer."""
        return repr(self.layer)


def _register(
    module: torch.nn.Module, params: Mapping[str, Any], dtype: torch.dtype | None, device: Any
) -> None:
    for name, value in params.items():
        if isinstance(value, Mapping):
            group = _Group()
            _register(group, value, dtype, device)
            module.add_module(name, group)
            continue
        if not isinstance(value, torch.Tensor):
            value = torch.from_numpy(np.array(value))
        tensor = value.detach().clone().to(device=device, dtype=dtype)
        differentiable = tensor.is_floating_point() or tensor.is_complex()
        module.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=differentiable))


def _gathered(module: torch.nn.Module, shapes: Shapes) -> Parameters:
    # by attribute: the replicas of DataParallel hold plain tensors there, and no parameters
    return {
        name: _gathered(getattr(module, name), value)
        if isinstance(value, dict)
        else getattr(module, name)
        for name, value in shapes.items()
    }


class Field(LayerModule):
    """A layer as a field: a module called as ``f(t, y)`` that carries its parameters.

    See :class:`LayerModule` for the parameters.

    Examples
    --------
    >>> import torch
    >>> import ndereg.torch as nde
    >>> from ndereg.models import MLP
    >>> field = Field(MLP((2, 8, 2)), seed=0)
    >>> nde.solve(field, (0.0, 1.0), torch.ones(3, 2)).ys.shape
    torch.Size([3, 2])
    """

    def forward(self, t: Any, y: torch.Tensor) -> torch.Tensor:
        """Evaluate at time ``t`` on ``y``."""
        return self.layer(t, y, self.params)


class NeuralODE(LayerModule):
    """A :class:`ndereg.models.NeuralODE` as a module.

    The forward pass writes no state, so the module serves ``DataParallel`` and ``deepcopy``. Where
    ``torch.compile`` meets it, it breaks the graph and calls it eagerly: a solve is a loop that
    depends on values.

    Parameters
    ----------
    layer : ndereg.models.NeuralODE
        The description.
    params, seed, dtype, device
        See :class:`LayerModule`.
    **options
        Of ``solve``, for every call: ``regularizer``, ``adjoint``, ``batch``, ...

    Examples
    --------
    >>> import ndereg
    >>> import torch
    >>> from ndereg.models import MLP, Affine, NeuralODE as Description
    >>> model = NeuralODE(
    ...     Description(MLP((4, 16, 4)), head=Affine(4, 3)), regularizer=ndereg.ErrorEstimate()
    ... )
    >>> output, solution = model(torch.ones(5, 4), return_solution=True)
    >>> (output.square().mean() + 0.1 * solution.penalty).backward()
    >>> output.shape, model.get_parameter("head.weight").grad.shape
    (torch.Size([5, 3]), torch.Size([4, 3]))
    """

    def __init__(
        self,
        layer: Description,
        params: Parameters | None = None,
        *,
        seed: int = 0,
        dtype: torch.dtype | str | None = None,
        device: Any = None,
        **options: Any,
    ) -> None:
        _check(layer)
        super().__init__(layer, params, seed=seed, dtype=dtype, device=device)
        self.options = options

    @eager
    def forward(self, x: torch.Tensor, *, return_solution: bool = False, **options: Any) -> Any:
        """Return the output, or ``(output, solution)``.

        Parameters
        ----------
        x : Tensor
            The input.
        return_solution : bool
            Return the solution too, with ``penalty`` and ``stats``.
        **options
            Of ``solve``, for this call.
        """
        output, solution = self.layer.run(face, x, self.params, **{**self.options, **options})
        return (output, solution) if return_solution else output


def _check(layer: Any) -> None:
    if not isinstance(layer, Description):
        raise ValueError(
            f"expected an ndereg.models.NeuralODE, received {layer!r}; try NeuralODE(field)"
        )
