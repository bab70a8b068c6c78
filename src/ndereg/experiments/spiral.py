"""The spiral of the neural ODE paper, without noise: one trajectory, fitted as a whole.

R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural ordinary differential equations",
NeurIPS 2018, in whose examples it is; the motivating figure of Pal et al. (ICML 2021,
arXiv:2105.03918) is about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.integrate import solve_ivp

from ndereg import ops
from ndereg.experiments.fitted import FittedTask
from ndereg.experiments.recipe import Batch, Metric, Penalized, Recipe, Settings, Task
from ndereg.models.dense import Power, Sequential
from ndereg.models.mlp import MLP
from ndereg.models.neural_ode import NeuralODE
from ndereg.models.parameters import Parameters
from ndereg.spec.integrand import JacobianFrobenius, Kinetic, Taylor
from ndereg.spec.regularizer import ErrorEstimate, Local, StiffnessEstimate
from ndereg.spec.steer import Steer

A = np.array([[-0.1, 2.0], [-2.0, -0.1]])
START = (2.0, 0.0)


def spiral(times: np.ndarray) -> np.ndarray:
    """Return the states of ``dy/dt = (y^3) A`` from (2, 0) at these times, shape (T, 2).

    ``A`` is ``[[-0.1, 2], [-2, -0.1]]``, the cube elementwise and ``y`` a row. Solved by SciPy's
    DOP853 at a tolerance of 1e-10.
    """
    solved = solve_ivp(
        lambda t, y: y**3 @ A,
        (0.0, float(times[-1])),
        START,
        method="DOP853",
        t_eval=times,
        rtol=1e-10,
        atol=1e-10,
    )
    return solved.y.T


@dataclass(frozen=True)
class SpiralSettings(Settings):
    """Settings of the spiral recipe."""

    batch_size: int = 1
    hidden: int = 50
    end: float = 1.5
    """The trajectory runs from 0 to here."""
    points: int = 30
    """Points that are fitted, evenly spaced from start to end. Tested are those halfway."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1:
            raise ValueError(f"expected hidden >= 1, received {self.hidden}")
        if self.points < 2:
            raise ValueError(f"expected points >= 2, received {self.points}")
        if not 0 < self.end <= 25:
            raise ValueError(f"expected an end in (0, 25], received {self.end}")
        if self.batch_size != 1:
            raise ValueError(
                f"expected a batch size of 1, the trajectory, received {self.batch_size}"
            )


class SpiralTask(FittedTask):
    """A field of the cubes of the state, fitted to points of one trajectory.

    A batch holds ``y0`` (1, 2), all points ``y`` (1, T, 2), and ``mask`` (1, T), which of them
    count: every second one in training, the others in tests.
    """

    def __init__(self, settings: SpiralSettings) -> None:
        self.times = np.linspace(0.0, settings.end, 2 * settings.points - 1)
        self.t_span = (0.0, settings.end)
        y = spiral(self.times).astype("float32")[None]
        mask = (np.arange(len(self.times)) % 2 == 0).astype("float32")[None]
        self.train = {"y0": y[:, 0], "y": y, "mask": mask}
        self.test = self.counted = {"y0": y[:, 0], "y": y, "mask": 1.0 - mask}
        self.field = Sequential((Power(3), MLP((2, settings.hidden, 2), time="none")))

    def solve_options(self) -> dict[str, Any]:
        """Return the times."""
        return {"t_eval": self.times}

    def init(self, seed: int) -> Parameters:
        """Return initial parameters."""
        return {"field": self.field.init(seed)}

    def encode(self, params: Parameters, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the start of the trajectory."""
        return batch["y0"], None

    def decode(self, params: Parameters, ys: Any, context: Any) -> Any:
        """Return the trajectory, shape (1, T, 2)."""
        return ops.permute_dims(ys, (1, 0, 2))

    def misfit(self, ys: Any, batch: Mapping[str, Any]) -> Any:
        """Return the mean squared distance from the points that count."""
        missed = ops.permute_dims(ys, (1, 0, 2)) - batch["y"]
        distances = ops.sum(missed * missed, axis=2)
        return ops.sum(batch["mask"] * distances) / ops.sum(batch["mask"])

    def scores(self, output: np.ndarray, batch: Batch) -> dict[str, float]:
        """Return the mean squared distance."""
        ys = output.transpose(1, 0, 2)
        return {"loss": float(self.misfit(ys, batch))}

    def layer(self, settings: Settings) -> NeuralODE:
        """Return the architecture, solved as it was trained."""
        return NeuralODE(
            self.field,
            t_span=self.t_span,
            method=settings.method,
            rtol=settings.rtol,
            atol=settings.atol,
        )


FITTED: Mapping[str, Any] = {
    "rtol": 1e-6,
    "atol": 1e-6,
    "learning_rate": 1e-2,
    "evaluate_every": 50,
    "regularizers": ("none", "error", "stiffness", "error+stiffness"),
}


class Spiral(Recipe):
    """The recipe behind ``ndereg compare spiral``."""

    name: ClassVar[str] = "spiral"
    settings_type: ClassVar[type[Settings]] = SpiralSettings
    metric: ClassVar[Metric] = Metric("loss", "test MSE")
    regularizers: ClassVar[Mapping[str, Penalized]] = {
        "none": Penalized(None),
        # So weak in the end that the fit is as good as without.
        "error": Penalized(ErrorEstimate(), "0.1:0.001"),
        # The stiffness is that of the spiral itself: there is next to nothing to gain.
        "stiffness": Penalized(StiffnessEstimate(reduce="max"), "0.001"),
        "error+stiffness": Penalized(
            ErrorEstimate() + 0.01 * StiffnessEstimate(reduce="max"), "0.1:0.001"
        ),
        # One step of some sixty. Measured up to "5:0.05", the fit suffers before anything is saved.
        "local-unbiased": Penalized(Local(ErrorEstimate()), "0.1:0.001"),
        "local-biased": Penalized(Local(ErrorEstimate(), sampling="biased"), "0.1:0.001"),
        # Output times move too, up to halfway to the next, and the points do not.
        "steer": Penalized(Steer(0.5)),
        # Integrals of what the spiral itself has plenty of. So weak that the fit comes first, not
        # tuned.
        "taynode": Penalized(Taylor(order=2), "1e-8"),
        "rnode": Penalized(0.5 * Kinetic() + JacobianFrobenius(), "1e-6"),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {**FITTED, "steps": 2000},
        "quick": {**FITTED, "steps": 1000},
    }

    def task(self, settings: Settings) -> Task:
        """Solve for the data and build the model."""
        assert isinstance(settings, SpiralSettings)
        return SpiralTask(settings)
