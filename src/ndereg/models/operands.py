"""What the calls of a program are given: earlier values, parameters, and plain data."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ndereg.models.array_operations import check_size
from ndereg.models.validation import shown

_DEEPEST = 8
_CONSTANT_DTYPES = ("bool", "int64", "float32", "float64", "complex64", "complex128")


@dataclasses.dataclass(frozen=True, slots=True)
class Ref:
    """An earlier value: 0 is ``t``, 1 is ``y``, 2 is the result of the first call, and so on."""

    index: int


@dataclasses.dataclass(frozen=True, slots=True)
class Weight:
    """An array of the parameters, by its dotted name."""

    path: str


@dataclasses.dataclass(frozen=True, slots=True)
class Slice:
    """``start:stop:step`` in an index."""

    start: Any = None
    stop: Any = None
    step: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Constant:
    """A small array that is part of the program, such as constant indices."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: Any) -> Constant:
        """Take over an array; integers become int64."""
        value = np.asarray(array)
        dtype = "int64" if value.dtype.kind in "iu" else str(value.dtype)
        return cls(dtype, value.shape, np.ascontiguousarray(value, dtype).tobytes())

    def array(self) -> np.ndarray:
        """Return the array."""
        return np.frombuffer(self.data, np.dtype(self.dtype)).reshape(self.shape)


@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    """A dict of operands, for a state that is a dict."""

    entries: tuple[tuple[str, Any], ...]


Operand = Any
"""A Ref, Weight, Slice, Constant, Named, ``...``, None, number, string, or a tuple of operands."""


def operands_of(values: Sequence[Any]) -> tuple[Operand, ...]:
    """Return Python values as operands: lists become tuples, arrays constants."""
    return tuple(operand_of(value) for value in values)


def operand_of(value: Any) -> Operand:
    """Return a Python value as an operand.

    Raises
    ------
    ValueError
        If it is none.
    """
    if isinstance(value, (list, tuple)):
        return operands_of(value)
    if isinstance(value, slice):
        return Slice(*operands_of((value.start, value.stop, value.step)))
    if isinstance(value, dict):
        return Named(tuple((read_text(key), operand_of(item)) for key, item in value.items()))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return Constant.of(value)
    if isinstance(value, (Ref, Weight, Slice, Constant, Named)) or value is Ellipsis:
        return value
    if value is None or type(value) in (bool, int, float, complex, str):
        return value
    raise ValueError(f"expected an operand of a program, received {shown(value)}")


def reads(operand: Operand) -> list[int]:
    """Return the indices of the values that an operand refers to."""
    if isinstance(operand, Ref):
        return [operand.index]
    return [index for part in parts(operand) for index in reads(part)]


def parts(operand: Operand) -> tuple[Operand, ...]:
    """Return the operands within an operand."""
    if isinstance(operand, tuple):
        return operand
    if isinstance(operand, Slice):
        return (operand.start, operand.stop, operand.step)
    if isinstance(operand, Named):
        return tuple(value for _, value in operand.entries)
    return ()


def check(operand: Operand, paths: set[str], known: int, depth: int) -> None:
    """Refuse what refers to nothing."""
    if depth > _DEEPEST:
        raise ValueError(f"expected operands nested at most {_DEEPEST} deep in a program")
    if isinstance(operand, Ref):
        if type(operand.index) is not int or not 0 <= operand.index < known:
            raise ValueError(f"expected a value before call {known - 2}, received {operand.index}")
    elif isinstance(operand, Weight):
        if operand.path not in paths:
            raise ValueError(f"expected a parameter of the program, received {shown(operand.path)}")
    elif type(operand) is int:
        check_size(operand)
    for part in parts(operand):
        check(part, paths, known, depth + 1)


def shown_operand(operand: Operand) -> str:
    """Show an operand as one would write it."""
    if isinstance(operand, Ref):
        return ("t", "y")[operand.index] if operand.index < 2 else f"v{operand.index}"
    if isinstance(operand, Weight):
        return operand.path
    if isinstance(operand, Constant):
        return f"{operand.dtype}{list(operand.shape)}"
    if isinstance(operand, Slice):
        return ":".join("" if x is None else shown_operand(x) for x in parts(operand))
    if isinstance(operand, tuple):
        return f"[{', '.join(map(shown_operand, operand))}]"
    if isinstance(operand, Named):
        return (
            "{"
            + ", ".join(f"{key!r}: {shown_operand(value)}" for key, value in operand.entries)
            + "}"
        )
    return "..." if operand is Ellipsis else repr(operand)


def renumbered(operand: Operand, places: Mapping[int, int]) -> Operand:
    """Return the operand with its values found at other places."""
    if isinstance(operand, Ref):
        return Ref(places[operand.index])
    if isinstance(operand, tuple):
        return tuple(renumbered(part, places) for part in operand)
    if isinstance(operand, Slice):
        return Slice(*(renumbered(part, places) for part in parts(operand)))
    if isinstance(operand, Named):
        return Named(tuple((key, renumbered(part, places)) for key, part in operand.entries))
    return operand


# JSON


def encoded(operand: Operand) -> Any:
    """Return an operand as JSON-ready data."""
    match operand:
        case Ref():
            return {"value": operand.index}
        case Weight():
            return {"parameter": operand.path}
        case Slice():
            return {"slice": [encoded(part) for part in parts(operand)]}
        case Constant():
            text = base64.b64encode(operand.data).decode()
            return {"constant": [operand.dtype, list(operand.shape), text]}
        case Named():
            return {"named": [[key, encoded(value)] for key, value in operand.entries]}
        case tuple():
            return [encoded(part) for part in operand]
        case complex():
            return {"complex": [encoded(operand.real), encoded(operand.imag)]}
        case float() if not math.isfinite(operand):
            return {"float": repr(operand)}
        case _ if operand is Ellipsis:
            return {"ellipsis": True}
    if operand is None or type(operand) in (bool, int, float, str):
        return operand
    raise ValueError(f"expected an operand of a program, received {shown(operand)}")


def read_list(value: Any, length: int | None = None) -> list[Any]:
    """Return ``value`` if it is a list (of some length), else raise ValueError."""
    if not isinstance(value, list) or (length is not None and len(value) != length):
        raise ValueError(f"expected a list in the description of a program, got {shown(value)}")
    return value


def read_text(value: Any) -> str:
    """Return ``value`` if it is a name, else raise ValueError."""
    if not isinstance(value, str) or len(value) > 1000:
        raise ValueError(f"expected a name in the description of a program, got {shown(value)}")
    return value


def read_shape(value: Any) -> tuple[int, ...]:
    """Return ``value`` as a shape if it is one, else raise ValueError."""
    shape = tuple(read_list(value))
    if len(shape) > 32 or any(type(n) is not int or not 0 <= n < 2**40 for n in shape):
        raise ValueError(f"expected a shape in the description of a program, got {shown(value)}")
    return shape


def decoded(data: Any, depth: int) -> Operand:
    """Return what :func:`encoded` encoded; ValueError for everything else."""
    if depth > _DEEPEST:
        raise ValueError(f"expected operands nested at most {_DEEPEST} deep in a program")
    if isinstance(data, list):
        return tuple(decoded(item, depth + 1) for item in data)
    if not isinstance(data, dict):
        return data
    if len(data) != 1:
        raise ValueError(f"expected an operand of a program, received {shown(data)}")
    ((kind, value),) = data.items()
    match kind:
        case "value" if type(value) is int:
            return Ref(value)
        case "parameter" if isinstance(value, str):
            return Weight(value)
        case "slice":
            return Slice(*(decoded(part, depth + 1) for part in read_list(value, 3)))
        case "constant":
            return _read_constant(value)
        case "named":
            pairs = [read_list(pair, 2) for pair in read_list(value)]
            return Named(tuple((read_text(key), decoded(v, depth + 1)) for key, v in pairs))
        case "complex":
            real, imag = (decoded(part, depth + 1) for part in read_list(value, 2))
            if isinstance(real, float) and isinstance(imag, float):
                return complex(real, imag)
        case "float" if value in ("nan", "inf", "-inf"):
            return float(value)
        case "ellipsis" if value is True:
            return Ellipsis
    raise ValueError(f"expected an operand of a program, received {shown(data)}")


def _read_constant(value: Any) -> Constant:
    dtype, shape, text = read_list(value, 3)
    if dtype not in _CONSTANT_DTYPES or not isinstance(text, str):
        raise ValueError(f"expected a constant of a program, received dtype {shown(dtype)}")
    lengths = read_shape(shape)
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"expected a constant in base64: {error}") from None
    if len(data) != math.prod(lengths) * np.dtype(dtype).itemsize:
        raise ValueError(f"expected a constant of shape {lengths}, received {len(data)} bytes")
    return Constant(dtype, lengths, data)
