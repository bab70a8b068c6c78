"""The table, the plots, the page."""

import dataclasses
import re

import pytest

from ndereg.experiments import figures, lookup
from ndereg.experiments.report import write_report
from ndereg.experiments.storage import RunFolder
from ndereg.experiments.summary import cells, columns, summarize
from ndereg.experiments.training import Result

TRACE = {
    "t": [0.0, 0.5],
    "h": [0.5, 0.5],
    "error": [0.1, float("nan")],
    "stiffness": [1.0, 2.0],
    "accepted": [True, True],
}


def result(regularizer, seed=0, nfev=56, accuracy=0.97, train_s=10.0):
    return Result(
        regularizer=regularizer,
        seed=seed,
        scores={"accuracy": accuracy},
        nfev=nfev,
        train_s=train_s,
        predict_s=0.01,
        compile_s=3.0,
        before=TRACE,
        after=TRACE,
    )


@pytest.fixture
def metric():
    return lookup("digits").metric


def test_ratios_are_to_the_row_without_a_regularizer(metric):
    rows = summarize([result("error", nfev=28, train_s=7.0), result("none")], metric)
    assert [row.regularizer for row in rows] == ["error", "none"]
    assert rows[0].nfev.ratio == 0.5
    assert rows[0].train_s.ratio == pytest.approx(0.7)
    assert rows[1].nfev.ratio == 1.0
    assert rows[0].score.ratio is None
    assert cells(rows[0], metric) == [
        "error", "97.00 %", "28 0.50×", "7.0 s 0.70×", "10.0 ms 1.00×", "3.0 s",
    ]  # fmt: skip
    assert len(columns(metric)) == len(cells(rows[0], metric))


def test_without_that_row_there_are_no_ratios(metric):
    (row,) = summarize([result("error")], metric)
    assert row.nfev.ratio is None
    assert "×" not in " ".join(cells(row, metric))


def test_seeds_give_a_mean_and_a_deviation(metric):
    runs = [result("none", s, nfev=n, accuracy=a) for s, n, a in [(0, 50, 0.96), (1, 56, 0.98)]]
    (row,) = summarize(runs, metric)
    assert row.nfev.mean == 53
    assert row.nfev.deviation == pytest.approx(18**0.5)
    assert cells(row, metric)[1:3] == ["97.00 % ± 1.41 %", "53.0 ± 4.2 1.00×"]


def epoch(run, number):
    return {
        "run": f"{run}-seed0",
        "regularizer": run,
        "epoch": number,
        "objective": 1.0 / number,
        "test_nfev": 50 + number,
        "test_accuracy": 0.9,
    }


def test_the_page_carries_everything_it_shows(tmp_path):
    recipe, folder = lookup("digits"), RunFolder(tmp_path)
    folder.write_metrics([epoch(run, n) for run in ("none", "error") for n in (1, 2)])
    settings = dataclasses.replace(recipe.settings(), weights={"error": "<script>"})
    write_report(recipe, settings, folder, [result("none"), result("error", nfev=28)])
    page = folder.report.read_text()
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r"https?://|<script|src=\"(?!data:)", page)
    assert "28 0.50×" in page
    for name in ("training", "solver"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_plots_of_several_seeds_name_each_regularizer_once(metric):
    records = [
        {**epoch("error", 1), "run": f"error-seed{seed}", "regularizer": "error"} for seed in (0, 1)
    ]
    figure = figures.training_figure(records, metric)
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["error"]
