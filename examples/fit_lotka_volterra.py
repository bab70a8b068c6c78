"""Fit the rates of a predator-prey model with NumPy alone: `solve_vjp` and SciPy's BFGS."""

import numpy as np
from scipy.optimize import minimize

import ndereg.numpy as nde


def field(t, y, rates):
    prey, predators = y[0], y[1]
    return nde.ops.stack(
        [
            rates["birth"] * prey - rates["hunt"] * prey * predators,
            rates["feed"] * prey * predators - rates["death"] * predators,
        ]
    )


NAMES = ("birth", "hunt", "feed", "death")
TRUTH = np.array([1.5, 1.0, 1.0, 3.0])
Y0, T_SPAN, TIMES = np.array([1.0, 1.0]), (0.0, 4.0), np.linspace(0.0, 4.0, 41)


def as_args(rates):
    return dict(zip(NAMES, map(np.asarray, rates), strict=True))


def loss_and_gradient(rates, data):
    sol, pullback = nde.solve_vjp(field, T_SPAN, Y0, as_args(rates), t_eval=TIMES, rtol=1e-8)
    residual = sol.ys - data
    _, d_rates = pullback(2.0 * residual)
    return np.sum(residual**2), np.array([float(d_rates[name]) for name in NAMES])


def main():
    data = nde.solve(field, T_SPAN, Y0, as_args(TRUTH), t_eval=TIMES, rtol=1e-8).ys
    start = np.array([1.3, 0.9, 1.1, 2.7])
    fit = minimize(loss_and_gradient, start, args=(data,), jac=True, method="BFGS", tol=1e-6)
    for name, rate in zip(NAMES, fit.x, strict=True):
        print(f"{name:6} {rate:.5f}")
    print("evaluations of the loss:", fit.nfev)
    assert np.allclose(fit.x, TRUTH, atol=1e-4)


if __name__ == "__main__":
    main()
