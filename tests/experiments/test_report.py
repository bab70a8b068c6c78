"""The table, the plots, the page."""

import dataclasses
import re

import pytest

from ndereg.experiments import figures, lookup
from ndereg.experiments.collection import Collection
from ndereg.experiments.published import comparison
from ndereg.experiments.recipe import Metric, Paper, Published
from ndereg.experiments.report import write_report
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
        precision=[
            {"tolerance": 1e-3, "nfev": 14, "error": 1e-2},
            {"tolerance": 1e-6, "nfev": 50, "error": 1e-5},
        ],
    )


@pytest.fixture
def metric():
    return lookup("digits").metric


def test_ratios_are_to_the_row_without_a_regularizer(metric):
    rows = summarize([result("error", nfev=28, train_s=7.0), result("none")], metric)
    assert [row.name for row in rows] == ["error", "none"]
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


def test_ratios_are_to_the_same_seeds(metric):
    runs = [result("none", 0, nfev=50), result("none", 1, nfev=100), result("error", 1, nfev=50)]
    rows = summarize(runs, metric)
    assert [row.nfev.ratio for row in rows] == [1.0, 0.5]
    assert rows[1].baseline == 0.97
    alone = summarize([result("none", 0, nfev=50), result("error", 1, nfev=25)], metric)
    assert alone[1].nfev.ratio == 0.5
    better = summarize([*runs[:2], result("none", 2, accuracy=0.5), runs[2]], metric)
    (line,) = comparison(better, PAPER, metric)[1]
    assert line[:4] == ["error", "+0.00 points", "-0.50 points", "0.50×"]


def test_weights_of_one_regularizer_are_rows_of_their_own(metric):
    runs = [
        result("none"),
        dataclasses.replace(result("error", nfev=28), weight="5:1"),
        dataclasses.replace(result("error", nfev=14), weight="50:10"),
        dataclasses.replace(result("error", seed=1, nfev=42), weight="5:1"),
    ]
    rows = summarize(runs, metric)
    assert [row.name for row in rows] == ["none", "error 5:1", "error 50:10"]
    assert [row.regularizer for row in rows] == ["none", "error", "error"]
    assert [row.nfev.mean for row in rows] == [56, 35, 14]


PAPER = Paper(
    "Somebody 2020",
    {"none": Published(0.98, 100.0, 2.0), "error": Published(0.975, 60.0, 1.0, 0.5)},
)


def test_ours_beside_the_published(metric):
    rows = summarize([result("none"), result("error", nfev=28, accuracy=0.96)], metric)
    header, (line,) = comparison(rows, PAPER, metric)
    assert len(header) == len(line)
    assert line == [
        "error", "-1.00 points", "-0.50 points", "0.50×", "0.60×", "1.00×", "0.50×", "1.00×", "–",
    ]  # fmt: skip
    loss = Metric("accuracy", "loss")  # not in percent: compared by its ratio
    rows = summarize([result("none"), result("error", accuracy=1.94)], loss)
    _, (line,) = comparison(rows, PAPER, loss)
    assert line[1:3] == ["2.00×", "0.99×"]


@pytest.mark.parametrize("rows", [["error"], ["none"], ["none", "stiffness"]])
def test_without_a_common_row_nothing_is_compared(metric, rows):
    assert comparison(summarize(map(result, rows), metric), PAPER, metric) is None


def epoch(run, number, seed=0, row=None):
    return {
        "run": f"{run}-seed{seed}",
        "regularizer": run,
        "row": row or run,
        "seed": seed,
        "epoch": number,
        "objective": 1.0 / number,
        "test_nfev": 50 + number,
        "test_accuracy": 0.9,
    }


def test_the_page_carries_everything_it_shows(tmp_path):
    recipe = lookup("mnist")
    results = (result("none"), dataclasses.replace(result("error", nfev=28), weight="<script>"))
    records = tuple(epoch(run, n) for run in ("none", "error") for n in (1, 2))
    command = "ndereg compare mnist --regularizers none,error"
    found = Collection(recipe, recipe.settings(), results, records, (command,), ({"cores": 2},))
    page = write_report(found, tmp_path).read_text()
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r"https?://|<script|src=\"(?!data:)", page)
    assert "28 0.50×" in page
    assert command in page
    assert "cores=2" in page
    assert "Beside Pal, Ma, Shah, Rackauckas 2021" in page  # of the second paper we have no row
    assert "Edelman" not in page
    for name in ("training", "solver", "precision"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_plots_of_several_seeds_name_each_row_once(metric):
    records = [epoch("error", 1, seed, row) for row in ("error 1", "error 9") for seed in (0, 1)]
    figure = figures.training_figure(records, metric)
    assert legend(figure) == ["error 1", "error 9"]
    assert len(figure.axes[0].lines) == 4
    results = [result("none"), result("error"), result("error", seed=1)]
    assert legend(figures.solver_figure(results)) == ["none", "error"]
    assert legend(figures.precision_figure(results, metric)) == ["none", "error"]


def test_the_curve_is_evaluations_against_error(metric):
    (line,) = figures.precision_figure([result("none")], metric).axes[0].lines
    assert line.get_xydata().tolist() == [[1e-2, 14.0], [1e-5, 50.0]]


def test_a_negative_loss_is_drawn_on_a_linear_scale(metric):
    records = [epoch("error", 1), epoch("error", 2) | {"objective": -1.0}]
    assert figures.training_figure(records, metric).axes[2].get_yscale() == "linear"
    assert figures.training_figure(records[:1], metric).axes[2].get_yscale() == "log"
