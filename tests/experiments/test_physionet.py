"""The latent ODE of the PhysioNet recipe, on a small archive."""

import numpy as np
import pytest
from tests.experiments.physionet_archive import records, write_archive

from ndereg.backends.registry import load_backend
from ndereg.experiments import lookup
from ndereg.experiments.interrupt import Interrupt
from ndereg.experiments.latent import Annealing
from ndereg.experiments.recipe import BACKENDS
from ndereg.experiments.runners import on_numpy
from ndereg.experiments.runners import runner as make_runner
from ndereg.experiments.session import Session
from ndereg.experiments.training import Interrupted, Listener, Trainer
from ndereg.models.files import load
from ndereg.models.parameters import flatten, map_leaves
from ndereg.solve import Face

SMALL = {
    "hidden": 16,
    "latent": 6,
    "recognition": 4,
    "units": 3,
    "blocks": 1,
    "batch_size": 16,
    "rtol": 1e-3,
    "atol": 1e-3,
    "kl_start": 0,
    "kl_period": 1,
    "times": "two-hourly",
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return str(write_archive(tmp_path_factory.mktemp("data") / "set-a.tar.gz", records(40)))


@pytest.fixture(scope="module")
def tasks(archive):
    return {times: make_task(archive, times=times) for times in ("two-hourly", "exact")}


def make_task(archive, **chosen):
    recipe = lookup("physionet")
    return recipe.task(recipe.settings(**{**SMALL, **chosen}, data=archive))


def in_float64(tree):
    return map_leaves(lambda a: a.astype("float64") if a.dtype.kind == "f" else a, tree)


def test_data_are_split_once(tasks):
    for task in tasks.values():
        assert (len(task.train["x"]), len(task.test["x"])) == (32, 8)
    rows = [row.tobytes() for part in (task.train, task.test) for row in part["x"]]
    assert len(set(rows)) == 40
    x = tasks["two-hourly"].train["x"]
    assert x.shape == (32, 25, 75)
    np.testing.assert_allclose(x[:, :-1, -1], 1 / 24, rtol=1e-6)
    assert not x[:, -1, -1].any()


def test_gaps_of_exact_times_add_up_to_the_record(tasks):
    task = tasks["exact"]
    times = task.times[task.train["place"]]
    np.testing.assert_allclose(
        task.train["x"][:, :, -1].sum(axis=1), times[:, -1] - times[:, 0], rtol=1e-5
    )


def test_gradients_of_encoder_and_loss_are_those_of_jax(tasks):
    import jax

    task = tasks["exact"]
    random = np.random.default_rng(0)
    params = in_float64(task.init(0))
    batch = in_float64(task.batch(np.arange(5), random))
    ys = random.normal(size=(len(task.times), 5, 6))
    y0_bar, step = random.normal(size=(5, 6)), 70

    def objective(params, ys):
        """Both what the encoder is for: the loss it has a part in, and the initial state."""
        y0, context = task.encode(params, batch)
        loss = task.loss(params, ys, context, batch, step)
        return loss + (y0_bar * y0).sum(), loss

    with jax.enable_x64(True):
        gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
        (_, expected), (params_bar, ys_bar) = gradient(params, ys)
        params_bar = {name: np.asarray(bar) for name, bar in flatten(params_bar).items()}
    (_, context), encoder_pullback = task.encode_vjp(params, batch)
    loss, (ours, our_ys_bar, context_bar) = task.loss_vjp(params, ys, context, batch, step)
    encoder_bar = flatten(encoder_pullback(y0_bar, context_bar))
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    np.testing.assert_allclose(our_ys_bar, ys_bar, rtol=1e-9, atol=1e-12)
    for name, bar in flatten(ours).items():
        np.testing.assert_allclose(
            bar + encoder_bar[name], params_bar[name], rtol=1e-9, atol=1e-10, err_msg=name
        )
    assert all(bar.any() for name, bar in params_bar.items() if not name.startswith("field"))


def test_gradients_are_those_of_finite_differences(tasks):
    task = tasks["exact"]
    random = np.random.default_rng(1)
    params = in_float64(task.init(0))
    batch = in_float64(task.batch(np.arange(5), random))
    ys = random.normal(size=(len(task.times), 5, 6))
    along = map_leaves(lambda leaf: random.normal(size=leaf.shape), params)

    def loss(size):
        moved = map_leaves(lambda leaf, d: leaf + size * d, params, along)
        y0, context = task.encode(moved, batch)
        return task.loss(moved, ys, context, batch, 70) + y0.sum()

    (y0, context), pullback = task.encode_vjp(params, batch)
    _, (params_bar, _, context_bar) = task.loss_vjp(params, ys, context, batch, 70)
    encoder_bar = flatten(pullback(np.ones_like(y0), context_bar))
    slope = sum(
        ((bar + encoder_bar[name]) * flatten(along)[name]).sum()
        for name, bar in flatten(params_bar).items()
    )
    assert slope == pytest.approx((loss(1e-6) - loss(-1e-6)) / 2e-6, rel=1e-6)


def test_the_loss_is_that_of_the_papers(tasks):
    """The formulas again, a series and an observation at a time."""
    task = tasks["exact"]
    random = np.random.default_rng(0)
    batch = task.batch(np.arange(3), random)
    params = task.init(0)
    ys = random.normal(size=(len(task.times), 3, 6))
    y0, context = task.encode(params, batch)
    prediction = task.decode(params, ys, context)
    code, fits, divergences = context[0], [], []
    for i in range(3):
        errors = []
        for entry, channel in np.argwhere(batch["x"][i, :, 37:74]):
            state = ys[batch["place"][i, entry], i]
            expected = state @ params["head"]["weight"] + params["head"]["bias"]
            assert prediction[i, entry, channel] == pytest.approx(expected[channel], rel=1e-5)
            errors.append((expected[channel] - batch["x"][i, entry, channel]) ** 2)
        fits.append(np.mean(errors))
        mean, variance = code[i, :6], np.exp(code[i, 6:])
        divergences.append(np.mean(0.5 * (variance + mean**2 - 1 - np.log(variance))))
        np.testing.assert_allclose(y0[i], mean + np.sqrt(variance) * batch["noise"][i], rtol=1e-5)
    expected = np.mean(fits) / (2 * 0.01**2) + (1 - 0.99**7) * np.mean(divergences)
    assert task.loss(params, ys, context, batch, 7) == pytest.approx(expected, rel=1e-5)
    assert task.scores(prediction, batch)["loss"] == pytest.approx(np.mean(fits), rel=1e-5)


def test_the_divergence_comes_in_late_and_slowly():
    weight = Annealing(start=100, period=10)
    assert [weight(step) for step in (0, 99, 100, 109)] == [0.0] * 4
    assert weight(110) == weight(119) == pytest.approx(0.01)
    assert weight(3000) == pytest.approx(1 - 0.99**290)


def test_noise_is_a_function_of_the_step_and_absent_in_tests(tasks):
    task = tasks["two-hourly"]
    first, again, other = (
        task.batch(np.arange(4), np.random.default_rng(seed))["noise"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    assert "noise" not in task.test
    params = task.init(0)
    y0, (code, _) = task.encode(params, task.test)
    np.testing.assert_array_equal(y0, code[:, :6])


@pytest.fixture(scope="module")
def first_steps(tasks):
    """Return two steps and a prediction of every backend, in double precision.

    What surrounds the solves is compared here: NumPy's are interpreted, not compiled.
    """
    import jax

    recipe, task, found = lookup("physionet"), tasks["two-hourly"], {}
    # As drawn, the field hardly moves: its error estimate would be next to nothing.
    params = map_leaves(lambda leaf: 3 * leaf, in_float64(task.init(0)))
    batches = [
        in_float64(task.batch(np.arange(i, 16 + i), np.random.default_rng(i))) for i in (0, 16)
    ]
    for backend in BACKENDS:
        settings = recipe.settings(**SMALL, backend=backend)
        with pytest.MonkeyPatch.context() as patch, jax.enable_x64(backend == "jax"):
            patch.setattr(on_numpy, "nde", Face(load_backend("reference")))
            runner = make_runner(task, recipe.regularizers["error"], settings, params)
            runner.warm_up(batches[0])
            steps = [vars(runner.step(batch, 2.5, i)) for i, batch in enumerate(batches)]
            found[backend] = steps, runner, runner.predict(in_float64(task.test))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numpy"])
def test_the_first_steps_are_the_same_on_every_backend(first_steps, backend):
    expected, expected_runner, (expected_output, expected_nfev) = first_steps["numpy"]
    steps, runner, (output, nfev) = first_steps[backend]
    for ours, theirs in zip(expected, steps, strict=True):
        assert ours["penalty"] > 1e-3
        assert theirs == pytest.approx(ours, rel=1e-7)
    assert nfev == expected_nfev
    # Optax has the learning rate in single precision.
    np.testing.assert_allclose(output, expected_output, rtol=1e-7, atol=1e-8)
    for name, value in expected_runner.params().items():
        np.testing.assert_allclose(runner.params()[name], value, rtol=1e-7, atol=1e-8, err_msg=name)


@pytest.mark.slow
def test_jax_compiles_a_step_once(first_steps):
    assert first_steps["jax"][1]._update._cache_size() == 1


def test_exact_times_are_looked_up_alike_in_pytorch(tasks):
    import torch

    task = tasks["exact"]
    params = in_float64(task.init(0))
    batch = in_float64(task.batch(np.arange(5), np.random.default_rng(0)))
    ys = np.random.default_rng(1).normal(size=(len(task.times), 5, 6))
    _, context = task.encode(params, batch)
    expected, (_, ys_bar, _) = task.loss_vjp(params, ys, context, batch, 70)
    tensors, data = map_leaves(torch.tensor, params), map_leaves(torch.tensor, batch)
    states = torch.tensor(ys, requires_grad=True)
    _, context = task.encode(tensors, data)
    loss = task.loss(tensors, states, context, data, 70)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(states.grad.numpy(), ys_bar, rtol=1e-9, atol=1e-12)


def test_the_steer_row_moves_the_times_of_the_observations(tasks):
    recipe, task = lookup("physionet"), tasks["two-hourly"]
    batch = task.batch(np.arange(16), np.random.default_rng(0))
    found = {}
    for row in ("none", "steer"):
        settings = recipe.settings(**SMALL, backend="torch", regularizers=(row,))
        params = map_leaves(lambda leaf: 3 * leaf, task.init(0))
        runner = make_runner(task, recipe.regularizers[row], settings, params)
        found[row] = runner.step(batch, 1.0, 0, key=1)
    assert found["steer"].penalty == 0.0
    assert found["steer"].objective != found["none"].objective


def test_the_taynode_row_is_the_same_on_jax_and_pytorch(tasks):
    recipe, task = lookup("physionet"), tasks["two-hourly"]
    batch = task.batch(np.arange(16), np.random.default_rng(0))
    found = []
    for backend in ("torch", "jax"):
        settings = recipe.settings(**SMALL, backend=backend, regularizers=("taynode",))
        runner = make_runner(task, recipe.regularizers["taynode"], settings, task.init(0))
        found.append(runner.step(batch, 1.0, 0, key=1))
    assert found[0].penalty > 0
    assert found[1].penalty == pytest.approx(found[0].penalty, rel=1e-4)
    assert found[1].objective == pytest.approx(found[0].objective, rel=1e-4)


class StopAfter(Listener):
    """Presses Ctrl-C after some steps."""

    def __init__(self, interrupt, steps):
        self.interrupt, self.steps = interrupt, steps

    def stepped(self, run, epoch, result):
        self.steps -= 1
        if self.steps == 0:
            self.interrupt.requested = True


def without_times(record):
    return {name: value for name, value in record.items() if not name.startswith("train_")}


def train(session, stop=None):
    """Train the session's only run; stop after so many steps."""
    task = session.recipe.task(session.settings)
    trainer = Trainer(session.recipe, session.settings, task, session.folder, session.runs[0])
    trainer.prepare()
    interrupt = Interrupt()
    return trainer.train(Listener() if stop is None else StopAfter(interrupt, stop), interrupt)


@pytest.mark.parametrize("times", ["two-hourly", "exact"])
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(archive, tmp_path, times):
    chosen = {**SMALL, "data": archive, "epochs": 2, "evaluate_every": 1, "backend": "torch"}
    chosen["times"] = times
    whole, parts = (
        Session.create("physionet", tmp_path / name, **chosen, regularizers=("local-unbiased",))
        for name in ("whole", "parts")
    )
    expected = train(whole)
    with pytest.raises(Interrupted):
        train(parts, 3)
    resumed = train(parts)
    assert resumed.scores == expected.scores
    models = [load(s.folder.model("local-unbiased-seed0")) for s in (whole, parts)]
    assert flatten(models[0].params).keys() == flatten(models[1].params).keys()
    for name, value in flatten(models[0].params).items():
        np.testing.assert_array_equal(value, flatten(models[1].params)[name], err_msg=name)
    kept = [
        [
            {k: v for k, v in r.items() if not k.startswith("train_")}
            for r in s.folder.read_metrics()
        ]
        for s in (whole, parts)
    ]
    assert kept[0] == kept[1]

    if times == "exact":  # what every record is scored at are times of its own
        return
    # What was saved is the model that was scored.
    task = whole.recipe.task(whole.settings)
    model, x = models[0], task.test["x"]
    output, _ = model.layer.run(Face(load_backend("reference")), x, model.params, t_eval=task.times)
    scores = task.scores(output.transpose(1, 0, 2), task.test)
    assert scores["loss"] == pytest.approx(expected.scores["loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"times": "daily"}, "times among hourly, two-hourly, exact"),
        ({"latent": 0}, "latent >= 1"),
        ({"kl_period": 0}, "kl_period >= 1"),
        ({"kl_start": -1}, "kl_start >= 0"),
    ],
)
def test_a_wrong_setting_is_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        lookup("physionet").settings(**chosen)


@pytest.mark.parametrize("preset", ["default", "opening-the-blackbox", "locally-regularized"])
def test_the_presets_make_the_papers_number_of_steps(preset):
    assert lookup("physionet").settings(preset).steps == 3000
