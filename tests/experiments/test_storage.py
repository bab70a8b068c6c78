"""Files are whole or not there."""

import json
import os

import numpy as np
import pytest

from ndereg.experiments.storage import RunFolder, read_arrays, write_arrays, write_bytes


def test_arrays_and_their_description_come_back(tmp_path):
    arrays = {"a.b": np.arange(6.0).reshape(2, 3).T, "count": np.asarray(3, np.int64)}
    about = {"progress": {"step": 3, "train_s": 0.1 + 0.2}}
    write_arrays(tmp_path / "x.safetensors", arrays, about)
    back, described = read_arrays(tmp_path / "x.safetensors")
    assert described == about
    assert back.keys() == arrays.keys()
    for name, value in arrays.items():
        assert back[name].shape == value.shape
        np.testing.assert_array_equal(back[name], value)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected a safetensors file"):
        read_arrays(path)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    write_arrays(path, {"a": np.ones(100)}, {})
    content = path.read_bytes()
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="expected a safetensors file"):
            read_arrays(path)


def test_metrics_come_back_line_by_line(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_metrics() == []
    folder.write_metrics([{"run": "a", "step": 1}, {"run": "b", "step": 2}])
    assert [r["run"] for r in folder.read_metrics()] == ["a", "b"]


def test_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        RunFolder(tmp_path).read_config()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"no config\.json; leave out --resume"):
        RunFolder(tmp_path / "file").read_config("leave out --resume")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        RunFolder(tmp_path).read_config()
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "digits"}))
    with pytest.raises(ValueError, match="settings"):
        RunFolder(tmp_path).read_config()
