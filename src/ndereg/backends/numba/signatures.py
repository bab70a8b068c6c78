"""Names and arguments of the functions that generated modules are made of."""

from __future__ import annotations

from dataclasses import dataclass

from ndereg.plan.program import FieldName, Number, Slot

FIELDS: tuple[FieldName, ...] = ("drift", "diffusion")
LITERAL_ENTRIES = 32
"""States up to this size have loops of literal length, which LLVM unrolls."""
LITERAL_WIDTH = 64
"""The same of the matrices of their diffusion."""


@dataclass(frozen=True)
class Numbers:
    """Source of numbers in the dtypes of a state.

    Attributes
    ----------
    dtype, real : str
        Of the state and of its moduli.
    entries : int or None
        Number of entries where loops should have a literal length, else None.
    channels : int
        Columns of a diffusion matrix; 1 where there is none.
    pairs : bool
        Whether a state is a pair, of which fields and noise see one half.
    branchless : bool
        Whether powers are written so that a loop around them becomes vector instructions.
    """

    dtype: str
    real: str
    entries: int | None
    channels: int = 1
    pairs: bool = False
    branchless: bool = False

    def literal(self, value: Number) -> str:
        """A coefficient, typed so that arithmetic stays in the dtype of the state."""
        text = repr(float(value))
        return text if self.real == "float64" else f"np.float32({text})"

    def cast(self, expression: str) -> str:
        """A float64 scalar as it meets the state."""
        return expression if self.real == "float64" else f"np.float32({expression})"

    @property
    def width(self) -> int:
        """Entries of a row of scratch, which may hold a diffusion matrix; 0 if not literal."""
        entries = self.entries or 0
        return max(entries, entries // 2 * self.channels) if self.pairs else entries * self.channels

    def rooms(self, kernels: Kernels, like: str) -> str:
        """Source of room in registers for what programs compute, where that is small enough."""
        small = self.width if self.width <= LITERAL_WIDTH else 0
        return f"room({like}, {small})" if small and kernels.on_entries else ""

    @property
    def complex(self) -> bool:
        """Whether the state is complex."""
        return self.dtype.startswith("complex")


@dataclass(frozen=True)
class Kernels:
    """Names of the functions of the fields, and the source of the arguments that they share.

    Attributes
    ----------
    residual_arrays : tuple of int
        Arrays that each field hands from its linearization to the pullback: of the drift and, of a
        stochastic equation, of the diffusion.
    sample : str
        Name of the sample's number; empty where there is one joint sample.
    on_entries : bool
        Whether the fields take the entries of an array for the array.
    driven : bool
        Whether there is a Brownian path.
    """

    residual_arrays: tuple[int, ...] = (0,)
    sample: str = ""
    on_entries: bool = True
    driven: bool = False

    def _environment(self, kind: str) -> str:
        names = [_function(kind, field) for field in FIELDS[: len(self.residual_arrays)]]
        return ", ".join(f"work_{name}, dims_{name}, constants_{name}" for name in names)

    @property
    def field_environment(self) -> str:
        """What evaluations read."""
        return f"A, {self._environment('field')}"

    @property
    def linearize_environment(self) -> str:
        """What linearizations read beside that."""
        return self._environment("linearize")

    @property
    def pullback_environment(self) -> str:
        """What pullbacks read beside that."""
        return self._environment("pullback")

    @property
    def loop_environment(self) -> str:
        """What a loop over steps reads: what evaluations do, and the Brownian path."""
        path = ", path, path_stride, noise, nodes" if self.driven else ""
        return self.field_environment + path

    @property
    def tail(self) -> str:
        """The sample's number as the last argument."""
        return f", {self.sample}" if self.sample else ""

    def evaluation(self, t: str, src: str, dst: str, field: FieldName = "drift") -> str:
        """Source of an evaluation."""
        name, src, dst = _function("field", field), self._entries(src), self._entries(dst)
        return (
            f"{name}({t}, {src}, A, work_{name}, {dst}, dims_{name}, constants_{name}{self.tail})"
        )

    def linearization(
        self, t: str, src: str, row: str, dst: str, field: FieldName = "drift"
    ) -> str:
        """Source of an evaluation that leaves its linearization in a row of the residuals."""
        name, src, dst = _function("linearize", field), self._entries(src), self._entries(dst)
        return (
            f"{name}({t}, {src}, A, work_{name}, {self._residuals(row, field)}, {dst}, "
            f"dims_{name}, constants_{name}{self.tail})"
        )

    def pulled(
        self, t: str, src: str, row: str, bar: str, dst: str, field: FieldName = "drift"
    ) -> str:
        """Source of a pullback of that; the cotangent of args is added to ``A_bar``."""
        name = _function("pullback", field)
        src, bar, dst = map(self._entries, (src, bar, dst))
        return (
            f"{name}({t}, {src}, A, work_{name}, {self._residuals(row, field)}, {bar}, {dst}, "
            f"A_bar, dims_{name}, constants_{name}{self.tail})"
        )

    def _entries(self, array: str) -> str:
        """Source of a vector as fields take it: of one type, or every type is compiled again."""
        return f"entries({array})" if self.on_entries else array

    def _residuals(self, row: str, field: FieldName) -> str:
        """Source of the residuals of one linearization: a row of each array."""
        place = FIELDS.index(field)
        first = sum(self.residual_arrays[:place])
        numbers = range(first, first + self.residual_arrays[place])
        return "(" + "".join(f"residuals[{i}][{row}], " for i in numbers) + ")"


def function_suffix(field: FieldName) -> str:
    """What the names of a field's functions end in."""
    return "" if field == "drift" else f"_{field}"


def _function(kind: str, field: FieldName) -> str:
    return kind + function_suffix(field)


@dataclass(frozen=True)
class ProgramSource:
    """A program as a function ``name(scalars, maps, vectors, outputs, T, environment)``.

    ``T`` holds ``temporaries`` rows of scratch. A map is the row of its residuals, its time and
    the state it was taken at. Scalar outputs are returned as a tuple, in order. ``on_entries`` says
    that lengths are literals: then vectors are passed as their entries, which are of one type
    whether they are rows of an array or in registers.
    """

    name: str
    text: str
    scalars: tuple[Slot, ...]
    maps: tuple[Slot, ...]
    vectors: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    results: tuple[str, ...]
    output_maps: tuple[Slot, ...]
    temporaries: int
    maps_used: int
    environment: str
    on_entries: bool = False

    def call(self, values: dict[Slot, str], outputs: dict[Slot, str]) -> str:
        """Source of a call; ``values`` and ``outputs`` give the source of every slot."""
        vector = "entries({})" if self.on_entries else "{}"
        arguments = [values[slot] for slot in self.scalars]
        for slot in self.maps:
            arguments += [values[slot], values[slot + "@t"], vector.format(values[slot + "@y"])]
        arguments += [vector.format(values[slot]) for slot in self.vectors]
        arguments += [vector.format(outputs[slot]) for slot in self.outputs]
        arguments += [outputs[slot] for slot in self.output_maps]
        if self.temporaries:
            arguments.append("T")
        if self.environment:
            arguments.append(self.environment)
        called = f"{self.name}({', '.join(arguments)})"
        if not self.results:
            return called
        targets = ", ".join(outputs[name] for name in self.results)
        return f"{targets}{',' if len(self.results) == 1 else ''} = {called}"
