"""The checks of the conformance suite, one function a duty of a backend."""

from ndereg.testing.duties.duty import DUTIES, NotServed
from ndereg.testing.duties.ordinary import ARGS, SPAN, Y0, oscillator
from ndereg.testing.duties.stochastic import PATH

__all__ = ["ARGS", "DUTIES", "PATH", "SPAN", "Y0", "NotServed", "oscillator"]
