"""Work against precision of a trained model."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from ndereg.experiments import lookup
from ndereg.experiments.precision import TOLERANCES, exact_prediction, work_precision
from ndereg.experiments.runners import runner as make_runner
from ndereg.models.parameters import map_leaves


@pytest.fixture(scope="module")
def steep():
    """Return a task and its runner, with parameters at which the solver has something to do."""
    recipe = lookup("digits")
    settings = recipe.settings(hidden=4, backend="torch")
    task = recipe.task(settings)
    task.counted = {name: array[:6] for name, array in task.test.items()}
    params = map_leaves(lambda array: 4 * array, task.init(0))
    return task, make_runner(task, recipe.regularizers["none"], settings, params), params


def test_the_exact_prediction_is_that_of_scipy(steep):
    task, _, params = steep
    wide = map_leaves(lambda array: array.astype("float64"), params)
    start = task.counted["x"].astype("float64")

    def field(t, y):
        return task.field(t, y.reshape(start.shape), wide["field"]).ravel()

    end = solve_ivp(field, (0.0, 1.0), start.ravel(), "DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    expected = task.decode(wide, end.reshape(start.shape), None)
    exact = exact_prediction(task, params)
    assert exact.dtype == np.dtype("float64")
    np.testing.assert_allclose(exact, expected, rtol=1e-7, atol=1e-8)


def test_a_smaller_tolerance_costs_more_and_errs_less(steep):
    task, runner, _ = steep
    points = work_precision(task, runner, runner.place(task.counted))
    assert [point["tolerance"] for point in points] == list(TOLERANCES)
    evaluations = [point["nfev"] for point in points]
    assert evaluations == sorted(evaluations)
    assert evaluations[-1] > 2 * evaluations[0]
    errors = [point["error"] for point in points]
    assert errors[0] > 30 * errors[3]
    for point in points[1:4]:  # below, float32 is the limit
        assert point["error"] < 10 * point["tolerance"]
    assert errors[-1] < 1e-5


def test_a_tolerance_that_fails_is_left_out(steep, monkeypatch):
    task, runner, _ = steep
    predict = runner.predict

    def failing(batch, rtol=None, atol=None):
        if rtol < 1e-4:
            raise RuntimeError("STEP_UNDERFLOW")
        return predict(batch, rtol, atol)

    monkeypatch.setattr(runner, "predict", failing)
    assert len(work_precision(task, runner, runner.place(task.counted))) == 3
