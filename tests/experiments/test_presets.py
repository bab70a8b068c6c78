"""Presets named after the papers have the numbers that these, and their code, have."""

from __future__ import annotations

import pytest

from ndereg.experiments import RECIPES, STUDIES, experiment, lookup
from ndereg.experiments.langevin import SAMPLERS
from ndereg.spec.regularizer import ErrorEstimate, LocalTerm, StiffnessEstimate

BLACKBOX, LOCAL = "opening-the-blackbox", "locally-regularized"
SOLVED = {"method": "tsit5", "rtol": 1.4e-8, "atol": 1.4e-8}
SETTINGS = [
    ("mnist", BLACKBOX, SOLVED | {
        "batch_size": 512, "hidden": 100, "steps": 8775, "optimizer": "momentum",
        "learning_rate": 0.1, "learning_rate_decay": 1e-5, "anneal": "epoch",
    }),
    ("mnist", LOCAL, SOLVED | {
        "batch_size": 512, "steps": 7500, "optimizer": "adam", "learning_rate": 1e-3,
        "learning_rate_decay": 0.0, "anneal": "step",
    }),
    ("physionet", BLACKBOX, SOLVED | {
        "batch_size": 512, "steps": 3000, "optimizer": "adamax", "learning_rate": 0.01,
        "learning_rate_decay": 1e-5, "anneal": "epoch", "latent": 20, "hidden": 50,
        "recognition": 50, "units": 40, "blocks": 4, "kl_start": 100, "kl_period": 10,
        "times": "hourly",
    }),
    ("physionet", LOCAL, SOLVED | {"kl_period": 1, "anneal": "step", "optimizer": "adamax"}),
    ("ffjord", BLACKBOX, SOLVED | {
        "batch_size": 1024, "epochs": 20, "learning_rate": 4e-2, "weight_decay": 1e-5,
        "anneal": "epoch", "hidden": 16, "depth": 2,
    }),
    ("spiral-sde", BLACKBOX, {
        "method": "sosri", "rtol": 0.3, "atol": 0.3, "steps": 250, "optimizer": "adabelief",
        "learning_rate": 0.01, "points": 30,
    }),
    ("mnist-sde", BLACKBOX, {
        "method": "sosri", "rtol": 0.14, "atol": 0.14, "batch_size": 512, "learning_rate": 0.01,
        "steps": 4680,
    }),
    ("langevin", "single-seed", {"paths": 64, "samples": 128, "force": "held"}),
]  # fmt: skip
WEIGHTS = [
    ("mnist", BLACKBOX, "error", 100.0, 10.0),
    ("mnist", BLACKBOX, "stiffness", 0.1, 0.1),
    ("mnist", BLACKBOX, "error+stiffness", 10.0, 10.0),
    ("mnist", LOCAL, "local-unbiased", 2.5, 1.0),
    ("mnist", LOCAL, "local-biased", 2.5, 1.0),
    ("physionet", BLACKBOX, "error", 1000.0, 100.0),
    ("physionet", BLACKBOX, "stiffness", 10.0, 10.0),
    ("physionet", BLACKBOX, "error+stiffness", 10.0, 10.0),
    ("physionet", LOCAL, "local-unbiased", 100.0, 10.0),
    ("ffjord", BLACKBOX, "error-mean", 2000.0, 1000.0),
    ("spiral-sde", BLACKBOX, "error", 0.2, 0.2),
    ("mnist-sde", BLACKBOX, "error", 10.0, 10.0),
]


@pytest.mark.parametrize(("name", "preset", "expected"), SETTINGS)
def test_published_settings(name, preset, expected):
    found = experiment(name)
    settings = found.settings(preset)
    assert {key: getattr(settings, key) for key in expected} == expected


@pytest.mark.parametrize(("name", "preset", "row", "start", "end"), WEIGHTS)
def test_published_weights(name, preset, row, start, end):
    recipe = lookup(name)
    weight = recipe.weight(recipe.settings(preset, regularizers=(row,)), row, 1000)
    assert (weight(0), weight(1000)) == pytest.approx((start, end))


def test_published_aggregates():
    """Means and maxima over the steps, and the published local step."""
    for name in ("mnist", "physionet"):
        rows = lookup(name).regularizers
        assert rows["error"].regularizer == ErrorEstimate(reduce="mean")
        assert rows["stiffness"].regularizer == StiffnessEstimate(reduce="max")
        ((_, local),) = rows["local-unbiased"].regularizer.terms()
        assert isinstance(local, LocalTerm)
        assert (local.sampling, local.through_state, local.step) == ("unbiased", False, "first")
    orders = {name: lookup(name).regularizers["taynode"] for name in ("mnist", "physionet")}
    assert orders["mnist"].regularizer.order == 3 and orders["mnist"].weight == "3.02e-3"
    assert orders["physionet"].regularizer.order == 2 and orders["physionet"].weight == "0.01"
    assert lookup("spiral-sde").regularizers["error"].regularizer == ErrorEstimate(reduce="sum")


def test_the_published_sampler():
    quicsort = SAMPLERS["quicsort"]
    assert (quicsort.method, quicsort.size) == ("quicsort", 2.0**-6)
    control = quicsort.options()["controller"]
    assert (control.pcoeff, control.icoeff) == (0.1, 0.4)


def test_every_published_row_is_a_row():
    for name in (*RECIPES, *STUDIES):
        found = experiment(name)
        rows = set(getattr(found, "regularizers", None) or found.rows)
        for paper in found.papers:
            assert set(paper.rows) <= rows
            assert name in STUDIES or "none" in paper.rows
