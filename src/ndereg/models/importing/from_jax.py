"""Modules of equinox and flax.nnx, and other pytrees that are called, as programs.

What is made of known layers only is imported by its structure, and takes any batch. Everything else
is traced to a jaxpr, for the shapes of an example or of the first call.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ndereg.models.importing.builder import STATE, TIME, Builder, PortError
from ndereg.models.importing.jax_layers import Unknown, convert_known
from ndereg.models.importing.jaxpr import Interpreter
from ndereg.models.layer import Initial, Layer
from ndereg.models.model import Model
from ndereg.models.parameters import Parameters, flatten, unflatten
from ndereg.precision import x64

Evaluate = Callable[[Mapping[str, Any], Any, Any], Any]


@dataclass(frozen=True, eq=False)
class Source:
    """A module taken apart: its arrays by dotted name, and the function of them that it is.

    Attributes
    ----------
    name : str
    arrays : dict
    buffers : frozenset of str
        Those that are not trained.
    evaluate : callable
        ``evaluate(arrays, t, y)``.
    """

    name: str
    arrays: dict[str, Any]
    buffers: frozenset[str]
    evaluate: Evaluate


def import_callable(module: Any, example: tuple[Any, Any] | None) -> Model:
    """Return a module as a program with its parameters, as NumPy arrays.

    Parameters
    ----------
    module : equinox.Module, flax.nnx.Module, or another pytree with arrays that can be called
    example : (t, y) or None

    Raises
    ------
    PortError
        Naming the operation that cannot be ported.
    """
    source = _source(module)
    try:
        builder = Builder()
        model = builder.model(convert_known(builder, module, STATE))
    except Unknown:
        traced = Traced(source)
        if example is None:
            return Model(traced, unflatten({k: np.array(v) for k, v in source.arrays.items()}))
        model = traced.model(*map(_example_array, example))
    if example is not None:
        _verify(source, model, *map(_example_array, example))
    return model


@dataclass(frozen=True, eq=False)
class Traced(Layer):
    """A module that is traced when it is called, once for the shapes of each call.

    It cannot be saved: a file holds the program of an ``example``.
    """

    source: Source

    type: ClassVar[str] = "traced"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_programs", {})

    def initial(self) -> dict[str, Any]:
        """Return the shapes of the parameters."""
        return unflatten({k: Initial(tuple(v.shape)) for k, v in self.source.arrays.items()})

    def describe(self) -> dict[str, Any]:
        """Refuse: there is nothing to describe before there is an example."""
        raise PortError(
            "", self.source.name, "it is traced for the shapes that it is called with, and none "
            "are known yet", "port(model, to=..., example=(t, y)), which traces it now",
        )  # fmt: skip

    def model(self, t: Any, y: Any) -> Model:
        """Return the program for arrays like ``t`` and ``y``, with the module's parameters."""
        return _program(self.source, _struct(t, y), _struct(y, y))

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Evaluate at time ``t`` on ``y``, tracing for their shapes if they are new."""
        structs = _struct(t, y), _struct(y, y)
        key = tuple((s.shape, str(s.dtype)) for s in structs)
        programs = self._programs  # type: ignore[attr-defined]
        if key not in programs:
            made = _program(self.source, *structs)
            programs[key] = (made.layer, _buffers(made))
        program, buffers = programs[key]
        return program(t, y, unflatten({**buffers, **flatten(params)}) if buffers else params)


def _buffers(model: Model) -> dict[str, Any]:
    """Constants of a trace, which are not among the module's parameters."""
    return {k: v for k, v in flatten(model.params).items() if k.startswith("constants.")}


def _struct(x: Any, y: Any) -> jax.ShapeDtypeStruct:
    if not hasattr(y, "dtype"):
        raise PortError("", f"a state that is a {type(y).__name__}", "a traced module takes one "
                        "array", "a field of one array")  # fmt: skip
    dtype = getattr(x, "dtype", None)
    name = str(y.dtype if dtype is None else dtype).removeprefix("torch.")
    if dtype is None:
        name = {"complex64": "float32", "complex128": "float64"}.get(name, name)
    return jax.ShapeDtypeStruct(tuple(getattr(x, "shape", ())), np.dtype(name))


def _example_array(x: Any) -> np.ndarray:
    if hasattr(x, "detach"):
        x = x.detach().cpu().numpy()
    return np.asarray(x)


def _program(source: Source, t: jax.ShapeDtypeStruct, y: jax.ShapeDtypeStruct) -> Model:
    real = np.zeros(0, y.dtype).real.dtype
    t = jax.ShapeDtypeStruct(t.shape, real)
    wide = y.dtype.itemsize > (8 if y.dtype.kind == "c" else 4)
    with x64(wide or jax.config.jax_enable_x64):
        structs = {name: jax.ShapeDtypeStruct(np.shape(x), x.dtype)
                   for name, x in source.arrays.items()}  # fmt: skip
        order = sorted(structs)

        def evaluate(arrays: list[Any], t: Any, y: Any) -> Any:
            return source.evaluate(dict(zip(order, arrays, strict=True)), t, y)

        try:
            closed = jax.make_jaxpr(evaluate)([structs[name] for name in order], t, y)
        except Exception as error:
            raise PortError(
                "", source.name, f"JAX cannot trace it for y of shape {y.shape} ({error})",
                "an example of the shape that it takes",
            ) from error  # fmt: skip
        builder = Builder()
        weights = [
            builder.weight(name, source.arrays[name],
                           "buffer" if name in source.buffers else "parameter")
            for name in order
        ]  # fmt: skip
        interpreter = Interpreter(builder)
        results = interpreter.run(closed, [*weights, TIME, STATE])
    if len(results) != 1:
        raise PortError("", source.name, f"it returns {len(results)} arrays", "one array")
    result = interpreter.operand(results[0])
    time_matters = None if t.shape == () else t.shape
    return builder.model(result, (time_matters, y.shape))


def _verify(source: Source, model: Model, t: np.ndarray, y: np.ndarray) -> None:
    wide = str(y.dtype) in ("float64", "complex128")
    with x64(wide or jax.config.jax_enable_x64):
        t = t.astype(np.zeros(0, y.dtype).real.dtype)
        expected = np.asarray(source.evaluate(source.arrays, jnp.asarray(t), jnp.asarray(y)))
    received = np.asarray(model(t, y))
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    error = float(np.abs(expected - received).max(initial=0.0)) / scale
    narrow = any(str(x.dtype) in ("float32", "complex64") for x in (y, *source.arrays.values()))
    if expected.shape != received.shape or not error < (1e-4 if narrow else 1e-9):
        raise PortError("", source.name, f"its program differs from it by {error:.1e} at the "
                        "example", "an example of the dtype that it is for")  # fmt: skip


# Taking modules apart


def _source(module: Any) -> Source:
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(module, nnx.Module):
        return _nnx_source(module, nnx)
    leaves, structure = jax.tree_util.tree_flatten_with_path(module)
    arrays, places, others = {}, {}, []
    for place, (path, leaf) in enumerate(leaves):
        others.append(leaf)
        if isinstance(leaf, (jax.Array, np.ndarray)) and jnp.issubdtype(leaf.dtype, jnp.inexact):
            name = _dotted(path)
            arrays[name], places[name] = leaf, place
    if not arrays:
        raise ValueError(
            "expected a Model, a torch.nn.Module, or a module of equinox or flax.nnx with arrays "
            f"in it, received {type(module).__module__}.{type(module).__qualname__}; try "
            "ndereg.models.Model(layer, params)"
        )
    call = _called(module)

    def evaluate(values: Mapping[str, Any], t: Any, y: Any) -> Any:
        filled = list(others)
        for name, place in places.items():
            filled[place] = values[name]
        return call(jax.tree_util.tree_unflatten(structure, filled), t, y)

    return Source(type(module).__name__, arrays, frozenset(), evaluate)


def _nnx_source(module: Any, nnx: Any) -> Source:
    _refuse_training(module, nnx)
    definition, state = nnx.split(module)
    flat = dict(nnx.to_flat_state(state))
    arrays, names, buffers = {}, {}, set()
    for path, variable in flat.items():
        value = variable[...] if hasattr(variable, "get_value") else variable.value
        if not (hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.inexact)):
            continue  # counters and random keys
        name = ".".join(map(str, path))
        arrays[name], names[name] = value, path
        if not isinstance(variable, nnx.Param):
            buffers.add(name)
    call = _called(module)

    def evaluate(values: Mapping[str, Any], t: Any, y: Any) -> Any:
        filled = {path: variable.replace(values[name])
                  for name, path in names.items() for variable in (flat[path],)}  # fmt: skip
        return call(nnx.merge(definition, nnx.from_flat_state({**flat, **filled})), t, y)

    return Source(type(module).__name__, arrays, frozenset(buffers), evaluate)


def _refuse_training(module: Any, nnx: Any) -> None:
    for path, part in nnx.iter_modules(module):
        name = ".".join(map(str, path))
        if getattr(part, "use_running_average", True) is False:
            raise PortError(name, type(part).__name__, "in training its statistics change from "
                            "call to call", "model.eval()")  # fmt: skip
        if getattr(part, "deterministic", True) is False and getattr(part, "rate", 0) > 0:
            raise PortError(name, type(part).__name__, "it is random in training", "model.eval()")


def _called(module: Any) -> Callable[[Any, Any, Any], Any]:
    """Return how a module is called: with y, with t and y, or with args as well, which are None."""
    if not callable(module):
        raise ValueError(f"expected a module that can be called, received {type(module).__name__}")
    parameters = inspect.signature(type(module).__call__).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in parameters if p.kind in kinds and p.default is p.empty][1:]
    count = max(1, len(required))
    if count > 3:
        raise PortError("", type(module).__name__, f"it takes {count} arguments",
                        "a field, called with (t, y) or (y)")  # fmt: skip
    forms = {1: lambda m, t, y: m(y), 2: lambda m, t, y: m(t, y), 3: lambda m, t, y: m(t, y, None)}
    return forms[count]


def _dotted(path: Any) -> str:
    names = []
    for key in path:
        name = next(str(getattr(key, attribute)) for attribute in ("name", "key", "idx")
                    if hasattr(key, attribute))  # fmt: skip
        if "." in name:
            raise PortError("", f"the name {name!r}", "names of parameters hold no dots",
                            "another key")  # fmt: skip
        names.append(name)
    return ".".join(names)
