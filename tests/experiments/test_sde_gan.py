"""A generator and a discriminator, trained by one gradient."""

import numpy as np
import pytest

from ndereg import ConstantStep
from ndereg.backends.registry import load_backend
from ndereg.experiments import lookup, sde_gan
from ndereg.experiments.discriminator import Discriminator
from ndereg.experiments.interrupt import Interrupt
from ndereg.experiments.runners import on_numpy
from ndereg.experiments.runners import runner as make_runner
from ndereg.experiments.session import Session
from ndereg.experiments.training import Interrupted, Listener, Trainer
from ndereg.models.files import load
from ndereg.models.parameters import flatten, map_leaves
from ndereg.solve import Face

REFERENCE = Face(load_backend("reference"))
SMALL = {
    "state": 3, "hidden": 4, "start_noise": 2, "motions": 2, "points": 4, "batch_size": 5,
    "learning_rate": 0.01,
}  # fmt: skip


@pytest.fixture(autouse=True)
def few_paths(monkeypatch):
    for name, count in (("TRAINED", 20), ("TESTED", 8), ("COUNTED", 6)):
        monkeypatch.setattr(sde_gan, name, count)


def make_task(**chosen):
    recipe = lookup("sde-gan")
    return recipe.task(recipe.settings(**{**SMALL, **chosen}))


def in_float64(tree):
    return map_leaves(lambda array: array.astype("float64"), tree)


def test_the_data_are_those_of_the_process(monkeypatch):
    """In units of the starts; what is trained on is linear where it is missing."""
    monkeypatch.setattr(sde_gan, "TRAINED", 4000)
    monkeypatch.setattr(sde_gan, "TESTED", 4000)
    train, test, other = sde_gan._paths(np.arange(8.0))
    assert train.shape == test.shape == other.shape == (4000, 8)
    for part in (test, other):
        assert part[:, 0].mean() == pytest.approx(0.0, abs=0.05)
        assert part[:, 0].std() == pytest.approx(1.0, rel=0.02)
    straight = np.isclose(train[:, 2:] - train[:, 1:-1], train[:, 1:-1] - train[:, :-2], atol=1e-9)
    assert 0.2 < straight.mean() < 0.4


def test_the_score_is_that_of_a_finely_solved_equation():
    """Along a path that is linear between its points, as those of the data are."""
    discriminator = Discriminator(state=3, hidden=4)
    params = in_float64(discriminator.init(0))
    path = np.stack([np.linspace(0, 0.3, 4), [0.1, 0.4, 0.2, 0.3]], axis=1)[:, None]
    fine = np.stack([np.interp(np.linspace(0, 3, 301), np.arange(4), c) for c in path[:, 0].T], 1)
    errors = [
        abs(discriminator(each, params) - discriminator(fine[:, None], params))[0]
        for each in (path, fine[::50][:, None])
    ]
    assert 0 < errors[1] < errors[0] / 3 and errors[0] < 1e-2


def test_what_is_clipped():
    discriminator = Discriminator(state=3, hidden=4)
    params = map_leaves(lambda x: 10 * x, discriminator.init(0))
    clipped = flatten(discriminator.constrained(params))
    for name, value in flatten(params).items():
        bound = np.inf if name.endswith("bias") else 1 / value.shape[-1]
        np.testing.assert_array_equal(clipped[name], np.clip(value, -bound, bound))
        assert np.array_equal(clipped[name], value) == name.endswith("bias")


def test_start_and_loss_have_the_gradients_of_pytorch():
    import torch

    def leaf(array):
        return torch.tensor(array, requires_grad=True)

    task, random = make_task(), np.random.default_rng(1)
    params = in_float64(task.init(0))
    batch = in_float64(task.batch(np.arange(5), np.random.default_rng(0)))
    tensors, in_batch = map_leaves(leaf, params), map_leaves(leaf, batch)
    (y0, _), pullback = task.encode_vjp(params, batch)
    bar, ys = random.normal(size=y0.shape), random.normal(size=(5, 4, 3))
    expected, points = task.encode(tensors, in_batch)[0], leaf(ys)
    np.testing.assert_allclose(y0, expected.detach().numpy(), rtol=1e-12)
    loss = task.loss(tensors, points, None, in_batch, 0)
    ours, (params_bar, ys_bar, _) = task.loss_vjp(params, ys, None, batch, 0)
    assert float(ours) == pytest.approx(loss.item(), rel=1e-10)
    (loss + (expected * torch.tensor(bar)).sum()).backward()
    np.testing.assert_allclose(ys_bar, points.grad.numpy(), rtol=1e-9, atol=1e-13)
    start_bar = flatten(pullback(bar, None))
    for name, value in flatten(params_bar).items():
        grad = flatten(tensors)[name].grad
        expected = np.zeros(value.shape) if grad is None else grad.numpy()
        np.testing.assert_allclose(
            value + start_bar[name], expected, rtol=1e-9, atol=1e-13, err_msg=name
        )


@pytest.mark.parametrize(
    ("row", "chosen"),
    [("none", {}), ("error", {"dt": None, "method": "spark", "rtol": 0.3, "atol": 0.3})],
)
def test_the_first_steps_are_the_same_on_numpy_and_torch(row, chosen, monkeypatch):
    monkeypatch.setattr(on_numpy, "nde", REFERENCE)
    recipe, found = lookup("sde-gan"), []
    for backend in ("numpy", "torch"):
        settings = recipe.settings(**SMALL, **chosen, backend=backend, regularizers=(row,))
        task = recipe.task(settings)
        batch = in_float64(task.batch(np.arange(5), np.random.default_rng(0)))
        runner = make_runner(task, recipe.regularizers[row], settings, in_float64(task.init(0)))
        steps = []
        for i in range(2):
            steps.append(vars(runner.step(batch, 0.5, i, key=i)))
            runner.average(i + 1)
        found.append((steps, runner.state(), runner.predict(in_float64(task.counted))))
    for ours, theirs in zip(found[0][0], found[1][0], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6) and (ours["penalty"] > 0) == (row != "none")
    assert found[0][2][1] == found[1][2][1]
    np.testing.assert_allclose(found[0][2][0], found[1][2][0], rtol=1e-5, atol=1e-7)
    for name, value in found[0][1].items():
        if not name.startswith("optimizer."):
            np.testing.assert_allclose(value, found[1][1][name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_a_training_from_start_to_report(tmp_path):
    """What is saved is the generator alone, and generates what was predicted."""
    session = Session.create(
        "sde-gan", tmp_path / "out", **SMALL, backend="torch", steps=4, evaluate_every=1,
        averaged=0.5,
    )  # fmt: skip
    (result,) = session.train()
    assert result.scores.keys() == {"distance", "increments", "floor", "increments_floor"}
    assert result.nfev == 6 and len(result.after["h"]) == 3
    model, task = load(session.folder.model("none-seed0")), session.recipe.task(session.settings)
    assert model.params.keys() == {"field", "encoder", "head"}
    assert model.layer.dt == 1.0 and model.layer.noise == "general"
    params, noise = in_float64(model.params), in_float64(task.test)["noise"]
    ys = REFERENCE.solve(
        model.layer.equation, task.t_span, model.layer.encode(noise, params), params["field"],
        t_eval=task.times, method="reversible_heun", controller=ConstantStep(1.0), key=0,
        batch="independent",
    ).ys  # fmt: skip
    scores = task.scores(task.decode(params, ys, None), task.test)
    assert scores["distance"] == pytest.approx(result.scores["distance"], rel=1e-3)
    seen = task.scores(task.train["y"][:8], task.test)
    assert seen["increments"] == scores["increments_floor"] > 0
    output, solution = model.layer.run(REFERENCE, noise, params, key=0)
    assert output.shape == (8, 1) and np.all(np.asarray(solution.stats.naccept) == 3)
    assert not np.allclose(ys[0], ys[1])
    assert session.folder.report.exists()


def test_stopped_and_resumed_the_mean_of_the_second_half_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(on_numpy, "nde", REFERENCE)
    average, counts, ends = on_numpy.Runner.average, [], []
    monkeypatch.setattr(
        on_numpy.Runner, "average", lambda self, n: counts.append(n) or average(self, n)
    )
    for name, stops in (("whole", ()), ("parts", (7,))):
        session = Session.create("sde-gan", tmp_path / name, **SMALL, steps=12, averaged=0.5)
        for stop in (*stops, None):
            task = session.recipe.task(session.settings)
            trainer = Trainer(
                session.recipe, session.settings, task, session.folder, session.runs[0]
            )
            interrupt = Interrupt()
            if stop is None:
                ends.append((trainer.train(Listener(), interrupt).scores, trainer.runner.state()))
            else:
                with pytest.raises(Interrupted):
                    trainer.train(StopAfter(interrupt, stop), interrupt)
    assert counts == [1, 2, 3, 4, 5, 6] * 2
    assert ends[0][0] == ends[1][0]
    for name, value in ends[0][1].items():
        np.testing.assert_array_equal(value, ends[1][1][name])
    names = {name.partition(".")[0] for name in ends[0][1]}
    assert names == {"params", "average", "optimizer"}


class StopAfter(Listener):
    """Presses Ctrl-C after some steps."""

    def __init__(self, interrupt, steps):
        self.interrupt, self.steps = interrupt, steps

    def stepped(self, run, epoch, result):
        self.steps -= 1
        self.interrupt.requested |= self.steps == 0


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"motions": 0}, "motions >= 1"),
        ({"points": 1}, "points >= 2"),
        ({"adversary": 0.0}, "adversary > 0"),
        ({"dt": -1.0}, "dt > 0, or None"),
        ({"dt": float("inf")}, "dt > 0, or None"),
        ({"weight_decay": -1.0}, "weight_decay >= 0"),
        ({"averaged": 2.0}, r"averaged in \[0, 1\]"),
        ({"method": "sosri"}, "sosri"),
        ({"optimizer": "adagrad"}, "adadelta"),
    ],
)
def test_a_wrong_setting_is_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        lookup("sde-gan").settings(**chosen)
