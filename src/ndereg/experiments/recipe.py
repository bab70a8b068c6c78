"""What an experiment is: data, a model, a loss, defaults. How it is trained is written elsewhere.

A :class:`Recipe` names the settings and the regularizers of an experiment; with settings it makes
a :class:`Task`, which is all that a trainer sees. A task's model is three portable pieces around
one solve::

    y0, context = task.encode(params, batch)
    ys          = solve(task.field, task.t_span, y0, task.args(params, context))
    loss        = task.loss(params, ys, context, batch, step)      training
    output      = task.decode(params, ys, context)                 prediction

A prediction may solve another field (``task.prediction``). Each is written with array-API
functions, so that PyTorch and JAX differentiate it; ``encode_vjp`` and ``loss_vjp`` are the same
with hand-written gradients, which is what NumPy trains with.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ndereg.catalogue import lookup, names
from ndereg.catalogue.serving import fitting, offers, refuse_unserved
from ndereg.experiments.choices import refuse_repeated, refuse_unknown
from ndereg.experiments.weights import SCHEDULES, parse_weight
from ndereg.models.layer import Layer
from ndereg.models.parameters import Parameters
from ndereg.spec.regularizer import Regularizer, Term
from ndereg.spec.schedule import NFEBudget
from ndereg.spec.spec import Spec
from ndereg.spec.steer import Steer
from ndereg.spec.stochastic import Noise

BACKENDS = ("numpy", "torch", "jax")
OPTIMIZERS = ("adam", "adabelief", "adadelta", "adamax", "momentum")
"""By name; each backend has its framework's own, where there is one."""
Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Settings:
    """What every recipe lets one choose; a recipe adds its own fields in a subclass.

    Every field is JSON-ready, so a run's ``config.json`` rebuilds it.
    """

    backend: str = "numpy"
    device: str = "cpu"
    method: str = "tsit5"
    rtol: float = 1e-6
    atol: float = 1e-6
    epochs: int = 100
    steps: int | None = None
    """Optimizer steps, instead of ``epochs``: rounded to whole epochs, so that a training is as
    long whatever part of the data is at hand."""
    batch_size: int = 256
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    learning_rate_decay: float = 0.0
    """Inverse decay a step: the rate at a step is ``learning_rate / (1 + decay * step)``."""
    learning_rate_factor: float = 1.0
    """By which the rate is multiplied besides, at every step."""
    weight_decay: float = 0.0
    """Times the parameters, added to their gradient."""
    averaged: float = 0.0
    """Part of the steps, at their end, over which the model's parameters are a mean: 0.5 is the
    second half."""
    regularizers: tuple[str, ...] = ("none",)
    weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
    schedule: str = "exponential"
    anneal: str = "step"
    """How often a weight that has a schedule moves: at every ``"step"``, or once an ``"epoch"``, to
    what it is at the epoch's first step."""
    seeds: tuple[int, ...] = (0,)
    evaluate_every: int = 10
    threads: int = 1
    """Of the matrix products, with NumPy and with PyTorch on the CPU. The products of a small model
    gain nothing from more, and on a busy machine threads that wait for one another were measured to
    make a step 18 times slower."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "regularizers", tuple(self.regularizers))
        object.__setattr__(self, "seeds", tuple(self.seeds))
        object.__setattr__(self, "weights", dict(self.weights))
        refuse_unknown("a backend", (self.backend,), BACKENDS)
        for name in ("epochs", "steps", "batch_size", "evaluate_every", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected {name} >= 1, received {value}")
        for name in ("learning_rate", "rtol", "atol"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"expected {name} > 0, received {getattr(self, name)}")
        refuse_unknown("an optimizer", (self.optimizer,), OPTIMIZERS)
        for name in ("learning_rate_decay", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"expected {name} >= 0, received {getattr(self, name)}")
        if not 0 <= self.averaged <= 1:
            raise ValueError(f"expected averaged in [0, 1], received {self.averaged}")
        if not 0 < self.learning_rate_factor <= 1:
            raise ValueError(
                f"expected a learning_rate_factor in (0, 1], received {self.learning_rate_factor}"
            )
        refuse_unknown("a schedule", (self.schedule,), SCHEDULES)
        refuse_unknown("a choice of anneal", (self.anneal,), ("step", "epoch"))
        if not self.seeds:
            raise ValueError("expected at least one seed, received none")

    def rate(self, step: Any) -> Any:
        """Return the learning rate at optimizer step ``step``, counted from 0; it may be traced."""
        decayed = self.learning_rate / (1.0 + self.learning_rate_decay * step)
        return decayed * self.learning_rate_factor**step


@dataclass(frozen=True)
class Penalized:
    """A row of the comparison: a regularizer and, unless the user says otherwise, its weight."""

    regularizer: Regularizer | None
    weight: str = "0"

    @property
    def weighted(self) -> bool:
        """Whether anything is added to the loss; moving the end of time adds nothing."""
        summands = () if self.regularizer is None else self.regularizer.terms()
        return any(not isinstance(each, Steer) for _, each in summands)


@dataclass(frozen=True)
class Published:
    """A row of a paper's table; what it does not give is None.

    Parameters
    ----------
    score : float
        In the unit of the recipe's metric.
    nfev : float
        Evaluations of the field.
    train, predict : float
        Times, in any unit: only ratios to the paper's own unregularized row are shown.
    """

    score: float
    nfev: float
    train: float | None = None
    predict: float | None = None


@dataclass(frozen=True)
class Paper:
    """What a paper reports of an experiment, by the recipe's names of the rows."""

    citation: str
    rows: Mapping[str, Published]


@dataclass(frozen=True)
class Metric:
    """The score that the table leads with."""

    name: str
    title: str
    percent: bool = False

    def text(self, value: float) -> str:
        """Format a value."""
        return f"{100 * value:.2f} %" if self.percent else f"{value:.5g}"


class Task(ABC):
    """A recipe with its settings fixed and its data loaded."""

    field: Callable[..., Any]
    t_span: tuple[float, float] = (0.0, 1.0)
    train: Batch
    """Training data: arrays with one sample a row."""
    test: Batch
    counted: Batch
    """The part of ``test`` whose solve, one for all of it, is counted, timed and drawn."""
    driven: bool = False
    """Whether the field reads the encoder's context, then a nested dict of arrays: the solve's
    ``args`` are ``{"params": params["field"], "context": context}``, not ``params["field"]``."""

    def solve_options(self) -> dict[str, Any]:
        """Return more keywords for the solve, such as ``t_eval``."""
        return {}

    rates: Mapping[str, float] = {}
    """Factors of the learning rate by the names that parameters' names begin with, 1 for all
    others. Parameters of a negative one ascend the loss, those of an adversary of the others."""

    def rate(self, name: str) -> float:
        """Return the factor of the learning rate of the parameter with this dotted name."""
        found = (rate for start, rate in self.rates.items() if f"{name}.".startswith(f"{start}."))
        return next(found, 1.0)

    def constrained(self, params: Parameters) -> Parameters:
        """Return the parameters as they may be: a bound on some, enforced after every step."""
        return params

    def args(self, params: Parameters, context: Any) -> Any:
        """Return the ``args`` of the solve, see :attr:`driven`."""
        field = params["field"]
        return {"params": field, "context": context} if self.driven else field

    def prediction(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Return the field that a prediction solves, and keywords besides those of every solve."""
        return self.field, {}

    def draws(self, count: int, random: np.random.Generator) -> Batch:
        """Return what a batch of ``count`` samples needs of noise, to stand beside its rows."""
        return {}

    def batch(self, indices: np.ndarray, random: np.random.Generator) -> Batch:
        """Return a training batch: rows of ``train``, and the draws.

        A task whose batches are something else overrides this. Its batches are then made on the
        host, and moved at every step; the rows of ``train`` are moved to a device once.
        """
        rows = {name: array[indices] for name, array in self.train.items()}
        return rows | self.draws(len(indices), random)

    @abstractmethod
    def init(self, seed: int) -> Parameters:
        """Return initial parameters; those under ``"field"`` become the solve's ``args``."""

    @abstractmethod
    def encode(self, params: Parameters, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the initial state, and whatever else the loss needs from the encoder."""

    @abstractmethod
    def encode_vjp(self, params: Parameters, batch: Batch) -> tuple[tuple[Any, Any], Callable]:
        """Return :meth:`encode` and ``pullback(y0_bar, context_bar) -> params_bar``."""

    @abstractmethod
    def decode(self, params: Parameters, ys: Any, context: Any) -> Any:
        """Return the prediction."""

    @abstractmethod
    def loss(
        self, params: Parameters, ys: Any, context: Any, batch: Mapping[str, Any], step: Any
    ) -> Any:
        """Return the loss without the regularizer."""

    @abstractmethod
    def loss_vjp(
        self, params: Parameters, ys: Any, context: Any, batch: Batch, step: int
    ) -> tuple[Any, tuple[Parameters, Any, Any]]:
        """Return :meth:`loss` and its gradients: ``params_bar, ys_bar, context_bar``."""

    @abstractmethod
    def scores(self, output: np.ndarray, batch: Batch) -> dict[str, float]:
        """Return the named scores of a prediction."""

    @abstractmethod
    def layer(self, settings: Settings) -> Layer:
        """Return the model as a layer, with which ``ndereg.load`` reads what was trained."""

    def layer_params(self, params: Parameters) -> Parameters:
        """Return the parameters of :meth:`layer`, all by default.

        A task overrides this where a part served the training alone: the decoder is saved without
        the encoder, the generator without the discriminator.
        """
        return params


class Recipe(ABC):
    """An experiment that ``ndereg train`` and ``ndereg compare`` know by name."""

    name: ClassVar[str]
    settings_type: ClassVar[type[Settings]] = Settings
    metric: ClassVar[Metric]
    noise: ClassVar[Noise | None] = None
    """Of a stochastic equation."""
    regularizers: ClassVar[Mapping[str, Penalized]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}}
    """Settings by name. Among them, ``weights`` may name rows that are not trained by default."""
    papers: ClassVar[Sequence[Paper]] = ()
    """Published results of this experiment, which the report shows beside ours."""

    @abstractmethod
    def task(self, settings: Settings) -> Task:
        """Load the data and build the model."""

    def settings(self, preset: str = "default", **chosen: Any) -> Settings:
        """Return a preset with the user's choices on top, checked.

        Raises
        ------
        ValueError
            If the recipe lacks the preset, an option or a regularizer, or a value is malformed.
        """
        refuse_unknown("a preset", (preset,), self.presets)
        known = sorted(field.name for field in dataclasses.fields(self.settings_type))
        refuse_unknown(f"a setting of {self.name!r}", sorted(chosen), known)
        fixed = dict(self.presets[preset])
        if "epochs" in chosen:
            fixed.pop("steps", None)
        settings = self.settings_type(**{**fixed, **chosen})
        weights = fixed.get("weights", {}).items()
        weights = {name: weight for name, weight in weights if name in settings.regularizers}
        weights |= chosen.get("weights", {})
        settings = dataclasses.replace(settings, weights=weights)
        rows = settings.regularizers
        refuse_unknown("regularizers", (*rows, *settings.weights), self.regularizers)
        refuse_repeated("regularizers", rows)
        if unused := sorted(settings.weights.keys() - set(settings.regularizers)):
            raise ValueError(
                f"expected weights of {_names(settings.regularizers)}, received one of "
                f"{_names(unused)}; try adding it to the regularizers: --regularizers "
                f"{','.join((*settings.regularizers, *unused))}"
            )
        method = lookup(settings.method)
        _refuse_method(method.name, self.noise)
        for name in settings.regularizers:
            self.weight(settings, name, steps=1)
            regularizer = self.regularizers[name].regularizer
            summands = () if regularizer is None else regularizer.terms()
            terms = tuple(each for _, each in summands if isinstance(each, Term))
            refuse_unserved(Spec(method, terms=terms, noise=self.noise))
        return settings

    def requested(self, preset: str, **given: Any) -> Settings:
        """Return :meth:`settings` that a user asks for now; a choice without effect is refused.

        Raises
        ------
        ValueError
            As :meth:`settings`; and for the weight of a row that adds nothing to the loss, and a
            schedule without a weight.
        """
        weights, rows = given.get("weights", {}), self.regularizers
        if idle := [name for name in weights if name in rows and not rows[name].weighted]:
            raise ValueError(
                f"expected weights of rows that add to the loss, received one of {_names(idle)}; "
                "try leaving it out"
            )
        settings = self.settings(preset, **given)
        _refuse_schedule(settings, weights)
        return settings

    def weight(
        self, settings: Settings, name: str, steps: int
    ) -> Callable[[float], float] | NFEBudget:
        """Return the weight of regularizer ``name`` over a training of ``steps`` steps."""
        schedule = settings.schedule if name in settings.weights else "exponential"
        return parse_weight(self.written_weight(settings, name), schedule, steps)

    def written_weight(self, settings: Settings, name: str) -> str:
        """Return the weight of regularizer ``name`` as it is written on the command line."""
        return settings.weights.get(name, self.regularizers[name].weight)


def _refuse_schedule(settings: Settings, given: Mapping[str, str]) -> None:
    """Refuse a schedule that no given weight has, or that preset ones were not written for."""
    if settings.schedule == Settings.schedule:
        return
    others = sorted(settings.weights.keys() - given.keys())
    if others or not given:
        rows = others or [name for name in settings.regularizers if name != "none"] or ["error"]
        raise ValueError(
            f"expected a weight with --schedule {settings.schedule}, received none of "
            f"{_names(rows)}, whose own are made for {Settings.schedule!r}; try --weight "
            f"{rows[0]}=..."
        )


def _refuse_method(name: str, noise: Noise | None) -> None:
    """Refuse a method of other equations, or without an error estimate to choose steps by."""
    fit, what = names(), "an ordinary equation"
    if noise is not None:
        fit = fitting(noise.kind, noise.calculus)
        what = f"{noise.kind} noise in the calculus of {noise.calculus.capitalize()}"
    adaptive = [each for each in fit if offers(lookup(each), "error")]
    if name not in adaptive:
        missing = ", which has none" if name in fit else ""
        raise ValueError(
            f"expected a method for {what} with an embedded error estimate, received {name!r}"
            f"{missing}; try --method with one of {_names(adaptive)}"
        )


def _names(found: Any) -> str:
    return ", ".join(found)
