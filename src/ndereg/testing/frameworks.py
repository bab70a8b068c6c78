"""A backend with conversions, so that one problem in NumPy runs on any of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import numpy as np

from ndereg.backends.base import Backend
from ndereg.backends.registry import backend_names, load_backend
from ndereg.precision import x64
from ndereg.solve import Face
from ndereg.structure import flatten

_FROM_NUMPY = {"torch": ("torch", "tensor"), "jax": ("jax.numpy", "asarray")}
"""Where a framework makes its arrays of NumPy's; the key is the module that has to be imported."""


class Bench:
    """A backend that takes problems in NumPy arrays and returns NumPy arrays.

    Parameters
    ----------
    backend : str or Backend
        A name of the registry, or a backend. A backend of another framework than NumPy, PyTorch
        and JAX offers ``from_numpy(array)``; its ``concrete`` gives NumPy arrays back.

    Examples
    --------
    >>> bench = Bench("reference")
    >>> solution = bench.solve(lambda t, y, args: -y, (0.0, 1.0), np.ones(2))
    >>> bench.get(solution.ys).shape
    (2,)
    """

    def __init__(self, backend: str | Backend) -> None:
        self.backend = load_backend(backend) if isinstance(backend, str) else backend
        self.name = self.backend.name
        self.face = Face(self.backend)
        self._from_numpy = _conversion(self.backend)

    def precision(self, wide: bool = True) -> AbstractContextManager[Any]:
        """Double precision where ``wide``, which JAX has to be asked for."""
        if self.name != "jax":
            return nullcontext()
        return x64(wide)

    def put(self, tree: Any) -> Any:
        """Arrays of NumPy, in any nesting, as arrays of the backend."""
        leaves, structure = flatten(tree)
        return structure.unflatten([self._from_numpy(leaf) for leaf in leaves])

    def get(self, tree: Any) -> Any:
        """Arrays of the backend, in any nesting, as arrays of NumPy."""
        leaves, structure = flatten(tree)
        return structure.unflatten([np.asarray(self.backend.concrete(leaf)) for leaf in leaves])

    def solve(self, field: Any, span: Any, y0: Any, args: Any = None, **options: Any) -> Any:
        """Solve with NumPy's arrays; the solution is the backend's."""
        return self.face.solve(field, span, self.put(y0), self.put(args), **options)

    def solve_vjp(self, field: Any, span: Any, y0: Any, args: Any = None, **options: Any) -> Any:
        """Solve with NumPy's arrays; solution and pullback are the backend's."""
        return self.face.solve_vjp(field, span, self.put(y0), self.put(args), **options)

    def gradient(
        self,
        field: Any,
        span: Any,
        y0: Any,
        args: Any,
        ys_bar: Any,
        penalty_bar: Any = 0.0,
        **options: Any,
    ) -> tuple[Any, Any, Any]:
        """Return the solution, and the cotangents of ``y0`` and ``args`` in NumPy."""
        solution, pullback = self.solve_vjp(field, span, y0, args, **options)
        if not isinstance(penalty_bar, float):
            penalty_bar = self.put(penalty_bar)
        d_y0, d_args = pullback(self.put(ys_bar), penalty_bar)
        return solution, self.get(d_y0), self.get(d_args)


def numpy_arrays(tree: Any) -> Any:
    """Arrays of any framework, in any nesting, as arrays of NumPy."""
    leaves, structure = flatten(tree)
    plain = [leaf.detach().cpu() if hasattr(leaf, "detach") else leaf for leaf in leaves]
    return structure.unflatten([np.asarray(leaf) for leaf in plain])


def installed_backends() -> tuple[list[str], list[tuple[str, str]]]:
    """Names of the backends that can be used besides the reference, and why others cannot."""
    found: dict[str, Backend] = {}
    missing: list[tuple[str, str]] = []
    for name in backend_names():
        try:
            backend = load_backend(name)
        except ImportError as error:
            missing.append((name, str(error)))
            continue
        if backend.name != "reference":
            found.setdefault(backend.name, backend)
    return list(found), missing


def chosen_backends(
    backends: Sequence[str | Backend] | None,
) -> tuple[list[Bench], tuple[tuple[str, str], ...]]:
    """Benches of the backends asked for, or of all installed ones; and who was left out.

    Raises
    ------
    ValueError
        If a name is unknown, or none is left.
    ImportError
        If the framework of one that was asked for is not installed.
    """
    if backends is None:
        names, missing = installed_backends()
        return [Bench(name) for name in names], tuple(missing)
    if isinstance(backends, str) or not backends:
        raise ValueError(
            f"expected names of backends in a list, received {backends!r}; try "
            "backends=['numpy', 'torch'], or None for all that are installed"
        )
    benches: dict[str, Bench] = {}
    for backend in backends:
        try:
            bench = Bench(backend)
        except ImportError as error:
            error.add_note(f"backends={list(backends)!r} asks for {backend!r}")
            raise
        benches.setdefault(bench.name, bench)
    return list(benches.values()), ()


def _conversion(backend: Backend) -> Callable[[Any], Any]:
    own = getattr(backend, "from_numpy", None)
    if own is not None:
        return lambda array: own(np.asarray(array))
    if backend.owns(np.zeros(())):
        return np.asarray
    for framework, (module, function) in _FROM_NUMPY.items():
        if framework in sys.modules:
            convert = getattr(import_module(module), function)
            if backend.owns(convert(np.zeros(()))):
                return lambda array: convert(np.array(array, order="C"))
    raise TypeError(
        f"expected the backend {backend.name!r} to take NumPy's arrays, or those of PyTorch or "
        "JAX, received one of another framework; try giving it from_numpy(array)"
    )
