"""The user's field on flat arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ndereg.backends.base import Array, Backend, Layout
from ndereg.structure import Structure, check_leaves, flatten


class BoundField:
    """The field between flat arrays; its result is checked whenever Python runs it.

    Raises
    ------
    TypeError, ValueError
        When called, if the field's result does not match the state.
    """

    def __init__(
        self,
        backend: Backend,
        field: Callable[..., Any],
        layout: Layout,
        args_structure: Structure,
    ) -> None:
        self.backend = backend
        self.field = field
        self.layout = layout
        self.args_structure = args_structure

    def __call__(self, t: Array, y: Array, args: Sequence[Array]) -> Array:
        """Evaluate on the flat state and the leaves of args."""
        return self.flat(self.field(t, self.state(y), self.args_structure.unflatten(args)))

    def state(self, y: Array) -> Any:
        """Return the state in the user's structure."""
        return self.layout.structure.unflatten(self.layout.unflatten(self.backend, y))

    def flat(self, result: Any) -> Array:
        """Check and flatten the field's result."""
        backend, layout = self.backend, self.layout
        leaves, structure = flatten(result)
        for leaf in leaves:
            if not backend.owns(leaf):
                raise TypeError(
                    f"expected the field to return {backend.name} arrays in the structure of the "
                    f"state, {layout.structure}, received {type(leaf).__name__} in {structure}"
                )
        check_leaves(
            "the field's result",
            like="the state",
            expected=layout.structure,
            shapes=layout.shapes,
            dtypes=layout.dtypes,
            received=structure,
            received_shapes=[tuple(leaf.shape) for leaf in leaves],
            received_dtypes=[backend.dtype(leaf) for leaf in leaves],
        )
        return layout.flatten(backend, leaves)
