"""One file a model: weights as safetensors, the description as JSON in their header.

A file is data. Reading one executes nothing, allocates nothing larger than the file, and checks it
against a digest of everything it says, so that a model is the one that was saved or an error.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from ndereg.models.atomic import write_bytes
from ndereg.models.layer import from_description
from ndereg.models.model import Model
from ndereg.models.parameters import flatten, unflatten
from ndereg.models.port import as_model
from ndereg.models.validation import shown

FORMAT = 1
"""Version of what :func:`save` writes."""

MOST_HEADER = 1 << 25
"""Most bytes of a header; the descriptions of large models have some kilobytes."""

_DTYPES = {"F32": "<f4", "F64": "<f8", "C64": "<c8"}
_NAMES = {"float32": "F32", "float64": "F64", "complex64": "C64"}


def save(model: Any, path: str | os.PathLike[str], *, example: Any = None) -> None:
    """Save a model with its weights to one file, replacing it in one step.

    Parameters
    ----------
    model : Model, NeuralODE of any framework, torch.nn.Module, or a module of equinox or flax.nnx
        What :func:`~ndereg.models.port.port` takes.
    path : path
        By convention ``*.safetensors``. The file can also be read with ``safetensors`` alone.
    example : y, or (t, y), optional
        For modules that need one, see :func:`~ndereg.models.port.port`.

    Raises
    ------
    ValueError
        If the model cannot be described, or its weights are not float32, float64 or complex64.

    Examples
    --------
    >>> import tempfile, os
    >>> from ndereg.models import MLP, Model
    >>> model = Model.init(MLP((2, 8, 2)), seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, os.path.join(folder, "m.safetensors"))
    ...     again = load(os.path.join(folder, "m.safetensors"))
    >>> again.layer == model.layer
    True
    """
    portable = as_model(model, example)
    text = json.dumps(portable.layer.describe(), sort_keys=True, allow_nan=False)
    if from_description(json.loads(text)) != portable.layer:
        raise ValueError(
            f"expected a layer that its description gives back, received {portable.layer!r}; try "
            "a layer of ndereg.models"
        )
    arrays = flatten(portable.params)
    for name, array in arrays.items():
        if str(array.dtype) not in _NAMES:
            raise ValueError(
                f"expected weights of dtype {', '.join(_NAMES)}, received {name!r} of dtype "
                f"{array.dtype}; try another dtype"
            )
    little = {
        name: np.ascontiguousarray(x, x.dtype.newbyteorder("<")) for name, x in arrays.items()
    }
    # ascontiguousarray gives a scalar an axis
    little = {name: x.reshape(arrays[name].shape) for name, x in little.items()}
    described = {name: (_NAMES[str(x.dtype)], x.shape, x.tobytes()) for name, x in little.items()}
    metadata = {
        "ndereg_format": str(FORMAT),
        "ndereg_model": text,
        "ndereg_digest": _digest(text, described),
    }
    write_bytes(Path(path), safetensors.numpy.save(little, metadata))


def load(path: str | os.PathLike[str]) -> Model:
    """Load what :func:`save` saved, as a :class:`~ndereg.models.model.Model` of NumPy arrays.

    Parameters
    ----------
    path : path

    Returns
    -------
    Model
        Of NumPy arrays; :func:`~ndereg.models.port.port` takes it to another framework.

    Raises
    ------
    ValueError
        If the file is damaged, foreign, of a newer format, or says something that no model can be.
    OSError
        If it cannot be read.
    """
    path = Path(path)
    header, data = _read(path)
    text, tensors = _checked(path, header, data)
    try:
        layer = from_description(_parsed(path, text))
        wanted = flatten(layer.shapes())
    except (
        ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError,
    ) as error:  # fmt: skip
        raise ValueError(
            f"expected the description of a model in {path}, received one that means nothing "
            f"({type(error).__name__}: {shown(str(error))}); try saving the model again"
        ) from error
    received = {name: shape for name, (_, shape, _) in tensors.items()}
    if received != {name: tuple(shape) for name, shape in wanted.items()}:
        raise ValueError(
            f"expected the weights of the {layer.type!r} that {path} describes, received others "
            f"({_difference(wanted, received)}); try saving the model again"
        )
    arrays = {
        name: np.frombuffer(part, _DTYPES[dtype]).reshape(shape).astype(_DTYPES[dtype][1:])
        for name, (dtype, shape, part) in tensors.items()
    }
    return Model(layer, unflatten(arrays))


Tensors = dict[str, tuple[str, tuple[int, ...], bytes | memoryview]]


def _digest(text: str, tensors: Mapping[str, tuple[str, tuple[int, ...], Any]]) -> str:
    """Return a digest of everything that makes the model."""
    found = hashlib.sha256(f"ndereg {FORMAT}\n{len(text)}\n{text}".encode())
    for name in sorted(tensors):
        dtype, shape, data = tensors[name]
        found.update(json.dumps([name, dtype, list(shape), len(data)]).encode())
        found.update(data)
    return found.hexdigest()


def _read(path: Path) -> tuple[bytes, bytes]:
    """Return the header and the data, neither longer than the file."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= min(size - 8, MOST_HEADER):
            raise ValueError(
                f"expected a safetensors file, received {path}, whose header should have {length} "
                f"bytes in a file of {size}; it is truncated or something else"
            )
        header, data = file.read(length), file.read()
    if 8 + len(header) + len(data) != size:
        raise ValueError(f"expected {path} not to change while it is read; try again")
    return header, data


def _parsed(path: Path, text: str | bytes) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name that occurs twice")
        return found

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant}, which is no JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"expected JSON in the header of {path}, received {type(error).__name__}: "
            f"{shown(str(error))}; it is damaged or something else"
        ) from None


def _checked(path: Path, header: bytes, data: bytes) -> tuple[str, Tensors]:
    """Return the description and the tensors, which are what was saved."""
    entries = _parsed(path, header)
    metadata = entries.pop("__metadata__", None) if isinstance(entries, dict) else None
    if not isinstance(metadata, dict) or "ndereg_format" not in metadata:
        raise ValueError(
            f"expected a model that ndereg.save wrote, received {path}, which has no ndereg_format "
            "in its header; try safetensors.numpy.load_file for the arrays in it"
        )
    version = metadata["ndereg_format"]
    if version != str(FORMAT):
        raise ValueError(
            f"expected a model of format {FORMAT}, received format {shown(version)} in {path}; try "
            "a newer version of ndereg"
        )
    text = metadata.get("ndereg_model")
    if not isinstance(text, str):
        raise ValueError(f"expected a description in {path}, received none; it is damaged")
    tensors = _tensors(path, entries, data)
    if metadata.get("ndereg_digest") != _digest(text, tensors):
        raise ValueError(
            f"expected {path} as it was saved, received something that differs from its digest: "
            "it is damaged; try another copy"
        )
    return text, tensors


def _tensors(path: Path, entries: Mapping[str, Any], data: bytes) -> Tensors:
    """Return the tensors of a header, after checking that they fill the data exactly."""
    tensors: Tensors = {}
    places = []
    whole = memoryview(data)
    for name, entry in entries.items():
        dtype, shape, offsets = _entry(path, name, entry)
        begin, end = offsets
        count = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
        if not 0 <= begin <= end <= len(data) or end - begin != count:
            raise ValueError(
                f"expected {count} bytes for {shown(name)} in {path}, received {begin} to {end} of "
                f"{len(data)}; it is truncated or damaged"
            )
        places.append((begin, end))
        tensors[name] = (dtype, shape, whole[begin:end])
    reached = 0
    for begin, end in sorted(places):
        if begin != reached:
            break
        reached = end
    if reached != len(data):
        raise ValueError(
            f"expected the weights in {path} one after another to its end, received "
            f"{len(data)} bytes with gaps; it is damaged"
        )
    return tensors


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    if isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}:
        dtype, shape, offsets = (entry[key] for key in ("dtype", "shape", "data_offsets"))
        whole = [shape, offsets]
        if (
            all(isinstance(part, list) and len(part) <= 32 for part in whole)
            and all(type(n) is int and 0 <= n < 2**48 for part in whole for n in part)
            and len(offsets) == 2
            and isinstance(dtype, str)
        ):
            if dtype not in _DTYPES:
                raise ValueError(
                    f"expected weights of dtype {', '.join(_DTYPES)}, received {shown(name)} of "
                    f"dtype {shown(dtype)} in {path}; it is not a model that ndereg.save wrote"
                )
            return dtype, tuple(shape), (offsets[0], offsets[1])
    raise ValueError(
        f"expected dtype, shape and data_offsets of {shown(name)} in {path}, received "
        f"{shown(entry)}; it is damaged"
    )


def _difference(wanted: Mapping[str, Any], received: Mapping[str, Any]) -> str:
    absent = sorted(wanted.keys() - received.keys())
    unknown = sorted(received.keys() - wanted.keys())
    if absent or unknown:
        return f"absent: {shown(absent)}, unknown: {shown(unknown)}"
    name = next(name for name in wanted if tuple(wanted[name]) != received[name])
    return f"{name!r} has shape {received[name]}, not {tuple(wanted[name])}"
