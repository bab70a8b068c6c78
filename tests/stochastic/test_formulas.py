"""One step on a known increment, by formulas and by a library that know nothing of our tableaux."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest

import ndereg
from ndereg.spec.stochastic import StochasticTableau

from .problems import ARGS, DIFFUSIONS, Known, Solver, by_time, close, drift, entrywise, equation

SIZE = 0.3
Y = np.array([0.4, -1.0])
TREE = ndereg.BrownianTree(3, 0.0, 1.0, (2,), 2.0**-6, areas="WHK")


def step(method: str, kind: str) -> tuple[Any, float]:
    """State and error estimate, the latter of an absolute tolerance of 1."""
    sol = Solver("reference").solve(
        equation(method, kind, 0), Y, ARGS, (0.0, SIZE), method=method, key=TREE, record=True,
        controller=ndereg.ConstantStep(SIZE), rtol=0.0, atol=1.0,
    )  # fmt: skip
    return sol.ys, float(np.squeeze(sol.steps.error))


def rms(values: Any) -> float:
    return math.sqrt(np.mean(np.square(np.asarray(values))))


PEERS: dict[str, tuple[Callable[[], Any], str]] = {
    "euler_maruyama": (diffrax.Euler, "diagonal"),
    "euler_heun": (diffrax.EulerHeun, "diagonal"),
    "stochastic_heun": (diffrax.Heun, "diagonal"),
    "reversible_heun": (diffrax.ReversibleHeun, "diagonal"),
    "sea": (diffrax.SEA, "additive"),
    "shark": (diffrax.ShARK, "additive"),
    "sra1_h": (diffrax.SRA1, "additive"),
    "general_shark": (diffrax.GeneralShARK, "diagonal"),
    "spark": (diffrax.SPaRK, "diagonal"),
    "slowrk": (diffrax.SlowRK, "diagonal"),
}


@pytest.mark.parametrize("method", PEERS)
def test_a_step_is_that_of_diffrax(method: str) -> None:
    solver, kind = PEERS[method]
    diffusion = DIFFUSIONS[kind][0]
    with jax.enable_x64(True):
        args, y0 = jnp.asarray(ARGS), jnp.asarray(Y)
        path = Known(tuple(map(jnp.asarray, TREE.increment(0.0, SIZE, "reference"))))
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(lambda t, y, args: drift(jnp.asarray(t), y, args)),
            diffrax.ControlTerm(
                lambda t, y, args: lineax.DiagonalLinearOperator(
                    diffusion(jnp.asarray(t), y0 if kind == "additive" else y, args)
                ),
                path,
            ),
        )
        peer = solver()
        state = peer.init(terms, 0.0, SIZE, y0, args)
        y1, error, *_ = peer.step(terms, 0.0, SIZE, y0, args, state, False)
    found, estimate = step(method, kind)
    close(found, y1, 1e-12)
    if ndereg.lookup(method).adaptive:
        assert estimate == pytest.approx(rms(error), rel=1e-10)


# As printed: Kloeden, Platen 1992; Roessler 2010; Lamba, Mattingly, Stuart 2007.


def f(c: float, y: Any) -> Any:
    return drift(np.asarray(c * SIZE), y, ARGS)


def g(c: float, y: Any) -> Any:
    return entrywise(np.asarray(c * SIZE), y, ARGS)


def additive(c: float) -> Any:
    return by_time(np.asarray(c * SIZE), Y, ARGS)


def variables() -> tuple[Any, Any, Any, Any, float]:
    """``W``, ``chi1``, ``chi2``, ``chi3``, and the root of the size."""
    w, area, _ = TREE.increment(0.0, SIZE, "reference")
    h, root = SIZE, math.sqrt(SIZE)
    return w, (w**2 - h) / (2 * root), w / 2 + area, (w**3 - 3 * w * h) / (6 * h), root


def milstein() -> tuple[Any, Any]:
    w, chi1, _, _, root = variables()
    g1 = g(0, Y)
    return Y + SIZE * f(0, Y) + g1 * w + (g(0, Y + root * g1) - g1) * chi1, None


def milstein_stratonovich() -> tuple[Any, Any]:
    w, *_, root = variables()
    g1 = g(0, Y)
    slope = (g(0, Y + root * g1) - g(0, Y - root * g1)) / (2 * root)
    return Y + SIZE * f(0, Y) + g1 * w + slope * w**2 / 2, None


def lamba_em() -> tuple[Any, Any]:
    w, *_, root = variables()
    f1, g1 = f(0, Y), g(0, Y)
    noise = (g(0, Y + root * g1) - g1) / root * (w**2 - SIZE) / 2
    return Y + SIZE * f1 + g1 * w, SIZE * (f(1, Y + SIZE * f1) - f1) / 2 + noise


def lamba_euler_heun() -> tuple[Any, Any]:
    w, *_, root = variables()
    f1, g1 = f(0, Y), g(0, Y)
    predicted = Y + SIZE * f1 + g1 * w
    y1 = Y + SIZE / 2 * (f1 + f(1, predicted)) + (g1 + g(1, predicted)) * w / 2
    noise = (g(0, Y + root * g1) - g1) / root * w**2 / 2
    return y1, SIZE * (f(1, Y + SIZE * f1) - f1) / 2 + noise


def sriw1() -> tuple[Any, Any]:
    w, chi1, chi2, chi3, root = variables()
    k1, g1 = f(0, Y), g(0, Y)
    g2 = g(1 / 4, Y + SIZE * k1 / 4 + root * g1 / 2)
    g3 = g(1, Y + SIZE * k1 - root * g1)
    g4 = g(1 / 4, Y + SIZE * k1 / 4 + root * (-5 * g1 + 3 * g2 + g3 / 2))
    k2 = f(3 / 4, Y + 3 / 4 * SIZE * k1 + 3 / 2 * chi2 * g1)
    e2 = chi2 * (2 * g1 - 4 / 3 * g2 - 2 / 3 * g3)
    e2 = e2 + chi3 * (-2 * g1 + 5 / 3 * g2 - 2 / 3 * g3 + g4)
    y1 = Y + SIZE * (k1 + 2 * k2) / 3 + w * (-g1 + 4 / 3 * g2 + 2 / 3 * g3)
    return y1 + chi1 * (-g1 + 4 / 3 * g2 - g3 / 3) + e2, SIZE * (k1 + k2) / 6 + e2


def sriw2() -> tuple[Any, Any]:
    w, chi1, chi2, chi3, root = variables()
    k1, g1 = f(0, Y), g(0, Y)
    k2 = f(1, Y + SIZE * k1)
    g2 = g(1 / 4, Y + SIZE * k1 / 4 - root * g1 / 2)
    g3 = g(1, Y + SIZE * k1 + root * g1)
    k3 = f(1 / 2, Y + SIZE * (k1 + k2) / 4 + chi2 * (g1 + g2 / 2))
    g4 = g(1 / 4, Y + SIZE * k3 / 4 + root * (2 * g1 - g2 + g3 / 2))
    e2 = chi2 * (2 * g1 - 4 / 3 * g2 - 2 / 3 * g3)
    e2 = e2 + chi3 * (-2 * g1 + 5 / 3 * g2 - 2 / 3 * g3 + g4)
    y1 = Y + SIZE * (k1 + k2 + 4 * k3) / 6 + w * (-g1 + 4 / 3 * g2 + 2 / 3 * g3)
    return y1 + chi1 * (g1 - 4 / 3 * g2 + g3 / 3) + e2, SIZE * (k1 + k2 + k3 + k1) + e2


def sra1() -> tuple[Any, Any]:
    w, _, chi2, *_ = variables()
    late, early, k1 = additive(1), additive(0), f(0, Y)
    k2 = f(3 / 4, Y + 3 / 4 * SIZE * k1 + 3 / 2 * chi2 * late)
    e2 = chi2 * (early - late)
    return Y + SIZE * (k1 + 2 * k2) / 3 + w * late + e2, SIZE * (k1 + k2) + e2


def sra2() -> tuple[Any, Any]:
    w, _, chi2, *_ = variables()
    third, late, k1 = additive(1 / 3), additive(1), f(0, Y)
    k2 = f(3 / 4, Y + 3 / 4 * SIZE * k1 + 3 / 2 * chi2 * third)
    e2 = 3 / 2 * chi2 * (third - late)
    return Y + SIZE * (k1 + 2 * k2) / 3 + w * late + e2, SIZE * (k1 + k2) + e2


def sra3() -> tuple[Any, Any]:
    w, _, chi2, *_ = variables()
    late, early, k1 = additive(1), additive(0), f(0, Y)
    k2 = f(1, Y + SIZE * k1)
    k3 = f(1 / 2, Y + SIZE * (k1 + k2) / 4 + chi2 * (late + early / 2))
    e2 = chi2 * (early - late)
    return Y + SIZE * (k1 + k2 + 4 * k3) / 6 + w * late + e2, SIZE * (k1 + k2 + k3) + e2


PRINTED = {
    each.__name__: each
    for each in (milstein, milstein_stratonovich, lamba_em, lamba_euler_heun, sriw1, sriw2, sra1,
                 sra2, sra3)
}  # fmt: skip


@pytest.mark.parametrize("method", PRINTED)
def test_a_step_is_as_printed(method: str) -> None:
    y1, error = PRINTED[method]()
    found, estimate = step(method, "additive" if method.startswith("sra") else "diagonal")
    close(found, y1, 1e-12)
    if error is not None:
        assert estimate == pytest.approx(rms(error), rel=1e-10)


def test_every_method_is_one_of_these_or_optimized() -> None:
    """The others have the form of SRI and SRA methods, and decimals that a digest guards."""
    methods = {name for name in ndereg.names("sde") if ndereg.lookup(name).noises != ("langevin",)}
    assert methods == {*PEERS, *PRINTED, *DIGESTS}


DIGESTS = {
    "sosri": "6862baf1b0a0a9ad",
    "sosri2": "e2ceaf3f79e74f4b",
    "sosra": "10230bb3f43aa947",
    "sosra2": "a97e8ec9d8eb76e1",
}


@pytest.mark.parametrize("method", DIGESTS)
def test_digest(method: str) -> None:
    """Of coefficients that are decimals: they were read against their source once."""
    tableau = ndereg.lookup(method)
    assert isinstance(tableau, StochasticTableau)
    written = repr((tableau.drift, tableau.diffusion, tableau.solution, tableau.error))
    assert hashlib.sha256(written.encode()).hexdigest()[:16] == DIGESTS[method]
