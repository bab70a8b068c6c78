"""MNIST's files, and the experiment on a few small images."""

import gzip
import io

import numpy as np
import pooch
import pytest

from ndereg.experiments import lookup, mnist_files
from ndereg.experiments.images import labelled
from ndereg.experiments.mnist_files import IDX, load_mnist
from ndereg.experiments.session import Session
from ndereg.experiments.training import Trainer

SIDE = 4
QUICK = {"hidden": 3, "batch_size": 8, "rtol": 1e-3, "atol": 1e-3, "evaluate_every": 1}


def digits(train=40, test=12):
    random = np.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (train, SIDE, SIDE), dtype=np.uint8),
        "y_train": random.integers(0, 10, train).astype(np.uint8),
        "x_test": random.integers(0, 256, (test, SIDE, SIDE), dtype=np.uint8),
        "y_test": random.integers(0, 10, test).astype(np.uint8),
    }


def idx(array):
    """Write an array as in the description that came with the data."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return header + array.tobytes()


def write_idx(folder, arrays, packed=False):
    folder.mkdir()
    for name, stem in IDX.items():
        content = idx(arrays[name])
        if packed:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / stem).write_bytes(content)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mnist.npz"
    np.savez(path, **digits())
    return path


def assert_the_digits(found):
    for name, expected in digits().items():
        np.testing.assert_array_equal(found[name], expected)


def test_keras_file(file):
    assert_the_digits(load_mnist(file))


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(tmp_path, packed):
    write_idx(tmp_path / "idx", digits(), packed)
    assert_the_digits(load_mnist(tmp_path / "idx"))


def test_without_a_path_the_cached_copy_is_read(tmp_path, file, monkeypatch):
    """A copy with the right checksum is in the cache: nothing is downloaded."""
    (tmp_path / "data").mkdir()
    file.rename(tmp_path / "data" / "mnist.npz")
    monkeypatch.setenv("NDEREG_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(mnist_files, "SHA256", pooch.file_hash(tmp_path / "data" / "mnist.npz"))
    monkeypatch.setattr(mnist_files, "URL", "http://127.0.0.1:9/mnist.npz")
    assert_the_digits(load_mnist())


def test_where_nothing_can_be_downloaded_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("NDEREG_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(mnist_files, "URL", "http://127.0.0.1:9/mnist.npz")
    with pytest.raises(ValueError, match=r"expected MNIST from .*received .*try --data PATH"):
        load_mnist()


def test_a_download_with_another_checksum_is_refused(tmp_path, monkeypatch):
    def deliver(url, output_file, pooch):
        with open(output_file, "wb") as file:
            file.write(b"something else")

    monkeypatch.setenv("NDEREG_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(pooch.core, "choose_downloader", lambda *_, **__: deliver)
    with pytest.raises(ValueError, match=r"expected MNIST from .*hash"):
        load_mnist()


def saved(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an .npz file"),
        (b"PK\x03\x04 and then nothing", "expected an .npz file"),
        (saved(**digits())[:500], "expected an .npz file"),
        (saved(x=np.zeros(3)), "expected the arrays x_train, y_train"),
        (saved(**digits() | {"y_test": np.zeros(3, int)}), r"x_test \(N, rows, columns\)"),
        (saved(**digits() | {"x_train": np.zeros((40, 16), int)}), r"x_train \(N, rows"),
        (saved(**digits() | {"y_train": np.full(40, 10)}), "labels from 0 to 9"),
        (saved(**digits() | {"x_train": np.zeros((40, 4, 4))}), "whole numbers in x_train"),
        (saved(**digits() | {"x_test": np.zeros((12, 5, 4), int)}), "images of one size"),
    ],
    ids=["empty", "broken", "cut", "others", "lengths", "flat", "labels", "floats", "oblong"],
)
def test_a_file_of_something_else_is_refused(tmp_path, content, message):
    path = tmp_path / "mnist.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_mnist(path)


@pytest.mark.parametrize(
    ("ending", "content", "message"),
    [
        ("", None, "received neither"),
        ("", b"\x00\x00\x08", "IDX file of bytes"),
        ("", b"\x00\x00\x0d\x01\x00\x00\x00\x00", "IDX file of bytes"),  # of floats
        ("", idx(np.zeros((3, 4, 4), np.uint8))[:-1], "IDX file of bytes"),
        (".gz", b"not gzip", "labels-idx1-ubyte.gz in"),
        (".gz", gzip.compress(bytes(1000), mtime=0)[:15], "labels-idx1-ubyte.gz in"),
    ],
    ids=["missing", "short", "floats", "cut", "no gzip", "cut gzip"],
)
def test_a_damaged_folder_is_refused(tmp_path, ending, content, message):
    folder = tmp_path / "idx"
    write_idx(folder, digits())
    (folder / IDX["y_train"]).unlink()
    if content is not None:
        (folder / f"{IDX['y_train']}{ending}").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_mnist(folder)


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such path"):
        load_mnist(tmp_path / "mnist.npz")


def test_pixels_are_between_0_and_1_and_labels_one_hot():
    data = labelled(np.array([[[0, 255]]], np.uint8), np.array([3], np.uint8), brightest=255.0)
    np.testing.assert_array_equal(data["x"], [[0.0, 1.0]])
    np.testing.assert_array_equal(data["label"], [[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]])
    assert {array.dtype for array in data.values()} == {np.dtype("float32")}


def test_published_rates_and_epochs_instead_of_steps():
    """What else the presets set is in test_presets."""
    recipe = lookup("mnist")
    momentum, adam = map(recipe.settings, ("opening-the-blackbox", "locally-regularized"))
    assert momentum.rate(0) == 0.1 and momentum.rate(100_000) == pytest.approx(0.05)
    assert adam.rate(0) == adam.rate(7500) == 1e-3
    epochs = recipe.settings("locally-regularized", epochs=3)
    assert (epochs.epochs, epochs.steps) == (3, None)


def test_the_field_is_that_of_the_papers(file):
    recipe = lookup("mnist")
    task = recipe.task(recipe.settings(data=str(file), hidden=3))
    params = task.init(0)["field"]
    assert sorted(params) == ["0", "1"]
    y = np.random.default_rng(1).normal(size=(2, SIDE**2)).astype("float32")
    t, expected = np.float32(0.3), y
    for layer in (params["0"], params["1"]):  # the time is one more input of both
        weight = np.vstack([layer["weight"], layer["time"]])
        inputs = np.concatenate([expected, np.full((2, 1), t)], axis=1)
        expected = np.tanh(inputs @ weight + layer["bias"])
    np.testing.assert_allclose(task.field(t, y, params), expected, rtol=1e-4)


def test_a_file_with_fewer_digits_is_trained_for_as_many_steps(file, tmp_path):
    """To the nearest whole epoch: 5 batches of 8 an epoch."""
    session = Session.create("mnist", tmp_path / "out", "quick", data=str(file), **QUICK)
    task = session.recipe.task(session.settings)
    assert len(task.counted["x"]) == 12
    trainer = Trainer(session.recipe, session.settings, task, session.folder, session.runs[0])
    assert (trainer.steps_per_epoch, trainer.steps) == (5, 300)
    chosen = session.recipe.settings(**QUICK | {"batch_size": 41})
    with pytest.raises(ValueError, match="batch size of at most 40, the training set"):
        Trainer(session.recipe, chosen, task, session.folder, session.runs[0])


def test_the_experiment_runs_from_a_file(file, tmp_path):
    """On the backend that compiles nothing: digits runs the same task on all three."""
    chosen = {**QUICK, "regularizers": ("local-unbiased",), "epochs": 2, "backend": "torch"}
    session = Session.create("mnist", tmp_path / "out", data=str(file), **chosen)
    (result,) = session.train()
    assert result.nfev > 0
    assert [record["epoch"] for record in session.folder.read_metrics()] == [1, 2]
    assert Session.reopen("mnist", tmp_path / "out").settings == session.settings
