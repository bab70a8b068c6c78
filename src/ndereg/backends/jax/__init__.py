"""Step programs traced into one XLA loop; differentiable, and native under ``vmap``."""

from ndereg.backends.jax.backend import JaxBackend

__all__ = ["JaxBackend"]
