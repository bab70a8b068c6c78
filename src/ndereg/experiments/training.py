"""The training loop.

Batches come from counters and a checkpoint holds everything else, so that a run that was stopped
and resumed ends where an uninterrupted one does, bit for bit on a CPU.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ndereg.experiments.interrupt import Interrupt
from ndereg.experiments.precision import Curve, work_precision
from ndereg.experiments.recipe import Recipe, Settings, Task
from ndereg.experiments.runners import runner as make_runner
from ndereg.experiments.runners.base import StepResult
from ndereg.experiments.storage import RunFolder, read_arrays, write_arrays
from ndereg.models.files import save
from ndereg.models.model import Model
from ndereg.models.parameters import stream, unflatten
from ndereg.spec.schedule import NFEBudget

PREDICTIONS = 20
"""Predictions whose median is the prediction time."""

PREDICTIONS_S = 30.0
"""Seconds after which no more of them are made, if there are three."""

CHECKPOINT_S = 2.0
"""Least seconds between two checkpoints; they are written at the end of an epoch."""

FETCH_S = 0.1
"""Seconds of steps that a device may be ahead of what is shown and checked."""

Trace = dict[str, list[Any]]


class Interrupted(Exception):
    """Training stopped on request, where the message says; it can be continued."""


@dataclass(frozen=True)
class Run:
    """One training: a regularizer and a seed."""

    regularizer: str
    seed: int

    @property
    def name(self) -> str:
        """The run's name in files."""
        return f"{self.regularizer}-seed{self.seed}"


@dataclass(frozen=True)
class Length:
    """How long a training is: whole epochs of whole batches."""

    samples: int
    """Of the training data."""
    steps_per_epoch: int
    epochs: int

    @classmethod
    def of(cls, task: Task, settings: Settings) -> Length:
        """Return that of a training of ``task``.

        Raises
        ------
        ValueError
            If there are fewer samples than a batch has.
        """
        samples = len(next(iter(task.train.values())))
        steps_per_epoch = samples // settings.batch_size
        if steps_per_epoch == 0:
            raise ValueError(
                f"expected a batch size of at most {samples}, the training set, received "
                f"{settings.batch_size}; try a smaller --batch-size"
            )
        epochs = settings.epochs
        if settings.steps is not None:
            epochs = max(1, round(settings.steps / steps_per_epoch))
        return cls(samples, steps_per_epoch, epochs)

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.steps_per_epoch * self.epochs


@dataclass(frozen=True)
class Result:
    """What the report says about a finished run; times in seconds.

    ``nfev`` and ``predict_s`` belong to one solve of the task's counted batch, ``before`` and
    ``after`` hold the attempted steps of that solve with the initial and with the trained
    parameters. ``train_cpu_s`` sums over all threads; it depends less on what else a machine does.
    """

    regularizer: str
    seed: int
    scores: dict[str, float]
    nfev: int
    train_s: float
    predict_s: float
    compile_s: float
    before: Trace
    after: Trace
    train_cpu_s: float = 0.0
    weight: str = ""
    """As it is written on the command line."""
    steps: int = 0
    """Optimizer steps that were made."""
    samples: int = 0
    """Of the training data."""
    precision: Curve = field(default_factory=list)
    """See :func:`ndereg.experiments.precision.work_precision`."""


@dataclass
class Progress:
    """How far a run is; stored in its checkpoint, floats exactly."""

    step: int = 0
    train_s: float = 0.0
    train_cpu_s: float = 0.0
    adapted: float = 0.0
    """The weight that an :class:`~ndereg.NFEBudget` has come to."""
    excess: float | None = None
    """By how much a prediction's evaluations exceed those of a training step's solve."""
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, result: StepResult) -> None:
        """Count a step into the sums of the epoch."""
        for name, value in dataclasses.asdict(result).items():
            self.sums[name] = self.sums.get(name, 0.0) + value


class Listener:
    """What a display may override; silent as it is."""

    def compiling(self, run: Run) -> None:
        """React to what comes before the start of ``run``."""

    def started(self, run: Run, steps: int, done: int) -> None:
        """React to the start of ``run``, at step ``done`` of ``steps``."""

    def stepped(self, run: Run, epoch: int, result: StepResult) -> None:
        """React to a step."""

    def evaluated(self, run: Run, scores: dict[str, float], nfev: int) -> None:
        """React to a prediction of the test set."""

    def finished(self, run: Run, result: Result) -> None:
        """React to the end of ``run``."""


class Trainer:
    """Trains one run of a recipe in a folder, from its checkpoint if there is one."""

    def __init__(
        self, recipe: Recipe, settings: Settings, task: Task, folder: RunFolder, run: Run
    ) -> None:
        self.recipe, self.settings, self.task = recipe, settings, task
        self.folder, self.run = folder, run
        length = Length.of(task, settings)
        self.samples, self.steps_per_epoch = length.samples, length.steps_per_epoch
        self.epochs, self.steps = length.epochs, length.steps
        self.schedule = recipe.weight(settings, run.regularizer, self.steps)
        self.progress = Progress()
        if isinstance(self.schedule, NFEBudget):
            self.progress.adapted = self.schedule.start
        recorded = folder.read_metrics()
        self.others = [record for record in recorded if record["run"] != run.name]
        self.records = [record for record in recorded if record["run"] == run.name]

        penalized = recipe.regularizers[run.regularizer]
        self.runner = make_runner(task, penalized, settings, task.init(run.seed))
        self.data = None if type(task).batch is not Task.batch else self.runner.place(task.train)
        self.test = self.runner.place(task.test)
        whole = task.counted is task.test
        self.counted = self.test if whole else self.runner.place(task.counted)
        self.order: tuple[int, np.ndarray] = (-1, np.empty(0, int))
        self.launched: list[Any] = []
        self.fetched_at = 0.0
        self.compile_s = 0.0
        self.before: Trace = {}

    def prepare(self) -> None:
        """Compile, and solve once with the initial parameters; nothing is written.

        Whatever is wrong with the settings shows here at the latest.
        """
        self.compile_s = _seconds(lambda: self.runner.warm_up(self._batch(0)))
        self.compile_s += _seconds(lambda: self.runner.predict(self.counted))
        self.before = _trace(self.runner.record(self.counted))

    def train(self, listener: Listener, interrupt: Interrupt) -> Result:
        """Train to the end, after :meth:`prepare`.

        Raises
        ------
        Interrupted
            If ``interrupt`` was requested; the checkpoint is on disk.
        """
        self._resume()
        saved = -math.inf
        listener.started(self.run, self.steps, self.progress.step)
        while self.progress.step < self.steps:
            before = self.progress.step
            self._train_epoch(listener, interrupt)
            if self.progress.step > before and self.progress.step % self.steps_per_epoch == 0:
                self.records.append(self._end_epoch(listener))
            if interrupt.requested or time.monotonic() - saved > CHECKPOINT_S:
                self._checkpoint()
                saved = time.monotonic()
            if interrupt.requested:
                raise Interrupted(f"in run {self.run.name}; its checkpoint is written")
        result = self._finish()
        listener.finished(self.run, result)
        return result

    def _train_epoch(self, listener: Listener, interrupt: Interrupt) -> None:
        """Make the steps to the end of the epoch, or until a stop is requested.

        A step of a device is launched before the one before it has ended; that a loss is not
        finite is then noticed a little later, and before the next checkpoint.
        """
        start, start_cpu = time.perf_counter(), time.process_time()
        self.fetched_at = start
        end = (self.progress.step // self.steps_per_epoch + 1) * self.steps_per_epoch
        while self.progress.step < end and not interrupt.requested:
            self._step(listener)
        self._fetch(listener)
        self.progress.train_s += time.perf_counter() - start
        self.progress.train_cpu_s += time.process_time() - start_cpu

    def _batch(self, step: int) -> Any:
        """Return the batch of a step: a function of the seed and the step alone.

        What is left of an epoch after the last whole batch is dropped: one batch shape is compiled.
        """
        epoch, index = divmod(step, self.steps_per_epoch)
        if self.order[0] != epoch:
            order = stream(self.run.seed, f"epoch.{epoch}").permutation(self.samples)
            self.order = (epoch, order)
        size = self.settings.batch_size
        chosen = self.order[1][index * size : (index + 1) * size]
        noise = stream(self.run.seed, f"step.{step}")
        if self.data is None:
            return self.runner.place(self.task.batch(chosen, noise))
        return self.runner.rows(self.data, chosen, self.task.draws(size, noise))

    def _key(self, step: int) -> int:
        """Return what the random choices of a step's solve are made from, whatever came before."""
        return int(stream(self.run.seed, f"key.{step}").integers(2**31))

    def _weight(self, step: int) -> float:
        if isinstance(self.schedule, NFEBudget):
            return self.progress.adapted
        if self.settings.anneal == "epoch":
            step -= step % self.steps_per_epoch
        return self.schedule(step)

    def _step(self, listener: Listener) -> None:
        step = self.progress.step
        weight = self._weight(step)
        launched = self.runner.launch(self._batch(step), weight, step, self._key(step))
        self.launched.append(launched)
        self.progress.step += 1
        averaged = self.progress.step - round((1.0 - self.settings.averaged) * self.steps)
        if averaged > 0:
            self.runner.average(averaged)
        waits = self.runner.asynchronous and not isinstance(self.schedule, NFEBudget)
        if not waits or time.perf_counter() - self.fetched_at > FETCH_S:
            self._fetch(listener)

    def _fetch(self, listener: Listener) -> None:
        """Wait for the launched steps, and count them."""
        first = self.progress.step - len(self.launched)
        for step, result in enumerate(self.runner.fetch(self.launched), start=first):
            if not np.isfinite(result.loss):
                raise RuntimeError(
                    f"the loss of run {self.run.name!r} became {result.loss} at step {step}; try "
                    "a smaller --learning-rate or a smaller --weight"
                )
            self.progress.add(result)
            self._adapt(result.nfev)
            listener.stepped(self.run, step // self.steps_per_epoch + 1, result)
        self.launched = []
        self.fetched_at = time.perf_counter()

    def _adapt(self, nfev: int) -> None:
        """Let a budget adapt the weight to what a prediction would have cost at this step.

        A prediction has another batch, and a local row counts the step that it takes besides: the
        difference is measured whenever the test set is predicted.
        """
        if isinstance(self.schedule, NFEBudget):
            predicted = max(nfev + (self.progress.excess or 0.0), 1.0)
            self.progress.adapted = self.schedule.update(self.progress.adapted, predicted)

    def _end_epoch(self, listener: Listener) -> dict[str, Any]:
        progress = self.progress
        epoch = progress.step // self.steps_per_epoch
        record: dict[str, Any] = {
            "run": self.run.name,
            "regularizer": self.run.regularizer,
            "seed": self.run.seed,
            "epoch": epoch,
            "step": progress.step,
            "weight": self._weight(progress.step - 1),
            **{name: total / self.steps_per_epoch for name, total in progress.sums.items()},
            "train_s": progress.train_s,
        }
        progress.sums = {}
        if epoch % self.settings.evaluate_every == 0 or epoch == self.epochs:
            scores, nfev = self._evaluate()
            record |= {f"test_{name}": value for name, value in scores.items()}
            record["test_nfev"] = nfev
            # Halved towards the new difference: a count jumps by whole steps of the method.
            excess, before = nfev - record["nfev"], progress.excess
            progress.excess = excess if before is None else 0.5 * (before + excess)
            listener.evaluated(self.run, scores, nfev)
        return record

    def _evaluate(self) -> tuple[dict[str, float], int]:
        """Return the scores on the test set, and the evaluations of its counted part's solve."""
        task = self.task
        output, nfev = self.runner.predict(self.test)
        if task.counted is not task.test:
            _, nfev = self.runner.predict(self.counted)
        return task.scores(output, task.test), nfev

    def _checkpoint(self) -> None:
        # Metrics first: a stop between the two files leaves metrics ahead of the checkpoint, and
        # resuming cuts them back.
        self.folder.write_metrics([*self.others, *self.records])
        write_arrays(
            self.folder.checkpoint(self.run.name),
            self.runner.state(),
            {"run": self.run.name, "progress": dataclasses.asdict(self.progress)},
        )

    def _resume(self) -> None:
        """Load the checkpoint, if any, and forget the epochs after it."""
        path = self.folder.checkpoint(self.run.name)
        if path.exists():
            state, about = read_arrays(path)
            try:
                for name, value in self.runner.params().items():
                    if state[f"params.{name}"].shape != value.shape:
                        raise ValueError(f"expected {name} of shape {value.shape}")
                self.runner.restore(state)
                self.progress = Progress(**about["progress"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path} does not belong to this run: {error!r}") from error
        self.records = [r for r in self.records if r["step"] <= self.progress.step]

    def _finish(self) -> Result:
        self.folder.write_metrics([*self.others, *self.records])
        runner = self.runner
        scores, nfev = self._evaluate()
        times: list[float] = []
        while len(times) < PREDICTIONS and (len(times) < 3 or sum(times) < PREDICTIONS_S):
            times.append(_seconds(lambda: runner.predict(self.counted)))
        params = self.task.layer_params(unflatten(runner.params()))
        save(Model(self.task.layer(self.settings), params), self.folder.model(self.run.name))
        return Result(
            regularizer=self.run.regularizer,
            seed=self.run.seed,
            scores=scores,
            nfev=nfev,
            train_s=self.progress.train_s,
            train_cpu_s=self.progress.train_cpu_s,
            predict_s=statistics.median(times),
            compile_s=self.compile_s,
            before=self.before,
            after=_trace(runner.record(self.counted)),
            weight=self.recipe.written_weight(self.settings, self.run.regularizer),
            steps=self.progress.step,
            samples=self.samples,
            precision=work_precision(self.task, runner, self.counted),
        )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _trace(steps: dict[str, np.ndarray]) -> Trace:
    return {name: values.tolist() for name, values in steps.items()}
