"""The Brownian path of a solve."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ndereg.backends.base import Backend, Path, StochasticBackend
from ndereg.backends.brownian import Entries
from ndereg.backends.draws import key_words
from ndereg.brownian import BrownianTree
from ndereg.plan.brownian import Areas, Grid, grid
from ndereg.plan.lower import Plan
from ndereg.spec.adjoint import Backsolve
from ndereg.spec.controller import CONTROL_PARAMETERS

DEPTH = 16
"""Halvings of the span down to the tolerance of a path that the solve makes for itself."""
ROUNDING = 1e-9
"""By which a step may be smaller than a cell, relatively."""
_DT_MIN, _DT_MAX = map(CONTROL_PARAMETERS.index, ("dt_min", "dt_max"))


def plain_key(key: Any) -> Any:
    """The key that a path was drawn from, for what else is random."""
    return key.key if isinstance(key, BrownianTree) else key


def path_of_solve(
    backend: StochasticBackend,
    key: Any,
    plan: Plan,
    entries: Entries,
    span: tuple[Any, Any],
) -> Path:
    """Return the path along which a plan is solved over a span.

    Of a key it is a path of its own, with the areas that the method reads. Steps of one size, none
    of which is rejected, have their noise drawn by number, unless something else asks for the path.

    Raises
    ------
    ValueError
        If there is no key, or a tree that does not fit the solve.
    """
    read = {name[0] for name in plan.noise}
    areas: Areas = "WHK" if "K" in read else "WH" if "H" in read else "W"
    cells = 2 if plan.halved else 1  # so that the halves of a step are resolved as well
    if key is None:
        raise ValueError(
            "expected a key for the noise of an ndereg.SDE, received key=None; try key=0, and "
            "another integer for every solve, or an ndereg.BrownianTree"
        )
    if isinstance(key, BrownianTree):
        return replace(_path_of_tree(backend, key, areas, entries, span), cells=cells)
    spec = plan.spec
    again = isinstance(spec.adjoint, Backsolve)  # asked for by another mesh
    direct = not (spec.adaptive or spec.dense or spec.local is not None or again)
    direct = direct and not plan.halved
    return Path(key_words(backend, key), _own_grid(backend, span), areas, entries, direct, cells)


def _own_grid(backend: StochasticBackend, span: tuple[Any, Any]) -> Grid:
    t0, t1 = (backend.concrete(time) for time in span)
    if t0 is None or t1 is None:
        return backend.traced_grid(*span, DEPTH)
    if t0 == t1:  # nothing is asked of this path
        return Grid(t0, 1.0, 1.0, DEPTH, 1.0)
    whole = grid(float(t0), float(t1), abs(float(t1) - float(t0)))
    return grid(float(t0), float(t1), whole.size * 2.0**-DEPTH)


def _path_of_tree(
    backend: StochasticBackend, tree: BrownianTree, areas: Areas, entries: Entries, span: Any
) -> Path:
    samples, channels = 1 if entries.shared else entries.samples, entries.channels
    if math.prod(tree.shape) != samples * channels:
        raise ValueError(
            f"expected a BrownianTree with {samples * channels} entries, one for every "
            f"channel of the noise of {samples} sample(s), received shape {tree.shape}; try "
            f"shape={(samples, channels) if samples > 1 else (channels,)}"
        )
    if not set(areas) <= set(tree.areas):
        raise ValueError(
            f"expected a BrownianTree with areas {areas!r}, which the method reads, received "
            f"{tree.areas!r}; try areas={areas!r}"
        )
    low, high = sorted((float(tree.t0), float(tree.t1)))
    for time in span:
        known = backend.concrete(time)
        if known is not None and not low <= float(known) <= high:
            raise ValueError(
                f"expected the span of the solve within that of the BrownianTree, [{low}, {high}], "
                f"received t = {float(known)}; try a tree over the span of the solve"
            )
    return Path(tree.words(backend), tree.grid, tree.areas, entries, False)


def smallest_step(
    backend: Backend,
    parameters: tuple[float, ...],
    first_step: Any,
    span: tuple[Any, Any],
    path: Path,
) -> tuple[float, ...]:
    """Control parameters whose ``dt_min`` is no smaller than what the path resolves.

    Raises
    ------
    ValueError
        If it was given, and is smaller, as if ``dt_max`` or the first step is, unless that step is
        the whole solve.
    """
    resolved, given = path.smallest, parameters[_DT_MIN]
    sizes = {"dt_min": given, "dt_max": parameters[_DT_MAX], "first_step": first_step}
    for name, size in sizes.items():
        if not (isinstance(resolved, float) and isinstance(size, float)):
            continue  # not given, or only known when compiled
        if 0.0 < size < resolved * (1.0 - ROUNDING) and not _alone(backend, size, span):
            raise ValueError(
                f"expected {name} of at least {resolved}, what the Brownian path resolves, "
                f"received {size}; try a BrownianTree with a smaller tolerance, or {name}=None"
            )
    if given:
        return parameters
    return (*parameters[:_DT_MIN], resolved, *parameters[_DT_MIN + 1 :])


def _alone(backend: Backend, size: float, span: tuple[Any, Any]) -> bool:
    """Whether a step of this size is as long as the solve, as far as is known."""
    t0, t1 = (backend.concrete(time) for time in span)
    length = math.inf if t0 is None or t1 is None else abs(float(t1) - float(t0))
    return size * (1.0 + ROUNDING) >= length


def refuse_unresolved(backend: Backend, dt: float, span: tuple[Any, Any], path: Path) -> None:
    """Refuse steps of one size of which two begin in one cell of the path: they share its noise.

    Raises
    ------
    ValueError
        If the increments of the steps are those of the path, and it has larger cells.
    """
    resolved = path.smallest
    if path.direct or not isinstance(resolved, float):  # else only known when compiled
        return
    if dt < resolved * (1.0 - ROUNDING) and not _alone(backend, dt, span):
        raise ValueError(
            f"expected steps of at least {resolved}, what the Brownian path resolves, received "
            f"ConstantStep({dt}); try larger steps, or an ndereg.BrownianTree with "
            f"tolerance={dt / path.cells}"
        )
