"""The Brownian path of a trial: one for the run, for its single steps, and for every backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ndereg.backends.base import Diffusion
from ndereg.brownian import BrownianTree
from ndereg.edge.problem import prepare
from ndereg.langevin import UnderdampedLangevin
from ndereg.sde import SDE
from ndereg.testing.frameworks import Bench

STOCHASTIC = (SDE, UnderdampedLangevin)
"""What is solved along a path."""


def equation_name(field: Any) -> str:
    """Name of a field, or of the drift of an equation."""
    field = getattr(field, "drift", getattr(field, "grad_potential", field))
    return str(getattr(field, "__name__", type(field).__name__))


def refuse_foreign_key(key: Any) -> None:
    """Refuse a key that does not mean the same on every backend.

    Raises
    ------
    TypeError
    """
    drawn = key.key if isinstance(key, BrownianTree) else key
    if drawn is not None and (isinstance(drawn, bool) or not isinstance(drawn, (int, np.integer))):
        raise TypeError(
            "expected an int as key, or a BrownianTree drawn from one, which is the same path on "
            f"every backend, received {drawn!r} of type {type(drawn).__module__}."
            f"{type(drawn).__qualname__}; try key=0"
        )


def settled(bench: Bench, trial: Any) -> tuple[str, BrownianTree | None]:
    """Name of the method of a trial, and the path that its solve would make for itself.

    The path is a tree of the whole span, along which parts of the span are solved as well. It is
    None of an ordinary equation, and where no time is to pass.
    """
    options: Mapping[str, Any] = trial.options
    problem = prepare(
        bench.backend, trial.field, trial.t_span, bench.put(trial.y0), bench.put(trial.args),
        **options,
    )  # fmt: skip
    return problem.spec.tableau.name, _tree(problem.diffusion, options.get("key"), trial.t_span)


def _tree(
    diffusion: Diffusion | None, key: Any, t_span: tuple[float, float]
) -> BrownianTree | None:
    if diffusion is None or t_span[0] == t_span[1]:
        return None
    if isinstance(key, BrownianTree):
        return key
    path, entries = diffusion.path, diffusion.path.entries
    samples = 1 if entries.shared else entries.samples
    shape = (samples, entries.channels)
    return BrownianTree(key, *t_span, shape, path.grid.tolerance, path.areas)
