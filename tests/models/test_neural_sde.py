"""A neural stochastic equation as a layer."""

import numpy as np
import pytest
import torch

from ndereg import SDE, ConstantStep
from ndereg.backends.registry import load_backend
from ndereg.models import MLP, Affine, Model, NeuralSDE, from_description, load, save
from ndereg.models.parameters import map_leaves
from ndereg.models.predict import run
from ndereg.solve import Face

SOLVER = Face(load_backend("reference"))


def make(**options):
    return NeuralSDE(
        MLP((3, 5, 3), time="none"), Affine(3, 3), encoder=Affine(4, 3), head=Affine(3, 2),
        **options,
    )  # fmt: skip


def test_a_run_is_the_mean_of_a_solve_of_all_paths():
    layer = make(paths=3)
    params, x = layer.init(0, "float64"), np.random.default_rng(0).normal(size=(5, 4))
    output, solution = layer.run(SOLVER, x, params, key=4)
    y0 = x @ params["encoder"]["weight"] + params["encoder"]["bias"]
    drift = MLP((3, 5, 3), time="none")
    equation = SDE(
        lambda t, y, args: drift(t, y, args["drift"]),
        lambda t, y, args: y @ args["diffusion"]["weight"] + args["diffusion"]["bias"],
    )
    ys = SOLVER.solve(
        equation, (0.0, 1.0), np.repeat(y0[:, None], 3, axis=1), params["field"],
        method="sosri", rtol=0.1, atol=0.1, key=4,
    ).ys  # fmt: skip
    np.testing.assert_allclose(solution.ys, ys, rtol=1e-12)
    assert not np.allclose(ys[:, 0], ys[:, 1])
    logits = ys @ params["head"]["weight"] + params["head"]["bias"]
    np.testing.assert_allclose(output, logits.mean(axis=1), rtol=1e-12)


def test_general_noise_moves_every_sample_by_itself(monkeypatch):
    """By a matrix whose rows the diffusion returns side by side; in steps of one size."""
    layer = NeuralSDE(
        Affine(3, 3), Affine(3, 6), noise="general", calculus="stratonovich", motions=2,
        method="stochastic_heun", dt=0.25, t_span=(0.0, 0.5),
    )  # fmt: skip
    params, x = layer.init(0, "float64"), np.ones((4, 3))
    output, solution = layer.run(SOLVER, x, params, key=5)
    weights = params["field"]
    equation = SDE(
        lambda t, y, args: y @ weights["drift"]["weight"] + weights["drift"]["bias"],
        lambda t, y, args: np.reshape(
            y @ weights["diffusion"]["weight"] + weights["diffusion"]["bias"], (-1, 3, 2)
        ).reshape((*y.shape, 2)),
        noise="general", calculus="stratonovich",
    )  # fmt: skip
    ys = SOLVER.solve(
        equation, (0.0, 0.5), x, None, method="stochastic_heun", key=5, batch="independent",
        controller=ConstantStep(0.25), adjoint="none",
    ).ys  # fmt: skip
    np.testing.assert_allclose(output, ys, rtol=1e-12)
    assert len({tuple(row) for row in output.round(9)}) == 4
    np.testing.assert_array_equal(solution.stats.naccept, 2)
    monkeypatch.setattr("ndereg.numpy.solve", SOLVER.solve)
    assert run(Model(layer, params), x).nfev == solution.stats.nfev[0] == 4
    assert from_description(layer.describe()) == layer


@pytest.mark.parametrize("name", ["reference", "torch"])
def test_general_noise_of_another_width_is_refused(name):
    solver = Face(load_backend(name))
    for width in (2, 5):
        layer = NeuralSDE(
            Affine(3, 3), Affine(3, width), noise="general", motions=2, dt=0.25,
            method="euler_maruyama",
        )  # fmt: skip
        params, x = layer.init(0, "float64"), np.ones((4, 3))
        if name == "torch":
            params, x = map_leaves(torch.tensor, params), torch.tensor(x)
        with pytest.raises(ValueError, match=rf"motions=2, received .*{width}\); try .* 6 wide"):
            layer.run(solver, x, params, key=0)


def test_an_output_at_other_times_is_refused():
    layer = make(paths=2)
    with pytest.raises(ValueError, match="expected no t_eval"):
        layer.run(SOLVER, np.ones((5, 4)), layer.init(0), key=0, t_eval=[0.5, 1.0])


def test_saved_and_loaded(tmp_path):
    layer = make(noise="additive", calculus="stratonovich", method="sosra", paths=2, rtol=0.3)
    assert from_description(layer.describe()) == layer
    save(Model(layer, layer.init(1)), tmp_path / "model.safetensors")
    model = load(tmp_path / "model.safetensors")
    assert model.layer == layer
    np.testing.assert_array_equal(
        model.params["field"]["drift"]["0"]["weight"],
        layer.init(1)["field"]["drift"]["0"]["weight"],
    )


def test_predicted(monkeypatch):
    """Every batch has noise of its own, and the same when it is predicted again."""
    monkeypatch.setattr("ndereg.numpy.solve", SOLVER.solve)
    layer = make(paths=2)
    model = Model(layer, layer.init(0, "float64"))
    x = np.tile(np.random.default_rng(0).normal(size=(3, 4)), (2, 1))
    found = run(model, x, batch_size=3)
    expected = [layer.run(SOLVER, x[:3], model.params, key=key) for key in (0, 3)]
    np.testing.assert_array_equal(found.output, np.concatenate([output for output, _ in expected]))
    assert found.nfev == sum(solution.stats.nfev for _, solution in expected)
    assert not np.allclose(found.output[:3], found.output[3:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "tsit5"}, "a method for a stochastic equation with diagonal noise"),
        ({"calculus": "stratonovich"}, "in the sense of 'stratonovich', received 'sosri'.*spark"),
        ({"noise": "additive"}, "additive noise .*received 'sosri'.*sosra"),
        ({"noise": "scalar", "paths": 2}, "moves all paths alike"),
        ({"noise": "general", "paths": 2, "method": "euler_maruyama"}, "moves all paths alike"),
        ({"noise": "general"}, "general noise .*received 'sosri'.*euler_maruyama"),
        ({"noise": "coloured"}, "noise"),
        ({"motions": 2}, "motions=1 for noise='diagonal'"),
        ({"dt": 0.0}, "dt"),
        ({"paths": 0}, "paths"),
        ({"t_span": (0.0,)}, r"t_span=\(t0, t1\)"),
        ({"rtol": -1.0}, "rtol"),
    ],
)
def test_what_is_none_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
