"""``ndereg predict``: a saved model run on NumPy and Numba, without the framework it comes from."""

from __future__ import annotations

import io
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndereg.models.atomic import write_bytes
from ndereg.models.dense import Affine, Sequential
from ndereg.models.files import load
from ndereg.models.layer import Layer
from ndereg.models.mlp import MLP
from ndereg.models.model import Model
from ndereg.models.neural_ode import NeuralODE
from ndereg.models.neural_sde import NeuralSDE
from ndereg.models.parameters import flatten
from ndereg.solution import Solution


@dataclass(frozen=True)
class Prediction:
    """What a model says about some inputs.

    Attributes
    ----------
    output : array, shape (N, ...)
    nfev : int
        Evaluations of the field, of all batches; of a batch whose samples have steps of their own,
        their mean.
    seconds : float
        What it took, without compiling.
    """

    output: np.ndarray
    nfev: int
    seconds: float


def run(model: Model, x: Any, batch_size: int | None = None) -> Prediction:
    """Run a model on inputs, with one step size a batch.

    Parameters
    ----------
    model : Model
        Of a :class:`~ndereg.models.neural_ode.NeuralODE` or a
        :class:`~ndereg.models.neural_sde.NeuralSDE`. The noise of a batch has for its key where
        the batch begins, 0 for the first.
    x : array, shape (N, ...)
        Converted to the dtype of the weights.
    batch_size : int, optional
        Inputs that are solved together; all of them by default. As the step size is chosen for a
        batch, it has an influence within the tolerances.

    Raises
    ------
    ValueError
        If the model is neither, or the inputs are not what it takes.

    Examples
    --------
    >>> import numpy as np
    >>> from ndereg.models import MLP, Model, NeuralODE
    >>> model = Model.init(NeuralODE(MLP((2, 8, 2)), rtol=1e-3, atol=1e-3), seed=0)
    >>> run(model, np.ones((4, 2))).output.shape
    (4, 2)
    """
    import ndereg.numpy as face

    layer = model.layer
    if not isinstance(layer, (NeuralODE, NeuralSDE)):
        raise ValueError(
            "expected a saved NeuralODE or NeuralSDE, received a field of type "
            f"{layer.type!r}; try saving Model(NeuralODE(field), {{'field': params}}), both "
            "from ndereg.models"
        )
    dtype = np.result_type(np.float32, *flatten(model.params).values())
    inputs = np.asarray(x)
    if inputs.ndim < 1 or inputs.dtype.kind not in "biuf" or not len(inputs):
        raise ValueError(
            f"expected numbers of shape (N, ...), received shape {inputs.shape} and dtype "
            f"{inputs.dtype}; try one row an input"
        )
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"expected a batch size >= 1, received {batch_size}; try 512")
    inputs = np.ascontiguousarray(inputs, dtype)
    width = _width(layer)
    if width is not None and (inputs.ndim < 2 or inputs.shape[-1] != width):
        raise ValueError(
            f"expected inputs of shape (N, {width}), which this model takes, received shape "
            f"{inputs.shape}; try one row an input, with the {width} numbers it was trained on"
        )
    size = len(inputs) if batch_size is None else min(batch_size, len(inputs))

    def solved(first: int, count: int) -> tuple[Any, Solution]:
        batch, key = inputs[first : first + count], {}
        if isinstance(layer, NeuralSDE):
            key = {"key": first}
        return layer.run(face, batch, model.params, adjoint="none", **key)

    # once before the clock runs, for every batch shape that occurs
    for count in {size, len(inputs) % size or size}:
        try:
            solved(0, count)
        except ValueError as error:
            raise ValueError(
                f"expected inputs of a shape that this model takes, received shape {inputs.shape}, "
                f"with which it fails ({str(error).splitlines()[0]}); try the shape that it was "
                "trained on"
            ) from error
    start = time.perf_counter()
    outputs, nfev = [], 0
    for first in range(0, len(inputs), size):
        output, solution = solved(first, size)
        outputs.append(np.asarray(output))
        nfev += round(float(np.mean(solution.stats.nfev)))
    seconds = time.perf_counter() - start
    return Prediction(np.concatenate(outputs), nfev, seconds)


def _width(layer: Layer) -> int | None:
    """Return how many numbers an input has, where the description says so."""
    if isinstance(layer, NeuralODE | NeuralSDE):
        if layer.encoder is not None:
            return _width(layer.encoder)
        state = _width(layer.field if isinstance(layer, NeuralODE) else layer.drift)
        augmented = layer.augmentation if isinstance(layer, NeuralODE) else 0
        return None if state is None else state - augmented
    if isinstance(layer, Sequential):
        return _width(layer.layers[0])
    if isinstance(layer, MLP):
        return layer.widths[0]
    return layer.inputs if isinstance(layer, Affine) else None


def read_inputs(path: Path) -> np.ndarray:
    """Return the inputs in an ``.npz`` file: its array ``x``, or its only array.

    Raises
    ------
    ValueError
        If it is no such file, or holds something that is not an array of numbers.
    """
    _refuse_absent(path, ".npz", "inputs, an .npz file with an array x, of shape (N, ...)")
    try:
        data = np.load(path, allow_pickle=False)
        if isinstance(data, np.ndarray):
            return data
        with data:
            names = data.files
            if "x" in names or len(names) == 1:
                found: np.ndarray = data["x" if "x" in names else names[0]]
                return found
    except (ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"expected an .npz file of numbers, received {path}: {error}") from None
    raise ValueError(
        f"expected an array 'x' in {path}, received {', '.join(names) or 'none'}; try "
        "numpy.savez(path, x=inputs)"
    )


def predict(
    model: Path, data: Path, out: Path | None = None, batch_size: int | None = None
) -> tuple[Prediction, Path]:
    """Run a saved model on the inputs in a file, and write what it says; ``ndereg predict``.

    Parameters
    ----------
    model : path
        What :func:`~ndereg.models.files.save` wrote.
    data : path
        See :func:`read_inputs`.
    out : path, optional
        An ``.npz`` file for the arrays ``prediction`` and ``nfev``; beside ``data`` by default.
    batch_size : int, optional
        See :func:`run`.

    Returns
    -------
    prediction : Prediction
    path : Path
        Where it was written.

    Raises
    ------
    ValueError
        If a file is not what it should be.
    """
    _refuse_absent(model, ".safetensors", "a model that ndereg.save wrote")
    found = run(load(model), read_inputs(data), batch_size)
    target = out or data.with_suffix(".prediction.npz")
    write_bytes(target, _npz(prediction=found.output, nfev=np.asarray(found.nfev)))
    return found, target


def _refuse_absent(path: Path, suffix: str, what: str) -> None:
    """Refuse a path where there is no file, with those that may be meant."""
    if path.is_file():
        return
    folder = path if path.is_dir() else path.parent
    near = sorted([*folder.glob(f"*{suffix}"), *folder.glob(f"models/*{suffix}")])
    raise ValueError(
        f"expected {what}, received {path}, "
        + ("which is a folder; try " if path.is_dir() else "which does not exist; try ")
        + (", ".join(map(str, near[:3])) or f"the path of a {suffix} file")
    )


def _npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
