"""The spiral recipe."""

from contextlib import nullcontext

import numpy as np
import pytest

from ndereg.backends.registry import load_backend
from ndereg.experiments import lookup
from ndereg.experiments.recipe import BACKENDS
from ndereg.experiments.runners import on_numpy
from ndereg.experiments.runners import runner as make_runner
from ndereg.experiments.session import Session
from ndereg.experiments.spiral import A, spiral
from ndereg.models.files import load
from ndereg.models.parameters import flatten, map_leaves
from ndereg.solve import Face

SMALL = {
    "hidden": 24,
    "points": 6,
    "end": 0.5,
    "method": "bosh3",
    "rtol": 1e-4,
    "atol": 1e-4,
    "regularizers": ("error",),
}


@pytest.fixture(scope="module")
def task():
    return make_task()


def make_task(**chosen):
    recipe = lookup("spiral")
    return recipe.task(recipe.settings(**{**SMALL, **chosen}))


def in_float64(tree):
    return map_leaves(lambda array: array.astype("float64"), tree)


def test_the_data_are_the_spiral():
    """Against our own solver; and ``sum(y^4)`` decays as its derivative says."""
    times = np.linspace(0.0, 1.5, 4)
    states = spiral(times)
    solve = Face(load_backend("reference")).solve
    exact = solve(
        lambda t, y, a: (y * y * y) @ a,
        (0.0, 1.5),
        np.array([2.0, 0.0]),
        A,
        t_eval=times,
        method="dopri8",
        rtol=1e-12,
        atol=1e-12,
    )
    np.testing.assert_allclose(states, exact.ys, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(states[0], [2.0, 0.0])
    # The part of A that turns leaves sum(y^4) alone: d/dt sum(y^4) = -0.4 sum(y^6).
    fine = np.linspace(0.0, 1.5, 2001)
    fourth, sixth = (np.sum(spiral(fine) ** power, axis=1) for power in (4, 6))
    np.testing.assert_allclose(np.gradient(fourth, fine)[1:-1], -0.4 * sixth[1:-1], rtol=1e-3)


def test_points_between_those_fitted_are_tested(task):
    assert task.train["y"].shape == (1, 11, 2)
    np.testing.assert_array_equal(task.train["mask"] + task.test["mask"], np.ones((1, 11)))
    assert (task.train["mask"].sum(), task.test["mask"].sum()) == (6, 5)
    fit = task.test["y"].copy()
    fit[:, ::2] += 1.0
    assert task.scores(fit, task.test)["loss"] == 0.0
    assert task.scores(fit, task.train)["loss"] == 2.0


def test_gradients_of_the_loss_are_those_of_jax(task):
    import jax

    params, batch = in_float64(task.init(0)), in_float64(task.train)
    ys = np.random.default_rng(0).normal(size=(11, 1, 2))
    with jax.enable_x64(True):
        value, ys_bar = jax.value_and_grad(lambda ys: task.loss(params, ys, None, batch, 0))(ys)
        ys_bar = np.asarray(ys_bar)
    loss, (params_bar, our_ys_bar, _) = task.loss_vjp(params, ys, None, batch, 0)
    assert loss == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(our_ys_bar, ys_bar, rtol=1e-10)
    (y0, _), pullback = task.encode_vjp(params, batch)
    np.testing.assert_array_equal(y0, [[2.0, 0.0]])
    for bars in (params_bar, pullback(y0, None)):
        assert not any(bar.any() for bar in flatten(bars).values())


@pytest.mark.slow
def test_the_first_steps_are_the_same_on_every_backend(task, monkeypatch):
    """What surrounds the solves is compared here: NumPy's are interpreted, not compiled."""
    import jax

    monkeypatch.setattr(on_numpy, "nde", Face(load_backend("reference")))
    recipe, found = lookup("spiral"), {}
    params, batch = in_float64(task.init(0)), in_float64(task.train)
    for backend in BACKENDS:
        settings = recipe.settings(**SMALL, backend=backend)
        with jax.enable_x64(True) if backend == "jax" else nullcontext():
            runner = make_runner(task, recipe.regularizers["error"], settings, params)
            steps = [vars(runner.step(batch, 0.1, i)) for i in range(2)]
            found[backend] = steps, runner.predict(in_float64(task.test))
    for steps, (output, nfev) in found.values():
        for ours, expected in zip(steps, found["numpy"][0], strict=True):
            assert expected["penalty"] > 1e-4
            assert ours == pytest.approx(expected, rel=1e-7)
        assert nfev == found["numpy"][1][1]
        # Optax has the learning rate in single precision.
        np.testing.assert_allclose(output, found["numpy"][1][0], rtol=1e-7)


@pytest.mark.slow
def test_rows_to_compare_with():
    """A step of each; what is integrated is not zero, and steering alone has no penalty."""
    recipe = lookup("spiral")
    settings = recipe.settings(**SMALL | {"end": 1.0}, backend="torch")
    task, penalties = recipe.task(settings), {}
    params = task.init(0)
    for name in ("steer", "taynode", "rnode"):
        runner = make_runner(task, recipe.regularizers[name], settings, params)
        step = runner.step(task.train, 1e-6, 0)
        assert np.isfinite(step.loss)
        penalties[name] = step.penalty
    assert penalties["steer"] == 0.0
    assert min(penalties["taynode"], penalties["rnode"]) > 0.0


def test_a_training_from_start_to_report(tmp_path):
    session = Session.create(
        "spiral", tmp_path, **SMALL, backend="torch", steps=3, evaluate_every=1
    )
    results = session.train()
    assert [record["step"] for record in session.folder.read_metrics()] == [1, 2, 3]
    model, task = load(session.folder.model("error-seed0")), session.recipe.task(session.settings)
    solve = Face(load_backend("reference"))
    output, _ = model.layer.run(solve, task.test["y0"], model.params, t_eval=task.times)
    loss = task.scores(output.transpose(1, 0, 2), task.test)["loss"]
    assert loss == pytest.approx(results[0].scores["loss"], rel=1e-3)
    assert session.folder.report.exists()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"hidden": 0}, "hidden >= 1"),
        ({"points": 1}, "points >= 2"),
        ({"end": 0.0}, "an end in"),
        ({"batch_size": 2}, "batch size of 1"),
    ],
)
def test_a_wrong_setting_is_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        lookup("spiral").settings(**chosen)
