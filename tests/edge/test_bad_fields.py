"""Bad fields are refused in words."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import numba
import numpy as np
import pytest
from tests.edge.conftest import (
    ONES,
    SAMPLES,
    Bench,
    Module,
    bench_of,
    refusal,
    refused_alike,
    untouched,
)

import ndereg
import ndereg.jax
import ndereg.numpy
import ndereg.torch
from ndereg import ops
from ndereg.trace import TraceError


def damped(t: Any, y: Any, args: Any) -> Any:
    return -args * y


def test_functions_without_args_are_refused(bench: Bench) -> None:
    def decay(t, y):
        return -y

    with pytest.raises(TypeError, match=r"received decay\(t, y\); try decay\(t, y, args\)"):
        bench.solve(decay, (0.0, 1.0), np.ones(2))
    assert bench.solve(lambda *given: -given[1], (0.0, 1.0), np.ones(2)).stats.naccept > 0


class Called:
    """An object with the arguments of one that is called as ``f(t, y)``."""

    def __call__(self, t: Any, y: Any) -> Any:
        return -y

    def method(self, t: Any, y: Any) -> Any:
        return -y

    def fits(self, t: Any, y: Any, args: Any, scale: float = 1.0, *, shift: float = 0.0) -> Any:
        return -y


def langevin(function: Any) -> Any:
    return ndereg.UnderdampedLangevin(function)


AFTER = "try (t, y, args), with what else it reads in args, or in its closure"
SIGNATURES: dict[str, tuple[Any, str, str]] = {
    "none": (lambda: 0.0, "field", "<lambda>(t, y, args), which may ignore t and y and args"),
    "state": (lambda u: -u, "field", "<lambda>(t, u, args), which may ignore t and args"),
    "time": (lambda t: t, "field", "<lambda>(t, y, args), which may ignore y and args"),
    "time and state": (lambda t, u: -u, "field", "<lambda>(t, u, args), which may ignore args"),
    "state and time": (lambda y, t: -y, "field", "<lambda>(t, y, args), which may ignore args"),
    "state and args": (lambda x, p: -x, "field", "<lambda>(t, x, p), which may ignore t"),
    "four": (lambda t, y, args, more: -y, "field", AFTER),
    "a keyword": (lambda t, y, args, *, more: -y, "field", AFTER),
    "an object": (
        Called(), "field", "type Called that takes (t, y); try lambda t, y, args: field(t, y)",
    ),
    "a method": (Called().method, "field", "received method(t, y); try method(t, y, args)"),
    "a partial function": (
        partial(lambda w, t, y: -y, 1.0), "field", "type partial that takes (t, y); try lambda t",
    ),
    "of jit": (jax.jit(lambda t, y: -y), "field", "takes (t, y); try lambda t, y, args: field"),
    "of equinox": (
        Module(1.0), "field", "type Module that takes (t, y); try lambda t, y, args: field(t, y)",
    ),
    "a decorated call": (
        eqx.nn.MLP(2, 2, 2, 1, key=jax.random.key(0)), "field",
        "type MLP that takes (x); try lambda t, x, args: field(x)",
    ),
    "a flow": (ndereg.Flow(lambda t, y: -y), "field", "try <lambda>(t, y, args)"),
    "a drift": (
        ndereg.SDE(lambda t, y: -y, untouched), "drift",
        "<lambda>(t, y, args), which may ignore args",
    ),
    "a converted drift": (
        ndereg.SDE(lambda y: -y, untouched).converted("stratonovich"), "drift",
        "<lambda>(t, y, args), which may ignore t and args",
    ),
    "a diffusion": (
        ndereg.SDE(untouched, lambda y: y), "diffusion",
        "<lambda>(t, y, args), which may ignore t and args",
    ),
    "a gradient": (
        langevin(lambda x: x), "grad_potential",
        "<lambda>(t, x, args), which may ignore t and args",
    ),
    "a gradient in time": (
        langevin(lambda t, q: q), "grad_potential", "<lambda>(t, q, args), which may ignore args",
    ),
}  # fmt: skip


class Static:
    @staticmethod
    def __call__(t: Any, y: Any, args: Any) -> Any:
        return -y


def weighed(t: Any, y: Any, args: Any, w: float) -> Any:
    return -w * y


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_refused_alike(name: str) -> None:
    field, what, advice = SIGNATURES[name]
    message = refused_alike(lambda bench: bench.solve(field, (0.0, 1.0), ONES, key=0), TypeError)
    state = "x" if what == "grad_potential" else "y"
    assert message.startswith(f"expected a {what} f(t, {state}, args), received ")
    assert advice in message


def test_signatures_that_fit_are_taken(bench: Bench) -> None:
    @functools.wraps(Called().method)
    def wrapper(*given: Any, **named: Any) -> Any:
        return -given[1]

    fitting = [
        lambda t, y, args, scale=2.0: -y, lambda *given, scale=2.0: -given[1],
        lambda t, y, *rest: -y, lambda t, y=None, args=None: -y, Called().fits, wrapper,
        partial(lambda w, t, y, args: -w * y, 1.0),
        partial(lambda t, y, args, w: -w * y, w=1.0), Static(),
        functools.update_wrapper(partial(weighed, w=1.0), weighed),
    ]  # fmt: skip
    expected = bench.solve(lambda t, y, args: -y, (0.0, 0.1), ONES, method="heun_euler")
    for field in fitting:
        found = bench.solve(field, (0.0, 0.1), ONES, method="heun_euler")
        assert np.array_equal(bench.get(found.ys), bench.get(expected.ys))


@pytest.mark.parametrize("field", [None, 1.0, "decay", ONES])
def test_fields_are_callable(bench: Bench, field: Any) -> None:
    message = refusal(lambda: bench.solve(field, (0.0, 1.0), ONES), TypeError)
    assert "callable field f(t, y, args)" in message


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
    assert "test_bad_fields.py" in str(caught.value)
    assert "try" in str(caught.value)
    # the reference runs any Python, until a gradient is asked for
    bench_of("reference").solve(branching, (0.0, 1.0), ONES)
    with pytest.raises(TraceError, match="the line that is named"):
        bench_of("reference").vjp(branching, (0.0, 1.0), ONES)
