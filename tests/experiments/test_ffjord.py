"""The recipe of continuous normalizing flows, and what it fits."""

import numpy as np
import pytest
import scipy.stats

from ndereg.backends.registry import load_backend
from ndereg.experiments import lookup
from ndereg.experiments.densities import DENSITIES, PLANAR, load_density, load_table
from ndereg.experiments.ffjord import log_density
from ndereg.experiments.runners import on_numpy
from ndereg.experiments.runners import runner as make_runner
from ndereg.experiments.session import Session
from ndereg.flow import Flow
from ndereg.models.files import load
from ndereg.models.parameters import map_leaves
from ndereg.solve import Face

SMALL = {
    "hidden": 8,
    "depth": 1,
    "density": "moons",
    "divergence": "hutchinson",
    "method": "bosh3",
    "rtol": 1e-3,
    "atol": 1e-3,
    "batch_size": 32,
}
REFERENCE = Face(load_backend("reference"))


def in_float64(tree):
    return map_leaves(lambda array: array.astype("float64"), tree)


def test_densities():
    """Each is where it should be; training and test data differ."""
    for name in DENSITIES:
        train, test = (batch["x"] for batch in load_density(name))
        assert train.dtype == test.dtype == np.float32 and train.shape[1] == test.shape[1]
        assert np.isfinite(train).all() and not np.isin(test[:, 0], train[:, 0]).all()
        np.testing.assert_array_equal(train, load_density(name)[0]["x"])
    points = {name: load_density(name)[0]["x"] for name in PLANAR}
    assert all(x.shape == (10_000, 2) for x in points.values())
    # a ring of radius 4/sqrt(2): E |x|^2 is its square and that of the noise, 2 * 0.5^2 / 2
    assert np.mean(np.sum(points["8gaussians"] ** 2, axis=1)) == pytest.approx(8.25, rel=0.02)
    x, y = np.floor(points["checkerboard"].T / 2.0).astype(int)
    assert set((x + y) % 2) == {0} and len(set(zip(x, y, strict=True))) == 8
    angle = np.arctan2(*points["pinwheel"].T)
    turned = np.mean(np.exp(5j * angle))  # five arms
    assert abs(turned) > 0.3 > 10 * abs(np.mean(np.exp(3j * angle)))
    cancer = load_density("cancer")[0]["x"]
    np.testing.assert_allclose(cancer.std(axis=0), 1.0, rtol=1e-4)
    correlation = np.corrcoef(cancer, rowvar=False) - np.eye(cancer.shape[1])
    assert 20 <= cancer.shape[1] < 30 and np.abs(correlation).max() < 0.99


def test_a_table_of_ones_own(tmp_path):
    table = np.random.default_rng(0).normal(3.0, 2.0, size=(50, 4))
    np.save(tmp_path / "a.npy", table)
    train, test = (batch["x"] for batch in load_table(str(tmp_path / "a.npy")))
    mean, deviation = table[:45].mean(axis=0), table[:45].std(axis=0)
    np.testing.assert_allclose(train, (table[:45] - mean) / deviation, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(test, (table[45:] - mean) / deviation, rtol=1e-5, atol=1e-6)
    np.savez(tmp_path / "b.npz", x_train=table[:45], x_test=table[45:])
    np.testing.assert_array_equal(load_table(str(tmp_path / "b.npz"))[1]["x"], test)
    table[3, 1] = np.nan
    np.save(tmp_path / "nan.npy", table)
    np.save(tmp_path / "line.npy", table[:, 0])
    np.save(tmp_path / "constant.npy", np.ones((50, 2)))
    np.savez(tmp_path / "other.npz", x=table)
    (tmp_path / "empty.npy").touch()
    (tmp_path / "broken.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:100])
    for name, message in [
        ("nan.npy", "expected finite numbers"),
        ("line.npy", r"expected an array \(N, d\)"),
        ("constant.npy", r"constant column\(s\) \[0, 1\]"),
        ("other.npz", "received .* with none of them"),
        ("none.npy", "expected a table as .npy or .npz"),
        ("empty.npy", "expected a table as .npy or .npz"),
        ("broken.npz", "expected a table as .npy or .npz"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_table(str(tmp_path / name))


def test_the_likelihood_of_a_linear_flow():
    """``x = (z - m)`` scaled is normal: against SciPy's density."""
    scale, x = np.array([0.5, 2.0]), np.random.default_rng(0).normal(size=(6, 2))
    flow = Flow(lambda t, y, args: -args * y)
    solved = REFERENCE.solve(flow, (0.0, 1.0), (x, np.zeros(6)), np.log(scale), rtol=1e-10)
    expected = scipy.stats.multivariate_normal(cov=np.diag(scale**2)).logpdf(x)
    np.testing.assert_allclose(log_density(*solved.ys), expected, rtol=1e-7)


def test_the_first_steps_are_the_same_on_numpy_and_torch(monkeypatch):
    """What surrounds the solves is compared here: NumPy's are interpreted, not compiled."""
    monkeypatch.setattr(on_numpy, "nde", REFERENCE)
    recipe, found = lookup("ffjord"), []
    for backend in ("numpy", "torch"):
        settings = recipe.settings(**SMALL, backend=backend, regularizers=("error",))
        task = recipe.task(settings)
        params = in_float64(task.init(0))
        batch = in_float64(task.batch(np.arange(32), np.random.default_rng(0)))
        runner = make_runner(task, recipe.regularizers["error"], settings, params)
        steps = [vars(runner.step(batch, 0.1, i, key=i)) for i in range(2)]
        found.append((steps, runner.predict(in_float64(task.counted))))
    for ours, theirs in zip(found[0][0], found[1][0], strict=True):
        assert ours["penalty"] > 1e-3 and ours == pytest.approx(theirs, rel=1e-7)
    np.testing.assert_allclose(found[0][1][0], found[1][1][0], rtol=1e-7)


def test_a_training_from_start_to_report(tmp_path):
    """Of a table with two clusters; what is saved has the test loss that was reported."""
    random = np.random.default_rng(0)
    clusters = np.where(random.random((200, 1)) < 0.5, -3.0, 3.0)
    np.save(tmp_path / "table.npy", clusters + random.normal(size=(200, 2)))
    session = Session.create(
        "ffjord", tmp_path / "out", **SMALL, data=str(tmp_path / "table.npy"), backend="torch",
        steps=20, evaluate_every=1, regularizers=("steer+error",), learning_rate=0.02,
    )  # fmt: skip
    (result,) = session.train()
    losses = [record["test_loss"] for record in session.folder.read_metrics()]
    assert len(losses) == 4 and losses[-1] < losses[0] - 0.1
    model = load(session.folder.model("steer+error-seed0"))
    x = load_table(str(tmp_path / "table.npy"))[1]["x"].astype("float64")
    params = map_leaves(lambda array: np.asarray(array, "float64"), model.params["field"])
    flow = Flow(model.layer.field)
    sol = REFERENCE.solve(flow, (0.0, 1.0), (x, np.zeros(len(x))), params, rtol=1e-6)
    assert -np.mean(log_density(*sol.ys)) == pytest.approx(result.scores["loss"], rel=1e-3)
    assert session.folder.report.exists()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"density": "moon"}, "expected a density among moons"),
        ({"divergence": "trace"}, "expected a divergence among exact, hutchinson"),
        ({"hidden": 0}, "hidden >= 1"),
        ({"depth": 0}, "depth >= 1"),
        ({"end": 0.0}, "end > 0"),
    ],
)
def test_a_wrong_setting_is_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        lookup("ffjord").settings(**chosen)
