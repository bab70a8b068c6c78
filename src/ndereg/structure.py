"""Nested structures of arrays: flattened to leaves, rebuilt, and compared.

A structure is any nesting of dicts, tuples, named tuples, lists and None; everything else is a
leaf. Leaves come in the order of the structure, the entries of a dict by sorted key.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

__all__ = ["LEAF", "Structure", "check_leaves", "flatten"]

Kind = Literal["leaf", "none", "dict", "tuple", "list", "namedtuple"]


@dataclass(frozen=True, slots=True)
class Structure:
    """The shape of a nested container, without its leaves; hashable and comparable.

    Attributes
    ----------
    kind : {"leaf", "none", "dict", "tuple", "list", "namedtuple"}
    children : tuple of Structure
    keys : tuple
        Of a dict, in sorted order, one a child.
    type : type or None
        Of a named tuple, its class.
    size : int
        Number of leaves.
    """

    kind: Kind
    children: tuple[Structure, ...] = ()
    keys: tuple[Hashable, ...] = ()
    type: type[Any] | None = None
    #: Number of leaves.
    size: int = field(init=False, compare=False, repr=False)
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # asked for on every solve, of every part of the structure
        size = 1 if self.kind == "leaf" else sum(child.size for child in self.children)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "_hash", hash((self.kind, self.children, self.keys, self.type)))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        # a hash means nothing in another process
        return Structure, (self.kind, self.children, self.keys, self.type)

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """Rebuild the container around ``leaves``, given in the order of :func:`flatten`."""
        if len(leaves) != self.size:
            raise ValueError(f"expected {self.size} leaves for {self}, received {len(leaves)}")
        return leaves[0] if self.kind == "leaf" else self._rebuilt(iter(leaves))

    def _rebuilt(self, leaves: Iterator[Any]) -> Any:
        if self.kind == "leaf":
            return next(leaves)
        if self.kind == "none":
            return None
        parts = [child._rebuilt(leaves) for child in self.children]
        if self.kind == "dict":
            return dict(zip(self.keys, parts, strict=True))
        if self.kind == "list":
            return parts
        return tuple(parts) if self.type is None else self.type(*parts)

    def paths(self, root: str = "") -> tuple[str, ...]:
        """Name every leaf as one would write it after the container: ``['a'][0].x``."""
        return _paths(self, root)

    def __str__(self) -> str:
        if self.kind == "leaf":
            return "*"
        if self.kind == "none":
            return "None"
        parts = [str(child) for child in self.children]
        if self.kind == "dict":
            entries = (f"{key!r}: {part}" for key, part in zip(self.keys, parts, strict=True))
            return "{" + ", ".join(entries) + "}"
        if self.kind == "list":
            return "[" + ", ".join(parts) + "]"
        if self.type is not None:
            named = zip(self.type._fields, parts, strict=True)
            return f"{self.type.__name__}({', '.join(f'{name}={part}' for name, part in named)})"
        return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


@lru_cache(maxsize=1024)
def _paths(structure: Structure, root: str) -> tuple[str, ...]:
    if structure.kind == "leaf":
        return (root,)
    if structure.kind == "dict":
        steps = [f"[{key!r}]" for key in structure.keys]
    elif structure.type is not None:
        steps = [f".{name}" for name in structure.type._fields]
    else:
        steps = [f"[{i}]" for i in range(len(structure.children))]
    pairs = zip(steps, structure.children, strict=True)
    return tuple(path for step, child in pairs for path in child.paths(root + step))


#: The structure of a single array.
LEAF = Structure("leaf")
_NONE = Structure("none")


@lru_cache(maxsize=1024)
def _shared(
    kind: Kind, children: tuple[Structure, ...], keys: tuple[Hashable, ...], kinds: Any
) -> Structure:
    """One structure for all containers alike; ``kinds`` tells the keys 1, True and 1.0 apart."""
    return Structure(kind, children, keys, kinds if kind == "namedtuple" else None)


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """Take a nested container apart.

    Parameters
    ----------
    tree : any nesting of dict, tuple, list, named tuple and None
        Anything else is a leaf.

    Returns
    -------
    leaves : list
    structure : Structure
        ``structure.unflatten(leaves)`` is the container again.

    Raises
    ------
    TypeError
        The keys of a dict cannot be sorted.

    Examples
    --------
    >>> leaves, structure = flatten({"b": 1, "a": (2, [3])})
    >>> leaves, str(structure)
    ([2, 3, 1], "{'a': (*, [*]), 'b': *}")
    """
    leaves: list[Any] = []
    return leaves, _structure_of(tree, leaves)


def _structure_of(tree: Any, leaves: list[Any]) -> Structure:
    if tree is None:
        return _NONE
    if isinstance(tree, dict):
        keys = _sorted_keys(tree)
        children = tuple([_structure_of(tree[key], leaves) for key in keys])
        return _shared("dict", children, keys, tuple(map(type, keys)))
    if isinstance(tree, (tuple, list)):
        children = tuple([_structure_of(child, leaves) for child in tree])
        if isinstance(tree, list):
            return _shared("list", children, (), None)
        if hasattr(tree, "_fields"):
            return _shared("namedtuple", children, (), type(tree))
        return _shared("tuple", children, (), None)
    leaves.append(tree)
    return LEAF


def _sorted_keys(tree: dict[Any, Any]) -> tuple[Hashable, ...]:
    try:
        return tuple(sorted(tree))
    except TypeError as error:
        raise TypeError(
            "expected a dict whose keys can be sorted, received keys "
            f"{sorted(map(repr, tree))}; try keys of one type, such as strings"
        ) from error


def check_leaves(
    what: str,
    *,
    like: str,
    expected: Structure,
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[str],
    received: Structure,
    received_shapes: Sequence[tuple[int, ...]],
    received_dtypes: Sequence[str],
) -> None:
    """Check that a nested container of arrays matches another one.

    Parameters
    ----------
    what, like : str
        What is checked, and what it must match, in words ("the field's result", "the state").
    expected, received : Structure
    shapes, received_shapes : sequence of tuple of int
        One a leaf.
    dtypes, received_dtypes : sequence of str
        One a leaf; plain names such as ``"float32"``.

    Raises
    ------
    TypeError
        The structures differ, or the dtype of a leaf does.
    ValueError
        The shape of a leaf differs.
    """
    if expected != received:
        advice = "try the same nesting of dicts, tuples and lists, with the same keys"
        if expected == LEAF and received.kind in ("list", "tuple"):
            advice = "try stack([...]), which puts entries together to one array"
        raise TypeError(
            f"expected {what} to have the structure of {like}, {expected}, received {received}; "
            f"{advice}"
        )
    names = received.paths()
    for name, shape, got in zip(
        names, map(tuple, shapes), map(tuple, received_shapes), strict=True
    ):
        if shape != got:
            raise ValueError(
                f"expected {what}{_at(name)} to have shape {shape}, like {like}, "
                f"received shape {got}; {_shape_advice(shape, got)}"
            )
    for name, dtype, kind in zip(names, dtypes, received_dtypes, strict=True):
        if dtype != kind:
            raise TypeError(
                f"expected {what}{_at(name)} to have dtype {dtype}, like {like}, received {kind}; "
                f"try casting the result to {dtype}, or giving {like} and the constants in the "
                "field one dtype"
            )


def _at(path: str) -> str:
    return f" at {path}" if path else ""


def _shape_advice(shape: tuple[int, ...], received: tuple[int, ...]) -> str:
    def size(lengths: tuple[int, ...]) -> int:
        product = 1
        for length in lengths:
            product *= length
        return product

    if size(shape) == size(received):
        return f"try reshaping the result to {shape}"
    return "try printing the shapes of the state inside the field"
