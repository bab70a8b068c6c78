"""The stochastic recipes: a spiral fitted by its moments, and images."""

import numpy as np
import pytest

from ndereg import SDE, ConstantStep
from ndereg.backends.registry import load_backend
from ndereg.experiments import lookup
from ndereg.experiments.runners import on_numpy
from ndereg.experiments.runners import runner as make_runner
from ndereg.experiments.session import Session
from ndereg.experiments.spiral_sde import A, moments
from ndereg.models.files import load
from ndereg.models.parameters import map_leaves
from ndereg.solve import Face

SPIRAL = {"hidden": 6, "points": 4, "paths": 5}
REFERENCE = Face(load_backend("reference"))


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    arrays = {
        f"x_{part}": random.integers(0, 256, (count, 4, 4), dtype=np.uint8)
        for part, count in (("train", 24), ("test", 12))
    }
    labels = {
        f"y_{part}": random.integers(0, 10, count).astype(np.uint8)
        for part, count in (("train", 24), ("test", 12))
    }
    np.savez(tmp_path / "mnist.npz", **arrays, **labels)
    return {
        "data": str(tmp_path / "mnist.npz"), "state": 3, "hidden": 4, "paths": 3, "tested": 10,
        "batch_size": 8,
    }  # fmt: skip


def make_task(name, **chosen):
    recipe = lookup(name)
    return recipe.task(recipe.settings(**chosen))


def in_float64(tree):
    return map_leaves(lambda array: array.astype("float64"), tree)


def test_the_data_are_moments_of_the_spiral():
    """Against another method: means and variances agree as those of 10,000 and 2,000 paths do."""
    equation = SDE(lambda t, y, args: (y * y * y) @ A, lambda t, y, args: 0.2 * y)
    mean, variance = moments(4)
    y = np.tile([2.0, 0.0], (2000, 1))
    for i in range(1, 4):
        span, steps = ((i - 1) / 3, i / 3), ConstantStep(1 / 60)
        y = REFERENCE.solve(equation, span, y, method="sriw1", key=i, controller=steps).ys
        deviation = np.sqrt(variance[i] * (1 / 2000 + 1 / 10_000))
        assert np.all(np.abs(y.mean(axis=0) - mean[i]) < 4 * deviation)
        # of a variance the standard error is some sqrt(2 / count) of it, of a heavier tail more
        assert np.all(np.abs(y.var(axis=0) / variance[i] - 1) < 0.25)
    np.testing.assert_array_equal(mean[0], [2.0, 0.0])
    assert np.all(variance[1:] > 0.01)


def test_moments_and_their_gradients():
    import jax

    task = make_task("spiral-sde", **SPIRAL)
    params, batch = in_float64(task.init(0)), in_float64(task.train)
    ys = np.random.default_rng(0).normal(size=(4, 5, 2))
    output = task.decode(params, ys, None)
    np.testing.assert_allclose(output, np.concatenate([ys.mean(1), ys.var(1)], axis=1))
    with jax.enable_x64(True):
        value, ys_bar = jax.value_and_grad(lambda ys: task.loss(params, ys, None, batch, 0))(ys)
        ys_bar = np.asarray(ys_bar)
    loss, (_, our_ys_bar, _) = task.loss_vjp(params, ys, None, batch, 0)
    assert loss == pytest.approx(float(value), rel=1e-12)
    assert task.scores(output, batch)["loss"] == pytest.approx(float(value) / 8, rel=1e-12)
    np.testing.assert_allclose(our_ys_bar, ys_bar, rtol=1e-9)
    perfect = np.concatenate([batch["mean"][0], batch["variance"][0]], axis=1)
    assert task.scores(perfect, batch)["loss"] == 0.0


@pytest.mark.parametrize(
    ("name", "row"), [("spiral-sde", "error"), ("mnist-sde", "local-unbiased")]
)
def test_the_first_steps_are_the_same_on_numpy_and_torch(name, row, images, monkeypatch):
    monkeypatch.setattr(on_numpy, "nde", REFERENCE)
    recipe, found = lookup(name), []
    chosen = SPIRAL if name == "spiral-sde" else images
    for backend in ("numpy", "torch"):
        settings = recipe.settings(
            "opening-the-blackbox", **chosen, backend=backend, regularizers=(row,)
        )
        task = recipe.task(settings)
        params = in_float64(task.init(0))
        size = settings.batch_size
        batch = in_float64(task.batch(np.arange(size), np.random.default_rng(0)))
        runner = make_runner(task, recipe.regularizers[row], settings, params)
        steps = [vars(runner.step(batch, 0.5, i, key=i)) for i in range(2)]
        found.append((steps, runner.predict(in_float64(task.counted))))
    for ours, theirs in zip(found[0][0], found[1][0], strict=True):
        assert ours["penalty"] > 1e-6 and ours == pytest.approx(theirs, rel=1e-6)
    np.testing.assert_allclose(found[0][1][0], found[1][1][0], rtol=1e-6, atol=1e-8)
    assert found[0][1][1] == found[1][1][1]


def test_a_training_from_start_to_report(tmp_path, images):
    """What is saved predicts as was reported."""
    session = Session.create(
        "mnist-sde", tmp_path / "out", "opening-the-blackbox", **images, backend="torch", steps=6,
        evaluate_every=1, regularizers=("none", "local-biased"),
    )  # fmt: skip
    results = session.train()
    assert {result.regularizer for result in results} == {"none", "local-biased"}
    assert all(result.precision == [] for result in results)
    model, task = load(session.folder.model("none-seed0")), session.recipe.task(session.settings)
    x, label = task.test["x"], task.test["label"]
    assert len(x) == 10 and model.layer.paths == 3
    output, _ = model.layer.run(REFERENCE, x, model.params, key=0)
    loss = task.scores(output, {"label": label})["loss"]
    assert loss == pytest.approx(results[0].scores["loss"], rel=1e-3)
    assert session.folder.report.exists()


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("spiral-sde", {"paths": 1}, "paths >= 2"),
        ("spiral-sde", {"batch_size": 2}, "batch size of 1"),
        ("spiral-sde", {"preset": "quick", "regularizers": ("stiffness",)}, "try .*sosri2"),
        ("spiral-sde", {"method": "tsit5"}, "tsit5"),
        ("spiral-sde", {"preset": "quick", "method": "spark"}, "spark"),
        ("mnist-sde", {"tested": 0}, "tested >= 1"),
        ("mnist-sde", {"hidden": 0}, "hidden >= 1"),
    ],
)
def test_a_wrong_setting_is_refused(name, chosen, message):
    with pytest.raises(ValueError, match=message):
        lookup(name).settings(**chosen)
