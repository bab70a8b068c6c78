"""Peers, autodiff of unrolled steps and finite differences as oracles."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ndereg
import ndereg.jax as nde

from .problem import SPAN, TIMES, Y0, close, parameters, spring


def test_steps_and_solution_of_diffrax():
    """The same Tsit5 steps under the I controller, where no step has to shrink."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffrax

    def decay(t, y, args):
        return -y * args

    y0, rate = jnp.array([1.0, 0.5]), jnp.array([1.0, 0.4])
    peer = diffrax.diffeqsolve(
        diffrax.ODETerm(decay), diffrax.Tsit5(), 0.0, 20.0, 0.01, y0, rate, max_steps=1000,
        stepsize_controller=diffrax.PIDController(
            rtol=0.0, atol=1e-7, pcoeff=0.0, icoeff=1.0, dcoeff=0.0
        ),
        saveat=diffrax.SaveAt(steps=True),
    )  # fmt: skip
    ours = nde.solve(
        decay, (0.0, 20.0), y0, rate, rtol=0.0, atol=1e-7, first_step=0.01, record=True
    )
    count = int(peer.stats["num_accepted_steps"])
    assert ours.stats.naccept == count
    assert ours.stats.nsteps == int(peer.stats["num_steps"])
    ends = ours.steps.t + ours.steps.h
    np.testing.assert_allclose(ends[ours.steps.accepted], peer.ts[:count], rtol=1e-9)
    np.testing.assert_allclose(ours.ys, peer.ys[count - 1], rtol=1e-8, atol=1e-12)


def unrolled(y0, args, mesh, tableau, rtol, atol):
    """The steps of a mesh in plain JAX: final state, sum of E |h|, mean of S / stability size."""
    y, penalties = y0, []
    for t, h in mesh:
        k, g = [], []
        for row, c in zip(tableau.a, tableau.c, strict=True):
            g.append(y + h * sum((float(a) * k_j for a, k_j in zip(row, k, strict=True)), 0.0))
            k.append(spring(t + float(c) * h, g[-1], args))
        y1 = y + h * sum(float(b) * k_j for b, k_j in zip(tableau.b, k, strict=True))
        e = h * sum(float(w) * k_j for w, k_j in zip(tableau.error[0], k, strict=True))
        scale = atol + rtol * jnp.maximum(jnp.abs(y), jnp.abs(y1))
        i, j = tableau.stiffness_pair
        stiffness = jnp.linalg.norm(k[j] - k[i]) / jnp.linalg.norm(g[j] - g[i])
        penalties.append(
            (jnp.sqrt(jnp.mean((e / scale) ** 2)) * abs(h), stiffness / tableau.stability_size)
        )
        y = y1
    errors, stiffnesses = zip(*penalties, strict=True)
    return y, sum(errors), sum(stiffnesses) / len(stiffnesses)


@pytest.mark.parametrize("method", ["tsit5", "dopri5"])
def test_gradient_is_that_of_the_unrolled_steps(method):
    tableau, tolerance = ndereg.lookup(method), 1e-3
    regularizer = ndereg.ErrorEstimate() + 0.5 * ndereg.StiffnessEstimate(reduce="mean")
    options = {"rtol": tolerance, "atol": tolerance, "method": method}
    steps = nde.solve(spring, SPAN, Y0, parameters(), record=True, **options).steps
    kept = np.asarray(steps.accepted)
    assert 3 < kept.sum() < kept.size + 1
    mesh = list(zip(steps.t[kept].tolist(), steps.h[kept].tolist(), strict=True))

    def ours(y0, args):
        sol = nde.solve(spring, SPAN, y0, args, regularizer=regularizer, **options)
        return jnp.sum(jnp.cos(sol.ys)) + 3.0 * sol.penalty

    def plain(y0, args):
        y, error, stiffness = unrolled(y0, args, mesh, tableau, tolerance, tolerance)
        return jnp.sum(jnp.cos(y)) + 3.0 * (error + 0.5 * stiffness)

    value, gradient = jax.value_and_grad(ours, argnums=(0, 1))(jnp.asarray(Y0), parameters())
    expected = jax.value_and_grad(plain, argnums=(0, 1))(jnp.asarray(Y0), parameters())
    close((value, gradient), expected, 1e-9)


def difference(function, x, step=1e-5):
    return (function(x + step) - function(x - step)) / (2 * step)


@pytest.mark.parametrize("adjoint", ["discrete", "backsolve"])
@pytest.mark.parametrize("end", [-1.2])
def test_gradients_of_times(adjoint, end):
    """Continuous ones: of both ends of the span, and of output times at, in and after steps."""
    y0, args = jnp.asarray(Y0), parameters()
    options = {"rtol": 1e-10, "atol": 1e-10, "adjoint": adjoint, "method": "bosh3"}

    def at_end(t0, t1):
        return jnp.sum(jnp.sin(nde.solve(spring, (t0, t1), y0, args, **options).ys))

    def at_times(t0, length):
        times = t0 + length * jnp.array([0.0, 0.2, 0.7, 1.0])
        weights = jnp.arange(8.0).reshape(4, 2)
        ys = nde.solve(spring, (t0, t0 + length), y0, args, t_eval=times, **options).ys
        return jnp.sum(weights * ys)

    for function, arguments in ((at_end, (0.3, end)), (at_times, (0.3, end - 0.3))):
        found = jax.grad(function, argnums=(0, 1))(*arguments)
        first, second = arguments
        expected = (
            difference(partial(lambda f, b, a: f(a, b), function, second), first),
            difference(partial(function, first), second),
        )
        close(found, expected, 1e-7)


def test_times_of_each_sample_have_gradients():
    y0 = jnp.array([[1.0, 0.0], [0.5, 0.5], [-1.0, 0.2]])
    start = jnp.array([[0.4, 1.0], [0.3, 2.1], [1.5, 1.6]])

    def loss(times):
        sol = nde.solve(
            spring, SPAN, y0, parameters(), t_eval=times, batch="independent", rtol=1e-10,
            atol=1e-10, method="bosh3",
        )  # fmt: skip
        return jnp.sum(sol.ys * jnp.arange(12.0).reshape(3, 2, 2))

    found = jax.grad(loss)(start)
    assert found.shape == (3, 2)
    expected = difference(lambda x: loss(start.at[2, 0].set(x)), 1.5)
    close(found[2, 0], expected, 1e-7)


def test_complex_gradients_follow_each_convention():
    """JAX's own unconjugated one under grad; the real inner product in solve_vjp."""

    def field(t, z, args):
        return args * z - 0.1 * z * jnp.abs(z) ** 2

    z0, rate = jnp.array([1.0 + 0.5j, -0.3j]), jnp.asarray(0.2 + 1.5j)
    bar = jnp.array([0.3 - 1.0j, 0.7 + 0.2j])
    options = {"rtol": 1e-8, "atol": 1e-8, "method": "bosh3"}

    def loss(z0, rate):
        return jnp.real(jnp.vdot(bar, nde.solve(field, SPAN, z0, rate, **options).ys))

    found = jax.grad(loss, argnums=(0, 1))(z0, rate)
    by_real = difference(lambda x: loss(z0, rate + x), 0.0)
    by_imag = difference(lambda x: loss(z0, rate + 1j * x), 0.0)
    close(found[1], by_real - 1j * by_imag, 1e-6)
    _, pullback = nde.solve_vjp(field, SPAN, z0, rate, **options)
    close(pullback(bar), jax.tree.map(jnp.conj, found))


def test_pullback_of_solve_vjp_is_the_gradient():
    sol, pullback = nde.solve_vjp(
        spring,
        SPAN,
        Y0,
        parameters(),
        t_eval=TIMES,
        regularizer=ndereg.ErrorEstimate(),
        method="bosh3",
    )
    bar = np.random.default_rng(0).normal(size=sol.ys.shape)

    def loss(y0, args):
        sol = nde.solve(
            spring, SPAN, y0, args, t_eval=TIMES, regularizer=ndereg.ErrorEstimate(), method="bosh3"
        )
        return jnp.sum(bar * sol.ys) + 0.3 * sol.penalty

    close(pullback(bar, 0.3), jax.grad(loss, argnums=(0, 1))(jnp.asarray(Y0), parameters()))
