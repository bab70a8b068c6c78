"""Many initial values at once, each with its own steps: a blow-up does not disturb the others."""

import numpy as np

import ndereg.numpy as nde


def field(t, y, args):
    return y * y  # y(t) = y0 / (1 - y0 t) is infinite at t = 1 / y0


def main():
    y0 = np.array([[-1.0], [0.1], [0.5], [2.0]])
    sol = nde.solve(field, (0.0, 1.0), y0, batch="independent", rtol=1e-8, throw=False)
    for start, end, status, steps in zip(
        y0[:, 0], sol.ys[:, 0], sol.status, sol.stats.naccept, strict=True
    ):
        status = nde.Status(int(status))
        print(f"y(0) = {start:4.1f}  y(1) = {end:12.5g}  {steps:4d} steps  {status.name}")
    assert list(sol.status[:3]) == [nde.Status.SUCCESS] * 3
    assert sol.status[3] != nde.Status.SUCCESS
    assert np.allclose(sol.ys[:3], y0[:3] / (1 - y0[:3]), rtol=1e-6)


if __name__ == "__main__":
    main()
