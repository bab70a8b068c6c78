"""The methods that come with the library, and the place where others are added.

:func:`lookup` finds a tableau by its name, :func:`names` lists them, and :func:`register` adds one,
after its order conditions have been checked.
"""

from __future__ import annotations

import difflib

from ndereg.catalogue import explicit, tsitouras
from ndereg.spec.tableau import Tableau

__all__ = ["lookup", "names", "register"]

_tableaux: dict[str, Tableau] = {}
_aliases: dict[str, str] = {}


def _normalise(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def register(tableau: Tableau, aliases: tuple[str, ...] = ()) -> None:
    _add(tableau, aliases)


def _add(tableau: Tableau, aliases: tuple[str, ...]) -> None:
    key = _normalise(tableau.name)
    _tableaux[key] = tableau
    for alias in aliases:
        _aliases[_normalise(alias)] = key


def lookup(name: str) -> Tableau:
    key = _normalise(name)
    key = _aliases.get(key, key)
    if key in _tableaux:
        return _tableaux[key]
    close = difflib.get_close_matches(key, [*_tableaux, *_aliases], n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"try one of {', '.join(names())}"
    raise ValueError(f"expected the name of a method, received {name!r}; {hint}")


def names() -> tuple[str, ...]:
    """Names of all methods, in the order in which they were added."""
    return tuple(_tableaux)


for _family in (explicit, tsitouras):
    for _tableau, _other_names in _family.ENTRIES:
        _add(_tableau, _other_names)
