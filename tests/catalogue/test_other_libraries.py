"""The catalogue's coefficients beside those of SciPy and diffrax."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import DOP853, RK23, RK45
from scipy.integrate._ivp import dop853_coefficients

from ndereg.catalogue import lookup


def matrix(rows_, columns):
    dense = np.zeros((len(rows_), columns))
    for i, entries in enumerate(rows_):
        dense[i, : len(entries)] = [float(entry) for entry in entries]
    return dense


def assert_close(ours, theirs):
    np.testing.assert_allclose(np.array(ours, dtype=float), theirs, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(("name", "peer"), [("bosh3", RK23), ("dopri5", RK45)])
def test_pairs_of_scipy(name, peer):
    tableau = lookup(name)
    stages = peer.n_stages
    assert_close(matrix(tableau.a[:stages], peer.A.shape[1]), peer.A)
    assert_close(tableau.b[:stages], peer.B)
    assert_close(tableau.c[:stages], peer.C)
    assert_close(tableau.error[0], -peer.E)
    assert_close(matrix(tableau.interpolant, peer.P.shape[1]), peer.P)
    assert tableau.error_order == peer.error_estimator_order + 1


def test_dop853_of_scipy():
    tableau, peer = lookup("dopri8"), dop853_coefficients
    assert_close(matrix(tableau.dense_a, 16), peer.A)
    assert_close(tableau.dense_c, peer.C)
    assert_close(tableau.b[:-1], peer.B)
    assert tableau.b[-1] == 0
    assert_close(tableau.error[0], peer.E5)
    assert_close(tableau.error[1], peer.E3)
    assert tableau.error_order == DOP853.error_estimator_order + 1


def test_dense_output_of_dop853_of_scipy():
    tableau = lookup("dopri8")
    solver = DOP853(lambda t, y: [y[1] * t, -y[0] + t], 0.0, [1.0, 0.5], 2.0, first_step=0.4)
    solver.step()
    output = solver.dense_output()
    stages = solver.K_extended
    for theta in np.linspace(0.0, 1.0, 11):
        powers = theta ** np.arange(1, 8)
        weights = matrix(tableau.interpolant, 7) @ powers
        ours = solver.y_old + output.h * stages.T @ weights
        np.testing.assert_allclose(ours, output(output.t_old + theta * output.h), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("midpoint", diffrax.Midpoint),
        ("heun", diffrax.Heun),
        ("ralston", diffrax.Ralston),
        ("bosh3", diffrax.Bosh3),
        ("dopri5", diffrax.Dopri5),
        ("tsit5", diffrax.Tsit5),
    ],
)
def test_tableaux_of_diffrax(name, peer):
    tableau, peer = lookup(name), peer.tableau
    for ours, theirs in zip(tableau.a[1:], peer.a_lower, strict=True):
        assert_close(ours, theirs)
    assert_close(tableau.b, peer.b_sol)
    assert_close(tableau.c[1:], peer.c)
    # Its dopri5 has Shampine's embedded row instead, whose estimate is 2/3 of Dormand and Prince's.
    factor = 2 / 3 if name == "dopri5" else 1
    if tableau.adaptive:
        assert_close(factor * np.array(tableau.error[0], dtype=float), peer.b_error)


def test_interpolant_of_tsit5_of_diffrax():
    tableau = lookup("tsit5")
    with jax.enable_x64(True):
        output = diffrax.Tsit5.interpolation_cls(
            t0=jnp.array(0.0),
            t1=jnp.array(1.0),
            y0=jnp.zeros(7),
            y1=jnp.zeros(7),
            k=jnp.eye(7),
        )
        for theta in (0.1, 0.37, 0.9, 1.0):
            ours = matrix(tableau.interpolant, 4) @ theta ** np.arange(1, 5)
            np.testing.assert_allclose(ours, output.evaluate(theta), rtol=1e-12, atol=1e-14)
