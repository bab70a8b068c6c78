"""What descriptions are made of, checked: a description may come from a file that is not ours."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Sequence
from typing import Any

LARGEST_SIZE = 1 << 20
"""The largest width, length or number of channels that is taken for meant."""

MOST_PARTS = 1000
"""The most layers in one composition."""


def size(what: str, value: Any, least: int = 1, most: int = LARGEST_SIZE) -> int:
    """Return an integer within bounds.

    Raises
    ------
    ValueError
        Naming ``what``.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(
            f"expected an integer for {what}, received {shown(value)}; try {max(least, 8)}"
        )
    if not least <= value <= most:
        raise ValueError(
            f"expected {what} from {least} to {most}, received {shown(value)}; try {max(least, 8)}"
        )
    return int(value)


def sizes(what: str, values: Any, fewest: int = 1, example: str = "(8, 8)") -> tuple[int, ...]:
    """Return a tuple of positive integers.

    Raises
    ------
    ValueError
        Naming ``what``.
    """
    if not isinstance(values, (tuple, list)) or not fewest <= len(values) <= MOST_PARTS:
        raise ValueError(
            f"expected {what} to be {fewest} to {MOST_PARTS} positive integers, received "
            f"{shown(values)}; try {example}"
        )
    return tuple(size(f"{what}[{i}]", value) for i, value in enumerate(values))


def choice(what: str, value: Any, among: Collection[str]) -> str:
    """Return one of the strings ``among``.

    Raises
    ------
    ValueError
        Naming ``what`` and the choices.
    """
    if not isinstance(value, str) or value not in among:
        raise ValueError(
            f"expected {what} among {', '.join(among)}, received {shown(value)}; "
            f"try {next(iter(among))!r}"
        )
    return value


def flag(what: str, value: Any) -> bool:
    """Return True or False.

    Raises
    ------
    ValueError
        Naming ``what``.
    """
    if not isinstance(value, bool):
        raise ValueError(f"expected True or False for {what}, received {shown(value)}; try True")
    return value


def real(what: str, value: Any, least: float = -math.inf) -> float:
    """Return a finite number of at least ``least``.

    Raises
    ------
    ValueError
        Naming ``what``.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"expected a number for {what}, received {shown(value)}; try 1.0")
    if not math.isfinite(value) or value < least:
        bound = "" if least == -math.inf else f" of at least {least}"
        raise ValueError(f"expected a finite {what}{bound}, received {value!r}; try 1.0")
    return float(value)


def instance(what: str, value: Any, kind: type, example: str) -> Any:
    """Return an instance of a class.

    Raises
    ------
    ValueError
        Naming ``what``.
    """
    if not isinstance(value, kind):
        raise ValueError(
            f"expected {what} to be a {kind.__name__}, received {shown(value)}; try {example}"
        )
    return value


def instances(what: str, values: Any, kind: type, example: str) -> tuple[Any, ...]:
    """Return a non-empty tuple of instances of a class.

    Raises
    ------
    ValueError
        Naming ``what``.
    """
    if not isinstance(values, (tuple, list)) or not 1 <= len(values) <= MOST_PARTS:
        raise ValueError(
            f"expected {what} to be 1 to {MOST_PARTS} of {kind.__name__}, received "
            f"{shown(values)}; try {example}"
        )
    return tuple(instance(f"{what}[{i}]", v, kind, example) for i, v in enumerate(values))


def shown(value: Any) -> str:
    """Show a value that may be long."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value) > 20:
        return f"{type(value).__name__} of length {len(value)}"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, say
        return f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= 200 else f"{text[:200]}…"


def span(what: str, value: Any) -> tuple[float, float]:
    """Return a time span.

    Raises
    ------
    ValueError
        Naming ``what``.
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"expected {what}=(t0, t1), received {shown(value)}; try (0.0, 1.0)")
    return real(f"{what}[0]", value[0]), real(f"{what}[1]", value[1])
