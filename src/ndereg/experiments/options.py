"""Settings as words of the command line."""

from __future__ import annotations

import dataclasses
from types import NoneType
from typing import Any, get_args, get_type_hints

OPTIONS = (
    "backend", "device", "method", "rtol", "atol", "epochs", "steps", "batch_size", "hidden",
    "optimizer", "learning_rate", "learning_rate_decay", "regularizers", "rows", "weights",
    "schedule", "seeds", "data", "times", "density", "divergence", "paths", "tested",
    "evaluate_every", "threads",
)  # fmt: skip
"""Settings that have an option of their own; all others are chosen by ``--set NAME=VALUE``."""


def parse_setting(kind: type, text: str) -> tuple[str, Any]:
    """Return the name and the value of ``NAME=VALUE``, of the type that the settings give it.

    Parameters
    ----------
    kind : type
        A dataclass of settings. A name that it lacks keeps its text; the recipe refuses it.
    text : str

    Raises
    ------
    ValueError
        If this is no ``NAME=VALUE``, the setting has an option of its own, or the value is not of
        its type.

    Examples
    --------
    >>> from ndereg.experiments.sde_gan import SDEGANSettings
    >>> parse_setting(SDEGANSettings, "points=16"), parse_setting(SDEGANSettings, "dt=none")
    (('points', 16), ('dt', None))
    """
    written, equals, value = text.partition("=")
    name = written.replace("-", "_")
    if not (name and equals and value):
        free = {each.name: each.default for each in without_option(kind)}
        raise ValueError(
            f"expected --set NAME=VALUE, received {text!r}; try one of "
            f"{', '.join(f'{name}={default}' for name, default in free.items())}"
        )
    if name in OPTIONS:
        raise ValueError(f"{name} has an option of its own, received --set {text}; try --help")
    if name not in {each.name for each in dataclasses.fields(kind)}:
        return name, value
    hint = get_type_hints(kind)[name]
    types = get_args(hint) or (hint,)
    if NoneType in types and value.lower() == "none":
        return name, None
    for number, what in ((int, "an integer"), (float, "a number")):
        if number in types:
            try:
                return name, number(value)
            except ValueError:
                raise ValueError(f"expected {what} as {name}, received --set {text}") from None
    return name, value


def without_option(kind: type) -> list[dataclasses.Field[Any]]:
    """Return the settings that are chosen by ``--set`` alone."""
    return [each for each in dataclasses.fields(kind) if each.name not in OPTIONS]


def written_setting(name: str, value: Any) -> list[str]:
    """Return the words that choose a number or a text."""
    if name in OPTIONS:
        return [f"--{name.replace('_', '-')}", str(value)]
    return ["--set", f"{name}={'none' if value is None else value}"]
