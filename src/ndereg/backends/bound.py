"""The user's field on flat arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ndereg import ops
from ndereg.backends.base import Array, Backend, Layout
from ndereg.backends.foreign import MIXED, is_mixed
from ndereg.structure import Structure, check_leaves, flatten

_ARRAYS = {"torch": "PyTorch tensors", "jax": "JAX arrays"}


class BoundField:
    """The field between flat arrays; its result is checked whenever Python runs it.

    Raises
    ------
    TypeError, ValueError
        When called, if the field's result does not match the state. What the field itself raises
        comes through as it is, with a note of what the field was called with.
    """

    def __init__(
        self,
        backend: Backend,
        field: Callable[..., Any],
        layout: Layout,
        args_structure: Structure,
        result: Layout | None = None,
        name: str = "the field",
    ) -> None:
        """``result`` is the layout of the result, if it is not that of the state."""
        self.result, self.name = result or layout, name
        self.backend = backend
        self.field = _returning(field, layout) if getattr(field, "in_place", False) else field
        self.layout = layout
        self.args_structure = args_structure

    def __call__(self, t: Array, y: Array, args: Sequence[Array]) -> Array:
        """Evaluate on the flat state and the leaves of args."""
        return self.flat(self.nested(t, self.state(y), self.args_structure.unflatten(args)), y)

    def nested(self, t: Array, state: Any, args: Any) -> Any:
        """Evaluate on the user's structures."""
        try:
            return self.field(t, state, args)
        except Exception as error:
            note_call(error, self.layout, self.args_structure)
            raise

    def state(self, y: Array) -> Any:
        """Return the state in the user's structure."""
        return self.layout.structure.unflatten(self.layout.unflatten(self.backend, y))

    def flat(self, result: Any, y: Array) -> Array:
        """Check and flatten the field's result; ``y`` is an array of the state."""
        backend, layout = self.backend, self.result
        leaves, structure = flatten(result)
        for position, leaf in enumerate(leaves):
            if type(leaf) in (int, float, complex):
                leaves[position] = self._constant(leaf, position, y)
            elif not backend.owns(leaf):
                refuse_result(leaf, _ARRAYS.get(backend.name, "NumPy arrays"), layout.structure)
        check_leaves(
            f"the result of {self.name}",
            like="the state" if layout is self.layout else "the state with its noise",
            expected=layout.structure,
            shapes=layout.shapes,
            dtypes=layout.dtypes,
            received=structure,
            received_shapes=[tuple(leaf.shape) for leaf in leaves],
            received_dtypes=[backend.dtype(leaf) for leaf in leaves],
        )
        return layout.flatten(backend, leaves)

    def _constant(self, number: complex, position: int, y: Array) -> Array:
        """Return a Python number in the dtype of its leaf, as frameworks take weak scalars."""
        backend, dtypes = self.backend, self.result.dtypes
        # a leaf too many is refused for its structure
        dtype = dtypes[position] if position < len(dtypes) else self.layout.dtype
        if isinstance(number, complex) and not dtype.startswith("complex"):
            dtype = "complex128"  # refused for its dtype
        array = backend.cast(backend.times(float(number.real), y), dtype)
        if isinstance(number, complex):
            array = array + 1j * backend.cast(backend.times(number.imag, y), dtype)
        return array


def refuse_result(leaf: Any, arrays: str, structure: Structure) -> None:
    """Raise for a leaf of a field's result that is no array of the framework."""
    kind = type(leaf)
    raise TypeError(
        f"expected the field to return {arrays} in the structure of the state, {structure}, "
        f"received {kind.__module__}.{kind.__qualname__}; try the functions of ndereg.ops, which "
        "compute on the arrays of every framework"
    )


def checked_leaves(
    result: Any,
    like: Sequence[Any],
    structure: Structure,
    owns: Callable[[object], bool],
    what: str,
    columns: bool = False,
) -> list[Any]:
    """Return the leaves of a result of ``what`` for a state, checked; numbers become arrays.

    Parameters
    ----------
    like : sequence of arrays
        Leaves of the state, of ``structure``.
    owns : callable
        Whether a leaf is an array that a field may return.
    columns : bool
        Whether the result has one axis more than the state, of one length in all its arrays.

    Raises
    ------
    TypeError, ValueError
    """
    leaves, received = flatten(result)
    if not columns:
        leaves = [
            ops.zeros_like(y) + leaf if type(leaf) in (int, float, complex) else leaf
            for leaf, y in zip(leaves, [*like, *[like[0]] * len(leaves)], strict=False)
        ]
    for leaf in leaves:
        if not owns(leaf):
            refuse_result(leaf, "arrays of the state's framework", structure)
    added = tuple(leaves[0].shape[-1:]) if columns and leaves else ()
    check_leaves(
        f"the result of {what}",
        like="the state with its noise" if columns else "the state",
        expected=structure,
        shapes=[(*leaf.shape, *added) for leaf in like],
        dtypes=[str(leaf.dtype).rpartition(".")[2] for leaf in like],
        received=received,
        received_shapes=[tuple(leaf.shape) for leaf in leaves],
        received_dtypes=[str(leaf.dtype).rpartition(".")[2] for leaf in leaves],
    )
    return leaves


def note_call(error: Exception, layout: Any, args_structure: Structure) -> None:
    """Note on an error of the field what the field was called with, unless it is noted already.

    Where frameworks were mixed it is noted, too.

    ``layout`` has the ``structure`` and the ``shapes`` of the state.
    """
    if is_mixed(error) and MIXED not in getattr(error, "__notes__", ()):
        error.add_note(MIXED)
    call = "The field was called as f(t, y, args) with "
    if not any(note.startswith(call) for note in getattr(error, "__notes__", ())):
        shapes = ", ".join(map(str, layout.shapes))
        error.add_note(
            f"{call}y = {layout.structure} of shapes {shapes} and args = {args_structure}, where * "
            "is an array."
        )


def _returning(field: Callable[..., Any], layout: Layout) -> Callable[[Any, Any, Any], Any]:
    """Return what a field on NumPy arrays writes into its fourth argument."""

    def returning(t: Any, y: Any, args: Any) -> Any:
        leaves = zip(layout.shapes, layout.dtypes, strict=True)
        out = layout.structure.unflatten([np.zeros(shape, dtype) for shape, dtype in leaves])
        field(t, y, args, out)
        return out

    return returning
