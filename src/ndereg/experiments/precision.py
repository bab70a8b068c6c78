"""Work against precision of a trained model: what a prediction costs at every tolerance.

A model that was regularized at one tolerance may be cheaper there only. The curve shows whether it
is at all of them, and what error a user of the cheaper prediction accepts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ndereg.backends.registry import load_backend
from ndereg.experiments.recipe import Batch, Task
from ndereg.experiments.runners.base import Runner
from ndereg.models.parameters import map_leaves, unflatten
from ndereg.sde import SDE
from ndereg.solve import Face
from ndereg.spec.status import SolveError

TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Relative and absolute tolerance of each point."""

FINE = {"method": "dopri8", "rtol": 1e-10, "atol": 1e-10}
"""The solve that is taken for exact, in double precision."""

Curve = list[dict[str, Any]]


def work_precision(task: Task, runner: Runner, counted: Any) -> Curve:
    """Return a point for every tolerance: ``tolerance``, ``nfev``, ``error``.

    Parameters
    ----------
    task : Task
    runner : Runner
        With the trained parameters.
    counted : batch
        ``task.counted``, placed by the runner.

    Returns
    -------
    list of dict
        ``error`` is the root mean square by which the prediction differs from that of
        :func:`exact_prediction`, over the root mean square of the latter. In single precision it
        does not fall below some 1e-7. A tolerance at which the solve fails is left out. There is
        no curve of a stochastic equation, whose predictions vary more with the noise.
    """
    if isinstance(task.field, SDE):
        return []
    try:
        exact = exact_prediction(task, unflatten(runner.params()))
    except SolveError:
        return []
    points = []
    for tolerance in TOLERANCES:
        try:
            output, nfev = runner.predict(counted, rtol=tolerance, atol=tolerance)
        except RuntimeError:
            continue
        missed = root_mean_square(np.asarray(output, "float64") - exact)
        error = missed / max(root_mean_square(exact), 1e-300)
        points.append({"tolerance": tolerance, "nfev": nfev, "error": error})
    return points


def exact_prediction(task: Task, params: dict[str, Any]) -> np.ndarray:
    """Return the prediction of the counted batch by :data:`FINE`, with parameters in float64.

    On the NumPy reference, which compiles nothing.
    """
    solve = Face(load_backend("reference")).solve
    wide = map_leaves(_wide, params)
    batch: Batch = {name: _wide(array) for name, array in task.counted.items()}
    y0, context = task.encode(wide, batch)
    field, more = task.prediction()
    options = {**task.solve_options(), **more, **FINE}
    sol = solve(field, task.t_span, y0, task.args(wide, context), **options)
    return np.asarray(task.decode(wide, sol.ys, context))


def _wide(array: Any) -> np.ndarray:
    found = np.asarray(array)
    return found.astype("float64") if found.dtype.kind == "f" else found


def root_mean_square(values: np.ndarray) -> float:
    """Return that of all entries."""
    return float(np.sqrt(np.mean(np.square(values))))
