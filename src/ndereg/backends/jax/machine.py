"""Instructions on JAX arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ndereg.backends.interpreter import Terms, half
from ndereg.backends.jax import clock
from ndereg.backends.jax.field import LaneField

SUM_LANES = 64
"""Partial sums of a mean: a chain of dependent additions would leave the vector units idle, and
lose accuracy in float32."""


def _safe_divide(a: Any, b: Any) -> Any:
    zero = b == 0
    return jnp.where(zero, 0.0, a / jnp.where(zero, 1.0, b))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "div": jnp.divide,
    "safe_div": _safe_divide,
    "neg": jnp.negative,
    "abs": jnp.abs,
    "unit": jnp.sign,
    "square": jnp.square,
    "max": jnp.maximum,
    "min": jnp.minimum,
    "sqrt": jnp.sqrt,
    "log": jnp.log,
    "floor": jnp.floor,
    "pow": jnp.power,
    "where": jnp.where,
    "isfinite": jnp.isfinite,
    "lt": jnp.less,
    "le": jnp.less_equal,
    "eq": jnp.equal,
    "and": jnp.logical_and,
    "or": jnp.logical_or,
    "not": jnp.logical_not,
}


class JaxMachine:
    """A machine over a field; scalars are ``(samples, 1)``, times tuples of them."""

    def __init__(self, field: LaneField) -> None:
        self.field = field
        self.samples = field.samples
        self.entries = field.layout.entries
        self.dtype = np.dtype(field.layout.dtype)
        self.real = np.dtype(field.layout.real_dtype)
        self.control = clock.control_dtype()
        self.constants_bar, self.args_bar = field.zero_cotangents()

    def combine(self, base: Any, groups: list[tuple[Any, Terms]]) -> Any:
        """One expression, which XLA fuses."""
        total = base
        for scale, terms in groups:
            part = None
            for coefficient, array in terms:
                term = array if coefficient == 1 else array * coefficient
                part = term if part is None else part + term
            if scale is not None:
                part = self.spread_scalar(scale) * part
            total = part if total is None else total + part
        return total

    def apply(self, op: str, *operands: Any) -> Any:
        """By the table above."""
        return OPERATIONS[op](*operands)

    def spread_scalar(self, scalar: Any) -> Any:
        """In the real dtype of the state."""
        return jnp.asarray(scalar, self.real)

    def mean(self, values: Any) -> Any:
        """In the control dtype, over partial sums."""
        if values.dtype == bool:
            # A share: rounding must not keep it from 1, as 41 times 1 / 41 does in float32.
            whole = values.all(axis=-1, keepdims=True)
            return jnp.where(whole, 1.0, self.mean(values.astype(self.control)))
        values = values.astype(self.control)
        entries = values.shape[-1]
        if entries >= SUM_LANES**2 and entries % SUM_LANES == 0:
            values = values.reshape((self.samples, -1, SUM_LANES)).sum(axis=1)
        return values.sum(axis=-1, keepdims=True) * (1.0 / entries)

    def share(self, scalar: Any) -> Any:
        """Over the number of entries."""
        return self.spread_scalar(scalar * (1.0 / self.entries))

    def noise(self, t: Any, h: Any, step: Any) -> dict[str, Any]:
        """Increments of the path over ``[t, t + h]``, none of an ordinary equation."""
        return {} if self.field.noise is None else self.field.noise(t, h, step)

    def contract(self, diffusion: Any, noise: Any) -> Any:
        """A sum over channels, which XLA fuses with its products."""
        if isinstance(diffusion, tuple):
            return self.field.product(*diffusion, noise)
        return jnp.sum(diffusion if noise is None else diffusion * noise[:, None, :], axis=-1)

    def outer(self, state: Any, noise: Any) -> Any:
        """The transpose of :meth:`contract`."""
        return state[..., None] * noise[:, None, :]

    def part(self, pair: Any, index: int) -> Any:
        """One half of a pair of states."""
        return half(pair, index)

    def join(self, first: Any, second: Any) -> Any:
        """The pair of two states; None is zero."""
        given = first if first is not None else second
        parts = [jnp.zeros_like(given) if each is None else each for each in (first, second)]
        return jnp.concatenate(parts, axis=-1)

    def evaluate(self, t: Any, y: Any, field: str = "drift") -> Any:
        """The field; of a diffusion that is only known by its product, what that is made of."""
        if field == "diffusion" and self.field.traced.product is not None:
            return t, y
        return self.field.evaluate(t, y, field)

    def linearize(self, t: Any, y: Any, field: str = "drift") -> tuple[Any, Any]:
        """The field and its residuals."""
        return self.field.linearize(t, y, field)

    def pullback(self, linearization: Any, cotangent: Any, field: str = "drift") -> Any:
        """Cotangents of constants and args are added up here."""
        y_bar, constants_bar, args_bar = self.field.pullback(linearization, cotangent, field)
        self.constants_bar = [a + b for a, b in zip(self.constants_bar, constants_bar, strict=True)]
        self.args_bar = [a + b for a, b in zip(self.args_bar, args_bar, strict=True)]
        return y_bar

    def at(self, t: Any, c: float, scale: Any) -> Any:
        """Time of a stage."""
        return t if c == 0 else clock.add(t, c * scale)

    def scalar(self, value: Any) -> Any:
        """A control scalar, the same for all samples."""
        return jnp.broadcast_to(jnp.asarray(value, self.control), (self.samples, 1))

    def flag(self, value: bool) -> Any:
        """A flag, the same for all samples."""
        return jnp.full((self.samples, 1), value)

    def full(self, value: Any) -> Any:
        """A scalar that a program computed from constants alone, one a sample."""
        return jnp.broadcast_to(value, (self.samples, 1))

    def zeros(self) -> Any:
        """A zero state."""
        return jnp.zeros((self.samples, self.entries), self.dtype)
