"""Modules of a solve: the programs of a plan and the kernels of a field in one source."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ndereg.backends.base import Layout
from ndereg.backends.numba.blocks import blockable, blocks_source
from ndereg.backends.numba.brownian import path_functions, path_text
from ndereg.backends.numba.emit import HEADER
from ndereg.backends.numba.fields import FieldKernels
from ndereg.backends.numba.forward import (
    FORWARD_PROGRAMS,
    ForwardRows,
    Programs,
    forward_source,
    many_source,
)
from ndereg.backends.numba.module import load
from ndereg.backends.numba.noise import Drive
from ndereg.backends.numba.packed import packable, packed_source
from ndereg.backends.numba.reverse import (
    REVERSE_PROGRAMS,
    ReverseRows,
    many_reverse_source,
    reverse_source,
)
from ndereg.backends.numba.signatures import LITERAL_ENTRIES, Kernels, Numbers
from ndereg.plan.brownian import Areas
from ndereg.plan.lower import Plan
from ndereg.spec.stochastic import StochasticMethod


@dataclass(eq=False)
class SolveModule:
    """Compiled functions of a plan for a field, and the sizes of their workspaces.

    Attributes
    ----------
    functions : module
        With ``solve_one`` and ``solve_many``, and with gradients ``pull_one`` or ``pull_many``.
    """

    programs: Programs
    kernels: FieldKernels
    independent: bool

    @cached_property
    def packed(self) -> Any:
        """The module that solves several samples at once; None where samples are not packed."""
        plan, numbers, names = self.programs.plan, self.programs.numbers, self.programs.kernels
        if not self.independent or not packable(plan, self.kernels, numbers, names):
            return None
        return _load(packed_source(plan, numbers, names, self.kernels), {})

    @cached_property
    def blocks(self) -> Any:
        """The module that solves samples that take the same steps; None where they do not."""
        programs = self.programs
        plan, numbers, names, drive = (
            programs.plan, programs.numbers, programs.kernels, programs.drive
        )  # fmt: skip
        possible = blockable(plan, self.kernels, numbers, names, drive)
        if drive is None or not self.independent or not possible:
            return None
        source = blocks_source(plan, numbers, names, self.kernels, drive)
        return _load(_path_import(drive.areas) + source, {})

    @cached_property
    def functions(self) -> Any:
        """The module of the solve and of its reverse pass, which share programs and fields."""
        programs, drive = self.programs, self.programs.drive
        gradient = bool(self.kernels.linearize)
        called = FORWARD_PROGRAMS + REVERSE_PROGRAMS if gradient else FORWARD_PROGRAMS
        texts = [] if drive is None else [_path_import(drive.areas)]
        texts += [self.kernels.source, programs.text(called)]
        texts.append(forward_source(programs, "@program", self.keeps))
        if self.independent:
            texts.append(many_source(programs, "@program"))
        if gradient:
            texts.append(reverse_source(programs, "@program"))
        if gradient and self.independent:  # samples are solved again
            texts.append(forward_source(programs, "@program", True, "solve_kept"))
            texts.append(many_reverse_source(programs, "@program"))
        return _load("\n".join(texts), self.kernels.namespace)

    @property
    def keeps(self) -> bool:
        """Whether the forward solve keeps the tape."""
        return bool(self.kernels.linearize) and not self.independent

    @cached_property
    def forward_rows(self) -> int:
        """Rows of the forward workspace."""
        return len(ForwardRows(self.programs).names)

    @cached_property
    def reverse_rows(self) -> int:
        """Rows of the reverse workspace."""
        return len(ReverseRows(self.programs).names)

    @cached_property
    def temporaries(self) -> int:
        """Scratch rows of the programs."""
        return self.programs.temporaries()

    @cached_property
    def maps(self) -> int:
        """Linearizations alive at once."""
        return 2 + max(source.maps_used for source in self.programs.sources.values())


def build(plan: Plan, layout: Layout, kernels: FieldKernels, drive: Drive | None) -> SolveModule:
    """Emit the module of a plan for a field; compiled when first called."""
    entries = layout.entries if layout.entries <= LITERAL_ENTRIES else None
    key = (plan.spec, layout.dtype, entries, layout.batch is None, drive)
    found = kernels.modules.get(key)
    if found is None:
        columns = 1 if drive is None else drive.columns
        method = plan.spec.tableau
        pairs = isinstance(method, StochasticMethod) and method.pairs
        numbers = Numbers(layout.dtype, layout.real_dtype, entries, columns, pairs)
        names = Kernels(
            residual_arrays=tuple([len(kernel.residuals) for kernel in kernels.linearize])
            or (0,) * len(kernels.field),
            sample="" if layout.batch is None else "sample",
            on_entries=not kernels.namespace,
            driven=drive is not None,
        )
        programs = Programs(plan, numbers, names, "@program", drive)
        found = SolveModule(programs, kernels, bool(names.sample))
        kernels.modules[key] = found
    return found


def _path_import(areas: Areas) -> str:
    """Source of the functions of a path, which are compiled in a module of their own.

    What is linked to them is as old as they are: the file's name depends on their text.
    """
    path_functions(areas)
    digest = hashlib.sha256(path_text(areas).encode()).hexdigest()
    return (
        "from ndereg.backends.numba.brownian import path_functions\n\n"
        f"path_source = path_functions({areas!r})  # {digest}\n"
        "brownian_direct = path_source.brownian_direct\n"
        "brownian_increment = path_source.brownian_increment\n"
        "brownian_share = path_source.brownian_share\n\n\n"
    )


def _load(text: str, namespace: dict[str, Any]) -> Any:
    source = HEADER + "\n\nfrom ndereg.backends.numba.compiler import program\n\n\n" + text
    if not namespace:
        return load(source)
    return _Namespace(source, namespace)


class _Namespace:
    """Functions compiled beside objects of the user, which no file can refer to."""

    def __init__(self, source: str, objects: dict[str, Any]) -> None:
        uncached = source.replace("import program", "import program_in_memory as program")
        for name in ("kernel", "inlined"):
            uncached = uncached.replace(f"import {name}", f"import {name}_in_memory as {name}")
        names: dict[str, Any] = {"__name__": "ndereg_generated", **objects}
        exec(compile(uncached, "<ndereg field>", "exec"), names)
        self._names = names

    def __getattr__(self, name: str) -> Any:
        try:
            return self._names[name]
        except KeyError:
            raise AttributeError(name) from None
