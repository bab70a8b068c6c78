"""What is refused, what a solve without noise is, and paths that samples share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import ndereg
import ndereg.jax
import ndereg.numpy as nde
import ndereg.torch
from ndereg import ops
from ndereg.spec.stochastic import Evaluations, StochasticTableau, Weights, check

from .problems import (
    ARGS,
    DIFFUSIONS,
    SPAN,
    TIMES,
    Y0,
    Solver,
    close,
    double_precision,
    drift,
    entrywise,
    equation,
    matrix,
)

STEP = ndereg.ConstantStep(0.3)
BACKENDS = ["reference", "numba", "torch", "jax"]
STATUSES = [
    ("reference", "joint"), ("reference", "independent"), ("torch", "joint"),
    ("torch", "independent"), pytest.param("numba", "joint", marks=pytest.mark.exhaustive),
    ("numba", "independent"), ("jax", "joint"),
    pytest.param("jax", "independent", marks=pytest.mark.slow),
]  # fmt: skip
"""Backends and batch modes; what compilers take long for is slow, or left to make exhaustive."""


def test_the_catalogue_is_consistent() -> None:
    """Row sums of every method; one coefficient off and the check says so."""
    for name in ndereg.names("sde"):
        method = ndereg.lookup(name)
        if not isinstance(method, StochasticTableau):  # a formula, without a table
            continue
        check(method)
        (variable, row), *others = method.solution.noise
        wrong = Weights(method.solution.drift, ((variable, (row[0] + 1e-6, *row[1:])), *others))
        with pytest.raises(ValueError, match="expected the sum of the weights"):
            check(StochasticTableau(name, method.calculus, method.orders, method.drift,
                                    method.diffusion, wrong))  # fmt: skip


def test_order_conditions_are_those_of_the_kind_of_noise() -> None:
    """Order 1.5 for additive noise asks nothing of the order for another kind."""
    sra1 = ndereg.lookup("sra1")
    diffusion = Evaluations(((1, Weights((1.0,))), (0, Weights())))
    orders = (("diagonal", 0.5), ("additive", 1.5))
    check(StochasticTableau("mine", "ito", orders, sra1.drift, diffusion, sra1.solution))
    wrong = Evaluations(((0, Weights()), (1, Weights((1.0,)))))
    with pytest.raises(ValueError, match=r"expected beta1 c1, for order 1\.5"):
        check(StochasticTableau("mine", "ito", orders, sra1.drift, wrong, sra1.solution))


@pytest.mark.parametrize(
    ("name", "change", "condition"),
    [
        ("sra1", {"chi2": (0.5,)}, "alpha B0 e"),
        ("sosra2", {"chi2": (0.5,)}, "alpha B0 e"),
        ("sriw1", {"chi2": (0.5,)}, "alpha B0 e"),
        ("sosri2", {"chi2": (0.5,)}, "alpha B0 e"),
        ("sriw1", {"root": (0.4,)}, "beta1 B1 e"),
    ],
)
def test_order_conditions(name: str, change: dict[Any, Any], condition: str) -> None:
    """Where row sums are as they should be, and a weight of the noise is not."""
    method = ndereg.lookup(name)
    fields = {"drift": method.drift, "diffusion": method.diffusion}
    ((variable, row),) = change.items()
    part = "drift" if variable == "chi2" else "diffusion"
    stages = list(fields[part].stages)
    c, weights = stages[1]
    stages[1] = (c, Weights(weights.drift, ((variable, row),)))
    fields[part] = Evaluations(tuple(stages))
    wrong = StochasticTableau(name, method.calculus, method.orders, **fields,
                              solution=method.solution)  # fmt: skip
    with pytest.raises(ValueError, match=f"expected {condition}, for order 1.5"):
        check(wrong)


def test_without_noise_it_is_the_ordinary_equation() -> None:
    reference = Solver("reference")
    for name in ndereg.names():
        adaptive = ndereg.lookup(name).adaptive
        options: dict[str, Any] = {
            "method": name, "rtol": 1e-2, "atol": 1e-2, "record": True, "t_eval": TIMES,
            "controller": None if adaptive else STEP,
        }  # fmt: skip
        plain, sde = (reference.solve(f, **options) for f in (drift, nde.SDE(drift, None)))
        assert np.array_equal(plain.ys, sde.ys) and plain.stats == sde.stats
        assert np.array_equal(plain.steps.h, sde.steps.h)
    zero = nde.SDE(lambda t, y, args: -y, lambda t, y, args: 0.0 * y)
    sol = nde.solve(zero, (0.0, 1.0), np.ones(1), method="lamba_em", rtol=1e-2, atol=1e-2, key=0)
    assert abs(sol.ys[0] - np.exp(-1.0)) < 5e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": None}, "expected a key"),
        (
            {"method": "tsit5"},
            r"expected a method for diagonal noise .*sosri.*'tsit5' .*SDE\(drift, None\)",
        ),
        (
            {"method": "stochastic_heun"},
            r"Ito, received 'stochastic_heun'.*sde\.converted\('strato",
        ),
        (
            {"method": "milstein", "field": equation("spark", "diagonal")},
            r"Stratonovich, received 'milstein'.*spark.*sde\.converted\('ito'",
        ),
        ({"method": "sra1"}, "expected a method for diagonal noise"),
        ({"adjoint": "backsolve"}, r"of Stratonovich for adjoint='backsolve'.*sde\.converted"),
        ({"method": "euler_maruyama", "controller": None}, "embedded error.*lamba_em"),
        ({"controller": ndereg.PIDController(dt_min=1e-9)}, "dt_min of at least"),
        ({"controller": ndereg.PIDController(dt_max=1e-9)}, "dt_max of at least"),
        ({"controller": ndereg.PIDController(), "first_step": 1e-9}, "first_step of at least"),
        (
            {"key": ndereg.BrownianTree(0, 0.5, 1.0, (6,), 1e-3, areas="WH")},
            "within that of the BrownianTree",
        ),
        ({"key": ndereg.BrownianTree(0, 0.0, 1.0, (5,), 1e-3, areas="WH")}, "with 6 entries"),
        ({"key": ndereg.BrownianTree(0, 0.0, 1.0, (6,), 1e-3)}, "areas='WH'"),
        ({"regularizer": ndereg.StiffnessEstimate()}, "equal abscissa.*sosri2"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    options = {"method": "sosri", "controller": STEP, "key": 1} | change
    sde = options.pop("field", nde.SDE(drift, entrywise))
    with pytest.raises(ValueError, match=message):
        nde.solve(sde, SPAN, Y0, ARGS, **options)


def test_a_step_as_long_as_the_solve_may_be_shorter_than_a_cell() -> None:
    tree, solver = ndereg.BrownianTree(1, 0.0, 1.0, (6,), 2.0**-4), Solver("reference")
    sde = nde.SDE(drift, entrywise)
    options: dict[str, Any] = {"method": "lamba_em", "key": tree, "rtol": 1.0, "atol": 1.0}
    for change in ({"first_step": 0.03}, {"controller": nde.PIDController(dt_max=0.03)}):
        sol = solver.solve(sde, span=(0.5, 0.53), **options | change)
        assert sol.stats.naccept == 1
    still = solver.solve(sde, span=(0.5, 0.5), **options | {"first_step": 1e-6, "key": 1})
    assert np.array_equal(still.ys, Y0)


def test_general_noise_of_ito_is_solved_adaptively_once_converted() -> None:
    """As the refusal of adaptive steps says."""
    solver, sde = Solver("reference"), nde.SDE(drift, matrix, noise="general")
    words = r"no method has one for this noise, but sde\.converted\('stratonovich'\) .* spark"
    with pytest.raises(ValueError, match=words):
        solver.solve(sde, key=1)
    options: dict[str, Any] = {"method": "spark", "key": 1, "rtol": 1e-1, "atol": 1e-1}
    assert solver.solve(sde.converted("stratonovich"), **options).stats.naccept > 1


@pytest.mark.parametrize("name", ["reference", "torch", "jax"])
def test_additive_noise_does_not_depend_on_the_state(name: str) -> None:
    """Told by its values at two states, also where JAX traces the state."""
    solver = Solver(name)
    options: dict[str, Any] = {"method": "sea", "controller": STEP, "key": 1}

    def by_state(t: Any, y: Any, args: Any) -> Any:
        return 0.1 * y + 0.3

    def hidden(t: Any, y: Any, args: Any) -> Any:
        return (args[1] + 0.0 * y) + (y - y)

    for batch in ("joint", "independent"):
        with pytest.raises(ValueError, match="depends on the time alone for noise='additive'"):
            solver.solve(nde.SDE(drift, by_state, "additive"), batch=batch, **options)
    if name == "reference":
        solver.solve(nde.SDE(drift, hidden, "additive"), **options)
    started = nde.SDE(drift, lambda t, y, args: t * y, "additive")  # at t = 0 it is 0
    with pytest.raises(ValueError, match="depends on the time alone"):
        solver.solve(started, span=(0.0, 1.0), **options)
    by_args = nde.SDE(drift, lambda t, y, args: 0.3 + (args[0] - ARGS[0]) * y, "additive")
    solver.solve(by_args, Y0, ARGS, **options)
    with pytest.raises(ValueError, match="depends on the time alone"):
        solver.solve(by_args, Y0, ARGS + 1.0, **options)
    if name == "jax":
        jitted = jax.jit(
            lambda y: (
                solver.face.solve(nde.SDE(drift, by_state, "additive"), SPAN, y, ARGS, **options).ys
            )
        )
        with pytest.raises(ValueError, match="depends on the time alone"):
            jitted(jnp.ones(2))


@pytest.mark.parametrize(
    ("kind", "calculus", "adjoint", "name"),
    [
        ("diagonal", "ito", "discrete", "sosri"),
        ("scalar", "stratonovich", "discrete", "spark"),
        ("additive", "ito", "discrete", "sosra"),
        ("additive", "ito", "backsolve", "spark"),
        ("general", "stratonovich", "discrete", "spark"),
        ("diagonal", "stratonovich", "reversible", "reversible_heun"),
    ],
)
def test_a_method_that_nobody_chose_fits(kind: Any, calculus: Any, adjoint: str, name: str) -> None:
    sde = nde.SDE(drift, DIFFUSIONS[kind][0], kind, calculus)
    options: dict[str, Any] = {"key": 2, "rtol": 0.1, "atol": 0.1, "adjoint": adjoint}
    chosen = Solver("reference").solve(sde, **options)
    named = Solver("reference").solve(sde, method=name, **options)
    assert np.array_equal(chosen.ys, named.ys) and chosen.stats == named.stats


def test_methods_that_nobody_chose_where_none_is_adaptive() -> None:
    sde = nde.SDE(drift, matrix, "general")
    with pytest.raises(ValueError, match=r"'euler_maruyama'.*ConstantStep\(dt\); no method"):
        Solver("reference").solve(sde, key=0)
    assert Solver("reference").solve(sde, key=0, controller=STEP).stats.nsteps == 3
    dynamics = nde.UnderdampedLangevin(lambda t, x, args: x)
    sol = Solver("reference").solve(dynamics, (Y0, Y0), None, controller=STEP, key=0)
    assert sol.stats.nfev == 2 * sol.stats.nsteps  # quicsort


def test_a_path_that_is_too_coarse_says_so() -> None:
    """Tolerances of ordinary equations, which no path of 2^16 cells serves."""
    with pytest.raises(nde.SolveError, match=r"Brownian path resolves steps of 1\.53e-05"):
        nde.solve(nde.SDE(drift, entrywise), SPAN, Y0, ARGS, key=0)


def test_steps_of_one_size_below_what_the_path_resolves_are_refused() -> None:
    """Two in one cell would not be independent; a path that they have for themselves has no cells.

    Halved steps are two of the path's.
    """
    options: dict[str, Any] = {"method": "euler_maruyama", "batch": "independent"}
    sde, y0 = nde.SDE(drift, entrywise), np.ones((1, 1))
    tree = ndereg.BrownianTree(0, 0.0, 1.0, (1,), 0.1)
    reference = Solver("reference")
    for size in (2.0**-4, 0.0625000001, 0.07):
        reference.solve(sde, y0, key=tree, controller=ndereg.ConstantStep(size), **options)
    fine = ndereg.ConstantStep(2.0**-5)
    with pytest.raises(ValueError, match=r"at least 0\.0625, .*ConstantStep\(0\.03125\); .*=0\.03"):
        reference.solve(sde, y0, key=tree, controller=fine, **options)
    reference.solve(sde, y0, span=(0.5, 0.53125), key=tree, controller=fine, **options)
    reference.solve(sde, y0, key=0, controller=fine, **options)
    finer = ndereg.ConstantStep(2.0**-17)
    with pytest.raises(ValueError, match=r"at least 1\.5\d*e-05"):
        reference.solve(sde, y0, key=0, controller=finer, t_eval=TIMES, **options)
    dynamics = nde.UnderdampedLangevin(lambda t, x, args: x)
    tree = ndereg.BrownianTree(0, 0.0, 1.0, (6,), 2.0**-4, areas="WHK")
    options = {"method": "quicsort", "key": tree, "regularizer": ndereg.ErrorEstimate()}
    with pytest.raises(ValueError, match=r"at least 0\.125, .*tolerance=0\.03"):
        reference.solve(
            dynamics, (Y0, Y0), None, controller=ndereg.ConstantStep(2.0**-4), **options
        )


@pytest.mark.parametrize("name", BACKENDS)
def test_wrong_diffusions_are_refused(name: str) -> None:
    solver = Solver(name)
    options: dict[str, Any] = {"method": "euler_maruyama", "controller": STEP, "key": 1}

    def cut(t: Any, y: Any, args: Any) -> Any:
        return y[..., :1]

    def halves(t: Any, y: Any, args: Any) -> Any:
        """As many channels in either part as there must be, but for one more in the second."""
        return {"a": matrix(t, y["a"], args), "b": ops.stack([y["b"], y["b"]], axis=-1)}

    for batch in ("joint", "independent"):
        options["batch"] = batch
        for diffusion, noise, words in (
            (entrywise, "general", "one axis more than the state"),
            (matrix, "diagonal", "the result of the diffusion to have shape"),
            (matrix, "scalar", "the result of the diffusion to have shape"),
            (cut, "diagonal", "the result of the diffusion to have shape"),
            (cut, "scalar", "the result of the diffusion to have shape"),
            (cut, "additive", "the result of the diffusion to have shape"),
        ):
            with pytest.raises(ValueError, match=words):
                solver.solve(nde.SDE(drift, diffusion, noise), **options)
        nested = nde.SDE(lambda t, y, args: y, halves, "general")
        with pytest.raises(ValueError, match="of one length m in all its arrays"):
            solver.solve(nested, {"a": Y0, "b": Y0}, **options)


def test_what_is_no_equation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected SDE\.noise to be one of"):
        nde.SDE(drift, entrywise, "coloured")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected a callable for SDE\.drift"):
        nde.SDE(3, entrywise)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected an ndereg\.SDE for method='sosri'"):
        nde.solve(drift, SPAN, Y0, ARGS, method="sosri")


def burst(t: Any, y: Any, args: Any) -> Any:
    """Not finite from the second half on, in the last sample."""
    return ops.where(y > args[0], 1.0 / (0.0 * y), 0.1 * y)


@pytest.mark.parametrize("controller", [ndereg.ConstantStep(0.1), None])
@pytest.mark.parametrize(("name", "batch"), STATUSES)
def test_a_diffusion_that_is_not_finite_has_a_status(
    name: str, batch: Any, controller: Any
) -> None:
    """Sample by sample it is that of those alone that it happens to."""
    solver, y0 = Solver(name), np.array([[0.2, 0.3], [0.1, 0.2], [0.5, 9.0]])
    options: dict[str, Any] = {
        "method": "lamba_em", "controller": controller, "key": 0, "batch": batch, "rtol": 0.1,
        "atol": 0.1, "throw": False,
    }  # fmt: skip
    with double_precision(name):
        sde = nde.SDE(drift, burst)
        sol = solver.solve(sde, y0, np.array([3.0, 0.0]), **options)
        found = np.asarray(sol.status).tolist()
        lost = [nde.Status.SUCCESS, nde.Status.SUCCESS, nde.Status.NON_FINITE]
        assert found == (lost if batch == "independent" else nde.Status.NON_FINITE)
        with pytest.raises(nde.SolveError, match="finite"):
            solver.solve(sde, y0, np.array([3.0, 0.0]), **options | {"throw": True})


@pytest.mark.parametrize(("name", "batch"), STATUSES)
def test_too_many_steps_and_too_small_ones_have_a_status(name: str, batch: Any) -> None:
    solver, sde = Solver(name), nde.SDE(drift, entrywise)
    options: dict[str, Any] = {"method": "lamba_em", "key": 0, "batch": batch, "throw": False}
    with double_precision(name):
        for change, status in (
            ({"max_steps": 2, "rtol": 1e-1, "atol": 1e-2}, nde.Status.MAX_STEPS),
            ({"rtol": 1e-9, "atol": 1e-9}, nde.Status.STEP_UNDERFLOW),
        ):
            sol = solver.solve(sde, **options | change)
            assert np.all(np.asarray(sol.status) == status)


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_times_of_a_stochastic_equation_have_no_gradient(name: str) -> None:
    solver, sde = Solver(name), nde.SDE(drift, entrywise)
    options: dict[str, Any] = {"method": "milstein", "controller": STEP, "key": 1}

    def end(t1: Any) -> Any:
        return solver.face.solve(
            sde, (0.1, t1), solver.put(Y0), solver.put(ARGS), **options
        ).ys.sum()  # fmt: skip

    wanted = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    call = {"jax": lambda: jax.grad(end)(1.0), "torch": lambda: end(wanted)}[name]
    with double_precision(name), pytest.raises(ValueError, match="times without a gradient"):
        call()


def nested_drift(t: Any, y: Any, args: Any) -> Any:
    return {name: drift(t, part, args) for name, part in y.items()}


def nested_matrix(t: Any, y: Any, args: Any) -> Any:
    return {name: matrix(t, part, args) for name, part in y.items()}


PARTS = {"a": Y0[:, :1], "b": Y0[:, 1:]}


@pytest.mark.parametrize(("name", "batch"), STATUSES)
def test_nested_states(name: str, batch: Any) -> None:
    """What holds on an array holds on its parts, gradients included, and with times of samples."""
    rng, solver = np.random.default_rng(8), Solver(name)
    whole, nested = (
        nde.SDE(*fields, noise="general", calculus="stratonovich")
        for fields in ((drift, matrix), (nested_drift, nested_matrix))
    )
    options: dict[str, Any] = {
        "method": "spark", "key": 5, "batch": batch, "rtol": 0.1, "atol": 0.1, "t_eval": TIMES,
        "regularizer": ndereg.ErrorEstimate(),
    }  # fmt: skip
    if batch == "independent":
        options["t_eval"] = np.stack([TIMES, TIMES[::-1] * 0.0 + np.linspace(0.2, 0.9, 5), TIMES])
    lead = (3, 5) if batch == "independent" else (5, 3)
    bar, penalty_bar = rng.normal(size=(*lead, 2)), rng.normal(size=3 if lead[0] == 3 else ())
    expected = Solver("reference").gradient(whole, bar, penalty_bar, **options)
    split = {"a": bar[..., :1], "b": bar[..., 1:]}
    with double_precision(name):
        sol, d_y0, d_args = solver.gradient(nested, split, penalty_bar, PARTS, **options)
        close(np.concatenate([sol.ys["a"], sol.ys["b"]], axis=-1), expected[0].ys, 1e-11)
        close(sol.penalty, expected[0].penalty, 1e-11)
        close(np.concatenate([d_y0["a"], d_y0["b"]], axis=-1), expected[1], 1e-9)
        close(d_args, expected[2], 1e-9)


def test_reversed_time_and_single_precision() -> None:
    """Also of parts."""
    parts = {name: part.astype(np.float32) for name, part in PARTS.items()}
    options: dict[str, Any] = {"method": "euler_heun", "key": 5, "controller": STEP}
    sde = nde.SDE(nested_drift, nested_matrix, "general", "stratonovich")
    whole = nde.SDE(drift, matrix, "general", "stratonovich")
    sol = nde.solve(sde, (1.0, 0.1), parts, ARGS.astype(np.float32), **options)
    expected = nde.solve(whole, (1.0, 0.1), Y0, ARGS, **options)
    assert sol.ys["a"].dtype == np.float32
    close(np.concatenate([sol.ys["a"], sol.ys["b"]], axis=1), expected.ys, 1e-5)
    there = Solver("torch").solve(whole, span=(1.0, 0.1), **options)
    close(there.ys, expected.ys, 1e-11)


def test_modules_learn_drift_and_diffusion() -> None:
    torch.manual_seed(0)
    modules = [torch.nn.Linear(2, 2).double() for _ in range(2)]
    sde = ndereg.torch.SDE(*(torch.nn.Sequential(m, torch.nn.Tanh()) for m in modules))
    sol = ndereg.torch.solve(
        _state_only(sde), SPAN, torch.as_tensor(Y0), method="sosri", rtol=0.1, atol=0.1, key=1,
        regularizer=ndereg.ErrorEstimate(),
    )  # fmt: skip
    (sol.ys.square().sum() + sol.penalty).backward()
    assert all(torch.any(p.grad != 0) for module in modules for p in module.parameters())


@pytest.mark.parametrize("method", ["stochastic_heun", "reversible_heun", "ubu"])
def test_an_own_vjp_is_that_of_the_drift(method: str) -> None:
    """Not of the diffusion, and on what the field sees where the state is a pair."""

    def own(t: Any, y: Any, args: Any) -> Any:
        return -args * y

    def vjp(t: Any, y: Any, args: Any, k_bar: Any) -> Any:
        return -args * k_bar, -np.sum(y * k_bar)

    def diffusion(t: Any, y: Any, args: Any) -> Any:
        return 0.3 * args * y * y

    found: list[Any] = []
    for field in (own, ndereg.Field(own, vjp=vjp)):
        equation: Any = ndereg.SDE(field, diffusion, calculus="stratonovich")
        start: Any = Y0
        if method == "ubu":
            equation, start = ndereg.UnderdampedLangevin(field), (Y0, Y0)
        found.append(
            Solver("reference").gradient(
                equation, start, 0.0, start, np.array(0.7), method=method, key=1, controller=STEP
            )
        )
    for actual, expected in zip(found[1][1:], found[0][1:], strict=True):
        close(actual, expected, 1e-13)


class Columns(torch.nn.Module):
    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.stack([0.0 * y + t, 0.0 * y + 0.3], dim=-1)


def test_a_module_is_a_matrix_of_additive_noise() -> None:
    """Called as modules are, also where its values are looked at before the solve."""
    linear = torch.nn.Linear(2, 2).double()
    sde = ndereg.torch.SDE(lambda t, y, args: linear(y), Columns(), "additive")
    sol = ndereg.torch.solve(sde, SPAN, torch.as_tensor(Y0), key=1, controller=STEP)
    assert torch.all(torch.isfinite(sol.ys))


def _state_only(sde: ndereg.SDE) -> ndereg.SDE:
    first, second = sde.drift, sde.diffusion
    assert second is not None
    return ndereg.SDE(lambda t, y, args: first(y), lambda t, y, args: second(y))


@pytest.mark.slow
def test_jax_transforms_paths() -> None:
    """One jitted vmap over keys, with its gradient, is the solves one by one."""

    def loss(scale: Any, key: Any) -> Any:
        sol = ndereg.jax.solve(
            equation("sriw1", "diagonal"), SPAN, jnp.asarray(Y0[:1]), ARGS * scale,
            method="sriw1", rtol=0.1, atol=0.1, key=key, max_steps=60,
        )  # fmt: skip
        return jnp.sum(sol.ys**2)

    with jax.enable_x64(True):
        keys = jnp.stack([jax.random.key(seed) for seed in (3, 8)])
        total = jax.jit(jax.value_and_grad(lambda s: jnp.sum(jax.vmap(loss, (None, 0))(s, keys))))
        value, slope = total(1.1)
        reference = Solver("reference")
        found = 0.0, 0.0
        for seed in (3, 8):
            sol, pullback = reference.face.solve_vjp(
                equation("sriw1", "diagonal"), SPAN, Y0[:1], ARGS * 1.1, method="sriw1", rtol=0.1,
                atol=0.1, key=seed,
            )  # fmt: skip
            _, d_args = pullback(2.0 * sol.ys)
            found = found[0] + np.sum(sol.ys**2), found[1] + d_args @ ARGS
        assert value == pytest.approx(found[0], rel=1e-8)
        assert slope == pytest.approx(found[1], rel=1e-8)
