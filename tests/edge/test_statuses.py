"""How a solve ends, and what is left of it, alike on every backend.

One field serves nearly all tests, so that what compiles does so once for each kind of solve.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import pytest
from tests.edge.conftest import Bench, bench_of

import ndereg
from ndereg import ops
from ndereg.spec.status import Status

NAN = math.nan
NEVER = 1e9


def growth(t: Any, y: Any, args: Any) -> Any:
    """``rate y + blow y^2``, nan after the time ``end``."""
    rate, blow, end = args
    return rate * y + blow * y * y + 0.0 * ops.sqrt(end - t)


def args(rate: Any = 0.0, blow: Any = 0.0, end: Any = NEVER) -> Any:
    return tuple(np.asarray(value, dtype=np.float64) for value in (rate, blow, end))


TIMES = np.array([0.0, 0.25, 0.75, 1.5, 2.0])
SPAN = (0.0, 2.0)
METHOD: dict[str, Any] = {"method": "bosh3", "rtol": 1e-3, "atol": 1e-6}
"""Few stages, and so little to compile, and few steps to a blow-up."""
CONSTANT = {"method": "rk4", "controller": ndereg.ConstantStep(0.125)}


def joint(bench: Bench, y0: Any = (1.0, 0.5), **options: Any) -> Any:
    """A solve with output times and a record, which does not raise."""
    values = {
        "t_eval": TIMES, "record": True, "throw": False, **METHOD, **options
    }  # fmt: skip
    span, given = values.pop("span", SPAN), values.pop("args", args())
    return bench.solve(growth, span, np.asarray(y0), given, **values)


def reached(bench: Bench, sol: Any) -> list[bool]:
    """Which output times were answered; what was not is nan throughout."""
    ys = bench.get(sol.ys)
    unanswered = np.isnan(ys).reshape(len(ys), -1)
    assert np.array_equal(unanswered.all(axis=1), unanswered.any(axis=1))
    return [not row.any() for row in unanswered]


def consistent(bench: Bench, sol: Any) -> None:
    """Statistics and the record agree."""
    stats, steps = sol.stats, bench.get(vars(sol.steps))
    assert stats.nsteps == stats.naccept + stats.nreject
    assert {len(column) for column in steps.values()} == {stats.nsteps}
    assert int(steps["accepted"].sum()) == stats.naccept
    ends = steps["t"] + steps["h"] * steps["accepted"]
    assert np.allclose(steps["t"][1:], ends[:-1], rtol=1e-14, atol=0)


def test_success(bench: Bench) -> None:
    sol = joint(bench, args=args(rate=-1.0))
    assert sol.status is Status.SUCCESS
    assert np.allclose(bench.get(sol.ys)[:, 0], np.exp(-TIMES), rtol=1e-2)
    consistent(bench, sol)


@pytest.mark.parametrize("options", [{}, {"first_step": 0.1}, CONSTANT])
def test_a_state_that_is_not_finite_ends_the_solve_at_once(bench: Bench, options: Any) -> None:
    for bad in (NAN, math.inf):
        sol = joint(bench, [1.0, bad], **options)
        assert sol.status is Status.NON_FINITE
        assert sol.stats.nsteps == 0
        assert np.array_equal(bench.get(sol.ys)[0], [1.0, bad], equal_nan=True)
        assert np.isnan(bench.get(sol.ys)[1:]).all()


@pytest.mark.parametrize("options", [{}, {"first_step": 0.1}, CONSTANT])
def test_a_field_that_is_not_finite_at_once(bench: Bench, options: Any) -> None:
    for bad in (args(rate=NAN), args(rate=math.inf), args(end=-1.0)):
        sol = joint(bench, args=bad, **options)
        assert sol.status is Status.NON_FINITE
        assert sol.stats.nsteps <= 1
        assert sol.stats.naccept == 0
        assert reached(bench, sol) == [True, False, False, False, False]


def test_the_first_stage_is_looked_at_whatever_the_method(eager: Bench) -> None:
    """Also where it is not handed on and the size of the first step is given."""
    sol = joint(eager, args=args(end=-1.0), method="fehlberg45", first_step=0.1)
    assert sol.status is Status.NON_FINITE
    assert sol.stats.nsteps == 0


@pytest.mark.parametrize("options", [{}, CONSTANT])
def test_a_field_that_stops_being_finite(bench: Bench, options: Any) -> None:
    sol = joint(bench, args=args(rate=-1.0, end=1.0), **options)
    assert sol.status is Status.NON_FINITE
    assert reached(bench, sol) == [True, True, True, False, False]
    assert np.allclose(bench.get(sol.ys)[:3, 0], np.exp(-TIMES[:3]), rtol=1e-2)
    consistent(bench, sol)


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_blow_up_in_finite_time(bench: Bench, direction: float) -> None:
    """``y' = y^2`` ends at ``1 / y0``, forward and backwards in time."""
    sol = joint(
        bench, span=(0.0, 2.0 * direction), t_eval=TIMES * direction, args=args(blow=direction)
    )
    assert sol.status in (Status.STEP_UNDERFLOW, Status.NON_FINITE)
    assert reached(bench, sol) == [True, True, True, False, False]
    assert np.allclose(bench.get(sol.ys)[:3, 0], 1 / (1 - TIMES[:3]), rtol=5e-2)
    last = float(bench.get(sol.steps.t)[-1])
    assert abs(last - direction) < 0.1
    assert np.sign(bench.get(sol.steps.h)).tolist() == [direction] * sol.stats.nsteps
    consistent(bench, sol)


def test_blow_up_with_constant_steps(bench: Bench) -> None:
    sol = joint(bench, args=args(blow=4.0), **CONSTANT)
    assert sol.status is Status.NON_FINITE
    assert sol.stats.nreject == 1
    assert not reached(bench, sol)[-1]


def test_step_underflow(bench: Bench) -> None:
    """A rejected step would have to become smaller than ``dt_min``."""
    controller = ndereg.PIDController(dt_min=0.1)
    sol = joint(bench, args=args(rate=-1000.0), controller=controller)
    assert sol.status is Status.STEP_UNDERFLOW
    assert reached(bench, sol) == [True, False, False, False, False]
    consistent(bench, sol)


@pytest.mark.parametrize("options", [{}, CONSTANT])
def test_max_steps(bench: Bench, options: Any) -> None:
    # a record has room for max_steps, so that JAX compiles it for each of them
    options = {**options, "record": bench.name != "jax"}
    whole = joint(bench, args=args(rate=-3.0), **options)
    assert whole.status is Status.SUCCESS
    needed = whole.stats.nsteps
    enough = joint(bench, args=args(rate=-3.0), max_steps=needed, **options)
    assert enough.status is Status.SUCCESS
    assert enough.stats == whole.stats
    short = joint(bench, args=args(rate=-3.0), max_steps=needed - 1, **options)
    assert short.status is Status.MAX_STEPS
    assert short.stats.nsteps == needed - 1
    assert reached(bench, short)[0]
    assert not reached(bench, short)[-1]
    if short.steps is not None:
        consistent(bench, short)


@pytest.mark.parametrize(
    ("given", "options", "status"),
    [
        (args(rate=NAN), {}, Status.NON_FINITE),
        (args(rate=-1000.0), {"max_steps": 3}, Status.MAX_STEPS),
        (args(rate=-1e3), {"controller": ndereg.PIDController(dt_min=0.1)}, Status.STEP_UNDERFLOW),
    ],
)
def test_failures_are_raised(bench: Bench, given: Any, options: Any, status: Status) -> None:
    with pytest.raises(ndereg.SolveError, match=status.name) as caught:
        joint(bench, args=given, throw=True, **options)
    assert caught.value.status is status
    sol = joint(bench, args=given, **options)
    came = np.sum(bench.get(sol.steps.h) * bench.get(sol.steps.accepted))
    assert caught.value.t == pytest.approx(came, rel=1e-6)
    assert f"{status.name} at t={caught.value.t:.6g}: {status.message}" in str(caught.value)
    assert "throw=False" in str(caught.value)


# No time to pass


def no_time_to_pass(bench: Bench, times: Any, **options: Any) -> None:
    for y0 in (np.array([1.0, -0.0]), np.array([1.0, NAN])):
        sol = joint(bench, y0, span=(1.0, 1.0), t_eval=times, **options)
        assert sol.status is Status.SUCCESS
        stats = sol.stats
        assert (stats.nfev, stats.nsteps, stats.naccept, stats.nreject) == (0, 0, 0, 0)
        assert float(sol.penalty) == 0.0
        assert {len(column) for column in vars(sol.steps).values()} == {0}
        expected = y0 if times is None else np.stack([y0, y0])
        assert np.array_equal(bench.get(sol.ys), expected, equal_nan=True)


def test_no_time_to_pass(bench: Bench) -> None:
    no_time_to_pass(bench, [1.0, 1.0])


def test_no_time_to_pass_for_a_penalty(eager: Bench) -> None:
    for times in (None, [1.0, 1.0]):
        no_time_to_pass(eager, times, regularizer=ndereg.ErrorEstimate())


def test_backwards_undoes_forward(bench: Bench) -> None:
    there = joint(bench, args=args(rate=-1.0))
    back = joint(
        bench, bench.get(there.ys)[-1], span=SPAN[::-1], t_eval=TIMES[::-1].copy(),
        args=args(rate=-1.0),
    )  # fmt: skip
    assert back.status is Status.SUCCESS
    assert np.allclose(bench.get(back.ys)[::-1], bench.get(there.ys), rtol=1e-2)


# Samples with steps of their own

SAMPLES = np.array([[1.0, 0.5], [0.1, 0.2], [NAN, 1.0], [0.5, 0.4], [0.2, 0.1]])
GOOD = [1, 4]
MIXED = args(
    rate=np.array([[0.0], [-1.0], [0.0], [NAN], [-40.0]]),
    blow=np.array([[1.0], [0.0], [0.0], [0.0], [0.0]]),
)
STATUSES = [
    (Status.STEP_UNDERFLOW, Status.NON_FINITE), (Status.SUCCESS,), (Status.NON_FINITE,),
    (Status.NON_FINITE,), (Status.SUCCESS, Status.MAX_STEPS),
]  # fmt: skip


def samples(bench: Bench, y0: Any = SAMPLES, given: Any = MIXED, **options: Any) -> Any:
    options = {"t_eval": TIMES, "throw": False, **METHOD, **options}
    return bench.solve(growth, SPAN, y0, given, batch="independent", **options)


def only(rows: Any) -> tuple[Any, Any]:
    rate, blow, end = MIXED
    return SAMPLES[rows], (rate[rows], blow[rows], end)


def test_a_failing_sample_does_not_disturb_the_others(bench: Bench) -> None:
    sol = samples(bench)
    status = bench.get(sol.status)
    assert status.dtype.kind == "i"
    assert all(Status(code) in expected for code, expected in zip(status, STATUSES, strict=True))
    ys = bench.get(sol.ys)
    assert np.isfinite(ys[GOOD]).all()
    assert np.allclose(ys[1], SAMPLES[1] * np.exp(-TIMES)[:, None], rtol=1e-2)
    # the one that blows up answers what it reached, the others only the start
    assert np.isfinite(ys[0, :3]).all()
    assert np.isnan(ys[0, 3:]).all()
    assert np.array_equal(ys[2:4, 0], SAMPLES[2:4], equal_nan=True)
    assert np.isnan(ys[2:4, 1:]).all()
    for row, y0 in enumerate(SAMPLES):
        assert np.array_equal(ys[row, 0], y0, equal_nan=True)


def test_good_samples_take_the_steps_they_take_alone(bench: Bench) -> None:
    together, alone = samples(bench), samples(bench, *only(GOOD))
    assert bench.get(alone.status).tolist() == [Status.SUCCESS] * 2
    assert np.allclose(bench.get(together.ys)[GOOD], bench.get(alone.ys), rtol=1e-9, atol=1e-14)
    for name, count in vars(together.stats).items():
        got, expected = bench.get(count), bench.get(getattr(alone.stats, name))
        assert got.dtype.kind == "i"
        assert got[GOOD].tolist() == expected.tolist(), name
    assert bench.get(together.stats.nsteps)[[2, 3]].tolist() == [0, 0]


def test_max_steps_holds_for_each_sample(bench: Bench) -> None:
    needed = bench.get(samples(bench, *only(GOOD)).stats.nsteps)
    assert needed[0] < needed[1]
    sol = samples(bench, *only(GOOD), max_steps=int(needed[0]))
    assert bench.get(sol.status).tolist() == [Status.SUCCESS, Status.MAX_STEPS]
    assert bench.get(sol.stats.nsteps).tolist() == [needed[0], needed[0]]
    assert np.isnan(bench.get(sol.ys)[1, -1]).all()


def test_failing_samples_are_raised(bench: Bench) -> None:
    with pytest.raises(ndereg.SolveError, match="3 of 5 samples failed, the first is 0") as caught:
        samples(bench, throw=True)
    assert caught.value.status in STATUSES[0]
    some, options = only([1, 0, 4]), {"record": True, "max_steps": 300}
    with pytest.raises(ndereg.SolveError, match="the first is 1") as caught:
        samples(bench, *some, throw=True, **options)
    sol = samples(bench, *some, **options)
    h, accepted = bench.get(sol.steps.h)[:, 1], bench.get(sol.steps.accepted)[:, 1]
    assert caught.value.t == pytest.approx(np.sum(h[accepted]), rel=1e-6)


def test_samples_without_time_to_pass(bench: Bench) -> None:
    sol = bench.solve(
        growth, (1.0, 1.0), SAMPLES, MIXED, batch="independent", t_eval=np.ones((5, 2)),
        throw=False, **METHOD,
    )  # fmt: skip
    assert bench.get(sol.status).tolist() == [Status.SUCCESS] * 5
    assert bench.get(sol.stats.nfev).tolist() == [0] * 5
    expected = np.stack([SAMPLES, SAMPLES], axis=1)
    assert np.array_equal(bench.get(sol.ys), expected, equal_nan=True)


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_gradients_without_time_are_the_identity(bench: Bench, batch: str) -> None:
    y0, given = (np.array([[1.0, 0.5]]), args(rate=-1.0)) if batch == "joint" else only(GOOD)
    sol, pullback = bench.vjp(
        growth, (1.0, 1.0), y0, given, t_eval=[1.0, 1.0], batch=batch, **METHOD
    )
    bar = np.arange(1.0, 1.0 + math.prod(sol.ys.shape)).reshape(sol.ys.shape)
    d_y0, d_args = pullback(bench.to(bar))
    axis = 0 if batch == "joint" else 1
    assert np.array_equal(bench.get(d_y0), bar.sum(axis=axis).reshape(y0.shape))
    for leaf, like in zip(bench.get(d_args), given, strict=True):
        assert np.array_equal(leaf, np.zeros(like.shape))


def test_gradients_of_good_samples_beside_failing_ones(bench: Bench) -> None:
    """Cotangents of the state and of per-sample args stay with their sample."""

    def gradient(y0: Any, given: Any) -> Any:
        _, pullback = bench.vjp(
            growth, SPAN, y0, given, batch="independent", throw=False, t_eval=TIMES, **METHOD
        )
        bar = np.linspace(0.5, 1.5, len(TIMES) * 2).reshape(1, -1, 2) * np.ones((len(y0), 1, 1))
        d_y0, d_args = pullback(bench.to(bar))
        return bench.get(d_y0), bench.get(d_args)

    # output times that a sample did not reach have no share in its gradient
    d_y0, d_args = gradient(SAMPLES, MIXED)
    alone_y0, alone_args = gradient(*only(GOOD))
    assert np.allclose(d_y0[GOOD], alone_y0, rtol=1e-8)
    assert np.allclose(d_args[0][GOOD], alone_args[0], rtol=1e-8)
    assert np.allclose(d_args[1][GOOD], alone_args[1], rtol=1e-8)
    assert np.isfinite(d_y0[0]).all()


def test_gradients_of_what_a_failed_solve_reached(bench: Bench) -> None:
    """Alike on all backends: the adjoint of the steps that were accepted."""
    expected = 1 / (1 - TIMES[:3]) ** 2
    _, pullback = bench.vjp(
        growth,
        SPAN,
        np.array([[1.0, 0.5]]),
        args(blow=1.0),
        t_eval=TIMES,
        throw=False,
        **METHOD,
    )
    d_y0, _ = pullback(bench.to(np.ones((len(TIMES), 1, 2))))
    assert np.allclose(bench.get(d_y0)[0, 0], expected.sum(), rtol=0.1)


def test_a_sample_that_cannot_begin_leaves_shared_args_alone(bench: Bench) -> None:
    """The gradient of args that all samples share is that of the samples which can begin."""

    def gradient(y0: Any) -> tuple[Any, Any]:
        _, pullback = bench.vjp(
            growth, SPAN, y0, args(rate=-1.0), batch="independent", throw=False, **METHOD
        )
        d_y0, d_args = pullback(bench.to(np.ones(y0.shape)))
        return bench.get(d_y0), bench.get(d_args)

    _, shared = gradient(SAMPLES)
    _, alone = gradient(SAMPLES[[0, 1, 3, 4]])
    assert np.isfinite(alone[0])
    assert np.allclose(shared[0], alone[0], rtol=1e-9)


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_gradients_where_the_field_is_not_finite_at_once(bench: Bench, batch: str) -> None:
    """Only the output at the start was answered, and it is the state itself."""
    y0, given = (np.array([[1.0, 0.5]]), args(rate=NAN)) if batch == "joint" else only([3])
    sol, pullback = bench.vjp(
        growth, SPAN, y0, given, t_eval=TIMES, throw=False, batch=batch, **METHOD
    )
    bar = np.ones(sol.ys.shape)
    d_y0, d_args = pullback(bench.to(bar))
    assert np.array_equal(bench.get(d_y0), [[1.0, 1.0]])
    assert all(np.array_equal(leaf, np.zeros(leaf.shape)) for leaf in bench.get(d_args))


# Under transformations of JAX nothing can be raised


def test_failures_under_jit_carry_their_status() -> None:
    bench = bench_of("jax")

    @jax.jit
    def run(rate: Any) -> Any:
        sol = bench.face.solve(growth, SPAN, jax.numpy.ones(2), (rate, 0.0, NEVER), max_steps=20)
        return sol.ys, sol.status

    ys, status = run(-1.0)
    assert int(status) == Status.SUCCESS
    assert np.isfinite(ys).all()
    ys, status = run(-1e4)
    assert int(status) == Status.MAX_STEPS
    assert np.isnan(ys).all()


def test_statuses_are_integers_that_explain_themselves() -> None:
    for status in Status:
        assert Status(int(status)) is status
        assert status.message
        if status not in (Status.RUNNING, Status.SUCCESS):
            assert "Try " in status.message
    assert int(Status.SUCCESS) == 0


# Sizes of steps


def decay(t: Any, y: Any, args: Any) -> Any:
    return args * y


def test_no_step_is_longer_than_allowed(bench: Bench) -> None:
    """Neither the first one, where it is given, nor the last one, which lands on the end."""
    controller = ndereg.PIDController(dt_max=0.1)
    for first_step in (None, 0.9):
        sol = bench.solve(
            decay, (0.0, 1.0008), np.ones(2), np.array(-1.0), record=True, first_step=first_step,
            controller=controller, method="bosh3", rtol=1e-2, atol=1e-2,
        )  # fmt: skip
        assert np.max(bench.get(sol.steps.h)) <= 0.1 * (1 + 1e-12)


def test_a_step_that_does_not_move_the_time_ends_the_solve(bench: Bench) -> None:
    tiny = ndereg.PIDController(dt_max=1e-12)
    for controller in (tiny, ndereg.ConstantStep(1e-12)):
        sol = bench.solve(
            decay, (1e6, 1e6 + 1.0), np.ones(2), np.array(-1.0), controller=controller,
            method="bosh3", rtol=1e-2, atol=1e-2, throw=False, max_steps=50,
        )  # fmt: skip
        assert sol.status is Status.STEP_UNDERFLOW
        assert sol.stats.naccept == 0


def test_rounding_adds_no_step(eager: Bench) -> None:
    sol = eager.solve(
        decay, (0.0, 10.0), np.ones(1), np.array(-1.0), method="euler",
        controller=ndereg.ConstantStep(1e-3), max_steps=10_000,
    )  # fmt: skip
    assert sol.stats.nsteps == 10_000


def test_a_derivative_whose_square_overflows(bench: Bench) -> None:
    sol = bench.solve(
        decay, (0.0, 1e-14), np.ones(2, np.float32), np.array(-7e13, np.float32), rtol=1e-4,
        atol=1e-9, method="bosh3", max_steps=200,
    )  # fmt: skip
    assert np.allclose(bench.get(sol.ys), np.exp(-0.7), rtol=1e-3)
