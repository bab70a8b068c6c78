"""A stochastic differential equation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ndereg.spec.stochastic import CALCULI, NOISE_KINDS, Calculus, NoiseKind


@dataclass(frozen=True)
class SDE:
    """``dy = drift(t, y, args) dt + diffusion(t, y, args) dW``, in place of a field.

    Parameters
    ----------
    drift : callable
        ``f(t, y, args)``, as the field of an ordinary equation.
    diffusion : callable or None
        ``g(t, y, args)`` of ``noise``; None is no noise at all: the equation is then the ordinary
        one, solved by its methods.
    noise : {"diagonal", "additive", "scalar", "general"}
        ``"diagonal"``: every entry of the state has a Brownian motion of its own; ``g`` is shaped
        like the state. ``"scalar"``: one Brownian motion moves all entries; ``g`` is shaped like
        the state. ``"general"``: ``m`` Brownian motions; every array of ``g`` has one axis more
        than that of the state, of length ``m``. ``"additive"``: ``g`` depends on the time alone,
        and has one of these two shapes, a state's being that of diagonal noise.
    calculus : {"ito", "stratonovich"}
        How the noise is integrated. With additive noise the two are the same; :meth:`converted`
        writes an equation of one as one of the other.
    shared : bool
        With ``batch="independent"``: whether all samples are driven by the same noise, rather than
        each by its own.

    Raises
    ------
    TypeError, ValueError
        If a field is not callable, or `noise` or `calculus` is unknown.

    Notes
    -----
    With ``t1 < t0`` the noise is integrated in the direction of integration, from ``t0`` to ``t1``.

    Examples
    --------
    >>> import numpy as np
    >>> import ndereg.numpy as nde
    >>> walk = nde.SDE(lambda t, y, args: -y, lambda t, y, args: 0.1 + 0.0 * y, noise="additive")
    >>> walk.calculus
    'ito'
    """

    drift: Callable[..., Any]
    diffusion: Callable[..., Any] | None
    noise: NoiseKind = "diagonal"
    calculus: Calculus = "ito"
    shared: bool = False

    def __post_init__(self) -> None:
        for name in ("drift", "diffusion"):
            value = getattr(self, name)
            if not callable(value) and not (name == "diffusion" and value is None):
                raise TypeError(
                    f"expected a callable for SDE.{name}, received {value!r}; try a function "
                    "f(t, y, args)"
                )
        for name, known in (("noise", NOISE_KINDS), ("calculus", CALCULI)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(
                    f"expected SDE.{name} to be one of {', '.join(known)}, received {value!r}; try "
                    f"{known[0]!r}"
                )
        if not isinstance(self.shared, bool):
            raise TypeError(f"expected a bool for SDE.shared, received {self.shared!r}; try False")

    def converted(self, calculus: Calculus) -> SDE:
        r"""Return the same equation in the other calculus: the same solutions, another drift.

        The drift of Stratonovich is that of Ito less :math:`\frac12 \sum_j (\partial g_j /
        \partial y) g_j` over the columns ``g_j`` of the diffusion (Kloeden and Platen, "Numerical
        solution of stochastic differential equations", 1992, section 4.9). It is computed by a
        derivative of the diffusion along each column, one for diagonal and scalar noise, whenever
        the drift is evaluated, and differentiated with it.

        Parameters
        ----------
        calculus : {"ito", "stratonovich"}
            That of the equation itself returns the equation.

        Raises
        ------
        ValueError
            If `calculus` is unknown.

        Notes
        -----
        Of diagonal noise entry ``i`` of the diffusion has to depend on entry ``i`` of the state
        alone. A solve refuses one that does not, as far as it knows values before it starts; as a
        matrix of ``noise="general"`` it may. The diffusion has to be differentiable by the backend,
        and an ``@njit`` function is refused.

        Examples
        --------
        >>> import numpy as np
        >>> growth = SDE(lambda t, y, args: 0.5 * y, lambda t, y, args: 0.4 * y)
        >>> y = np.array([1.0, 2.0])
        >>> growth.converted("stratonovich").drift(0.0, y, None)  # 0.5 y - 0.4^2 y / 2
        array([0.42, 0.84])
        """
        if calculus not in CALCULI:
            raise ValueError(
                f"expected calculus to be one of {', '.join(CALCULI)}, received {calculus!r}; try "
                f"{CALCULI[0]!r}"
            )
        if calculus == self.calculus:
            return self
        if self.diffusion is None or self.noise == "additive":
            return replace(self, calculus=calculus)
        undone = ConvertedDrift(None, self.diffusion, self.noise, self.calculus)
        given = self.drift
        if isinstance(given, ConvertedDrift) and replace(given, drift=None) == undone:
            return replace(self, drift=given.drift, calculus=calculus)
        drift = ConvertedDrift(given, self.diffusion, self.noise, calculus)
        return replace(self, drift=drift, calculus=calculus)


@dataclass(frozen=True)
class ConvertedDrift:
    """The drift of an equation in the other calculus; what :meth:`SDE.converted` makes.

    Attributes
    ----------
    drift, diffusion : callable
        Of the equation as it was written.
    noise : {"diagonal", "scalar", "general"}
    calculus : {"ito", "stratonovich"}
        Of the equation that this is the drift of.
    derivatives : Derivatives or None
        Those of the backend that solves it; None takes those of the arrays' framework.
    """

    drift: Callable[..., Any] | None
    diffusion: Callable[..., Any]
    noise: NoiseKind
    calculus: Calculus
    derivatives: Any = None

    def __call__(self, t: Any, y: Any, args: Any) -> Any:
        """Evaluate the drift, and the correction by derivatives of the diffusion."""
        from ndereg.backends.conversion import corrected  # which needs arrays, as this does now

        assert self.drift is not None
        factor = -0.5 if self.calculus == "stratonovich" else 0.5
        columns = self.noise == "general"
        return corrected(
            self.drift, self.diffusion, factor, columns, self.derivatives, (t, y, args)
        )

    def __ndereg_field__(self, args: Any) -> tuple[ConvertedDrift, Any]:
        """Resolve the drift, where it stands for another one (:func:`ndereg.field.resolve`)."""
        stands_for = getattr(type(self.drift), "__ndereg_field__", None)
        if stands_for is None:
            return self, args
        drift, args = stands_for(self.drift, args)
        return replace(self, drift=drift), args
