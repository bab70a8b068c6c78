"""MNIST, classified by a neural stochastic equation: the stochastic experiment of both papers.

Pal, Ma, Shah, Rackauckas (ICML 2021, arXiv:2105.03918), section 4.4; Pal, Edelman, Rackauckas
(ICML 2023, arXiv:2303.02262), section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ndereg import ops
from ndereg.experiments.images import CLASSES, labelled
from ndereg.experiments.mnist_files import load_mnist
from ndereg.experiments.objectives import (
    accuracy,
    softmax_cross_entropy,
    softmax_cross_entropy_vjp,
)
from ndereg.experiments.recipe import (
    Batch,
    Metric,
    Paper,
    Penalized,
    Published,
    Recipe,
    Settings,
    Task,
)
from ndereg.models.dense import Affine
from ndereg.models.differentiation import Differentiated
from ndereg.models.mlp import MLP
from ndereg.models.neural_sde import NeuralSDE
from ndereg.models.parameters import Parameters, map_leaves
from ndereg.spec.regularizer import ErrorEstimate, Local, StiffnessEstimate
from ndereg.spec.stochastic import Noise

COUNTED = 512
"""Test images whose solve is counted: both papers measure one batch of this size."""

KEY = 0
"""Of the noise of predictions."""


@dataclass(frozen=True)
class MnistSDESettings(Settings):
    """Settings of the mnist-sde recipe; ``data`` is a path, None for the cached or public copy."""

    data: str | None = None
    state: int = 32
    hidden: int = 64
    """Width of the drift's hidden layer."""
    paths: int = 10
    """Whose logits a prediction averages; in training there is one."""
    tested: int | None = None
    """Test images that are predicted, the first ones; all by default. Noise of its own for every
    path of every image makes a prediction some ten times as dear as a training step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("state", "hidden", "paths", "tested"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected {name} >= 1, received {value}")


class MnistSDETask(Task):
    """An affine encoder, a neural stochastic equation, a linear head.

    A batch holds ``x`` (B, pixels) and one-hot ``label`` (B, 10); one that is predicted also
    ``paths`` (B, P), zeros: as many paths are solved of every image.

    Parameters
    ----------
    train, test : Batch
        As :func:`ndereg.experiments.images.labelled` returns them.
    settings : MnistSDESettings
    """

    def __init__(self, train: Batch, test: Batch, settings: MnistSDESettings) -> None:
        test = {name: array[: settings.tested] for name, array in test.items()}
        paths = np.zeros((len(test["x"]), settings.paths), "float32")
        self.train, self.test = train, {**test, "paths": paths}
        self.counted = {name: array[:COUNTED] for name, array in self.test.items()}
        n = settings.state
        self.description = NeuralSDE(
            drift=MLP((n, settings.hidden, n), time="none"),
            diffusion=Affine(n, n),
            encoder=Affine(train["x"].shape[1], n),
            head=Affine(n, CLASSES),
            paths=settings.paths,
            method=settings.method,
            rtol=settings.rtol,
            atol=settings.atol,
        )
        self.field = self.description.equation  # type: ignore[assignment]
        self._encoded = Differentiated(lambda x, params: self.description.encode(x, params))
        self._decoded = Differentiated(lambda ys, params: self.description.decode(ys, params))

    def prediction(self) -> tuple[Any, dict[str, Any]]:
        """Return the equation with the noise of predictions."""
        return self.field, {"key": KEY}

    def init(self, seed: int) -> Parameters:
        """Return initial parameters."""
        return self.description.init(seed, scope="model")

    def encode(self, params: Parameters, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the initial states, (B, n), or (B, P, n) of several paths."""
        y0 = self.description.encode(batch["x"], params)
        if "paths" in batch:
            y0 = y0[:, None, :] + batch["paths"][:, :, None]
        return y0, None

    def encode_vjp(self, params: Parameters, batch: Batch) -> tuple[tuple[Any, Any], Callable]:
        """Return the initial states and their pullback."""
        y0, encoder_pullback = self._encoded(batch["x"], {"encoder": params["encoder"]})

        def pullback(y0_bar: Any, context_bar: Any) -> Parameters:
            params_bar = map_leaves(np.zeros_like, params)
            params_bar["encoder"] = encoder_pullback(y0_bar)[1]["encoder"]
            return params_bar

        return (y0, None), pullback

    def decode(self, params: Parameters, ys: Any, context: Any) -> Any:
        """Return the logits, (B, 10), the mean of those of all paths."""
        logits = self.description.decode(ys, params)
        return ops.mean(logits, axis=1) if len(logits.shape) == 3 else logits

    def loss(
        self, params: Parameters, ys: Any, context: Any, batch: Mapping[str, Any], step: Any
    ) -> Any:
        """Return the mean cross-entropy."""
        return softmax_cross_entropy(self.decode(params, ys, context), batch["label"])

    def loss_vjp(
        self, params: Parameters, ys: Any, context: Any, batch: Batch, step: int
    ) -> tuple[Any, tuple[Parameters, Any, Any]]:
        """Return the mean cross-entropy and its gradients."""
        logits, pullback = self._decoded(ys, {"head": params["head"]})
        loss, logits_bar = softmax_cross_entropy_vjp(logits, batch["label"])
        ys_bar, head_bar = pullback(logits_bar)
        params_bar = map_leaves(np.zeros_like, params)
        params_bar["head"] = head_bar["head"]
        return loss, (params_bar, ys_bar, None)

    def scores(self, output: np.ndarray, batch: Batch) -> dict[str, float]:
        """Return accuracy and loss."""
        return {
            "accuracy": accuracy(output, batch["label"]),
            "loss": float(softmax_cross_entropy(output, batch["label"])),
        }

    def layer(self, settings: Settings) -> NeuralSDE:
        """Return the architecture, solved as it was trained."""
        return self.description


PUBLISHED: Mapping[str, Any] = {
    "method": "sosri",
    "rtol": 0.14,
    "atol": 0.14,
    "batch_size": 512,
    "learning_rate": 0.01,
}


class MnistSDE(Recipe):
    """The recipe behind ``ndereg compare mnist-sde``."""

    name: ClassVar[str] = "mnist-sde"
    settings_type: ClassVar[type[Settings]] = MnistSDESettings
    metric: ClassVar[Metric] = Metric("accuracy", "accuracy", percent=True)
    noise: ClassVar[Noise | None] = Noise("diagonal", "ito", "diagonal")
    regularizers: ClassVar[Mapping[str, Penalized]] = {
        "none": Penalized(None),
        "error": Penalized(ErrorEstimate(reduce="mean"), "10"),
        # Of sosri2, which has the pair of stages; divided by its stability size, 10.6.
        "stiffness": Penalized(StiffnessEstimate(reduce="mean"), "0.1"),
        "local-unbiased": Penalized(Local(ErrorEstimate()), "1000"),
        "local-biased": Penalized(Local(ErrorEstimate(), sampling="biased"), "1000"),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Two cores: a sixth of the published length, and a part of the test set.
        "default": {
            **PUBLISHED,
            "steps": 800,
            "tested": 2000,
            "regularizers": ("none", "error"),
        },
        "quick": {
            **PUBLISHED,
            "steps": 150,
            "paths": 2,
            "tested": 1000,
            "regularizers": ("none", "error"),
        },
        # 40 epochs of 117 steps. The stiffness row is one of --method sosri2, and its ratio one to
        # a row "none" of that method.
        "opening-the-blackbox": {
            **PUBLISHED,
            "steps": 4680,
            "learning_rate_decay": 1e-5,
            "regularizers": ("none", "error"),
        },
        # The method of the code; the text has sosri2.
        "locally-regularized": {
            **PUBLISHED,
            "steps": 4000,
            "regularizers": ("none", "local-unbiased", "local-biased"),
        },
    }
    papers: ClassVar[Sequence[Paper]] = (
        Paper(
            "Pal, Ma, Shah, Rackauckas 2021, table 4",
            {
                "none": Published(0.9695, 411.33, 6.32, 15.07),
                "stiffness": Published(0.9680, 382.0, 8.54, 14.50),
                "error": Published(0.9627, 184.67, 4.19, 7.23),
            },
        ),
        Paper(
            "Pal, Edelman, Rackauckas 2023, table 1",
            {
                "none": Published(0.9666, 313.86, 2.70, 0.51),
                "local-unbiased": Published(0.9657, 228.93, 2.10, 0.39),
                "local-biased": Published(0.9644, 230.10, 1.90, 0.36),
            },
        ),
    )

    def task(self, settings: Settings) -> Task:
        """Read the files and build the model.

        Raises
        ------
        ValueError
            If there are no files, or they hold something else.
        """
        assert isinstance(settings, MnistSDESettings)
        arrays = load_mnist(settings.data)
        train, test = (
            labelled(arrays[f"x_{part}"], arrays[f"y_{part}"], brightest=255.0)
            for part in ("train", "test")
        )
        return MnistSDETask(train, test, settings)
