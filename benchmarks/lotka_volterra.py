"""Single trajectory of Lotka-Volterra beside SciPy: time, evaluations and error, in one process.

Run: ``python benchmarks/lotka_volterra.py``. Tolerance 1e-8, float64, T = 100, the same first step
rule and controller; the median of repeated runs with their spread, after a warm-up.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.integrate import solve_ivp

import ndereg.numpy as nde

ARGS = np.array([1.5, 1.0, 3.0, 1.0])
SPAN, START, TOLERANCE = (0.0, 100.0), np.array([1.0, 1.0]), 1e-8
PAIRS = (("dopri5", "RK45"), ("tsit5", "RK45"), ("dopri8", "DOP853"))


def lotka_volterra(t: Any, y: Any, args: Any) -> Any:
    """Predators and prey."""
    a, b, c, d = args[0], args[1], args[2], args[3]
    return np.stack([a * y[0] - b * y[0] * y[1], -c * y[1] + d * y[0] * y[1]])


def timed(call: Callable[[], Any], repeats: int) -> tuple[float, float, float, Any]:
    """Median, least and greatest time in milliseconds, and the last result."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), min(times), max(times), result


def main() -> None:
    """Print the table."""
    truth = solve_ivp(
        lambda t, y: lotka_volterra(t, y, ARGS),
        SPAN,
        START,
        method="DOP853",
        rtol=1e-13,
        atol=1e-13,
    ).y[:, -1]
    table = Table(title=f"Lotka-Volterra, T = 100, tolerance {TOLERANCE:g}: {platform.processor()}")
    for column in ("solver", "median ms", "min..max ms", "evaluations", "error", "SciPy / ours"):
        table.add_column(column, justify="right")
    for method, peer in PAIRS:

        def theirs(peer: str = peer) -> Any:
            return solve_ivp(
                lambda t, y: lotka_volterra(t, y, ARGS), SPAN, START, method=peer, rtol=TOLERANCE,
                atol=TOLERANCE,
            )  # fmt: skip

        def ours(method: str = method) -> Any:
            return nde.solve(
                lotka_volterra, SPAN, START, ARGS, method=method, rtol=TOLERANCE, atol=TOLERANCE
            )

        slow = timed(theirs, 5)
        fast = timed(ours, 101)
        error = np.abs(slow[3].y[:, -1] - truth).max()
        table.add_row(f"SciPy {peer}", f"{slow[0]:.1f}", f"{slow[1]:.1f}..{slow[2]:.1f}",
                      str(slow[3].nfev), f"{error:.1e}", "")  # fmt: skip
        error = np.abs(fast[3].ys - truth).max()
        spread = f"{fast[1]:.3f}..{fast[2]:.3f}"
        table.add_row(f"ndereg {method}", f"{fast[0]:.3f}", spread, str(fast[3].stats.nfev),
                      f"{error:.1e}", f"{slow[0] / fast[0]:.0f}x")  # fmt: skip
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
