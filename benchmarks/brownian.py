"""Queries a second of a Brownian path, beside diffrax's ``VirtualBrownianTree``.

    python benchmarks/brownian.py [--queries 4096] [--repeats 7]

Every query is the increment over one interval, with the same areas, of as many entries as given,
from a path of the same tolerance; one follows another, as a solver asks. Runs are interleaved; the
median is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

import diffrax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from ndereg.backends.brownian import Entries  # noqa: E402
from ndereg.backends.registry import load_backend  # noqa: E402
from ndereg.plan.brownian import grid  # noqa: E402

LEVY = {
    "W": diffrax.BrownianIncrement,
    "WH": diffrax.SpaceTimeLevyArea,
    "WHK": diffrax.SpaceTimeTimeLevyArea,
}


def peer(areas, tolerance, channels):
    path = diffrax.VirtualBrownianTree(
        0.0, 1.0, tolerance, (channels,), jax.random.key(0), levy_area=LEVY[areas]
    )

    @jax.jit
    def query(s, t):
        return jax.lax.map(lambda ends: path.evaluate(*ends, use_levy=areas != "W"), (s, t))

    return lambda s, t: jax.block_until_ready(query(jnp.asarray(s), jnp.asarray(t)))


def jax_loop(areas, tolerance, channels):
    """One query after another, as a solver asks."""
    source = load_backend("jax").brownian(areas, (0, 0), grid(0.0, 1.0, tolerance), "float64")
    entries = Entries(1, channels, shared=True)

    @jax.jit
    def query(s, t):
        return jax.lax.map(lambda ends: source.increment(*ends, entries), (s, t))

    return lambda s, t: jax.block_until_ready(query(jnp.asarray(s), jnp.asarray(t)))


def numba(areas, tolerance, channels):
    source = load_backend("numba").brownian(areas, (0, 0), grid(0.0, 1.0, tolerance), "float64")
    entries = Entries(1, channels, shared=True)
    return lambda s, t: source.increment(s, t, entries)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{'areas':5} {'levels':>6} {'entries':>7}   queries a second: diffrax, JAX, Numba")
    for areas, levels, channels in (
        ("W", 12, 1), ("WH", 12, 1), ("WHK", 12, 1), ("WH", 20, 1), ("WH", 12, 64),
    ):  # fmt: skip
        count = max(64, options.queries // channels)
        s = rng.uniform(0, 0.9, count)
        t = s + rng.uniform(0.001, 0.1, count)
        paths = [make(areas, 2.0**-levels, channels) for make in (peer, jax_loop, numba)]
        for path in paths:
            path(s, t)
        times = [[] for _ in paths]
        for _ in range(options.repeats):
            for path, seen in zip(paths, times, strict=True):
                start = time.perf_counter()
                path(s, t)
                seen.append(time.perf_counter() - start)
        rates = [count / statistics.median(seen) for seen in times]
        shown = ", ".join(f"{rate:,.0f} ({rate / rates[0]:.1f}x)" for rate in rates)
        print(f"{areas:5} {levels:6} {channels:7}   {shown}")


if __name__ == "__main__":
    main()
