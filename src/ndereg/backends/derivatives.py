"""Derivatives of a field inside of a field, as integrands need them; one class a framework."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from ndereg import ops
from ndereg.backends.base import Array

Function = Callable[..., Sequence[Array]]
"""From floating-point arrays to a sequence of arrays."""


class Derivatives(ABC):
    """What a backend differentiates functions of arrays with.

    Cotangents follow the real inner product ``Re(sum(conj(a) * b))``. Results can be differentiated
    again, by whatever the backend differentiates fields with.
    """

    @abstractmethod
    def owns(self, value: object) -> bool:
        """Whether ``value`` is an array that a field may return."""

    @abstractmethod
    def jvp(
        self, function: Function, primals: Sequence[Array], tangents: Sequence[Array]
    ) -> Sequence[Array]:
        """Return the derivatives of ``function(*primals)`` along ``tangents``."""

    @abstractmethod
    def vjp(
        self, function: Function, primals: Sequence[Array], cotangents: Sequence[Array]
    ) -> Sequence[Array]:
        """Return the cotangents of ``primals`` for those of ``function(*primals)``."""

    def vjps(
        self, function: Function, primals: Sequence[Array], cotangents: Sequence[Sequence[Array]]
    ) -> Sequence[Sequence[Array]]:
        """Return :meth:`vjp` for each of several cotangents."""
        return [self.vjp(function, primals, each) for each in cotangents]

    def call(self, function: Function, arrays: Sequence[Array]) -> Sequence[Array]:
        """Return ``function(*arrays)``, which uses the derivatives above."""
        return function(*arrays)

    def total(
        self, velocity: Function, t: Array, y: Sequence[Array], order: int
    ) -> Sequence[Array]:
        """Return ``d^order y / dt^order`` of the solution of ``dy/dt = velocity(t, *y)``.

        Every total derivative is a function of ``(t, y)``, and the next one its derivative along
        ``(1, velocity)``.
        """
        if order == 1:
            return velocity(t, *y)
        return self.jvp(
            lambda t, *y: self.total(velocity, t, y, order - 1),
            [t, *y],
            [ops.ones_like(t), *velocity(t, *y)],
        )
