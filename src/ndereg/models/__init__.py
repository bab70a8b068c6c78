"""Models described once, without a framework; their parameters are plain nested dictionaries."""

from ndereg.models.layer import Layer, from_description
from ndereg.models.mlp import MLP
from ndereg.models.model import Model
from ndereg.models.parameters import Parameters, flatten, unflatten

__all__ = ["MLP", "Layer", "Model", "Parameters", "flatten", "from_description", "unflatten"]
