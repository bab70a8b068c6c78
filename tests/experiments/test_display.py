"""What is shown on a terminal."""

import math

import pytest
from rich.console import Console

from ndereg.experiments import STUDIES, experiment, lookup
from ndereg.experiments.display import LiveProgress, print_results
from ndereg.experiments.runners.base import StepResult
from ndereg.experiments.study import Outcome
from ndereg.experiments.training import Result, Run


def result(name, seed, **more):
    about = {"train_s": 1234.5 + seed, "predict_s": 0.0123 + 1e-3 * seed, "compile_s": 12.8 + seed}
    return Result(regularizer=name, seed=seed, scores={"accuracy": 0.9876 - 1e-3 * seed}, before={},
                  after={}, **{"nfev": 1056 + 30 * seed, **about, **more})  # fmt: skip


def printed(recipe, results, width=80):
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        print_results(console, recipe, results)
    return capture.get().splitlines()


def outcomes(study, seeds):
    """Figures as long as they become."""
    return [
        Outcome(row, seed, dict.fromkeys((c.name for c in study.columns), 0.0123456 * (seed + 1)),
                1234.5 + seed)
        for row in study.rows for seed in seeds
    ]  # fmt: skip


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_the_table_of_a_study_fits_80_columns(name, seeds):
    study = experiment(name)
    lines = printed(study, outcomes(study, seeds))
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "…" not in text
    assert all(row in text for row in study.rows)
    figure = next(iter(study.columns)).text([0.0123456 * (seed + 1) for seed in seeds])
    assert all(part.strip() in text for part in figure.partition("±"))


@pytest.mark.parametrize("name", STUDIES)
def test_beneath_the_table_stands_what_its_columns_mean(name):
    study = experiment(name)
    lines = printed(study, outcomes(study, (0,)), width=400)
    headings, _ = study.table(outcomes(study, (0,)))
    for heading in headings[1:]:
        assert any(heading in line.partition(": ")[0].split(", ") for line in lines[3:]), heading
    defined = [title for titles in study.legend for title in titles.split(", ")]
    assert defined == headings[1:-1] or sorted(defined) == sorted(headings[1:-1])


def test_the_table_of_trainings_fits_80_columns():
    names = ("none", "error+stiffness", "local-unbiased")
    few, several = ([result(n, seed) for n in names for seed in range(k)] for k in (1, 3))
    for results in (few, several):
        lines = printed(lookup("digits"), results)
        assert max(map(len, lines)) <= 80
        text = "\n".join(lines)
        assert "…" not in text
        assert all(name in text for name in names)
        assert "1.00×" in text and " s" in text


def test_a_bar_ends_with_the_last_step(monkeypatch):
    """Also where steps are made faster than they are shown."""
    monkeypatch.setattr("ndereg.experiments.display.SHOW_S", math.inf)
    recipe, run = lookup("digits"), Run("error", 0)
    with LiveProgress(Console(width=120, quiet=True), recipe.metric) as bars:
        bars.waiting([run], several_seeds=False)
        bars.started(run, 30, 0)
        for step in range(30):
            bars.stepped(run, step // 10 + 1, StepResult(float(30 - step), 1.0, 0.0, 100 - step))
        bars.evaluated(run, {"accuracy": 0.75}, 44)
        bars.finished(run, result("error", 0, nfev=43))
        (task,) = bars.progress.tasks
    assert task.completed == task.total == 30
    assert task.fields | {} == {"epoch": 3, "loss": "1.0000", "nfev": 43, "score": "75.00 %"}


def test_a_bar_says_that_its_run_compiles_until_it_starts():
    run = Run("error", 0)
    console = Console(width=120, force_terminal=False)
    with LiveProgress(console, lookup("digits").metric) as bars:
        bars.waiting([run], several_seeds=False)
        bars.compiling(run)
        with console.capture() as capture:
            console.print(bars.progress)
        assert "error" in capture.get() and "compiling" in capture.get()
        bars.started(run, 30, 0)
        with console.capture() as capture:
            console.print(bars.progress)
        assert "compiling" not in capture.get()


def test_a_bar_that_is_interrupted_has_its_last_step(monkeypatch):
    monkeypatch.setattr("ndereg.experiments.display.SHOW_S", math.inf)
    run = Run("error", 0)
    with LiveProgress(Console(width=120, quiet=True), lookup("digits").metric) as bars:
        bars.waiting([run], several_seeds=False)
        bars.started(run, 30, 0)
        bars.stepped(run, 1, StepResult(7.0, 1.0, 0.0, 99))
        bars.stepped(run, 1, StepResult(5.0, 1.0, 0.0, 98))
    (task,) = bars.progress.tasks
    assert task.completed == 2
    assert task.fields["loss"] == "5.0000" and task.fields["nfev"] == 98
