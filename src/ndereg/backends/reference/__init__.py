"""The normative semantics: step programs interpreted in plain NumPy, slowly and readably."""

from ndereg.backends.reference.backend import ReferenceBackend

__all__ = ["ReferenceBackend"]
