"""A latent stochastic equation, and the process that it explains."""

import numpy as np
import pytest

from ndereg import SDE, ConstantStep
from ndereg.backends.registry import load_backend
from ndereg.experiments import latent_sde, lookup
from ndereg.experiments.latent_sde import Drift
from ndereg.experiments.ornstein_uhlenbeck import OrnsteinUhlenbeck, log_density
from ndereg.experiments.runners import on_numpy
from ndereg.experiments.runners import runner as make_runner
from ndereg.experiments.session import Session
from ndereg.models.files import load
from ndereg.models.parameters import flatten, map_leaves
from ndereg.solve import Face

REFERENCE = Face(load_backend("reference"))
SMALL = {
    "hidden": 3, "units": 4, "context": 2, "points": 4, "end": 0.5, "batch_size": 5,
    "rtol": 0.3, "atol": 0.3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def few_series(monkeypatch):
    for name, count in (("TRAINED", 20), ("TESTED", 8), ("COUNTED", 6)):
        monkeypatch.setattr(latent_sde, name, count)


def make_task(**chosen):
    recipe = lookup("latent-sde")
    return recipe.task(recipe.settings(**SMALL, **chosen))


def in_float64(tree):
    return map_leaves(lambda array: array.astype("float64"), tree)


def test_the_law_of_the_process_is_that_of_its_equation():
    """Mean and covariance against quadrature of their equations in small steps."""
    process = OrnsteinUhlenbeck(rate=0.7, volatility=0.4, trend=0.3, growth=0.2)
    times = np.array([0.5, 0.6, 1.3])
    mean, covariance = process.law(times, 1.5, 0.09)
    steps = 20_000
    h = (times[-1] - times[0]) / steps
    m, v, states = 1.5, 0.09, {0: (1.5, 0.09)}
    for i in range(steps):
        t = times[0] + (i + 0.5) * h
        m += h * (0.3 * t - 0.7 * m) / (1 + 0.35 * h)
        v += h * ((0.4 + 0.2 * t) ** 2 - 1.4 * v) / (1 + 0.7 * h)
        states[i + 1] = (m, v)
    reached = [states[round((t - times[0]) / h)] for t in times]
    np.testing.assert_allclose(mean, [m for m, _ in reached], rtol=1e-6)
    np.testing.assert_allclose(np.diag(covariance), [v for _, v in reached], rtol=1e-6)
    assert covariance[0, 2] == pytest.approx(0.09 * np.exp(-0.7 * 0.8), rel=1e-12)
    assert covariance[2, 1] == pytest.approx(covariance[1, 1] * np.exp(-0.7 * 0.7), rel=1e-12)


def test_trajectories_have_the_law():
    process = OrnsteinUhlenbeck(rate=0.7, volatility=0.4, trend=0.3, growth=0.2)
    random, times = np.random.default_rng(0), np.array([0.0, 1.0, 3.0])
    x = process.trajectories(times, 1.0 + 0.3 * random.standard_normal(40_000), random)
    mean, covariance = process.law(times, 1.0, 0.09)
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=4 * np.sqrt(covariance.max() / 40_000))
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=6 * covariance.max() / 200)


def test_the_density_is_that_of_scipy():
    from scipy.stats import multivariate_normal

    mean, covariance = OrnsteinUhlenbeck(1.0, 0.5).law(np.linspace(0, 2, 5), 1.0, 0.1)
    x = np.random.default_rng(0).normal(size=(3, 5))
    expected = multivariate_normal(mean, covariance).logpdf(x)
    np.testing.assert_allclose(log_density(x, mean, covariance), expected, rtol=1e-10)


def test_a_posterior_that_is_the_prior_diverges_nowhere():
    """Of another one the rate is half the square of what separates the drifts, in units of g."""
    task = make_task()
    params = in_float64(task.init(0))
    batch = in_float64(task.test)
    y0, context = task.encode(params, batch)
    rates = task.field.drift(0.1, y0, task.args(params, context))
    z = y0["z"]
    prior = task.prior(0.1, z, params["field"]["drift"])
    g = task.diffusion(0.1, z, params["field"]["diffusion"])
    expected = 0.5 * np.sum(((rates["z"] - prior) / g) ** 2, axis=1)
    np.testing.assert_allclose(rates["kl"], expected, rtol=1e-12)
    assert np.all(rates["kl"] > 0)
    start = task.prior(0.1, batch["start"], params["field"]["drift"])
    np.testing.assert_array_equal(rates["prior"], start)
    noise = task.field.diffusion(0.1, y0, task.args(params, context))
    assert not np.any(noise["kl"]) and np.all(noise["z"] > 0)
    same = Drift(task.prior, lambda t, y, params: prior, task.diffusion, task.field.drift.spacing)
    assert not np.any(same(0.1, y0, task.args(params, context))["kl"])


def test_the_context_is_linear_between_its_times():
    task = make_task()
    params = in_float64(task.init(0))
    batch = in_float64(task.batch(np.arange(20), np.random.default_rng(0)))
    y0, context = task.encode(params, batch)
    seen = []
    drift = Drift(
        task.prior,
        lambda t, y, params: seen.append(y[:, 1:]) or y[:, :1],
        task.diffusion,
        task.field.drift.spacing,
    )
    for t in (*task.times, 0.25 * task.times[1] + 0.75 * task.times[2]):
        drift(t, y0, task.args(params, context))
    path = context["path"].reshape(4, 20, 2)
    expected = [*path, 0.25 * path[1] + 0.75 * path[2]]
    np.testing.assert_allclose(seen, expected, rtol=1e-6, atol=1e-9)
    # it is read backwards: what it says of the last time has seen nothing before
    batch["x"][:, 0] += 1.0
    _, other = task.encode(params, batch)
    assert np.array_equal(other["path"][1:], context["path"][1:])
    assert not np.allclose(other["path"][0], context["path"][0])


def test_the_parts_of_the_bound():
    """Against the densities of SciPy; a prediction's is that of the last training steps."""
    task = make_task(state=2)
    x = task.test["x"].astype("float64")
    random = np.random.default_rng(0)
    z, kl, code = (
        random.normal(size=(4, 8, 2)),
        random.uniform(size=(4, 8)),
        random.normal(size=(8, 4)),
    )
    params = in_float64(task.init(0))
    ys = {"z": z, "kl": kl, "prior": z}
    output = task.decode(params, ys, {"code": code})
    scores = task.scores(output, {"x": x})
    loss = task.loss(params, ys, {"code": code}, {"x": x}, step=10_000)
    assert scores["bound"] == pytest.approx(float(loss), rel=1e-10)
    from scipy.stats import norm

    observed = (z @ params["head"]["weight"] + params["head"]["bias"])[..., 0].T
    mean, deviation = code[:, :2], np.exp(0.5 * code[:, 2:])
    start = 0.5 * (deviation**2 + mean**2 - 1) - np.log(deviation)
    expected = kl[-1] + start.sum(1) - norm(observed, latent_sde.SIGMA).logpdf(x[..., 0]).sum(1)
    assert float(loss) == pytest.approx(expected.mean(), rel=1e-10)
    # annealed linearly
    first = task.loss(params, ys, {"code": code}, {"x": x}, step=0)
    likelihood = norm(observed, latent_sde.SIGMA).logpdf(x[..., 0]).sum(1)
    expected = (kl[-1] + start.sum(1)) / 100 - likelihood
    assert float(first) == pytest.approx(expected.mean(), rel=1e-10)


def test_the_learning_rate_falls_by_a_factor_a_step():
    settings = lookup("latent-sde").settings(learning_rate_decay=0.1)
    assert settings.rate(0) == 0.01
    assert settings.rate(10) == pytest.approx(0.01 * 0.999**10 / 2, rel=1e-12)


@pytest.mark.parametrize("row", ["error", "local-unbiased"])
def test_the_first_steps_are_the_same_on_numpy_and_torch(row, monkeypatch):
    monkeypatch.setattr(on_numpy, "nde", REFERENCE)
    recipe, found = lookup("latent-sde"), []
    for backend in ("numpy", "torch"):
        settings = recipe.settings(**SMALL, backend=backend, regularizers=(row,))
        task = recipe.task(settings)
        batch = in_float64(task.batch(np.arange(5), np.random.default_rng(0)))
        runner = make_runner(task, recipe.regularizers[row], settings, in_float64(task.init(0)))
        steps = [vars(runner.step(batch, 0.5, i, key=i)) for i in range(2 - (row != "error"))]
        found.append((steps, runner.params(), runner.predict(in_float64(task.counted))))
    for ours, theirs in zip(found[0][0], found[1][0], strict=True):
        assert ours["penalty"] > 1e-6 and ours == pytest.approx(theirs, rel=1e-6)
    for name, value in found[0][1].items():
        np.testing.assert_allclose(value, found[1][1][name], rtol=1e-5, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(found[0][2][0], found[1][2][0], rtol=1e-5, atol=1e-6)
    assert found[0][2][1] == found[1][2][1]


def in_torch(tree):
    import torch

    return map_leaves(lambda array: torch.tensor(array, requires_grad=True), tree)


def pulled_back(outputs, bars, inputs):
    """Return the cotangents of ``inputs`` in PyTorch, all trees; zeros where there are none."""
    import torch

    outputs, bars, leaves = flatten(outputs), flatten(bars), flatten(inputs)
    total = sum((outputs[name] * torch.as_tensor(bars[name])).sum() for name in bars)
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {
        name: np.zeros(leaf.shape) if grad is None else grad.numpy()
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
    }


def assert_close(ours, theirs):
    ours = flatten(ours)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_encoder_and_loss_have_the_gradients_of_pytorch():
    task, random = make_task(), np.random.default_rng(1)
    params = in_float64(task.init(0))
    batch = in_float64(task.batch(np.arange(5), np.random.default_rng(0)))
    tensors, in_batch = in_torch(params), in_torch(batch)
    (y0, context), pullback = task.encode_vjp(params, batch)
    bars = map_leaves(lambda x: random.normal(size=x.shape), {"y0": y0, "context": context})
    expected = dict(zip(("y0", "context"), task.encode(tensors, in_batch), strict=True))
    values = {name: value.detach().numpy() for name, value in flatten(expected).items()}
    assert_close({"y0": y0, "context": context}, values)
    assert_close(pullback(bars["y0"], bars["context"]), pulled_back(expected, bars, tensors))
    ys = {"z": random.normal(size=(4, 5, 1)), "kl": random.uniform(size=(4, 5))}
    inputs = {"params": params, "ys": ys, "context": context}
    leaves = in_torch(inputs)
    loss = task.loss(leaves["params"], leaves["ys"], leaves["context"], in_batch, 40)
    ours, our_bars = task.loss_vjp(params, ys, context, batch, 40)
    assert float(ours) == pytest.approx(loss.item(), rel=1e-12)
    found = dict(zip(inputs, our_bars, strict=True))
    assert_close(found, pulled_back({"loss": loss}, {"loss": 1.0}, leaves))


def test_a_training_from_start_to_report(tmp_path):
    """What is saved is the prior alone, and makes trajectories as the prediction did."""
    session = Session.create(
        "latent-sde", tmp_path / "out", **SMALL, backend="torch", steps=4, evaluate_every=1,
        regularizers=("none",),
    )  # fmt: skip
    (result,) = session.train()
    assert result.scores.keys() == {"gap", "bound", "mean", "deviation"}
    model, task = load(session.folder.model("none-seed0")), session.recipe.task(session.settings)
    assert model.params.keys() == {"field", "head"}
    assert model.params["field"].keys() == {"drift", "diffusion"}
    start = task.test["start"].astype("float64")
    params = in_float64(model.params)
    fixed = {"controller": ConstantStep(0.05), "method": "sosri", "key": 0}
    output, solution = model.layer.run(REFERENCE, start, params, **fixed)
    equation = SDE(
        lambda t, y, args: task.prior(t, y, args["drift"]),
        lambda t, y, args: task.diffusion(t, y, args["diffusion"]),
    )
    ys = REFERENCE.solve(equation, task.t_span, start, params["field"], **fixed).ys
    np.testing.assert_allclose(solution.ys, ys, rtol=1e-12)
    head = params["head"]
    np.testing.assert_allclose(output, ys @ head["weight"] + head["bias"], rtol=1e-12)
    assert session.folder.report.exists()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"state": 0}, "state >= 1"),
        ({"points": 1}, "points >= 2"),
        ({"end": 0.0}, r"end in \(0, 100\]"),
        ({"kl_steps": 0}, "kl_steps >= 1"),
        ({"learning_rate_factor": 1.5}, r"learning_rate_factor in \(0, 1\]"),
        ({"method": "tsit5"}, "tsit5"),
        ({"regularizers": ("stiffness",)}, "try .*sosri2"),
    ],
)
def test_a_wrong_setting_is_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        lookup("latent-sde").settings(**chosen)
