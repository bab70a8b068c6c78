"""The diffusion of an equation whose state is extended by entries that no noise drives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ndereg import ops
from ndereg.backends.base import Array, Backend, Diffusion, Layout, Problem, layout_of
from ndereg.backends.bound import BoundField
from ndereg.structure import LEAF, Structure


@dataclass(frozen=True)
class ExtendedDiffusion:
    """A diffusion with zeros beside it: ``g(t, (y, *q), (args, ...)) -> (g, *zeros)``.

    Attributes
    ----------
    diffusion : callable
    channels : int or None
        Columns of the matrix that it returns; None where it is of the shape of the state.
    """

    diffusion: Callable[..., Any]
    channels: int | None

    def __call__(self, t: Array, y: Sequence[Any], args: Any) -> Any:
        """Evaluate the diffusion."""
        return (self.diffusion(t, y[0], args[0]), *map(self._nothing, y[1:]))

    def _nothing(self, integral: Array) -> Array:
        zero = ops.zeros_like(integral)
        return zero if self.channels is None else ops.stack([zero] * self.channels, axis=-1)


def undriven(
    backend: Backend, problem: Problem, extended: Layout, args_structure: Structure
) -> Diffusion | None:
    """Return the diffusion of a problem whose state is extended; None without noise.

    The path stays what it is: entries that nothing drives have no noise of their own.
    """
    given = problem.diffusion
    if given is None:
        return None
    assert given.field is not None
    matrix = given.coupling == "matrix"
    entries = given.path.entries
    own: Any = backend
    adapted = getattr(own, "adapted", lambda field, has_args: field)
    field = ExtendedDiffusion(
        adapted(given.field, problem.args_structure.kind != "none"),
        entries.channels if matrix else None,
    )
    result = _with_columns(given.layout, extended, entries.channels) if matrix else extended
    if given.coupling == "diagonal":
        entries = replace(entries, quiet=extended.entries - problem.layout.entries)
    return replace(
        given,
        field=field,
        call=BoundField(backend, field, extended, args_structure, result, "the diffusion"),
        layout=result,
        path=replace(given.path, entries=entries),
    )


def _with_columns(given: Layout, extended: Layout, columns: int) -> Layout:
    """The layout of a matrix with rows for all of the extended state."""
    count = len(extended.shapes) - len(given.shapes)
    added = extended.shapes[-count:]
    return layout_of(
        Structure("tuple", (given.structure, *[LEAF] * count)),
        (*given.shapes, *[(*shape, columns) for shape in added]),
        extended.dtypes,
        extended.batch,
    )
