"""Handwritten digits, 8 by 8 pixels, classified by a neural ODE.

The architecture is the one of the papers' MNIST experiment: ``z = tanh([x, t] W1 + b1)``,
``dx/dt = tanh([z, t] W2 + b2)``, ``t`` from 0 to 1, and a linear head (Pal, Ma, Shah, Rackauckas,
ICML 2021, arXiv:2105.03918). The data, UCI's optical recognition of handwritten digits, come with
scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ndereg.experiments.objectives import (
    accuracy,
    softmax_cross_entropy,
    softmax_cross_entropy_vjp,
)
from ndereg.experiments.recipe import Batch, Metric, Penalized, Recipe, Settings, Task
from ndereg.models.dense import Affine
from ndereg.models.mlp import MLP
from ndereg.models.neural_ode import NeuralODE
from ndereg.models.parameters import Parameters, map_leaves, stream
from ndereg.spec.regularizer import ErrorEstimate, Local, StiffnessEstimate

PIXELS, CLASSES = 64, 10
TRAINING = 1280
"""Samples to train on: five whole batches of 256. The other 517 of the 1,797 are the test set."""


@dataclass(frozen=True)
class DigitsSettings(Settings):
    """Settings of the digits recipe."""

    hidden: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1:
            raise ValueError(f"expected hidden >= 1, received {self.hidden}")
        if not 1 <= self.batch_size <= TRAINING:
            raise ValueError(
                f"expected a batch size of at most {TRAINING}, the training set, "
                f"received {self.batch_size}"
            )


def load_digits() -> tuple[Batch, Batch]:
    """Return training and test data: ``x`` (B, 64) in [0, 1] and one-hot ``label`` (B, 10).

    The split is fixed: seeds vary the model and the batches, not the question that is asked.
    """
    from sklearn import datasets

    pixels, labels = datasets.load_digits(return_X_y=True)
    order = stream(0, "digits.split").permutation(len(pixels))
    data = {
        "x": (pixels[order] / 16.0).astype("float32"),
        "label": np.eye(CLASSES, dtype="float32")[labels[order]],
    }
    return (
        {name: array[:TRAINING] for name, array in data.items()},
        {name: array[TRAINING:] for name, array in data.items()},
    )


class DigitsTask(Task):
    """A neural ODE from pixels to features, and a linear head."""

    def __init__(self, hidden: int) -> None:
        self.field = MLP((PIXELS, hidden, PIXELS), output_activation="tanh")
        self.train, self.test = load_digits()

    def init(self, seed: int) -> Parameters:
        """Return initial parameters."""
        head = MLP((PIXELS, CLASSES), time="none").init(seed, scope="head")
        return {"field": self.field.init(seed), "head": head["0"]}

    def encode(self, params: Parameters, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the pixels: they are the initial state."""
        return batch["x"], None

    def encode_vjp(self, params: Parameters, batch: Batch) -> tuple[tuple[Any, Any], Callable]:
        """Return the pixels, on which no parameter has an influence."""

        def pullback(y0_bar: Any, context_bar: Any) -> Parameters:
            return map_leaves(np.zeros_like, params)

        return (batch["x"], None), pullback

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
            head=Affine(PIXELS, CLASSES),
            t_span=self.t_span,
            method=settings.method,
            rtol=settings.rtol,
            atol=settings.atol,
        )


class Digits(Recipe):
    """The recipe behind ``ndereg compare digits``."""

    name: ClassVar[str] = "digits"
    settings_type: ClassVar[type[Settings]] = DigitsSettings
    metric: ClassVar[Metric] = Metric("accuracy", "accuracy", percent=True)
    regularizers: ClassVar[Mapping[str, Penalized]] = {
        "none": Penalized(None),
        "error": Penalized(ErrorEstimate(), "2.5:1.0"),
        # Weak: measured with weights from 0.1 up, the model learns to lower the estimate at the
        # cost of more steps. The estimate sees the field along one direction only.
        "stiffness": Penalized(StiffnessEstimate(reduce="max"), "0.01"),
        "error+stiffness": Penalized(
            ErrorEstimate() + 0.1 * StiffnessEstimate(times_step=True), "2.5:1.0"
        ),
        # One step instead of all of them: measured with the weight of "error", nothing is gained.
        "local-unbiased": Penalized(Local(ErrorEstimate()), "25:10"),
        "local-biased": Penalized(Local(ErrorEstimate(), sampling="biased"), "25:10"),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # So many epochs that the unregularized model, too, has stopped becoming costlier.
        "default": {
            "regularizers": ("none", "error", "stiffness", "error+stiffness"),
            "epochs": 400,
        },
    }

    def task(self, settings: Settings) -> Task:
        """Build the model and load the data."""
        assert isinstance(settings, DigitsSettings)
        return DigitsTask(settings.hidden)
