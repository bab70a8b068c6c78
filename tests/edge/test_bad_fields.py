"""Bad fields, and arrays of other frameworks, are refused in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numba
import numpy as np
import pytest
import torch
from tests.edge.conftest import ONES, SAMPLES, Bench, bench_of, refusal, refused_alike, untouched

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
