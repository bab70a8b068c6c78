"""Matrix products in compiled code, on the entries of flat arrays.

``numba_xxgemm`` and ``numba_xxgemv`` are part of Numba's runtime library (they find SciPy's BLAS).
They are known to Numba by symbol, so that code which calls them can be cached on disk; ``np.dot``
calls the same functions, but only overwrites its result, and only takes whole arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from ndereg.backends.numba.entries import Entries

__all__ = ["gemm", "gemv"]

_KINDS = {
    types.float32: "s",
    types.float64: "d",
    types.complex64: "c",
    types.complex128: "z",
}
_INT, _CHAR = ir.IntType(32), ir.IntType(8)
_BYTES = ir.IntType(8).as_pointer()
_SIZE = types.intp


def _checked(*arrays: Any) -> Any:
    """Return the common dtype of flat arrays that BLAS takes."""
    dtypes = {array.dtype for array in arrays if isinstance(array, Entries)}
    if len(dtypes) != 1 or not dtypes <= set(_KINDS):
        raise TypingError(f"expected arrays of one dtype of BLAS, received {arrays}")
    return dtypes.pop()


class _Call:
    """Arguments of one BLAS call under construction."""

    def __init__(self, context: Any, builder: ir.IRBuilder, dtype: Any) -> None:
        self.context, self.builder, self.dtype = context, builder, dtype

    @property
    def kind(self) -> ir.Constant:
        return ir.Constant(_CHAR, ord(_KINDS[self.dtype]))

    def transposition(self, flag: ir.Value) -> ir.Value:
        """``'t'`` where the boolean flag is set."""
        letters = (ir.Constant(_CHAR, ord(letter)) for letter in "tn")
        return self.builder.select(flag, *letters)

    def at(self, entries: ir.Value, offset: ir.Value) -> ir.Value:
        """Address of an entry."""
        return self.builder.bitcast(self.builder.gep(entries, [offset]), _BYTES)

    def scalar(self, number: ir.Value) -> ir.Value:
        """Address of a boolean as a number of the arrays' dtype."""
        value = self.context.cast(self.builder, number, types.boolean, types.float64)
        value = self.context.cast(self.builder, value, types.float64, self.dtype)
        return self.builder.bitcast(cgutils.alloca_once_value(self.builder, value), _BYTES)

    def run(self, name: str, arguments: Sequence[ir.Value]) -> ir.Value:
        """Call the function of Numba's runtime; its status is only non-zero without SciPy."""
        signature = ir.FunctionType(_INT, [argument.type for argument in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)
        self.builder.call(function, arguments)
        return self.context.get_dummy_value()


@intrinsic
def gemm(
    typing_context: Any,
    m: Any,
    n: Any,
    k: Any,
    a: Any,
    a_offset: Any,
    a_stride: Any,
    a_transposed: Any,
    b: Any,
    b_offset: Any,
    b_stride: Any,
    b_transposed: Any,
    c: Any,
    c_offset: Any,
    c_stride: Any,
    add: Any,
) -> Any:
    """``C = A B``, or ``C += A B`` with ``add``; A is (m, k), B is (k, n), C is (m, n).

    A matrix is the entries of an array, the offset of its first entry and the stride between its
    rows; transposed, the stride is the one between its columns.
    """
    dtype = _checked(a, b, c)
    size, flag = _SIZE, types.boolean
    matrix = (size, size, flag)
    signature = types.void(size, size, size, a, *matrix, b, *matrix, c, size, size, flag)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        m, n, k, a, a_offset, a_stride, a_t, b, b_offset, b_stride, b_t, *rest = args
        c, c_offset, c_stride, add = rest
        call = _Call(context, builder, dtype)
        # BLAS is column-major: it sees the transposes and is asked for Cᵀ = Bᵀ Aᵀ.
        arguments = (
            *(call.kind, call.transposition(b_t), call.transposition(a_t), n, m, k),
            call.scalar(ir.Constant(ir.IntType(1), 1)),
            *(call.at(b, b_offset), b_stride),
            *(call.at(a, a_offset), a_stride),
            call.scalar(add),
            *(call.at(c, c_offset), c_stride),
        )
        return call.run("numba_xxgemm", arguments)

    return signature, generate


@intrinsic
def gemv(
    typing_context: Any,
    m: Any,
    n: Any,
    a: Any,
    a_offset: Any,
    a_stride: Any,
    a_transposed: Any,
    x: Any,
    x_offset: Any,
    y: Any,
    y_offset: Any,
    add: Any,
) -> Any:
    """``y = A x``, or ``y += A x`` with ``add``; A is (m, n) as in :func:`gemm`."""
    dtype = _checked(a, x, y)
    size, flag = _SIZE, types.boolean
    signature = types.void(size, size, a, size, size, flag, x, size, y, size, flag)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        m, n, a, a_offset, a_stride, a_t, x, x_offset, y, y_offset, add = args
        call = _Call(context, builder, dtype)
        # Column-major, an untransposed A is the (n, m) matrix Aᵀ and has to be transposed.
        rows, columns = builder.select(a_t, m, n), builder.select(a_t, n, m)
        arguments = (
            *(call.kind, call.transposition(builder.not_(a_t)), rows, columns),
            call.scalar(ir.Constant(ir.IntType(1), 1)),
            *(call.at(a, a_offset), a_stride),
            call.at(x, x_offset),
            call.scalar(add),
            call.at(y, y_offset),
        )
        return call.run("numba_xxgemv", arguments)

    return signature, generate
