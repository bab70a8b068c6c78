"""Staying eager where ``torch.compile`` traces the caller."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch


def eager(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` such that ``torch.compile`` calls it instead of tracing through it.

    A solve is a loop that depends on values, so a compiled caller breaks its graph there; the field
    may be compiled by itself. The compiler is imported by whoever uses it, not here: that takes
    longer than many a solve.
    """
    disabled: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not disabled:
            if "torch._dynamo" not in sys.modules:
                return function(*args, **kwargs)
            disabled.append(torch.compiler.disable(function))
        return disabled[0](*args, **kwargs)

    call.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]  # without self
    return call
