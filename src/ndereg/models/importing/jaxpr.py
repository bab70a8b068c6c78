"""Jaxprs as calls of a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from ndereg.models.importing.builder import DTYPES, Builder, PortError
from ndereg.models.importing.jax_primitives import ELEMENTWISE, TABLE, Unsupported, shape_of, whole
from ndereg.models.operands import Constant, Ref

_INLINED = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call",
            "custom_vjp_call_jaxpr", "remat", "checkpoint", "remat2", "custom_lin")  # fmt: skip
_LARGEST_CONSTANT = 4096
_LONGEST_SCAN = 256


class Interpreter:
    """Adds the equations of jaxprs to a program.

    Values that are known while importing, indices above all, are computed by JAX and never enter
    the program; larger constants become buffers.

    Parameters
    ----------
    builder : Builder
    elementwise : bool
        Refuse everything that depends on a shape.
    """

    def __init__(self, builder: Builder, elementwise: bool = False) -> None:
        self.builder = builder
        self.elementwise = elementwise
        self.constants = 0
        self.maxima: set[Ref] = set()

    def run(self, closed: Any, operands: Sequence[Any]) -> list[Any]:
        """Add a closed jaxpr; operands and results are operands or NumPy arrays."""
        jaxpr = closed.jaxpr if hasattr(closed, "jaxpr") else closed
        consts = [np.asarray(c) for c in getattr(closed, "consts", ())]
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        values.update(zip(jaxpr.invars, operands, strict=True))

        def read(atom: Any) -> Any:
            return np.asarray(atom.val) if isinstance(atom, core.Literal) else values[atom]

        for eqn in jaxpr.eqns:
            found = self.equation(eqn, [read(atom) for atom in eqn.invars])
            values.update(zip(eqn.outvars, found, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: Any, given: list[Any]) -> list[Any]:
        """Add one equation."""
        name = eqn.primitive.name
        if name == "custom_jvp_call" and _named(eqn) == "relu":
            # whose derivative at 0 is 0, unlike that of the maximum inside
            return [self.builder.call("relu", self.operand(given[0]))]
        if name in _INLINED:
            inner = next(eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr")
                         if key in eqn.params)  # fmt: skip
            return self.run(inner, given)
        if all(isinstance(value, np.ndarray) for value in given) and "random" not in name:
            return self.folded(eqn, given)
        if name == "scan":
            return self.scan(eqn, given)
        if name in ("split", "unstack"):
            return self.split(eqn, given)
        operands = [self.operand(value) for value in given]
        if name == "stop_gradient" and operands[0] in self.maxima:
            return operands  # of a softmax, where the derivative cancels
        if name not in TABLE or (self.elementwise and name not in ELEMENTWISE):
            raise PortError(
                "", f"JAX operation {name!r}{_where(eqn)}",
                "it is not among the operations of a program",
                "arithmetic, shapes, reductions, products, convolutions and activations, with "
                "jnp.where in place of branches",
            )  # fmt: skip
        try:
            result = TABLE[name](self.builder, operands, eqn)
        except Unsupported as error:
            raise PortError("", f"JAX operation {name!r}{_where(eqn)}", f"{error} cannot be ported",
                            "an equivalent operation") from error  # fmt: skip
        if name == "reduce_max" or (name in ("broadcast_in_dim", "reshape", "max")
                                    and self.maxima.intersection(_refs(operands))):  # fmt: skip
            self.maxima.update(_refs([result]))
        return [result]

    def folded(self, eqn: Any, given: list[np.ndarray]) -> list[np.ndarray]:
        """Compute an equation whose operands are known."""
        with jax.ensure_compile_time_eval():
            found = eqn.primitive.bind(*map(jax.numpy.asarray, given), **eqn.params)
        results = found if eqn.primitive.multiple_results else [found]
        return [np.asarray(value) for value in results]

    def operand(self, value: Any) -> Any:
        """Return a known value as a number, a constant or a buffer."""
        if not isinstance(value, np.ndarray):
            return value
        if value.ndim == 0:
            return value.item()
        if self.elementwise:
            raise PortError("", "an array in an activation", "it must be elementwise", "numbers")
        if value.size > 16 and (value == value.flat[0]).all() and value.dtype.kind != "i":
            one = Constant.of(value.reshape(-1)[:1])
            return self.builder.call("broadcast_to", one, value.shape)
        if value.size <= _LARGEST_CONSTANT or str(value.dtype) not in DTYPES:
            return Constant.of(value)
        self.constants += 1
        return self.builder.weight(f"constants.{self.constants - 1}", value, "buffer")

    def split(self, eqn: Any, given: list[Any]) -> list[Any]:
        """Add a primitive with several results."""
        x, axis = self.operand(given[0]), eqn.params["axis"]
        if eqn.primitive.name == "split":
            pieces = self.builder.call("split", x, eqn.params["sizes"], axis)
        else:
            pieces = self.builder.call("unstack", x, axis)
        return [self.builder.call("item", pieces, i) for i in range(len(eqn.outvars))]

    def scan(self, eqn: Any, given: list[Any]) -> list[Any]:
        """Unroll a loop of known length."""
        params, b = eqn.params, self.builder
        length, carries = params["length"], params["num_carry"]
        fixed = params["num_consts"]
        if length > _LONGEST_SCAN:
            raise PortError("", f"a scan of length {length}{_where(eqn)}",
                            f"more than {_LONGEST_SCAN} steps are not unrolled",
                            "a shorter loop")  # fmt: skip
        consts, carry = given[:fixed], list(given[fixed : fixed + carries])
        sequences = given[fixed + carries :]
        outputs: list[list[Any]] = [[] for _ in eqn.outvars[carries:]]
        order = range(length)
        for i in reversed(order) if params["reverse"] else order:
            xs = [x[i] if isinstance(x, np.ndarray) else b.call("take", x, i, 0)
                  for x in sequences]  # fmt: skip
            results = self.run(params["jaxpr"], [*consts, *carry, *map(_as_known, xs)])
            carry = results[:carries]
            for collected, result in zip(outputs, results[carries:], strict=True):
                collected.append(result)
        stacked = []
        for variable, collected in zip(eqn.outvars[carries:], outputs, strict=True):
            collected = collected[::-1] if params["reverse"] else collected
            shape = shape_of(variable)[1:]
            parts = [whole(b, self.operand(value), shape) for value in collected]
            stacked.append(b.call("stack", parts, 0) if parts else np.zeros(shape_of(variable)))
        return [*carry, *stacked]


def _as_known(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, np.generic) else value


def _refs(operands: Sequence[Any]) -> list[Ref]:
    return [operand for operand in operands if isinstance(operand, Ref)]


def _named(eqn: Any) -> str:
    inner = eqn.params.get("call_jaxpr")
    names = [eqn.params.get("name")]
    jaxpr = getattr(inner, "jaxpr", inner)
    names += [e.params.get("name") for e in jaxpr.eqns] if len(jaxpr.eqns) == 1 else []
    return next((name for name in names if name), "")


def _where(eqn: Any) -> str:
    """Return where an equation comes from, if JAX says."""
    try:
        from jax._src import source_info_util

        return f" ({source_info_util.summarize(eqn.source_info)})"
    except Exception:
        return ""
