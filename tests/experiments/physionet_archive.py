"""A small archive in the format of PhysioNet's set A."""

import io
import tarfile

import numpy as np

from ndereg.experiments.physionet_files import CHANNELS

HEADER = "Time,Parameter,Value"


def records(count=20, seed=0):
    """Return the texts of random records of different lengths by their names."""
    random = np.random.default_rng(seed)
    texts = {}
    for number in range(count):
        lines = [f"00:00,RecordID,{1000 + number}", "00:00,Age,54", "00:00,Weight,80"]
        for minute in np.sort(random.integers(0, 48 * 60 + 1, 10 + number)):
            channel = CHANNELS[random.integers(len(CHANNELS))]
            value = round(float(random.uniform(1, 100)), 2)
            lines.append(f"{minute // 60:02d}:{minute % 60:02d},{channel},{value}")
        texts[f"{1000 + number}.txt"] = "\n".join([HEADER, *lines]) + "\n"
    return texts


def write_archive(path, texts):
    """Write what PhysioNet publishes: a folder ``set-a`` in a tar.gz."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in reversed(texts.items()):
            member = tarfile.TarInfo(f"set-a/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path
