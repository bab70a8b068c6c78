"""The methods that come with the library, and the place where others are added.

:func:`lookup` finds a tableau by its name, :func:`names` lists them, and :func:`register` adds one.
No tableau is handed out before :func:`ndereg.spec.conditions.check` has passed it.

A method of the library is one entry in one of the modules here: a tableau, its reference, and the
other names that it answers to.
"""

from __future__ import annotations

import difflib
from typing import Literal

from ndereg.catalogue import (
    dop853,
    explicit,
    langevin,
    stochastic,
    tsitouras,
    verner6,
    verner7,
    verner8,
)
from ndereg.spec import conditions
from ndereg.spec import stochastic as stochastic_spec
from ndereg.spec.langevin import LangevinMethod, check_langevin
from ndereg.spec.stochastic import StochasticMethod, StochasticTableau
from ndereg.spec.tableau import Tableau

__all__ = ["check", "lookup", "names", "register"]

Method = Tableau | StochasticMethod

_tableaux: dict[str, Method] = {}
_aliases: dict[str, str] = {}
_checked: set[str] = set()


def check(tableau: Method) -> None:
    """Check the coefficients of a method against the conditions that it has to meet.

    Raises
    ------
    ValueError
        Naming the condition that is violated.
    """
    if isinstance(tableau, StochasticTableau):
        stochastic_spec.check(tableau)
    elif isinstance(tableau, LangevinMethod):
        check_langevin(tableau)
    elif isinstance(tableau, Tableau):
        conditions.check(tableau)


def register(tableau: Method, aliases: tuple[str, ...] = ()) -> None:
    """Check a tableau and make it known to :func:`lookup`.

    Parameters
    ----------
    tableau
        The method. Registering the same one again does nothing.
    aliases
        Further names that it answers to.

    Raises
    ------
    ValueError
        When an order condition is violated, naming it, or when a name belongs to another method.

    Examples
    --------
    >>> from fractions import Fraction
    >>> third = Fraction(1, 3)
    >>> register(Tableau("kutta3", 3, ((), (1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6)))
    >>> lookup("Kutta3").stages
    3
    """
    key = _normalise(tableau.name)
    if not key:
        raise ValueError("expected a tableau with a name, received an empty one; try name='mine'")
    for name in (key, *map(_normalise, aliases)):
        taken = _tableaux.get(_aliases.get(name, name))
        if taken not in (None, tableau):
            raise ValueError(
                f"expected a name that no other method has, received {name!r} for a tableau that "
                f"differs from the registered {taken.name!r}; try another name"
            )
    check(tableau)
    _add(tableau, aliases)
    _checked.add(key)


def lookup(name: str) -> Method:
    """Return the method of that name, a Tableau or a StochasticMethod.

    Upper and lower case are alike, and so are ``-``, ``_`` and blanks.

    Raises
    ------
    ValueError
        When there is no such method, naming the closest ones.

    Examples
    --------
    >>> lookup("Tsit5")
    <Tableau 'tsit5': order 5, 7 stages>
    >>> lookup("cash-karp") is lookup("cash_karp")
    True
    """
    if not isinstance(name, str):
        raise ValueError(
            f"expected the name of a method, received {name!r} of type {type(name).__name__}; "
            "try 'tsit5'"
        )
    key = _normalise(name)
    key = _aliases.get(key, key)
    if key not in _tableaux:
        close = difflib.get_close_matches(key, [*_tableaux, *_aliases], n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise ValueError(
            f"expected the name of a method, received {name!r}; {hint}try one of "
            f"{', '.join(_tableaux)}"
        )
    # Checking waits until a method is asked for: all of them together take half a second.
    if key not in _checked:
        check(_tableaux[key])
        _checked.add(key)
    return _tableaux[key]


def names(equation: Literal["ode", "sde"] = "ode") -> tuple[str, ...]:
    """Names of all methods, in the order in which they were added.

    Parameters
    ----------
    equation : {"ode", "sde"}
        Those of ordinary equations, or of stochastic ones.

    Examples
    --------
    >>> names()[:3]
    ('euler', 'midpoint', 'heun')
    >>> names("sde")[:2]
    ('euler_maruyama', 'stochastic_heun')
    """
    kind = Tableau if equation == "ode" else StochasticMethod
    return tuple(name for name, method in _tableaux.items() if isinstance(method, kind))


def _normalise(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def _add(tableau: Method, aliases: tuple[str, ...]) -> None:
    key = _normalise(tableau.name)
    _tableaux[key] = tableau
    for alias in aliases:
        _aliases[_normalise(alias)] = key


for _family in (explicit, tsitouras, verner6, verner7, verner8, dop853):
    for _tableau, _other_names in _family.ENTRIES:
        _add(_tableau, _other_names)
for _method, _other_names in (*stochastic.ENTRIES, *langevin.ENTRIES):
    _add(_method, _other_names)
