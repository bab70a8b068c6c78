"""Arrays, functions and modules of another framework are refused in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tests.edge.conftest import (
    ONES,
    SAMPLES,
    Bench,
    Module,
    bench_of,
    refusal,
    untouched,
)

import ndereg
import ndereg.jax
import ndereg.numpy
import ndereg.torch
from ndereg import ops
from ndereg.backends.foreign import MIXED

# Arrays and modules of two frameworks

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


# Modules as args, and functions of another framework inside a field

MODULES = {
    "reference": (Module(2.0), "ndereg.port(module, to='numpy')"),
    "numba": (torch.nn.Linear(2, 2), "ndereg.port(module, to='numpy')"),
    "torch": (torch.nn.Linear(2, 2), "which backward() differentiates as any closure"),
    "jax": (Module(2.0), "which jax.grad differentiates as any closure"),
}


def test_modules_are_no_args(bench: Bench) -> None:
    module, advice = MODULES[bench.name]
    for args, where in ((module, "args"), ({"m": (module,)}, "args['m'][0]")):
        message = refusal(
            lambda a=args: bench.face.solve(untouched, (0.0, 1.0), bench.to(ONES), a), TypeError
        )
        assert f"expected {where} to be" in message
        assert advice in message
        assert "asarray" not in message and "as_tensor" not in message
    message = refusal(lambda: bench.face.solve(untouched, (0.0, 1.0), module), TypeError)
    assert "try a dict, tuple or list of the arrays in it" in message


def test_containers_of_jax_are_no_args() -> None:
    """A pytree that nothing calls holds arrays all the same."""

    class Weights(eqx.Module):
        w: Any

    message = refusal(
        lambda: ndereg.jax.solve(untouched, (0.0, 1.0), jnp.ones(2), Weights(jnp.ones(2))),
        TypeError,
    )
    assert "closing over it" in message


def test_the_advice_on_modules_as_args_works() -> None:
    """A closure has the gradient that its arrays have as args, in PyTorch and in JAX."""

    def loss(weight: Any, closed: bool) -> Any:
        module, args = Module(weight), None if closed else {"weight": weight}

        def field(t: Any, y: Any, args: Any) -> Any:
            return (module if closed else Module(args["weight"]))(t, y)

        y0 = jnp.ones(2)
        return jnp.sum(ndereg.jax.solve(field, (0.0, 1.0), y0, args, method="heun_euler").ys)

    closed, given = (jax.grad(loss)(jnp.asarray(0.7), which) for which in (True, False))
    np.testing.assert_allclose(closed, given, rtol=1e-6)
    assert abs(float(given)) > 0.1

    linear, y0 = torch.nn.Linear(2, 2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    ndereg.torch.solve(lambda t, y, args: linear(y), (0.0, 1.0), y0).ys.sum().backward()
    _, pullback = ndereg.torch.solve_vjp(
        lambda t, y, args: torch.func.functional_call(linear, args, (y,)), (0.0, 1.0), y0,
        dict(linear.named_parameters()),
    )  # fmt: skip
    for name, bar in pullback(torch.ones_like(y0))[1].items():
        torch.testing.assert_close(linear.get_parameter(name).grad, bar)
        assert bar.abs().max() > 0.1


MIXED_FIELDS: dict[str, tuple[tuple[str, ...], Callable[[Any], Any]]] = {
    "jax": (("numba", "torch"), jnp.tanh),
    "jax.nn": (("numba", "torch"), jax.nn.relu),
    "torch": (("numba", "jax", "reference"), torch.tanh),
    "torch.nn": (("numba", "jax"), torch.nn.functional.softplus),
    "numpy": (("torch", "jax"), np.tanh),
    "arrays of numpy": (("torch",), lambda y: np.eye(2) @ y),
    "arrays of torch": (("jax",), lambda y: torch.ones(2) * y),
}


@pytest.mark.parametrize("name", MIXED_FIELDS)
def test_functions_of_another_framework_are_noted(name: str) -> None:
    backends, function = MIXED_FIELDS[name]
    for backend in backends:
        bench = bench_of(backend)
        with bench.precision(), pytest.raises((TypeError, RuntimeError)) as caught:
            bench.solve(lambda t, y, args: function(y), (0.0, 1.0), ONES)
        assert [note for note in caught.value.__notes__ if "ndereg.ops" in note] == [MIXED]


def test_other_errors_say_nothing_of_frameworks(bench: Bench) -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
        bench.solve(lambda t, y, args: y @ ops.reshape(y, (1, 2)), (0.0, 1.0), ONES)
    assert MIXED not in getattr(caught.value, "__notes__", ())


def test_a_number_belongs_to_no_framework() -> None:
    bench = bench_of("torch")
    with pytest.raises(TypeError, match="must be Tensor, not float") as caught:
        bench.solve(lambda t, y, args: torch.sin(2.0) * y, (0.0, 1.0), ONES)  # type: ignore[arg-type]
    assert MIXED not in caught.value.__notes__
