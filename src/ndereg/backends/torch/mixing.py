"""Instructions that mix the entries of a state with those of its noise, or two states."""

from __future__ import annotations

from typing import Any

import torch

from ndereg.backends.base import Problem
from ndereg.backends.interpreter import half


class Mixing:
    """The part of a machine on tensors that knows matrices of noise and pairs of states."""

    problem: Problem
    joint: bool

    def contract(self, diffusion: Any, noise: torch.Tensor | None) -> torch.Tensor:
        """A matrix for every entry of the state and every channel, times the noise."""
        if isinstance(diffusion, tuple):
            equation = self.problem.diffusion
            assert equation is not None
            return equation.call(*diffusion, self.problem.args, noise)
        if noise is None:
            return diffusion.sum(-1)
        return (diffusion * self._channels(noise)).sum(-1)

    def outer(self, state: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The transpose of :meth:`contract`."""
        return state.unsqueeze(-1) * self._channels(noise)

    def part(self, pair: torch.Tensor, index: int) -> Any:
        """One half of a pair of states."""
        return half(pair, index)

    def join(self, first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor:
        """Return the pair of two states; None is zero."""
        if first is None:
            assert second is not None
            first = torch.zeros_like(second)
        return torch.cat([first, torch.zeros_like(first) if second is None else second], dim=-1)

    def _channels(self, noise: torch.Tensor) -> torch.Tensor:
        return noise[0] if self.joint else noise.unsqueeze(-2)
