"""Programs under construction."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndereg.models.layer import Layer
from ndereg.models.model import Model
from ndereg.models.operands import (
    Operand,
    Ref,
    Weight,
    operand_of,
    operands_of,
    reads,
    renumbered,
)
from ndereg.models.parameters import unflatten
from ndereg.models.program import Call, Declared, Kind, Program

TIME, STATE = Ref(0), Ref(1)
DTYPES = ("float32", "float64", "complex64", "complex128")


class PortError(ValueError):
    """A module that cannot be ported; names the submodule and the operation.

    Parameters
    ----------
    path : str
        Of the submodule in the model; empty for the model itself.
    operation : str
        What cannot be ported.
    reason : str
    advice : str
    """

    def __init__(self, path: str, operation: str, reason: str, advice: str) -> None:
        where = f" in submodule {path!r}" if path else ""
        super().__init__(f"cannot port {operation}{where}: {reason}; try {advice}")
        self.path = path
        self.operation = operation


class Builder:
    """Collects the calls and the parameters of a program."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._declared: list[Declared] = []
        self._arrays: dict[str, np.ndarray] = {}

    def call(self, operation: str, *operands: Any, **named: Any) -> Ref:
        """Add a call of a named operation and return its result."""
        keywords = tuple((name, operand_of(value)) for name, value in named.items())
        return self._add(Call(operation, operands_of(operands), keywords))

    def _add(self, call: Call) -> Ref:
        self._calls.append(call)
        return Ref(len(self._calls) + 1)

    def layer(self, layer: Layer, path: str, arrays: dict[str, Any], t: Any, y: Any) -> Ref:
        """Add a call of a layer, whose parameters are the group ``path``."""
        for name, array in arrays.items():
            self._arrays[f"{path}.{name}"] = _owned(array, path)
        return self._add(Call(layer, (operand_of(t), operand_of(y)), (), path))

    def weight(self, path: str, array: Any, kind: Kind = "parameter") -> Weight:
        """Declare a parameter and return it.

        Raises
        ------
        PortError
            If its dtype has no place in a program.
        """
        if path not in self._arrays:
            self._arrays[path] = _owned(array, path)
            self._declared.append(Declared(path, tuple(self._arrays[path].shape), kind))
        return Weight(path)

    def declared(self, path: str) -> bool:
        """Whether there is a parameter of this name already."""
        return path in self._arrays

    def model(self, result: Operand, shapes: Any = (None, None)) -> Model:
        """Return the program with its parameters, as NumPy arrays."""
        calls, result = _without_unused(self._calls, operand_of(result))
        program = Program(tuple(self._declared), calls, result, shapes)
        return Model(program, unflatten(self._arrays))


def _owned(array: Any, path: str) -> np.ndarray:
    value = np.array(array)
    if str(value.dtype) not in DTYPES:
        raise PortError(
            path.rpartition(".")[0],
            f"{path!r} of dtype {value.dtype}",
            f"expected one of {', '.join(DTYPES)}",
            "model.float(), or float32 parameters",
        )
    return value


def _without_unused(calls: list[Call], result: Operand) -> tuple[tuple[Call, ...], Operand]:
    """Drop calls whose results nothing reads; all are pure."""
    needed = set(reads(result))
    for index in range(len(calls) - 1, -1, -1):
        if index + 2 in needed:
            needed |= set(reads((calls[index].operands, *(v for _, v in calls[index].named))))
    places = {0: 0, 1: 1}
    kept = []
    for index, call in enumerate(calls):
        if index + 2 in needed:
            places[index + 2] = len(kept) + 2
            named = tuple((key, renumbered(value, places)) for key, value in call.named)
            operands = tuple(renumbered(value, places) for value in call.operands)
            kept.append(Call(call.operation, operands, named, call.group))
    return tuple(kept), renumbered(result, places)
