"""The estimators keep scikit-learn's conventions."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_moons
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import ndereg
from ndereg.models.sklearn import (
    SECONDS_TO_COMPILE,
    NeuralODEClassifier,
    NeuralODERegressor,
    seconds_to_interpret,
)

EPOCHS = 8  # the checks pass with the default as well, and then take five times as long


# Two checks skip themselves: they need pandas, and an environment variable of SciPy.
@parametrize_with_checks(
    [NeuralODEClassifier(max_iter=EPOCHS), NeuralODERegressor(max_iter=EPOCHS)]
)
def test_conventions(estimator, check):
    check(estimator)


def moons():
    return make_moons(80, noise=0.1, random_state=0)


def test_a_classifier_learns():
    X, y = moons()
    names = np.where(y, "b", "a")
    classifier = NeuralODEClassifier(augmentation=1, random_state=0).fit(X, names)
    assert classifier.score(X, names) > 0.95
    assert list(classifier.classes_) == ["a", "b"]
    probabilities = classifier.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), classifier.predict(X) == "b")


def test_a_regularizer_makes_predictions_cheaper():
    X, y = moons()
    costs = []
    for regularizer in (None, ndereg.ErrorEstimate()):
        classifier = NeuralODEClassifier(
            augmentation=1, regularizer=regularizer, penalty_weight=ndereg.Constant(10.0),
            max_iter=40, random_state=0,
        ).fit(X, y)  # fmt: skip
        _, solution = classifier.model_.predict(
            classifier._standardized(X), return_solution=True, regularizer=ndereg.ErrorEstimate()
        )
        costs.append(float(solution.penalty))
    assert costs[1] < 0.5 * costs[0]


def test_a_prediction_does_not_depend_on_its_neighbours():
    X, y = moons()
    regressor = NeuralODERegressor(max_iter=5, random_state=0).fit(X, y)
    far = np.concatenate([X[:3], 100 * X[3:6]])
    np.testing.assert_allclose(regressor.predict(far)[:3], regressor.predict(X[:3]), rtol=1e-12)


def test_several_targets_and_single_precision():
    X, _ = moons()
    X = X.astype("float32")
    y = np.stack([X[:, 0] * X[:, 1], 100.0 + X[:, 0]], axis=1)
    regressor = NeuralODERegressor(random_state=0).fit(X, y)
    assert regressor.predict(X).shape == y.shape
    assert regressor.predict(X).dtype == np.float32
    assert regressor.score(X, y) > 0.8
    assert {leaf.dtype for leaf in regressor.model_.params["head"].values()} == {np.dtype("f4")}


def test_selection_and_cloning():
    X, y = moons()
    classifier = NeuralODEClassifier((8,), regularizer=ndereg.ErrorEstimate(), max_iter=3)
    assert clone(classifier).get_params() == classifier.get_params()
    assert cross_val_score(classifier, X, y, cv=2).shape == (2,)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"hidden": ()}, "hidden"),
        ({"activation": "tan"}, "activation"),
        ({"max_iter": 0}, "max_iter"),
        ({"backend": "torch"}, "backend"),
        ({"method": "rk5"}, "unknown method|rk5"),
        ({"t1": "long"}, "t1"),
        ({"tol": -1.0}, "tol"),
    ],
)
def test_bad_parameters_are_refused_when_fitting(arguments, match):
    with pytest.raises(ValueError, match=match):
        NeuralODEClassifier(**arguments).fit(*moons())


def test_small_data_are_interpreted_and_large_ones_compiled():
    assert seconds_to_interpret(500, 60 * 10) < SECONDS_TO_COMPILE
    assert seconds_to_interpret(100_000, 64 * 10) > SECONDS_TO_COMPILE
    few, many = np.ones((100, 2)), np.ones((50_000, 64))
    assert NeuralODEClassifier()._backend(few) == "reference"
    assert NeuralODEClassifier()._backend(many) == "numba"
    assert NeuralODEClassifier(backend="numba")._backend(few) == "numba"


def test_an_import_brings_in_no_framework():
    script = (
        "import sys, ndereg.models, ndereg.models.layer\n"
        "names = ('torch', 'jax', 'flax', 'equinox', 'sklearn', 'numba')\n"
        "assert not [n for n in names if n in sys.modules], sys.modules.keys()\n"
        "import ndereg.models.sklearn\n"
        "assert not [n for n in names[:4] if n in sys.modules]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
