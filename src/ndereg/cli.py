"""The command line; what belongs to a part of the library is defined beside it."""

from __future__ import annotations

import contextlib
import shlex
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ndereg import __version__
from ndereg.bench.command import bench
from ndereg.experiments.command import report
from ndereg.testing.command import crosscheck

app = typer.Typer(
    help="Neural differential equations that stay cheap to solve.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.command()(bench)
app.command()(crosscheck)
app.command()(report)

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

RecipeName = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="Which experiment: digits, ffjord, mnist, ..."),
]
_training = partial(typer.Option, rich_help_panel="Options of a training")
_of_one_recipe = partial(typer.Option, rich_help_panel="Options of a training by one recipe")

Regularizers = Annotated[
    str | None,
    typer.Option("--regularizers", "--rows", help="Rows, comma-separated, of those below."),
]
Regularizer = Annotated[
    str | None, typer.Option(help="The row to train, of those below (default error).")
]
Backend = Annotated[str | None, typer.Option(help="numpy (default), torch or jax.")]
Device = Annotated[str | None, _training(help="cpu (default) or, with torch and jax, cuda.")]
Preset = Annotated[
    str | None,
    typer.Option(help="Named settings of the recipe; see below.", show_default="default"),
]
Method = Annotated[str | None, _training(help="Runge-Kutta method, such as tsit5.")]
Rtol = Annotated[float | None, _training(help="Relative tolerance.")]
Atol = Annotated[float | None, _training(help="Absolute tolerance.")]
Tol = Annotated[float | None, _training(help="Both tolerances.")]
Epochs = Annotated[int | None, _training(help="Passes over the training data.")]
Steps = Annotated[
    int | None,
    _training(
        help="Optimizer steps, instead of epochs; rounded to whole epochs, of which at least one "
        "is trained."
    ),
]
BatchSize = Annotated[int | None, _training(help="Samples a step.")]
Hidden = Annotated[int | None, _training(help="Width of the field's hidden layer.")]
Optimizer = Annotated[str | None, _training(help="adam, adabelief, adadelta, adamax, momentum.")]
LearningRate = Annotated[float | None, _training(help="Of the optimizer.")]
LearningRateDecay = Annotated[
    float | None, _training(help="Inverse decay of the learning rate a step.")
]
Data = Annotated[
    str | None, _of_one_recipe(help="Where the recipe's data are; each recipe says what it reads.")
]
Times = Annotated[
    str | None, _of_one_recipe(help="Times of physionet: hourly (default), two-hourly or exact.")
]
Density = Annotated[
    str | None, _of_one_recipe(help="What ffjord fits: pinwheel (default), moons, cancer, ...")
]
Divergence = Annotated[
    str | None, _of_one_recipe(help="Of ffjord in training: exact (default) or hutchinson.")
]
Paths = Annotated[
    int | None,
    typer.Option(help="Simulated: by spiral-sde a step, by mnist-sde a prediction, by studies."),
]
Tested = Annotated[int | None, _of_one_recipe(help="Test images that mnist-sde predicts.")]
EvaluateEvery = Annotated[int | None, _training(help="Epochs from test to test.")]
Weight = Annotated[
    list[str] | None,
    _training(
        # START, END and STEPS in one word would be shown with an emoji.
        help="Weight of a regularizer: NAME=VALUE, NAME=START:END (with :STEPS after it, at END "
        "from that step on), or NAME=nfe:TARGET, which adapts it until a prediction takes TARGET "
        "evaluations; repeatable."
    ),
]
Others = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any setting without an option of its own: NAME=VALUE, such as weight_decay=0.01; "
        "repeatable.",
    ),
]
Schedule = Annotated[
    str | None,
    _training(
        help="From START to END: exponential (default), inverse (END is then the decay a step), "
        "or constant (VALUE alone)."
    ),
]
Seed = Annotated[int | None, typer.Option(help="Of the model and the batches (default 0).")]
Seeds = Annotated[int | None, typer.Option(help="Train this many seeds, from --seed upwards.")]
Threads = Annotated[
    int | None, _training(help="Threads of matrix products on the CPU (default 1).")
]
Out = Annotated[Path | None, typer.Option(help="Output folder; new under runs/ by default.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue what is in --out.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress; the table only.")]


class _OfRecipes(TyperCommand):
    """A command whose help ends with the recipes, which are imported for it alone."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        from ndereg.experiments import overview

        self.epilog = overview()
        super().format_help(ctx, formatter)


@app.command(cls=_OfRecipes)
def compare(
    recipe: RecipeName,
    regularizers: Regularizers = None,
    backend: Backend = None,
    device: Device = None,
    preset: Preset = None,
    method: Method = None,
    rtol: Rtol = None,
    atol: Atol = None,
    tol: Tol = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    hidden: Hidden = None,
    optimizer: Optimizer = None,
    learning_rate: LearningRate = None,
    learning_rate_decay: LearningRateDecay = None,
    data: Data = None,
    times: Times = None,
    density: Density = None,
    divergence: Divergence = None,
    paths: Paths = None,
    tested: Tested = None,
    evaluate_every: EvaluateEvery = None,
    weight: Weight = None,
    schedule: Schedule = None,
    others: Others = None,
    seed: Seed = None,
    seeds: Seeds = None,
    threads: Threads = None,
    out: Out = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train one model with several regularizers and compare what its predictions cost.

    Of a study (cir, langevin), compute its rows: it has none of the options of a training.
    """
    options = dict(locals())
    from ndereg.experiments import STUDIES

    names = options.pop("regularizers")
    rows = "rows" if recipe in STUDIES else "regularizers"
    if names is not None:
        options[rows] = _names(names)
    _session("compare", options)


@app.command(cls=_OfRecipes)
def train(
    recipe: RecipeName,
    regularizer: Regularizer = None,
    backend: Backend = None,
    device: Device = None,
    preset: Preset = None,
    method: Method = None,
    rtol: Rtol = None,
    atol: Atol = None,
    tol: Tol = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    hidden: Hidden = None,
    optimizer: Optimizer = None,
    learning_rate: LearningRate = None,
    learning_rate_decay: LearningRateDecay = None,
    data: Data = None,
    times: Times = None,
    density: Density = None,
    divergence: Divergence = None,
    paths: Paths = None,
    tested: Tested = None,
    evaluate_every: EvaluateEvery = None,
    weight: Weight = None,
    schedule: Schedule = None,
    others: Others = None,
    seed: Seed = None,
    seeds: Seeds = None,
    threads: Threads = None,
    out: Out = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train a model with one regularizer."""
    options = dict(locals())
    row = options.pop("regularizer")
    if row is not None or not resume:  # what is resumed has its row
        options["regularizers"] = _names("error" if row is None else row)
    _session("train", options)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="What ndereg.save wrote: *.safetensors.")],
    data: Annotated[Path, typer.Argument(help="Inputs: an .npz file with an array x, (N, ...).")],
    out: Annotated[
        Path | None, typer.Option(help="Where to; DATA.prediction.npz by default.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Inputs that are solved together; all by default.")
    ] = None,
) -> None:
    """Run a saved model on NumPy and Numba; no other framework needs to be installed."""
    from ndereg.models import predict
    from ndereg.spec.status import SolveError

    try:
        found, target = predict.predict(model, data, out, batch_size)
    except (ValueError, TypeError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    except SolveError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(
        f"{len(found.output)} predictions of shape {found.output.shape[1:]}, {found.nfev} "
        f"evaluations, {1e3 * found.seconds:.1f} ms: {target}"
    )


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ndereg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _session(command: str, options: dict[str, Any]) -> None:
    """Run a session and turn what can go wrong into a message and an exit status."""
    from rich.console import Console

    from ndereg.experiments import STUDIES, lookup
    from ndereg.experiments.display import print_results
    from ndereg.experiments.session import Session
    from ndereg.experiments.study_session import StudySession
    from ndereg.experiments.training import Interrupted

    console = Console()
    recipe, preset, quiet = (options.pop(name) for name in ("recipe", "preset", "quiet"))
    out, resume = options.pop("out"), options.pop("resume")
    session: Session
    try:
        if command == "train":
            lookup(recipe)
            _refuse_several(recipe, options.get("regularizers", ()))
        kind = StudySession if recipe in STUDIES else Session
        chosen = _settings(recipe, options)
        if resume:
            if out is None:
                raise ValueError("--resume needs to know what to continue; try --out FOLDER")
            session = kind.reopen(recipe, out, preset, **chosen)
        else:
            out = out or Path("runs") / f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
            session = kind.create(recipe, out, "default" if preset is None else preset, **chosen)
        results = _results(session, console, quiet)
    except (Interrupted, KeyboardInterrupt) as stopped:
        where = str(stopped) or "at once"
        if out is not None and (out / "config.json").exists():
            again = shlex.join(["ndereg", command, recipe, "--out", str(out), "--resume"])
            typer.echo(f"Stopped {where}. To continue:\n  {again}")
        else:
            typer.echo(f"Stopped {where}, before a run began: there is nothing to continue.")
        raise typer.Exit(INTERRUPTED) from None
    except ValueError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    except RuntimeError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
    print_results(console, session.recipe, results)
    typer.echo(f"Report: {session.folder.report}")


def _results(session: Any, console: Any, quiet: bool) -> Any:
    """Train, or compute the rows of a study, saying how far it is."""
    from ndereg.experiments.display import LiveProgress
    from ndereg.experiments.study_session import StudySession
    from ndereg.experiments.training import Listener

    if isinstance(session, StudySession):
        said = {} if quiet else {"say": console.print}
        return session.compute(**said, warn=console.print)
    length, asked = session.check(), session.settings.steps
    if asked not in (None, length.steps) and not quiet:
        typer.echo(
            f"{asked} steps, rounded to whole epochs of {length.steps_per_epoch}: {length.steps}."
        )
    with contextlib.ExitStack() as stack:
        listener = Listener()
        if not quiet:
            listener = stack.enter_context(LiveProgress(console, session.recipe.metric))
            listener.waiting(session.runs, len(session.settings.seeds) > 1)
        return session.train(listener)


def _settings(recipe: str, options: dict[str, Any]) -> dict[str, Any]:
    """Turn command-line options into the settings that were given."""
    from ndereg.experiments import experiment
    from ndereg.experiments.options import parse_setting

    chosen = {name: value for name, value in options.items() if value is not None}
    if (tol := chosen.pop("tol", None)) is not None:
        if "rtol" in chosen or "atol" in chosen:
            raise ValueError("expected --tol or --rtol and --atol, received both")
        chosen["rtol"] = chosen["atol"] = tol
    if "epochs" in chosen and "steps" in chosen:
        raise ValueError("expected --epochs or --steps, received both")
    seeded = "seed" in chosen or "seeds" in chosen
    first, count = chosen.pop("seed", 0), chosen.pop("seeds", 1)
    if count < 1:
        raise ValueError(f"expected --seeds >= 1, received {count}")
    if seeded:
        chosen["seeds"] = tuple(range(first, first + count))
    if (given := chosen.pop("weight", None)) is not None:
        chosen["weights"] = dict(_weight(text) for text in given)
    kind = experiment(recipe).settings_type
    chosen |= dict(parse_setting(kind, text) for text in chosen.pop("others", ()))
    return chosen


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _refuse_several(recipe: str, regularizers: tuple[str, ...]) -> None:
    if len(regularizers) > 1:
        several = ",".join(regularizers)
        raise ValueError(
            f"expected one regularizer to train with, received {several}; try ndereg compare "
            f"{recipe} --regularizers {several}, which takes several, or one with '+' in its name"
        )


def _weight(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(
            "expected --weight NAME=VALUE, NAME=START:END or NAME=nfe:TARGET, NAME being a row, "
            f"received {text!r}; try error=2.5:1.0"
        )
    return name, value


def main() -> None:
    """Entry point of the ``ndereg`` command."""
    app()
