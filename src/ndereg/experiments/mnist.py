"""MNIST, classified by a neural ODE: the experiment of both papers.

Pal, Ma, Shah, Rackauckas (ICML 2021, arXiv:2105.03918), section 4.1; Pal, Edelman, Rackauckas
(ICML 2023, arXiv:2303.02262), section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ndereg.experiments.images import ImageTask, labelled
from ndereg.experiments.mnist_files import load_mnist
from ndereg.experiments.recipe import (
    Metric,
    Paper,
    Penalized,
    Published,
    Recipe,
    Settings,
    Task,
)
from ndereg.experiments.rows import published_rows

COUNTED = 512
"""Test images whose solve is counted: both papers measure one batch of this size."""

SOLVE = {"method": "tsit5", "rtol": 1.4e-8, "atol": 1.4e-8}

OURS = {
    **SOLVE,
    "batch_size": 512,
    # That of the error row's mean over the steps, so that both see as much penalty.
    "weights": {"local-unbiased": "100:10", "local-biased": "100:10"},
}
"""What our own presets share: Adam at its usual rate, and the weights of the first paper."""


@dataclass(frozen=True)
class MnistSettings(Settings):
    """Settings of the MNIST recipe; ``data`` is a path, None for the cached or public copy."""

    data: str | None = None
    hidden: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1:
            raise ValueError(f"expected hidden >= 1, received {self.hidden}")


class Mnist(Recipe):
    """The recipe behind ``ndereg compare mnist``."""

    name: ClassVar[str] = "mnist"
    settings_type: ClassVar[type[Settings]] = MnistSettings
    metric: ClassVar[Metric] = Metric("accuracy", "accuracy", percent=True)
    regularizers: ClassVar[Mapping[str, Penalized]] = published_rows(
        error="100:10",
        # The paper's text has 0.0285, its code 0.1 over the stability size 3.5068: the same.
        # The estimate here is divided by the stability size already.
        stiffness="0.1",
        local="2.5:1.0",
        # Order and weight of the paper's comparison, which ran TayNODE's own code.
        taynode="3.02e-3",
        order=3,
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # A fifth of the published length: the unregularized model has nearly stopped to improve.
        "default": {
            **OURS,
            "steps": 1500,
            "regularizers": ("none", "error", "local-unbiased"),
        },
        # Two cores: some minutes a row. So short a training flatters the evaluations.
        "quick": {
            **OURS,
            "steps": 300,
            "evaluate_every": 5,
            "regularizers": ("none", "error"),
        },
        # 75 epochs of 117 steps, momentum, and the weights in the rows above: text and code agree.
        # What the penalties are is that of the code, see the rows. Its mean over the steps counts
        # one more, of value 0, at the initial time.
        "opening-the-blackbox": {
            **SOLVE,
            "batch_size": 512,
            "steps": 8775,
            "optimizer": "momentum",
            "learning_rate": 0.1,
            "learning_rate_decay": 1e-5,
            "anneal": "epoch",
            "regularizers": ("none", "error", "stiffness", "error+stiffness"),
        },
        # The tolerance of the code (the text has 1e-8), otherwise they agree: Adam, 7,500 steps.
        "locally-regularized": {
            **SOLVE,
            "batch_size": 512,
            "steps": 7500,
            "learning_rate": 1e-3,
            "regularizers": ("none", "local-unbiased", "local-biased"),
        },
    }
    papers: ClassVar[Sequence[Paper]] = (
        Paper(
            "Pal, Ma, Shah, Rackauckas 2021, table 1",
            {
                "none": Published(0.9794, 253.0, 0.98, 0.094),
                "steer": Published(0.9794, 265.0, 1.31, 0.092),
                "taynode": Published(0.9789, 80.3, 1.19, 0.079),
                "stiffness": Published(0.9808, 259.0, 1.24, 0.094),
                "error": Published(0.9732, 177.0, 0.82, 0.060),
                "error+stiffness": Published(0.9777, 221.0, 1.37, 0.081),
                "steer+error": Published(0.9761, 197.0, 1.37, 0.086),
                "steer+stiffness": Published(0.9788, 275.0, 1.55, 0.101),
            },
        ),
        Paper(
            "Pal, Edelman, Rackauckas 2023, table 1",
            {
                "none": Published(0.97612, 303.559, 0.54, 0.088),
                "local-unbiased": Published(0.97526, 187.961, 0.49, 0.046),
                "local-biased": Published(0.97488, 182.849, 1.12, 0.044),
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
        assert isinstance(settings, MnistSettings)
        arrays = load_mnist(settings.data)
        train, test = (
            labelled(arrays[f"x_{part}"], arrays[f"y_{part}"], brightest=255.0)
            for part in ("train", "test")
        )
        return ImageTask(train, test, settings.hidden, counted=COUNTED)
