"""One problem run on one backend, and what it returned in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ndereg.edge.options import resolve_method
from ndereg.spec.controller import ConstantStep
from ndereg.structure import flatten
from ndereg.testing.frameworks import Bench
from ndereg.testing.paths import equation_name


@dataclass(frozen=True, eq=False)
class Trial:
    """A problem in NumPy arrays, with the options of its solves.

    Attributes
    ----------
    field : callable, SDE or UnderdampedLangevin
    t_span : tuple of float
    y0, args : nested arrays of NumPy
    options : mapping
        Of ``solve``: method, rtol, atol, controller, batch, regularizer, max_steps, key, ...
    gradients : bool
        Whether cotangents are pulled back.
    """

    field: Any
    t_span: tuple[float, float]
    y0: Any
    args: Any
    options: Mapping[str, Any]
    gradients: bool = True

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Of the flat state."""
        return np.result_type(*(leaf.dtype for leaf in flatten(self.y0)[0]))

    @property
    def epsilon(self) -> float:
        """Of the state's precision."""
        return float(np.finfo(self.dtype).eps)

    @cached_property
    def wide(self) -> bool:
        """Whether anything needs 64 bits."""
        leaves = [*flatten(self.y0)[0], *flatten(self.args)[0]]
        return any(leaf.dtype.name in ("float64", "complex128", "int64") for leaf in leaves)

    @property
    def adaptive(self) -> bool:
        """Whether steps are accepted and rejected."""
        return not isinstance(self.options.get("controller"), ConstantStep)

    @property
    def joint(self) -> bool:
        """Whether there is one step size for the whole state."""
        return bool(self.options.get("batch", "joint") == "joint")

    @property
    def summary(self) -> str:
        """The problem in a line."""
        method = resolve_method(self.options.get("method", "tsit5")).name
        name = equation_name(self.field)
        return f"{name} ({method}, {self.dtype.name}, {self.options.get('batch', 'joint')})"

    def cotangents(self, seed: int) -> tuple[Any, Any]:
        """Random cotangents of the solution and of the penalty."""
        random = np.random.default_rng(seed)
        leaves, structure = flatten(self.y0)
        times = self.options.get("t_eval")
        bars = []
        for leaf in leaves:
            shape = leaf.shape
            if times is not None:
                count = np.shape(times)[-1]
                shape = (count, *shape) if self.joint else (shape[0], count, *shape[1:])
            bar = random.normal(size=shape)
            if leaf.dtype.kind == "c":
                bar = bar + 1j * random.normal(size=shape)
            bars.append(np.asarray(bar, leaf.dtype))
        penalty_bar: Any = 0.0
        if self.options.get("regularizer") is not None:
            real = np.finfo(self.dtype).dtype
            samples = () if self.joint else (leaves[0].shape[0],)
            penalty_bar = np.asarray(random.normal(size=samples), real)
        return structure.unflatten(bars), penalty_bar

    def run(self, bench: Bench, bars: tuple[Any, Any], **changes: Any) -> Outcome:
        """Solve on a backend, with changed options or ``t_span`` and ``y0``."""
        span, y0 = changes.pop("t_span", self.t_span), changes.pop("y0", self.y0)
        options = {**self.options, **changes, "record": True, "throw": False}
        d_y0 = d_args = None
        try:
            with bench.precision(self.wide):
                if self.gradients:
                    solution, d_y0, d_args = bench.gradient(
                        self.field, span, y0, self.args, bars[0], bars[1], **options
                    )
                else:
                    solution = bench.solve(self.field, span, y0, self.args, **options)
                return _outcome(bench, solution, d_y0, self._real(d_args))
        except Exception as error:
            note = f"while cross-checking {self.summary} on the backend {bench.name!r}"
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            error.backend = bench.name  # type: ignore[attr-defined]
            raise

    def _real(self, d_args: Any) -> Any:
        """Cotangents of the arrays that have any."""
        if d_args is None:
            return None
        pairs = zip(flatten(d_args)[0], flatten(self.args)[0], strict=True)
        kept = {i: bar for i, (bar, arg) in enumerate(pairs) if arg.dtype.kind in "fc"}
        names = flatten(self.args)[1].paths("args")
        return {names[i]: bar for i, bar in kept.items()} or None


@dataclass(frozen=True)
class Outcome:
    """What a run returned, in NumPy; the recorded columns are ``(attempts, samples)``."""

    ys: Any
    penalty: Any
    counts: dict[str, list[int]]
    steps: dict[str, np.ndarray[Any, Any]]
    d_y0: Any
    d_args: Any

    @property
    def accepted(self) -> np.ndarray[Any, Any]:
        """Whether each attempt of each sample was accepted."""
        return self.steps["accepted"]


def _outcome(bench: Bench, solution: Any, d_y0: Any, d_args: Any) -> Outcome:
    def column(name: str) -> np.ndarray[Any, Any]:
        values = bench.get(getattr(solution.steps, name))
        values = values[:, None] if values.ndim == 1 else values
        return values.astype(bool if name == "accepted" else np.float64)

    counts = {name: getattr(solution.stats, name) for name in ("nfev", "naccept", "nreject")}
    counts["status"] = solution.status
    return Outcome(
        ys=bench.get(solution.ys),
        penalty=bench.get(solution.penalty),
        counts={
            name: np.ravel(np.asarray(bench.get(value), np.int64)).tolist()
            for name, value in counts.items()
        },
        steps={name: column(name) for name in ("t", "h", "error", "stiffness", "accepted")},
        d_y0=d_y0,
        d_args=d_args,
    )


def by_sample(values: Any) -> Any:
    """Numbers of the samples apart from one another, the only one by itself."""
    numbers = list(np.ravel(values))
    return numbers if len(numbers) > 1 else numbers[0]
