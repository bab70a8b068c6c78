"""A neural ODE as one layer: encoder, field, head, and how the field is solved."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from array_api_compat import is_jax_array, is_numpy_array, is_torch_array

from ndereg.catalogue import lookup
from ndereg.models.dense import Augmentation
from ndereg.models.layer import Layer
from ndereg.models.parameters import Parameters
from ndereg.models.validation import instance, real, shown, size, span
from ndereg.solution import Solution


@dataclass(frozen=True)
class NeuralODE(Layer):
    """``x -> head(y(t1))`` where ``dy/dt = field(t, y)`` from ``y(t0) = encoder(x)``.

    This is the description that every framework's own ``NeuralODE`` runs
    (:mod:`ndereg.models.torch`, ``equinox``, ``nnx``, ``numpy``, ``sklearn``), and what is saved.
    It is no field itself: it contains a solve.

    Parameters
    ----------
    field : Layer
        Its result has the shape of the state.
    encoder : Layer, optional
        From the input to the state; without one the input is the state.
    head : Layer, optional
        From the state to the output; without one the state is the output.
    t_span : (float, float)
        Where the field is solved. The encoder is called at its start, the head at its end.
    augmentation : int
        Zeros appended to the state along axis 1.
    method : str
        A name of the catalogue.
    rtol, atol : float
        Tolerances.

    Examples
    --------
    >>> from ndereg.models import MLP, Affine
    >>> layer = NeuralODE(MLP((4, 16, 4)), head=Affine(4, 3), augmentation=2)
    >>> params = layer.init(seed=0)  # the same numbers in every framework
    >>> sorted(params), params["head"]["weight"].shape
    (['field', 'head'], (4, 3))
    >>> import torch
    >>> from ndereg.models.torch import NeuralODE as Module
    >>> Module(layer, params)(torch.ones(5, 2)).shape
    torch.Size([5, 3])
    """

    type: ClassVar[str] = "neural_ode"

    field: Layer
    encoder: Layer | None = None
    head: Layer | None = None
    t_span: tuple[float, float] = (0.0, 1.0)
    augmentation: int = 0
    method: str = "tsit5"
    rtol: float = 1e-6
    atol: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("field", "encoder", "head"):
            layer = getattr(self, name)
            if layer is not None or name == "field":
                instance(name, layer, Layer, "MLP((2, 16, 2))")
        object.__setattr__(self, "t_span", span("t_span", self.t_span))
        object.__setattr__(self, "augmentation", size("augmentation", self.augmentation, least=0))
        if not isinstance(self.method, str):
            raise ValueError(
                f"expected method to be a name, received {shown(self.method)}; try 'tsit5'"
            )
        lookup(self.method)
        for name in ("rtol", "atol"):
            object.__setattr__(self, name, real(name, getattr(self, name), least=0.0))

    def initial(self) -> dict[str, Any]:
        """Return how the parameters of encoder, field and head start."""
        groups = {
            name: layer.initial()
            for name in ("encoder", "field", "head")
            if (layer := getattr(self, name)) is not None
        }
        return {name: group for name, group in groups.items() if group}

    def encode(self, x: Any, params: Parameters) -> Any:
        """Return the state at the start, for the input ``x``."""
        t0 = self.t_span[0]
        if self.encoder is not None:
            x = self.encoder(t0, x, params.get("encoder", {}))
        return Augmentation(self.augmentation)(t0, x, {}) if self.augmentation else x

    def decode(self, y: Any, params: Parameters) -> Any:
        """Return the output, for the state ``y`` at the end."""
        return y if self.head is None else self.head(self.t_span[1], y, params.get("head", {}))

    def options(self, **more: Any) -> dict[str, Any]:
        """Return the keyword arguments of the solve; ``more`` overrides them."""
        return {"method": self.method, "rtol": self.rtol, "atol": self.atol, **more}

    def run(self, face: Any, x: Any, params: Parameters, **options: Any) -> tuple[Any, Solution]:
        """Evaluate with a face: :mod:`ndereg.numpy`, :mod:`ndereg.torch` or :mod:`ndereg.jax`.

        This is the forward pass of every framework's ``NeuralODE``.

        Parameters
        ----------
        face : module or Face
            What solves.
        x : array
            The input.
        params : dict
            As :meth:`init` returns them, in arrays of the face.
        **options
            Of ``solve``: ``regularizer``, ``t_eval``, ``batch``, ``adjoint``, ...

        Returns
        -------
        output : array
            With ``t_eval`` the head is applied to all states, ``(T, B, ...)``.
        solution : Solution
            With ``penalty``, ``stats`` and ``ys``.
        """
        y0 = self.encode(x, params)
        solution = face.solve(
            self.field, self.t_span, y0, params.get("field", {}), **self.options(**options)
        )
        return self.decode(solution.ys, params), solution

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Evaluate on the input ``y``; the time has no meaning here.

        Raises
        ------
        TypeError
            If ``y`` is no array of NumPy, PyTorch or JAX.
        """
        return self.run(face_of(y), y, params)[0]


def face_of(x: Any) -> Any:
    """Return the face for an array: :mod:`ndereg.numpy`, :mod:`ndereg.torch`, :mod:`ndereg.jax`.

    Raises
    ------
    TypeError
        For anything else.
    """
    for belongs, name in (
        (is_numpy_array, "numpy"), (is_torch_array, "torch"), (is_jax_array, "jax")
    ):  # fmt: skip
        if belongs(x):
            return import_module(f"ndereg.{name}")
    raise TypeError(
        f"expected an array of NumPy, PyTorch or JAX, received {type(x).__qualname__}; a NeuralODE "
        "contains a solve and cannot be part of a field, try its .field"
    )
