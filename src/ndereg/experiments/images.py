"""Images classified by a neural ODE.

The architecture is the one of the papers' MNIST experiment: ``z = tanh([x, t] W1 + b1)``,
``dx/dt = tanh([z, t] W2 + b2)``, ``t`` from 0 to 1, and a linear head (Pal, Ma, Shah, Rackauckas,
ICML 2021, arXiv:2105.03918).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ndereg.experiments.fitted import UnencodedTask
from ndereg.experiments.objectives import (
    accuracy,
    softmax_cross_entropy,
    softmax_cross_entropy_vjp,
)
from ndereg.experiments.recipe import Batch, Settings
from ndereg.models.dense import Affine
from ndereg.models.mlp import MLP
from ndereg.models.neural_ode import NeuralODE
from ndereg.models.parameters import Parameters, map_leaves

CLASSES = 10


def labelled(pixels: np.ndarray, labels: np.ndarray, brightest: float) -> Batch:
    """Return ``x`` (B, pixels) in [0, 1] and one-hot ``label`` (B, 10), single precision."""
    return {
        "x": (pixels.reshape(len(pixels), -1) / brightest).astype("float32"),
        "label": np.eye(CLASSES, dtype="float32")[labels],
    }


class ImageTask(UnencodedTask):
    """A neural ODE from pixels to features, and a linear head.

    Parameters
    ----------
    train, test : Batch
        As :func:`labelled` returns them.
    hidden : int
        Width of the field's hidden layer.
    counted : int, optional
        Test images in the solve that is counted and timed; all by default.
    """

    def __init__(self, train: Batch, test: Batch, hidden: int, counted: int | None = None) -> None:
        self.train, self.test = train, test
        self.counted = test if counted is None else {k: v[:counted] for k, v in test.items()}
        self.pixels = train["x"].shape[1]
        self.field = MLP((self.pixels, hidden, self.pixels), output_activation="tanh")

    def init(self, seed: int) -> Parameters:
        """Return initial parameters."""
        head = MLP((self.pixels, CLASSES), time="none").init(seed, scope="head")
        return {"field": self.field.init(seed), "head": head["0"]}

    def encode(self, params: Parameters, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the pixels: they are the initial state."""
        return batch["x"], None

    def decode(self, params: Parameters, ys: Any, context: Any) -> Any:
        """Return the logits, shape (B, 10)."""
        return ys @ params["head"]["weight"] + params["head"]["bias"]

    def loss(
        self, params: Parameters, ys: Any, context: Any, batch: Mapping[str, Any], step: Any
    ) -> Any:
        """Return the mean cross-entropy."""
        return softmax_cross_entropy(self.decode(params, ys, context), batch["label"])

    def loss_vjp(
        self, params: Parameters, ys: Any, context: Any, batch: Batch, step: int
    ) -> tuple[Any, tuple[Parameters, Any, Any]]:
        """Return the mean cross-entropy and its gradients."""
        logits = self.decode(params, ys, context)
        loss, logits_bar = softmax_cross_entropy_vjp(logits, batch["label"])
        params_bar = map_leaves(np.zeros_like, params)
        params_bar["head"] = {"weight": ys.T @ logits_bar, "bias": logits_bar.sum(axis=0)}
        return loss, (params_bar, logits_bar @ params["head"]["weight"].T, None)

    def scores(self, output: np.ndarray, batch: Batch) -> dict[str, float]:
        """Return accuracy and loss."""
        return {
            "accuracy": accuracy(output, batch["label"]),
            "loss": float(softmax_cross_entropy(output, batch["label"])),
        }

    def layer(self, settings: Settings) -> NeuralODE:
        """Return the architecture, solved as it was trained."""
        return NeuralODE(
            self.field,
            head=Affine(self.pixels, CLASSES),
            t_span=self.t_span,
            method=settings.method,
            rtol=settings.rtol,
            atol=settings.atol,
        )
