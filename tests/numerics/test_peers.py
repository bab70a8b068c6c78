"""Numerics against SciPy, closed forms and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import ndereg
from ndereg.backends.registry import load_backend
from ndereg.solve import Face

SOLVE = Face(load_backend("reference"))


def _a1(t: Any, y: Any) -> Any:
    return -y


def _a2(t: Any, y: Any) -> Any:
    return -(y**3) / 2


def _a3(t: Any, y: Any) -> Any:
    return y * np.cos(t)


def _a4(t: Any, y: Any) -> Any:
    return y / 4 * (1 - y / 20)


def _b1(t: Any, y: Any) -> Any:
    return np.stack([2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])])


def _b2(t: Any, y: Any) -> Any:
    return np.array([[-1.0, 1, 0], [1, -2, 1], [0, 1, -1]]) @ y


def _b4(t: Any, y: Any) -> Any:
    r = np.sqrt(y[0] ** 2 + y[1] ** 2)
    return np.stack([-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r])


def _b5(t: Any, y: Any) -> Any:
    return np.stack([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]])


def _c1(t: Any, y: Any) -> Any:
    return np.concatenate([-y[:1], y[:-2] - y[1:-1], y[-2:-1]])


def _d(eccentricity: float) -> Callable[[Any, Any], Any]:
    def orbit(t: Any, y: Any) -> Any:
        r = (y[0] ** 2 + y[1] ** 2) ** 1.5
        return np.stack([y[2], y[3], -y[0] / r, -y[1] / r])

    return orbit


def _e2(t: Any, y: Any) -> Any:
    return np.stack([y[1], (1 - y[0] ** 2) * y[1] - y[0]])


def _orbit_start(e: float) -> Any:
    return np.array([1 - e, 0.0, 0.0, np.sqrt((1 + e) / (1 - e))])


DETEST = {
    "A1": (_a1, np.ones(1)), "A2": (_a2, np.ones(1)), "A3": (_a3, np.ones(1)),
    "A4": (_a4, np.ones(1)), "B1": (_b1, np.array([1.0, 3.0])),
    "B2": (_b2, np.array([2.0, 0.0, 1.0])), "B4": (_b4, np.array([3.0, 0.0, 0.0])),
    "B5": (_b5, np.array([0.0, 1.0, 1.0])), "C1": (_c1, np.eye(10)[0]),
    "D1": (_d(0.1), _orbit_start(0.1)), "D3": (_d(0.5), _orbit_start(0.5)),
    "D5": (_d(0.9), _orbit_start(0.9)), "E2": (_e2, np.array([2.0, 0.0])),
}  # fmt: skip
"""Non-stiff problems of Hull, Enright, Fellen & Sedgwick 1972 (doi:10.1137/0709052), T = 20."""


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7])
@pytest.mark.parametrize(("method", "peer"), [("dopri5", "RK45"), ("dopri8", "DOP853")])
def test_detest(method: str, peer: str, tolerance: float) -> None:
    """SciPy's evaluations and SciPy's errors, to a hundredth, on every problem of the set."""
    ours_nfev = peer_nfev = 0
    slack = 1e-2 * tolerance  # where the solution has decayed to nothing
    worse: list[str] = []
    for name, (field, y0) in DETEST.items():
        truth = solve_ivp(field, (0, 20), y0, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
        theirs = solve_ivp(field, (0, 20), y0, method=peer, rtol=tolerance, atol=tolerance)
        ours = SOLVE.solve(
            lambda t, y, args, field=field: field(t, y), (0, 20), y0, method=method,
            rtol=tolerance, atol=tolerance,
        )  # fmt: skip
        assert ours.stats.nfev <= 1.01 * theirs.nfev, name
        ours_nfev, peer_nfev = ours_nfev + ours.stats.nfev, peer_nfev + theirs.nfev
        if np.abs(ours.ys - truth).max() > 1.01 * np.abs(theirs.y[:, -1] - truth).max() + slack:
            worse.append(name)
    assert ours_nfev <= 1.001 * peer_nfev
    assert not worse


def _forced(t: Any, y: Any, args: Any) -> Any:
    return np.stack([y[1], -np.sin(y[0]) + 0.3 * np.cos(2 * t) * y[1]])


@pytest.mark.parametrize("method", ndereg.names())
def test_order_of_convergence(method: str) -> None:
    """Error against step size on a non-linear problem, at the end and between the steps."""
    tableau = ndereg.lookup(method)
    y0, span, times = np.array([1.2, 0.4]), (0.0, 4.0), np.linspace(0.07, 3.9, 23)
    exact = solve_ivp(
        lambda t, y: _forced(t, y, None), span, y0, method="DOP853", rtol=3e-14, atol=1e-15,
        t_eval=[*times, 4.0], max_step=0.02,
    ).y.T  # fmt: skip
    coarse = 40 if tableau.order <= 3 else 14 if tableau.order <= 5 else 5
    errors, inner = [], []
    sizes = [4.0 / (coarse * factor) for factor in (2, 3, 4)]
    for size in sizes:
        options = {"method": method, "controller": ndereg.ConstantStep(size)}
        end = SOLVE.solve(_forced, span, y0, **options)
        dense = SOLVE.solve(_forced, span, y0, t_eval=times, **options)
        errors.append(np.abs(end.ys - exact[-1]).max())
        inner.append(np.abs(dense.ys - exact[:-1]).max())
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slope > tableau.order - 0.35, (slope, errors)
    assert tableau.interpolant_order is not None
    # the global error of dense output is that of the steps or of the interpolant
    wanted = min(tableau.order, tableau.interpolant_order + 1)
    slope = np.polyfit(np.log(sizes), np.log(inner), 1)[0]
    assert slope > wanted - 0.45, (slope, inner)


@pytest.mark.parametrize("method", ["tsit5", "rk4", "vern7"])
def test_gradient_against_finite_differences(method: str) -> None:
    """Random directions, penalties included, on a fixed mesh (which adaptive steps are not)."""
    rng = np.random.default_rng(5)
    y0, args = rng.normal(size=(2, 3)), rng.normal(size=(3, 3))
    tableau = ndereg.lookup(method)
    penalty = 0.5 * ndereg.ErrorEstimate(squared=True) if tableau.adaptive else None
    if tableau.stiffness_pair is not None:
        stiffness = ndereg.StiffnessEstimate(times_step=True, reduce="mean")
        penalty = stiffness if penalty is None else penalty + stiffness

    def field(t: Any, y: Any, args: Any) -> Any:
        return np.tanh(y @ args + t) - 0.3 * y

    def run(y0: Any, args: Any) -> Any:
        return SOLVE.solve_vjp(
            field, (0.0, 2.0), y0, args, method=method, controller=ndereg.ConstantStep(0.5),
            rtol=1e-2, atol=1e-2, regularizer=penalty, t_eval=np.array([0.0, 0.3, 1.0, 2.0]),
        )  # fmt: skip

    sol, pullback = run(y0, args)
    bar, penalty_bar = rng.normal(size=sol.ys.shape), 0.8 if penalty else 0.0
    d_y0, d_args = pullback(bar, penalty_bar)

    def loss(y0: Any, args: Any) -> float:
        sol, _ = run(y0, args)
        return float(np.sum(bar * sol.ys) + penalty_bar * sol.penalty)

    for _ in range(3):
        dy, da = rng.normal(size=y0.shape), rng.normal(size=args.shape)
        step = 1e-5
        difference = loss(y0 + step * dy, args + step * da) - loss(y0 - step * dy, args - step * da)
        slope = float(np.sum(d_y0 * dy) + np.sum(d_args * da))
        assert slope == pytest.approx(difference / (2 * step), rel=1e-6, abs=1e-8)


def test_rk45_takes_scipys_steps() -> None:
    """Same tableau, same controller: the same steps, evaluations and interpolated states."""
    times = np.linspace(0, 10, 7)
    theirs = solve_ivp(_e2, (0, 10), [2.0, 0.0], rtol=1e-7, atol=1e-7, t_eval=times)
    ours = SOLVE.solve(
        lambda t, y, args: _e2(t, y), (0, 10), np.array([2.0, 0.0]), method="dopri5", rtol=1e-7,
        atol=1e-7, t_eval=times, record=True,
    )  # fmt: skip
    steps = solve_ivp(_e2, (0, 10), [2.0, 0.0], rtol=1e-7, atol=1e-7).t
    assert ours.stats.nfev == theirs.nfev
    # the last step is stretched over a remainder of less than a hundredth
    accepted = ours.steps.t[ours.steps.accepted]
    np.testing.assert_allclose(accepted, steps[: len(accepted)], rtol=1e-6)
    np.testing.assert_allclose(ours.ys, theirs.y.T, rtol=0, atol=1e-8)


def test_float32_stays_close_and_time_stays_exact() -> None:
    """A float32 state keeps float64 time: an offset of 1e6 costs nothing."""
    y0 = np.ones(3, np.float32)
    shifted = SOLVE.solve(lambda t, y, args: -y, (1e6, 1e6 + 1.0), y0, rtol=1e-5, atol=1e-7)
    assert shifted.ys.dtype == np.float32
    np.testing.assert_allclose(shifted.ys, np.exp(-1.0), rtol=2e-5)
