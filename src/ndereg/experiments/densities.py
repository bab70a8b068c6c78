"""Points to fit a density to: in two dimensions, of a table, or of a file.

The planar ones look like those of W. Grathwohl et al., "FFJORD", ICLR 2019.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ndereg.experiments.recipe import Batch
from ndereg.models.parameters import stream

POINTS, TESTED = 10_000, 2_000
"""Points of a planar density to train on, and to test on."""

CORRELATED = 0.98
"""Columns of a table that are correlated more than that with an earlier one are left out, as in the
preprocessing of the published sets (Papamakarios et al., NeurIPS 2017)."""

Sampler = Callable[[int, np.random.Generator], np.ndarray]


def _seed(random: np.random.Generator) -> int:
    return int(random.integers(2**31))


def moons(count: int, random: np.random.Generator) -> np.ndarray:
    """Two half circles, interleaved, (count, 2)."""
    from sklearn import datasets

    points, _ = datasets.make_moons(count, noise=0.1, random_state=_seed(random))
    return 2.0 * points - np.array([1.0, 0.2])


def circles(count: int, random: np.random.Generator) -> np.ndarray:
    """Two circles, one inside of the other, (count, 2)."""
    from sklearn import datasets

    points, _ = datasets.make_circles(count, noise=0.08, factor=0.5, random_state=_seed(random))
    return 3.0 * points


def swissroll(count: int, random: np.random.Generator) -> np.ndarray:
    """A spiral, (count, 2)."""
    from sklearn import datasets

    points, _ = datasets.make_swiss_roll(count, noise=1.0, random_state=_seed(random))
    return points[:, [0, 2]] / 5.0


def eight_gaussians(count: int, random: np.random.Generator) -> np.ndarray:
    """Eight normal distributions around a circle, (count, 2)."""
    angles = random.integers(8, size=count) * np.pi / 4
    centers = 4.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return (centers + 0.5 * random.standard_normal((count, 2))) / np.sqrt(2.0)


def pinwheel(count: int, random: np.random.Generator) -> np.ndarray:
    """Five bent arms, (count, 2)."""
    arm = random.integers(5, size=count) * 2.0 * np.pi / 5
    along, across = random.standard_normal((2, count)) * np.array([[0.3], [0.1]])
    along += 1.0
    angle = arm + 0.25 * np.exp(along)
    cos, sin = np.cos(angle), np.sin(angle)
    return 2.0 * np.stack([along * cos - across * sin, along * sin + across * cos], axis=1)


def checkerboard(count: int, random: np.random.Generator) -> np.ndarray:
    """Every second square of a board, each uniform, (count, 2)."""
    x = random.uniform(-2.0, 2.0, count)
    row = random.integers(2, size=count)
    y = random.uniform(0.0, 1.0, count) + 2.0 * row - 2.0 + np.floor(x) % 2
    return 2.0 * np.stack([x, y], axis=1)


PLANAR: dict[str, Sampler] = {
    "moons": moons,
    "circles": circles,
    "swissroll": swissroll,
    "8gaussians": eight_gaussians,
    "pinwheel": pinwheel,
    "checkerboard": checkerboard,
}

TABLES = ("cancer",)
"""Of scikit-learn: Wisconsin's measurements of cell nuclei (569 samples, 30 columns)."""

DENSITIES = (*PLANAR, *TABLES)


def load_density(name: str) -> tuple[Batch, Batch]:
    """Return training and test data, ``x`` (B, d), single precision, the same whatever the seed.

    Raises
    ------
    ValueError
        If there is no density of this name.
    """
    if name in PLANAR:
        train, test = (
            PLANAR[name](count, stream(0, f"{name}.{part}"))
            for part, count in (("train", POINTS), ("test", TESTED))
        )
        return _batch(train), _batch(test)
    if name not in TABLES:
        raise ValueError(
            f"expected a density among {', '.join(DENSITIES)}, received {name!r}; try 'moons', or "
            "a table of your own with --data"
        )
    from sklearn import datasets

    table, _ = datasets.load_breast_cancer(return_X_y=True)
    table = _less_correlated(table[stream(0, f"{name}.split").permutation(len(table))])
    test = len(table) // 5
    return _standardized(table[test:], table[:test])


def load_table(path: str) -> tuple[Batch, Batch]:
    """Read a table: ``.npy`` with an array (N, d), or ``.npz`` with ``x_train`` and ``x_test``.

    Of a single array the last tenth of the rows is the test set, as of the published
    MINIBOONE and POWER. Columns are standardized by the training rows.

    Raises
    ------
    ValueError
        If there is no such file, or it holds something else.
    """
    try:
        with Path(path).open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if not isinstance(found, np.ndarray):
                found = {name: found[name] for name in ("x_train", "x_test") if name in found}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"expected a table as .npy or .npz, received {path}: {error}; try numpy.save of an "
            "array (N, d)"
        ) from None
    if isinstance(found, np.ndarray):
        rows = len(found) - len(found) // 10 if found.ndim else 0
        parts = {"x_train": found[:rows], "x_test": found[rows:]} if rows else {}
    else:
        parts = found
    shapes = {name: part.shape for name, part in parts.items()}
    widths = {shape[1:] for shape in shapes.values()}
    usable = all(part.dtype.kind in "fiu" and len(part) > 1 for part in parts.values())
    if len(parts) != 2 or not usable or len(widths) != 1 or len(widths.pop()) != 1:
        raise ValueError(
            "expected an array (N, d) in a .npy file, or x_train and x_test, (N, d) and (M, d), in "
            f"an .npz file, received {path} with {shapes or 'none of them'}"
        )
    if not all(np.all(np.isfinite(part)) for part in parts.values()):
        raise ValueError(f"expected finite numbers in {path}, received nan or inf")
    return _standardized(parts["x_train"], parts["x_test"])


def _less_correlated(table: np.ndarray) -> np.ndarray:
    close = np.abs(np.corrcoef(table, rowvar=False)) > CORRELATED
    kept: list[int] = []
    for column in range(table.shape[1]):
        if not close[column, kept].any():
            kept.append(column)
    return table[:, kept]


def _standardized(train: np.ndarray, test: np.ndarray) -> tuple[Batch, Batch]:
    mean, deviation = np.mean(train, axis=0), np.std(train, axis=0)
    if not np.all(deviation > 0):
        constant = np.flatnonzero(deviation == 0).tolist()
        raise ValueError(
            f"expected columns that vary, received constant column(s) {constant}: they have no "
            "density; try leaving them out"
        )
    return _batch((train - mean) / deviation), _batch((test - mean) / deviation)


def _batch(points: np.ndarray) -> Batch:
    return {"x": points.astype("float32")}
