"""Straight-line programs: slots and a few instructions.

A slot is a name that is assigned once. Its kind says what it holds, for every sample:

============= ===============================================================
``state``     one entry a component of the state, real or complex
``real``      one real entry a component of the state (a modulus, a scale)
``scalar``    one real number (a step size, an error norm)
``flag``      one truth value
``map``       the linearization of a field at one point, for a later pullback
``noise``     one real entry a channel of the noise
``diffusion`` a matrix, one row a component of the state, one column a channel
============= ===============================================================

A scalar meets a state or real slot by broadcasting. ``Apply`` operands may also be literal
numbers. Noise that acts on the state entry by entry is of kind ``real``, and noise of one channel a
``scalar``; the diffusion is then of kind ``state``. Cotangents follow the real inner product
``Re(sum(conj(a) * b))``.

Where a method advances a pair of states, the two lie one after the other in the state of the loop;
:class:`Part` takes one out, :class:`Join` puts them together, and the field sees one of them
(:meth:`Program.halves`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

Number = int | float | Fraction
Slot = str
Kind = Literal["state", "real", "scalar", "flag", "map", "noise", "diffusion"]
FieldName = Literal["drift", "diffusion"]
"""The fields of an equation; an ordinary one has a drift only."""

OPERATIONS: dict[str, int] = {
    "add": 2, "sub": 2, "mul": 2, "div": 2, "safe_div": 2, "neg": 1, "abs": 1, "unit": 1,
    "square": 1, "max": 2, "min": 2, "sqrt": 1, "log": 1, "floor": 1, "pow": 2,
    "where": 3, "isfinite": 1, "lt": 2, "le": 2, "eq": 2, "and": 2, "or": 2, "not": 1,
}  # fmt: skip
"""Operations of :class:`Apply` and their number of operands.

``safe_div(a, b)`` is ``a / b``, and 0 where ``b == 0``; ``unit(z)`` is ``z / |z|``, and 0 at 0;
``max`` and ``min`` propagate nan; ``isfinite`` of a state or real slot is elementwise.
"""

_FLAGS = frozenset({"isfinite", "lt", "le", "eq", "and", "or", "not"})


@dataclass(frozen=True)
class Combine:
    """``dst = base + sum(scale * coefficient * slot)``; ``scale`` is a scalar, or None (1)."""

    dst: Slot
    base: Slot | None
    terms: tuple[tuple[Slot | None, Number, Slot], ...]


@dataclass(frozen=True)
class Evaluate:
    """``dst = field(t + c * scale, src, args)``; ``map`` keeps the linearization, if wanted.

    ``matrix`` says of a diffusion that its value is one, of kind ``diffusion``.
    """

    dst: Slot
    c: Number
    scale: Slot
    src: Slot
    map: Slot | None = None
    field: FieldName = "drift"
    matrix: bool = False


@dataclass(frozen=True)
class Pullback:
    """``dst``, and the cotangent of args, ``+= map^T cotangent``: the field's VJP at ``map``."""

    dst: Slot
    map: Slot
    cotangent: Slot
    field: FieldName = "drift"


@dataclass(frozen=True)
class Contract:
    """``dst`` (state) ``= diffusion @ noise``; without ``noise`` the sum over the channels."""

    dst: Slot
    diffusion: Slot
    noise: Slot | None = None


@dataclass(frozen=True)
class Outer:
    """``dst`` (diffusion) is the product of ``state`` and ``noise``: Contract transposed."""

    dst: Slot
    state: Slot
    noise: Slot


@dataclass(frozen=True)
class Apply:
    """``dst = op(*srcs)`` elementwise; operands are slots or literal numbers."""

    dst: Slot
    op: str
    srcs: tuple[Slot | Number, ...]


@dataclass(frozen=True)
class Mean:
    """``dst`` (scalar) is the mean of ``src`` (real) over the entries of a sample's state."""

    dst: Slot
    src: Slot


@dataclass(frozen=True)
class Spread:
    """``dst`` (real) holds ``src`` (scalar) divided by the number of entries: Mean transposed."""

    dst: Slot
    src: Slot


@dataclass(frozen=True)
class Part:
    """``dst`` is half number ``index`` of ``src``, a pair of states."""

    dst: Slot
    src: Slot
    index: int


@dataclass(frozen=True)
class Join:
    """``dst`` is the pair of ``parts``, of which None is zero: Part transposed."""

    dst: Slot
    parts: tuple[Slot | None, Slot | None]


Instruction = Combine | Evaluate | Pullback | Contract | Outer | Apply | Mean | Spread | Part | Join


def reads(instruction: Instruction) -> Iterator[Slot]:
    """Slots that an instruction reads."""
    match instruction:
        case Combine(base=base, terms=terms):
            if base is not None:
                yield base
            for scale, _, slot in terms:
                if scale is not None:
                    yield scale
                yield slot
        case Evaluate(scale=scale, src=src):
            yield from ("t", scale, src)
        case Pullback(map=map_, cotangent=cotangent):
            yield from (map_, cotangent)
        case Contract(diffusion=diffusion, noise=noise):
            yield diffusion
            if noise is not None:
                yield noise
        case Outer(state=state, noise=noise):
            yield from (state, noise)
        case Apply(srcs=srcs):
            yield from (src for src in srcs if isinstance(src, str))
        case Mean(src=src) | Spread(src=src) | Part(src=src):
            yield src
        case Join(parts=parts):
            yield from (part for part in parts if part is not None)


def writes(instruction: Instruction) -> Iterator[Slot]:
    """Slots that an instruction assigns."""
    yield instruction.dst
    if isinstance(instruction, Evaluate) and instruction.map is not None:
        yield instruction.map


@dataclass(frozen=True)
class Program:
    """A straight-line program.

    Parameters
    ----------
    name : str
        What it computes, for people.
    inputs : tuple of (slot, kind)
        Slots given from outside. ``t``, where a field is evaluated, is one of them.
    body : tuple of Instruction
        Each slot is assigned once, before it is read.
    outputs : tuple of (name, slot)
        What the caller gets under which name; a slot may be an input.

    Raises
    ------
    ValueError
        If a slot is read before it is assigned or assigned twice.

    Examples
    --------
    >>> from ndereg.catalogue import lookup
    >>> from ndereg.plan import lower
    >>> from ndereg.spec.spec import Spec
    >>> print(lower(Spec(lookup("heun"), adaptive=False)).step)  # doctest: +ELLIPSIS
    step (t, h, y, ...
    """

    name: str
    inputs: tuple[tuple[Slot, Kind], ...]
    body: tuple[Instruction, ...]
    outputs: tuple[tuple[str, Slot], ...]

    def __post_init__(self) -> None:
        known = {slot for slot, _ in self.inputs}
        for instruction in self.body:
            for slot in reads(instruction):
                if slot not in known:
                    raise ValueError(f"{self.name}: {instruction} reads {slot!r} before it is set")
            for slot in writes(instruction):
                if slot in known:
                    raise ValueError(f"{self.name}: {instruction} assigns {slot!r} again")
                known.add(slot)
        for name, slot in self.outputs:
            if slot not in known:
                raise ValueError(f"{self.name}: output {name!r} is slot {slot!r}, never assigned")

    def kinds(self) -> dict[Slot, Kind]:
        """Kind of every slot."""
        kinds: dict[Slot, Kind] = dict(self.inputs)
        for instruction in self.body:
            kinds[instruction.dst] = kind_of(instruction, kinds)
            if isinstance(instruction, Evaluate) and instruction.map is not None:
                kinds[instruction.map] = "map"
        return kinds

    def halves(self) -> frozenset[Slot]:
        """Slots that hold one half of a pair of states; none in a program without pairs.

        The states that such a program is given are pairs. The field sees a half, and noise that
        acts entry by entry meets one.
        """
        if not any(isinstance(instruction, (Part, Join)) for instruction in self.body):
            return frozenset()
        kinds = self.kinds()
        found = {slot for slot, kind in self.inputs if kind == "real"}
        for instruction in self.body:
            match instruction:
                case Part() | Evaluate(matrix=False) | Pullback() | Contract():
                    found.add(instruction.dst)
                case Combine() | Apply() if kinds[instruction.dst] in ("state", "real"):
                    if not found.isdisjoint(reads(instruction)):
                        found.add(instruction.dst)
        return frozenset(found)

    def evaluations(self) -> int:
        """Number of evaluations of the field, of a stochastic equation its drift, in one run."""
        return sum(isinstance(i, Evaluate) and i.field == "drift" for i in self.body)

    def output(self, name: str) -> Slot | None:
        """Slot of an output, None if the program does not compute it."""
        return dict(self.outputs).get(name)

    def pruned(self) -> Program:
        """Without the instructions, maps and inputs that no output needs.

        A ``Pullback`` is needed for what it adds to the cotangent of args.
        """
        needed = {slot for _, slot in self.outputs}
        kept: list[Instruction] = []
        for instruction in reversed(self.body):
            effect = isinstance(instruction, Pullback)
            if not effect and needed.isdisjoint(writes(instruction)):
                continue
            if isinstance(instruction, Evaluate) and instruction.map not in needed:
                instruction = replace(instruction, map=None)
            kept.append(instruction)
            needed.update(reads(instruction))
        inputs = tuple((slot, kind) for slot, kind in self.inputs if slot in needed)
        return Program(self.name, inputs, tuple(reversed(kept)), self.outputs)

    def __str__(self) -> str:
        from ndereg.plan.notation import render

        return render(self)


def kind_of(instruction: Instruction, kinds: dict[Slot, Kind]) -> Kind:
    """Kind of the slot that an instruction assigns."""
    match instruction:
        case Combine(base=base, terms=terms):
            return kinds[base if base is not None else terms[0][2]]
        case Evaluate(matrix=matrix):
            return "diffusion" if matrix else "state"
        case Pullback() | Contract():
            return "state"
        case Outer():
            return "diffusion"
        case Part(src=src):
            return kinds[src]
        case Join(parts=parts):
            return next(kinds[part] for part in parts if part is not None)
        case Mean():
            return "scalar"
        case Spread():
            return "real"
        case Apply(op=op, srcs=srcs):
            found: Sequence[Kind] = [kinds[src] for src in srcs if isinstance(src, str)]
            for kind in ("diffusion", "noise"):
                if kind in found:
                    return kind
            if "state" in found:
                return "state" if op not in ("abs", "isfinite") else "real"
            if "real" in found:
                return "real"
            return "flag" if op in _FLAGS else "scalar"
