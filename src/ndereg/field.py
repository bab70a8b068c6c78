"""A vector field together with what a framework cannot derive from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from inspect import CO_VARARGS
from types import FunctionType
from typing import Any


@dataclass(frozen=True)
class Field:
    """A field with its own vector-Jacobian product, for ``@njit`` functions.

    Numba has no automatic differentiation: a field that is already compiled is called as it is,
    and gradients need ``vjp``. Plain Python fields need none of this.

    Parameters
    ----------
    function : callable
        ``f(t, y, args) -> dy/dt``, or ``f(t, y, args, out)`` writing into ``out`` when
        ``in_place``.
    vjp : callable or None
        ``vjp(t, y, args, k_bar) -> (y_bar, args_bar)``: the cotangents of ``y`` and ``args``, in
        their structure, for the cotangent ``k_bar`` of the field. Compiled with ``@njit`` as well.
    in_place : bool
        Whether ``function`` writes into a fourth argument.

    Examples
    --------
    >>> field = Field(lambda t, y, args: -args * y)
    >>> field(0.0, 2.0, 3.0)
    -6.0
    """

    function: Callable[..., Any]
    vjp: Callable[..., Any] | None = None
    in_place: bool = False

    def __post_init__(self) -> None:
        for name in ("function", "vjp"):
            value = getattr(self, name)
            if not callable(value) and not (name == "vjp" and value is None):
                raise TypeError(
                    f"expected a callable for Field.{name}, received {value!r}; try a function"
                )

    def __call__(self, *arguments: Any) -> Any:
        """Call the function itself."""
        return self.function(*arguments)


def is_compiled(field: Callable[..., Any]) -> bool:
    """Whether a field is an ``@njit`` function, bare or in a :class:`Field`.

    Told from its type, so that Numba need not be imported.
    """
    function = field.function if isinstance(field, Field) else field
    return _of_numba(type(function))


@cache
def _of_numba(kind: type[Any]) -> bool:
    return kind.__module__.partition(".")[0] == "numba"


def refuse_no_field(function: Any, what: str) -> None:
    """Refuse what is no function of ``(t, y, args)``, rather than let Python do so later.

    Raises
    ------
    TypeError
        If it cannot be called, or is a plain function of fewer than three positional arguments.
    """
    if not callable(function):
        raise TypeError(
            f"expected a callable {what} f(t, y, args), received {type(function).__name__}; try a "
            "function, or a module where the face is PyTorch's"
        )
    if not isinstance(function, FunctionType):
        return
    code = function.__code__
    if code.co_argcount < 3 and not code.co_flags & CO_VARARGS:
        given = ", ".join(code.co_varnames[: code.co_argcount])
        raise TypeError(
            f"expected a {what} f(t, y, args), received {function.__name__}({given}); try "
            f"{function.__name__}({given}, args), which may ignore args"
        )


def resolve(field: Callable[..., Any], args: Any) -> tuple[Callable[..., Any], Any]:
    """Return the field and the args to solve with.

    An object whose class has a method ``__ndereg_field__(args) -> (field, args)`` stands for
    another field: a model with its weights, for what it is without them. Nothing that depends on
    the weights is then compiled in.
    """
    stands_for = getattr(type(field), "__ndereg_field__", None)
    return (field, args) if stands_for is None else stands_for(field, args)


def is_known_by_value(value: Any) -> bool:
    """Whether an object of this library says itself which others compute the same.

    It is then a frozen dataclass without a generated equality: an imported program, which compares
    digests. Looking at all its parts on every solve would take longer than the solve.
    """
    kind = type(value)
    record = getattr(kind, "__dataclass_params__", None)
    return (
        record is not None
        and record.frozen
        and not record.eq
        and kind.__eq__ is not object.__eq__
        and kind.__module__.partition(".")[0] == "ndereg"
    )
