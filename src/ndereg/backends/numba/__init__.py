"""The solve compiled by Numba: step programs and traced fields as one nopython loop."""

from ndereg.backends.numba.backend import NumbaBackend

__all__ = ["NumbaBackend"]
