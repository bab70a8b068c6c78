"""One extra step from a random time: its value, its gradient, its randomness, on every backend."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import ndereg
from ndereg import ops
from ndereg.backends.draws import uniform
from ndereg.backends.host.floats import FloatMachine
from ndereg.backends.interpreter import Runner
from ndereg.models.mlp import MLP
from ndereg.models.parameters import map_leaves
from ndereg.plan.local import pick_program
from ndereg.spec.spec import LocalStep
from ndereg.structure import flatten

from .conftest import Bench, close

SPAN = (0.0, 2.0)
ERROR = ndereg.ErrorEstimate()
Y0 = np.random.default_rng(0).normal(size=(3, 2))
ARGS = np.random.default_rng(1).normal(size=(2, 2)) * 2
TOLERANCES = {"rtol": 1e-3, "atol": 1e-4}
OPTIONS: dict[str, Any] = {"method": "bosh3", "key": 5, **TOLERANCES}


def field(t: Any, y: Any, args: Any) -> Any:
    return ops.tanh(y @ args) - 0.5 * y * ops.cos(3.0 * t)


def local(
    sampling: str = "unbiased", through_state: bool = False, step: str = "first"
) -> ndereg.Local:
    return ndereg.Local(ERROR, sampling, through_state, step)


CASES: dict[str, dict[str, Any]] = {
    "joint": {"regularizer": local()},
    "joint biased, through the state, beside a global one": {
        "regularizer": ndereg.ErrorEstimate(reduce="max") + 2.0 * local("biased", True),
    },
    "independent, through the state": {
        "regularizer": ndereg.Local(ERROR + 0.3 * ndereg.ErrorEstimate(True), through_state=True),
        "batch": "independent", "t_eval": [0.3, 0.9, 2.0],
    },
    "independent biased, backsolve": {
        "regularizer": local("biased"), "batch": "independent", "adjoint": "backsolve",
        "t_eval": [0.3, 0.9, 2.0],
    },
    "joint, its own, through the state, beside a global one": {
        "regularizer": ERROR + 2.0 * local("unbiased", True, "own"),
    },
    "independent biased, its own": {
        "regularizer": local("biased", step="own"), "batch": "independent",
    },
    "independent, its own, through the state, backwards": {
        "regularizer": local("unbiased", True, "own"), "batch": "independent",
        "t_eval": [2.0, 0.9, 0.3, 0.0], "span": SPAN[::-1],
    },
    "joint, its own, through the state, backsolve": {
        "regularizer": local("unbiased", True, "own"), "adjoint": "backsolve",
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_backends_agree(bench: Bench, reference: Bench, case: str) -> None:
    options = {**OPTIONS, **CASES[case]}
    found, expected = (gradients(one, **options) for one in (bench, reference))
    close(found, expected, 1e-10)


def gradients(bench: Bench, **options: Any) -> tuple[Any, ...]:
    """Outputs, penalty, evaluations, and the cotangents of y0 and args of the penalty alone."""
    independent, times = options.get("batch") == "independent", options.get("t_eval")
    lead = () if times is None else (len(times),)
    shape = (3, *lead, 2) if independent else (*lead, 3, 2)
    bar = np.array([1.0, -2.0, 0.5]) if independent else 1.5
    span = options.pop("span", SPAN)
    sol, d_y0, d_args = bench.gradient(field, span, Y0, ARGS, np.zeros(shape), bar, **options)
    nfev = np.asarray(bench.get(sol.stats.nfev), float)
    return bench.get(sol.ys), bench.get(sol.penalty), nfev, d_y0, d_args


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
@pytest.mark.parametrize("times", [None, [0.0, 0.7, 2.0]])
@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_the_outputs_are_those_of_the_solve_alone(
    reference: Bench, batch: str, times: Any, sampling: str
) -> None:
    options = {**OPTIONS, "batch": batch, "t_eval": times}
    alone = reference.solve(field, SPAN, Y0, ARGS, **options)
    sol = reference.solve(field, SPAN, Y0, ARGS, regularizer=local(sampling), **options)
    close(sol.ys, alone.ys, 0.0)
    # first stage and first step size, then the other stages
    assert np.all(np.asarray(sol.stats.nfev) - alone.stats.nfev == 2 + 3)
    assert np.all(np.asarray(sol.stats.nsteps) == alone.stats.nsteps)


# The extra step, independently of the library


def rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.abs(values) ** 2)))


def first_step(t: float, y: Any, k1: Any, args: Any, end: float) -> float:
    """Hairer, Norsett, Wanner I, II.4."""
    scale = TOLERANCES["atol"] + TOLERANCES["rtol"] * np.abs(y)
    d0, d1 = rms(y / scale), rms(k1 / scale)
    h0 = min(0.01 * d0 / d1, end - t)
    d2 = rms((numpy_field(t + h0, y + h0 * k1, args) - k1) / scale) / h0
    return float(min(100 * h0, (0.01 / max(d1, d2)) ** (1 / 3), end - t))


def numpy_field(t: float, y: Any, args: Any) -> Any:
    return np.tanh(y @ args) - 0.5 * y * np.cos(3.0 * t)


def step_penalty(t: float, y: Any, k1: Any, h: float, args: Any) -> float:
    """``E h`` of one step of Bogacki and Shampine."""
    k2 = numpy_field(t + h / 2, y + h / 2 * k1, args)
    k3 = numpy_field(t + 3 / 4 * h, y + 3 / 4 * h * k2, args)
    y1 = y + h * (2 / 9 * k1 + 1 / 3 * k2 + 4 / 9 * k3)
    k4 = numpy_field(t + h, y1, args)
    error = h * (-5 / 72 * k1 + 1 / 12 * k2 + 1 / 9 * k3 - 1 / 8 * k4)
    scale = TOLERANCES["atol"] + TOLERANCES["rtol"] * np.maximum(np.abs(y), np.abs(y1))
    return rms(error / scale) * h


def slope(function: Any, at: Any, eps: float = 1e-6) -> Any:
    found = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[index] = eps
        found[index] = (function(at + moved) - function(at - moved)) / (2 * eps)
    return found


def test_the_gradient_is_that_of_the_later_stages_alone(reference: Bench) -> None:
    """State, first stage and step size frozen; against finite differences by args."""
    share = uniform(reference.face.backend, 5, 1, "ndereg.Local")[0]
    time = SPAN[0] + share * (SPAN[1] - SPAN[0])
    options = {**OPTIONS, "regularizer": local()}
    sol, d_y0, d_args = reference.gradient(field, SPAN, Y0, ARGS, np.zeros_like(Y0), 1.0, **options)
    y = reference.solve(field, SPAN, Y0, ARGS, t_eval=[time, SPAN[1]], **OPTIONS).ys[0]
    k1 = numpy_field(time, y, ARGS)
    h = first_step(time, y, k1, ARGS, SPAN[1])
    close(sol.penalty, step_penalty(time, y, k1, h, ARGS), 1e-9)
    close(d_args, slope(lambda a: step_penalty(time, y, k1, h, a), ARGS), 1e-6)
    assert not np.any(d_y0)


@pytest.mark.parametrize("batch", ["joint", "independent"])
@pytest.mark.parametrize("span", [SPAN, SPAN[::-1]])
def test_an_own_step_is_the_one_that_covers_the_time(
    bench: Bench, span: tuple[float, float], batch: str
) -> None:
    """Its contribution is what the solve itself has recorded of it."""
    options: dict[str, Any] = {**OPTIONS, "batch": batch, "record": True}
    found = set()
    for key in range(6):
        options |= {"key": key, "regularizer": local(step="own")}
        sol = bench.solve(field, span, Y0, ARGS, **options)
        steps = [np.asarray(bench.get(x)) for x in (sol.steps.t, sol.steps.h, sol.steps.error)]
        t, h, error = (x.reshape(len(x), -1) for x in steps)
        accepted = bench.get(sol.steps.accepted).reshape(t.shape)
        shares = uniform(bench.face.backend, key, t.shape[1], "ndereg.Local")
        penalties = np.broadcast_to(bench.get(sol.penalty), t.shape[1])
        for sample, penalty in enumerate(penalties):
            passed = np.abs(t[:, sample] + h[:, sample] - span[0]) / abs(span[1] - span[0])
            row = int(np.argmax(accepted[:, sample] & (passed > shares[sample])))
            close(penalty, error[row, sample] * abs(h[row, sample]), 1e-11)
            found.add(row)
    assert len(found) > 3
    # it is no longer searched for a first size
    alone = bench.solve(field, span, Y0, ARGS, **{**options, "regularizer": None})
    assert np.all(bench.get(sol.stats.nfev) - bench.get(alone.stats.nfev) == 1 + 3)


def test_a_share_that_is_rounded_to_one_is_covered() -> None:
    program = pick_program(LocalStep((), step="own"))
    assert program is not None
    runner, control = Runner(program), FloatMachine()
    values = {"accept": True, "span": 2.0, "direction": -1.0, "remaining": -0.5, "h": -0.5}
    assert runner(control, {**values, "uniform": 1.0}) == {"pick": True, "uniform": 2.0}
    assert not runner(control, {**values, "uniform": 2.0})["pick"]  # picked before
    assert not runner(control, {**values, "uniform": 1.0, "h": -0.4})["pick"]
    assert not runner(control, {**values, "uniform": 1.0, "accept": False})["pick"]


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
def test_the_gradient_of_an_own_step(reference: Bench, sampling: str) -> None:
    """Its start and size are constants; against finite differences of the formulas above."""
    options = {**OPTIONS, "regularizer": local(sampling, step="own"), "record": True}
    sol, d_y0, d_args = reference.gradient(field, SPAN, Y0, ARGS, np.zeros_like(Y0), 1.0, **options)
    steps = sol.steps
    row = int(np.argmin(np.abs(steps.error * np.abs(steps.h) - float(sol.penalty))))
    t, h = float(steps.t[row]), float(steps.h[row])
    times = [t, SPAN[1]] if t > SPAN[0] else [SPAN[1]]
    y = reference.solve(field, SPAN, Y0, ARGS, t_eval=times, **OPTIONS).ys[0] if t else Y0
    k1 = numpy_field(t, y, ARGS)
    close(sol.penalty, step_penalty(t, y, k1, h, ARGS), 1e-9)
    close(d_args, slope(lambda args: step_penalty(t, y, k1, h, args), ARGS), 1e-6)
    assert not np.any(d_y0)


def test_the_mean_over_own_steps_is_that_of_the_solve(reference: Bench) -> None:
    """Of an unbiased time: the sum of ``E h`` with the steps' shares of the span as weights."""
    count = 6000
    options: dict[str, Any] = {**OPTIONS, "batch": "independent"}
    many = np.repeat(Y0[:1], count, axis=0)
    draws = reference.solve(field, SPAN, many, ARGS, regularizer=local(step="own"), **options)
    steps = reference.solve(field, SPAN, Y0[:1], ARGS, record=True, **options).steps
    h = np.where(steps.accepted, np.abs(steps.h), 0.0)
    expected = np.sum(steps.error * h * h) / (SPAN[1] - SPAN[0])
    assert abs(draws.penalty.mean() - expected) < 5 * draws.penalty.std() / np.sqrt(count)


@pytest.mark.parametrize("batch", ["joint", "independent"])
@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
def test_an_own_step_of_a_solve_that_stops(bench: Bench, batch: str, sampling: str) -> None:
    """Of one accepted step it is that step; beyond it nothing is known."""
    options: dict[str, Any] = {
        **OPTIONS, "batch": batch, "first_step": 0.05, "max_steps": 1, "throw": False
    }  # fmt: skip
    once, again = (
        bench.solve(field, SPAN, Y0, ARGS, regularizer=regularizer, **options)
        for regularizer in (ERROR, local(sampling, step="own"))
    )
    assert np.all(bench.get(again.stats.naccept) == 1)
    if sampling == "biased":
        assert np.all(bench.get(again.penalty) > 0)
        close(bench.get(again.penalty), bench.get(once.penalty), 1e-12)
    else:  # no time that this key draws is before 0.05
        assert np.all(np.isnan(bench.get(again.penalty)))


def test_in_single_precision_a_first_step_is_rounding(reference: Bench) -> None:
    """As the page on regularizers tells; of rounding its table has that of compiled solves."""
    network = MLP((64, 32, 64), output_activation="tanh")
    params, y0 = network.init(0), np.random.default_rng(0).normal(size=(32, 64))

    def measured(dtype: str, step: str) -> tuple[float, np.ndarray]:
        args = map_leaves(lambda leaf: np.asarray(leaf, dtype), params)
        regularizer = local("unbiased", step == "own", step)
        options: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6, "regularizer": regularizer, "key": 0}
        sol, pullback = reference.face.solve_vjp(
            network, (0.0, 1.0), y0.astype(dtype), args, **options
        )
        _, bars = pullback(np.zeros_like(sol.ys), penalty_bar=1.0)
        return float(sol.penalty), np.concatenate([np.ravel(leaf) for leaf in flatten(bars)[0]])

    def both(step: str) -> tuple[float, float, float]:
        (single, single_bar), (double, double_bar) = (
            measured(dtype, step) for dtype in ("float32", "float64")
        )
        cosine = single_bar @ double_bar / np.linalg.norm(single_bar) / np.linalg.norm(double_bar)
        return single, double, cosine

    single, double, cosine = both("first")
    assert single > 1e-5 and double == pytest.approx(1.9e-9, rel=0.05) and abs(cosine) < 0.4
    single, double, cosine = both("own")
    assert single == pytest.approx(4.5e-3, rel=0.3)
    assert double == pytest.approx(1.84e-3, rel=0.01)
    assert cosine > 0.9


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_through_the_state_it_is_the_whole_derivative(
    reference: Bench, batch: str, sampling: str
) -> None:
    """With constant steps neither the mesh nor the extra step's size depends on anything."""
    options = {
        **OPTIONS, "batch": batch, "regularizer": local(sampling, True), "t_eval": [0.5, 2.0],
        "controller": ndereg.ConstantStep(0.15),
    }  # fmt: skip

    def penalty(y0: Any, args: Any) -> float:
        return float(np.sum(reference.solve(field, SPAN, y0, args, **options).penalty))

    shape = (3, 2, 2) if batch == "independent" else (2, 3, 2)
    bar = np.ones(3) if batch == "independent" else 1.0
    _, d_y0, d_args = reference.gradient(field, SPAN, Y0, ARGS, np.zeros(shape), bar, **options)
    close(d_y0, slope(lambda y0: penalty(y0, ARGS), Y0), 1e-6)
    close(d_args, slope(lambda args: penalty(Y0, args), ARGS), 1e-6)


def test_the_mean_over_draws_is_the_integral(reference: Bench) -> None:
    """Unbiased: of ``E(t) h(t)`` over the span, by a fine quadrature of the formula above."""
    count, y0 = 4000, Y0[:1]
    options = {**OPTIONS, "batch": "independent"}
    many = np.repeat(y0, count, axis=0)
    draws = reference.solve(field, SPAN, many, ARGS, regularizer=local(), **options).penalty
    grid = SPAN[0] + (np.arange(1000) + 0.5) / 1000 * (SPAN[1] - SPAN[0])
    ys = reference.solve(field, SPAN, y0, ARGS, t_eval=grid, **options).ys[0]
    values = []
    for time, y in zip(grid, ys, strict=True):
        k1 = numpy_field(time, y, ARGS)
        h = first_step(time, y, k1, ARGS, SPAN[1])
        values.append(step_penalty(time, y, k1, h, ARGS))
    assert abs(draws.mean() - np.mean(values)) < 5 * draws.std() / np.sqrt(count)


def test_biased_draws_are_uniform_over_the_accepted_steps(reference: Bench) -> None:
    count = 6000
    options = {**OPTIONS, "batch": "independent", "controller": ndereg.ConstantStep(0.25)}
    many = np.repeat(Y0[:1], count, axis=0)
    sol = reference.solve(field, SPAN, many, ARGS, regularizer=local("biased"), **options)
    values, counts = np.unique(np.round(sol.penalty, 12), return_counts=True)
    assert len(values) == sol.stats.naccept[0] == 8
    expected = count / 8
    # chi-square with 7 degrees of freedom exceeds 24.3 once in a thousand
    assert np.sum((counts - expected) ** 2 / expected) < 24.3


def test_a_sample_that_fails_leaves_the_others_alone(reference: Bench) -> None:
    """Its penalty is not known, and it has no gradient."""

    def explodes(t: Any, y: Any, args: Any) -> Any:
        return args * y * y

    y0, args = np.array([[0.2], [40.0], [0.3]]), np.array(1.0)
    options = {**OPTIONS, "batch": "independent", "throw": False, "regularizer": local()}
    for bench in (reference, Bench("torch")):
        sol, d_y0, d_args = bench.gradient(explodes, (0.0, 1.0), y0, args, y0 * 0, 1.0, **options)
        assert np.array_equal(np.isnan(bench.get(sol.penalty)), [False, True, False])
        assert np.isfinite(d_args) and np.all(d_y0 == 0)
    options["regularizer"] = local("biased")
    y0[1] = np.nan  # without an accepted step the contribution is 0
    for bench in (reference, Bench("torch")):
        sol = bench.solve(explodes, (0.0, 1.0), y0, args, **options)
        assert bench.get(sol.penalty)[1] == 0 and np.all(bench.get(sol.penalty)[::2] > 0)


def test_an_empty_span_contributes_nothing(reference: Bench) -> None:
    for sampling in ("unbiased", "biased"):
        options = {**OPTIONS, "regularizer": local(sampling, True)}
        sol, d_y0, d_args = reference.gradient(
            field, (1.0, 1.0), Y0, ARGS, np.ones_like(Y0), 1.0, **options
        )
        assert sol.penalty == 0 and sol.stats.nfev == 0
        close(d_y0, np.ones_like(Y0), 0.0)
        assert not np.any(d_args)


# Keys


def test_keys_are_asked_for_and_checked(reference: Bench) -> None:
    options = {"method": "bosh3", "regularizer": local()}
    with pytest.raises(ValueError, match=r"expected a key .* received key=None; try key=0"):
        reference.solve(field, SPAN, Y0, ARGS, **options)
    for wrong in (True, 1.5, "seed", torch.Generator()):
        with pytest.raises(TypeError, match=r"expected an int or a numpy.random.Generator as key"):
            reference.solve(field, SPAN, Y0, ARGS, key=wrong, **options)
    with pytest.raises(ValueError, match="seed in"):
        reference.solve(field, SPAN, Y0, ARGS, key=-1, **options)
    found = [
        float(reference.solve(field, SPAN, Y0, ARGS, key=key, **options).penalty)
        for key in (1, 1, 2, np.random.default_rng(3), np.random.default_rng(3))
    ]
    assert found[0] == found[1] != found[2]
    assert found[3] == found[4]


def test_combinations(reference: Bench) -> None:
    options = {**OPTIONS, "adjoint": "backsolve"}
    with pytest.raises(ValueError, match=r"adjoint='discrete'.*ndereg\.Local"):
        reference.solve(field, SPAN, Y0, ARGS, regularizer=ERROR + local(), **options)
    with pytest.raises(ValueError, match=r"one kind of ndereg.Local"):
        reference.solve(field, SPAN, Y0, ARGS, regularizer=local() + local("biased"), **OPTIONS)
    sizes = local() + local(step="own")
    with pytest.raises(ValueError, match=r"sampling, through_state or step"):
        reference.solve(field, SPAN, Y0, ARGS, regularizer=sizes, **OPTIONS)
    with pytest.raises(ValueError, match="first, own"):
        ndereg.Local(ERROR, step=0.1)  # type: ignore[arg-type]
    through = {**options, "regularizer": local("unbiased", True), "batch": "independent"}
    with pytest.raises(ValueError, match=r"through_state=True.*try adjoint='discrete'"):
        reference.solve(field, SPAN, Y0, ARGS, **through)
    with pytest.raises(TypeError, match="expected heuristic to be a regularizer"):
        ndereg.Local("error")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="heuristic over one step"):
        ndereg.Local(local())
    with pytest.raises(ValueError, match="unbiased, biased"):
        ndereg.Local(ERROR, sampling="random")  # type: ignore[arg-type]
    one = reference.solve(field, SPAN, Y0, ARGS, regularizer=ERROR, **OPTIONS).penalty
    other = reference.solve(field, SPAN, Y0, ARGS, regularizer=local(), **OPTIONS).penalty
    both = ERROR + 0.25 * local() + 0.25 * local()
    total = reference.solve(field, SPAN, Y0, ARGS, regularizer=both, **OPTIONS).penalty
    close(total, one + 0.5 * other, 1e-12)


def test_torch_history_and_generators(reference: Bench) -> None:
    """backward() is the pullback; a generator is drawn from."""
    bench = Bench("torch")
    for through_state in (False, True):
        regularizer = local("biased", through_state)
        y0, args = (torch.tensor(value, requires_grad=True) for value in (Y0, ARGS))
        options = {**OPTIONS, "regularizer": regularizer}
        sol = bench.face.solve(field, SPAN, y0, args, **options)
        sol.penalty.backward()
        _, d_y0, d_args = reference.gradient(
            field, SPAN, Y0, ARGS, np.zeros_like(Y0), 1.0, **options
        )
        close(args.grad.numpy(), d_args, 1e-10)
        assert np.any(d_y0) == through_state
        close(y0.grad.numpy(), d_y0, 1e-10)
    options["key"] = torch.Generator().manual_seed(4)
    first, second = (
        bench.face.solve(field, SPAN, y0, args, **options).penalty.item() for _ in range(2)
    )
    assert first != second
    options["key"] = torch.Generator().manual_seed(4)
    assert bench.face.solve(field, SPAN, y0, args, **options).penalty.item() == first


def test_jax_keys_under_transformations() -> None:
    """In single precision: a traced key under jit, vmap and grad, one draw a key."""
    bench = Bench("jax")
    y0, args = jnp.asarray(Y0, jnp.float32), jnp.asarray(ARGS, jnp.float32)
    options = {"method": "bosh3", **TOLERANCES, "regularizer": local()}

    def penalty(args: Any, key: Any) -> Any:
        return bench.face.solve(field, SPAN, y0, args, key=key, **options).penalty

    keys = jax.random.split(jax.random.key(0), 3)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(penalty), in_axes=(None, 0)))(args, keys)
    assert len(np.unique(values)) == 3
    share = float(jax.random.uniform(keys[1], (1,))[0])
    time = SPAN[0] + share * (SPAN[1] - SPAN[0])
    y = np.asarray(bench.face.solve(field, SPAN, y0, args, t_eval=[time, 2.0], **{
        **options, "regularizer": None,
    }).ys[0], float)  # fmt: skip
    k1 = numpy_field(time, y, ARGS)
    h = first_step(time, y, k1, ARGS, SPAN[1])
    close(float(values[1]), step_penalty(time, y, k1, h, ARGS), 1e-2)
    close(np.asarray(slopes[1]), slope(lambda a: step_penalty(time, y, k1, h, a), ARGS), 2e-2)
    with pytest.raises(TypeError, match=r"an int or a key of jax.random"):
        penalty(args, jnp.ones(2))
