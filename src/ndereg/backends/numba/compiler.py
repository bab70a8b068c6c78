"""How kernels are compiled."""

from __future__ import annotations

import warnings
from typing import Any

import numba
from llvmlite import binding as llvm
from numba import njit
from numba.core import codegen
from numba.core.compiler import Compiler

__all__ = [
    *("exact", "inlined", "inlined_in_memory", "kernel", "kernel_in_memory"),
    *("inlined_program", "program", "program_in_memory"),
]


_HOOKS = ("_finalize_final_module", "_get_module_for_linking", "enable_object_caching")
"""Of Numba's own library, which has no public way to say what :class:`_SelfContained` says."""
_Library: Any = getattr(codegen, "JITCodeLibrary", object)


class _SelfContained(_Library):  # type: ignore[misc]
    """Machine code that calls its own copies of the functions that were linked into it.

    Numba links them as symbols that another definition may replace. In the process that compiles
    them one does: what was compiled of the function alone, which rounds differently where LLVM
    contracted or vectorised otherwise. Read from the cache, a kernel has its own copies only. So
    the symbols are made internal, and a kernel gives the same bits in either process.
    """

    def _finalize_final_module(self) -> None:
        module = self._final_module
        self._shared_module = shared = module.clone()  # for those that this is linked into
        for function in _defined(shared, llvm.Linkage.external):
            function.linkage = "linkonce_odr"
        for function in _defined(module, llvm.Linkage.linkonce_odr):
            function.linkage = "internal"
        super()._finalize_final_module()


def _defined(module: Any, linkage: Any) -> list[Any]:
    """Functions of a module with bodies and this linkage."""
    return [f for f in module.functions if not f.is_declaration and f.linkage == linkage]


def _is_hooked() -> bool:
    """Whether this Numba lets kernels be self-contained; a warning if it does not."""
    missing = [name for name in _HOOKS if not hasattr(_Library, name)]
    if not hasattr(Compiler, "_compile_bytecode"):
        missing.append("_compile_bytecode")
    if missing:
        warnings.warn(
            f"expected a Numba whose compiler has {', '.join(missing)}, as 0.68 has, received "
            f"{numba.__version__}: a solve may give other last bits in the process that compiles "
            "it than in later ones; try pip install 'numba<0.69'",
            RuntimeWarning,
            stacklevel=2,
        )
    return not missing


HOOKED = _is_hooked()


class _KernelCompiler(Compiler):
    """Compiles kernels that are self-contained, for arguments of which no two arrays overlap.

    Loops over more than a few arrays are only vectorised if LLVM knows of the latter; Numba has the
    flag, but no keyword for it. For the former see :class:`_SelfContained`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.state.flags.noalias = True

    def _compile_bytecode(self) -> Any:
        if HOOKED and self.state.library is None:
            name = self.state.func_id.func_qualname
            self.state.library = _SelfContained(self.state.targetctx.codegen(), name)
            self.state.library.enable_object_caching()
        return super()._compile_bytecode()


_COMMON: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "no_cfunc_wrapper": True,
    "pipeline_class": _KernelCompiler,
}

#: Of the fast-math flags kernels have contraction, and one reciprocal for several quotients by the
#: same number (a quarter of the time of a gravitational field): NaN and infinities keep their
#: meaning, and the elementary functions rely on the order of their sums.
_EXACT_ENOUGH = {"contract", "arcp"}

#: Decorator of generated kernels.
kernel = njit(cache=True, fastmath=_EXACT_ENOUGH, **_COMMON)

#: Of generated functions that a loop calls for every element: only inside of it are they
#: vectorised, and they are too long for LLVM to move them there of itself.
inlined = njit(cache=True, fastmath=_EXACT_ENOUGH, forceinline=True, **_COMMON)

#: Of generated functions whose result is the same to the last bit on every backend.
exact = njit(cache=True, **_COMMON)

#: Decorator of step programs and loops: their sums may be taken in any order, so that the means of
#: the error norms are vectorised as well.
program = njit(cache=True, fastmath={"contract", "reassoc", "nsz"}, **_COMMON)

#: Of step programs inside of a loop over samples, for the same reason as above.
inlined_program = njit(
    cache=True, fastmath={"contract", "reassoc", "nsz"}, forceinline=True, **_COMMON
)

#: The same for source that refers to functions of the user, which cannot be cached on disk.
kernel_in_memory = njit(fastmath=_EXACT_ENOUGH, **_COMMON)
inlined_in_memory = njit(fastmath=_EXACT_ENOUGH, forceinline=True, **_COMMON)
program_in_memory = njit(fastmath={"contract", "reassoc", "nsz"}, **_COMMON)
