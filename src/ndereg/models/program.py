"""A function that was imported: a straight-line list of calls of named operations.

What is written by a user, in PyTorch or JAX, becomes a program when it is imported
(:mod:`ndereg.models.importing`). A program is data: it is saved, read back and run on every
framework, and it can do nothing but what the operations in its closed list do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

from array_api_compat import is_torch_array

from ndereg import ops
from ndereg.models.array_operations import check_size
from ndereg.models.layer import Initial, Layer, from_description
from ndereg.models.operands import (
    Constant,
    Named,
    Operand,
    Ref,
    Slice,
    Weight,
    check,
    decoded,
    encoded,
    read_list,
    read_shape,
    read_text,
    reads,
    shown_operand,
)
from ndereg.models.operations import OPERATIONS
from ndereg.models.parameters import Parameters
from ndereg.models.validation import shown

MOST_CALLS = 100_000
"""Most calls in a program."""

Kind = Literal["parameter", "frozen", "buffer"]


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One call.

    Parameters
    ----------
    operation : str or Layer
        A name in :data:`ndereg.models.operations.OPERATIONS`, or a layer, called as
        ``layer(*operands, params)`` with the parameters in group ``group``.
    operands : tuple of Operand
    named : tuple of (str, Operand)
        Keyword arguments.
    group : str
        Dotted name of the group of a layer's parameters.
    """

    operation: str | Layer
    operands: tuple[Operand, ...] = ()
    named: tuple[tuple[str, Operand], ...] = ()
    group: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Declared:
    """A parameter of a program: its name, its shape, and what it is.

    ``"parameter"`` is trained, ``"frozen"`` and ``"buffer"`` are not. All of them are leaves of
    ``params`` and have a gradient there; PyTorch gets them as what they were.
    """

    path: str
    shape: tuple[int, ...]
    kind: Kind = "parameter"


@dataclasses.dataclass(frozen=True, eq=False)
class Program(Layer):
    """Straight-line calls of named operations, the same on every framework.

    Parameters
    ----------
    parameters : tuple of Declared
    calls : tuple of Call
    result : Operand
        What the program returns.
    shapes_of_input : tuple of (shape or None), optional
        Shapes of ``t`` and ``y`` that the program is for; None takes any, as programs from
        PyTorch do, which ask for shapes when they run.

    Examples
    --------
    >>> import numpy as np
    >>> calls = (Call("multiply", (Weight("scale"), Ref(1))),)
    >>> double = Program((Declared("scale", ()),), calls, Ref(2))
    >>> double(0.0, np.ones(2), {"scale": np.array(2.0)})
    array([2., 2.])
    """

    parameters: tuple[Declared, ...]
    calls: tuple[Call, ...]
    result: Operand
    shapes_of_input: tuple[tuple[int, ...] | None, tuple[int, ...] | None] = (None, None)

    type: ClassVar[str] = "program"

    def __post_init__(self) -> None:
        if len(self.calls) > MOST_CALLS:
            raise ValueError(f"expected at most {MOST_CALLS} calls, received {len(self.calls)}")
        paths = {declared.path for declared in self.parameters}
        if len(paths) != len(self.parameters):
            raise ValueError("expected every parameter of a program once, received one twice")
        for index, call in enumerate(self.calls):
            if not isinstance(call.operation, Layer) and call.operation not in OPERATIONS:
                raise ValueError(
                    f"expected an operation of this version of ndereg, received "
                    f"{shown(call.operation)}; try a newer version if the program comes from one"
                )
            operands = (*call.operands, *(value for _, value in call.named))
            check(operands, paths, index + 2, 0)
        check(self.result, paths, len(self.calls) + 2, 0)
        self.initial()  # raises where a name is an array and a group

    # What it is

    def initial(self) -> dict[str, Any]:
        """Return how the parameters start, where a program is trained from the beginning.

        Matrices and kernels as PyTorch's: uniform by the product of all axes but the first;
        vectors named ``weight`` or ``scale`` are ones, others zeros.
        """
        tree: dict[str, Any] = {}
        for declared in self.parameters:
            name = declared.path.rpartition(".")[2]
            fan_in = math.prod(declared.shape[1:]) if len(declared.shape) > 1 else None
            value = 1.0 if name in ("weight", "scale") else 0.0
            _put(tree, declared.path, Initial(declared.shape, fan_in or None, value))
        for call in self.calls:
            if isinstance(call.operation, Layer) and (inner := call.operation.initial()):
                _put(tree, call.group, inner)
        return tree

    def describe(self) -> dict[str, Any]:
        """Return the description as JSON-ready data."""
        return {
            "type": self.type,
            "parameters": [[d.path, list(d.shape), d.kind] for d in self.parameters],
            "calls": [_described(call) for call in self.calls],
            "result": encoded(self.result),
            "shapes_of_input": [s if s is None else list(s) for s in self.shapes_of_input],
        }

    @classmethod
    def read(cls, data: Mapping[str, Any], depth: int = 0) -> Self:
        """Build a program from its description.

        Raises
        ------
        ValueError
            For operations that are not in the list, and everything else that is no program.
        """
        expected = {"parameters", "calls", "result", "shapes_of_input"}
        if data.keys() != expected:
            raise ValueError(
                f"expected {', '.join(sorted(expected))} in the description of a program, "
                f"received {shown(sorted(map(str, data)))}"
            )
        return cls(
            tuple(_read_declared(entry) for entry in read_list(data["parameters"])),
            tuple(_read_call(entry, depth) for entry in read_list(data["calls"])),
            decoded(data["result"], 0),
            _read_shapes(data["shapes_of_input"]),
        )

    @cached_property
    def _digest(self) -> str:
        # Of the text, in which 1, 1.0 and true are different things, unlike in Python.
        text = json.dumps(self.describe(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"Program({len(self.parameters)} parameters, {len(self.calls)} calls)"

    def __str__(self) -> str:
        """Show one call a line."""
        lines = [f"{d.path}: {d.kind} {d.shape}" for d in self.parameters]
        for index, call in enumerate(self.calls):
            operation = call.operation
            name = operation if isinstance(operation, str) else operation.describe()["type"]
            operands = [shown_operand(value) for value in call.operands]
            operands += [f"{key}={shown_operand(value)}" for key, value in call.named]
            lines.append(f"v{index + 2} = {name}({', '.join(operands)})")
        return "\n".join([*lines, f"return {shown_operand(self.result)}"])

    # Running it

    @cached_property
    def _dead(self) -> tuple[tuple[int, ...], ...]:
        """Values that nothing reads after each call."""
        last: dict[int, int] = {}
        for index, call in enumerate(self.calls):
            operands = (*call.operands, *(value for _, value in call.named))
            last |= dict.fromkeys(reads(operands), index)
        kept = set(reads(self.result)) | {0, 1}
        dead: list[list[int]] = [[] for _ in self.calls]
        for value, index in last.items():
            if value not in kept:
                dead[index].append(value)
        return tuple(map(tuple, dead))

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Evaluate at time ``t`` on ``y``.

        Raises
        ------
        ValueError
            If the shapes are others than the program is for, or an array becomes too large.
        """
        reference = _first_array(y)
        if isinstance(t, (int, float)):
            t = ops.zeros_like(ops.reshape(ops.real(reference) if _complex(reference)
                                           else reference, (-1,))[:1]).reshape(()) + t  # fmt: skip
        self._check_shapes(t, y)
        weights = {d.path: _at(params, d.path) for d in self.parameters}
        values: list[Any] = [t, y]
        frame = _Frame(values, weights, reference)
        for call, dead in zip(self.calls, self._dead, strict=True):
            operands = [frame.resolve(operand) for operand in call.operands]
            named = {key: frame.resolve(operand) for key, operand in call.named}
            if isinstance(call.operation, str):
                value = OPERATIONS[call.operation](*operands, **named)
            else:
                group = _at(params, call.group) if call.operation.initial() else {}
                value = call.operation(*operands, group, **named)
            check_size(value)
            values.append(value)
            for index in dead:
                values[index] = None
        return frame.resolve(self.result)

    def _check_shapes(self, t: Any, y: Any) -> None:
        for name, value, shape in zip("ty", (t, y), self.shapes_of_input, strict=True):
            if shape is not None and tuple(value.shape) != shape:
                raise ValueError(
                    f"expected {name} of shape {shape}, for which this program was traced, "
                    f"received {tuple(value.shape)}; try port(model, to=..., example=(t, y)) with "
                    "arrays of the shape that is needed"
                )


@dataclasses.dataclass(slots=True)
class _Frame:
    """The values of one run."""

    values: list[Any]
    weights: dict[str, Any]
    reference: Any

    def resolve(self, operand: Operand) -> Any:
        kind = type(operand)
        if kind is Ref:
            return self.values[operand.index]
        if kind is Weight:
            return self.weights[operand.path]
        if kind is tuple:
            return tuple(self.resolve(item) for item in operand)
        if kind is Slice:
            return slice(*(self.resolve(x) for x in (operand.start, operand.stop, operand.step)))
        if kind is Constant:
            array = operand.array()
            if is_torch_array(self.reference):
                import torch

                return torch.tensor(array, device=self.reference.device)
            return array
        if kind is Named:
            return {key: self.resolve(value) for key, value in operand.entries}
        return operand


def _first_array(tree: Any) -> Any:
    while isinstance(tree, (dict, tuple, list)):
        tree = next(iter(tree.values() if isinstance(tree, dict) else tree))
    return tree


def _complex(array: Any) -> bool:
    return "complex" in str(array.dtype)


def _at(params: Parameters, path: str) -> Any:
    found: Any = params
    for name in path.split("."):
        found = found[name]
    return found


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *groups, name = path.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
        if not isinstance(tree, dict):
            raise ValueError(f"expected {path!r} in a group, received {group!r} that is an array")
    if name in tree and (tree[name] != value or isinstance(value, Initial)):
        raise ValueError(f"expected {path!r} once, received it as an array and as a group")
    tree[name] = value


# JSON


def _read_shapes(value: Any) -> Any:
    return tuple(None if shape is None else read_shape(shape) for shape in read_list(value, 2))


def _read_declared(entry: Any) -> Declared:
    path, shape, kind = read_list(entry, 3)
    if not all(read_text(path).split(".")):
        raise ValueError(f"expected a dotted name of a parameter, received {shown(path)}")
    if kind not in ("parameter", "frozen", "buffer"):
        raise ValueError(f"expected 'parameter', 'frozen' or 'buffer', received {shown(kind)}")
    return Declared(path, read_shape(shape), kind)


def _described(call: Call) -> dict[str, Any]:
    found: dict[str, Any] = {"with": [encoded(operand) for operand in call.operands]}
    if isinstance(call.operation, Layer):
        found |= {"layer": call.operation.describe(), "group": call.group}
    else:
        found |= {"call": call.operation}
    if call.named:
        found["named"] = {key: encoded(operand) for key, operand in call.named}
    return found


def _read_call(entry: Any, depth: int) -> Call:
    if not isinstance(entry, dict) or entry.keys() - {"with", "call", "layer", "group", "named"}:
        raise ValueError(f"expected a call in the description of a program, got {shown(entry)}")
    named = entry.get("named", {})
    if not isinstance(named, dict):
        raise ValueError(f"expected named operands in a dict, received {shown(named)}")
    operands = tuple(decoded(operand, 0) for operand in read_list(entry.get("with")))
    named = tuple((read_text(key), decoded(value, 0)) for key, value in named.items())
    if "layer" in entry:
        group = read_text(entry.get("group"))
        if not all(group.split(".")) or "call" in entry:
            raise ValueError(f"expected the name of a group, received {shown(group)}")
        layer = from_description(entry["layer"], depth=depth + 1)
        return Call(layer, operands, named, group)
    return Call(read_text(entry.get("call")), operands, named)
