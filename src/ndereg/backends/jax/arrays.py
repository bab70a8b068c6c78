"""JAX arrays at the edge."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ndereg.backends.base import Result
from ndereg.backends.foreign import Expectation
from ndereg.backends.jax import clock
from ndereg.backends.jax.brownian import words_of
from ndereg.backends.jax.derivatives import JaxDerivatives
from ndereg.plan.brownian import Grid
from ndereg.spec.status import Status

_EXPECTED = Expectation(
    "a JAX or NumPy array",
    "jax.numpy.asarray",
    "closing over it, field = lambda t, y, args: module(t, y), which jax.grad differentiates as "
    "any closure, or a dict of the arrays in it, which solve_vjp differentiates by, too",
)


class JaxArrays:
    """The array part of the backend protocol for JAX."""

    def owns(self, value: object) -> bool:
        """JAX arrays, tracers among them."""
        return isinstance(value, jax.Array)

    def array(self, value: object, what: str) -> Any:
        """As a JAX array; NumPy arrays and Python numbers are taken over, others are refused."""
        if isinstance(value, jax.Array):
            return value
        if isinstance(value, (np.ndarray, np.generic)):
            if value.dtype.kind not in "fciub":
                raise TypeError(
                    f"expected {what} to hold numbers, received dtype {value.dtype}; try an array "
                    "of floats"
                )
            return jnp.asarray(value)
        if isinstance(value, numbers.Number):
            return jnp.asarray(value)
        holds_arrays = callable(value) or not jax.tree_util.all_leaves([value])
        raise _EXPECTED.refusal(value, what, holds_arrays)

    def dtype(self, array: Any) -> str:
        """Plain dtype name."""
        return str(array.dtype)

    def cast(self, array: Any, dtype: str) -> Any:
        """Another dtype; the real part where a complex array becomes real."""
        if jnp.iscomplexobj(array) and not dtype.startswith("complex"):
            array = jnp.real(array)
        return array if array.dtype == dtype else array.astype(dtype)

    def reshape(self, array: Any, shape: tuple[int, ...]) -> Any:
        """Another shape, in row-major order."""
        return array.reshape(shape)

    def concat(self, arrays: Sequence[Any]) -> Any:
        """Along the last axis."""
        return jnp.concatenate(arrays, axis=-1)

    def concrete(self, value: object) -> Any:
        """None for tracers; JAX arrays as NumPy arrays."""
        if isinstance(value, jax.core.Tracer):
            return None
        return np.asarray(value) if isinstance(value, jax.Array) else value

    def mark_failures(self, result: Result) -> Result:
        """Nan for failed solves, and for their cotangents: a product, not a selection."""
        succeeded = result.status == Status.SUCCESS
        factor = jnp.where(succeeded, 1.0, jnp.nan).astype(result.penalty.dtype)
        spread = factor.reshape((*factor.shape, *(1,) * (result.ys.ndim - 1)))
        return replace(result, ys=result.ys * spread, penalty=result.penalty * factor)

    def times(self, values: Any, like: Any) -> Any:
        """float64, or float32 without JAX's x64 mode."""
        return jnp.asarray(values, clock.control_dtype())

    key_types = "a key of jax.random"

    def uniform(self, key: object, count: int) -> Any:
        """``jax.random.uniform`` of a key, also of one inside a transformation."""
        if not _is_key(key):
            return None
        return jax.random.uniform(key, (count,), clock.control_dtype())

    def key_words(self, key: object) -> tuple[Any, Any] | None:
        """Two words of a key of ``jax.random``, also of one inside a transformation."""
        return words_of(key)

    def fold(self, key: object, choice: int) -> Any:
        """``jax.random.fold_in``."""
        return jax.random.fold_in(key, choice) if _is_key(key) else key

    def derivatives(self) -> JaxDerivatives:
        """Derivatives by JAX's transformations."""
        return JaxDerivatives()

    def outlined(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Shapes and dtypes of what the function returns, which is only traced."""
        return jax.eval_shape(function, *arguments)

    def probed(self, function: Callable[..., Any], argument: Any) -> Any:
        """What the function returns, unless something that it reads is traced."""
        with jax.ensure_compile_time_eval():
            try:
                return self.concrete(function(argument))
            except jax.errors.JAXTypeError:  # it reads what is traced
                return None

    def traced_grid(self, t0: Any, t1: Any, depth: int) -> Grid:
        """The cells of a span that is only known when compiled."""
        start, end = (clock.encode(time) for time in (t0, t1))
        length = jnp.reshape(clock.difference(end, start), ())
        direction = jnp.where(length >= 0, 1.0, -1.0)
        length = jnp.where(length == 0, 1.0, jnp.abs(length))
        mantissa, exponent = jnp.frexp(length)
        size = jnp.ldexp(jnp.ones_like(length), exponent - (mantissa == 0.5))
        return Grid(start, direction, size, depth, length)

    def carried_parameters(self, field: Callable[..., Any]) -> dict[str, Any]:
        """A field's closure is seen by tracing it; no parameters need a name."""
        return {}


def _is_key(key: Any) -> bool:
    if not isinstance(key, (jax.Array, np.ndarray)):
        return False
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    return bool(typed or (key.dtype == np.uint32 and key.ndim == 1))
