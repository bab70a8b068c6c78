"""Duties of a backend that solves ordinary equations."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from ndereg import ops
from ndereg.catalogue import lookup
from ndereg.spec.adjoint import Discrete
from ndereg.spec.controller import ConstantStep, PIDController
from ndereg.spec.regularizer import ErrorEstimate, StiffnessEstimate
from ndereg.spec.stability import stability_polynomial
from ndereg.spec.status import Status
from ndereg.structure import flatten
from ndereg.testing.duties.duty import agree, duty, expect
from ndereg.testing.frameworks import Bench

Y0 = np.array([[0.4, -0.7], [0.9, 0.2], [-0.3, 0.8]])
ARGS = np.array([0.8, 1.2, 0.9])
SPAN = (0.2, 2.6)


def oscillator(t: Any, y: Any, args: Any) -> Any:
    """A driven nonlinear oscillator; of a single array or sample by sample, real or complex."""
    x, v = y[..., 0:1], y[..., 1:2]
    force = -args[1] * (x - x * x * x / 8.0) + 0.2 * args[2] * ops.sin(3.0 * t) * v
    return 3.0 * ops.concat([v * args[0], force], axis=-1)


def decay(t: Any, y: Any, args: Any) -> Any:
    """Linear decay."""
    return -args * y


def nested(t: Any, y: Any, args: Any) -> Any:
    """A field on a nested state with nested arguments."""
    a, (b, c) = y["a"], y["rest"]
    mixed = ops.tanh(ops.matmul(a, args[0]["in"]))
    return {"a": -a * args[1], "rest": [mixed - b, ops.sum(mixed, axis=-1) * 0.1 - c * t]}


@duty("arrays")
def _arrays(bench: Bench) -> None:
    """Arrays are owned, named by dtype, cast, joined and read back."""
    backend = bench.backend
    for dtype in ("float32", "float64", "complex64", "complex128"):
        array = bench.put(np.arange(4).astype(dtype))
        assert backend.owns(array), f"expected owns() of its own {dtype} array, received False"
        expect("dtype", backend.dtype(array) == dtype, True)
        square = backend.reshape(array, (2, 2))
        joined = backend.concat([square, square])
        expect("concat on the last axis", bench.get(joined), [[0, 1, 0, 1], [2, 3, 2, 3]])
        real = backend.cast(array, "float32")
        expect("cast to float32", bench.get(real), np.arange(4, dtype=np.float32))
    assert not backend.owns(object()), "expected owns(object()) to be False"


@duty("stability polynomial")
def _stability(bench: Bench) -> None:
    """One step of y' = z y is the method's stability polynomial."""
    for name in ("euler", "rk4", "bosh3", "dopri5"):
        tableau = lookup(name)
        z = Fraction(-3, 4)
        coefficients = stability_polynomial(tableau.a, tableau.b)
        exact = sum((Fraction(c) * z**power for power, c in enumerate(coefficients)), Fraction(0))
        sol = bench.solve(decay, (0.0, 0.75), np.ones(1), np.array(1.0), method=name,
                          controller=ConstantStep(0.75))  # fmt: skip
        expect(f"one step of {name}", bench.get(sol.ys), [float(exact)], 1e-15)


@duty("error estimate")
def _error(bench: Bench) -> None:
    """The recorded estimates of one step of Heun's pair are those worked out by hand."""
    options = {"method": "heun_euler", "controller": ConstantStep(0.5), "record": True}
    sol = bench.solve(decay, (0.0, 0.5), np.ones(1), np.array(1.0), rtol=0.01, atol=0.02,
                      regularizer=ErrorEstimate(), **options)  # fmt: skip
    error = 0.125 / (0.02 + 0.01)  # h/2 |k2 - k1| = 0.25 * 0.5 over atol + rtol max(1, 0.625)
    expect("y1", bench.get(sol.ys), [0.625], 1e-15)
    expect("E", bench.get(sol.steps.error), [error], 1e-14)
    expect("penalty E |h|", bench.get(sol.penalty), 0.5 * error, 1e-14)
    back = bench.solve(decay, (0.5, 0.0), np.ones(1), np.array(-1.0), rtol=0.01, atol=0.02,
                       regularizer=ErrorEstimate(), **options)  # fmt: skip
    expect("penalty E |h| backwards", bench.get(back.penalty), 0.5 * error, 1e-14)


@duty("adaptive")
def _adaptive(bench: Bench) -> None:
    """Decisions, step sizes, solutions and gradients of an FSAL method, rejections among them."""
    agree(bench, oscillator, SPAN, Y0, ARGS, method="dopri5")


@duty("backwards")
def _backwards(bench: Bench) -> None:
    """Time runs backwards, with a controller that remembers, on a method without FSAL."""
    agree(bench, oscillator, SPAN[::-1], Y0, ARGS, method="cash_karp", controller="PID")


@duty("penalty of the error")
def _penalties(bench: Bench) -> None:
    """Error penalties over the accepted steps, by sum and by mean, and their gradients."""
    regularizer = ErrorEstimate(reduce="sum") + 0.5 * ErrorEstimate(squared=True, reduce="mean")
    agree(bench, oscillator, SPAN, Y0, ARGS, method="bosh3", regularizer=regularizer,
          rtol=1e-3, atol=1e-3)  # fmt: skip


@duty("penalty of the stiffness")
def _stiffness(bench: Bench) -> None:
    """Stiffness penalties by largest step and times the step, sample by sample."""
    regularizer = StiffnessEstimate(reduce="max") + 0.3 * StiffnessEstimate(times_step=True)
    agree(bench, oscillator, SPAN, Y0, ARGS, method="tsit5", regularizer=regularizer,
          batch="independent")  # fmt: skip


@duty("two error rows")
def _two_rows(bench: Bench) -> None:
    """The combined estimate of DOP853."""
    agree(bench, oscillator, SPAN, Y0, ARGS, method="dopri8", rtol=1e-4, atol=1e-4)


@duty("constant steps")
def _constant(bench: Bench) -> None:
    """Constant steps of a method without an error estimate, the last one shortened."""
    agree(bench, oscillator, SPAN, Y0, ARGS, method="rk38", controller=ConstantStep(0.35))


@duty("independent samples")
def _independent(bench: Bench) -> None:
    """Every sample has its own steps; limits of the step size are kept."""
    controller = PIDController(0.3, 0.4, dt_max=0.4, factor_max=3.0)
    agree(bench, oscillator, SPAN, Y0 * np.array([[0.1], [1.0], [2.0]]), ARGS, method="dopri5",
          batch="independent", controller=controller)  # fmt: skip


@duty("complex states")
def _complex(bench: Bench) -> None:
    """Complex states, with cotangents by the real inner product."""
    agree(bench, oscillator, SPAN, Y0 + 0.2j * Y0[::-1], ARGS, method="bosh3",
          regularizer=ErrorEstimate(), rtol=1e-3, atol=1e-3)  # fmt: skip


@duty("single precision")
def _single(bench: Bench) -> None:
    """float32 states and arguments, with a penalty."""
    y0, args = Y0.astype(np.float32), ARGS.astype(np.float32)
    agree(bench, oscillator, SPAN, y0, args, method="bosh3", rtol=1e-2, atol=1e-3,
          regularizer=ErrorEstimate(squared=True))  # fmt: skip


@duty("nested states")
def _nested(bench: Bench) -> None:
    """Nested states and arguments of different shapes."""
    random = np.random.default_rng(0)
    y0 = {
        "rest": [random.normal(size=(2, 4)), random.normal(size=2)],
        "a": random.normal(size=(2, 3)),
    }
    args = ({"in": random.normal(size=(3, 4))}, np.array(0.8))
    agree(bench, nested, (1.0, 0.0), y0, args, method="bosh3", rtol=1e-3, atol=1e-3)


@duty("output times")
def _outputs(bench: Bench) -> None:
    """Outputs at the ends, inside of steps and twice in one, with their gradients."""
    times = np.array([0.2, 0.5, 0.51, 0.8, 2.6])
    agree(bench, oscillator, SPAN, Y0, ARGS, method="tsit5", t_eval=times,
          regularizer=ErrorEstimate())  # fmt: skip


@duty("output times of each sample")
def _sample_outputs(bench: Bench) -> None:
    """Every sample has output times of its own."""
    times = np.array([[0.2, 0.7], [1.1, 2.6], [0.9, 0.95]])
    agree(bench, oscillator, SPAN, Y0, ARGS, method="bosh3", t_eval=times, batch="independent",
          rtol=1e-3, atol=1e-3)  # fmt: skip


@duty("checkpoints")
def _checkpoints(bench: Bench) -> None:
    """Two checkpoints give the gradient that sixty-four give."""
    agree(bench, oscillator, SPAN, Y0, ARGS, method="bosh3", adjoint=Discrete(checkpoints=2),
          rtol=1e-3, atol=1e-3)  # fmt: skip


@duty("gradient in closed form")
def _closed_gradient(bench: Bench) -> None:
    """The gradient of exponential decay."""
    span, rate = (0.0, 1.5), np.array(0.7)
    _, d_y0, d_args = bench.gradient(decay, span, np.array([2.0]), rate, np.ones(1),
                                     method="dopri8", rtol=1e-12, atol=1e-12)  # fmt: skip
    expect("d_y0", d_y0, [math.exp(-1.05)], 1e-10)
    expect("d_args", d_args, -3.0 * math.exp(-1.05), 1e-10)


@duty("backsolve")
def _backsolve(bench: Bench) -> None:
    """The continuous adjoint agrees with the discrete one to the tolerance."""
    options: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9, "method": "dopri5"}
    found = [
        bench.gradient(oscillator, SPAN, Y0, ARGS, Y0[::-1], adjoint=adjoint, **options)[1:]
        for adjoint in ("discrete", "backsolve")
    ]
    for discrete, continuous in zip(*(flatten(tree)[0] for tree in found), strict=True):
        expect("gradient by backsolve", continuous, discrete, 1e-6)


@duty("no time to pass")
def _no_time(bench: Bench) -> None:
    """A span of length zero returns the state, and the identity as gradient."""
    sol, d_y0, d_args = bench.gradient(decay, (1.0, 1.0), Y0, np.array(0.5), Y0[::-1])
    expect("y(t0)", bench.get(sol.ys), Y0)
    expect("d_y0", d_y0, Y0[::-1])
    expect("d_args", d_args, 0.0)
    expect("nsteps", sol.stats.nsteps, 0)


def _blowup(t: Any, y: Any, args: Any) -> Any:
    return y * y


def _status_of(bench: Bench, field: Any, y0: Any, **options: Any) -> Any:
    sol = bench.solve(field, (0.0, 2.0), y0, np.array(1.0), throw=False, **options)
    return Status(int(bench.get(sol.status)))


@duty("statuses")
def _statuses(bench: Bench) -> None:
    """Failures are told apart: too many steps, not finite, underflow of the step size."""
    few = _status_of(bench, oscillator_decay, np.ones(1), max_steps=2, first_step=0.01)
    expect("status after max_steps", int(few), int(Status.MAX_STEPS))
    infinite = _status_of(bench, decay, np.array([np.nan]))
    expect("status of a nan state", int(infinite), int(Status.NON_FINITE))
    stuck = _status_of(bench, _blowup, np.ones(1))
    ends = (Status.STEP_UNDERFLOW, Status.NON_FINITE)
    assert stuck in ends, f"expected a blow-up to end with one of {ends}, received {stuck!r}"
    sol = bench.solve(_blowup, (0.0, 2.0), np.array([[1.0], [0.1]]), throw=False,
                      batch="independent")  # fmt: skip
    expect("statuses of samples", bench.get(sol.status) == Status.SUCCESS, [False, True])


def oscillator_decay(t: Any, y: Any, args: Any) -> Any:
    """Decay towards a drive."""
    return args * (ops.sin(20.0 * t) - y)


@duty("run-time values")
def _run_time(bench: Bench) -> None:
    """Tolerances, spans, arguments and weights are not compiled in."""
    for factor in (1.0, 0.5):
        agree(bench, oscillator, (0.0, 2.0 * factor), factor * Y0, ARGS / factor,
              method="bosh3", rtol=1e-3 * factor, atol=1e-3, controller=PIDController(0.2, factor),
              regularizer=factor * ErrorEstimate())  # fmt: skip
