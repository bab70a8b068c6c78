"""How the state of an equation moves at a point, before there is a step."""

from __future__ import annotations

from dataclasses import dataclass

from ndereg.plan.builder import Builder, Value
from ndereg.plan.program import Number, Slot
from ndereg.plan.reversible import handed_on
from ndereg.spec.langevin import LangevinMethod
from ndereg.spec.reversible import ReversibleHeun
from ndereg.spec.stochastic import Noise, StochasticMethod
from ndereg.spec.tableau import Tableau

DEVIATIONS = 3.0
"""Standard deviations of the noise that the automatic first step reckons with."""


@dataclass(frozen=True)
class Rates:
    """Rates at a point.

    Attributes
    ----------
    drift : Value
    spread : Value or None
        Standard deviations of the noise of every entry in a unit of time, a few of them; None
        without noise, and where the diffusion is only known by its product with noise.
    stage : Value
        What a first step takes over as its first stage.
    """

    drift: Value
    spread: Value | None
    stage: Value


class Motion:
    """The rates of an ordinary equation, or of a stochastic one with its noise.

    Attributes
    ----------
    start : Value
        What moves: the state, of a pair of states the first.
    noisy : bool
        Whether there is a path, which is not resolved below its cells.
    """

    def __init__(
        self, builder: Builder, method: Tableau | StochasticMethod, noise: Noise | None
    ) -> None:
        self._builder, self._noise = builder, noise
        self.noisy = noise is not None
        self._paired = isinstance(method, ReversibleHeun)
        self._langevin = isinstance(method, LangevinMethod)
        self.whole = builder.input("y", "state")
        self.start = self.whole
        if self._paired:
            self.start = Value(builder, builder.part("z", "y", 0))

    def rates(self, number: int, c: Number, scale: Slot, at: Slot) -> Rates:
        """Rates at ``t + c scale`` and a state."""
        builder, noise = self._builder, self._noise
        if self._langevin:
            return self._thermostatted(number, c, scale, at)
        drift = Value(builder, builder.evaluate(f"k{number}", c, scale, at))
        if noise is None or noise.coupling == "product":
            return Rates(drift, None, drift)
        matrix = noise.coupling == "matrix"
        name = f"g{number}" if number else "g0.noise"
        found = builder.evaluate(name, c, scale, at, field="diffusion", matrix=matrix)
        g, stage = Value(builder, found), drift
        if self._paired and handed_on(noise.coupling):
            stage = Value(builder, builder.join(f"{drift.slot}.pair", drift.slot, g.slot))
        if not matrix:
            return Rates(drift, abs(g) * DEVIATIONS, stage)
        rows = Value(builder, builder.contract("rows", abs(g).square().slot))
        return Rates(drift, abs(rows).sqrt() * DEVIATIONS, stage)

    def _thermostatted(self, number: int, c: Number, scale: Slot, at: Slot) -> Rates:
        """``(v, -gamma v - u grad f(x))``, and noise of deviation ``rho`` that moves ``v``."""
        builder = self._builder
        gamma, u, rho = (builder.input(name, "scalar") for name in ("gamma", "u", "rho"))
        x, v = (builder.part(f"{name}{number}", at, half) for half, name in enumerate("xv"))
        gradient = builder.evaluate(f"k{number}", c, scale, x)
        force = builder.combine(f"a{number}", None, ((gamma.slot, -1, v), (u.slot, -1, gradient)))
        drift = Value(builder, builder.join(f"drift{number}", v, force))
        steady = abs(Value(builder, v)) * 0.0 + rho * DEVIATIONS
        spread = Value(builder, builder.join(f"spread{number}", None, steady.slot))
        stage = Value(builder, builder.join(f"k{number}.pair", gradient, None))
        return Rates(drift, spread, stage)
