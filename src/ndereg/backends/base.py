"""The protocol between the edge of the library and a backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np

from ndereg.backends.brownian import BrownianSource, Entries
from ndereg.plan.brownian import Areas, Grid
from ndereg.plan.lower import Plan
from ndereg.spec.spec import Spec
from ndereg.spec.stochastic import Coupling
from ndereg.structure import Structure

Array = Any
"""An array of the backend's framework."""


class Backend(Protocol):
    """What a backend provides: arrays at the edge, and the solve of a flattened problem.

    One that also is a :class:`StochasticBackend` solves stochastic equations.
    """

    name: str

    def owns(self, value: object) -> bool:
        """Whether ``value`` is an array of this framework."""

    def array(self, value: object, what: str) -> Array:
        """``value`` as an array; TypeError, naming ``what``, if it is of another framework."""

    def dtype(self, array: Array) -> str:
        """Plain name of the dtype: ``"float32"``, ``"complex128"``, ``"int64"``, ``"bool"``."""

    def cast(self, array: Array, dtype: str) -> Array:
        """The array in another dtype (real part where a complex one becomes real)."""

    def reshape(self, array: Array, shape: tuple[int, ...]) -> Array:
        """The array in another shape, in row-major order."""

    def concat(self, arrays: Sequence[Array]) -> Array:
        """Concatenation along the last axis."""

    def concrete(self, value: object) -> Any:
        """``value`` as Python number or NumPy array; None where it is only known when compiled."""

    def mark_failures(self, result: Result) -> Result:
        """Nan for the solves that failed; asked only where ``concrete(result.status)`` is None.

        A framework that traces cannot raise; one that always runs does not need this.
        """

    def times(self, values: Any, like: Array) -> Array:
        """Times as a float64 array (the widest real dtype there is) beside ``like``."""

    key_types: str
    """What :meth:`uniform` takes, in words."""

    def uniform(self, key: object, count: int) -> Any:
        """Return ``count`` float64 numbers from ``U(0, 1)``, drawn as the framework does it.

        In NumPy, or an array that is only known when compiled; None if ``key`` is no key of the
        framework. Integers are drawn from elsewhere, the same on all backends.
        """

    def fold(self, key: object, choice: int) -> Any:
        """Return the key of one more choice, where a key serves only one; a generator serves all.

        Asked only where a choice is not the first; optional.
        """

    def derivatives(self) -> Any:
        """Return what differentiates a field for the integrands of one problem.

        A :class:`ndereg.backends.derivatives.Derivatives`; a backend without this method serves
        no integrands.
        """

    def carried_parameters(self, field: Callable[..., Any]) -> dict[str, Array]:
        """Parameters by name that the field carries itself (``torch.nn.Module``)."""

    def outlined(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(*arguments)``, or what has its shapes; it is called for them alone."""

    def adapted(self, field: Callable[..., Any], has_args: bool) -> Callable[..., Any]:
        """A field of the framework that is called otherwise as ``f(t, y, args)``; optional."""

    def probed(self, function: Callable[[Any], Array], argument: Any) -> Any:
        """``function(argument)``, both in NumPy; None where it is only known when compiled."""

    def compile(self, plan: Plan) -> Compiled:
        """What runs problems of this plan; called once a specification."""


class StochasticBackend(Backend, Protocol):
    """What a backend provides beside that to solve stochastic equations.

    :func:`with_paths` tells whether it does. What it compiles then runs problems that have a
    ``diffusion``, of plans that name in ``noise`` what their steps read of the path.
    """

    def brownian(
        self,
        areas: Areas,
        words: tuple[Any, Any],
        grid: Grid,
        dtype: str,
        like: Array | None = None,
    ) -> BrownianSource:
        """Return the path of a key, known by its words, on the cells of ``grid``.

        Its increments are in ``dtype``, and lie where ``like`` does. The same words give the same
        path on every backend.
        """

    def key_words(self, key: object) -> tuple[Any, Any] | None:
        """Return two words of 32 bits of a key of the framework; None if it is none.

        What can be used but once gives others each time. Integers are taken apart elsewhere, alike
        for all backends.
        """

    def traced_grid(self, t0: Any, t1: Any, depth: int) -> Grid:
        """Return cells of a span, ``2^-depth`` of its length, in numbers that are not known yet.

        Asked only where :meth:`concrete` of an end is None.
        """


_PATHS = ("brownian", "key_words")


def with_paths(backend: Backend) -> StochasticBackend:
    """Return the backend, which has Brownian paths.

    Raises
    ------
    ValueError
        If it has none, naming the methods that it lacks.
    """
    missing = [name for name in _PATHS if not hasattr(backend, name)]
    if missing:
        raise ValueError(
            "expected a backend that solves stochastic equations, received "
            f"{backend.name!r}, which has no {' and no '.join(missing)}; try ndereg.numpy, "
            "ndereg.torch or ndereg.jax, or giving it what a StochasticBackend of "
            "ndereg.backends.base has"
        )
    found: Any = backend
    return found  # type: ignore[no-any-return]


class Compiled(Protocol):
    """A plan made ready to run on a backend."""

    def solve(self, problem: Problem) -> Result:
        """Solve; the result carries the framework's own differentiation history, if any."""

    def solve_vjp(
        self, problem: Problem
    ) -> tuple[Result, Callable[[Array, Array], tuple[Array, Sequence[Array]]]]:
        """Solve, and return the pullback ``(ys_bar, penalty_bar) -> (y0_bar, args_bar)``.

        ``ys_bar`` is shaped like ``Result.ys`` and ``penalty_bar`` is ``(B,)``; the results are the
        flat ``(B, n)`` cotangent of the state and one cotangent a leaf of args (and after them one
        a parameter that the field carries). Cotangents follow the real inner product
        ``Re(sum(conj(a) * b))``.
        """


@dataclass(frozen=True)
class Layout:
    """How the user's state lies in the flat state ``(B, n)``.

    Attributes
    ----------
    structure : Structure
        Nesting of the leaves.
    shapes, dtypes : tuple
        Of the leaves as the user gave them, the batch axis included.
    dtype : str
        Of the flat state: the promotion of the leaves' dtypes.
    batch : int or None
        Number of samples with ``batch="independent"``; None means one joint sample.
    """

    structure: Structure
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    dtype: str
    batch: int | None

    @cached_property
    def _hash(self) -> int:
        return hash((self.structure, self.shapes, self.dtypes, self.dtype, self.batch))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def samples(self) -> int:
        """Rows of the flat state."""
        return 1 if self.batch is None else self.batch

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Entries of each leaf in one row."""
        skip = 0 if self.batch is None else 1
        return tuple(_product(shape[skip:]) for shape in self.shapes)

    @cached_property
    def entries(self) -> int:
        """Columns of the flat state."""
        return sum(self.sizes)

    @cached_property
    def real_dtype(self) -> str:
        """The dtype of moduli and of the time that the field sees."""
        return {"complex64": "float32", "complex128": "float64"}.get(self.dtype, self.dtype)

    @cached_property
    def time_shape(self) -> tuple[int, ...]:
        """Shape of the time that the field sees: ``()``, or ``(B, 1, ...)`` to broadcast with y."""
        if self.batch is None:
            return ()
        axes = {len(shape) for shape in self.shapes}
        return (self.batch, *([1] * (axes.pop() - 1 if len(axes) == 1 else 0)))

    def flatten(self, backend: Backend, leaves: Sequence[Array], times: int | None = None) -> Array:
        """Leaves to a flat ``(B, n)``, or ``(B, T, n)`` where leaves carry ``times`` points."""
        lead = (self.samples,) if times is None else (self.samples, times)
        if len(self.sizes) == 1:
            (leaf,) = leaves
            return backend.cast(backend.reshape(leaf, (*lead, self.entries)), self.dtype)
        parts = [
            backend.cast(backend.reshape(leaf, (*lead, size)), self.dtype)
            for leaf, size in zip(leaves, self.sizes, strict=True)
        ]
        return backend.concat(parts)

    def unflatten(self, backend: Backend, flat: Array, times: int | None = None) -> list[Array]:
        """Flat ``(B, n)`` or ``(B, T, n)`` to leaves, ``(T, ...)`` or ``(B, T, ...)``."""
        leaves, start = [], 0
        for shape, dtype, size in zip(self.shapes, self.dtypes, self.sizes, strict=True):
            part = flat if size == self.entries else flat[..., start : start + size]
            start += size
            if times is not None:
                shape = (times, *shape) if self.batch is None else (shape[0], times, *shape[1:])
            leaves.append(backend.cast(backend.reshape(part, shape), dtype))
        return leaves


NO_TIME_GRADIENT = (
    "expected times without a gradient for a stochastic equation, whose solution has no derivative "
    "by time, received a time that is differentiated; try detaching it"
)


@dataclass(frozen=True)
class Path:
    """The Brownian path of a solve.

    Attributes
    ----------
    words : tuple
        Two words of 32 bits, the key.
    grid : Grid
        Dyadic cells of the time.
    areas : {"W", "WH", "WHK"}
        What the path has.
    entries : Entries
        How many channels every sample has, and whether all samples have the same noise.
    cells : int
        Of the grid, to which the size of a step is a multiple.
    direct : bool
        Whether the increments of a step are drawn by its number: steps of one size, none of which
        is rejected, and nothing else asks for the path.
    """

    words: tuple[Any, Any]
    grid: Grid
    areas: Areas
    entries: Entries
    direct: bool
    cells: int = 1

    @property
    def smallest(self) -> Any:
        """Size of the smallest step that the path resolves."""
        return self.grid.tolerance * self.cells


@dataclass(frozen=True)
class Diffusion:
    """The diffusion of a stochastic equation, and the path that drives it.

    Attributes
    ----------
    field : callable or None
        The user's, as given; None of Langevin dynamics, whose noise is part of their methods.
    call : callable
        ``call(t, y, args_leaves) -> g`` on flat arrays: ``(B, n)``, or of a matrix
        ``(B, n * channels)``, row by row.
    layout : Layout
        Of its result.
    coupling : {"diagonal", "scalar", "matrix", "product"}
        With ``"product"`` it is ``call(t, y, args_leaves, noise) -> g dW``.
    path : Path
    backend : StochasticBackend
        What computes the path.
    medium : dict of float
        What else steps read of the equation, by name.
    """

    field: Callable[..., Any] | None
    call: Callable[[Array, Array, Sequence[Array]], Array]
    layout: Layout
    coupling: Coupling
    path: Path
    backend: StochasticBackend
    medium: dict[str, float] = field(default_factory=dict)


# Those of one call are not frozen: a frozen dataclass sets its attributes one by one, and the two
# of them took as long as the loop of a small solve.
@dataclass(slots=True, eq=False)
class Problem:
    """A validated, flattened problem.

    Times, tolerances and other run-time numbers are Python floats, or traced scalars of the
    backend (JAX) that :meth:`Backend.concrete` could not resolve.

    Attributes
    ----------
    spec, plan
        What to run.
    field : callable
        The user's, as given.
    call : callable
        ``call(t, y, args_leaves) -> k``: the field on flat arrays; ``t`` is shaped
        ``layout.time_shape``. Its result is checked against the state on every call that is
        traced or eager on the framework, so that a wrong field is refused by name.
    layout : Layout
    y0 : array (B, n)
    args : tuple of arrays
        Leaves of args.
    args_structure : Structure
    t0, t1 : float
    t_eval : numpy array (T,) or (B, T), float64, or None
    rtol, atol : float
        ``atol`` is at least the smallest one that keeps the error scale positive.
    parameters : tuple of float
        Values of ``CONTROL_PARAMETERS``.
    dt : float
        Size of a constant step; nan with adaptive steps.
    first_step : float or None
        Size of the first step, without a sign.
    max_steps : int
    weights : tuple of float
        Of the terms of the penalty, those over the steps first.
    draws : array (B,) or None
        What a local regularizer chooses its times by, from ``U(0, 1)``.
    diffusion : Diffusion or None
        Of a stochastic equation; ``field`` and ``call`` are then its drift.
    given_times : tuple
        ``t0``, ``t1`` and ``t_eval`` as the user gave them, for backends that differentiate by
        times.
    asked : Problem or None
        What the user posed, where this is it with its state extended by integrals
        (:mod:`ndereg.backends.extension`) or made a pair (:mod:`ndereg.backends.pairs`).
    part : Layout or None
        Of what the field sees, where that is one half of the state.
    integral_weights : tuple of float
        Weights of these integrals in the penalty.
    """

    spec: Spec
    plan: Plan
    field: Callable[..., Any]
    call: Callable[[Array, Array, Sequence[Array]], Array]
    layout: Layout
    y0: Array
    args: tuple[Array, ...]
    args_structure: Structure
    t0: Any
    t1: Any
    t_eval: Any
    rtol: Any
    atol: Any
    parameters: tuple[float, ...]
    dt: float
    first_step: Any
    max_steps: int
    weights: tuple[float, ...]
    given_times: tuple[Any, Any, Any] = (None, None, None)
    draws: Any = None
    diffusion: Diffusion | None = None
    asked: Problem | None = None
    integral_weights: tuple[float, ...] = ()
    part: Layout | None = None

    @property
    def seen(self) -> Layout:
        """Layout of what the field sees: the state, or one half of it."""
        return self.layout if self.part is None else self.part

    @property
    def seen_shape(self) -> tuple[int, ...]:
        """Shape of the array that the field sees, as ``y0`` has it."""
        shape = tuple(self.y0.shape)
        return shape if self.part is None else (*shape[:-1], self.part.entries)

    @property
    def seen_start(self) -> Array:
        """What the field sees first."""
        return self.y0 if self.part is None else self.y0[..., : self.part.entries]

    @property
    def posed(self) -> Problem:
        """The problem as the user posed it."""
        return self if self.asked is None else self.asked


@dataclass(slots=True, eq=False)
class Result:
    """Flat outcome of a solve; every array leads with the samples ``(B, ...)``.

    Attributes
    ----------
    ys : array (B, n), or (B, T, n) with output times
    penalty : array (B,), real dtype of the state
    nfev, nsteps, naccept, status : integer arrays (B,)
    steps : None or tuple of (attempts, B) arrays t, h, error, stiffness, accepted
    t : float, array with an entry a sample, or None
        How far each sample came; None where the backend does not say.
    picked : object or None
        Between parts of a backend: one of the steps, where a local regularizer asks for one.
    """

    ys: Array
    penalty: Array
    nfev: Array
    nsteps: Array
    naccept: Array
    status: Array
    steps: tuple[Array, ...] | None = None
    t: Array | None = None
    picked: Any = None


@lru_cache(maxsize=1024)
def layout_of(
    structure: Structure,
    shapes: tuple[tuple[int, ...], ...],
    dtypes: tuple[str, ...],
    batch: int | None,
) -> Layout:
    """The layout of a state; equal states share one, and what it has computed of itself."""
    return Layout(structure, shapes, dtypes, str(np.result_type(*dtypes)), batch)


def _product(numbers: Sequence[int]) -> int:
    product = 1
    for number in numbers:
        product *= number
    return product
