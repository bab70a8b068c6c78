"""The command line."""

import dataclasses
import json
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import ndereg
from ndereg.cli import app
from ndereg.experiments.study import StudySettings
from ndereg.experiments.training import Trainer
from ndereg.experiments.weights import SCHEDULES
from ndereg.models.parameters import flatten

SMALL = ["--hidden", "8", "--batch-size", "64"]


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_version():
    result = call("--version")
    assert result.exit_code == 0
    assert result.stdout.strip() == f"ndereg {ndereg.__version__}"


def test_help_of_the_report():
    result = CliRunner().invoke(app, ["report", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for option in ("FOLDER", "--out", "--json", "--note", "--docs"):
        assert option in result.stdout


@pytest.mark.parametrize("command", ["train", "compare"])
def test_help_names_every_option(command):
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for option in ("--backend", "--rtol", "--weight", "--seeds", "--out", "--resume", "--quiet"):
        assert option in result.stdout
    for choice in ("opening-the-blackbox", "steer+error", "nfe:TARGET", "physionet:"):
        assert choice in result.stdout
    (schedule,) = (
        each for each in typer.main.get_command(app).commands[command].params
        if each.name == "schedule"
    )  # fmt: skip
    assert all(name in schedule.help for name in SCHEDULES)


@pytest.mark.parametrize(
    "command", ["train", "compare", "predict", "report", "bench", "crosscheck"]
)
def test_help_has_no_emoji(command):
    """A word between two colons becomes one."""
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "400"}).stdout
    assert "--help" in shown
    assert set(re.sub(r"[\x00-\x7f]", "", shown)) <= set("╭─╮│╰╯")


def test_help_keeps_apart_what_a_study_refuses():
    """Every option that is not in a group of its own can be chosen for a study, and no other."""
    command = typer.main.get_command(app).commands["compare"]
    general = {"recipe", "preset", "seed", "others", "out", "resume", "quiet"}
    names = {each.name for each in dataclasses.fields(StudySettings)} - {"rows"} | {"regularizers"}
    for parameter in command.params:
        grouped = (getattr(parameter, "rich_help_panel", None) or "").startswith("Options of a tr")
        assert grouped == (parameter.name not in names | general), parameter.name
    shown = CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "200"}).stdout
    first, *rest = shown.partition("Options of a training")
    assert "--paths" in first and "--seeds" in first
    assert "--epochs" not in first and "--epochs" in "".join(rest)


def test_training_takes_one_regularizer():
    result = call("train", "digits", "--regularizer", "error,none", "--quiet")
    assert result.exit_code == 2
    assert "expected one regularizer to train with, received error,none" in result.stderr
    assert "try ndereg compare digits --regularizers error,none" in result.stderr


def test_compare_prints_the_table_and_leaves_the_report(tmp_path):
    out = tmp_path / "out"
    result = call("compare", "digits", "--regularizers", "none,error", "--epochs", 1, *SMALL,
                  "--out", out, "--quiet")  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        "regularizer", "accuracy", "NFE", "training", "prediction", "compiling",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[2:4]] == ["none", "error"]
    assert "1.00×" in lines[2]
    assert (out / "report.html").exists()
    settings = json.loads((out / "config.json").read_text())["settings"]
    assert settings["hidden"] == 8
    assert settings["regularizers"] == ["none", "error"]


def test_train_shows_its_progress(tmp_path):
    result = call("train", "digits", "--regularizer", "error", "--steps", 3, *SMALL,
                  "--out", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "3 steps, rounded to whole epochs of 20: 20." in result.stdout
    assert "epoch 1" in result.stdout
    assert "NFE" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit"], "did you mean 'digits'"),
        (["digits", "--regularizers", "none,eror"], "regularizers among none, error"),
        (["digits", "--backend", "keras"], "backend among numpy, torch, jax"),
        (["digits", "--tol", "1e-6", "--rtol", "1e-3"], "received both"),
        (["digits", "--regularizers", "none,eror"], "did you mean 'error'"),
        (["digits", "--weight", "error"], "NAME=START:END or NAME=nfe:TARGET"),
        (["digits", "--weight", "rnode=1"], "--regularizers none,error,stiffness,error+stiffness,"),
        (["digits", "--weight", "steer=1"], "rows that add to the loss, received one of steer"),
        (["digits", "--weight", "none=5"], "rows that add to the loss, received one of none"),
        (["digits", "--schedule", "constant"], "weight with --schedule constant, received none"),
        (["digits", "--weight", "error=x"], "START:END, START:END:STEPS or nfe:TARGET"),
        (["digits", "--seeds", "0"], "--seeds >= 1"),
        (["digits", "--seed", "-1"], "seed in"),
        (["digits", "--preset", "fast"], "preset among"),
        (["digits", "--resume"], "--out"),
        (["digits", "--device", "cuda"], "runs on the cpu"),
        (["digits", "--method", "tsit6"], "did you mean"),
        (["digits", "--tol", "-1"], "rtol"),
        (["digits", "--method", "rk4"], "error estimate, received 'rk4', which has none; try --me"),
        (["digits", "--method", "sosri"], "an ordinary equation with an embedded error estimate"),
        (["spiral-sde", "--method", "tsit5"], "--method with one of lamba_em"),
        (["digits", "--method", "bosh3", "--regularizers", "stiffness"], "try one of dopri5"),
        (["digits", "--weight", "error=1:0"], "received '1:0'; try 1:0.001"),
        (["digits", "--weight", "error=nfe:0"], "TARGET > 0"),
        (["digits", "--weight", "error=nfe:40:0"], "START from 0.0001 to 10000"),
        (["digits", "--set", "foo"], "weight_decay=0.0"),
        (["cir", "--set", "foo"], "levels=7"),
    ],
)
def test_what_cannot_work_is_one_line_and_status_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = call("compare", *arguments, "--quiet")
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not re.search(r"\bndereg\.\w|\w\(", result.output), "advice in Python"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["digits", "--device", "cuda"],
        ["digits", "--backend", "torch", "--device", "nowhere"],
        ["mnist", "--data", "nowhere"],
        ["ffjord", "--density", "cancer", "--batch-size", "5000"],
    ],
)
def test_what_is_not_there_is_said_before_any_bar_is_shown(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    result = call("compare", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert "epoch" not in result.output


@pytest.mark.parametrize("missing", ["torch", "jax", "optax"])
def test_a_backend_that_is_not_installed_says_what_to_install(tmp_path, missing):
    extra = "torch" if missing == "torch" else "jax"
    script = f"""
import sys
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError("No module named {missing}", name={missing!r})
sys.meta_path.insert(0, NotInstalled())
sys.argv = ["ndereg", "train", "digits", "--backend", {extra!r}, "--quiet"]
from ndereg.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 2
    assert f"ndereg[{extra}]" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("…")
    result = call("compare", "digits", "--out", tmp_path)
    assert result.exit_code == 2
    assert "--resume" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_resuming_with_other_settings_is_refused(tmp_path):
    out = tmp_path / "out"
    begun = call("train", "digits", "--regularizer", "none", "--epochs", 1, *SMALL, "--out", out,
                 "--quiet")  # fmt: skip
    assert begun.exit_code == 0
    same = call("train", "digits", "--epochs", 1, "--out", out, "--resume", "--quiet")
    assert same.exit_code == 0, same.output
    row = call("train", "digits", "--regularizer", "error", "--out", out, "--resume", "--quiet")
    assert row.exit_code == 2
    assert "regularizers is ('none',)" in row.output
    preset = call("train", "digits", "--preset", "quick", "--out", out, "--resume", "--quiet")
    assert preset.exit_code == 2 and "expected the preset of" in preset.output
    other = call("train", "digits", "--epochs", 2, "--out", out, "--resume", "--quiet")
    assert other.exit_code == 2
    assert "epochs is 1" in other.output


def test_ctrl_c_leaves_a_checkpoint_that_resumes(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ndereg", "train", "digits", "--epochs", "80", *SMALL]
    process = start_and_wait_for_a_checkpoint([*command, "--out", str(out)], out)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert f"ndereg train digits --out {out} --resume" in output
    assert list((out / "checkpoints").iterdir())
    resumed = call("train", "digits", "--out", out, "--resume", "--quiet")
    assert resumed.exit_code == 0, resumed.output
    assert not list((out / "checkpoints").iterdir())
    lines = (out / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line)["epoch"] for line in lines]
    assert epochs == list(range(1, 81))


def test_ctrl_c_while_the_first_step_is_compiled(tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ["train", "digits", "--epochs", 1, *SMALL, "--out", out]
    prepare = Trainer.prepare

    def interrupted(trainer, presses):
        for _ in range(presses):
            signal.raise_signal(signal.SIGINT)
        prepare(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "prepare", lambda trainer: interrupted(trainer, 2))
        result = call(*arguments)
        assert result.exit_code == 130, result.output
        assert "there is nothing to continue" in result.output
        assert not out.exists()
        patch.setattr(Trainer, "prepare", lambda trainer: interrupted(trainer, 1))
        result = call(*arguments)
    assert result.exit_code == 130, result.output
    assert "Stopped in run error-seed0; its checkpoint is written." in result.output
    assert f"  ndereg train digits --out {out} --resume\n" in result.output
    assert list((out / "checkpoints").iterdir())
    resumed = call("train", "digits", "--out", out, "--resume", "--quiet")
    assert resumed.exit_code == 0, resumed.output
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1


def start_and_wait_for_a_checkpoint(command, out):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def of_its_own(*arguments):
    command = [sys.executable, "-m", "ndereg", *map(str, arguments), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def lasting(out):
    """Return everything but times of the results and of the epochs."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((out / "results.json").read_text())
    return [
        {name: value for name, value in entry.items() if not name.endswith("_s")}
        for entry in (*records, *results)
    ]


def test_killed_at_a_random_moment_and_resumed(tmp_path):
    """SIGKILL leaves no time to write anything.

    Every run has a process of its own: a library that was loaded for another test may have set the
    processor's treatment of subnormal numbers (GCC's ``-ffast-math`` does, and with it PyTorch's
    compiler), which changes the last bits of a training.
    """
    arguments = ["train", "digits", "--epochs", "40", *SMALL]
    of_its_own("train", "digits", "--epochs", "40", *SMALL, "--out", tmp_path / "whole")
    (result,) = json.loads((tmp_path / "whole" / "results.json").read_text())
    out, moment = tmp_path / "killed", random.SystemRandom().uniform(0.0, result["train_s"])
    # a checkpoint after every epoch: these are shorter than the least time between two
    often = (
        "import runpy, ndereg.experiments.training as training; training.CHECKPOINT_S = 0.0; "
        "runpy.run_module('ndereg', run_name='__main__')"
    )
    command = [sys.executable, "-c", often, *arguments, "--out", str(out)]
    process = start_and_wait_for_a_checkpoint(command, out)
    time.sleep(moment)
    process.kill()
    process.communicate(timeout=60)
    of_its_own("train", "digits", "--out", out, "--resume")
    assert lasting(out) == lasting(tmp_path / "whole"), f"killed {moment} s after the first epoch"
    models = [folder / "models" / "error-seed0.safetensors" for folder in (out, tmp_path / "whole")]
    killed, whole = (flatten(ndereg.load(path).params) for path in models)
    assert killed.keys() == whole.keys()
    assert all(np.array_equal(killed[name], whole[name]) for name in whole)
    assert not list(out.glob("checkpoints/*"))
