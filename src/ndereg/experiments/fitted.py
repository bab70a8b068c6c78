"""Tasks whose parameters are all in the field, and those without an encoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from ndereg.experiments.recipe import Batch, Task
from ndereg.models.differentiation import Differentiated
from ndereg.models.parameters import Parameters, map_leaves


class UnencodedTask(Task):
    """A task on whose initial state no parameter has an influence."""

    def encode_vjp(self, params: Parameters, batch: Batch) -> tuple[tuple[Any, Any], Callable]:
        """Return :meth:`encode` and a pullback to zeros."""

        def pullback(y0_bar: Any, context_bar: Any) -> Parameters:
            return map_leaves(np.zeros_like, params)

        return self.encode(params, batch), pullback


class FittedTask(UnencodedTask):
    """A task whose loss is a function of the solution and the batch alone."""

    @abstractmethod
    def misfit(self, ys: Any, batch: Mapping[str, Any]) -> Any:
        """Return the loss, computed with :mod:`ndereg.ops`, operators and indexing."""

    @cached_property
    def _misfit(self) -> Differentiated:
        return Differentiated(self.misfit)

    def loss(
        self, params: Parameters, ys: Any, context: Any, batch: Mapping[str, Any], step: Any
    ) -> Any:
        """Return the misfit."""
        return self.misfit(ys, batch)

    def loss_vjp(
        self, params: Parameters, ys: Any, context: Any, batch: Batch, step: int
    ) -> tuple[Any, tuple[Parameters, Any, Any]]:
        """Return the misfit and its gradients."""
        loss, pullback = self._misfit(ys, batch)
        ys_bar, _ = pullback(np.ones_like(loss))
        return loss, (map_leaves(np.zeros_like, params), ys_bar, None)
