"""A file gives the model that was saved, or an error."""

import json
import os
import pickle
import struct

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from ndereg.models import MLP, Affine, Model, NeuralODE, flatten
from ndereg.models.files import _digest, load, save
from ndereg.models.importing.builder import PortError
from ndereg.models.port import port

MODEL = Model.init(NeuralODE(MLP((2, 3, 2)), head=Affine(2, 1)), 0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "m.safetensors"
    save(MODEL, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "m.safetensors"


def same(model, other):
    assert model.layer == other.layer
    ours, theirs = flatten(model.params), flatten(other.params)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_a_model_is_saved_and_loaded(saved, place):
    place.write_bytes(saved)
    same(load(place), MODEL)
    same(load(str(place)), MODEL)
    assert load(place).params["head"]["weight"].flags.writeable


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_dtypes(tmp_path, dtype):
    params = Model.init(MLP((2, 2)), 0).params
    model = Model(MLP((2, 2)), {"0": {k: v.astype(dtype) for k, v in params["0"].items()}})
    save(model, tmp_path / "m")
    same(load(tmp_path / "m"), model)


def test_modules_are_saved_as_programs(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.SiLU(), torch.nn.Linear(3, 2))
    module.register_buffer("unused", torch.ones(3))
    save(module, tmp_path / "m")
    model = load(tmp_path / "m")
    same(model, port(module, to="numpy"))
    y = np.ones((1, 2), "float32")
    np.testing.assert_allclose(
        model(0.0, y), module(torch.tensor(y)).detach(), rtol=1e-6, atol=1e-7
    )


def test_what_has_no_description_is_refused(tmp_path):
    import equinox as eqx
    import jax

    class Field(eqx.Module):
        weight: jax.Array

        def __call__(self, y):
            return y * self.weight

    field = Field(jax.numpy.ones(2))
    with pytest.raises(PortError, match="example="):
        save(field, tmp_path / "m")
    assert not list(tmp_path.iterdir())
    save(field, tmp_path / "m", example=np.ones(2, "float32"))
    assert load(tmp_path / "m").layer.type == "program"


def test_wrong_dtypes_are_refused(tmp_path):
    params = Model.init(MLP((2, 2)), 0).params["0"]
    model = Model(MLP((2, 2)), {"0": {k: v.astype("float16") for k, v in params.items()}})
    with pytest.raises(ValueError, match="float16"):
        save(model, tmp_path / "m")
    with pytest.raises(ValueError, match="expected a Model"):
        save({"weights": 1}, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "m"
    save(MODEL, path)
    other = Model.init(MODEL.layer, 1)

    def fail(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        save(other, path)
    same(load(path), MODEL)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


# Damage


def silently_wrong(place, data):
    """Whether another model than the one that was saved is read."""
    place.write_bytes(data)
    try:
        found = load(place)
    except ValueError:
        return False
    try:
        same(found, MODEL)
    except AssertionError:
        return True
    return False


def test_a_file_truncated_anywhere_is_refused(saved, place):
    for length in range(len(saved)):
        place.write_bytes(saved[:length])
        with pytest.raises(ValueError, match="expected"):
            load(place)


def test_every_byte_of_the_description_counts(saved, place):
    text = json.dumps(MODEL.layer.describe(), sort_keys=True)
    inside = json.dumps(text)[1:-1].encode()
    start = saved.index(inside)
    for offset in range(start, start + len(inside)):
        for flip in (0x01, 0x20, 0x80):
            place.write_bytes(saved[:offset] + bytes([saved[offset] ^ flip]) + saved[offset + 1 :])
            with pytest.raises(ValueError, match="expected"):
                load(place)


def test_every_byte_of_the_weights_counts(saved, place):
    start = 8 + int.from_bytes(saved[:8], "little")
    for offset in range(start, len(saved)):
        place.write_bytes(saved[:offset] + bytes([saved[offset] ^ 0x10]) + saved[offset + 1 :])
        with pytest.raises(ValueError, match="digest"):
            load(place)


@given(st.data())
def test_no_change_is_silent(saved, place, data):
    changed = bytearray(saved)
    for _ in range(data.draw(st.integers(1, 4), label="changes")):
        begin = data.draw(st.integers(0, len(changed)), label="begin")
        end = data.draw(st.integers(begin, min(len(changed), begin + 8)), label="end")
        changed[begin:end] = data.draw(st.binary(max_size=8), label="bytes")
    assert not silently_wrong(place, bytes(changed))


@given(st.binary(max_size=200))
def test_what_is_no_model_is_refused(place, data):
    place.write_bytes(data)
    with pytest.raises(ValueError, match="expected"):
        load(place)


# Files that are made to harm


def made(place, *, layer=None, tensors=None, header=None, data=None, digest=True, **metadata):
    """Write a file whose digest is right, whatever it says."""
    text = json.dumps(MODEL.layer.describe() if layer is None else layer, sort_keys=True)
    if isinstance(layer, str):
        text = layer
    if tensors is None:
        tensors = {name: ("F32", x.shape, x.tobytes()) for name, x in flatten(MODEL.params).items()}
    entries, place_in, parts = {}, 0, b""
    for name, (dtype, shape, content) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": list(shape),
                         "data_offsets": [place_in, place_in + len(content)]}  # fmt: skip
        place_in += len(content)
        parts += content
    about = {"ndereg_format": "1", "ndereg_model": text}
    if digest:
        about["ndereg_digest"] = _digest(text, tensors)
    entries["__metadata__"] = {**about, **metadata}
    head = json.dumps(entries).encode() if header is None else header
    place.write_bytes(struct.pack("<Q", len(head)) + head + (parts if data is None else data))
    return place


def test_the_files_below_would_be_fine(place):
    same(load(made(place)), MODEL)


def mlp(**changes):
    return {**MLP((2, 3, 2)).describe(), **changes}


def nested(depth):
    found = mlp()
    for _ in range(depth):
        found = {"type": "sequential", "layers": [found]}
    return found


HOSTILE = {
    "unknown type": {"type": "os.system"},
    "no type": {},
    "no object": [1, 2],
    "a string": "\"print\"",
    "an absurd width": mlp(widths=[2, 10**12, 2]),
    "a wide layer": mlp(widths=[2**20, 2**20]),
    "many layers": mlp(widths=[1] * 100_000),
    "negative": mlp(widths=[2, -3, 2]),
    "boolean": mlp(widths=[2, True, 2]),
    "an activation": mlp(activation="__import__"),
    "a path": mlp(activation="../../etc/passwd"),
    "an attribute": mlp(activation="__class__"),
    "an unknown key": mlp(callback="os.system"),
    "a method": {**MODEL.layer.describe(), "method": "../dopri5"},
    "a span": {**MODEL.layer.describe(), "t_span": [0.0, "1"]},
    "a huge number": mlp(widths=[2, 10**400, 2]),
    "deep layers": nested(100),
    "deep lists": "[" * 100_000 + "]" * 100_000,
    "nan": json.dumps({**MODEL.layer.describe(), "rtol": float("nan")}),
    "twice": '{"type": "mlp", "type": "mlp", "widths": [2, 2]}',
    "a program": {"type": "program", "parameters": [], "result": {"value": 2},
                  "calls": [{"call": "eval", "with": ["1"]}], "shapes_of_input": [None, None]},
    "another architecture": mlp(),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_descriptions_are_refused(place, name):
    with pytest.raises(ValueError, match="expected"):
        load(made(place, layer=HOSTILE[name]))


GOOD = {name: ("F32", x.shape, x.tobytes()) for name, x in flatten(MODEL.params).items()}
WEIGHTS = {
    "a shape bomb": {**GOOD, "head.bias": ("F32", (2**40,), b"\0" * 4)},
    "an overflowing shape": {**GOOD, "head.bias": ("F32", (2**32, 2**32), b"")},
    "another shape": {**GOOD, "head.bias": ("F32", (2,), b"\0" * 8)},
    "another dtype": {**GOOD, "head.bias": ("I64", (1,), b"\0" * 8)},
    "an unknown dtype": {**GOOD, "head.bias": ("OBJECT", (1,), b"\0" * 8)},
    "an absent array": {k: v for k, v in GOOD.items() if k != "head.bias"},
    "another array": {**GOOD, "../../x": ("F32", (1,), b"\0" * 4)},
    "a name in a name": {**GOOD, "head.bias.x": ("F32", (1,), b"\0" * 4)},
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_hostile_weights_are_refused(place, name):
    with pytest.raises(ValueError, match="expected"):
        load(made(place, tensors=WEIGHTS[name]))


def test_headers_are_checked_before_they_are_read(place):
    place.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(ValueError, match="truncated or something else"):
        load(place)
    with place.open("wb") as file:  # a sparse file: a header of 1 GB that nobody should read
        file.write(struct.pack("<Q", 2**30))
        file.truncate(2**30 + 8)
    with pytest.raises(ValueError, match="truncated or something else"):
        load(place)
    for header in (b"[1]", b"{}", b"null", b'{"a": 1}', b"{" * 50_000, b'{"__metadata__": []}',
                   b"\xff\xfe", b'{"a": NaN}'):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            load(made(place, header=header))


def test_gaps_and_overlaps_are_refused(place):
    with pytest.raises(ValueError, match="one after another"):
        load(made(place, data=b"".join(x for _, _, x in GOOD.values()) + b"more"))
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    about = {"ndereg_format": "1", "ndereg_model": "{}", "ndereg_digest": ""}
    header = json.dumps({"a": entry, "b": entry, "__metadata__": about}).encode()
    with pytest.raises(ValueError, match="one after another"):
        load(made(place, header=header, data=b"\0" * 8))


def test_other_versions_and_other_files_are_named(place):
    with pytest.raises(ValueError, match=r"format 1, received format '2'.*newer version"):
        load(made(place, ndereg_format="2"))
    with pytest.raises(ValueError, match="digest"):
        load(made(place, digest=False))
    place.write_bytes(safetensors.numpy.save({"a": np.ones(3)}))
    with pytest.raises(ValueError, match="no ndereg_format"):
        load(place)
    place.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="expected"):
        load(place)
    with pytest.raises(FileNotFoundError):
        load(place.with_name("absent"))
