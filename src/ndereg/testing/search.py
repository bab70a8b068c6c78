"""Random problems on every backend, and the smallest one on which they disagree.

``python -m ndereg.testing.search`` is one share of a search: it prints a line of JSON an example.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ndereg.backends.base import with_paths
from ndereg.testing.deviation import Row
from ndereg.testing.example import Example
from ndereg.testing.families import Family, StochasticFamily
from ndereg.testing.frameworks import chosen_backends

PER_FAMILY = 15
"""Examples that share what is compiled."""
REPLAYS = 3
"""Steps replayed of each example."""
SHRINKING = 120.0
"""Most seconds spent on finding a smaller failing example."""


@dataclass(frozen=True)
class Failure:
    """An example on which backends disagree, or one of them raised.

    Attributes
    ----------
    verdict : str
        Who disagrees where, or the error.
    code : str
        A program that reproduces it.
    """

    verdict: str
    code: str


@dataclass(frozen=True)
class Checked:
    """What came of one example: its rows, or the failure that the search ended with."""

    rows: tuple[Row, ...] = ()
    failure: Failure | None = None

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Checked:
        """Read a line of :meth:`to_json`."""
        data = json.loads(line)
        failure = None if data["failure"] is None else Failure(**data["failure"])
        return cls(tuple(Row(**row) for row in data["rows"]), failure)


def check_example(example: Example, backends: Sequence[str] | None) -> tuple[Checked, list[str]]:
    """Check one example; returns the outcome and the names of the backends that failed."""
    try:
        report = example.crosscheck(backends=backends, **_checks(example))
    except Exception as error:
        verdict = "".join(traceback.format_exception(error))
        name = getattr(error, "backend", "reference")
        names = backends if name.startswith("reference") else [name]
        code = example.code(backends=names, **_checks(example))
        return Checked(failure=Failure(verdict, code)), list(names or ())
    if report.ok:
        return Checked(report.rows), []
    names = list(dict.fromkeys(row.backend for row in report.failures))
    code = example.code(backends=names, **_checks(example))
    return Checked(report.rows, Failure(report.verdict(), code)), names


def _checks(example: Example) -> dict[str, Any]:
    """Which checks are made; none that would need another kernel."""
    replays = 0 if "t_eval" in example.options else REPLAYS
    return {"replays": replays, "rejections": False}


def search(
    count: int,
    seed: int,
    backends: Sequence[str] | None,
    found: Callable[[Checked], None],
    shrinking: float = SHRINKING,
) -> None:
    """Check ``count`` random examples; ``found`` receives each, and the smallest failure last.

    About half of their families are stochastic equations, where all backends solve these.

    The examples depend on ``count`` and ``seed`` alone.
    """
    from hypothesis import HealthCheck, Phase, Verbosity, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    from ndereg.testing import strategies

    state = _Search(count, backends, found, shrinking)
    drawn: st.SearchStrategy[Family | StochasticFamily] = strategies.families()
    if _all_have_paths(backends):
        drawn = st.one_of(drawn, strategies.stochastic_families())

    @seeded(seed)
    @settings(
        max_examples=-(-count // PER_FAMILY), database=None, deadline=None, derandomize=False,
        verbosity=Verbosity.quiet, report_multiple_bugs=False, print_blob=False,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(drawn, st.integers(0, 2**16))
    def check(family: Family | StochasticFamily, number: int) -> None:
        state.check(family, number)

    with contextlib.suppress(_Failed):
        check()
    if state.smallest is not None:
        found(Checked(failure=state.smallest))


def _all_have_paths(backends: Sequence[str] | None) -> bool:
    """Whether all backends solve stochastic equations, so that they are drawn too."""
    try:
        for bench in chosen_backends(backends)[0]:
            with_paths(bench.backend)
    except ValueError:
        return False
    return True


class _Failed(Exception):
    """Tells Hypothesis that an example failed."""


class _Search:
    """Examples are counted until one fails; from then on it is made smaller."""

    def __init__(
        self,
        count: int,
        backends: Sequence[str] | None,
        found: Callable[[Checked], None],
        shrinking: float,
    ) -> None:
        self.left, self.backends, self.found = count, backends, found
        self.shrinking, self.deadline = shrinking, math.inf
        self.smallest: Failure | None = None
        self.known: dict[tuple[Family | StochasticFamily, int], Failure] = {}

    def check(self, family: Family | StochasticFamily, number: int) -> None:
        key = (family, number)
        if key in self.known:
            self.fail(self.known[key])
        shrinks = self.smallest is not None
        if time.monotonic() > self.deadline or not (shrinks or self.left):
            return
        for index in range(PER_FAMILY if shrinks else min(PER_FAMILY, self.left)):
            checked, names = check_example(family.example(number, index), self.backends)
            if not shrinks:
                self.left -= 1
                self.found(Checked(checked.rows))
            if checked.failure is not None:
                if not shrinks:
                    self.deadline = time.monotonic() + self.shrinking
                    self.backends = names or self.backends
                self.known[key] = checked.failure
                self.fail(checked.failure)

    def fail(self, failure: Failure) -> None:
        self.smallest = failure
        raise _Failed


def in_processes(
    count: int, seed: int, backends: Sequence[str] | None, processes: int
) -> Iterator[Checked]:
    """Search in several processes; yields what they find as they find it.

    Every process takes an equal share with a seed of its own and stays on one core.

    Raises
    ------
    RuntimeError
        If a process dies.
    """
    import subprocess
    from concurrent.futures import ThreadPoolExecutor
    from queue import SimpleQueue

    shares = [share for share in _shares(count, processes) if share]
    lines: SimpleQueue[str | None] = SimpleQueue()
    single = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NDEREG_NUM_THREADS"), "1"
    )
    workers = []
    for index, share in enumerate(shares):
        command = [sys.executable, "-m", "ndereg.testing.search", str(share), str(seed + index)]
        if backends is not None:
            command += ["--backends", ",".join(backends)]
        workers.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, env={**os.environ, **single}
            )
        )

    def read(worker: Any) -> None:
        with worker:
            for line in worker.stdout:
                lines.put(line)
        lines.put(None)

    with ThreadPoolExecutor(len(workers)) as pool:
        for worker in workers:
            pool.submit(read, worker)
        ended = 0
        try:
            while ended < len(workers):
                line = lines.get()
                if line is None:
                    ended += 1
                else:
                    yield Checked.from_json(line)
        finally:  # also where nobody wants the rest
            for worker in workers:
                worker.terminate()
    dead = [worker.returncode for worker in workers if worker.returncode]
    if dead:
        raise RuntimeError(f"a process of the search ended with status {dead[0]}; see its output")


def _shares(count: int, processes: int) -> list[int]:
    """Whole families for every process."""
    families = -(-count // PER_FAMILY)
    shares, left = [], count
    for index in range(processes):
        own = min(left, PER_FAMILY * (families // processes + (index < families % processes)))
        shares.append(own)
        left -= own
    return shares


def main() -> None:
    """Search one share and print a line an example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("--backends", default=None)
    given = parser.parse_args()
    names = None if given.backends is None else given.backends.split(",")
    if "torch" in sys.modules or names is None or "torch" in names:
        _one_thread()
    search(given.count, given.seed, names, lambda checked: print(checked.to_json(), flush=True))


def _one_thread() -> None:
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
