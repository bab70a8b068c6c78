"""The abstract layer: a description of a function with parameters, without a framework.

A layer is a frozen dataclass without arrays. It is called on the arrays of any framework, it says
what parameters it needs, and it is written as JSON and read back.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from ndereg.models.parameters import Parameters, fan_in_uniform, flatten, stream
from ndereg.models.validation import shown

TYPES: dict[str, str] = {
    "activation": "ndereg.models.dense:Activation",
    "affine": "ndereg.models.dense:Affine",
    "augmentation": "ndereg.models.dense:Augmentation",
    "convolutional": "ndereg.models.convolutional:Convolutional",
    "entrywise": "ndereg.models.dense:Entrywise",
    "latent_gru": "ndereg.models.recurrent:LatentGRU",
    "leading": "ndereg.models.dense:Leading",
    "mlp": "ndereg.models.mlp:MLP",
    "neural_ode": "ndereg.models.neural_ode:NeuralODE",
    "neural_sde": "ndereg.models.neural_sde:NeuralSDE",
    "power": "ndereg.models.dense:Power",
    "program": "ndereg.models.program:Program",
    "recurrent": "ndereg.models.recurrent:Recurrent",
    "reduction": "ndereg.models.dense:Reduction",
    "sequential": "ndereg.models.dense:Sequential",
}
"""Where the class of each ``"type"`` is; modules are imported when they are asked for."""

DEEPEST = 16
"""Most layers within layers."""

MOST_PARAMETERS = 1 << 31
"""Most numbers that a description may ask for."""

Shapes = dict[str, Any]
"""``{name: tuple of int, or Shapes}``."""


@dataclasses.dataclass(frozen=True)
class Initial:
    """How an array of parameters starts.

    Parameters
    ----------
    shape : tuple of int
    fan_in : int or None
        Uniform in ``±1 / sqrt(fan_in)``; None starts with ``value`` throughout.
    value : float
    """

    shape: tuple[int, ...]
    fan_in: int | None = None
    value: float = 0.0

    def draw(self, seed: int, name: str, dtype: DTypeLike) -> np.ndarray:
        """Return the array; equal seeds and names give equal numbers."""
        if self.fan_in is None:
            return np.full(self.shape, self.value, dtype)
        return fan_in_uniform(seed, name, self.shape, self.fan_in, dtype)


class Layer(ABC):
    """A function ``layer(t, y, params)``, described without arrays.

    A subclass is a frozen dataclass whose fields are numbers, strings, tuples and layers, checked
    in ``__post_init__`` (a ``ValueError`` says what is wrong). It has a ``type``, by which
    :data:`TYPES` finds it, and computes with :mod:`ndereg.ops` and operators only.
    """

    type: ClassVar[str]

    @abstractmethod
    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Evaluate at time ``t`` on ``y``, arrays of one framework."""

    @abstractmethod
    def initial(self) -> dict[str, Any]:
        """Return how the parameters start: a nested dict of :class:`Initial`.

        Groups without arrays are left out, as dotted names could not tell of them.
        """

    def init(self, seed: int, dtype: DTypeLike = "float32", scope: str = "field") -> Parameters:
        """Draw initial parameters.

        Parameters
        ----------
        seed : int
            The same seed gives the same numbers on every machine and backend.
        dtype : dtype
            Of every array.
        scope : str
            Distinguishes several networks drawn from one seed.

        Returns
        -------
        dict
            Nested, with NumPy arrays in the shapes of :meth:`shapes`.
        """
        stream(seed, scope)  # refuses a bad seed, also where nothing is drawn

        def drawn(tree: Mapping[str, Any], prefix: str) -> Parameters:
            return {
                name: value.draw(seed, prefix + name, dtype)
                if isinstance(value, Initial)
                else drawn(value, f"{prefix}{name}.")
                for name, value in tree.items()
            }

        return drawn(self.initial(), f"{scope}.")

    def shapes(self) -> Shapes:
        """Return the shapes of the parameters, nested as they are."""

        def shape(tree: Mapping[str, Any]) -> Shapes:
            return {
                name: value.shape if isinstance(value, Initial) else shape(value)
                for name, value in tree.items()
            }

        return shape(self.initial())

    def check(self, params: Any) -> None:
        """Check that parameters have the names and shapes that this layer needs.

        Raises
        ------
        ValueError
            Naming the arrays that are absent, unknown, or of another shape.
        """
        if not isinstance(params, Mapping):
            raise ValueError(
                f"expected params to be a nested dict, received {type(params).__name__}; try "
                "layer.init(seed)"
            )
        wanted, given = flatten(self.shapes()), flatten(params)
        absent, unknown = wanted.keys() - given.keys(), given.keys() - wanted.keys()
        if absent or unknown:
            raise ValueError(
                f"expected the parameters of {self.type!r}, received others (absent: "
                f"{shown(sorted(absent))}, unknown: {shown(sorted(unknown))}); try "
                "layer.init(seed)"
            )
        for name, shape in wanted.items():
            received = tuple(getattr(given[name], "shape", ()))
            if received != tuple(shape):
                raise ValueError(
                    f"expected {name!r} of shape {tuple(shape)}, received {received}; try "
                    "layer.init(seed)"
                )

    def describe(self) -> dict[str, Any]:
        """Return the description as JSON-ready data; :func:`from_description` reads it."""
        fields = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {"type": self.type, **fields}

    @classmethod
    def read(cls, data: Mapping[str, Any], depth: int = 0) -> Self:
        """Build the layer from its description without ``"type"``.

        Raises
        ------
        ValueError
            For names that are unknown or absent, and values that mean nothing.
        """
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        unknown = data.keys() - {f.name for f in fields}
        if unknown:
            raise ValueError(
                f"expected the fields of a layer {cls.type!r}, received also "
                f"{shown(sorted(map(str, unknown)))}; try leaving them out"
            )
        absent = [
            f.name
            for f in fields
            if f.name not in data
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ]
        if absent:
            raise ValueError(
                f"expected {', '.join(absent)} in the description of a layer {cls.type!r}, "
                f"received {shown(sorted(map(str, data)))}; try what describe() returns"
            )
        return cls(**{name: _value(value, depth) for name, value in data.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Layer):
        return value.describe()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _value(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return from_description(value, depth=depth + 1)
    if isinstance(value, (list, tuple)):
        return tuple(_value(item, depth) for item in value)
    return value


def layer_type(name: Any) -> type[Layer]:
    """Return the class of a ``"type"``.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not isinstance(name, str) or name not in TYPES:
        raise ValueError(
            f"expected a type of layer among {', '.join(TYPES)}, received {shown(name)}; try a "
            "newer version of ndereg if the description comes from one"
        )
    module, attribute = TYPES[name].split(":")
    found: type[Layer] = getattr(import_module(module), attribute)
    return found


def from_description(data: Any, *, depth: int = 0) -> Layer:
    """Build a layer from what :meth:`Layer.describe` returned.

    Nothing in the data is executed or trusted: unknown names, values of the wrong kind and sizes
    that nobody can mean are refused before anything is allocated.

    Parameters
    ----------
    data : dict
        JSON data.
    depth : int
        How many layers this one is in.

    Returns
    -------
    Layer

    Raises
    ------
    ValueError
        Saying what was expected and what was received.

    Examples
    --------
    >>> from ndereg.models import MLP
    >>> from_description(MLP((2, 16, 2)).describe()) == MLP((2, 16, 2))
    True
    """
    if not isinstance(data, Mapping):
        raise ValueError(
            f"expected the description of a layer, a dict, received {shown(data)}; try what "
            "describe() returns"
        )
    if depth > DEEPEST:
        raise ValueError(
            f"expected at most {DEEPEST} layers within layers, received more; try a flatter "
            "composition"
        )
    rest = {name: value for name, value in data.items() if name != "type"}
    layer = layer_type(data.get("type")).read(rest, depth)
    if depth == 0:
        count = sum(math.prod(shape) for shape in flatten(layer.shapes()).values())
        if count > MOST_PARAMETERS:
            raise ValueError(
                f"expected at most {MOST_PARAMETERS} parameters, received a description of "
                f"{count}; try smaller widths"
            )
    return layer
