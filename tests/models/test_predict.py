"""``ndereg predict`` needs no framework, and says what the framework says."""

import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ndereg.cli import app
from ndereg.models import MLP, Affine, Entrywise, Model, NeuralODE, NeuralSDE, Sequential
from ndereg.models.files import load, save
from ndereg.models.importing.builder import PortError
from ndereg.models.port import port
from ndereg.models.predict import read_inputs, run
from ndereg.models.torch import NeuralODE as Module

LAYER = NeuralODE(MLP((3, 4, 3)), head=Affine(3, 2), method="bosh3", rtol=1e-3, atol=1e-3)
X = np.random.default_rng(0).normal(size=(7, 3)).astype("float32")

FRAMEWORKS = ("torch", "functorch", "jax", "flax", "equinox", "optax", "diffrax", "orbax")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with everything that is installed here but frameworks."""
    folder = tmp_path_factory.mktemp("without") / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    found = folder / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.check_output([found, "-c", where], text=True).strip())
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(FRAMEWORKS) and not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    for name in ("torch", "jax"):
        assert subprocess.run([found, "-c", f"import {name}"], capture_output=True).returncode == 1
    return found


@pytest.fixture
def places(tmp_path):
    module = Module(LAYER, seed=3)
    save(module, tmp_path / "m.safetensors")
    np.savez(tmp_path / "data.npz", x=X)
    return module, tmp_path / "m.safetensors", tmp_path / "data.npz"


def command(python, *arguments):
    return subprocess.run(
        [python, "-W", "error", "-m", "ndereg", "predict", *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_predictions_are_those_of_torch_in_an_environment_without_it(python, places, tmp_path):
    module, path, data = places
    done = command(python, path, data, "--out", tmp_path / "p.npz")
    assert done.returncode == 0, done.stderr
    assert "7 predictions of shape (2,)" in done.stdout
    expected, solution = module(torch.tensor(X), return_solution=True)
    with np.load(tmp_path / "p.npz") as found:
        np.testing.assert_allclose(found["prediction"], expected.detach(), rtol=1e-5, atol=1e-6)
        assert found["nfev"] == solution.stats.nfev


@pytest.mark.slow
def test_an_imported_field_runs_without_its_framework(python, tmp_path):
    torch.manual_seed(0)
    field = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 3))
    ported = port(field, to="numpy")
    layer = NeuralODE(ported.layer, method="bosh3", rtol=1e-3, atol=1e-3)
    save(Model(layer, {"field": ported.params}), tmp_path / "m")
    np.savez(tmp_path / "data.npz", X)
    done = command(python, tmp_path / "m", tmp_path / "data.npz", "--batch-size", 4)
    assert done.returncode == 0, done.stderr
    module = port(load(tmp_path / "m"), to="torch")
    expected = torch.cat([module(torch.tensor(X[:4])), module(torch.tensor(X[4:]))]).detach()
    with np.load(tmp_path / "data.prediction.npz") as found:
        np.testing.assert_allclose(found["prediction"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_mistakes_are_messages(python, places, tmp_path):
    _, path, data = places
    path.write_bytes(path.read_bytes()[:-1])
    done = command(python, path, data)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: expected") and "Traceback" not in done.stderr
    assert not (tmp_path / "data.prediction.npz").exists()


def test_a_field_is_no_prediction_and_what_is_advised_makes_one():
    field = MLP((3, 3))
    params = Model.init(field, 0).params
    with pytest.raises(
        ValueError, match="expected a saved NeuralODE or NeuralSDE, received a field"
    ) as refused:
        run(Model(field, params), X)
    advised = re.search(r"try saving (.*), both from ndereg.models", str(refused.value))[1]
    model = eval(advised, {"Model": Model, "NeuralODE": NeuralODE}, locals())
    assert run(model, X).output.shape == X.shape


@pytest.mark.parametrize(
    ("layer", "wide"),
    [
        (LAYER, 3),
        (NeuralODE(MLP((3, 4, 3)), augmentation=1), 2),
        (NeuralODE(MLP((3, 4, 3)), encoder=Sequential((Affine(5, 3), MLP((3, 3))))), 5),
        (NeuralSDE(MLP((3, 4, 3)), Entrywise(3, 2)), 3),
    ],
)
def test_inputs_of_another_shape(layer, wide):
    model = Model.init(layer, 0)
    for shape in ((7, wide + 1), (wide,), (7, 1)):
        with pytest.raises(ValueError) as caught:
            run(model, np.ones(shape))
        expected = f"expected inputs of shape (N, {wide}), which this model takes, received shape "
        assert str(caught.value).startswith(f"{expected}{shape}; try ")


def test_inputs_of_a_shape_that_the_description_does_not_say():
    model = Model.init(NeuralODE(Entrywise(3, 2), method="bosh3"), 0)
    with pytest.raises(
        ValueError, match=r"received shape \(7, 4\), with which it fails \(mul: shapes"
    ):
        run(model, np.ones((7, 4)))


@pytest.mark.parametrize("absent", ["model", "data"])
def test_files_that_are_not_there(places, absent):
    _, path, data = places
    given = {"model": path, "data": data}
    wanted = given[absent]
    for wrong, why in ((wanted.with_name("no"), "does not exist"), (wanted.parent, "is a folder")):
        found = CliRunner().invoke(app, ["predict", *map(str, (given | {absent: wrong}).values())])
        assert found.exit_code == 2
        assert f"received {wrong}, which {why}; try {wanted}\n" in found.stderr
        assert found.stderr.startswith("Error: expected ")


def test_inputs_are_checked(tmp_path):
    model = Model.init(LAYER, 0)
    for wrong in (np.array(1.0), X[:0], X.astype(str)):
        with pytest.raises(ValueError, match=r"expected numbers of shape \(N, ...\)"):
            run(model, wrong)
    with pytest.raises(ValueError, match="batch size"):
        run(model, X, 0)
    np.savez(tmp_path / "two.npz", a=X, b=X)
    with pytest.raises(ValueError, match="expected an array 'x'"):
        read_inputs(tmp_path / "two.npz")
    np.savez(tmp_path / "object.npz", x=np.array([{}], dtype=object))
    (tmp_path / "text.npz").write_text("not numbers")
    for name in ("object.npz", "text.npz"):
        with pytest.raises(ValueError, match=r"expected an \.npz file of numbers"):
            read_inputs(tmp_path / name)
    np.save(tmp_path / "plain.npy", X)
    np.testing.assert_array_equal(read_inputs(tmp_path / "plain.npy"), X)


def test_a_field_cannot_hold_a_solve():
    model = Model.init(LAYER, 0)

    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = port(model, to="torch")

        def forward(self, t, y):
            return self.inner(y)

    with pytest.raises(PortError, match=r"'inner'.*a solve of its own"):
        port(Outer(), to="numpy")
