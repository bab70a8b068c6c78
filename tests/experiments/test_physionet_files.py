"""Reading and preprocessing PhysioNet's set A."""

import os
from pathlib import Path

import numpy as np
import pytest
from tests.experiments.physionet_archive import HEADER, records, write_archive

from ndereg.experiments.physionet_files import (
    CHANNELS,
    CONSTANTS,
    Observations,
    binned,
    exact,
    load_physionet,
)

PUBLISHED = (
    Path(os.environ.get("NDEREG_DATA", Path(__file__).parents[3] / "shared" / "data"))
    / "physionet2012-set-a.tar.gz"
)


@pytest.fixture(scope="module")
def texts():
    return records()


@pytest.fixture(scope="module")
def observations(texts, tmp_path_factory):
    return load_physionet(write_archive(tmp_path_factory.mktemp("data") / "set-a.tar.gz", texts))


def parsed(texts):
    """Return (record, minute, channel, value) of every line, read in another way."""
    rows = []
    for i, name in enumerate(sorted(texts)):
        for line in texts[name].split()[1:]:
            time, parameter, value = line.split(",")
            if parameter not in CONSTANTS:
                hours, minutes = time.split(":")
                rows.append(
                    (i, 60 * int(hours) + int(minutes), CHANNELS.index(parameter), float(value))
                )
    return rows


def test_an_archive_is_read_whole(observations, texts):
    ours = zip(
        *(
            getattr(observations, name).tolist()
            for name in ("record", "minute", "channel", "value")
        ),
        strict=True,
    )
    assert sorted(ours) == sorted(parsed(texts))
    assert observations.records == tuple(name.removesuffix(".txt") for name in sorted(texts))


@pytest.mark.parametrize("inner", ["", "set-a"])
def test_a_folder_is_read_as_its_archive(observations, texts, tmp_path, inner):
    (tmp_path / inner).mkdir(exist_ok=True)
    for name, text in texts.items():
        (tmp_path / inner / name).write_text(text)
    (tmp_path / inner / "README.txt").write_text("not a record")
    again = load_physionet(tmp_path)
    for name, value in vars(binned(observations, 60)).items():
        np.testing.assert_array_equal(getattr(binned(again, 60), name), value)


def by_hand(texts, minutes):
    """Return normalised values and mask of every record, a dict of cells, without arrays."""
    cells = {}
    for record, minute, channel, value in parsed(texts):
        # Python rounds a half to the even number, as the published code does.
        cells.setdefault((record, round(minute / minutes), channel), []).append(value)
    means = {cell: sum(values) / len(values) for cell, values in cells.items()}
    least, most = {}, {}
    for (_, _, channel), mean in means.items():
        least[channel] = min(least.get(channel, mean), mean)
        most[channel] = max(most.get(channel, mean), mean)
    return {cell: (mean - least[cell[2]]) / most[cell[2]] for cell, mean in means.items()}


@pytest.mark.parametrize(("minutes", "count"), [(60, 49), (120, 25)])
def test_bins_are_averaged_and_normalised(observations, texts, minutes, count):
    series = binned(observations, minutes)
    np.testing.assert_allclose(series.times, np.linspace(0.0, 1.0, count), rtol=1e-15)
    assert series.value.shape == series.mask.shape == (len(texts), count, len(CHANNELS))
    expected = by_hand(texts, minutes)
    assert series.mask.sum() == len(expected)
    for cell, value in expected.items():
        assert series.mask[cell] == 1.0
        assert series.value[cell] == pytest.approx(value, rel=1e-6, abs=1e-7)
    assert not series.value[series.mask == 0].any()
    np.testing.assert_array_equal(series.place, np.tile(np.arange(count), (len(texts), 1)))


def test_exact_times_are_those_of_the_records(observations, texts):
    series = exact(observations)
    expected = by_hand(texts, 1)
    assert series.mask.sum() == len(expected)
    minutes = np.rint(series.times * 48 * 60).astype(int)
    np.testing.assert_allclose(series.times * 48 * 60, minutes, rtol=1e-12)
    assert set(minutes) == {minute for _, minute, _ in expected}
    for record, entry, channel in np.argwhere(series.mask):
        minute = minutes[series.place[record, entry]]
        assert series.value[record, entry, channel] == pytest.approx(
            expected[record, minute, channel], rel=1e-6, abs=1e-7
        )
    assert (np.diff(series.place, axis=1) >= 0).all()
    lengths = [len({m for r, m, _ in expected if r == i}) for i in range(len(texts))]
    assert series.value.shape[1] == max(lengths)
    assert [len(set(row)) for row in series.place.tolist()] == lengths


def test_a_record_without_observations_has_no_times():
    nothing = np.zeros(0, int)
    with pytest.raises(ValueError, match="none in 7"):
        exact(Observations(("7",), nothing, nothing, nothing, np.zeros(0)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Time,Parameter,Value at the start"),
        ("<html>", "Time,Parameter,Value at the start"),
        (f"{HEADER}\n00:00,Weight", "line 2 of set-a/7.txt"),
        (f"{HEADER}\n00:00,Age,54\n48:01,Weight,80", "line 3"),
        (f"{HEADER}\n00:00,Shoe size,42", "Shoe size"),
        (f"{HEADER}\n00:00,Weight,heavy", "heavy"),
    ],
)
def test_a_malformed_record_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_physionet(write_archive(tmp_path / "a.tar.gz", {"7.txt": text}))


def test_what_is_no_archive_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--data"):
        load_physionet(None)
    with pytest.raises(ValueError, match="no such path"):
        load_physionet(tmp_path / "absent")
    with pytest.raises(ValueError, match="no records"):
        load_physionet(tmp_path)
    (tmp_path / "text").write_text("something else")
    with pytest.raises(ValueError, match="expected PhysioNet's set A"):
        load_physionet(tmp_path / "text")
    whole = write_archive(tmp_path / "whole.tar.gz", records(40)).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="expected PhysioNet's set A"):
        load_physionet(tmp_path / "cut.tar.gz")


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.exists(), reason=f"the published archive is not at {PUBLISHED}")
def test_the_published_archive():
    observations = load_physionet(PUBLISHED)
    assert len(observations.records) == 4000
    assert (observations.records[0], observations.records[-1]) == ("132539", "142673")
    assert set(observations.channel) == set(range(37))
    series = binned(observations, 60)
    assert series.value.shape == (4000, 49, 37)
    assert series.mask[0, 0, CHANNELS.index("Weight")] == 1.0
    assert 0.0 <= series.value.min() < series.value.max() < 2.0
