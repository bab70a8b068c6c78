"""One specification of a differential-equation solve, compiled to NumPy+Numba, PyTorch and JAX."""

__version__ = "0.1.0"
