"""ndereg on PyTorch tensors, on the CPU or CUDA: ``import ndereg.torch as nde``."""

from ndereg import *  # noqa: F403
from ndereg import __all__ as _names
from ndereg.backends.registry import load_backend
from ndereg.backends.torch.eager import eager
from ndereg.solve import Face

_face = Face(load_backend("torch"))
solve = eager(_face.solve)
solve_vjp = eager(_face.solve_vjp)

__all__ = [*_names, "solve", "solve_vjp"]
