"""The solve as a loop in Python over step programs, for frameworks that run eagerly.

The reference backend and PyTorch share it; each brings its :class:`machine.HostMachine`.
"""
