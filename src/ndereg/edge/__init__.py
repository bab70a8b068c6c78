"""The edge: what the user gives, checked, flattened, and turned into a problem for a backend.

Everything that can be refused is refused here, before any work is done, with what was expected,
what was received and what to try.
"""
