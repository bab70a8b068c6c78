"""Models described once, without a framework; their parameters are plain nested dictionaries."""

from ndereg.models.mlp import MLP
from ndereg.models.parameters import Parameters, flatten, unflatten

__all__ = ["MLP", "Parameters", "flatten", "unflatten"]
