"""Runs a step program instruction by instruction on the arrays of a framework.

The reference backend, PyTorch and JAX all run programs here; each supplies the meaning of the
instructions as a :class:`Machine`. Numba compiles the same programs to source instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ndereg.plan.kept import KeptPlan
from ndereg.plan.local import LocalPlan
from ndereg.plan.lower import Plan
from ndereg.plan.program import (
    Apply,
    Combine,
    Contract,
    Evaluate,
    Instruction,
    Join,
    Kind,
    Mean,
    Outer,
    Part,
    Program,
    Pullback,
    Slot,
    Spread,
)

Terms = list[tuple[float, Any]]


class Machine(Protocol):
    """The meaning of the instructions on one framework's arrays."""

    def combine(self, base: Any, groups: list[tuple[Any, Terms]]) -> Any:
        """``base + sum over groups of scale * sum(coefficient * array)``; scale None is 1."""

    def apply(self, op: str, *operands: Any) -> Any:
        """An operation of :data:`ndereg.plan.program.OPERATIONS`."""

    def spread_scalar(self, scalar: Any) -> Any:
        """A scalar in the form and dtype in which it meets a state."""

    def mean(self, values: Any) -> Any:
        """Mean over the entries of each sample, as a scalar."""

    def share(self, scalar: Any) -> Any:
        """A scalar divided by the number of entries, to be spread over them."""

    def evaluate(self, t: Any, y: Any, field: str = "drift") -> Any:
        """The field, or the diffusion of a stochastic equation."""

    def linearize(self, t: Any, y: Any, field: str = "drift") -> tuple[Any, Any]:
        """The field, and what :meth:`pullback` needs."""

    def pullback(self, linearization: Any, cotangent: Any, field: str = "drift") -> Any:
        """Cotangent of y; that of args is accumulated by the machine."""

    def at(self, t: Any, c: float, scale: Any) -> Any:
        """``t + c * scale``, the time of a stage."""

    def contract(self, diffusion: Any, noise: Any) -> Any:
        """A diffusion matrix times the noise; None sums over the channels."""

    def outer(self, state: Any, noise: Any) -> Any:
        """The transpose of :meth:`contract`: a state times the noise, a matrix."""

    def part(self, pair: Any, index: int) -> Any:
        """One half of a pair of states."""

    def join(self, first: Any, second: Any) -> Any:
        """The pair of two states; None is zero."""


class Runner:
    """A program made ready to run: coefficients as floats, combinations grouped by scale."""

    def __init__(self, program: Program) -> None:
        kinds = program.kinds()
        self.program = program
        self.inputs = tuple(slot for slot, _ in program.inputs)
        self._body = tuple(_prepare(instruction, kinds) for instruction in program.body)

    def __call__(self, machine: Machine, values: Mapping[Slot, Any]) -> dict[str, Any]:
        """Run on ``values``, which may hold more slots than the program reads."""
        slots: dict[Slot, Any] = {slot: values[slot] for slot in self.inputs}
        for code, dst, operands in self._body:
            match code:
                case "combine":
                    base, groups = operands
                    slots[dst] = machine.combine(
                        None if base is None else slots[base],
                        [
                            (None if scale is None else slots[scale],
                             [(coefficient, slots[slot]) for coefficient, slot in terms])
                            for scale, terms in groups
                        ],
                    )  # fmt: skip
                case "evaluate":
                    c, scale, src, map_, field = operands
                    t = machine.at(slots["t"], c, slots[scale])
                    if map_ is None:
                        slots[dst] = machine.evaluate(t, slots[src], *field)
                    else:
                        slots[dst], slots[map_] = machine.linearize(t, slots[src], *field)
                case "pullback":
                    map_, cotangent, field = operands
                    slots[dst] = machine.pullback(slots[map_], slots[cotangent], *field)
                case "contract":
                    diffusion, noise = operands
                    slots[dst] = machine.contract(
                        slots[diffusion], None if noise is None else slots[noise]
                    )
                case "outer":
                    state, noise = operands
                    slots[dst] = machine.outer(slots[state], slots[noise])
                case "part":
                    pair, index = operands
                    slots[dst] = machine.part(slots[pair], index)
                case "join":
                    halves = (None if half is None else slots[half] for half in operands)
                    slots[dst] = machine.join(*halves)
                case "mean":
                    slots[dst] = machine.mean(slots[operands])
                case "spread":
                    slots[dst] = machine.share(slots[operands])
                case _:
                    slots[dst] = machine.apply(
                        code,
                        *(
                            value
                            if src is None
                            else machine.spread_scalar(slots[src])
                            if value
                            else slots[src]
                            for src, value in operands
                        ),
                    )
        return {name: slots[slot] for name, slot in self.program.outputs}


class Runners:
    """The programs of a plan, ready to run, as attributes; ``make`` turns one into what runs it."""

    def __init__(
        self, plan: Plan | LocalPlan | KeptPlan, make: Callable[[Program], Any] = Runner
    ) -> None:
        self.plan = plan
        programs = plan.programs()
        self._runners = {name: make(program) for name, program in programs.items()}
        self._evaluations = {name: program.evaluations() for name, program in programs.items()}

    def __getattr__(self, name: str) -> Any:
        try:
            return vars(self)["_runners"][name]
        except KeyError:
            raise AttributeError(name) from None

    def evaluations(self, name: str) -> int:
        """Evaluations of the field in one run of a program, 0 of one that there is not."""
        return self._evaluations.get(name, 0)


def half(pair: Any, index: int) -> Any:
    """One half of an array of pairs ``(..., 2 n)``, in any framework."""
    entries = pair.shape[-1] // 2
    return pair[..., index * entries : (index + 1) * entries]


def named(field: str) -> tuple[str, ...]:
    """Return the argument that names a field; the one of an ordinary equation needs none."""
    return () if field == "drift" else (field,)


def _prepare(instruction: Instruction, kinds: dict[Slot, Kind]) -> tuple[str, Slot, Any]:
    dst = instruction.dst
    match instruction:
        case Combine(base=base, terms=terms):
            groups: dict[Slot | None, list[tuple[float, Slot]]] = {}
            for scale, coefficient, slot in terms:
                groups.setdefault(scale, []).append((float(coefficient), slot))
            return "combine", dst, (base, tuple(groups.items()))
        case Evaluate(c=c, scale=scale, src=src, map=map_, field=field):
            return "evaluate", dst, (float(c), scale, src, map_, named(field))
        case Pullback(map=map_, cotangent=cotangent, field=field):
            return "pullback", dst, (map_, cotangent, named(field))
        case Contract(diffusion=diffusion, noise=noise):
            return "contract", dst, (diffusion, noise)
        case Outer(state=state, noise=noise):
            return "outer", dst, (state, noise)
        case Part(src=src, index=index):
            return "part", dst, (src, index)
        case Join(parts=parts):
            return "join", dst, parts
        case Mean(src=src):
            return "mean", dst, src
        case Spread(src=src):
            return "spread", dst, src
        case Apply(op=op, srcs=srcs):
            # (None, literal), or (slot, whether a scalar meets a vector there)
            vector = kinds[dst] in ("state", "real")
            return (
                op,
                dst,
                tuple(
                    (src, vector and kinds[src] == "scalar")
                    if isinstance(src, str)
                    else (None, float(src))
                    for src in srcs
                ),
            )
