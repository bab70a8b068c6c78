"""The diffusion of an equation times its noise, outside of a step program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ndereg.spec.stochastic import Coupling, Noise


def adjoint_noise(noise: Noise | None) -> Noise | None:
    """Return the noise of the continuous adjoint, of which only products are computed."""
    return None if noise is None else replace(noise, coupling="product")


@dataclass(frozen=True)
class NoiseProduct:
    """``g dW`` and its transpose on arrays of any framework.

    Attributes
    ----------
    coupling : {"diagonal", "scalar", "matrix"}
        Of the equation.
    channels : int
        Of the noise of a sample.
    independent : bool
        Whether the state leads with samples that have noise of their own.
    shape : tuple of int
        Of the state.
    """

    coupling: Coupling
    channels: int
    independent: bool
    shape: tuple[int, ...]

    def __call__(self, g: Any, noise: Any) -> Any:
        """Return ``g dW`` for noise ``(1, samples * channels)``, in the shape of the state."""
        if self.coupling == "matrix":
            return (g.reshape((*self.shape, -1)) * self._met(noise)).sum(-1)
        return g * self._met(noise)

    def transposed(self, g: Any, a: Any, noise: Any) -> Any:
        """Return the cotangent of ``g`` for that of ``g dW``."""
        if self.coupling == "matrix":
            return (a[..., None] * self._met(noise)).reshape(g.shape)
        return a * self._met(noise)

    def _met(self, noise: Any) -> Any:
        """The noise in the shape in which it meets the diffusion."""
        noise = noise.reshape((-1, self.channels))  # one row where all samples share it
        match self.coupling:
            case "diagonal":
                return noise if self.independent else noise.reshape(self.shape)
            case "scalar":
                return noise if self.independent else noise.reshape(())
            case _:
                return noise[:, None, :] if self.independent else noise[0]
