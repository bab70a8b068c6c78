"""Runs of several folders in one report; results that are kept, and the page made of them."""

import dataclasses
import inspect
import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ndereg.cli import app, compare
from ndereg.experiments import RECIPES, STUDIES, experiment, lookup
from ndereg.experiments.collection import collect, command
from ndereg.experiments.options import OPTIONS, parse_setting, written_setting
from ndereg.experiments.results_page import page, read_results, write_results
from ndereg.experiments.storage import RunFolder, write_json
from ndereg.experiments.training import Result

TRACE = {name: [0.5] for name in ("t", "h", "error", "stiffness", "accepted")}
ROOT = Path(__file__).parents[2]


def folder(path, *runs, recipe="digits", preset="default", load=0.5, **chosen):
    """Write what a training leaves; a run is a regularizer, a seed and its evaluations."""
    found = lookup(recipe)
    names = tuple(dict.fromkeys(name for name, _, _ in runs)) or ("none",)
    seeds = tuple(dict.fromkeys(seed for _, seed, _ in runs)) or (0,)
    settings = found.settings(preset, **{"regularizers": names, "seeds": seeds, **chosen})
    results = [
        Result(
            regularizer=name, seed=seed, scores={"accuracy": 0.97}, nfev=nfev, train_s=10.0,
            predict_s=0.01, compile_s=2.0, before=TRACE, after=TRACE, steps=300, samples=1280,
            weight=found.written_weight(settings, name),
            precision=[{"tolerance": 1e-3, "nfev": 14, "error": 0.0123456789}],
        )
        for name, seed, nfev in runs
    ]  # fmt: skip
    records = [
        {"run": f"{name}-seed{seed}", "regularizer": name, "seed": seed, "epoch": 1,
         "objective": 1.0, "test_nfev": nfev, "test_accuracy": 0.97}
        for name, seed, nfev in runs
    ]  # fmt: skip
    config = {
        "recipe": recipe,
        "preset": preset,
        "settings": dataclasses.asdict(settings),
        "versions": {"ndereg": "1"},
        "machine": {"processor": "P", "cores": 2, "device": None, "load": load},
    }
    write_json(path / "config.json", config)
    write_json(path / "results.json", [dataclasses.asdict(result) for result in results])
    RunFolder(path).write_metrics(records)
    return path


def test_rows_seeds_and_weights_come_together(tmp_path):
    folders = [
        folder(tmp_path / "a", ("none", 0, 56), ("error", 0, 32)),
        folder(tmp_path / "b", ("none", 1, 62), ("error", 1, 38)),
        folder(tmp_path / "c", ("error", 0, 26), weights={"error": "9"}),
    ]
    found = collect(folders)
    assert [(r.regularizer, r.weight, r.seed, r.nfev) for r in found.results] == [
        ("none", "0", 0, 56), ("error", "2.5:1.0", 0, 32), ("none", "0", 1, 62),
        ("error", "2.5:1.0", 1, 38), ("error", "9", 0, 26),
    ]  # fmt: skip
    rows = ["none", "error 2.5:1.0", "none", "error 2.5:1.0", "error 9"]
    assert [record["row"] for record in found.records] == rows
    assert len(found.machines) == 1
    assert found.commands == (
        "ndereg compare digits --regularizers none,error",
        "ndereg compare digits --regularizers none,error --seed 1",
        "ndereg compare digits --regularizers error --weight error=9",
    )


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"recipe": "mnist"}, r"'digits' and, in .*'mnist'"),
        ({"learning_rate": 0.1}, r"learning_rate=0\.001 in .* and 0\.1 in"),
        ({"backend": "torch"}, "backend='numpy'"),
        ({"hidden": 3}, "hidden=100"),
    ],
)
def test_folders_of_different_experiments_are_refused(tmp_path, second, message):
    first = folder(tmp_path / "a", ("none", 0, 56))
    other = folder(tmp_path / "b", ("error", 0, 56), **second)
    with pytest.raises(ValueError, match=message):
        collect([first, other])


@pytest.mark.parametrize("name", ["steps", "samples"])
def test_runs_of_different_lengths_are_refused(tmp_path, name):
    folders = [folder(tmp_path / run, (run, 0, 56)) for run in ("none", "error")]
    (result,) = json.loads((folders[1] / "results.json").read_text())
    write_json(folders[1] / "results.json", [result | {name: 7}])
    with pytest.raises(ValueError, match=rf"received {name} \d+ in .* and 7"):
        collect(folders)


def test_a_run_that_is_there_twice_is_refused(tmp_path):
    folders = [folder(tmp_path / name, ("none", 0, 56)) for name in "ab"]
    with pytest.raises(ValueError, match="'none' with seed 0"):
        collect(folders)


def test_nothing_finished_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a finished run"):
        collect([folder(tmp_path / "a")])
    with pytest.raises(ValueError, match=r"a finished run in \S+/a, received none.*without it"):
        collect([folder(tmp_path / "c", ("none", 0, 56)), tmp_path / "a"])
    with pytest.raises(ValueError, match=r"no config\.json"):
        collect([tmp_path / "b"])
    with pytest.raises(ValueError, match="at least one"):
        collect([])


@pytest.mark.parametrize(
    "arguments",
    [
        "digits",
        "digits --regularizers none,error --weight error=9:1 --seed 3 --seeds 2 --hidden 7",
        "mnist --preset opening-the-blackbox --backend jax --device cuda --data mnist.npz",
        "mnist --preset locally-regularized --epochs 3 --weight local-biased=nfe:40",
        "mnist --steps 20 --rtol 0.001",
        "physionet --preset quick --times exact --data set-a.tar.gz",
        "sde-gan --set dt=none --set averaged=0.25 --set learning-rate-factor=0.5",
    ],
)
def test_a_folder_tells_the_command_that_made_it(tmp_path, monkeypatch, arguments):
    """What the command line makes of the command is the configuration that it was made of."""
    from ndereg.experiments.session import Session
    from ndereg.experiments.training import Length

    created = []
    monkeypatch.setattr(Session, "check", lambda session: Length(1, 1, 1))
    monkeypatch.setattr(Session, "train", lambda session, listener: created.append(session) or [])
    for line in (arguments, None):
        if line is None:
            session = created[-1]
            config = {
                "recipe": session.recipe.name,
                "preset": session.preset,
                "settings": json.loads(json.dumps(dataclasses.asdict(session.settings))),
            }
            line = command(config).removeprefix("ndereg compare ")
        call = ["compare", *shlex.split(line), "--out", str(tmp_path / "out"), "--quiet"]
        assert CliRunner().invoke(app, call).exit_code == 0
    assert created[0].settings == created[1].settings
    assert created[0].preset == created[1].preset


def test_every_setting_can_be_chosen_on_the_command_line():
    """By an option of its own or, where its type is one that is read, by --set."""
    own = {"recipe", "preset", "out", "resume", "quiet", "tol", "seed", "weight", "others"}
    options = inspect.signature(compare).parameters.keys() - own
    assert options | {"rows", "weights"} == set(OPTIONS)
    for name in (*RECIPES, *STUDIES):
        settings = experiment(name).settings()
        for setting in vars(settings).keys() - set(OPTIONS):
            value = getattr(settings, setting)
            _, text = written_setting(setting, value)
            assert parse_setting(type(settings), text) == (setting, value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--set points", "expected --set NAME=VALUE, received 'points'"),
        ("--set points=many", "expected an integer as points"),
        ("--set adversary=high", "expected a number as adversary"),
        ("--set hidden=3", "hidden has an option of its own"),
        ("--set depth=3", "received 'depth'; try adversary"),
    ],
)
def test_settings_that_cannot_be_set(tmp_path, arguments, message):
    call = ["compare", "sde-gan", *arguments.split(), "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(app, call)
    assert found.exit_code == 2 and message in found.stderr
    assert not (tmp_path / "out").exists()


def report(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_one_report_of_several_folders(tmp_path):
    folders = [
        folder(tmp_path / name, (name, 0, nfev), load=load)
        for name, nfev, load in [("none", 56, 0.5), ("error", 28, 0.25)]
    ]
    kept = tmp_path / "kept" / "digits.json"
    note = "The sky | was blue."
    result = report(*folders, "--out", tmp_path / "all", "--json", kept, "--title", "Digits",
                    "--note", note)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "28 0.50×" in result.stdout
    assert "28 0.50×" in (tmp_path / "all" / "report.html").read_text()
    text = kept.read_text()
    assert str(tmp_path) not in text
    (content,) = read_results(kept.parent)
    assert content["notes"] == [note]
    assert "before" not in content["runs"][0]
    assert content["runs"][0]["precision"][0]["error"] == 0.0123457
    made = report("--docs", tmp_path / "results.md", "--results", kept.parent)
    assert made.exit_code == 0, made.output
    written = (tmp_path / "results.md").read_text()
    assert written == page([content])
    for part in (
        "## Digits", "| error | 97.00 % | 28 0.50× | 10.0 s 1.00× |", f"- {note}",
        "On P, 2 cores, load 0.5 at the start; ndereg 1",
        "$ ndereg compare digits --regularizers error",
        "300 optimizer steps on 1280 training",
        "14 (1e-02)",
    ):  # fmt: skip
        assert part in written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "output folders"),
        (["a", "b"], "--out"),
        (["a"], "no config.json"),
        (["a", "--note", "x"], "--json"),
        (["a", "--docs", "x.md"], "without folders"),
        (["--docs", "x.md", "--results", "a"], "expected results in a"),
    ],
)
def test_what_cannot_be_reported_is_one_line_and_status_2(
    tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    result = report(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_of_results_is_named(tmp_path):
    found = collect([folder(tmp_path / "a", ("none", 0, 56))])
    write_results(tmp_path / "r.json", "R", found)
    content = json.loads((tmp_path / "r.json").read_text())
    del content["runs"][0]["nfev"]
    write_json(tmp_path / "r.json", content)
    with pytest.raises(ValueError, match=r"expected results in .*r\.json"):
        read_results(tmp_path)


def test_the_page_in_the_documentation_is_what_the_files_say():
    """Otherwise: ndereg report --docs docs/results.md."""
    found = read_results(ROOT / "benchmarks" / "results" / "experiments")
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == page(found)
