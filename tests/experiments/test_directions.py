"""Parts of the parameters that ascend, at rates of their own, within bounds; and their mean."""

import numpy as np
import pytest

from ndereg.backends.registry import load_backend
from ndereg.experiments.fitted import UnencodedTask
from ndereg.experiments.recipe import BACKENDS, Penalized, Settings
from ndereg.experiments.runners import on_numpy
from ndereg.experiments.runners import runner as make_runner
from ndereg.solve import Face


class Game(UnencodedTask):
    """``x' = -a x``, and a loss ``mean(x(1)) w + b``: one descends in ``a``, another ascends."""

    t_span = (0.0, 1.0)

    def __init__(self):
        self.rates = {"rival": -5.0}
        self.field = lambda t, y, args: -args["a"] * y
        self.train = self.test = self.counted = {"x": np.ones((2, 1))}

    def init(self, seed):
        return {
            "field": {"a": np.array([0.5])},
            "rival": {"w": np.array([1.0])},
            "rivalry": {"b": np.array([1.0])},
        }

    def constrained(self, params):
        w = params["rival"]["w"]
        return {**params, "rival": {"w": w - (w > 1.02) * (w - 1.02)}}

    def encode(self, params, batch):
        return batch["x"], None

    def decode(self, params, ys, context):
        return ys * params["rival"]["w"]

    def loss(self, params, ys, context, batch, step):
        return (ys.mean() * params["rival"]["w"] + params["rivalry"]["b"])[0]

    def loss_vjp(self, params, ys, context, batch, step):
        w = params["rival"]["w"]
        bars = {
            "field": {"a": np.zeros(1)}, "rival": {"w": ys.mean()[None]},
            "rivalry": {"b": np.ones(1)},
        }  # fmt: skip
        return self.loss(params, ys, context, batch, step), (bars, np.full((2, 1), w / 2), None)

    def scores(self, output, batch):
        return {}

    def layer(self, settings):
        raise NotImplementedError


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("optimizer", ["momentum", "adadelta"])
def test_two_steps(backend, optimizer, monkeypatch):
    """Against the formulas of the optimizers, in exact gradients of the closed solution."""
    import jax

    monkeypatch.setattr(on_numpy, "nde", Face(load_backend("reference")))
    settings = Settings(
        backend=backend, optimizer=optimizer, learning_rate=0.01, weight_decay=0.1,
        rtol=1e-8, atol=1e-8,
    )  # fmt: skip
    with jax.enable_x64(True):
        task = Game()
        runner = make_runner(task, Penalized(None), settings, task.init(0))
        batch = {"x": np.ones((2, 1))}
        start = np.array([0.5, 1.0, 1.0])
        p, velocity, square, moved = start, np.zeros(3), np.zeros(3), np.zeros(3)
        means = []
        for step in range(2):
            a, w, _ = p
            gradient = np.array([-w * np.exp(-a), -np.exp(-a), 1.0]) + 0.1 * p
            if optimizer == "momentum":
                velocity = delta = 0.9 * velocity + gradient
            else:
                square = 0.9 * square + 0.1 * gradient**2
                delta = np.sqrt(moved + 1e-6) / np.sqrt(square + 1e-6) * gradient
                moved = 0.9 * moved + 0.1 * delta**2
            p = p - 0.01 * np.array([1.0, 5.0, 1.0]) * delta
            p = np.array([p[0], min(p[1], 1.02), p[2]])
            runner.step(batch, 0.0, step)
            found = runner.params()
            names = ("field.a", "rival.w", "rivalry.b")
            if step == 0:
                np.testing.assert_allclose([found[n][0] for n in names], p, rtol=1e-6)
            means.append(p)
            runner.average(step + 1)
        found = runner.params()
        np.testing.assert_allclose([found[n][0] for n in names], np.mean(means, 0), rtol=1e-6)
        assert (p[1] == 1.02) == (optimizer == "momentum")
        output, _ = runner.predict(batch)
        a, w, _ = np.mean(means, axis=0)
        np.testing.assert_allclose(np.asarray(output)[:, 0], w * np.exp(-a), rtol=1e-5)
        state = runner.state()
        runner.step(batch, 0.0, 2)
        runner.average(3)
        runner.restore(state)
        for name, value in runner.state().items():
            np.testing.assert_array_equal(value, state[name])
