"""Layers on vectors, and layers made of layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ndereg import ops
from ndereg.models.activations import activate, check_activation
from ndereg.models.layer import Initial, Layer
from ndereg.models.parameters import Parameters
from ndereg.models.validation import choice, flag, instances, size


@dataclass(frozen=True)
class Affine(Layer):
    """``y W + b`` over the last axis, ``torch.nn.Linear`` with its weight transposed.

    Parameters
    ----------
    inputs, outputs : int
        Length of the last axis, before and after.
    bias : bool
        Whether there is a ``b``.

    Examples
    --------
    >>> import numpy as np
    >>> head = Affine(4, 10)
    >>> head(1.0, np.ones((3, 4)), head.init(seed=0)).shape
    (3, 10)
    """

    type: ClassVar[str] = "affine"

    inputs: int
    outputs: int
    bias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", size("inputs", self.inputs))
        object.__setattr__(self, "outputs", size("outputs", self.outputs))
        flag("bias", self.bias)

    def initial(self) -> dict[str, Any]:
        """Return uniform ``±1 / sqrt(inputs)``, as ``torch.nn.Linear`` starts."""
        arrays = {"weight": Initial((self.inputs, self.outputs), self.inputs)}
        if self.bias:
            arrays["bias"] = Initial((self.outputs,), self.inputs)
        return arrays

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Evaluate on ``y`` of shape ``(..., inputs)``."""
        y = y @ params["weight"]
        return y + params["bias"] if self.bias else y


@dataclass(frozen=True)
class Entrywise(Layer):
    """A network of its own for every entry: what a diffusion is that may not mix them.

    Methods of order above 1/2 for diagonal noise expect that entry ``i`` of the diffusion depends
    on entry ``i`` of the state alone. With one hidden layer, for every ``i``::

        output_i = output_activation(activation(y_i w_i + b_i) v_i + c_i)

    The arrays are ``weight`` w, ``bias`` b, ``output_weight`` v and ``output_bias`` c.

    Parameters
    ----------
    entries : int
        Length of the last axis.
    hidden : int
        Width of every hidden layer.
    activation : str
        Of the hidden layers.
    output_activation : str, optional
        ``None`` leaves the output affine.

    Examples
    --------
    >>> import numpy as np
    >>> diffusion = Entrywise(3, 8, output_activation="sigmoid")
    >>> diffusion(0.0, np.ones((5, 3)), diffusion.init(seed=0)).shape
    (5, 3)
    """

    type: ClassVar[str] = "entrywise"

    entries: int
    hidden: int
    activation: str = "softplus"
    output_activation: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", size("entries", self.entries))
        object.__setattr__(self, "hidden", size("hidden", self.hidden))
        check_activation("activation", self.activation)
        if self.output_activation is not None:
            check_activation("output_activation", self.output_activation)

    def initial(self) -> dict[str, Any]:
        """Return uniform ``±1 / sqrt(fan_in)``, as ``torch.nn.Linear`` starts."""
        shape = (self.entries, self.hidden)
        return {
            "weight": Initial(shape, 1),
            "bias": Initial(shape, 1),
            "output_weight": Initial(shape, self.hidden),
            "output_bias": Initial((self.entries,), self.hidden),
        }

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Evaluate on ``y`` of shape ``(..., entries)``."""
        hidden = activate(self.activation, y[..., None] * params["weight"] + params["bias"])
        output = ops.sum(hidden * params["output_weight"], axis=-1) + params["output_bias"]
        return activate(self.output_activation, output)


@dataclass(frozen=True)
class Activation(Layer):
    """An activation as a layer of its own, without parameters.

    Parameters
    ----------
    name : str
        One of tanh, relu, gelu, silu, softplus, sigmoid, elu, lipswish.

    Examples
    --------
    >>> import numpy as np
    >>> Activation("relu")(0.0, np.array([-1.0, 2.0]), {})
    array([0., 2.])
    """

    type: ClassVar[str] = "activation"

    name: str

    def __post_init__(self) -> None:
        check_activation("name", self.name)

    def initial(self) -> dict[str, Any]:
        """Return nothing: there are no parameters."""
        return {}

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Evaluate elementwise."""
        return activate(self.name, y)


@dataclass(frozen=True)
class Augmentation(Layer):
    """Zeros appended to the state, which give trajectories room not to cross.

    E. Dupont, A. Doucet, Y. W. Teh, "Augmented neural ODEs", NeurIPS 2019.

    Parameters
    ----------
    zeros : int
        How many.
    axis : int
        Where: 1 for vectors ``(B, n)`` and for images ``(B, channels, height, width)``, -1 for the
        last axis.

    Examples
    --------
    >>> import numpy as np
    >>> Augmentation(2)(0.0, np.ones((1, 3)), {})
    array([[1., 1., 1., 0., 0.]])
    """

    type: ClassVar[str] = "augmentation"

    zeros: int
    axis: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "zeros", size("zeros", self.zeros))
        object.__setattr__(self, "axis", size("axis", self.axis, least=-1, most=7))

    def initial(self) -> dict[str, Any]:
        """Return nothing: there are no parameters."""
        return {}

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Append to ``y``."""
        place = self.axis % len(y.shape)
        first = (slice(None),) * place + (slice(0, 1),)
        shape = (*y.shape[:place], self.zeros, *y.shape[place + 1 :])
        zeros = ops.broadcast_to(ops.zeros_like(y[first]), shape)
        return ops.concat([y, zeros], axis=place)


@dataclass(frozen=True)
class Leading(Layer):
    """The first entries of the last axis: the mean, where an encoder returns mean and variance.

    Parameters
    ----------
    outputs : int
        How many.

    Examples
    --------
    >>> import numpy as np
    >>> Leading(2)(0.0, np.array([[1.0, 2.0, 3.0]]), {})
    array([[1., 2.]])
    """

    type: ClassVar[str] = "leading"

    outputs: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", size("outputs", self.outputs))

    def initial(self) -> dict[str, Any]:
        """Return nothing: there are no parameters."""
        return {}

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Cut ``y``."""
        if y.shape[-1] < self.outputs:
            raise ValueError(
                f"expected at least {self.outputs} entries in the last axis, received shape "
                f"{tuple(y.shape)}; try fewer outputs"
            )
        return y[..., : self.outputs]


@dataclass(frozen=True)
class Power(Layer):
    """Powers of the entries, such as the cubes that the spiral of the neural ODE paper is made of.

    Parameters
    ----------
    exponent : int
        From 1 to 8.

    Examples
    --------
    >>> import numpy as np
    >>> Power(3)(0.0, np.array([2.0, -1.0]), {})
    array([ 8., -1.])
    """

    type: ClassVar[str] = "power"

    exponent: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "exponent", size("exponent", self.exponent, most=8))

    def initial(self) -> dict[str, Any]:
        """Return nothing: there are no parameters."""
        return {}

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Evaluate elementwise."""
        power = y
        for _ in range(self.exponent - 1):
            power = power * y
        return power


@dataclass(frozen=True)
class Reduction(Layer):
    """Images to vectors: the means over all places, or all entries in a row.

    Parameters
    ----------
    how : {"mean", "flatten"}
        ``(B, channels, ...)`` becomes ``(B, channels)``, or ``(B, channels * ...)``.

    Examples
    --------
    >>> import numpy as np
    >>> Reduction("mean")(0.0, np.ones((2, 3, 8, 8)), {}).shape
    (2, 3)
    """

    type: ClassVar[str] = "reduction"

    how: str = "mean"

    def __post_init__(self) -> None:
        choice("how", self.how, ("mean", "flatten"))

    def initial(self) -> dict[str, Any]:
        """Return nothing: there are no parameters."""
        return {}

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Evaluate on ``y`` of shape ``(B, channels, ...)``."""
        if self.how == "flatten":
            return ops.reshape(y, (y.shape[0], -1))
        return ops.mean(y, axis=tuple(range(2, len(y.shape))))


@dataclass(frozen=True)
class Sequential(Layer):
    """Layers one after another, all called at the same time ``t``.

    Parameters
    ----------
    layers : tuple of Layer
        Their parameters are under ``"0"``, ``"1"``, ...

    Examples
    --------
    >>> import numpy as np
    >>> from ndereg.models import MLP
    >>> field = Sequential((MLP((2, 8)), Activation("tanh"), Affine(8, 2)))
    >>> params = field.init(seed=0)
    >>> sorted(params), field(0.5, np.ones((3, 2)), params).shape
    (['0', '2'], (3, 2))
    """

    type: ClassVar[str] = "sequential"

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        layers = instances("layers", self.layers, Layer, "(Affine(2, 8), Affine(8, 2))")
        object.__setattr__(self, "layers", layers)

    def initial(self) -> dict[str, Any]:
        """Return how the parameters of the layers start."""
        groups = {str(index): layer.initial() for index, layer in enumerate(self.layers)}
        return {name: group for name, group in groups.items() if group}

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Evaluate the layers in their order."""
        for index, layer in enumerate(self.layers):
            y = layer(t, y, params.get(str(index), {}))
        return y
