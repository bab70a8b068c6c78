"""ndereg on JAX arrays: ``import ndereg.jax as nde``."""

import dataclasses

import jax

from ndereg import *  # noqa: F403
from ndereg import __all__ as _names
from ndereg.backends.registry import load_backend
from ndereg.solution import Solution, Stats, Steps
from ndereg.solve import Face

for _part in (Solution, Stats, Steps):  # what `solve` returns can leave `jit` and enter `vmap`
    jax.tree_util.register_dataclass(
        _part, data_fields=[entry.name for entry in dataclasses.fields(_part)], meta_fields=[]
    )

_face = Face(load_backend("jax"))
solve = _face.solve
solve_vjp = _face.solve_vjp

__all__ = [*_names, "solve", "solve_vjp"]
