"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = ("numpy", "numba", "scipy", "jax", "diffrax", "torch", "torchdiffeq", "torchode",
             "torchsde", "numbalsoda", "CyRK")  # fmt: skip


def describe(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, load, Python and the versions of what is compared.

    ``device`` names the GPU, if the solves run on one.
    """
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "device": None if device == "cpu" else _gpu(),
    }


def _gpu() -> str:
    """Name the GPU by the framework that is in use; asking another one would start it there."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        return str(sys.modules["torch"].cuda.get_device_name())
    import jax

    return str(jax.devices("cuda")[0].device_kind)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
