"""One problem on every installed backend, compared with the reference.

Three checks: ``replay`` takes single steps of the reference's mesh, from its states, and compares
the new state, the estimates, the penalty and the gradients; ``run`` solves the problem as it is
given and compares decisions, step sizes, solution, penalty and gradients; ``rejections`` does so
from a first step as long as the whole span, so that steps are rejected.

A deviation is given in units of ``epsilon * condition * size``. The condition is measured: the
reference is run again with random rounding (:mod:`ndereg.testing.rounding`), and what a quantity
moves by, relative to its size and to the epsilon of the state's dtype, is its condition, at least
1. Correct backends stay well below the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from ndereg.backends.base import Backend
from ndereg.brownian import BrownianTree
from ndereg.catalogue.serving import DEFAULT_METHOD, DefaultMethod
from ndereg.spec.controller import Controller
from ndereg.spec.regularizer import Regularizer
from ndereg.spec.spec import Batch
from ndereg.spec.stochastic import StochasticMethod
from ndereg.spec.tableau import Tableau
from ndereg.structure import flatten
from ndereg.testing.adaptive import compare_runs
from ndereg.testing.deviation import LIMIT, Row
from ndereg.testing.frameworks import Bench, chosen_backends, numpy_arrays
from ndereg.testing.paths import STOCHASTIC, refuse_foreign_key, settled
from ndereg.testing.replay import replay
from ndereg.testing.report import CrossCheckReport
from ndereg.testing.rounding import RoundingBackend
from ndereg.testing.trial import Outcome, Trial

DRAWS = 6
"""Runs with random rounding that measure what rounding can do."""


def crosscheck(
    field: Any, t_span: Any, y0: Any, args: Any = None, *,
    backends: Sequence[str | Backend] | None = None, t_eval: Any = None,
    method: str | Tableau | StochasticMethod = DEFAULT_METHOD,
    rtol: float = 1e-6, atol: float = 1e-9, controller: Controller | str | None = None,
    first_step: float | None = None, max_steps: int = 10_000, batch: Batch = "joint",
    regularizer: Regularizer | None = None, adjoint: Any = "discrete", key: Any = None,
    gradients: bool = True, replays: int = 12, rejections: bool = True,
    seed: int = 0, limit: float = LIMIT,
) -> CrossCheckReport:  # fmt: skip
    """Solve a problem on several backends and compare everything with the reference.

    Single steps of the reference's mesh, the solve as it is given, and one that begins with
    rejections are compared, in units of what rounding can do; see :mod:`ndereg.testing.checks`.

    Parameters
    ----------
    field : callable, SDE or UnderdampedLangevin
        ``f(t, y, args)`` that runs on every backend: operators, and functions of ``ndereg.ops``. Of
        a stochastic equation drift and diffusion are such functions; it is solved along one path.
    t_span, y0, args
        As for ``solve``; arrays of any framework. float64 asks JAX for its x64 mode.
    backends : sequence of str or Backend, or None
        Which to compare with the reference; None means all whose framework is installed.
    t_eval, method, rtol, atol, controller, first_step, max_steps, batch, regularizer
        As for ``solve``.
    adjoint : {"discrete", "reversible"} or Discrete
        How gradients are computed.
    key : int or BrownianTree
        Of the path of a stochastic equation.
    gradients : bool
        Whether random cotangents are pulled back.
    replays : int
        Most steps that are replayed, spread evenly over the accepted ones.
    rejections : bool
        Whether the third check is made (adaptive steps only).
    seed : int
        Of cotangents and random rounding.
    limit : float
        Largest deviation that passes.

    Returns
    -------
    CrossCheckReport

    Raises
    ------
    ValueError, TypeError
        For bad input, as ``solve``; an error of one backend names it in a note.
    ImportError
        If the framework of a backend that was asked for is not installed.

    Examples
    --------
    >>> from ndereg import ops
    >>> field = lambda t, y, args: ops.sin(t) - args * y
    >>> report = crosscheck(field, (0.0, 2.0), np.ones(2), np.array(0.5), backends=["numpy"])
    >>> report.ok
    True
    """
    trial = Trial(
        field,
        (float(t_span[0]), float(t_span[1])),
        numpy_arrays(y0),
        _typed(args, y0),
        {
            "t_eval": t_eval, "method": method, "rtol": rtol, "atol": atol,
            "controller": controller, "first_step": first_step, "max_steps": max_steps,
            "batch": batch, "regularizer": regularizer, "adjoint": adjoint, "key": key,
        },
        gradients,
    )  # fmt: skip
    benches, left_out = chosen_backends(backends)
    return check_trial(
        trial, benches, left_out, replays=replays, rejections=rejections, seed=seed, limit=limit
    )


def assert_backends_agree(
    field: Any, t_span: Any, y0: Any, args: Any = None, **options: Any
) -> CrossCheckReport:
    """Raise an AssertionError that says who disagrees where; takes what :func:`crosscheck` takes.

    Raises
    ------
    Disagreement
        If a deviation is beyond its limit.

    Examples
    --------
    >>> report = assert_backends_agree(
    ...     lambda t, y, args: -y, (0.0, 1.0), np.ones(1), backends=["numpy"], replays=2
    ... )
    """
    report = crosscheck(field, t_span, y0, args, **options)
    report.raise_if_failed()
    return report


@cache
def _benches() -> tuple[Bench, Bench]:
    """The reference, and the reference with random rounding."""
    return Bench("reference"), Bench(RoundingBackend())


def check_trial(
    trial: Trial,
    benches: Sequence[Bench],
    left_out: tuple[tuple[str, str], ...] = (),
    *,
    replays: int = 12,
    rejections: bool = True,
    seed: int = 0,
    limit: float = LIMIT,
) -> CrossCheckReport:
    """Make all checks of a trial."""
    reference, rounding = _benches()
    trial, path = _settled(trial, reference)
    rounding.backend.random = np.random.default_rng(seed)  # type: ignore[attr-defined]
    bars = trial.cotangents(seed)
    span = abs(trial.t_span[1] - trial.t_span[0])
    checks: dict[str, dict[str, Any]] = {"run": {}}
    if rejections and trial.adaptive and span > 0:
        checks["rejections"] = {"first_step": span}
    rows: list[Row] = []
    runs: dict[str, Outcome] = {}
    for check, changes in checks.items():
        expected = runs[check] = trial.run(reference, bars, **changes)
        rounded = [trial.run(rounding, bars, **changes) for _ in range(DRAWS)]
        for bench in benches:
            actual = trial.run(bench, bars, **changes)
            rows += compare_runs(bench.name, check, trial, expected, actual, rounded, limit)
    first, replayed = replay(
        trial, reference, rounding, benches, runs["run"],
        most=replays, draws=DRAWS, seed=seed, limit=limit, path=path,
    )  # fmt: skip
    attempts = runs["run"].accepted.shape[0]
    return CrossCheckReport((*first, *rows), trial.summary, attempts, replayed, left_out)


def _settled(trial: Trial, reference: Bench) -> tuple[Trial, BrownianTree | None]:
    """The trial of a stochastic equation with the method that it is solved by, and its path."""
    if not isinstance(trial.field, STOCHASTIC):
        return trial, None
    refuse_foreign_key(trial.options.get("key"))
    method, path = settled(reference, trial)
    if not isinstance(trial.options.get("method", DEFAULT_METHOD), DefaultMethod):
        return trial, path
    return replace(trial, options={**trial.options, "method": method}), path


def _typed(args: Any, y0: Any) -> Any:
    """Python numbers in args take the precision of the state, as ``solve`` has it."""
    leaves, structure = flatten(args)
    states = [np.asarray(leaf).dtype for leaf in flatten(numpy_arrays(y0))[0]]
    if not all(dtype.kind in "fc" for dtype in states):
        return numpy_arrays(args)
    real = np.finfo(np.result_type(*states)).dtype
    given = [np.asarray(leaf, real) if type(leaf) in (int, float) else leaf for leaf in leaves]
    return numpy_arrays(structure.unflatten(given))
