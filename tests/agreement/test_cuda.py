"""The reference's steps and gradients on a CUDA device, where there is one."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch

import ndereg
from ndereg.backends.registry import load_backend
from ndereg.solve import Face

cuda = pytest.mark.cuda
REFERENCE = Face(load_backend("reference"))
SPAN = (0.0, 1.5)
PENALTY = ndereg.ErrorEstimate() + 0.1 * ndereg.StiffnessEstimate()


def _jax_gpu():
    try:
        return jax.devices("gpu")[0]
    except RuntimeError:
        return None


@pytest.fixture(params=["torch", "jax"])
def device(request):
    """A framework's face, and how its arrays are made and read on the device."""
    if request.param == "torch":
        if not torch.cuda.is_available():
            pytest.skip("PyTorch finds no CUDA device")
        yield Face(load_backend("torch")), lambda a: torch.as_tensor(a, device="cuda"), _numpy
    else:
        gpu = _jax_gpu()
        if gpu is None:
            pytest.skip("JAX finds no CUDA device")
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            yield Face(load_backend("jax")), lambda a: jax.device_put(a, gpu), np.asarray


def _numpy(tensor):
    assert tensor.is_cuda
    return tensor.detach().cpu().numpy()


def field(t, y, args):
    ops = ndereg.ops
    return ops.tanh(y @ args["weight"] + t) - args["decay"] * y


def problem(batch, dtype):
    random = np.random.default_rng(7)
    args = {"weight": random.normal(size=(3, 3)), "decay": np.array(0.3)}
    y0 = random.normal(size=(batch, 3)).astype(dtype)
    return y0, {name: value.astype(dtype) for name, value in args.items()}


@cuda
@pytest.mark.parametrize("batch", ["joint", "independent"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_steps_and_gradients_are_those_of_the_reference(device, batch, dtype):
    face, to, back = device
    y0, args = problem(5, dtype)
    options = {"batch": batch, "t_eval": np.linspace(*SPAN, 4)}
    if dtype == "float64":
        options |= {"rtol": 1e-4, "atol": 1e-5, "regularizer": PENALTY}
    else:  # single precision moves an adaptive mesh, and what is compared with it
        options |= {"controller": ndereg.ConstantStep(0.1)}
    expected, pull = REFERENCE.solve_vjp(field, SPAN, y0, args, **options)
    found, pull_back = face.solve_vjp(
        field, SPAN, to(y0), {name: to(value) for name, value in args.items()}, **options
    )
    counts = found.stats.nfev
    counts = counts.cpu() if isinstance(counts, torch.Tensor) else counts
    np.testing.assert_array_equal(np.asarray(counts), np.asarray(expected.stats.nfev))
    bar = np.random.default_rng(1).normal(size=expected.ys.shape).astype(dtype)
    d_y0, d_args = pull(bar, 0.5)
    d_y0_found, d_args_found = pull_back(to(bar), 0.5)
    # rounding moves an adaptive mesh a little, which changes the discretization error
    tolerance = 1e-7 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(back(found.ys), expected.ys, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(back(d_y0_found), d_y0, rtol=tolerance, atol=tolerance)
    for name, value in d_args.items():
        np.testing.assert_allclose(back(d_args_found[name]), value, rtol=tolerance, atol=tolerance)


@cuda
def test_a_joint_step_reads_from_the_device_once():
    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA device")
    face = Face(load_backend("torch"))
    y0, args = problem(5, "float32")
    y0, args = torch.as_tensor(y0).cuda(), {k: torch.as_tensor(v).cuda() for k, v in args.items()}
    reads = []
    for end in (1.5, 6.0):
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with pytest.warns(UserWarning, match="synchronizing") as waits:
                sol = face.solve(field, (0.0, end), y0, args, rtol=1e-5, atol=1e-7)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        reads.append((len(waits), sol.stats.nsteps))
    (few, first), (many, second) = reads
    assert second > first
    assert many - few <= second - first


@cuda
def test_the_experiments_train_in_single_precision_on_a_device(tmp_path):
    """Products in reduced precision would cost a hundred times the evaluations."""
    if _jax_gpu() is None:
        pytest.skip("JAX finds no CUDA device")
    options = ["--backend", "jax", "--epochs", "1", "--regularizers", "none", "--quiet"]
    for device in ("cuda", "cpu"):
        command = [sys.executable, "-m", "ndereg", "compare", "digits", *options,
                   "--device", device, "--out", str(tmp_path / device)]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, text=True)

    results = [
        json.loads((tmp_path / device / "results.json").read_text())[0]["nfev"]
        for device in ("cuda", "cpu")
    ]
    assert results[0] == pytest.approx(results[1], abs=12)
