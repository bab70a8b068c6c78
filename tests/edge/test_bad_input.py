"""Bad input is refused, alike on every backend and before any work is done."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.edge.conftest import (
    BACKENDS,
    ONES,
    SAMPLES,
    Bench,
    bench_of,
    refusal,
    refused_alike,
    untouched,
)

import ndereg
import ndereg.jax
import ndereg.numpy
import ndereg.torch
from ndereg.edge.options import _ELSEWHERE

NAN, INF = math.nan, math.inf


def decay(t: Any, y: Any, args: Any) -> Any:
    return -y


def option(y0: Any = ONES, span: Any = (0.0, 1.0), **options: Any) -> Callable[[Bench], Any]:
    return lambda bench: bench.solve(untouched, span, y0, **options)


def plain(y0: Any) -> Callable[[Bench], Any]:
    """A state that is no array of any framework."""
    return lambda bench: bench.face.solve(untouched, (0.0, 1.0), y0)


REFUSED: dict[str, tuple[Callable[[Bench], Any], type[Exception], str]] = {
    # tolerances
    "rtol nan": (option(rtol=NAN), ValueError, "finite number for rtol"),
    "rtol inf": (option(rtol=INF), ValueError, "finite number for rtol"),
    "rtol negative": (option(rtol=-1e-3), ValueError, "rtol >= 0"),
    "rtol text": (option(rtol="1e-3"), TypeError, "real number for rtol"),
    "rtol complex": (option(rtol=1j), TypeError, "real number for rtol"),
    "rtol bool": (option(rtol=True), TypeError, "real number for rtol"),
    "rtol vector": (option(rtol=np.ones(2)), TypeError, "real number for rtol"),
    "rtol huge": (option(rtol=10**400), ValueError, "finite number for rtol"),
    "atol nan": (option(atol=NAN), ValueError, "finite number for atol"),
    "atol negative": (option(atol=-1.0), ValueError, "atol >= 0"),
    "atol None": (option(atol=None), TypeError, "real number for atol"),
    "both zero": (option(rtol=0, atol=0.0), ValueError, "positive rtol or atol"),
    "both zero, measured": (
        option(
            rtol=0, atol=0, controller=ndereg.ConstantStep(0.1), regularizer=ndereg.ErrorEstimate()
        ),
        ValueError,
        "positive rtol or atol",
    ),
    # states
    "int state": (option(np.arange(2)), TypeError, "float32, float64, complex64, complex128"),
    "bool state": (option(np.array([True])), TypeError, "received bool"),
    "half state": (option(np.ones(2, np.float16)), TypeError, "received float16"),
    "one int leaf": (option({"a": ONES, "b": np.arange(2)}), TypeError, r"y0\['b'\]"),
    "Python int": (plain(1), TypeError, "received int64"),
    "list of numbers": (plain([1.0, 2.0]), TypeError, "array of the numbers"),
    "empty array": (option(np.zeros(0)), ValueError, r"shape \(0,\)"),
    "one empty leaf": (option((ONES, np.zeros((2, 0)))), ValueError, r"y0\[1\] of shape \(2, 0\)"),
    "no state": (plain(None), ValueError, "at least one array"),
    "empty dict": (plain({}), ValueError, "at least one array"),
    "unsortable keys": (option({1: ONES, "b": ONES}), TypeError, "keys can be sorted"),
    # times
    "nan start": (option(span=(NAN, 1.0)), ValueError, r"t_span\[0\]"),
    "inf end": (option(span=(0.0, INF)), ValueError, r"t_span\[1\]"),
    "no end": (option(span=(0.0,)), ValueError, r"t_span=\(t0, t1\)"),
    "three times": (option(span=(0, 1, 2)), ValueError, r"t_span=\(t0, t1\)"),
    "times for a span": (
        lambda bench: bench.solve(untouched, bench.to(np.linspace(0.0, 1.0, 5)), ONES),
        ValueError, r"received 5 times; try t_span=\(ts\[0\], ts\[-1\]\) and t_eval=ts",
    ),
    "span of one": (option(span=1.0), ValueError, r"t_span=\(t0, t1\)"),
    "span of text": (option(span=("0", "1")), TypeError, "real number"),
    "span of None": (option(span=(0.0, None)), TypeError, "real number"),
    "out of order": (option(t_eval=[0.5, 0.2]), ValueError, "order of integration"),
    "forward in a backward solve": (
        option(span=(1.0, 0.0), t_eval=[0.2, 0.5]), ValueError, "order of integration",
    ),
    "before the span": (option(t_eval=[-0.1, 0.5]), ValueError, "within the span"),
    "after the span": (option(t_eval=[0.5, 1.1]), ValueError, "within the span"),
    "nan time": (option(t_eval=[0.5, NAN]), ValueError, "finite times"),
    "no times": (option(t_eval=[]), ValueError, "at least one time"),
    "one bare time": (option(t_eval=0.5), ValueError, r"shape \(T,\)"),
    "table of times, joint": (option(SAMPLES, t_eval=np.ones((2, 2))), ValueError, r"\(T,\)"),
    "rows for other samples": (
        option(SAMPLES, t_eval=np.ones((3, 2)), batch="independent"), ValueError, r"\(2, T\)",
    ),
    "one row out of order": (
        option(SAMPLES, t_eval=[[0.1, 0.2], [0.2, 0.1]], batch="independent"),
        ValueError, "order of integration",
    ),
    "ragged times": (option(t_eval=[[0.1], [0.1, 0.2]]), TypeError, "real numbers in t_eval"),
    "text times": (option(t_eval=["0.5"]), TypeError, "real numbers in t_eval"),
    "complex times": (option(t_eval=[0.5j]), TypeError, "real numbers in t_eval"),
    "bool times": (option(t_eval=[False, True]), TypeError, "real numbers in t_eval"),
    # methods, controllers, adjoints, regularizers
    "misspelt method": (option(method="tsit6"), ValueError, "did you mean 'tsit5'"),
    "method of a wrong type": (option(method=5), TypeError, "name of the catalogue"),
    "no error estimate": (option(method="rk4"), ValueError, "ConstantStep.* heun_euler, bosh3"),
    "misspelt controller": (option(controller="PI43"), ValueError, "did you mean"),
    "controller of a wrong type": (option(controller=0.1), TypeError, "ndereg.PIDController"),
    "controller class": (option(controller=ndereg.PIDController), TypeError, "PIDController"),
    "misspelt adjoint": (option(adjoint="discret"), ValueError, "did you mean 'discrete'"),
    "adjoint class": (option(adjoint=ndereg.Discrete), TypeError, "adjoint to be one of"),
    "regularizer of a wrong type": (option(regularizer=0.1), TypeError, "ErrorEstimate"),
    "regularizer class": (option(regularizer=ndereg.ErrorEstimate), TypeError, "ErrorEstimate"),
    "no stiffness pair": (
        option(method="bosh3", regularizer=ndereg.StiffnessEstimate()), ValueError, "tsit5",
    ),
    "backsolve with a penalty": (
        option(adjoint="backsolve", regularizer=ndereg.ErrorEstimate()), ValueError, "discrete",
    ),
    "overflowing weights": (
        option(regularizer=1e308 * ndereg.ErrorEstimate() * 10.0), ValueError, "finite weights",
    ),
    # steps
    "no steps": (option(max_steps=0), ValueError, "max_steps >= 1"),
    "a fraction of a step": (option(max_steps=10.0), TypeError, "int for max_steps"),
    "true steps": (option(max_steps=True), TypeError, "int for max_steps"),
    "first step of zero": (option(first_step=0.0), ValueError, "positive first_step"),
    "first step backwards": (option(first_step=-0.1), ValueError, "positive first_step"),
    "first step nan": (option(first_step=NAN), ValueError, "finite number for first_step"),
    # batches
    "misspelt batch": (option(batch="indep"), ValueError, "batch='joint'"),
    "fraction of a batch": (option(batch=0.5), ValueError, "batch='joint'"),
    "scalar samples": (option(np.ones(()), batch="independent"), ValueError, "one batch axis"),
    "unequal samples": (
        option((np.ones(2), np.ones(3)), batch="independent"), ValueError, "one batch axis",
    ),
    "no samples": (option(np.ones((0, 3)), batch="independent"), ValueError, r"shape \(0, 3\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_alike_before_any_work(name: str) -> None:
    call, kind, words = REFUSED[name]
    message = refused_alike(call, kind)
    with pytest.raises(kind, match=words):
        raise kind(message)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ndereg.ConstantStep(0.0),
        lambda: ndereg.ConstantStep(NAN),
        lambda: ndereg.ConstantStep("0.1"),
        lambda: ndereg.ConstantStep(True),
        lambda: ndereg.PIDController(dt_min=1.0, dt_max=0.1),
        lambda: ndereg.PIDController(dt_max=0.0),
        lambda: ndereg.PIDController(safety=1.5),
        lambda: ndereg.PIDController(factor_min=2.0),
        lambda: ndereg.PIDController(icoeff=INF),
        lambda: ndereg.PIDController(icoeff=-1.0),
        lambda: ndereg.PIDController(pcoeff=0.4, icoeff=0.0),
        lambda: ndereg.Discrete(checkpoints=1),
        lambda: ndereg.Discrete(checkpoints=2.0),
        lambda: ndereg.ErrorEstimate(reduce="average"),
        lambda: NAN * ndereg.ErrorEstimate(),
        lambda: ndereg.ExponentialDecay(1.0, 0.0, steps=10),
        lambda: ndereg.InverseDecay(1.0, rate=-1.0),
        lambda: ndereg.Constant(NAN),
        lambda: ndereg.lookup("dorpi5"),
        lambda: ndereg.Field("not a function"),
    ],
)
def test_specifications_are_refused_when_made(make: Callable[[], Any]) -> None:
    refusal(make, (TypeError, ValueError))


def test_tolerances_may_be_zero_where_nothing_measures_errors(eager: Bench) -> None:
    sol = eager.solve(
        decay, (0.0, 1.0), ONES, rtol=0, atol=0, method="rk4",
        controller=ndereg.ConstantStep(0.25), t_eval=[1.0], max_steps=7,
    )  # fmt: skip
    assert np.allclose(eager.get(sol.ys), math.exp(-1.0), rtol=1e-3)


@pytest.mark.parametrize("name", ["reference", "torch", "jax"])
def test_the_advice_on_times_works(name: str) -> None:
    bench = bench_of(name)
    ts = bench.to(np.linspace(0.0, 1.0, 5))
    sol = bench.solve(decay, (ts[0], ts[-1]), ONES, t_eval=ts)
    np.testing.assert_allclose(bench.get(sol.ys)[:, 0], np.exp(-np.linspace(0, 1, 5)), rtol=1e-4)


@pytest.mark.parametrize(
    ("gains", "responds"),
    [((0.0, 0.2, 0.0), True), ((0.4, 0.1, 0.1), True), ((0.4, -0.1, 0), False)],
)
def test_icoeff_is_what_answers_steady_errors(gains: Any, responds: bool) -> None:
    """The law, where the last three errors are alike: its exponents add up to ``icoeff``."""
    if not responds:
        refusal(lambda: ndereg.PIDController(*gains), ValueError)
        return
    exponents = ndereg.PIDController(*gains).parameters(4.0)[:3]
    assert math.isclose(sum(exponents), gains[1] / 4.0)
    assert 1e-3 ** -sum(exponents) > 1.0 > 1e3 ** -sum(exponents)


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_what_is_not_finite_is_named_when_the_solve_has_failed(bench: Bench, batch: Any) -> None:
    def field(t, y, args):
        return {name: -args["k"][0] * leaf for name, leaf in y.items()}

    def ask(y0: Any, k: float, batch: Any = batch) -> str:
        with pytest.raises(ndereg.SolveError, match="NON_FINITE") as caught:
            bench.solve(field, (0.0, 1.0), y0, {"k": (np.array(k), np.ones(2))}, batch=batch)
        return str(caught.value)

    good, bad = np.ones((2, 2)), np.array([[1.0, 1.0], [1.0, NAN]])
    assert "y0['b'] is not finite as given to the solve. Pass" in ask({"a": good, "b": bad}, 1.0)
    assert "args['k'][0] is not finite as given" in ask({"a": good, "b": good}, INF)
    assert "y0['a'], args['k'][0] are not finite" in ask({"a": bad, "b": good}, NAN)


def test_what_is_finite_is_not_blamed(bench: Bench) -> None:
    with pytest.raises(ndereg.SolveError, match="NON_FINITE") as caught:
        bench.solve(lambda t, y, args: y * args, (0.0, 1.0), ONES * 1e300, np.array(1e300))
    assert "as given" not in str(caught.value)


# Any bad option is refused, whatever is drawn for it.

_not_numbers = st.one_of(
    st.none(), st.text(max_size=3), st.booleans(), st.complex_numbers(), st.just(object()),
    st.lists(st.floats(0, 1), max_size=2), st.just(untouched),
)  # fmt: skip
_not_finite = st.sampled_from([NAN, INF, -INF])
_bad_tolerance = st.one_of(
    _not_numbers, _not_finite, st.floats(max_value=0.0, exclude_max=True, allow_nan=False)
)
_bad_size = st.one_of(
    _not_numbers.filter(lambda value: value is not None),
    _not_finite,
    st.floats(max_value=0.0, allow_nan=False),
)
_times = st.lists(st.floats(0.0, 1.0), min_size=2, max_size=5, unique=True)
# a time beyond the end by its own rounding is taken for the end
_bad_times = st.one_of(
    _times.map(lambda times: sorted(times, reverse=True)),
    st.tuples(_times, st.floats(1.0001, 1e6)).map(lambda p: [*sorted(p[0]), p[1]]),
    st.tuples(_times, st.floats(-1e6, -0.0001)).map(lambda p: [p[1], *sorted(p[0])]),
    st.tuples(_times, _not_finite).map(lambda p: [*sorted(p[0]), p[1]]),
    _times.map(lambda times: [[[time] for time in times]]),
    st.sampled_from(["now", 0.5, [], ["0.1"], [None], {"t": 0.5}, [[0.1], [0.2, 0.3]], object()]),
)
_bad_state = st.one_of(
    st.sampled_from(["int8", "int64", "bool", "float16"]).map(lambda dtype: np.ones(3, dtype)),
    st.sampled_from([(0,), (0, 2), (2, 0)]).map(np.zeros),
)
_known = frozenset(name for name in ndereg.names())
BAD: dict[str, st.SearchStrategy[Any]] = {
    "rtol": _bad_tolerance,
    "atol": _bad_tolerance,
    "first_step": _bad_size,
    "t_eval": _bad_times,
    "max_steps": st.one_of(_not_numbers, st.integers(max_value=0), st.floats()),
    "method": st.one_of(
        st.text(max_size=8).filter(lambda name: name.strip().lower() not in _known),
        st.sampled_from(["euler", "midpoint", "rk4", "rk38", None, 5, object()]),
    ),
    "batch": st.one_of(st.text(max_size=5), st.floats(), st.none(), st.just(["joint"])),
    "controller": st.one_of(st.text(max_size=2).filter(lambda s: s.lower() not in ("i", "pi")),
                            st.floats(), st.just(object())),
    "adjoint": st.one_of(st.text(max_size=5).filter(lambda s: s != "none"), st.none(), st.floats()),
    "regularizer": st.one_of(st.text(max_size=5), st.floats(), st.just(object())),
    "t_span": st.one_of(
        st.tuples(st.one_of(_not_finite, st.text(max_size=2)), st.floats(0, 1)),
        st.lists(st.floats(0, 1), max_size=1), st.floats(), st.none(),
    ),
    "y0": _bad_state,
}  # fmt: skip


@settings(max_examples=300)
@given(st.data())
def test_whatever_is_bad_is_refused(data: st.DataObject) -> None:
    """Any bad option, and any two of them, with a valid rest."""
    names = data.draw(st.lists(st.sampled_from(sorted(BAD)), min_size=1, max_size=2, unique=True))
    options = {name: data.draw(BAD[name], label=name) for name in names}
    span, y0 = options.pop("t_span", (0.0, 1.0)), options.pop("y0", np.ones(3))
    messages = set()
    for name in BACKENDS:
        bench = bench_of(name)
        with bench.precision():
            messages.add(
                refusal(
                    lambda bench=bench: bench.solve(untouched, span, y0, **options),
                    (TypeError, ValueError),
                )
            )
    assert len(messages) == 1, messages


@pytest.mark.parametrize(
    ("options", "close"),
    [
        ({"max_stepps": 5}, "max_steps, or "),
        ({"regulariser": None, "rtols": 1e-3}, "regularizer for regulariser; rtol for rtols, or "),
        ({"brownian": 1.0}, ""),
        ({"saveat": [1.0]}, "t_eval, or "),
        ({"teval": [1.0]}, "t_eval, or "),
        ({"t": [1.0]}, "t_span=(t0, t1) and t_eval, or "),
        (
            {"solver": "tsit5", "dt": 0.1},
            "method for solver; controller=ndereg.ConstantStep(dt) for dt, or ",
        ),
        ({"dt0": 0.1}, "first_step, or controller=ndereg.ConstantStep(dt) for steps of one size"),
        ({"stepsize_controller": None}, "controller, or "),
        ({"max_step": 0.1}, "controller=ndereg.PIDController(dt_max=...) for the size of a step, "),
        ({"events": None}, "t_eval and a search in sol.ys, as no events end a solve, or "),
        ({"event": None}, "t_eval and a search in sol.ys, as no events end a solve, or "),
        ({"dense_output": True}, "t_eval, as a solution is known at given times alone, or "),
        ({"first_steps": -1.0, "rtol": NAN}, "first_step, or "),  # before anything else
    ],
)
@pytest.mark.parametrize("function", ["solve", "solve_vjp"])
def test_options_of_other_names(function: str, options: Any, close: str) -> None:
    message = refused_alike(
        lambda bench: getattr(bench.face, function)(untouched, (0.0, 1.0), ONES, **options),
        TypeError,
    )
    unknown = [name for name in options if name != "rtol"]
    assert message.startswith(f"expected an option of {function} among t_eval, method, rtol, atol")
    assert f"received {', '.join(unknown)}; try {close}" in message
    assert f"help({function})" in message
    assert close or f"try help({function})" in message


def test_options_of_other_names_on_the_faces() -> None:
    for face in (ndereg.numpy, ndereg.torch, ndereg.jax):
        for function in (face.solve, face.solve_vjp):
            refusal(lambda f=function: f(untouched, (0.0, 1.0), ONES, max_step=5), TypeError)


def test_what_other_options_are_here_exists() -> None:
    """What is named in place of an option of another library is an option, or of the face."""
    known = set(inspect.signature(ndereg.numpy.solve).parameters)
    for name, own in _ELSEWHERE.items():
        assert name not in known
        assert re.match(r"\w+", own).group() in known
        for public in re.findall(r"ndereg\.(\w+)", own):
            assert hasattr(ndereg, public)


# Gradients


def test_cotangents_are_checked(eager: Bench) -> None:
    y0 = {"a": np.ones((2, 3)), "b": np.ones(2)}
    _, pullback = eager.vjp(
        lambda t, y, args: {"a": -y["a"], "b": y["b"]}, (1.0, 1.0), y0,
        t_eval=[1.0, 1.0], regularizer=ndereg.ErrorEstimate(), batch="independent",
    )  # fmt: skip
    good = eager.put({"a": np.ones((2, 2, 3)), "b": np.ones((2, 2))})
    pullback(good)
    for bar, kind, words in (
        (eager.put(np.ones((2, 2))), TypeError, "structure of ys, {'a': *, 'b': *}, received *"),
        (None, TypeError, "received None"),
        ({**good, "b": eager.to(np.ones(2))}, ValueError, "ys_bar['b'] of shape (2, 2)"),
        ({**good, "b": eager.to(np.ones((2, 2), complex))}, TypeError, "real cotangent"),
        ({**good, "b": "text"}, TypeError, "ys_bar['b']"),
    ):
        assert words in refusal(lambda bar=bar: pullback(bar), kind)
    for bar, kind in (
        (eager.to(np.ones(3)), ValueError), (eager.to(np.ones((2, 1))), ValueError),
        (1j, TypeError), ("text", TypeError), ({"a": 1.0}, TypeError), (None, TypeError),
    ):  # fmt: skip
        assert "penalty_bar" in refusal(lambda bar=bar: pullback(good, bar), kind)


def test_a_penalty_without_a_regularizer_is_a_constant(bench: Bench) -> None:
    """0, and with it whatever its cotangent contributes, as the contract and frameworks have it."""
    y0 = np.ones((2, 1))
    sol, pullback = bench.vjp(decay, (0.0, 1.0), y0)
    assert float(sol.penalty) == 0.0
    one = bench.to(y0)
    without, with_bar = pullback(one), pullback(one, bench.to(np.array(3.0)))
    assert np.array_equal(bench.get(without[0]), bench.get(with_bar[0]))


def test_no_gradient_without_an_adjoint() -> None:
    message = refused_alike(
        lambda bench: bench.vjp(untouched, (0.0, 1.0), ONES, adjoint="none"), ValueError
    )
    assert "adjoint='discrete' or 'backsolve'" in message


def test_backsolve_needs_times_that_samples_share(eager: Bench) -> None:
    def ask() -> Any:
        _, pullback = eager.vjp(
            decay, (0.0, 0.0), np.ones((2, 1)), adjoint="backsolve", batch="independent",
            t_eval=np.zeros((2, 1)),
        )  # fmt: skip
        pullback(eager.to(np.ones((2, 1, 1))))

    assert "adjoint='discrete'" in refusal(ask, ValueError)
