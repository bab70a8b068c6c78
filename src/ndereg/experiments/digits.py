"""Handwritten digits, 8 by 8 pixels, from UCI's collection, which comes with scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ndereg.experiments.images import ImageTask, labelled
from ndereg.experiments.recipe import Batch, Metric, Penalized, Recipe, Settings, Task
from ndereg.models.parameters import stream
from ndereg.spec.integrand import JacobianFrobenius, Kinetic, Taylor
from ndereg.spec.regularizer import ErrorEstimate, Local, StiffnessEstimate
from ndereg.spec.steer import Steer

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
    data = labelled(pixels[order], labels[order], brightest=16.0)
    return (
        {name: array[:TRAINING] for name, array in data.items()},
        {name: array[TRAINING:] for name, array in data.items()},
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
        # One of the solve's own steps: measured after 80 epochs, 32 evaluations against 44.
        "local-own": Penalized(Local(ErrorEstimate(), through_state=True, step="own"), "25:10"),
        "steer": Penalized(Steer(0.5)),
        "steer+error": Penalized(Steer(0.5) + ErrorEstimate(), "2.5:1.0"),
        "steer+stiffness": Penalized(Steer(0.5) + StiffnessEstimate(reduce="max"), "0.01"),
        # More than the published weights; measured after 80 epochs, 32 and 38 evaluations
        # against 44.
        "taynode": Penalized(Taylor(order=3), "0.1"),
        "rnode": Penalized(0.5 * Kinetic() + JacobianFrobenius(), "1"),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # So many epochs that the unregularized model, too, has stopped becoming costlier.
        "default": {
            "regularizers": ("none", "error", "stiffness", "error+stiffness"),
            "epochs": 400,
        },
        # A fifth of that: without a regularizer the evaluations are still growing.
        "quick": {"regularizers": ("none", "error"), "epochs": 80},
    }

    def task(self, settings: Settings) -> Task:
        """Build the model and load the data."""
        assert isinstance(settings, DigitsSettings)
        return ImageTask(*load_digits(), settings.hidden)
