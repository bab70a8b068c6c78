"""PhysioNet's set A of 2012: intensive-care stays, read from the archive as it is published.

Each record is a text file, ``set-a/132539.txt``, of lines ``HH:MM,Parameter,Value``: the first 48
hours of a stay. The preprocessing is that of the code of Y. Rubanova, R. T. Q. Chen, D. Duvenaud,
"Latent ODEs for irregularly-sampled time series" (NeurIPS 2019), which Kelly et al. (NeurIPS 2020)
and Pal et al. (ICML 2021, ICML 2023) took over.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CHANNELS = (
    "Weight", "Albumin", "ALP", "ALT", "AST", "Bilirubin", "BUN", "Cholesterol", "Creatinine",
    "DiasABP", "FiO2", "GCS", "Glucose", "HCO3", "HCT", "HR", "K", "Lactate", "Mg", "MAP",
    "MechVent", "Na", "NIDiasABP", "NIMAP", "NISysABP", "PaCO2", "PaO2", "pH", "Platelets",
    "RespRate", "SaO2", "SysABP", "Temp", "TroponinI", "TroponinT", "Urine", "WBC",
)  # fmt: skip
"""What varies over a stay."""

CONSTANTS = ("RecordID", "Age", "Gender", "Height", "ICUType")
"""What is said of a stay once, and left out."""

HOURS = 48
SOURCE = "https://physionet.org/content/challenge-2012/1.0.0/"


@dataclass(frozen=True)
class Observations:
    """All numbers of a set of records, one observation an entry.

    Parameters
    ----------
    records : tuple of str
        Their numbers, sorted.
    record, minute, channel : array of int, shape (N,)
        Which of ``records``, minutes from the start of the stay, which of :data:`CHANNELS`.
    value : array of float, shape (N,)
    """

    records: tuple[str, ...]
    record: np.ndarray
    minute: np.ndarray
    channel: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class Series:
    """Records as sequences of one length.

    Parameters
    ----------
    times : array, shape (T,)
        Where a solution is needed, hours over 48, increasing in [0, 1].
    place : array of int, shape (B, L)
        Which of ``times`` each entry of a sequence belongs to; sequences that are shorter than L
        repeat their last place, without observations.
    value, mask : array, shape (B, L, 37)
        Observations, normalised, and where there is one: elsewhere both are 0.
    """

    times: np.ndarray
    place: np.ndarray
    value: np.ndarray
    mask: np.ndarray


def load_physionet(path: str | os.PathLike[str] | None) -> Observations:
    """Read all records, in seconds; nothing is extracted to disk.

    Parameters
    ----------
    path : path
        The published ``set-a.tar.gz``, or a folder with the text files, or one that has a folder
        ``set-a`` with them.

    Raises
    ------
    ValueError
        If there is nothing to read, or it is something else.
    """
    wanted = f"PhysioNet's set A as published, set-a.tar.gz or its folder ({SOURCE})"
    if path is None:
        raise ValueError(f"expected {wanted}, received no path; try --data PATH")
    found = Path(path)
    if not found.exists():
        raise ValueError(f"expected {wanted}, received {found}: there is no such path")
    reader = _Reader()
    try:
        for name, text in _from_folder(found) if found.is_dir() else _from_archive(found):
            reader.read(name, text)
    except (OSError, EOFError, UnicodeDecodeError, tarfile.TarError) as error:
        raise ValueError(f"expected {wanted}, received {found}: {error}") from error
    if not reader.names:
        raise ValueError(f"expected {wanted}, received {found}: it holds no records *.txt")
    return reader.observations()


def _from_archive(path: Path) -> Iterator[tuple[str, str]]:
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if _is_record(member.name) else None
            if file is not None:
                yield member.name, file.read().decode()


def _from_folder(path: Path) -> Iterator[tuple[str, str]]:
    inner = path / "set-a"
    for file in sorted((inner if inner.is_dir() else path).glob("*.txt")):
        if _is_record(file.name):
            yield file.name, file.read_text()


def _is_record(name: str) -> bool:
    """Return whether a file is named like a record; an archive's folder may hold notes as well."""
    stem, dot, end = name.rpartition("/")[2].rpartition(".")
    return bool(dot) and end == "txt" and stem.isdigit()


class _Reader:
    """Collects the observations of one record after another."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.counts: list[int] = []
        self.minutes: list[int] = []
        self.channels: list[int] = []
        self.values: list[float] = []
        self._channel_of = {name: i for i, name in enumerate(CHANNELS)} | dict.fromkeys(CONSTANTS)
        self._minute_of = {
            f"{hour:02d}:{minute:02d}": 60 * hour + minute
            for hour in range(HOURS + 1)
            for minute in range(60 if hour < HOURS else 1)
        }

    def read(self, name: str, text: str) -> None:
        before = len(self.values)
        lines = text.splitlines()
        if not lines or lines[0].strip() != "Time,Parameter,Value":
            raise ValueError(
                f"expected the line Time,Parameter,Value at the start of {name}, received "
                f"{(lines or [''])[0][:40]!r}"
            )
        for number, line in enumerate(lines[1:], 2):
            try:
                time, parameter, value = line.split(",")
                channel, minute = self._channel_of[parameter], self._minute_of[time]
                if channel is not None:
                    self.values.append(float(value))
                    self.channels.append(channel)
                    self.minutes.append(minute)
            except (KeyError, ValueError):
                raise ValueError(
                    f"expected HH:MM,Parameter,Value, up to 48:00 and with a parameter of set A, "
                    f"in line {number} of {name}, received {line[:60]!r}"
                ) from None
        self.names.append(name.rpartition("/")[2].removesuffix(".txt"))
        self.counts.append(len(self.values) - before)

    def observations(self) -> Observations:
        """Return what was read, the records in the order of their numbers."""
        order = sorted(range(len(self.names)), key=lambda i: int(self.names[i]))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return Observations(
            tuple(self.names[i] for i in order),
            np.repeat(rank, self.counts),
            np.asarray(self.minutes, np.int64),
            np.asarray(self.channels, np.int64),
            np.asarray(self.values, np.float64),
        )


def binned(observations: Observations, minutes: int) -> Series:
    """Return the records on a common grid, what falls into one bin averaged.

    A time is rounded to the nearest multiple of the bin, a half to the even one: bins of an hour
    give 49 times from 0 to 48 hours, as in Kelly et al.'s and Pal et al.'s code, and bins of two
    hours 25.

    Parameters
    ----------
    observations : Observations
    minutes : int
        Width of a bin; it divides 48 hours.
    """
    last = HOURS * 60 // minutes
    cells = np.rint(observations.minute / minutes).astype(np.int64)
    records = len(observations.records)
    value, mask = _averaged(observations, cells, records, last + 1)
    place = np.broadcast_to(np.arange(last + 1), (records, last + 1))
    return Series(np.arange(last + 1) / last, place, value, mask)


def exact(observations: Observations) -> Series:
    """Return each record at its own times, to the minute as published.

    ``times`` is the union over the records. Sequences are as long as the longest.
    """
    records, grid = len(observations.records), HOURS * 60 + 1
    cell = observations.record * grid + observations.minute
    present = np.zeros(records * grid, bool)
    present[cell] = True
    minutes = np.flatnonzero(present.reshape(records, grid).any(axis=0))
    owner, minute = np.divmod(np.flatnonzero(present), grid)
    lengths = np.bincount(owner, minlength=records)
    if not lengths.all():
        empty = observations.records[int(np.flatnonzero(lengths == 0)[0])]
        raise ValueError(f"expected observations in every record, received none in {empty}")
    first = np.cumsum(lengths) - lengths
    position = np.arange(len(owner)) - first[owner]
    place_of = np.searchsorted(minutes, minute)
    own = position[np.cumsum(present)[cell] - 1]
    value, mask = _averaged(observations, own, records, int(lengths.max()))
    place = np.repeat(place_of[first + lengths - 1][:, None], value.shape[1], axis=1)
    place[owner, position] = place_of
    return Series(minutes / (60 * HOURS), place, value, mask)


def _averaged(
    observations: Observations, position: np.ndarray, records: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return normalised values and mask, (records, length, 37), single precision."""
    channels = len(CHANNELS)
    shape = (records, length, channels)
    cell = (observations.record * length + position) * channels + observations.channel
    count = np.bincount(cell, minlength=records * length * channels).reshape(shape)
    total = np.bincount(cell, observations.value, records * length * channels).reshape(shape)
    mask = count > 0
    value = total / np.maximum(count, 1)
    least = np.where(mask, value, np.inf).min(axis=(0, 1))
    most = np.where(mask, value, -np.inf).max(axis=(0, 1))
    # As in the code behind the published losses: over the largest value, not over the range, and
    # codes for "unknown" (-1) and typing errors (pH 735) left as they are.
    scale = np.where(np.isfinite(most) & (most != 0), most, 1.0)
    value = np.where(mask, (value - np.where(np.isfinite(least), least, 0.0)) / scale, 0.0)
    return value.astype("float32"), mask.astype("float32")
