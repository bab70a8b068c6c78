"""Where it is solved: one folder a backend, behind the protocol of :mod:`ndereg.backends.base`."""
