"""Underdamped Langevin dynamics: coefficients, orders, laws, agreement, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ndereg
import ndereg.numpy as nde
from ndereg import ops
from ndereg.backends.host.floats import FloatMachine
from ndereg.backends.interpreter import Runner
from ndereg.catalogue import check
from ndereg.plan.builder import Builder
from ndereg.plan.langevin import HIGHEST, Moments
from ndereg.spec.langevin import DECAY, LangevinMethod

from .problems import Known, Solver, close, double_precision, drift, entrywise, only_compiled

METHODS = [name for name in ndereg.names("sde") if isinstance(ndereg.lookup(name), LangevinMethod)]
STEP = ndereg.ConstantStep(0.25)


def force(t: Any, x: Any, args: Any) -> Any:
    """Gradient of a potential that is not quadratic."""
    return x + args * ops.sin(2.0 * x) + 0.1 * t


DYNAMICS = ndereg.UnderdampedLangevin(force, gamma=1.3, u=0.8)


def moments(z: float) -> dict[str, float]:
    builder = Builder()
    found = Moments(builder)
    outputs = {f"E{k}": found(k, 1) for k in range(HIGHEST + 1)} | {"decay": found(DECAY, 1)}
    program = builder.program("moments", outputs)
    return Runner(program)(FloatMachine(), {"gamma": z, "h": 1.0})


def exact_moment(k: int, z: float) -> float:
    """The integral of ``exp(-z s) P_k(1 - 2 s)``, as a series in exact arithmetic."""
    polynomial = [[1], [1, -2], [1, -6, 6], [1, -12, 30, -20]][k]
    total, term, exact = Fraction(0), Fraction(1), Fraction(z)
    for n in range(120):
        total += term * sum(Fraction(c, n + i + 1) for i, c in enumerate(polynomial))
        term = term * -exact / (n + 1)
    return float(total)


def test_moments_do_not_cancel() -> None:
    """Near 0, across the place where the formula changes, far out, and backwards in time."""
    for z in (1e-9, 1e-3, 0.7, 1.99, 2.01, 6.0, 20.0, -0.4, -5.0):
        found = moments(z)
        for k in range(HIGHEST + 1):
            assert found[f"E{k}"] == pytest.approx(exact_moment(k, z), rel=1e-12), (k, z)
        assert found["decay"] == pytest.approx(math.exp(-z), rel=1e-14)
    assert [moments(0.0)[f"E{k}"] for k in range(HIGHEST + 1)] == [1.0, 0.0, 0.0, 0.0]


def test_a_step_is_that_of_diffrax() -> None:
    """On the increment of one tree; diffrax has three of the four methods."""
    friction = 1.7
    tree = ndereg.BrownianTree(3, 0.0, 10.0, (2,), 2.0**-6, areas="WHK")
    size, x, v = 0.25, np.array([0.4, -1.0]), np.array([0.2, 0.7])
    dynamics = ndereg.UnderdampedLangevin(lambda t, x, args: x**3 + x, friction, 0.6)
    with jax.enable_x64(True):
        path = Known(tuple(map(jnp.asarray, tree.increment(0.0, size, "reference"))))
        terms = diffrax.MultiTerm(
            diffrax.UnderdampedLangevinDriftTerm(friction, 0.6, lambda x, args: x**3 + x),
            diffrax.UnderdampedLangevinDiffusionTerm(friction, 0.6, path),
        )
        y0 = jnp.asarray(x), jnp.asarray(v)
        for peer in (diffrax.ALIGN(), diffrax.QUICSORT(), diffrax.ShOULD()):
            name = type(peer).__name__.lower()
            state = peer.init(terms, 0.0, size, y0, None)
            y1, error, *_ = peer.step(terms, 0.0, size, y0, None, state, False)
            sol = Solver("reference").solve(
                dynamics, (x, v), None, span=(0.0, size), method=name, key=tree, record=True,
                controller=ndereg.ConstantStep(size), rtol=0.0, atol=1.0,
            )  # fmt: skip
            for ours, theirs in zip(sol.ys, y1, strict=True):
                close(ours, theirs, 1e-12)
            if name == "align":
                rms = math.sqrt(np.sum(np.square(np.asarray(error[1]))) / 4.0)
                assert float(sol.steps.error[0]) == pytest.approx(rms, rel=1e-8)


PATHS = 200
TREE = ndereg.BrownianTree(5, 0.0, 1.0, (PATHS, 1), 2.0**-10, areas="WHK")
START = (np.full((PATHS, 1), 0.5), np.full((PATHS, 1), -0.3))


def ended(method: str, size: float | None = None, tolerance: float = 0.0) -> Any:
    sol = Solver("lockstep").solve(
        DYNAMICS, START, np.array(1.1), span=(0.0, 1.0), method=method, key=TREE,
        batch="independent", controller=size and ndereg.ConstantStep(size),
        rtol=tolerance, atol=tolerance or 1.0,
    )  # fmt: skip
    return np.concatenate(sol.ys, axis=-1)


@pytest.fixture(scope="module")
def fine() -> Any:
    return ended("should", 2.0**-8)


@pytest.mark.parametrize(
    ("method", "halvings"),
    [("align", range(2, 6)), ("ubu", range(2, 6)), ("quicsort", range(3, 6)),
     ("should", range(2, 6))],
)  # fmt: skip
def test_strong_orders(method: str, halvings: range, fine: Any) -> None:
    sizes = [2.0**-k for k in halvings]
    errors = [math.sqrt(np.mean((ended(method, size) - fine) ** 2)) for size in sizes]
    slope = float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])
    assert abs(slope - dict(ndereg.lookup(method).orders)["langevin"]) < 0.15
    assert math.sqrt(np.mean((ended(method, None, 1e-3) - fine) ** 2)) < 1e-3


def test_the_stationary_law() -> None:
    """A quadratic potential in two entries, from adaptive steps with rejections."""
    count = 4000
    dynamics = ndereg.UnderdampedLangevin(lambda t, x, args: args * x, 2.0, 0.5)
    start = np.zeros((count, 2)), np.zeros((count, 2))
    sol = Solver("lockstep").face.solve(
        dynamics, (0.0, 8.0), start, np.array([1.0, 4.0]), method="align", key=2, rtol=0.1,
        atol=0.1, batch="independent", first_step=2.0,
    )  # fmt: skip
    assert np.mean(sol.stats.nreject > 0) > 0.5
    for found, variance in zip(sol.ys, ([1.0, 0.25], [0.5, 0.5]), strict=True):
        deviation = np.abs(np.var(found, axis=0) / variance - 1.0)
        assert np.all(deviation < 4.0 * math.sqrt(2.0 / count) + 0.02)


def options(number: int, method: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "method": method, "key": 7, "batch": "joint" if number % 2 else "independent",
        "rtol": 1e-2, "atol": 1e-2, "record": True, "max_steps": 50,
        "regularizer": ndereg.ErrorEstimate(),
    }  # fmt: skip
    if number % 3 == 0:
        found["t_eval"] = np.array([0.0, 0.2, 0.73, 1.0])
    if number % 4 == 1:
        found["controller"] = STEP
    return found


X = np.random.default_rng(0).normal(size=(3, 2))


def bars(number: int) -> tuple[Any, Any]:
    given, rng = options(number, "align"), np.random.default_rng(number)
    independent = given["batch"] == "independent"
    shape: tuple[int, ...] = X.shape
    if "t_eval" in given:
        shape = (3, 4, 2) if independent else (4, 3, 2)
    pair = rng.normal(size=shape), rng.normal(size=shape)
    return pair, rng.normal(size=3 if independent else ())


CASES = [(number, METHODS[number % len(METHODS)]) for number in range(2 * len(METHODS))]
CHOSEN = [
    (number, method) for number, method in CASES if "controller" not in options(number, method)
]
"""Whose steps are chosen: with constant ones, they have every method."""
COMPILED = {"jax": [(1, "ubu")], "numba": [(7, "quicsort")]}
"""What compilers take long for; Numba: halved steps, and a gradient that is handed on."""


def agrees(other: Solver, number: int, method: str) -> None:
    """Raise unless steps, estimates, penalties and gradients do."""
    reference, given = Solver("reference"), options(number, method)
    start, span = (X, 0.5 * X), (0.0, 1.0)
    problem = (DYNAMICS, *bars(number), start, np.array(1.1), span)
    expected = reference.gradient(*problem, **given)
    with double_precision(other.name):
        actual = other.gradient(*problem, **given)
        for column in ("h", "error"):
            close(getattr(actual[0].steps, column), getattr(expected[0].steps, column), 1e-11)
        assert np.array_equal(actual[0].stats.nfev, expected[0].stats.nfev)
        close(actual[0].penalty, expected[0].penalty, 1e-11)
        for left, right in zip(actual[0].ys, expected[0].ys, strict=True):
            close(left, right, 1e-11)
        for left, right in zip((*actual[1], actual[2]), (*expected[1], expected[2]), strict=True):
            close(left, right, 1e-9)


@pytest.mark.parametrize("name", ["numba", "torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_backends_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps chosen and constant, with output times."""
    only_compiled(monkeypatch)
    for number, method in COMPILED.get(name, CASES):
        agrees(Solver(name), number, method)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("number", "method"), CHOSEN[: len(METHODS)])
@pytest.mark.parametrize("name", ["numba", "jax"])
def test_compiled_backends_agree(
    name: str, number: int, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_compiled(monkeypatch)
    agrees(Solver(name), number, method)


def test_the_compiled_cases_are_all_methods() -> None:
    assert {method for _, method in CHOSEN[: len(METHODS)]} == set(METHODS)


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
@pytest.mark.parametrize("step", ["first", "own"])
def test_a_local_regularizer(step: Any, sampling: Any) -> None:
    """One step more from a random state of positions and velocities, along the path."""
    reference, other = Solver("reference"), Solver("torch")
    for number, method in enumerate(METHODS):
        local = ndereg.Local(ndereg.ErrorEstimate(), sampling, number % 2 > 0, step)
        given: dict[str, Any] = {
            "method": method, "key": 7, "rtol": 1e-2, "atol": 1e-2, "regularizer": local,
            "controller": STEP, "batch": "independent" if number % 3 else "joint",
        }  # fmt: skip
        pair = np.zeros_like(X), np.zeros_like(X)
        bar = np.ones(3 if number % 3 else ())
        found = [
            solver.gradient(DYNAMICS, pair, bar, (X, 0.5 * X), np.array(1.1), (0.0, 1.0), **given)
            for solver in (reference, other)
        ]
        assert np.all(np.asarray(found[0][0].penalty) > 0) and found[0][2] != 0
        close(found[1][0].penalty, found[0][0].penalty, 1e-11)
        for left, right in zip(
            (*found[1][1], found[1][2]), (*found[0][1], found[0][2]), strict=True
        ):
            close(left, right, 1e-9)


def test_gradients_are_those_of_the_solve() -> None:
    """Central differences on fixed steps, also of halved ones, in a nested state."""
    rng, reference = np.random.default_rng(4), Solver("reference")
    directions = rng.normal(size=(2, 3, 2))

    def nested(t: Any, x: Any, args: Any) -> Any:
        return {"a": force(t, x["a"], args)}

    dynamics = ndereg.UnderdampedLangevin(nested, 1.3, 0.8)
    for method in METHODS:
        given: dict[str, Any] = {
            "method": method, "key": 7, "controller": STEP, "rtol": 1e-2, "atol": 1e-2,
            "regularizer": ndereg.ErrorEstimate(),
        }  # fmt: skip
        bar = {"a": rng.normal(size=(3, 2))}, {"a": rng.normal(size=(3, 2))}

        def start(size: float) -> Any:
            return {"a": X + size * directions[0]}, {"a": 0.5 * X + size * directions[1]}

        def moved(size: float, given: Any = given, bar: Any = bar) -> float:
            args = np.array(1.1 + 0.3 * size)
            sol = reference.solve(dynamics, start(size), args, (0.0, 1.0), **given)
            product = sum(np.sum(b["a"] * y["a"]) for b, y in zip(bar, sol.ys, strict=True))
            return float(product + 0.6 * sol.penalty)

        _, d_y0, d_args = reference.gradient(
            dynamics, bar, 0.6, start(0.0), np.array(1.1), (0.0, 1.0), **given
        )
        along = sum(np.sum(d["a"] * e) for d, e in zip(d_y0, directions, strict=True))
        slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
        assert along + 0.3 * d_args == pytest.approx(slope, rel=1e-6, abs=1e-7)


def test_gradients_of_the_potential_are_shared_by_steps() -> None:
    """One a step where the last one begins the next step; three steps' worth where it is halved."""
    counts = {}
    solve = Solver("lockstep").face.solve
    for method in METHODS:
        sol = solve(DYNAMICS, (0.0, 1.0), (X, X), np.array(1.1), method=method, key=0,
                    controller=STEP)  # fmt: skip
        counts[method] = sol.stats.nfev
    assert counts == {
        "align": 1 + 4, "ubu": 4, "quicsort": 8, "should": 1 + 8, "quicsort_embedded": 8,
    }  # fmt: skip
    sol = solve(DYNAMICS, (0.0, 1.0), (X, X), np.array(1.1), method="should", key=0,
                rtol=1e-2, atol=1e-2, first_step=0.1)  # fmt: skip
    assert sol.stats.nfev == 1 + 6 * sol.stats.nsteps


def test_an_embedded_estimate_leaves_the_step_as_it_is() -> None:
    """And is that of the velocity: of second order, a third of the gradients of a halved step."""
    given: dict[str, Any] = {"span": (0.0, 1.0), "key": TREE, "batch": "independent"}
    solver = Solver("lockstep")
    plain, embedded = (
        solver.solve(DYNAMICS, START, np.array(1.1), method=m, controller=STEP, **given)
        for m in ("quicsort", "quicsort_embedded")
    )
    assert all(map(np.array_equal, plain.ys, embedded.ys))
    sol = solver.solve(
        DYNAMICS, START, np.array(1.1), method="quicsort_embedded", rtol=0.0, atol=1e-3,
        first_step=0.1, **given,
    )  # fmt: skip
    assert np.array_equal(sol.stats.nfev, 1 + 2 * sol.stats.nsteps)
    errors = []
    for size in (2.0**-4, 2.0**-5):
        sol = solver.solve(
            DYNAMICS, START, np.array(1.1), method="quicsort_embedded", record=True, rtol=0.0,
            atol=1.0, controller=ndereg.ConstantStep(size), **given,
        )  # fmt: skip
        errors.append(np.nanmean(sol.steps.error))
    assert 1.8 < math.log2(errors[0] / errors[1]) < 2.2


def test_what_methods_do_to_volumes_without_friction() -> None:
    """ALIGN and UBU keep them; QUICSORT damps fast oscillations, which docs/experiments.md says."""
    x, v = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    dynamics = ndereg.UnderdampedLangevin(lambda t, x, args: x, gamma=0.0)
    for method, weight in {"align": 0.0, "ubu": 0.0, "quicsort": 0.012892}.items():
        sol = Solver("lockstep").face.solve(
            dynamics, (0.0, 1.0), (x, v), method=method, key=0, batch="independent",
            controller=ndereg.ConstantStep(1.0),
        )  # fmt: skip
        volume = np.linalg.det(np.concatenate(sol.ys, axis=1))
        assert volume == pytest.approx(1.0 - weight, abs=1e-6)


def test_the_catalogue_is_consistent() -> None:
    """Weights without friction; one coefficient off and the check says so."""
    for name in METHODS:
        method = ndereg.lookup(name)
        check(method)
        (operand, weight), *others = method.velocity
        wrong = ((operand, (1.0 + 1e-6) * weight), *others)
        with pytest.raises(ValueError, match="expected the weight of"):
            check(
                LangevinMethod(
                    name, method.order, method.gradients, method.position, wrong, method.last,
                    method.error, "",
                )
            )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        (DYNAMICS, {"method": "sosri"}, "underdamped Langevin dynamics, received 'sosri'.*align"),
        (DYNAMICS, {"method": "tsit5"}, r"dynamics, received 'tsit5'; try one of align, ubu"),
        (ndereg.SDE(drift, entrywise), {}, r"'quicsort'; .*solves an ndereg\.Underdamped"),
        (drift, {}, r"expected an ndereg\.UnderdampedLangevin for method='quicsort'"),
        (DYNAMICS, {"y0": X}, r"expected y0=\(x, v\)"),
        (DYNAMICS, {"y0": (X, X[:2])}, r"expected y0=\(x, v\)"),
        (DYNAMICS, {"key": None}, "expected a key"),
        (DYNAMICS, {"adjoint": "backsolve"}, "expected adjoint='discrete'"),
        (DYNAMICS, {"adjoint": "reversible"}, "can be undone"),
        (
            DYNAMICS, {"key": ndereg.BrownianTree(0, 0.0, 1.0, (6,), 1e-3, areas="WH")},
            "areas='WHK'",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused(field: Any, change: dict[str, Any], message: str) -> None:
    given = {"y0": (X, X), "method": "quicsort", "controller": STEP, "key": 0} | change
    y0 = given.pop("y0")
    with pytest.raises(ValueError, match=message):
        nde.solve(field, (0.0, 1.0), y0, np.array(1.1), **given)


def test_wrong_dynamics_are_refused() -> None:
    with pytest.raises(TypeError, match="real positions"):
        nde.solve(DYNAMICS, (0.0, 1.0), (X + 0j, X + 0j), 1.1, method="align", key=0)
    with pytest.raises(TypeError, match="a callable for UnderdampedLangevin"):
        ndereg.UnderdampedLangevin(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"UnderdampedLangevin\.gamma, of at least 0"):
        ndereg.UnderdampedLangevin(force, -1.0)
    with pytest.raises(ValueError, match=r"UnderdampedLangevin\.u, positive"):
        ndereg.UnderdampedLangevin(force, 1.0, 0.0)
    with pytest.raises(ValueError, match="result of the field to have shape"):
        nde.solve(ndereg.UnderdampedLangevin(lambda t, x, args: x[..., :1]), (0.0, 1.0), (X, X),
                  method="align", key=0)  # fmt: skip
