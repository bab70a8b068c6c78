"""Cross-checks of backends on a problem of your own, and the conformance kit for new backends.

The backends of ndereg run one specification; here is what proves that they do it alike.
:func:`crosscheck` runs a problem on all of them, :func:`gradient_audit` compares the ways to a
gradient, :mod:`ndereg.testing.conformance` tests a backend, and :mod:`ndereg.testing.strategies`
draws random problems with Hypothesis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndereg.testing.audit import GradientAudit, gradient_audit
    from ndereg.testing.checks import assert_backends_agree, crosscheck
    from ndereg.testing.deviation import Row
    from ndereg.testing.example import Example
    from ndereg.testing.report import CrossCheckReport, Disagreement

__all__ = [
    "CrossCheckReport",
    "Disagreement",
    "Example",
    "GradientAudit",
    "Row",
    "assert_backends_agree",
    "crosscheck",
    "gradient_audit",
]

_HOMES = {
    "CrossCheckReport": "report",
    "Disagreement": "report",
    "Example": "example",
    "GradientAudit": "audit",
    "Row": "deviation",
    "assert_backends_agree": "checks",
    "crosscheck": "checks",
    "gradient_audit": "audit",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: the command line needs none of them to start."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
