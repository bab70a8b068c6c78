"""A vector field together with what a framework cannot derive from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from inspect import CO_VARARGS, CO_VARKEYWORDS, getattr_static
from types import FunctionType, MethodType
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


def refuse_no_field(function: Any, what: str, state: str = "y") -> None:
    """Refuse what is no function of ``(t, y, args)``, rather than let Python do so later.

    ``state`` is how the second argument is named in advice.

    Raises
    ------
    TypeError
        If it cannot be called, or not with three positional arguments, as far as that can be told
        without calling it.
    """
    if not callable(function):
        raise TypeError(
            f"expected a callable {what} f(t, {state}, args), received {type(function).__name__}; "
            "try a function, or a module where the face is PyTorch's"
        )
    called, bound = function, 0
    if type(function) is not FunctionType:
        called, bound = _called(function)
        if called is None:
            return
    code = called.__code__
    if code.co_argcount == 3 + bound and not code.co_kwonlyargcount:  # as nearly always
        return
    most = math.inf if code.co_flags & CO_VARARGS else code.co_argcount - bound
    least = code.co_argcount - len(called.__defaults__ or ()) - bound
    positional, last = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
    given = code.co_varnames[bound:positional]
    named = [n for n in code.co_varnames[positional:last] if n not in (called.__kwdefaults__ or ())]
    if most < 3 or least > 3 or named:
        raise TypeError(
            f"expected a {what} f(t, {state}, args), received "
            + _shown(function, [*given, *(["*", *named] if named else [])])
            + f"; try {_advice(function, given if most < 3 else None, state)}"
        )


def _called(function: Any) -> tuple[FunctionType | None, int]:
    """The Python function that an object calls, and how many arguments it brings itself."""
    kind: Any = type(function)
    bound = 1
    if kind is MethodType:
        called = function.__func__
    elif kind is partial:  # what its keywords leave open is not looked at
        called, bound = None if function.keywords else function.func, len(function.args)
    elif type(getattr_static(kind, "__call__")) is FunctionType:
        called = kind.__call__
        flags = called.__code__.co_flags
        if flags & CO_VARARGS and flags & CO_VARKEYWORDS:  # a decorator that hands all on
            called = getattr(called, "__wrapped__", called)
    else:  # jax.jit and numba.njit say whom they wrap
        called, bound = getattr(function, "__wrapped__", None), 0
    return (called, bound) if type(called) is FunctionType else (None, 0)


def _shown(function: Any, names: Sequence[str]) -> str:
    arguments = f"({', '.join(names)})"
    if isinstance(function, (FunctionType, MethodType)):
        return f"{function.__name__}{arguments}"
    return f"an object of type {type(function).__name__} that takes {arguments}"


def _advice(function: Any, given: Sequence[str] | None, state: str) -> str:
    """A call with three arguments; ``given`` are those that it takes, None if they are too many."""
    if given is None:
        return f"(t, {state}, args), with what else it reads in args, or in its closure"
    wanted: list[str] = ["t", state, "args"]
    if len(given) == 1 and given[0] != "t":
        wanted[1] = given[0]
    elif len(given) == 2 and given[1] in ("args", "p", "params"):
        wanted[1:] = given
    elif len(given) == 2 and given[1] != "t":
        wanted[:2] = given
    arguments = ", ".join(wanted)
    if not isinstance(function, (FunctionType, MethodType)):
        return f"lambda {arguments}: field({', '.join(given)})"
    added = " and ".join(name for name in wanted if name not in given)
    ignored = f", which may ignore {added}" if added else ""
    return f"{function.__name__}({arguments}){ignored}"


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
