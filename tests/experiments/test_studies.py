"""Studies: rows that are computed, in the folders and the report of trainings."""

import dataclasses
import importlib.util
import json
import os
import shlex
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from ndereg.cli import app
from ndereg.experiments import STUDIES, experiment, lookup
from ndereg.experiments.cir import END, Path, drift_implicit, hosts, solve, wanted
from ndereg.experiments.collection import collect, command
from ndereg.experiments.langevin import (
    DEVIATION,
    ENTRIES,
    Langevin,
    gradient,
    held,
    potential,
)
from ndereg.experiments.results_page import page, read_results, write_results
from ndereg.experiments.sampling import effective_samples, figures_of_funnel
from ndereg.experiments.study import Column, Outcome, double
from ndereg.experiments.study_session import StudySession

TINY = {"paths": 4, "samples": 4, "spacing": 0.25, "warmup": 0.25}
ROWS = ("align", "quicsort-embedded")


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def session(path, **chosen):
    return StudySession.create("langevin", path, **{"backend": "torch", **TINY, **chosen})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two rows, two seeds."""
    path = tmp_path_factory.mktemp("study") / "out"
    session(path, rows=ROWS, seeds=(0, 1)).compute()
    return path


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_settings_for_each_preset(name):
    study = experiment(name)
    for preset in study.presets:
        settings = study.settings(preset)
        written = json.loads(json.dumps(dataclasses.asdict(settings)))
        assert study.settings(preset, **written) == settings
    for paper in study.papers:
        assert paper.rows.keys() <= study.rows.keys()
        names = {column.name for column in study.columns}
        assert all(row.keys() <= names for row in paper.rows.values())


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"rows": ("quiksort",)}, "did you mean 'quicsort'"),
        ({"rows": ()}, "different rows"),
        ({"rows": ("ubu", "ubu")}, "different rows"),
        ({"backend": "keras"}, "backend among numpy, torch, jax"),
        ({"seeds": (-1,)}, "at least 0"),
        ({"paths": 1}, "paths >= 2"),
        ({"samples": 1}, "samples >= 4"),
        ({"spacing": 0.0}, "spacing > 0"),
        ({"spacing": float("inf")}, "finite spacing > 0"),
        ({"warmup": float("inf")}, "finite spacing > 0 and warmup"),
        ({"samples": 4.5}, "an integer as samples, received 4.5"),
        ({"paths": 2.5}, "an integer as paths"),
        ({"seeds": (0, 0)}, "different seeds"),
        ({"seeds": (2**64,)}, r"below 2\^64"),
        ({"seeds": (0.5,)}, r"below 2\^64"),
        ({"force": "none"}, "force gradient or held"),
        ({"epochs": 3}, "expected a setting of the study .*received .epochs."),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_runs(chosen, message):
    with pytest.raises(ValueError, match=message):
        experiment("langevin").settings(**chosen)


def test_a_study_is_not_trained():
    with pytest.raises(ValueError, match="ndereg compare langevin"):
        lookup("langevin")
    found = call("train", "langevin")
    assert found.exit_code == 2 and "try ndereg compare langevin" in found.stderr
    assert "langevin (compare only)" in CliRunner().invoke(app, ["compare", "--help"]).stdout


def test_a_folder_of_a_study(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["recipe"] == "langevin" and config["settings"]["rows"] == list(ROWS)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    runs = [(row, seed) for seed in (0, 1) for row in ROWS]
    assert [(record["row"], record["seed"]) for record in records] == runs
    assert all(record["failed"] == 0 and record["gradients"] > 1 for record in records)
    text = (folder / "report.html").read_text()
    assert (folder / "study.png").exists()
    assert "http" not in text and "data:image/png;base64" in text
    assert "sample standard deviation over seeds" in text and "± " in text


def test_the_command_of_a_study_is_one(folder, tmp_path, monkeypatch):
    """What the command line makes of it is the configuration that it was made of."""
    created = []
    monkeypatch.setattr(StudySession, "compute", lambda self, **said: created.append(self) or [])
    config = json.loads((folder / "config.json").read_text())
    words = shlex.split(command(config))
    assert words[:3] == ["ndereg", "compare", "langevin"] and "samples=4" in words
    found = call(*words[1:], "--out", tmp_path / "out", "--quiet")
    assert found.exit_code == 0, found.output
    assert json.loads(json.dumps(dataclasses.asdict(created[0].settings))) == config["settings"]


def test_finished_rows_are_not_computed_again(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    session(out, rows=ROWS[:1]).compute()
    study = experiment("langevin")
    seen, compute = [], type(study).compute

    def counted(self, settings, row, seed):
        seen.append(row)
        return compute(self, settings, row, seed)

    config = json.loads((out / "config.json").read_text())
    config["settings"]["rows"] = list(ROWS)
    (out / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(type(study), "compute", counted)
    found = call("compare", "langevin", "--out", out, "--resume")
    assert found.exit_code == 0, found.output
    assert seen == [ROWS[1]]
    assert "quicsort-embedded, seed 0" in found.stdout and "align, seed 0" not in found.stdout
    resumed, whole = (json.loads((f / "results.json").read_text()) for f in (out, folder))
    assert [each["values"] for each in resumed] == [each["values"] for each in whole[:2]]
    refused = call("compare", "langevin", "--out", out, "--resume", "--paths", 8)
    assert refused.exit_code == 2 and "where paths is 4" in refused.stderr


def test_an_interrupted_study_keeps_its_rows_and_goes_on(tmp_path, monkeypatch):
    out, study = tmp_path / "out", type(experiment("langevin"))
    session(out, rows=ROWS[:1]).compute()
    config = json.loads((out / "config.json").read_text())
    config["settings"] |= {"rows": list(ROWS), "seeds": [0, 1]}
    (out / "config.json").write_text(json.dumps(config))

    def stopped(self, settings, row, seed):
        os.kill(os.getpid(), signal.SIGINT)
        return Outcome(row, seed, dict.fromkeys((c.name for c in self.columns), 1.0), 0.1)

    with monkeypatch.context() as patched:
        patched.setattr(study, "compute", stopped)
        found = call("compare", "langevin", "--out", out, "--resume", "--quiet")
    assert found.exit_code == 130
    assert "Stopped before align-seed1; finished rows are written" in found.stdout
    assert f"ndereg compare langevin --out {out} --resume" in found.stdout
    kept = [(each["row"], each["seed"]) for each in json.loads((out / "results.json").read_text())]
    assert kept == [(ROWS[0], 0), (ROWS[1], 0)]


def test_folders_come_together_and_are_kept(folder, tmp_path):
    other = tmp_path / "other"
    session(other, rows=("ubu",), seeds=(0,)).compute()
    collection = collect([folder, other])
    assert [o.row for o in collection.results] == [*ROWS, *ROWS, "ubu"]
    with pytest.raises(ValueError, match="every run once"):
        collect([folder, folder])
    with pytest.raises(ValueError, match="folders of one experiment"):
        write_results(tmp_path / "no.json", "x", collect([folder, _changed(other, tmp_path)]))
    kept = tmp_path / "kept" / "funnel.json"
    write_results(kept, "The funnel", collection, ["a note"])
    text = page(read_results(kept.parent))
    assert "## The funnel" in text and "- a note" in text
    assert "| ubu |" in text and "Beside" not in text
    assert "seeds 0, 1;" in text.lower() and "All 5 rows took" in text


def _changed(folder, tmp_path):
    """A copy with other settings."""
    copy = tmp_path / "changed"
    copy.mkdir()
    for name in ("results.json", "metrics.jsonl"):
        (copy / name).write_text((folder / name).read_text())
    config = json.loads((folder / "config.json").read_text())
    config["settings"]["samples"] = 5
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def test_a_row_without_its_package_is_left_out_with_a_sentence(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "numpyro" else real(name, *a)
    )
    said = []
    with pytest.raises(ValueError, match="numpyro is not installed"):
        session(tmp_path / "a", rows=("nuts",)).compute(warn=said.append)
    assert said == ["nuts is left out: numpyro is not installed; try pip install numpyro"]
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_nuts_samples_the_same_funnel(tmp_path):
    """Beside Langevin dynamics, its gradients counted."""
    (outcome,) = session(tmp_path / "a", rows=("nuts",), paths=8, samples=32).compute()
    assert outcome.values["gradients"] > 2 and outcome.values["failed"] == 0
    assert 0 < outcome.values["effective"] <= 1.5 and outcome.values["mean_error"] < 3
    assert np.std(outcome.curves["y"]) > 0.5


def test_published_figures_stand_beside():
    study = experiment("langevin")
    values = {column.name: 2.0 for column in study.columns}
    header, lines = study.beside([Outcome("quicsort", 0, values, 1.0)], study.papers[0])
    assert header[:3] == ["row", "gradients", "paper"]
    assert lines[0][:3] == ["quicsort", "2", "18.6"]
    assert study.beside([Outcome("ubu", 0, values, 1.0)], study.papers[0]) is None


def test_figures_are_written_with_their_deviation():
    column = Column("x", "x", 3)
    assert column.text([1.0, 3.0]) == "2 ± 1.4"
    assert column.text([12345.6]) == "12,346"
    assert column.text([float("nan")]) == column.text([float("nan"), 1.0]) == "–"


def test_forces_of_the_funnel():
    """The gradient against differences of the potential; what is held fixed is not there."""
    x = np.random.default_rng(0).normal(size=(3, ENTRIES))
    differences = np.stack(
        [(potential(x + 1e-5 * e) - potential(x - 1e-5 * e)) / 2e-5 for e in np.eye(ENTRIES)], 1
    )
    np.testing.assert_allclose(gradient(0.0, x, None), differences, atol=1e-8)
    np.testing.assert_allclose(held(0.0, x, None)[:, 1:], differences[:, 1:], atol=1e-8)
    np.testing.assert_allclose(held(0.0, x, None)[:, 0], x[:, 0] / 9)


def test_the_potential_is_minus_the_logarithm_of_the_density():
    """Up to a constant, by the normal densities of the entries; and JAX traces it, for NUTS."""
    x = np.random.default_rng(0).normal(size=(3, ENTRIES))
    y = x[:, :1]
    density = -(y[:, 0] ** 2) / 18 - np.sum(x[:, 1:] ** 2 / np.exp(y) / 2 + y / 2, axis=1)
    np.testing.assert_allclose(potential(x), -density)
    with double("jax"):
        found = jax.grad(potential)(jax.numpy.asarray(x[0]))
    np.testing.assert_allclose(found, gradient(0.0, x[0], None), rtol=1e-12)


@pytest.mark.slow
def test_paths_of_jax_are_asked_for_in_one_shape():
    """The values are those of NumPy, however many paths are left."""
    seen = set()
    with double("jax"):
        jaxs, numpys = paths(4, 0, "jax"), paths(4)
        increment = jaxs._tree.increment
        jaxs._tree = SimpleNamespace(
            increment=lambda s, t, backend: seen.add(s.shape) or increment(s, t, backend)
        )
        for which in ([0, 1, 2, 3], [1, 3], [2]):
            ends = np.array(which), np.full(len(which), 0.5), np.full(len(which), 0.75)
            for ours, theirs in zip(jaxs.increment(*ends), numpys.increment(*ends), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert seen == {(4,)}


def test_effective_samples_of_an_autoregression():
    rng, rho = np.random.default_rng(1), 0.8
    draws = rng.normal(size=(16, 4000))
    for i in range(1, draws.shape[1]):
        draws[:, i] = rho * draws[:, i - 1] + np.sqrt(1 - rho**2) * draws[:, i]
    expected = draws.size * (1 - rho) / (1 + rho)
    assert effective_samples(draws) == pytest.approx(expected, rel=0.1)


def test_effective_samples_are_bounded_where_draws_alternate():
    """As many as n log10(n), and never a negative number."""
    signs = np.where(np.arange(100) % 2, 1.0, -1.0)
    draws = np.stack([signs, -signs, signs, -signs])
    assert effective_samples(draws) == pytest.approx(400 * np.log10(400))
    for seed in range(20):
        few = effective_samples(np.random.default_rng(seed).normal(size=(2, 4)))
        assert 0 < few <= 8 * np.log10(8) + 1e-12


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        (np.zeros((4, 8)), "finite draws that differ"),
        (np.array([[0.0, 1.0], [np.nan, 2.0]]), "finite draws that differ"),
        (np.arange(8.0)[None], r"received the shape \(1, 8\)"),
        (np.arange(8.0)[:, None], r"received the shape \(8, 1\)"),
        (np.arange(8.0), r"received the shape \(8,\)"),
    ],
)
def test_draws_without_an_effective_number_are_refused(draws, message):
    with pytest.raises(ValueError, match=message):
        effective_samples(draws)


def test_gradients_of_failed_chains_count(tmp_path, monkeypatch):
    """With one chain left there are no other figures; nan is null in files, and nan again."""
    one = np.zeros((1, 4, ENTRIES)), 64.0, 3
    monkeypatch.setattr("ndereg.experiments.langevin.langevin", lambda *a: one)
    out = tmp_path / "out"
    (found,) = session(out, rows=("align",)).compute()
    assert found.values["gradients"] == 4.0 and found.values["failed"] == 3.0
    assert np.isnan(found.values["effective"])

    def refused(constant):
        raise AssertionError(f"JSON has no {constant}")

    for line in ((out / "results.json").read_text(), (out / "metrics.jsonl").read_text()):
        json.loads(line, parse_constant=refused)
    kept = tmp_path / "kept" / "funnel.json"
    write_results(kept, "The funnel", collect([out]))
    json.loads(kept.read_text(), parse_constant=refused)
    assert "| align | 4 | – |" in page(read_results(kept.parent))


def test_exact_samples_of_the_funnel_have_small_errors():
    samples = np.random.default_rng(2).normal(size=(40, 500, ENTRIES))
    samples[:, :, 0] *= DEVIATION
    samples[:, :, 1:] *= np.exp(samples[:, :, :1] / 2)
    found = figures_of_funnel(samples, 1e5, DEVIATION)
    assert found["gradients"] == 5.0
    assert found["mean_error"] < 0.1 and found["covariance_error"] < 0.02
    assert 0.5 < found["effective"] < 1.5
    samples[:, :, 0] += 1.0
    assert figures_of_funnel(samples, 1e5, DEVIATION)["mean_error"] > 0.4


def paths(count, seed=0, backend="numpy"):
    return Path(experiment("cir").settings(paths=count, backend=backend), seed)


@pytest.mark.parametrize(("scheme", "order"), [(hosts, 1.6), (drift_implicit, 1.0)])
def test_schemes_of_the_cox_ingersoll_ross_process(scheme, order):
    """Their order at a small volatility, where the solution stays away from 0."""
    path, sizes = paths(64), [2.0**-k for k in range(2, 6)]
    fine = solve(hosts, 0.3, path, 2.0**-9, adaptive=False)[0]
    errors = [
        np.sqrt(np.mean((solve(scheme, 0.3, path, h, adaptive=False)[0] - fine) ** 2))
        for h in sizes
    ]
    assert np.polyfit(np.log(sizes), np.log(errors), 1)[0] == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(("adaptive", "size"), [(False, 2.0**-4), (True, 0.25)])
def test_the_law_of_the_cox_ingersoll_ross_process(adaptive, size):
    """Mean 1 and the exact variance, at a volatility that nears 0, also after rejections."""
    count, sigma = 2000, 1.2
    y, steps = solve(hosts, sigma, paths(count, 1), size, adaptive)
    decay = np.exp(-END)
    variance = sigma**2 * ((decay - decay**2) + 0.5 * (1 - decay) ** 2)
    assert abs(y.mean() - 1.0) < 4 * np.sqrt(variance / count)
    fourth = np.mean((y - 1.0) ** 4)
    assert abs(y.var() - variance) < 4 * np.sqrt((fourth - variance**2) / count) + 0.02
    assert steps > 5


def test_steps_by_the_state():
    """Shorter near 0, within limits; and where tolerances are smaller, so are errors."""
    sizes = wanted(np.array([-1.0, 0.0, 0.1, 1.0, 1e9]), 0.5)
    assert sizes[0] == sizes[1] == 2.0**-15 and sizes[-1] == 1.0
    assert sizes[2] < sizes[3] == pytest.approx(0.5 ** (2 / 3), abs=2.0**-15)
    assert np.all(sizes % 2.0**-16 == 0)
    path = paths(32)
    fine = solve(hosts, 1.0, path, 2.0**-9, adaptive=True)[0]
    found = [solve(hosts, 1.0, path, tol, adaptive=True) for tol in (0.5, 0.0625)]
    errors = [np.sqrt(np.mean((y - fine) ** 2)) for y, _ in found]
    assert errors[1] < 0.3 * errors[0] and found[1][1] > 2 * found[0][1]


@pytest.mark.slow
def test_a_row_of_the_study_of_orders():
    study = experiment("cir")
    settings = study.settings(paths=8, levels=2)
    found = study.compute(settings, "hosts-constant", 0)
    assert found.values.keys() == {column.name for column in study.columns}
    assert found.curves["steps_medium"] == [16.0, 32.0]
    coarse, fine = found.curves["errors_medium"]
    assert found.values["order_medium"] == pytest.approx(np.log2(coarse / fine))
    assert np.isnan(found.values["error_high"])  # none has so many steps
    assert study.figure([found]).axes[0].get_xscale() == "log"


def test_levels_are_two_at_least():
    for wrong, message in ((1, "at least two levels"), (2.5, "an integer as levels")):
        with pytest.raises(ValueError, match=message):
            experiment("cir").settings(levels=wrong)


@pytest.mark.slow
def test_backends_sample_alike():
    """One key is one path: figures of a short run agree between Numba and PyTorch."""
    study = experiment("langevin")
    found = [
        study.compute(study.settings(rows=("align",), backend=backend, **TINY), "align", 0)
        for backend in ("numpy", "torch")
    ]
    for name in ("gradients", "mean_error", "covariance_error"):
        assert found[0].values[name] == pytest.approx(found[1].values[name], rel=1e-6)
    y, z = (solve(hosts, 1.5, paths(4, 0, b), 0.25, True)[0] for b in ("numpy", "torch"))
    np.testing.assert_allclose(y, z, rtol=1e-9)


def test_a_row_that_is_left_out_is_named_to_the_quiet_too(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Langevin, "absent", lambda self, row: f"{row} is left out" if row == "nuts" else None
    )
    options = ["--preset", "quick", "--rows", "align,nuts", "--set", "samples=4", "--paths", "4"]
    result = CliRunner().invoke(
        app, ["compare", "langevin", *options, "--quiet", "--out", str(tmp_path / "a")]
    )
    assert result.exit_code == 0, result.output
    assert "nuts is left out" in result.output
