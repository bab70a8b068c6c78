"""The digits task by itself."""

import numpy as np
import pytest

from ndereg.experiments import lookup
from ndereg.experiments.digits import TRAINING, load_digits
from ndereg.models.parameters import flatten, map_leaves


@pytest.fixture(scope="module")
def task():
    recipe = lookup("digits")
    return recipe.task(recipe.settings(hidden=8))


def test_no_sample_is_in_both_halves():
    train, test = load_digits()
    assert len(train["x"]) == TRAINING
    assert len(train["x"]) + len(test["x"]) == 1797
    rows = {row.tobytes() for row in train["x"]}
    assert not rows & {row.tobytes() for row in test["x"]}
    assert train["x"].min() == 0.0
    assert train["x"].max() == 1.0
    assert (train["label"].sum(axis=1) == 1).all()


def test_every_digit_is_in_the_test_set_often():
    counts = load_digits()[1]["label"].sum(axis=0)
    assert counts.min() > 35


def test_gradients_of_encoder_and_loss_are_those_of_jax(task):
    import jax

    params = task.init(0)
    batch = {name: array[:16] for name, array in task.train.items()}
    ys = np.random.default_rng(0).normal(size=(16, 64)).astype("float32")

    def loss(params, ys):
        return task.loss(params, ys, None, batch, 0)

    value, (params_bar, ys_bar) = jax.value_and_grad(loss, argnums=(0, 1))(params, ys)
    ours, (our_params_bar, our_ys_bar, _) = task.loss_vjp(params, ys, None, batch, 0)
    np.testing.assert_allclose(ours, value, rtol=1e-5)
    np.testing.assert_allclose(our_ys_bar, ys_bar, rtol=1e-4, atol=1e-7)
    for name, gradient in flatten(params_bar).items():
        np.testing.assert_allclose(
            flatten(our_params_bar)[name], gradient, rtol=1e-4, atol=1e-6, err_msg=name
        )
    (y0, _), pullback = task.encode_vjp(params, batch)
    assert y0 is batch["x"]
    zeros = pullback(ys, None)
    assert not any(value.any() for value in flatten(zeros).values())


def test_scores_of_a_perfect_prediction(task):
    scores = task.scores(100 * task.test["label"], task.test)
    assert scores["accuracy"] == 1.0
    assert scores["loss"] == pytest.approx(0.0, abs=1e-6)


def test_parameters_are_independent_of_one_another(task):
    flat = flatten(task.init(0))
    assert not np.array_equal(flat["field.0.weight"].ravel()[:8], flat["head.weight"].ravel()[:8])
    assert {value.dtype for value in flat.values()} == {np.dtype("float32")}
    again = map_leaves(np.array_equal, task.init(0), task.init(0))
    assert all(flatten(again).values())


@pytest.mark.parametrize(
    ("recipe", "expected"), [("digits", [0.0, 0.1, 1.0]), ("mnist", [0.0, 3.02e-3, 0.01])]
)
def test_rows_of_the_papers_that_integrate_along_the_solution(recipe, expected):
    names = ("steer", "taynode", "rnode")
    settings = lookup(recipe).settings(regularizers=("none", *names))
    weights = [lookup(recipe).weight(settings, name, steps=10)(0) for name in names]
    assert weights == expected
