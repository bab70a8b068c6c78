"""Duties by name, and how one compares a backend with what is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ndereg.testing.checks import check_trial
from ndereg.testing.frameworks import Bench
from ndereg.testing.trial import Trial

DUTIES: dict[str, Callable[[Bench], None]] = {}
"""The checks by name, in the order in which they are run; each raises an AssertionError."""


class NotServed(Exception):
    """A backend does not offer what the duty is about, and says so."""


def duty(name: str) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Add a check under a name."""

    def added(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
        DUTIES[name] = function
        return function

    return added


def agree(bench: Bench, field: Any, span: Any, y0: Any, args: Any, **options: Any) -> None:
    """Cross-check with the reference."""
    given = {"rtol": 1e-5, "atol": 1e-6, "max_steps": 1000, **options}
    replays = given.pop("replays", 4)
    trial = Trial(field, span, y0, args, given)
    check_trial(trial, [bench], replays=replays).raise_if_failed()


def expect(what: str, received: Any, expected: Any, tolerance: float = 0.0) -> None:
    """Raise unless arrays agree to a tolerance relative to the largest entry."""
    a, b = (np.asarray(x) * 1.0 for x in (received, expected))
    size = float(np.max(np.abs(b), initial=0.0)) or 1.0
    ok = a.shape == b.shape and bool(np.all(np.abs(a - b) <= tolerance * size))
    assert ok, f"expected {what} = {b}, received {a}"
