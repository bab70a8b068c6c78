"""PhysioNet 2012, set A, by a latent ODE: the experiment of both papers.

Pal, Ma, Shah, Rackauckas (ICML 2021, arXiv:2105.03918), section 4.2; Pal, Edelman, Rackauckas
(ICML 2023, arXiv:2303.02262), section 4.2.

The papers have the 8,000 records of sets A and B, of which 6,400, at random and anew for every
run, are trained on. Here it is set A's 4,000, split once: seeds vary the model and the batches, not
the question that is asked. The published test loss is that of a drawn initial state, ours that of
the mean, which is deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ndereg.experiments.latent import Annealing, LatentTask, Widths, observed
from ndereg.experiments.physionet_files import (
    CHANNELS,
    Series,
    binned,
    exact,
    load_physionet,
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
from ndereg.experiments.rows import published_rows
from ndereg.models.parameters import stream

COUNTED = 512
"""Test series whose solve is counted: the papers measure one batch of this size."""

TRAINED = 0.8
"""Part of the records that is trained on."""

TIMES = {"hourly": 60, "two-hourly": 120, "exact": 0}
"""Minutes of a bin by the name of a choice of times; exact times are not binned."""


@dataclass(frozen=True)
class PhysioNetSettings(Settings):
    """Settings of the PhysioNet recipe; ``data`` is the path of the archive."""

    data: str | None = None
    times: str = "hourly"
    """The papers' 49 times are ``"hourly"`` from 0 to 48 hours; ``"two-hourly"`` are 25. With
    ``"exact"`` every record is read at its own times, to the minute, and one solve for the batch
    answers at the union of them all."""
    latent: int = 20
    hidden: int = 50
    recognition: int = 50
    units: int = 40
    blocks: int = 4
    kl_start: int = 100
    kl_period: int = 10
    """The weight of the KL divergence is 0 for ``kl_start`` optimizer steps, and ``1 - 0.99^n``
    after ``n`` periods of ``kl_period`` more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.times not in TIMES:
            raise ValueError(f"expected times among {', '.join(TIMES)}, received {self.times!r}")
        for name in ("latent", "hidden", "recognition", "units", "blocks", "kl_period"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, received {getattr(self, name)}")
        if self.kl_start < 0:
            raise ValueError(f"expected kl_start >= 0, received {self.kl_start}")


PUBLISHED: Mapping[str, Any] = {
    "method": "tsit5",
    "rtol": 1.4e-8,
    "atol": 1.4e-8,
    "batch_size": 512,
    "optimizer": "adamax",
    "learning_rate": 0.01,
    "learning_rate_decay": 1e-5,
    # 10 an epoch in the papers. Set A's training records are 6 batches.
    "steps": 3000,
    "evaluate_every": 20,
}


class PhysioNet(Recipe):
    """The recipe behind ``ndereg compare physionet``."""

    name: ClassVar[str] = "physionet"
    settings_type: ClassVar[type[Settings]] = PhysioNetSettings
    metric: ClassVar[Metric] = Metric("loss", "test loss")
    regularizers: ClassVar[Mapping[str, Penalized]] = published_rows(
        error="1000:100",
        # As in the code, 10 over the stability size 3.5068, by which the estimate here is divided
        # already; the text has 0.285, which would be 1.
        stiffness="10",
        local="100:10",
        taynode="0.01",
        order=2,
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # The papers' number of steps with a quarter of their batch, on two cores.
        "default": {
            **PUBLISHED,
            "batch_size": 128,
            "evaluate_every": 4,
            "regularizers": ("none", "error"),
        },
        # A quarter of them: the unregularized model has then become costlier, and is no good yet.
        "quick": {
            **PUBLISHED,
            "batch_size": 128,
            "steps": 800,
            "evaluate_every": 4,
            "regularizers": ("none", "error"),
        },
        # Networks, KL annealing by epochs of 10 steps and weights follow the code, which has twice
        # the layers of the text; the batch size is that of the text (a later code has 256).
        "opening-the-blackbox": {
            **PUBLISHED,
            "anneal": "epoch",
            "regularizers": ("none", "error", "stiffness", "error+stiffness"),
        },
        # Text and code agree; the KL divergence is annealed by steps.
        "locally-regularized": {
            **PUBLISHED,
            "kl_period": 1,
            "regularizers": ("none", "local-unbiased", "local-biased"),
        },
    }
    papers: ClassVar[Sequence[Paper]] = (
        Paper(
            "Pal, Ma, Shah, Rackauckas 2021, table 2",
            {
                "none": Published(3.55e-3, 733.0, 1.75, 0.53),
                "steer": Published(3.48e-3, 699.0, 1.62, 0.54),
                "taynode": Published(4.21e-3, 167.3, 12.3, 0.22),
                "stiffness": Published(3.58e-3, 273.0, 0.87, 0.20),
                "error": Published(3.57e-3, 287.0, 0.94, 0.21),
                "error+stiffness": Published(3.56e-3, 263.0, 1.12, 0.21),
                "steer+error": Published(3.48e-3, 269.0, 1.03, 0.24),
                "steer+stiffness": Published(3.73e-3, 271.0, 0.89, 0.20),
            },
        ),
        Paper(
            "Pal, Edelman, Rackauckas 2023, table 2",
            {
                "none": Published(3.41e-3, 758.0, 2.48, 0.16),
                "local-unbiased": Published(3.64e-3, 422.0, 2.31, 0.09),
                "local-biased": Published(3.63e-3, 463.0, 2.12, 0.10),
            },
        ),
    )

    def task(self, settings: Settings) -> Task:
        """Read the archive and build the model.

        Raises
        ------
        ValueError
            If there is no archive, or it holds something else.
        """
        assert isinstance(settings, PhysioNetSettings)
        observations = load_physionet(settings.data)
        minutes = TIMES[settings.times]
        series = binned(observations, minutes) if minutes else exact(observations)
        train, test = _split(series, with_places=minutes == 0)
        return LatentTask(
            train,
            test,
            series.times,
            Widths(
                len(CHANNELS),
                settings.latent,
                settings.hidden,
                settings.recognition,
                settings.units,
                settings.blocks,
            ),
            Annealing(settings.kl_start, settings.kl_period),
            COUNTED,
        )


def _split(series: Series, with_places: bool) -> tuple[Batch, Batch]:
    """Return training and test data, the same records whatever the seed."""
    data = {"x": observed(series.value, series.mask, series.times[series.place])}
    if with_places:
        data["place"] = series.place
    order = stream(0, "physionet.split").permutation(len(series.value))
    train, test = np.split(order, [int(TRAINED * len(order))])
    return (
        {name: array[train] for name, array in data.items()},
        {name: array[test] for name, array in data.items()},
    )
