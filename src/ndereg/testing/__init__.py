"""Cross-checks of backends on a problem of your own, and the conformance kit for new backends.

The backends of ndereg run one specification; here is what proves that they do it alike.
:func:`crosscheck` runs a problem on all of them, :func:`gradient_audit` compares the ways to a
gradient, :mod:`ndereg.testing.conformance` tests a backend, and :mod:`ndereg.testing.strategies`
draws random problems with Hypothesis.
"""

from ndereg.testing.audit import GradientAudit, gradient_audit
from ndereg.testing.crosscheck import assert_backends_agree, crosscheck
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
