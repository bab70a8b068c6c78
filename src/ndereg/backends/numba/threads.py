"""Parts of a batch in threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

__all__ = ["in_threads", "thread_count"]

CHUNKS = 16
"""Parts of a batch, however many threads there are, so that sums over them are the same."""


def in_threads(chunk: Callable[[int, int], Any], samples: int, pieces: int = CHUNKS) -> list[Any]:
    """Results of ``chunk(start, stop)`` over all samples, in threads where there are several."""
    pieces = min(samples, pieces, CHUNKS)
    edges = [round(i * samples / pieces) for i in range(pieces + 1)]
    spans = list(pairwise(edges))
    if pieces == 1 or thread_count() == 1:
        return [chunk(*span) for span in spans]
    return list(_pool().map(lambda span: chunk(*span), spans))


@cache
def thread_count() -> int:
    """Threads over the samples of an independent batch.

    Raises
    ------
    ValueError
        If ``NDEREG_NUM_THREADS`` is set to anything but a positive integer.
    """
    given = os.environ.get("NDEREG_NUM_THREADS")
    if given is None:
        usable = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
        return len(usable(0)) if usable else os.cpu_count() or 1
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(
            f"expected a positive integer in NDEREG_NUM_THREADS, received {given!r}; try 2"
        )
    return int(given)


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that wait from one solve to the next."""
    return ThreadPoolExecutor(thread_count(), "ndereg")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
