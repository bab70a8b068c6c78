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
from typing import Any

import numpy as np

from ndereg.backends.extension import ExtendedField
from ndereg.field import is_known_by_value

_SMALL = 1 << 14
_VALUES = (int, str, bytes, bool, type(None), type(Ellipsis))
_LIBRARIES = ("numpy", "ndereg", "array_api_compat", "math", "cmath", "builtins", "functools")


class _Unknown(Exception):
    """Something whose changes cannot be seen."""


def fingerprint(field: Callable[..., Any]) -> Any:
    """A hashable value that changes whenever the field may compute something else, or None."""
    try:
        return _mark(field, 0)
    except _Unknown:
        return None


def _mark(value: Any, depth: int) -> Any:
    if depth > 6:
        raise _Unknown
    if isinstance(value, (float, complex, np.generic)):
        # zeros of either sign, and nan, are told apart by their bits
        return (type(value), np.asarray(value).tobytes())
    if isinstance(value, _VALUES):
        return (type(value), value)
    if isinstance(value, types.ModuleType) and value.__name__.split(".")[0] in _LIBRARIES:
        return id(value)
    if isinstance(value, (type, types.BuiltinFunctionType, np.ufunc)) and _of_library(value):
        return id(value)
    if isinstance(value, np.ndarray) and value.nbytes <= _SMALL and value.dtype.kind != "O":
        return (value.shape, str(value.dtype), value.tobytes())
    if isinstance(value, (tuple, list)):
        return (type(value), tuple(_mark(item, depth + 1) for item in value))
    if isinstance(value, dict):
        return tuple((_mark(k, depth + 1), _mark(v, depth + 1)) for k, v in value.items())
    if isinstance(value, functools.partial):
        return tuple(_mark(part, depth + 1) for part in (value.func, value.args, value.keywords))
    if isinstance(value, types.FunctionType):
        return _function(value, depth)
    if isinstance(value, ExtendedField):
        return (ExtendedField, value.integrands, _mark(value.field, depth + 1))
    if is_known_by_value(value) or (_is_record(value) and _of_library(value)):
        return (type(value), value)
    raise _Unknown


def _is_record(value: Any) -> bool:
    """Whether a value is a frozen dataclass: a function of its fields, like a portable layer."""
    return dataclasses.is_dataclass(value) and value.__dataclass_params__.frozen  # type: ignore[attr-defined]


def _of_library(value: Any) -> bool:
    """Whether a name belongs to a library that nobody changes while a program runs."""
    home = getattr(value, "__module__", None) or type(value).__module__
    return home.split(".")[0] in _LIBRARIES


def _function(function: types.FunctionType, depth: int) -> Any:
    if _of_library(function):
        return id(function)
    code = function.__code__
    marks = [
        code,
        _mark(function.__defaults__, depth + 1),
        _mark(function.__kwdefaults__, depth + 1),
        _mark(function.__dict__, depth + 1),
    ]
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:
            raise _Unknown from None
        marks.append(id(content) if content is function else _mark(content, depth + 1))
    for name in _global_names(code):
        if name in function.__globals__:
            content = function.__globals__[name]
            marks.append(id(content) if content is function else _mark(content, depth + 1))
    return tuple(marks)


def _global_names(code: types.CodeType) -> tuple[str, ...]:
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _global_names(constant)
    return tuple(names)
