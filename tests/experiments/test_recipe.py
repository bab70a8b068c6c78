"""Recipes, their settings, their weights."""

import dataclasses
import json

import pytest

import ndereg
from ndereg.experiments import RECIPES, lookup
from ndereg.experiments.weights import parse_weight


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_settings_for_each_preset(name):
    recipe = lookup(name)
    for preset in recipe.presets:
        settings = recipe.settings(preset)
        assert settings.regularizers
        written = json.loads(json.dumps(dataclasses.asdict(settings)))
        assert recipe.settings(preset, **written) == settings


def test_an_unknown_recipe_is_an_error_with_a_hint():
    with pytest.raises(ValueError, match=r"digits.*did you mean 'digits'"):
        lookup("digit")


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"backend": "tensorflow"}, "backend among numpy, torch, jax"),
        ({"optimizer": "adan"}, "did you mean 'adam'"),
        ({"epochs": 0}, "epochs >= 1"),
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"batch_size": 5000}, "training set"),
        ({"threads": 0}, "threads >= 1"),
        ({"hidden": 0}, "hidden >= 1"),
        ({"learning_rate": 0.0}, "learning_rate > 0"),
        ({"learning_rate": float("nan")}, "learning_rate > 0"),
        ({"seeds": ()}, "at least one seed"),
        ({"regularizers": ("none", "eror")}, "regularizers among none, error"),
        ({"regularizers": ("error", "error")}, "different regularizers"),
        ({"regularizers": ()}, "different regularizers"),
        ({"weights": {"eror": "1"}}, "regularizers among"),
        ({"regularizers": ("error",), "weights": {"error": "1:2:3:4"}}, "START:END"),
        ({"schedule": "linear"}, "schedule among"),
        ({"latent": 3}, "expected a setting of .digits. among .*received .latent."),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_runs(chosen, message):
    recipe = lookup("digits")
    if "schedule" in chosen:
        chosen |= {"regularizers": ("error",), "weights": {"error": "1:2"}}
    with pytest.raises(ValueError, match=message):
        recipe.settings(**chosen)


def test_a_wrong_preset_is_refused():
    with pytest.raises(ValueError, match="preset among default"):
        lookup("digits").settings("defualt")


def test_weights_as_they_are_written():
    assert parse_weight("2.5:1.0", "exponential", 10) == ndereg.ExponentialDecay(2.5, 1.0, steps=10)
    assert parse_weight("2.5:1.0:4", "exponential", 10)(9) == 1.0
    assert parse_weight("2.5:0.1", "inverse", 10) == ndereg.InverseDecay(2.5, rate=0.1)
    assert parse_weight("3", "constant", 10) == ndereg.Constant(3.0)
    assert parse_weight("3", "exponential", 10) == ndereg.Constant(3.0)


@pytest.mark.parametrize(
    "text", ["", "a", "1:", "1:b", "1:2:0", "1:2:1.5", "1:2:3:4", "-1:2", "1:0"]
)
def test_a_malformed_weight_is_refused(text):
    with pytest.raises(ValueError, match="expected"):
        parse_weight(text, "exponential", 10)


@pytest.mark.parametrize("schedule", ["inverse", "constant"])
def test_only_an_exponential_weight_takes_steps(schedule):
    with pytest.raises(ValueError, match="VALUE"):
        parse_weight("1:2:3", schedule, 10)


def test_the_default_weight_runs_over_the_whole_training():
    recipe = lookup("digits")
    weight = recipe.weight(recipe.settings(), "error", steps=100)
    assert weight(0) == 2.5
    assert weight(100) == 1.0
    assert recipe.weight(recipe.settings(), "none", steps=100)(50) == 0.0


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"schedule": "cosine"}, "expected a schedule among .*received 'cosine'"),
        ({"method": "tsit"}, "tsit5"),
        ({"method": "bosh3", "regularizers": ("none", "stiffness")}, "stiffness estimate"),
        ({"rtol": -1.0}, "expected rtol > 0"),
        ({"regularizers": ("none",), "weights": {"error": "1"}}, "received one of error"),
        ({"regularizers": ("error",), "weights": {"error": "-5"}}, "expected weights >= 0"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_first_row(chosen, message):
    with pytest.raises(ValueError, match=message):
        lookup("digits").settings(**chosen)
