"""State and arguments as flat arrays."""

from __future__ import annotations

import numbers
from functools import lru_cache
from typing import Any

import numpy as np

from ndereg.backends.base import Array, Backend, Layout, layout_of
from ndereg.spec.spec import Batch
from ndereg.structure import Structure, flatten

_DTYPES = ("float32", "float64", "complex64", "complex128")


def flat_state(backend: Backend, y0: Any, batch: Batch) -> tuple[Layout, Array]:
    """Return the layout of a state and the state in it.

    Raises
    ------
    ValueError, TypeError
        If it is empty, no structure of real or complex arrays, or none of samples.
    """
    if batch not in ("joint", "independent"):
        raise ValueError(
            f"expected batch='joint' or batch='independent', received {batch!r}; try 'joint', one "
            "step size for the whole state"
        )
    given, structure = flatten(y0)
    if not given:
        raise ValueError(
            f"expected a state with at least one array, received y0={y0!r}; try an array of "
            "initial values"
        )
    if len(given) == 1:
        leaves = [backend.array(given[0], structure.paths("y0")[0])]
    else:
        if all(isinstance(leaf, numbers.Number) for leaf in given):
            raise TypeError(
                f"expected arrays in y0, received Python numbers in {structure}; a list is a "
                "nested structure here, try an array of the numbers instead"
            )
        names = structure.paths("y0")
        leaves = [backend.array(leaf, name) for leaf, name in zip(given, names, strict=True)]
    shapes = tuple([tuple(map(int, leaf.shape)) for leaf in leaves])
    layout = _layout(structure, shapes, tuple(map(backend.dtype, leaves)), batch)
    return layout, layout.flatten(backend, leaves)


@lru_cache(maxsize=1024)
def _layout(
    structure: Structure, shapes: tuple[tuple[int, ...], ...], dtypes: tuple[str, ...], batch: Batch
) -> Layout:
    """The layout of a state; equal states are checked once."""
    for name, shape, dtype in zip(structure.paths("y0"), shapes, dtypes, strict=True):
        if dtype not in _DTYPES:
            raise TypeError(
                f"expected {name} to have dtype {', '.join(_DTYPES)}, received "
                f"{dtype}; try converting it to a floating-point dtype"
            )
        if 0 in shape:
            raise ValueError(
                f"expected a non-empty state, received {name} of shape {shape}; try "
                "leaving the solve out where there is nothing to solve"
            )
    samples = None
    if batch == "independent":
        axes = [shape[0] if shape else None for shape in shapes]
        if None in axes or len(set(axes)) != 1:
            raise ValueError(
                "expected every array of y0 to lead with one batch axis for batch='independent', "
                f"received shapes {list(shapes)}; try batch='joint', or "
                "give each array the samples as axis 0"
            )
        samples = axes[0]
    return layout_of(structure, shapes, dtypes, samples)


def flat_args(backend: Backend, args: Any, dtype: str) -> tuple[list[Array], Structure]:
    """Return the arrays of args, and how they nest.

    Python numbers take the real ``dtype`` of the state, as weak scalars would.
    """
    given, structure = flatten(args)
    leaves = []
    for leaf, name in zip(given, structure.paths("args"), strict=True):
        array = backend.array(leaf, name)
        leaves.append(backend.cast(array, dtype) if type(leaf) in (int, float) else array)
    return leaves, structure


def refuse_compiled(backend: Backend, *structures: Structure) -> None:
    """Refuse what an ``@njit`` field, or one that writes into an argument, cannot take."""
    if not backend.owns(np.zeros(())):
        raise TypeError(
            f"expected a field that computes on the arrays of {backend.name}, received an @njit "
            "function or one that writes into an argument, which take NumPy arrays; try a plain "
            "Python function, or ndereg.numpy"
        )
    for structure in structures:
        if not _kinds(structure) <= {"leaf", "none", "tuple"}:
            raise TypeError(
                "expected tuples or a single array as state and args of an @njit field, received "
                f"{structure}; try a tuple, or a plain Python field"
            )


def _kinds(structure: Structure) -> set[str]:
    return {structure.kind}.union(*map(_kinds, structure.children))
