"""Training: the same on every backend, and the same after any stop."""

import json
import signal
from contextlib import nullcontext

import numpy as np
import pytest

from ndereg.experiments import training
from ndereg.experiments.collection import collect
from ndereg.experiments.interrupt import Interrupt
from ndereg.experiments.recipe import BACKENDS
from ndereg.experiments.runners import runner as make_runner
from ndereg.experiments.session import Session
from ndereg.experiments.storage import read_arrays
from ndereg.experiments.training import Interrupted, Listener, Trainer
from ndereg.models.files import load
from ndereg.models.parameters import flatten, map_leaves

SMALL = {"hidden": 8, "batch_size": 64, "epochs": 2, "evaluate_every": 1}
TIMES = ("train_s", "train_cpu_s", "predict_s", "compile_s")


@pytest.fixture(scope="module")
def first_steps():
    """Return three steps of every backend, and the parameters after them."""
    found = {}
    for backend in BACKENDS:
        recipe = training_recipe()
        settings = recipe.settings(**SMALL, backend=backend)
        task = recipe.task(settings)
        penalized = recipe.regularizers["error+stiffness"]
        runner = make_runner(task, penalized, settings, task.init(0))
        before = runner.params()
        batches = [
            {name: array[start : start + 64] for name, array in task.train.items()}
            for start in (0, 64, 128)
        ]
        runner.warm_up(batches[0])
        for key, value in runner.params().items():
            np.testing.assert_array_equal(value, before[key])
        steps = [runner.step(batch, 2.5, i) for i, batch in enumerate(batches)]
        found[backend] = steps, runner, runner.predict(task.test)
    return found


def training_recipe():
    from ndereg.experiments import lookup

    return lookup("digits")


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numpy"])
def test_the_first_steps_are_the_same_on_every_backend(first_steps, backend):
    expected, expected_runner, (expected_output, expected_nfev) = first_steps["numpy"]
    steps, runner, (output, nfev) = first_steps[backend]
    for ours, theirs in zip(expected, steps, strict=True):
        assert theirs.nfev == ours.nfev
        assert theirs.objective == pytest.approx(ours.objective, rel=1e-4)
        # The error estimate is partly the rounding of float32, which is a few 1e-3 tolerances.
        assert theirs.penalty == pytest.approx(ours.penalty, abs=5e-3)
        assert theirs.loss == pytest.approx(theirs.objective + 2.5 * theirs.penalty, rel=1e-5)
    assert nfev == expected_nfev
    assert runner.params().keys() == expected_runner.params().keys()
    np.testing.assert_allclose(output, expected_output, rtol=0, atol=5e-3)


def in_float64(tree):
    return map_leaves(lambda array: array.astype("float64"), tree)


def test_without_rounding_the_first_steps_agree_to_ten_digits():
    recipe = training_recipe()
    steps = {}
    for backend in ("numpy", "torch"):
        settings = recipe.settings(**SMALL, backend=backend)
        task = recipe.task(settings)
        batches = [
            {
                name: array[start : start + 64].astype("float64")
                for name, array in task.train.items()
            }
            for start in (0, 64, 128)
        ]
        penalized = recipe.regularizers["error+stiffness"]
        runner = make_runner(task, penalized, settings, in_float64(task.init(0)))
        steps[backend] = [vars(runner.step(b, 2.5, i)) for i, b in enumerate(batches)]
    for ours, theirs in zip(steps["numpy"], steps["torch"], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [
        "taynode",
        "local-own",
        pytest.param("steer", marks=pytest.mark.exhaustive),
        pytest.param("rnode", marks=pytest.mark.exhaustive),
    ],
)
def test_a_step_of_the_rows_to_compare_with_agrees(row):
    """To nine digits; NumPy's step is compiled, derivatives of the third order included.

    What is drawn of a key in a compiled step of JAX is JAX's own: other ends, steps and signs.
    """
    import jax

    recipe, found = training_recipe(), {}
    for backend in BACKENDS:
        settings = recipe.settings(**SMALL, backend=backend, regularizers=(row,))
        task = recipe.task(settings)
        batch = {name: array[:64].astype("float64") for name, array in task.train.items()}
        with jax.enable_x64(True) if backend == "jax" else nullcontext():
            params = in_float64(task.init(0))
            runner = make_runner(task, recipe.regularizers[row], settings, params)
            found[backend] = vars(runner.step(batch, 2.5, 0, 1)), runner.params()
    expected, params = found["numpy"]
    for backend in BACKENDS:
        step, moved = found[backend]
        assert np.isfinite(step["loss"]) and (step["penalty"] == 0.0) == (row == "steer")
        if backend == "jax" and row != "taynode":
            continue
        assert step == pytest.approx(expected, rel=1e-9)
        for name, value in params.items():  # Optax has the learning rate in single precision
            np.testing.assert_allclose(moved[name], value, rtol=1e-6, atol=1e-9)


def test_a_weight_may_move_once_an_epoch(tmp_path):
    """As published: ``start exp(-k epoch)``, the whole way being that of the training."""
    session = run(tmp_path, anneal="epoch", epochs=4, weights={"error": "100:10"})
    task = session.recipe.task(session.settings)
    trainer = Trainer(session.recipe, session.settings, task, session.folder, session.runs[0])
    weights = np.array([trainer._weight(step) for step in range(trainer.steps)])
    by_epoch = weights.reshape(4, trainer.steps_per_epoch)
    assert np.all(by_epoch == by_epoch[:, :1])
    np.testing.assert_allclose(by_epoch[:, 0], 100.0 * 0.1 ** (np.arange(4) / 4))
    with pytest.raises(ValueError, match="expected a choice of anneal"):
        run(tmp_path, anneal="batch")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_restored_state_continues_bit_for_bit(first_steps, backend):
    _, runner, _ = first_steps[backend]
    batch = {name: array[-64:] for name, array in runner.task.train.items()}
    state = runner.state()
    ends = []
    for _ in range(2):
        runner.restore(state)
        result = runner.step(batch, 1.0, 3)
        ends.append((result, runner.params()))
    assert ends[0][0] == ends[1][0]
    for name, value in ends[0][1].items():
        np.testing.assert_array_equal(value, ends[1][1][name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_placed_data_are_the_batch(first_steps, backend):
    _, runner, _ = first_steps[backend]
    task, chosen = runner.task, np.array([5, 0, 1279, 5])
    expected = task.batch(chosen, np.random.default_rng(0))
    noise = {"noise": np.ones(3, "float32")}
    batch = runner.rows(runner.place(task.train), chosen, noise)
    assert batch.keys() == {*expected, "noise"}
    for name, array in expected.items():
        np.testing.assert_array_equal(np.asarray(batch[name]), array)


def test_jax_compiles_one_step_and_returns_what_is_not_fetched(first_steps):
    import jax

    _, runner, _ = first_steps["jax"]
    data = runner.place(runner.task.train)
    rows = [runner.rows(data, np.arange(64) + shift, {}) for shift in (0, 64)]
    launched = [runner.launch(batch, 0.1 * i, i, key=i) for i, batch in enumerate(rows)]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(launched))
    assert len(jax.tree.leaves(launched[0])) == 2
    assert [result.nfev > 0 for result in runner.fetch(launched)] == [True, True]
    assert runner._update._cache_size() == 1


@pytest.mark.parametrize("waits", [False, True])
def test_steps_of_a_device_are_fetched_when_they_are_needed(tmp_path, monkeypatch, waits):
    """Once an epoch; a budget asks for the evaluations of every step. The numbers are the same."""
    monkeypatch.setattr(training, "FETCH_S", float("inf"))
    chosen = {"backend": "torch", "weights": {"error": "nfe:20"} if waits else {}}
    ends = []
    for name in ("waiting", "ahead"):
        session = run(tmp_path / name, **chosen)
        task = session.recipe.task(session.settings)
        trainer = Trainer(session.recipe, session.settings, task, session.folder, session.runs[0])
        fetch, fetched = trainer.runner.fetch, []
        trainer.runner.fetch = lambda all_, fetch=fetch, to=fetched: (
            to.append(len(all_)) or fetch(all_)
        )
        trainer.runner.asynchronous = name == "ahead"
        result = trainer.train(Listener(), Interrupt())
        if name == "ahead":
            assert [count for count in fetched if count] == ([1] * 40 if waits else [20, 20])
        ends.append((without_times(vars(result)), trainer.records[-1]["loss"]))
    assert ends[0] == ends[1]


def run(path, **chosen):
    return Session.create("digits", path, **{**SMALL, "regularizers": ("error",), **chosen})


class StopAfter(Listener):
    """Presses Ctrl-C after some steps."""

    def __init__(self, interrupt, steps):
        self.interrupt, self.steps = interrupt, steps
        self.compiled = []

    def compiling(self, run):
        self.compiled.append(run.name)

    def stepped(self, run, epoch, result):
        self.steps -= 1
        if self.steps == 0:
            self.interrupt.requested = True


def train(session, stop=None):
    """Train the session's only run; stop after so many steps."""
    task = session.recipe.task(session.settings)
    trainer = Trainer(session.recipe, session.settings, task, session.folder, session.runs[0])
    trainer.prepare()
    interrupt = Interrupt()
    return trainer.train(Listener() if stop is None else StopAfter(interrupt, stop), interrupt)


def without_times(record):
    return {name: value for name, value in record.items() if name not in TIMES}


@pytest.mark.parametrize(
    ("backend", "weights"),
    [("numpy", {}), ("torch", {}), ("jax", {}), ("numpy", {"error": "nfe:20"})],
)
def test_stopped_and_resumed_training_ends_where_an_uninterrupted_one_does(
    tmp_path, backend, weights
):
    """Also with a budget, whose weight is part of the lines that are compared."""
    chosen = {"backend": backend, "weights": weights}
    whole, parts = (run(tmp_path / name, **chosen) for name in ("whole", "parts"))
    expected = train(whole)
    for stop in (7, 20):  # in the first epoch, and in the second
        with pytest.raises(Interrupted):
            train(parts, stop)
    resumed = train(parts)
    assert without_times(vars(resumed)) == without_times(vars(expected))
    lines = [[without_times(r) for r in s.folder.read_metrics()] for s in (whole, parts)]
    assert lines[0] == lines[1]
    assert [record["epoch"] for record in lines[0]] == [1, 2]
    models = [flatten(load(s.folder.model("error-seed0")).params) for s in (whole, parts)]
    assert models[0].keys() == models[1].keys()
    for name in models[0]:
        np.testing.assert_array_equal(models[0][name], models[1][name])


def test_a_kill_between_two_files_is_survived(tmp_path, monkeypatch):
    """The metrics are ahead of the checkpoint: they are cut back, and made again."""
    monkeypatch.setattr(training, "CHECKPOINT_S", 0.0)
    whole, killed = run(tmp_path / "whole"), run(tmp_path / "killed")
    expected = train(whole)
    write = training.write_arrays

    def die_at_the_second(path, arrays, about):
        if about.get("progress", {}).get("step") == 40:
            raise SystemExit
        write(path, arrays, about)

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_arrays", die_at_the_second)
        with pytest.raises(SystemExit):
            train(killed)
    assert len(killed.folder.read_metrics()) == 2
    assert without_times(vars(train(killed))) == without_times(vars(expected))
    assert len(killed.folder.read_metrics()) == 2


@pytest.fixture(scope="module", params=BACKENDS)
def local_runner(request):
    recipe = training_recipe()
    settings = recipe.settings(**SMALL, backend=request.param)
    task = recipe.task(settings)
    runner = make_runner(task, recipe.regularizers["local-unbiased"], settings, task.init(0))
    batch = {name: array[:64] for name, array in task.train.items()}
    runner.warm_up(batch)
    return runner, batch


def test_a_local_row_is_a_function_of_its_key(local_runner):
    runner, batch = local_runner
    state, penalties = runner.state(), []
    for key in (1, 2, 2**31 - 1, 1):
        runner.restore(state)
        penalties.append(runner.step(batch, 2.5, 0, key).penalty)
    assert penalties[0] == penalties[3]
    assert len(set(penalties)) == 3
    assert min(penalties) > 0.0
    if runner.settings.backend == "jax":
        assert runner._update._cache_size() == 1


def test_a_resumed_local_row_ends_where_an_uninterrupted_one_does(tmp_path):
    whole, parts = (
        Session.create("digits", tmp_path / name, **{**SMALL, "regularizers": ("local-biased",)})
        for name in ("whole", "parts")
    )
    expected = train(whole)
    with pytest.raises(Interrupted):
        train(parts, 7)
    assert without_times(vars(train(parts))) == without_times(vars(expected))
    penalties = [[r["penalty"] for r in s.folder.read_metrics()] for s in (whole, parts)]
    assert penalties[0] == penalties[1]


def test_another_seed_is_another_training(tmp_path):
    session = run(tmp_path, epochs=1, seeds=(0, 1))
    results = session.train()
    assert [result.seed for result in results] == [0, 1]
    assert results[0].scores != results[1].scores


def test_a_session_trains_what_is_missing_only(tmp_path):
    session = run(tmp_path, epochs=1, regularizers=("none", "error"))
    first = session.train()
    again = Session.reopen("digits", tmp_path)
    assert again.settings == session.settings
    listener = StopAfter(Interrupt(), 10**9)
    assert [vars(r) for r in again.train(listener)] == [vars(r) for r in first]
    assert listener.steps == 10**9 and not listener.compiled
    assert not list(tmp_path.glob("checkpoints/*"))
    assert json.loads((tmp_path / "config.json").read_text())["versions"].keys() >= {"numba"}


def test_a_session_continued_elsewhere_says_where(tmp_path):
    """A machine that began, and one that trained the other row."""
    run(tmp_path, epochs=1, regularizers=("none", "error")).train()
    results = json.loads((tmp_path / "results.json").read_text())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(results[:1]))
    other = {"processor": "Z80", "cores": 1, "device": None, "load": 0.0}
    config |= {"machine": other, "versions": config["versions"] | {"numba": "0.1"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    Session.reopen("digits", tmp_path).train()
    found = collect([tmp_path])
    assert len(found.results) == 2
    assert len(found.machines) == 2 and found.machines[0]["processor"] == "Z80"
    assert found.versions["numba"].startswith("0.1 and ")
    (tmp_path / "results.json").write_text(json.dumps(results[:1]))
    Session.reopen("digits", tmp_path).train()  # on the same one again
    assert len(json.loads((tmp_path / "config.json").read_text())["continued"]) == 1


def test_an_interrupt_between_two_runs_keeps_the_finished_one(tmp_path):
    told = []

    class StopWhenFinished(Listener):
        def compiling(self, run):
            told.append(f"compiling {run.name}")

        def started(self, run, steps, done):
            told.append(f"started {run.name}")

        def finished(self, run, result):
            signal.raise_signal(signal.SIGINT)

    session = run(tmp_path, epochs=1, regularizers=("none", "error"))
    with pytest.raises(Interrupted, match="before run error-seed0; finished runs are written"):
        session.train(StopWhenFinished())
    assert told == ["compiling none-seed0", "started none-seed0"]
    assert [result.regularizer for result in session.results()] == ["none"]


def test_weights_that_are_given_again_continue(tmp_path):
    weights = {"error": "1", "steer+error": "2"}
    run(tmp_path, regularizers=tuple(weights), weights=weights)._write_config()
    assert Session.reopen("digits", tmp_path, weights={"error": "1"}).settings.weights == weights
    with pytest.raises(ValueError, match="weights is"):
        Session.reopen("digits", tmp_path, weights={"error": "3"})


def test_a_checkpoint_of_another_backend_is_refused(tmp_path):
    ours, theirs = run(tmp_path / "ours"), run(tmp_path / "theirs", backend="torch")
    with pytest.raises(Interrupted):
        train(theirs, 1)
    path = ours.folder.checkpoint("error-seed0")
    path.parent.mkdir(parents=True)
    theirs.folder.checkpoint("error-seed0").replace(path)
    with pytest.raises(ValueError, match="does not belong to this run"):
        train(ours)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    session = run(tmp_path)
    with pytest.raises(Interrupted):
        train(session, 1)
    path = session.folder.checkpoint("error-seed0")
    state, about = read_arrays(path)
    training.write_arrays(path, {**state, "params.head.bias": np.zeros(9, "float32")}, about)
    with pytest.raises(ValueError, match=r"head\.bias of shape"):
        train(session)


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path):
    session = run(tmp_path, learning_rate=1e30, regularizers=("none",))
    with pytest.raises(RuntimeError, match=r"learning-rate|NON_FINITE|STEP_UNDERFLOW"):
        session.train()


@pytest.mark.slow
def test_a_budget_settles_at_its_target(tmp_path):
    """Two targets from one start; without a regularizer this model comes to 44 and more."""
    for target in (32, 38):
        session = run(
            tmp_path / str(target),
            hidden=16,
            learning_rate=3e-3,
            epochs=70,
            weights={"error": f"nfe:{target}:0.02"},
        )
        train(session)
        lines = session.folder.read_metrics()[-20:]
        predicted = np.mean([line["test_nfev"] for line in lines])
        assert predicted == pytest.approx(target, rel=0.1)


def test_a_budget_is_on_what_a_prediction_takes(tmp_path):
    """The local row's steps count one extra step of Tsit5, which no prediction takes."""
    session = run(
        tmp_path, regularizers=("local-unbiased",), weights={"local-unbiased": "nfe:1000:1.0"}
    )
    task = session.recipe.task(session.settings)
    trainer = Trainer(session.recipe, session.settings, task, session.folder, session.runs[0])
    trainer.train(Listener(), Interrupt())
    first, last = trainer.records
    excess = first["test_nfev"] - first["nfev"]
    assert excess <= -6
    weight = first["weight"] * (first["nfev"] / 1000) ** 0.02  # of the last step of epoch 1
    weight *= np.prod([((last["nfev"] + excess) / 1000) ** 0.02] * 19)
    assert last["weight"] == pytest.approx(weight, rel=1e-2)
