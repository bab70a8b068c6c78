"""Sample Neal's funnel by adaptive Langevin dynamics, and by NUTS where numpyro is installed.

The funnel narrows by a factor of e^3 within two standard deviations of its neck, which one step
size does not serve. ALIGN has an error estimate for one gradient a step, QUICSORT for six.

`--chains 64 --samples 128` is the published experiment (arXiv:2405.06464).
"""

import argparse
import importlib.util

import numpy as np

import ndereg.numpy as nde
from ndereg import ops

ENTRIES, DEVIATION = 10, 3.0


def grad_potential(t, x, args):
    """Of y ~ N(0, 9) and nine entries N(0, exp(y)), with y the first entry of x."""
    y, rest = x[..., :1], x[..., 1:]
    inverse = ops.exp(-y)
    squares = ops.sum(rest * rest, axis=-1, keepdims=True)
    along = y / DEVIATION**2 + 0.5 * (ENTRIES - 1) - 0.5 * inverse * squares
    return ops.concat([along, inverse * rest], axis=-1)


def effective_samples(draws):
    """Effective sample size of (chains, samples): Gelman et al., BDA3, sections 11.4 and 11.5.

    The sum of autocorrelations ends as Geyer's initial monotone sequence does.
    """
    chains, count = draws.shape
    centred = draws - draws.mean(1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(centred, 2 * count, axis=1)) ** 2
    covariances = np.fft.irfft(spectrum, axis=1)[:, :count] / count
    within = np.mean(covariances[:, 0]) * count / (count - 1)
    total = within * (count - 1) / count + np.var(draws.mean(1), ddof=1)
    correlations = 1.0 - (within - covariances.mean(0) * count / (count - 1)) / total
    pairs = correlations[0 : count - count % 2 : 2] + correlations[1:count:2]
    positive = pairs[: np.argmax(pairs < 0)] if np.any(pairs < 0) else pairs
    monotone = np.minimum.accumulate(positive)
    return chains * count / (2.0 * np.sum(monotone) - 1.0)


def report(name, samples, gradients):
    sizes = [effective_samples(samples[:, :, entry]) for entry in range(ENTRIES)]
    mean = np.abs(samples.mean((0, 1))).mean()
    print(
        f"{name:9} {gradients / samples[..., 0].size:10.1f} gradients a sample "
        f"{gradients / min(sizes):9.0f} an effective one (of the worst entry) "
        f"{gradients / np.mean(sizes):9.0f} (on average)   error of the mean {mean:.3f}"
    )


def langevin(method, tolerance, chains, samples, spacing=2.0, warmup=20.0):
    rng = np.random.default_rng(0)
    end = warmup + spacing * samples
    dynamics = nde.UnderdampedLangevin(grad_potential, gamma=1.0, u=1.0)
    start = np.zeros((chains, ENTRIES)), rng.normal(size=(chains, ENTRIES))
    path = nde.BrownianTree(3, 0.0, end, (chains, ENTRIES), 2.0**-12, areas="WHK")
    sol = nde.solve(
        dynamics, (0.0, end), start, method=method, key=path, batch="independent",
        t_eval=warmup + spacing * np.arange(1, samples + 1), rtol=0.0, atol=tolerance,
        controller=nde.PIDController(pcoeff=0.1, icoeff=0.4),
    )  # fmt: skip
    positions, _ = sol.ys
    report(method.upper(), positions, np.sum(sol.stats.nfev))


def nuts(chains, samples):
    import jax
    import jax.numpy as jnp
    from numpyro.infer import MCMC, NUTS

    def potential(x):
        squares = jnp.sum(x[1:] ** 2)
        along = x[0] ** 2 / (2 * DEVIATION**2) + 0.5 * (ENTRIES - 1) * x[0]
        return along + 0.5 * jnp.exp(-x[0]) * squares

    sampler = MCMC(
        NUTS(potential_fn=potential), num_warmup=samples, num_samples=samples, num_chains=chains,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    start = 0.1 * jax.random.normal(jax.random.key(1), (chains, ENTRIES))
    taken = 0.0
    for key, run in ((2, sampler.warmup), (3, sampler.run)):  # both take gradients
        options = {"collect_warmup": True} if key == 2 else {}
        run(jax.random.key(key), init_params=start, extra_fields=("num_steps",), **options)
        taken += np.sum(np.asarray(sampler.get_extra_fields()["num_steps"], float))
    report("NUTS", np.asarray(sampler.get_samples(group_by_chain=True)), taken)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--samples", type=int, default=16)
    given = parser.parse_args()
    langevin("quicsort", 2.0**-6, given.chains, given.samples)
    langevin("align", 0.2, given.chains, given.samples)
    if importlib.util.find_spec("numpyro") is None:
        print("NUTS      is run beside it where numpyro is installed")
    else:
        nuts(given.chains, given.samples)


if __name__ == "__main__":
    main()
