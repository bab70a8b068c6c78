"""One solver on one job in a process of its own: time of import and first call, memory.

Run by the harness as ``python -m ndereg.bench.cold SUITE PART FRAMEWORK SOLVER``; prints one line
of JSON.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import subprocess
import sys
import time
from contextlib import nullcontext
from typing import Any

from ndereg.precision import x64

_IMPORTS = {"numpy": "ndereg.numpy", "jax": "ndereg.jax", "torch": "ndereg.torch"}


def measure(suite: str, part: int, framework: str, solver: str, timeout: float) -> dict[str, Any]:
    """Seconds of import and of the first call, and bytes of further memory at a second call."""
    command = [sys.executable, "-m", __name__, suite, str(part), framework, solver]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{solver} failed in a process of its own: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _memory(name: str) -> int:
    """A figure of ``/proc/self/status``, in bytes."""
    with open("/proc/self/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(f"no {name} in /proc/self/status")


def _forget_peak() -> None:
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def _give_back() -> None:
    """Return to the system what the first call freed: kept, a second one would find it there."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in other C libraries
    if trim is not None:
        trim(0)


def main(suite: str, part: str, framework: str, solver: str) -> None:
    """Print the figures."""
    from ndereg.bench.suites import SUITES

    chosen = SUITES[suite]()[int(part)]
    found = next(s for s in chosen.of(framework) if s.name == solver)
    begun = time.perf_counter()
    if found.ours:
        importlib.import_module(_IMPORTS[framework])
    precision: Any = nullcontext()
    if framework == "jax":
        precision = x64(chosen.job.dtype == "float64")
    with precision:
        prepared = found.prepare(chosen.job)
        imported = time.perf_counter() - begun
        prepared.call()
        first = time.perf_counter() - begun - imported
        extra = None
        if sys.platform == "linux":
            _give_back()
            before = _memory("VmRSS")
            _forget_peak()
            prepared.call()
            extra = max(0, _memory("VmHWM") - before)
    print(json.dumps({"import": imported, "first": first, "memory": extra}))


if __name__ == "__main__":
    main(*sys.argv[1:])
