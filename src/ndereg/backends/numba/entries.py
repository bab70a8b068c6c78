"""The entries of an array by flat index: what kernels read and write.

An index into a NumPy array may be negative, and compiled code has to look. Where the compiler
cannot see that it is not (an offset known at run time), a loop is not vectorised or loads one
element at a time. :func:`entries` is only the address of the first entry, as in C, and
:func:`entries_from` that of a later one. :func:`room` is memory of a function for a few entries,
which the compiler keeps in registers.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.imputils import impl_ret_untracked
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, register_model
from numba.np.arrayobj import make_array

__all__ = ["Entries", "entries", "entries_from", "room"]


class Entries(types.Type):
    """Type of the entries of an array of a dtype."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Entries({dtype})")


@register_model(Entries)
class _EntriesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Entries) -> None:
        entry = manager.lookup(kind.dtype).get_data_type()
        super().__init__(manager, kind, entry.as_pointer())


@intrinsic
def entries(typing_context: Any, array: Any) -> Any:
    """Return the entries of a C-contiguous array; the array must outlive them."""
    if isinstance(array, Entries):
        return array(array), lambda context, builder, signature, args: args[0]

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return make_array(signature.args[0])(context, builder, args[0]).data

    return Entries(array.dtype)(array), generate


@intrinsic
def entries_from(typing_context: Any, array: Any, offset: Any) -> Any:
    """Return the entries of a C-contiguous array, or of entries, from ``offset`` on."""
    kind = array if isinstance(array, Entries) else Entries(array.dtype)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        first = args[0]
        if not isinstance(signature.args[0], Entries):
            first = make_array(signature.args[0])(context, builder, first).data
        return builder.gep(first, [args[1]], inbounds=True)

    return kind(array, types.intp), generate


@intrinsic(prefer_literal=True)
def room(typing_context: Any, like: Any, length: Any) -> Any:
    """Return room for ``length`` (a literal) entries of the dtype of ``like``, not initialised."""
    if not isinstance(length, types.IntegerLiteral):
        return None
    kind = Entries(like.dtype)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        entry = context.get_data_type(kind.dtype)
        memory = cgutils.alloca_once(builder, ir.ArrayType(entry, length.literal_value))
        return builder.bitcast(memory, entry.as_pointer())

    return kind(like, length), generate


@infer_global(operator.getitem)
class _Get(AbstractTemplate):
    def generic(self, args: Any, keywords: Any) -> Any:
        array, index = args
        if isinstance(array, Entries) and isinstance(index, types.Integer):
            return signature(array.dtype, array, types.intp)
        return None


@infer_global(operator.setitem)
class _Set(AbstractTemplate):
    def generic(self, args: Any, keywords: Any) -> Any:
        array, index, _ = args
        if isinstance(array, Entries) and isinstance(index, types.Integer):
            return signature(types.none, array, types.intp, array.dtype)
        return None


@lower_builtin(operator.getitem, Entries, types.Integer)
def _get(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
    pointer = builder.gep(args[0], [args[1]], inbounds=True)
    value = context.unpack_value(builder, signature.return_type, pointer)
    return impl_ret_untracked(context, builder, signature.return_type, value)


@lower_builtin(operator.setitem, Entries, types.Integer, types.Any)
def _set(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
    pointer = builder.gep(args[0], [args[1]], inbounds=True)
    context.pack_value(builder, signature.args[2], args[2], pointer)
    return context.get_dummy_value()
