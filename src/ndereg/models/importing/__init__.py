"""Models written in PyTorch or JAX, as programs.

Each framework has its own way in. :mod:`~ndereg.models.importing.from_torch` follows ``torch.fx``
or ``torch.export``; :mod:`~ndereg.models.importing.from_jax` follows the structure of modules that
it knows, and the jaxpr of others.
"""
