"""Bad input is refused, alike on every backend and before any work is done."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.edge.conftest import BACKENDS, Bench, bench_of, refusal, refused_alike

import ndereg
import ndereg.jax
import ndereg.numpy
import ndereg.torch
from ndereg import ops
from ndereg.trace import TraceError

NAN, INF = math.nan, math.inf
ONES = np.ones(2)
SAMPLES = np.ones((2, 3))


def untouched(t: Any, y: Any, args: Any) -> Any:
    """A field that bad input must not reach."""
    raise AssertionError("the field was called although the input is bad")


def decay(t: Any, y: Any, args: Any) -> Any:
    return -y


def damped(t: Any, y: Any, args: Any) -> Any:
    return -args * y


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


def test_functions_without_args_are_refused(bench: Bench) -> None:
    def decay(t, y):
        return -y

    with pytest.raises(TypeError, match=r"received decay\(t, y\); try decay\(t, y, args\)"):
        bench.solve(decay, (0.0, 1.0), np.ones(2))
    assert bench.solve(lambda *given: -given[1], (0.0, 1.0), np.ones(2)).stats.naccept > 0


@pytest.mark.parametrize("field", [None, 1.0, "decay", ONES])
def test_fields_are_callable(bench: Bench, field: Any) -> None:
    message = refusal(lambda: bench.solve(field, (0.0, 1.0), ONES), TypeError)
    assert "callable field f(t, y, args)" in message


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
        ({"max_step": 5}, "max_steps, or "),
        ({"regulariser": None, "rtols": 1e-3}, "regularizer and rtol, or "),
        ({"saveat": [1.0]}, ""),
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
    assert f"received {', '.join(unknown)}; try {close}help({function})" in message


def test_options_of_other_names_on_the_faces() -> None:
    for face in (ndereg.numpy, ndereg.torch, ndereg.jax):
        for function in (face.solve, face.solve_vjp):
            refusal(lambda f=function: f(untouched, (0.0, 1.0), ONES, max_step=5), TypeError)


# Fields that misbehave


def nested_state() -> Any:
    return {"a": np.ones(2), "b": (np.ones(3),)}


FIELDS: dict[str, tuple[Callable[..., Any], Any, type[Exception], str]] = {
    "too short": (lambda t, y, p: y[:1], ONES, ValueError, r"shape \(2,\), like the state"),
    "summed": (lambda t, y, p: ops.sum(y), ONES, ValueError, r"received shape \(\)"),
    "a number": (lambda t, y, p: 1.0, ONES, ValueError, r"received shape \(\)"),
    "transposed": (lambda t, y, p: y.T, np.ones((2, 3)), ValueError, r"reshaping .* \(2, 3\)"),
    "nothing": (lambda t, y, p: None, ONES, TypeError, "received None"),
    "a list of entries": (lambda t, y, p: [y[0], y[1]], ONES, TypeError, "stack"),
    "a tuple": (lambda t, y, p: (y,), ONES, TypeError, "structure of the state"),
    "a missing key": (lambda t, y, p: {"a": y["a"]}, nested_state(), TypeError, "structure"),
    "a swapped nesting": (
        lambda t, y, p: {"a": y["a"], "b": y["b"][0]}, nested_state(), TypeError, "structure",
    ),
    "swapped shapes": (
        lambda t, y, p: {"a": y["b"][0], "b": (y["a"],)}, nested_state(), ValueError, r"\['a'\]",
    ),
    "complex": (lambda t, y, p: 1j * y, ONES, TypeError, "received complex128"),
    "truth values": (lambda t, y, p: y > 0, ONES, TypeError, "received bool"),
    "promoted": (
        lambda t, y, p: y * p, np.ones(2, np.float32), TypeError, "float32, .* received float64",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_results_that_do_not_match_the_state(name: str) -> None:
    field, y0, kind, words = FIELDS[name]
    weights = np.ones(2)
    message = refused_alike(lambda bench: bench.solve(field, (0.0, 1.0), y0, weights), kind)
    with pytest.raises(kind, match=words):
        raise kind(message)
    gradient = refused_alike(lambda bench: bench.vjp(field, (0.0, 1.0), y0, weights), kind)
    assert gradient == message


def test_a_result_that_stops_matching_later() -> None:
    """Where Python runs the field at every step, every result is checked."""
    for name in ("reference", "torch"):
        bench = bench_of(name)
        message = refusal(
            lambda bench=bench: bench.solve(
                lambda t, y, p: y[:1] if t > 0.5 else y, (0.0, 1.0), ONES
            ),
            ValueError,
        )
        assert "shape (2,), like the state" in message


class OwnError(Exception):
    """An error of the user's own making."""


def test_errors_of_the_field_come_through(bench: Bench) -> None:
    error = OwnError("mine")

    def field(t: Any, y: Any, args: Any) -> Any:
        raise error

    with pytest.raises(OwnError) as caught:
        bench.solve(field, (0.0, 1.0), {"a": ONES}, (ONES, 1.0))
    assert caught.value is error
    assert any("y = {'a': *} of shapes (2,) and args = (*, *)" in n for n in error.__notes__)
    with pytest.raises(OwnError):
        bench.vjp(field, (0.0, 1.0), {"a": ONES}, (ONES, 1.0))


def test_errors_of_the_field_come_through_later() -> None:
    def field(t: Any, y: Any, args: Any) -> Any:
        if t > 0.5:
            raise OwnError("mine")
        return -y

    for name in ("reference", "torch"):
        with pytest.raises(OwnError, match="mine"):
            bench_of(name).solve(field, (0.0, 1.0), ONES)


@pytest.mark.parametrize(
    ("args", "kind"),
    [({"j": ONES}, KeyError), ((ONES,), TypeError), (ONES, (IndexError, TypeError)),
     (None, TypeError)],
)  # fmt: skip
def test_args_of_another_structure_than_the_field_reads(
    bench: Bench, args: Any, kind: type[Exception]
) -> None:
    """The user's own error, and beside it the structure that args has."""
    with pytest.raises(kind) as caught:
        bench.solve(lambda t, y, args: -args["k"] * y, (0.0, 1.0), ONES, args)
    structure = {dict: "{'j': *}", tuple: "(*,)", type(None): "None"}.get(type(args), "*")
    assert any(f"args = {structure}" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("args", ["text", object(), {1, 2}, ["text"], {"k": untouched}])
def test_args_that_are_no_arrays(bench: Bench, args: Any) -> None:
    message = refusal(lambda: bench.face.solve(damped, (0.0, 1.0), bench.to(ONES), args), TypeError)
    assert "args" in message


def test_fields_of_another_signature(bench: Bench) -> None:
    for field in (lambda t, y: -y, lambda t, y, args, more: -y):
        with pytest.raises(TypeError, match=r"argument|args"):
            bench.solve(field, (0.0, 1.0), ONES)


# Arrays of two frameworks

FOREIGN = {
    "reference": {"torch.Tensor": torch.ones(2), "jaxlib": jnp.ones(2)},
    "numba": {"torch.Tensor": torch.ones(2), "jaxlib": jnp.ones(2)},
    "torch": {"numpy.ndarray": np.ones(2), "jaxlib": jnp.ones(2)},
    "jax": {"torch.Tensor": torch.ones(2)},
}
"""JAX takes NumPy arrays over, as ``jax.numpy`` does."""


def test_arrays_of_another_framework_are_refused(bench: Bench) -> None:
    def ask(y0: Any = ONES, args: Any = None, **options: Any) -> Callable[[], Any]:
        own = bench.to(y0) if y0 is ONES else y0
        return lambda: bench.face.solve(untouched, (0.0, 1.0), own, args, **options)

    for kind, array in FOREIGN[bench.name].items():
        for name, call in {
            "y0": ask(array),
            "y0['a']": ask({"a": array, "b": bench.to(ONES)}),
            "args": ask(args=array),
            "args[1]": ask(args=(bench.to(ONES), array)),
        }.items():
            message = refusal(call, TypeError)
            assert f"expected {name} to be" in message
            assert kind in message
        if not isinstance(array, np.ndarray):  # times and tolerances are host numbers anyway
            for name, call in {
                "t_eval": ask(t_eval=array),
                "rtol": ask(rtol=array[0]),
                "first_step": ask(first_step=array[0]),
            }.items():
                message = refusal(call, TypeError)
                assert f"in {name}" in message or f"for {name}" in message
                assert kind in message


def test_results_of_another_framework_are_refused(bench: Bench) -> None:
    for kind, array in FOREIGN[bench.name].items():
        message = refusal(
            lambda array=array: bench.solve(lambda t, y, args: array, (0.0, 1.0), ONES), TypeError
        )
        assert "expected the field to return" in message
        assert kind in message


@pytest.mark.parametrize("name", ["numba", "torch", "jax"])
def test_fields_that_compute_with_another_framework_are_refused(name: str) -> None:
    bench = bench_of(name)
    for array in FOREIGN[name].values():
        with pytest.raises(TypeError):
            bench.solve(lambda t, y, args, array=array: array * y, (0.0, 1.0), ONES)


@pytest.mark.parametrize("name", ["reference", "numba", "jax"])
def test_modules_of_torch_are_for_its_face(name: str) -> None:
    bench, module = bench_of(name), torch.nn.Linear(2, 2, dtype=torch.float64)
    to = "jax" if name == "jax" else "numpy"
    for equation, options in (
        (module, {}),
        (ndereg.Flow(module), {}),
        (ndereg.SDE(module, untouched, noise="diagonal"), {"key": 0}),
        (ndereg.SDE(untouched, module, noise="diagonal"), {"key": 0}),
        (ndereg.UnderdampedLangevin(module, 1.0, 1.0), {"key": 0}),
    ):
        y0 = (ONES, ONES) if isinstance(equation, ndereg.UnderdampedLangevin) else ONES
        y0 = (SAMPLES[:, :2], np.zeros(2)) if isinstance(equation, ndereg.Flow) else y0
        message = refusal(
            lambda e=equation, y=y0, o=options: bench.solve(e, (0.0, 1.0), y, **o), TypeError
        )
        assert "received the torch.nn.Module Linear" in message
        assert (
            f"ndereg.port(module, to='{to}'), then solve(model, t_span, y0, model.params" in message
        )


def test_the_advice_on_modules_works() -> None:
    module = torch.nn.Linear(2, 2, dtype=torch.float64)
    model = ndereg.port(module, to="numpy")
    expected = bench_of("torch").solve(module, (0.0, 1.0), ONES).ys.detach()
    found = bench_of("reference").face.solve(model, (0.0, 1.0), ONES, model.params).ys
    np.testing.assert_allclose(found, expected, rtol=1e-12)


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


# Compiled fields


@numba.njit
def compiled(t, y, args):  # type: ignore[no-untyped-def]
    return -args * y


@numba.njit
def compiled_too_short(t, y, args):  # type: ignore[no-untyped-def]
    return -y[:1]


@numba.njit
def compiled_single(t, y, args):  # type: ignore[no-untyped-def]
    return y.astype(np.float32)


@numba.njit
def compiled_raising(t, y, args):  # type: ignore[no-untyped-def]
    if y[0] < 0.8:
        raise ValueError("mine")
    return -args * y


@numba.njit
def vjp_of_args_summed(t, y, args, k_bar):  # type: ignore[no-untyped-def]
    return -args * k_bar, np.sum(-y * k_bar)


@numba.njit
def vjp_of_state_alone(t, y, args, k_bar):  # type: ignore[no-untyped-def]
    return -args * k_bar


@pytest.fixture(params=["reference", "numba"])
def host(request: pytest.FixtureRequest) -> Bench:
    """The backends that take compiled fields."""
    return bench_of(request.param)


@pytest.mark.parametrize("options", [{}, {"adjoint": "backsolve"}, {"batch": "independent"}])
def test_no_gradient_of_a_compiled_field_without_vjp(host: Bench, options: Any) -> None:
    for field in (compiled, ndereg.Field(compiled)):
        message = refusal(
            lambda field=field: host.vjp(field, (0.0, 1.0), SAMPLES, np.ones(3), **options),
            ValueError,
        )
        assert "ndereg.Field(f, vjp=g)" in message


def test_results_of_compiled_fields_are_checked(host: Bench) -> None:
    def ask(field: Any) -> Callable[[], Any]:
        return lambda: host.vjp(field, (0.0, 1.0), ONES, ONES)[1](ONES)

    assert "shape (2,)" in refusal(
        lambda: host.solve(compiled_too_short, (0.0, 1.0), ONES), ValueError
    )
    assert "received float32" in refusal(
        lambda: host.solve(compiled_single, (0.0, 1.0), ONES), TypeError
    )
    assert "args_bar of the field's vjp" in refusal(
        ask(ndereg.Field(compiled, vjp=vjp_of_args_summed)), ValueError
    )
    assert "(y_bar, args_bar)" in refusal(
        ask(ndereg.Field(compiled, vjp=vjp_of_state_alone)), TypeError
    )


def test_compiled_fields_take_tuples(host: Bench) -> None:
    for y0, args in (({"a": ONES}, ONES), (ONES, [ONES]), ((ONES, ({"a": ONES},)), ONES)):
        message = refusal(
            lambda y0=y0, args=args: host.solve(compiled, (0.0, 1.0), y0, args), TypeError
        )
        assert "tuples or a single array" in message


def test_errors_of_compiled_fields_come_through(host: Bench) -> None:
    with pytest.raises(ValueError, match=r"^mine"):
        host.solve(compiled_raising, (0.0, 1.0), ONES, ONES, method="heun_euler")


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_compiled_fields_are_for_numpy(name: str) -> None:
    bench = bench_of(name)
    in_place = ndereg.Field(lambda t, y, args, out: None, in_place=True)
    for field in (compiled, ndereg.Field(compiled), in_place):
        message = refusal(lambda field=field: bench.solve(field, (0.0, 1.0), ONES, ONES), TypeError)
        assert "ndereg.numpy" in message


# Fields that cannot be traced


def test_what_cannot_be_traced_is_refused_with_its_line() -> None:
    def branching(t: Any, y: Any, args: Any) -> Any:
        if y[0] > 0:  # the line that is named
            return -y
        return y

    with pytest.raises(TraceError, match="the line that is named") as caught:
        bench_of("numba").solve(branching, (0.0, 1.0), ONES)
    assert "test_bad_input.py" in str(caught.value)
    assert "try" in str(caught.value)
    # the reference runs any Python, until a gradient is asked for
    bench_of("reference").solve(branching, (0.0, 1.0), ONES)
    with pytest.raises(TraceError, match="the line that is named"):
        bench_of("reference").vjp(branching, (0.0, 1.0), ONES)
