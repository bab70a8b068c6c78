"""When two fields are the same, so that one trace serves both.

A Python function is what its code, its closure, its defaults and the globals it reads make it.
Arrays among those are compared by identity, so a rebound array is traced anew, and a function
defined again (a lambda in a loop) is not. A field that changes plain values which it reaches while
it runs (it counts its calls, say) is compared without them.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Hashable, Iterator
from typing import Any

import jax
import numpy as np

from ndereg.field import is_known_by_value

MOST_PARTS = 5000
"""Parts of a field that are looked at; what is larger is traced on every call."""

SMALL_ARRAY = 1 << 14
"""Bytes up to which the entries of a NumPy array are looked at."""

_LIBRARIES = (
    *("jax", "jaxlib", "numpy", "scipy", "builtins", "math", "functools", "ndereg"),
    *("array_api_compat", "diffrax", "equinox", "flax", "optax"),
)
_PLAIN = (bool, int, float, complex, str, bytes, np.generic)
_OPAQUE = (type, types.ModuleType, types.BuiltinFunctionType, np.ufunc, np.dtype)


class Fingerprint:
    """What a field is made of.

    Parameters
    ----------
    field : callable
    plain : bool
        Whether plain values (numbers, strings, the lengths of containers) are part of it.

    Attributes
    ----------
    key : hashable
        Equal for fields that are the same, as long as :attr:`arrays` are alive.
    arrays : list
        Arrays that the field reaches.
    reusable : bool
        Whether a trace can serve again: no tracer is reached, and everything could be looked at.
    """

    def __init__(self, field: Any, plain: bool = True) -> None:
        self.arrays: list[Any] = []
        self._plain = plain
        self.reusable = True
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # identities must not be used again while looking
        self.key: Hashable = tuple(self._parts(field))

    def references(self) -> list[Any]:
        """Weak references to the arrays."""
        return [weakref.ref(array) for array in self.arrays]

    def _parts(self, value: Any) -> Iterator[Hashable]:
        if isinstance(value, jax.core.Tracer):
            self.reusable = False
            return
        if value is None or isinstance(value, _PLAIN):
            if self._plain:
                yield (type(value), value.hex() if isinstance(value, float) else value)
            return
        if isinstance(value, _OPAQUE) or is_known_by_value(value):
            yield ("object", value)
            return
        if id(value) in self._seen:
            yield ("seen", self._seen[id(value)])
            return
        if len(self._seen) > MOST_PARTS:
            self.reusable = False
            return
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        if isinstance(value, (jax.Array, np.ndarray)):
            self.arrays.append(value)
            yield ("array", id(value))
            if self._plain and isinstance(value, np.ndarray) and value.nbytes <= SMALL_ARRAY:
                yield value.tobytes()  # it may change in place
        else:
            yield from self._composite(value)

    def _composite(self, value: Any) -> Iterator[Hashable]:
        if isinstance(value, (list, tuple, set, frozenset, dict)):
            yield (type(value), len(value) if self._plain else None)
            members = value.items() if isinstance(value, dict) else value
            for member in members:
                if isinstance(value, dict):
                    yield from self._parts(member[0])
                    member = member[1]
                yield from self._parts(member)
        elif isinstance(value, types.MethodType):
            yield "method"
            yield from self._parts(value.__func__)
            yield from self._parts(value.__self__)
        elif isinstance(value, functools.partial):
            yield "partial"
            yield from self._parts((value.func, value.args, value.keywords))
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif hasattr(value, "__wrapped__"):
            yield ("wrapped", type(value))
            yield from self._parts(value.__wrapped__)
        elif hasattr(value, "__dict__"):
            yield ("instance", type(value))
            yield from self._parts(vars(value))
        else:
            try:
                hash(value)
            except TypeError:
                self.reusable = False
                return
            yield ("object", value)

    def _function(self, value: types.FunctionType) -> Iterator[Hashable]:
        yield ("function", value.__code__)
        if value.__module__ and value.__module__.split(".")[0] in _LIBRARIES:
            yield ("object", value)
            return
        yield from self._parts(value.__defaults__)
        yield from self._parts(value.__kwdefaults__)
        yield from self._parts(vars(value))
        names = _names_read(value.__code__)
        for cell in value.__closure__ or ():
            try:
                yield from self._named(cell.cell_contents, names)
            except ValueError:  # not assigned yet
                yield "empty"
        for name in names:
            if name in value.__globals__:
                yield name
                yield from self._named(value.__globals__[name], names)

    def _named(self, value: Any, names: tuple[str, ...]) -> Iterator[Hashable]:
        """Of the user's modules and classes, what the code has names for."""
        if not isinstance(value, (types.ModuleType, type)) or _of_library(value):
            yield from self._parts(value)
            return
        yield ("object", value)
        if id(value) in self._seen:
            return
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        for name in names:
            if name in vars(value):
                yield name
                yield from self._named(vars(value)[name], names)


def _of_library(value: Any) -> bool:
    """Whether it belongs to a library that nobody changes while a program runs."""
    home = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
    return home.split(".")[0] in _LIBRARIES


@functools.lru_cache(maxsize=1024)
def _names_read(code: types.CodeType) -> tuple[str, ...]:
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= dict.fromkeys(_names_read(constant))
    return tuple(names)
