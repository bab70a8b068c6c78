"""AdaBelief in PyTorch, whose own optimizers do not have it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class AdaBelief(torch.optim.Optimizer):
    """See :class:`ndereg.models.optimizers.AdaBelief`, which this is step by step.

    Parameters
    ----------
    params : iterable of Tensor
    lr : float
    betas : (float, float)
    eps : float
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    state["mean"] = torch.zeros_like(parameter)
                    state["spread"] = torch.zeros_like(parameter)
                state["step"] += 1
                count = float(state["step"])
                mean, spread = state["mean"], state["spread"]
                mean.lerp_(gradient, 1.0 - first)
                missed = gradient - mean
                spread.mul_(second).addcmul_(missed, missed, value=1.0 - second).add_(group["eps"])
                scale = (spread / (1.0 - second**count)).sqrt() + group["eps"]
                parameter.addcdiv_(mean, scale, value=-group["lr"] / (1.0 - first**count))
        return loss
