"""MNIST's files: Keras' ``mnist.npz`` and the original IDX files."""

from __future__ import annotations

import gzip
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
import platformdirs
import pooch

URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
IDX = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}

Arrays = dict[str, np.ndarray]


def load_mnist(path: str | os.PathLike[str] | None = None) -> Arrays:
    """Return ``x_train``, ``y_train``, ``x_test``, ``y_test``, integers, images (N, rows, columns).

    Parameters
    ----------
    path : path, optional
        An ``.npz`` file with these four arrays, or a folder with the four IDX files, gzipped or
        not. Without one, the copy in the user's cache is read, which is downloaded at first.

    Raises
    ------
    ValueError
        If there is nothing to read, or it is something else.
    """
    found = Path(path) if path is not None else _download()
    if not found.exists():
        raise ValueError(
            f"expected MNIST as an .npz file or a folder of IDX files, received {found}: there is "
            "no such path"
        )
    arrays = _read_idx(found) if found.is_dir() else _read_npz(found)
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if images.ndim != 3 or labels.shape != images.shape[:1] or len(labels) == 0:
            raise ValueError(
                f"expected x_{part} (N, rows, columns) and y_{part} (N,) in {found}, received "
                f"{images.shape} and {labels.shape}"
            )
        for name in (f"x_{part}", f"y_{part}"):
            if arrays[name].dtype.kind not in "ui":
                raise ValueError(
                    f"expected whole numbers in {name} of {found}, pixels from 0 to 255, received "
                    f"{arrays[name].dtype}"
                )
        if labels.min() < 0 or labels.max() > 9:
            raise ValueError(f"expected labels from 0 to 9 in {found}, received others")
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        raise ValueError(
            f"expected images of one size in {found}, received {arrays['x_train'].shape[1:]} to "
            f"train on and {arrays['x_test'].shape[1:]} to test"
        )
    return arrays


def _read_npz(path: Path) -> Arrays:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in ARRAYS}
    except KeyError as error:
        raise ValueError(
            f"expected the arrays {', '.join(ARRAYS)} in {path}, received none named {error}"
        ) from None
    except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"expected an .npz file, received {path}: {error}") from error


def _read_idx(folder: Path) -> Arrays:
    return {name: _read_idx_file(folder, stem) for name, stem in IDX.items()}


def _read_idx_file(folder: Path, stem: str) -> np.ndarray:
    """Read one IDX file: two zero bytes, type 8 (bytes), the rank, the shape, the data."""
    plain, packed = folder / stem, folder / f"{stem}.gz"
    if not (plain.exists() or packed.exists()):
        raise ValueError(f"expected {stem} or {stem}.gz in {folder}, received neither")
    try:
        data = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"expected {stem} or {stem}.gz in {folder}, received {error}") from error
    rank = data[3] if len(data) > 3 and data[:3] == b"\x00\x00\x08" else 0
    shape = tuple(np.frombuffer(data[4 : 4 + 4 * rank], ">i4").tolist())
    if rank == 0 or len(data) != 4 + 4 * rank + int(np.prod(shape)):
        raise ValueError(f"expected an IDX file of bytes, received {folder / stem}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _download() -> Path:
    """Return the cached copy, downloading it if need be."""
    folder = Path(os.environ.get("NDEREG_CACHE_DIR") or platformdirs.user_cache_dir("ndereg"))
    try:
        found = pooch.retrieve(URL, f"sha256:{SHA256}", "mnist.npz", folder / "data")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"expected MNIST from {URL}, received {type(error).__name__}: {error}; try --data PATH "
            "with Keras' mnist.npz or a folder of the IDX files"
        ) from error
    return Path(found)
