"""Backends by name, third-party ones included.

A package adds a backend with an entry point of the group ``ndereg.backends`` that names a factory
without arguments, or at run time with :func:`register_backend`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import entry_points

from ndereg.backends.base import Backend, Compiled
from ndereg.catalogue.serving import refuse_unserved
from ndereg.plan.lower import lower
from ndereg.spec.spec import Spec

_BUILT_IN = {
    "reference": ("ndereg.backends.reference", "ReferenceBackend"),
    "numba": ("ndereg.backends.numba", "NumbaBackend"),
    "torch": ("ndereg.backends.torch", "TorchBackend"),
    "jax": ("ndereg.backends.jax", "JaxBackend"),
}
_ALIASES = {"numpy": "numba"}
_factories: dict[str, Callable[[], Backend]] = {}


def register_backend(name: str, factory: Callable[[], Backend]) -> None:
    """Make a backend known under ``name``; ``factory()`` is called when it is first used.

    Raises
    ------
    ValueError
        If the name is taken.
    """
    if name in backend_names():
        raise ValueError(f"a backend called {name!r} is registered already; try another name")
    _factories[name] = factory


def backend_names() -> tuple[str, ...]:
    """Names of all known backends, whether their framework is installed or not."""
    found = [point.name for point in entry_points(group="ndereg.backends")]
    return tuple(dict.fromkeys([*_BUILT_IN, *_ALIASES, *found, *_factories]))


@cache
def load_backend(name: str) -> Backend:
    """Return the backend called ``name``, importing its framework.

    Raises
    ------
    ValueError
        If there is no such backend.
    ImportError
        If its framework is not installed.
    """
    if name in _ALIASES:  # one instance under all its names, and so one cache of what it compiled
        return load_backend(_ALIASES[name])
    if name in _BUILT_IN:
        module, attribute = _BUILT_IN[name]
        backend: Backend = getattr(import_module(module), attribute)()
        return backend
    if name in _factories:
        return _factories[name]()
    for point in entry_points(group="ndereg.backends"):
        if point.name == name:
            third_party: Backend = point.load()()
            return third_party
    raise ValueError(f"unknown backend {name!r}; expected one of {', '.join(backend_names())}")


@lru_cache(maxsize=1024)
def compile_on(spec: Spec, backend: Backend) -> Compiled:
    """Compile a specification on a backend; the result is kept."""
    refuse_unserved(spec)
    return backend.compile(lower(spec))
