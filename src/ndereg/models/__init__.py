"""Models described once, without a framework; their parameters are plain nested dictionaries.

The modules ``torch``, ``equinox``, ``nnx``, ``numpy`` and ``sklearn`` of this package have
``NeuralODE`` as each framework expects it. Nothing here imports a framework before it is asked to.
"""

from ndereg.models.activations import ACTIVATIONS
from ndereg.models.convolutional import Convolutional
from ndereg.models.dense import (
    Activation,
    Affine,
    Augmentation,
    Entrywise,
    Leading,
    Power,
    Reduction,
    Sequential,
)
from ndereg.models.files import load, save
from ndereg.models.layer import Layer, from_description
from ndereg.models.mlp import MLP
from ndereg.models.model import Model
from ndereg.models.neural_ode import NeuralODE
from ndereg.models.neural_sde import NeuralSDE
from ndereg.models.parameters import Parameters, flatten, unflatten
from ndereg.models.port import port
from ndereg.models.recurrent import LatentGRU, Recurrent

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Activation",
    "Affine",
    "Augmentation",
    "Convolutional",
    "Entrywise",
    "LatentGRU",
    "Layer",
    "Leading",
    "Model",
    "NeuralODE",
    "NeuralSDE",
    "Parameters",
    "Power",
    "Recurrent",
    "Reduction",
    "Sequential",
    "flatten",
    "from_description",
    "load",
    "port",
    "save",
    "unflatten",
]
