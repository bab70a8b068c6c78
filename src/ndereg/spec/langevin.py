r"""Methods for underdamped Langevin dynamics, as plain Python numbers.

They integrate the linear part of ``dx = v dt, dv = -gamma v dt - u grad f(x) dt + rho dW``, with
``rho = sqrt(2 gamma u)``, exactly, so that their coefficients are integrals of exponentials. All of
them are combinations of the moments

.. math:: E_k(z) = \int_0^1 e^{-z s} P_k(1 - 2 s)\, ds

of the Legendre polynomials, at ``z = theta gamma h`` for a few fractions ``theta`` of a step. In
closed form the coefficients cancel where friction or step are small; the moments do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ndereg.spec.stochastic import Calculus, ServedKind, StochasticMethod
from ndereg.spec.tableau import Number

Part = tuple[int, Number]
"""Order ``k`` of a moment, or -1 for ``exp(-z)``, and its fraction ``theta``."""
DECAY = -1


@dataclass(frozen=True)
class Coefficient:
    """``h**power * sum(number * E_k(theta gamma h))``.

    Examples
    --------
    >>> Coefficient((((0, 1), 2.0),), 1) + 3 * Coefficient((((0, 1), 1.0),), 1)
    Coefficient(parts=(((0, 1), 5.0),), power=1)
    """

    parts: tuple[tuple[Part, Number], ...]
    power: int = 0

    def __add__(self, other: Coefficient) -> Coefficient:
        if self.power != other.power:
            raise ValueError(f"expected powers of h that agree, received {self} and {other}")
        total = dict(self.parts)
        for part, number in other.parts:
            total[part] = total.get(part, 0) + number
        return Coefficient(tuple(total.items()), self.power)

    def __rmul__(self, factor: Number) -> Coefficient:
        return Coefficient(tuple((part, factor * n) for part, n in self.parts), self.power)

    def __sub__(self, other: Coefficient) -> Coefficient:
        return self + (-1) * other

    @property
    def times_h(self) -> Coefficient:
        """The coefficient times the size of the step."""
        return Coefficient(self.parts, self.power + 1)


Operand = Literal["x", "v", "f1", "f2", "f3", "W", "H", "K"]
"""Position and velocity at the start, gradients of the potential, what is known of the path."""
Form = tuple[tuple[Operand, Coefficient], ...]
"""A combination; gradients are meant times ``u``, the noise times ``rho``."""


@dataclass(frozen=True, repr=False)
class LangevinMethod(StochasticMethod):
    """A method for :class:`ndereg.UnderdampedLangevin`.

    Parameters
    ----------
    name : str
    order : float
        Strong order, of a smooth potential.
    gradients : tuple of (c, Form)
        Where in time and at which position each gradient is evaluated; a form may read the
        gradients before.
    position, velocity : Form
        Of the new state.
    last : bool
        Whether the last gradient is that at the new position, which begins the next step.
    error : Form or None
        Of the embedded error estimate of the velocity. Without one the estimate is that of a step
        halved: the difference of one step and of two of half its size, which are then the solution.
    reference : str

    Examples
    --------
    >>> from ndereg.catalogue import lookup
    >>> lookup("quicsort")
    <LangevinMethod 'quicsort': ito, langevin (3)>
    """

    name: str
    order: float
    gradients: tuple[tuple[Number, Form], ...]
    position: Form
    velocity: Form
    last: bool
    error: Form | None
    reference: str

    calculus: Calculus = field(default="ito", init=False)
    adaptive: bool = field(default=True, init=False)
    pairs: ClassVar[bool] = True

    @property
    def orders(self) -> tuple[tuple[ServedKind, float], ...]:  # type: ignore[override]
        """Of the one kind of noise that the method serves."""
        return (("langevin", self.order),)

    @property
    def error_order(self) -> float:  # type: ignore[override]
        """Half an order above that of the solution; 2 where it is how the gradient changes."""
        return self.order + 0.5 if self.halved else 2.0

    @property
    def stages(self) -> int:  # type: ignore[override]
        """Number of gradients."""
        return len(self.gradients)

    @property
    def fsal(self) -> bool:  # type: ignore[override]
        """Whether the last gradient begins the next step."""
        return self.last

    @property
    def halved(self) -> bool:
        """Whether errors are estimated by halving the step."""
        return self.error is None


def decay(theta: Number = 1) -> Coefficient:
    """``exp(-theta gamma h)``."""
    return Coefficient((((DECAY, theta), 1),))


def moment(k: int, theta: Number = 1) -> Coefficient:
    """``E_k(theta gamma h)``."""
    return Coefficient((((k, theta), 1),))


def check_langevin(method: LangevinMethod) -> None:
    """Check what the coefficients of a consistent method satisfy without friction.

    There ``x1 = x + h v - h^2 u (mean gradient) / 2``, ``v1 = v - h u (mean gradient)``, and every
    position that a gradient is evaluated at has moved by ``c h v``.

    Raises
    ------
    ValueError
        Naming what is violated.
    """

    def expect(what: str, value: Number, wanted: Number) -> None:
        if abs(float(value) - float(wanted)) > 1e-12:
            raise ValueError(
                f"method {method.name!r}: expected {what} to be {wanted} without friction, "
                f"received {float(value)!r}; try the coefficients as they were published"
            )

    for number, (c, form) in enumerate(method.gradients, 1):
        expect(f"the weight of v in the position of gradient {number}", _weight(form, "v"), c)
    position, velocity = method.position, method.velocity
    expect("the weight of v in the position", _weight(position, "v"), 1)
    expect("the weight of v in the velocity", _weight(velocity, "v"), 1)
    expect("the weight of W in the velocity", _weight(velocity, "W"), 1)
    expect("the weight of W in the position", _weight(position, "W"), 0.5)
    expect("the weight of H in the position", _weight(position, "H"), 1)
    gradients: tuple[Operand, ...] = ("f1", "f2", "f3")
    expect(
        "the weight of gradients in the velocity", sum(_weight(velocity, f) for f in gradients), -1
    )
    expect("that in the position", sum(_weight(position, f) for f in gradients), -0.5)


def _weight(form: Form, operand: Operand) -> float:
    """Weight of an operand at ``gamma = 0`` and ``h = 1``."""
    coefficient = dict(form).get(operand, Coefficient(()))
    return float(sum(number for (k, _), number in coefficient.parts if k in (DECAY, 0)))
