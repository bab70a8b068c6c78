"""Sample Neal's funnel by adaptive Langevin dynamics.

The funnel narrows by a factor of e^3 within two standard deviations of its neck, which one step
size does not serve. ALIGN has an error estimate for one gradient a step, QUICSORT for two, or for
six by halving the step. `ndereg compare langevin` is the whole study, with NUTS beside them.
"""

import argparse

import numpy as np

import ndereg.numpy as nde
from ndereg.experiments.langevin import DEVIATION, ENTRIES, gradient
from ndereg.experiments.sampling import figures_of_funnel


def sample(method, tolerance, chains, samples, spacing=2.0, warmup=32.0):
    x, v = np.random.default_rng(0).normal(size=(2, chains, ENTRIES))
    x[:, 0] = 0.0
    end = warmup + spacing * samples
    sol = nde.solve(
        nde.UnderdampedLangevin(gradient, gamma=1.0, u=1.0),
        (0.0, end),
        (x, v),
        method=method,
        key=nde.BrownianTree(0, 0.0, end, (chains, ENTRIES), 2.0**-12, areas="WHK"),
        batch="independent",
        t_eval=warmup + spacing * np.arange(1, samples + 1),
        rtol=0.0,
        atol=tolerance,
        controller=nde.PIDController(pcoeff=0.1, icoeff=0.4),
        max_steps=10_000_000,
        throw=False,
    )
    kept = sol.status == 0  # a chain that fell into the neck, below the path's resolution, failed
    return sol.ys[0][kept], np.sum(sol.stats.nfev)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--samples", type=int, default=16)
    given = parser.parse_args()
    for method, tolerance in (("quicsort", 2.0**-6), ("quicsort_embedded", 0.05), ("align", 0.1)):
        samples, gradients = sample(method, tolerance, given.chains, given.samples)
        found = figures_of_funnel(samples, gradients, DEVIATION)
        print(
            f"{method:17} {found['gradients']:6.1f} gradients a sample, "
            f"{found['effective_gradients']:5.0f} an effective one; "
            f"error of the mean {found['mean_error']:.3f}"
        )


if __name__ == "__main__":
    main()
