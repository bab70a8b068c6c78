"""Whether a Python field still computes what it did when it was traced.

Tracing a field takes longer than solving a small problem, so traces are kept. A trace is used again
only if the code and everything the code reads from closures, defaults and globals are unchanged;
where that cannot be told, the field is traced anew.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndereg.backends.extension import ExtendedField
from ndereg.backends.undriven import ExtendedDiffusion
from ndereg.field import Field, is_known_by_value
from ndereg.sde import ConvertedDrift

_SMALL = 1 << 14
_VALUES = (int, str, bytes, bool, type(None), type(Ellipsis))
_LIBRARIES = ("numpy", "ndereg", "array_api_compat", "math", "cmath", "builtins", "functools")


_MOST = 512
_ABSENT = object()


class _Unknown(Exception):
    """Something whose changes cannot be seen."""


class Mark:
    """A fingerprint: one object for all fields that compute the same, so that it hashes at once."""

    __slots__ = ()


@dataclass
class _Reads:
    """What a field reads, by where it reads it; ``fixed`` while all of that is immutable.

    Then a field whose names still mean the same objects still has the same fingerprint.
    """

    functions: list[tuple[types.FunctionType, Any, Any]] = dataclasses.field(default_factory=list)
    cells: list[tuple[types.CellType, Any]] = dataclasses.field(default_factory=list)
    names: list[tuple[dict[str, Any], str, Any]] = dataclasses.field(default_factory=list)
    fixed: bool = True

    def hold(self) -> bool:
        """Whether every name still means the same object."""
        for function, code, defaults in self.functions:
            if (
                function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__
                or function.__dict__
            ):
                return False
        for cell, content in self.cells:
            try:
                if cell.cell_contents is not content:
                    return False
            except ValueError:  # deleted meanwhile
                return False
        for namespace, name, content in self.names:
            if namespace.get(name, _ABSENT) is not content:
                return False
        return True


_MARKS: dict[Any, Mark] = {}
_KEPT: dict[int, tuple[Callable[..., Any], _Reads, Mark]] = {}


def fingerprint(field: Callable[..., Any]) -> Mark | None:
    """Return what changes whenever the field may compute something else; None if that is unseen."""
    kept = _KEPT.get(id(field))
    if kept is not None and kept[0] is field and kept[1].hold():
        return kept[2]
    reads = _Reads()
    try:
        value = _mark(field, 0, reads)
    except _Unknown:
        return None
    mark = _kept(_MARKS, value, _MARKS.get(value) or Mark())
    if reads.fixed:
        _kept(_KEPT, id(field), (field, reads, mark))
    return mark


def _kept(kept: dict[Any, Any], key: Any, value: Any) -> Any:
    if key not in kept and len(kept) >= _MOST:
        kept.pop(next(iter(kept)), None)
    kept[key] = value
    return value


def _mark(value: Any, depth: int, reads: _Reads) -> Any:
    if depth > 6:
        raise _Unknown
    if isinstance(value, (float, complex, np.generic)):
        reads.fixed &= not isinstance(value, np.void)
        # zeros of either sign, and nan, are told apart by their bits
        return (type(value), np.asarray(value).tobytes())
    if isinstance(value, _VALUES):
        return (type(value), value)
    if isinstance(value, types.ModuleType) and value.__name__.split(".")[0] in _LIBRARIES:
        return id(value)
    if isinstance(value, (type, types.BuiltinFunctionType, np.ufunc)) and _of_library(value):
        return id(value)
    if isinstance(value, tuple):
        return (type(value), tuple(_mark(item, depth + 1, reads) for item in value))
    if isinstance(value, types.FunctionType):
        return _function(value, depth, reads)
    if isinstance(value, ExtendedField):
        return (
            ExtendedField, value.integrands, value.density, _mark(value.field, depth + 1, reads)
        )  # fmt: skip
    if isinstance(value, ExtendedDiffusion):
        return (ExtendedDiffusion, value.channels, _mark(value.diffusion, depth + 1, reads))
    if isinstance(value, ConvertedDrift):
        parts = (value.drift, value.diffusion, value.noise, value.calculus)
        return (ConvertedDrift, *(_mark(part, depth + 1, reads) for part in parts))
    if isinstance(value, Field):
        parts = (value.function, value.vjp, value.in_place)
        return (Field, *(_mark(part, depth + 1, reads) for part in parts))
    if is_known_by_value(value) or (_is_record(value) and _of_library(value)):
        return (type(value), value)
    reads.fixed = False
    if isinstance(value, np.ndarray) and value.nbytes <= _SMALL and value.dtype.kind != "O":
        return (value.shape, str(value.dtype), value.tobytes())
    if isinstance(value, list):
        return (type(value), tuple(_mark(item, depth + 1, reads) for item in value))
    if isinstance(value, dict):
        return tuple(
            (_mark(k, depth + 1, reads), _mark(v, depth + 1, reads)) for k, v in value.items()
        )
    if isinstance(value, functools.partial):
        parts = (value.func, value.args, value.keywords)
        return tuple(_mark(part, depth + 1, reads) for part in parts)
    raise _Unknown


def _is_record(value: Any) -> bool:
    """Whether a value is a frozen dataclass: a function of its fields, like a portable layer."""
    return dataclasses.is_dataclass(value) and value.__dataclass_params__.frozen  # type: ignore[attr-defined]


def _of_library(value: Any) -> bool:
    """Whether a name belongs to a library that nobody changes while a program runs."""
    home = getattr(value, "__module__", None) or type(value).__module__
    return home.split(".")[0] in _LIBRARIES


def _function(function: types.FunctionType, depth: int, reads: _Reads) -> Any:
    if _of_library(function):
        return id(function)
    code = function.__code__
    reads.functions.append((function, code, function.__defaults__))
    reads.fixed &= not function.__kwdefaults__ and not function.__dict__
    marks = [
        code,
        _mark(function.__defaults__, depth + 1, reads),
        _mark(function.__kwdefaults__, depth + 1, reads),
        _mark(function.__dict__, depth + 1, reads) if function.__dict__ else (),
    ]
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:
            raise _Unknown from None
        reads.cells.append((cell, content))
        marks.append(id(content) if content is function else _mark(content, depth + 1, reads))
    for name in _global_names(code):
        content = function.__globals__.get(name, _ABSENT)
        reads.names.append((function.__globals__, name, content))
        if content is not _ABSENT:
            marks.append(id(content) if content is function else _mark(content, depth + 1, reads))
    return tuple(marks)


@functools.lru_cache(maxsize=1024)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _global_names(constant)
    return tuple(names)
