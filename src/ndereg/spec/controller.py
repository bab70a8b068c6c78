"""Step-size controllers, as data.

The control law itself is the scalar program in :mod:`ndereg.plan.control`; a controller here only
holds its coefficients. They are run-time values: changing one never recompiles a solver.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

CONTROL_PARAMETERS = (
    "beta1", "beta2", "beta3", "alpha", "exponent",
    "safety", "factor_min", "factor_max", "dt_min", "dt_max",
)  # fmt: skip
"""Names of the run-time scalars that the control program reads, in order."""


@dataclass(frozen=True)
class PIDController:
    r"""Proportional-integral-derivative control of the local error.

    With ``k`` the order of the error estimate and ``E_n`` its scaled norm (accepted when
    ``E_n <= 1``), the next step is ``h_n`` times

    .. math:: \mathrm{safety}\; E_n^{-\beta_1/k} E_{n-1}^{-\beta_2/k} E_{n-2}^{-\beta_3/k}
              (h_n/h_{n-1})^{-\alpha},

    clipped to ``[factor_min, factor_max]``, with ``beta = (p + i + d, -(p + 2d), d)``
    (Soderlind 2003, doi:10.1145/641876.641877). After a rejection the factor is at most 1; a
    rejected step itself is shrunk by the integral law ``safety * E_n^(-1/k)``; a non-finite
    ``E_n`` shrinks it by ``factor_min``.

    Parameters
    ----------
    pcoeff, icoeff, dcoeff : float
        Coefficients of the law. The default ``(0, 1, 0)`` is the classical I controller
        (Hairer, Norsett, Wanner, section II.4), the one SciPy uses. ``icoeff`` is the sum of the
        exponents and positive: to errors that stay as they are the law responds by
        ``E^(-icoeff/k)``.
    alpha : float
        Exponent of the ratio of the last two step sizes (digital filters such as H211b).
    safety, factor_min, factor_max : float
        Safety factor in (0, 1] and limits ``0 < factor_min < 1 <= factor_max``.
    dt_min, dt_max : float or None
        Bounds of the size of a step, in units of time. A rejected step that would have to
        become smaller than ``dt_min`` ends the solve with ``Status.STEP_UNDERFLOW``.

    Raises
    ------
    ValueError
        If a coefficient is not finite, ``icoeff`` not positive, or a limit out of its range.

    Examples
    --------
    >>> PIDController(pcoeff=0.4, icoeff=0.3).parameters(5)[:2]
    (0.13999999999999999, -0.08)
    """

    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    alpha: float = 0.0
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0
    dt_min: float | None = None
    dt_max: float | None = None

    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name in ("dt_min", "dt_max"):
                continue
            object.__setattr__(self, field.name, _finite(f"PIDController.{field.name}", value))
        if self.icoeff <= 0:
            raise ValueError(
                "expected a positive icoeff, the sum of the exponents of the errors, as steps "
                "would not grow where errors stay small and shrink where they stay large, received "
                f"icoeff={self.icoeff}; try 1.0, or one of ndereg.CONTROLLERS"
            )
        if not 0 < self.safety <= 1:
            raise ValueError(f"expected safety in (0, 1], received {self.safety}; try 0.9")
        if not 0 < self.factor_min < 1 <= self.factor_max:
            raise ValueError(
                "expected 0 < factor_min < 1 <= factor_max, received "
                f"factor_min={self.factor_min}, factor_max={self.factor_max}; try 0.2 and 10"
            )
        low = 0.0 if self.dt_min is None else self.dt_min
        high = math.inf if self.dt_max is None else self.dt_max
        if not 0 <= low <= high or high <= 0:
            raise ValueError(
                f"expected 0 <= dt_min <= dt_max and dt_max > 0, received dt_min={self.dt_min}, "
                f"dt_max={self.dt_max}; try sizes of a step, without a sign, in this order"
            )

    def parameters(self, error_order: float) -> tuple[float, ...]:
        """Values of :data:`CONTROL_PARAMETERS` for an error estimate of order ``error_order``."""
        k = float(error_order)
        return (
            (self.pcoeff + self.icoeff + self.dcoeff) / k,
            -(self.pcoeff + 2 * self.dcoeff) / k,
            self.dcoeff / k,
            self.alpha,
            1.0 / k,
            self.safety,
            self.factor_min,
            self.factor_max,
            0.0 if self.dt_min is None else self.dt_min,
            math.inf if self.dt_max is None else self.dt_max,
        )


@dataclass(frozen=True)
class ConstantStep:
    """Steps of one size ``dt`` (a positive time), the last one shortened to land on the end.

    No step is rejected; a non-finite state ends the solve with ``Status.NON_FINITE``.

    Raises
    ------
    ValueError
        If ``dt`` is not a finite positive number.

    Examples
    --------
    >>> ConstantStep(0.1).dt
    0.1
    """

    dt: float

    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dt", _finite("ConstantStep.dt", self.dt))
        if self.dt <= 0:
            raise ValueError(
                f"expected a positive step size, received dt={self.dt}; the direction of time "
                "comes from t_span, try the size without a sign"
            )

    def parameters(self, error_order: float) -> tuple[float, ...]:
        """Values of :data:`CONTROL_PARAMETERS`; a constant step reads none of them."""
        return (0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, math.inf)


Controller = PIDController | ConstantStep


def _finite(name: str, value: object) -> float:
    refusal = TypeError(f"expected a number for {name}, received {value!r}; try a float")
    if isinstance(value, (bool, str)):
        raise refusal
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise refusal from None
    if not math.isfinite(number):
        raise ValueError(
            f"expected a finite number for {name}, received {value!r}; try its default"
        )
    return number
