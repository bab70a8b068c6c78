"""What every face promises: names, signatures, shapes, dtypes, structures."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import jax.numpy as jnp
import numba
import numpy as np
import pytest
import torch
from tests.edge.conftest import BACKENDS, Bench, bench_of, refusal

import ndereg
import ndereg.jax
import ndereg.numpy
import ndereg.torch
from ndereg import ops
from ndereg.spec.status import Status
from ndereg.structure import flatten

FACES = {"numba": ndereg.numpy, "torch": ndereg.torch, "jax": ndereg.jax}
REAL = {"float32": "float32", "float64": "float64", "complex64": "float32", "complex128": "float64"}

SIGNATURE = {
    "field": inspect.Parameter.empty, "t_span": inspect.Parameter.empty,
    "y0": inspect.Parameter.empty, "args": None, "t_eval": None, "method": "tsit5", "rtol": 1e-6,
    "atol": 1e-9, "controller": None, "first_step": None, "max_steps": 100_000, "batch": "joint",
    "regularizer": None, "adjoint": "discrete", "key": None, "record": False, "throw": True,
}  # fmt: skip


# Names and signatures


def test_faces_export_the_same_names() -> None:
    names = {name: set(face.__all__) for name, face in FACES.items()}
    assert names["numba"] == names["torch"] == names["jax"]
    assert names["numba"] - set(ndereg.__all__) == {"solve", "solve_vjp"}
    for face in FACES.values():
        for name in ndereg.__all__:
            assert getattr(face, name) is getattr(ndereg, name), name


@pytest.mark.parametrize(
    "name",
    ["PIDController", "ConstantStep", "Tableau", "Spec", "Status", "SolveError", "ErrorEstimate",
     "StiffnessEstimate", "ExponentialDecay", "InverseDecay", "Constant", "Discrete", "Backsolve",
     "Field", "compile", "register", "lookup", "names", "ops"],
)  # fmt: skip
def test_public_names(name: str) -> None:
    for module in (ndereg, *FACES.values()):
        assert name in module.__all__
        assert hasattr(module, name)


@pytest.mark.parametrize("function", ["solve", "solve_vjp"])
def test_faces_have_one_signature(function: str) -> None:
    for face in FACES.values():
        parameters = inspect.signature(getattr(face, function)).parameters
        assert {name: p.default for name, p in parameters.items()} == SIGNATURE
        keyword = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
        assert keyword == list(SIGNATURE)[4:]
        assert getattr(face, function).__doc__


def test_compiling_is_kept() -> None:
    spec = ndereg.Spec(ndereg.lookup("tsit5"), batch="independent")
    assert hash(spec) == hash(ndereg.Spec(ndereg.lookup("tsit5"), batch="independent"))
    for backend in ("numpy", "torch", "jax", "reference"):
        compiled = ndereg.compile(spec, backend=backend)
        assert ndereg.compile(spec, backend=backend) is compiled
    assert ndereg.compile(spec) is ndereg.compile(spec, backend="numba")
    with pytest.raises(ValueError, match="unknown backend 'tensorflow'"):
        ndereg.compile(spec, backend="tensorflow")


# What a solution is. The heavy cases are compiled once a backend: a nested state of all dtypes.


class Pair(NamedTuple):
    """A named tuple inside a state."""

    first: Any
    second: Any


def nested(t: Any, y: Any, args: Any) -> Any:
    rate, rest = args["rate"], args["rest"][0]
    pair = y["pair"]
    return {
        "m": -rate * y["m"],
        "pair": Pair(pair.first * (0.0 - 1.0j), pair.second * 0.5),
        "list": [ops.sin(y["list"][0]) * rest],
    }


def nested_state() -> Any:
    return {
        "m": np.ones((2, 3)),
        "pair": Pair(np.ones((2,), np.complex128), np.ones((2, 1), np.float32)),
        "list": [np.full((2, 2), 0.5)],
    }


def nested_args() -> Any:
    return {"rate": np.array(0.5), "rest": (np.array(2.0), None)}


def same_structure(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            same_structure(left[key], right[key])
    elif isinstance(left, (tuple, list)):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            same_structure(a, b)


ARRAYS = {
    "reference": np.ndarray, "numba": np.ndarray, "torch": torch.Tensor, "jax": jnp.ndarray
}  # fmt: skip


@pytest.mark.parametrize(
    ("bench", "batch"),
    [("reference", "joint"), ("torch", "joint"), *((name, "independent") for name in BACKENDS)],
    indirect=["bench"],
)
def test_a_nested_solution(bench: Bench, batch: str) -> None:
    """Structure, shapes and dtypes of everything that a solve and its pullback return."""
    times = np.array([0.0, 0.3, 1.0])
    y0, args = nested_state(), nested_args()
    sol, pullback = bench.vjp(
        nested, (0, 1), y0, args, t_eval=times, batch=batch, rtol=1e-5, atol=1e-7, method="bosh3",
        regularizer=ndereg.ErrorEstimate(), key=7,
    )  # fmt: skip
    expected = {
        "m": np.exp(-0.5 * times), "first": np.exp(-1j * times), "second": np.exp(0.5 * times)
    }  # fmt: skip
    ys = bench.get(sol.ys)
    found = {"m": ys["m"], "first": ys["pair"].first, "second": ys["pair"].second}
    same_structure(sol.ys, bench.put(y0))
    for name, leaf in found.items():
        start = y0["m"] if name == "m" else getattr(y0["pair"], name)
        if batch == "independent":
            leaf = np.moveaxis(leaf, 1, 0)
        assert leaf.shape == (3, *start.shape)
        assert leaf.dtype == start.dtype
        profile = expected[name].reshape(3, *(1,) * start.ndim)
        assert np.allclose(leaf, start * profile, rtol=1e-4)
    joint = batch == "joint"
    for count in vars(sol.stats).values():
        if joint:
            assert type(count) is int
        else:
            assert bench.get(count).shape == (2,)
            assert bench.get(count).dtype.kind == "i"
    if joint:
        assert sol.status is Status.SUCCESS
    else:
        assert bench.get(sol.status).tolist() == [0, 0]
    penalty = bench.get(sol.penalty)
    assert penalty.shape == (() if joint else (2,))
    assert penalty.dtype == np.float64
    assert np.all(penalty > 0)
    assert bench.get(sol.ts).dtype == np.float64
    assert np.array_equal(bench.get(sol.ts), times)
    assert sol.steps is None
    assert isinstance(sol.ys["m"], ARRAYS[bench.name])

    d_y0, d_args = pullback(sol.ys, 0.5)
    same_structure(d_y0, bench.put(y0))
    same_structure(d_args, bench.put(args))
    for bar, value in ((d_y0, y0), (d_args, args)):
        leaves, given = arrays_of(bench.get(bar)), arrays_of(value)
        assert [(x.shape, x.dtype) for x in leaves] == [(x.shape, x.dtype) for x in given]
        assert all(np.isfinite(x).all() for x in leaves)


def arrays_of(tree: Any) -> list[Any]:
    return [np.asarray(leaf) for leaf in flatten(tree)[0]]


def linear(t: Any, y: Any, args: Any) -> Any:
    return args * y


@pytest.mark.parametrize("dtype", REAL)
def test_dtypes(bench: Bench, dtype: str) -> None:
    """Without output times: shapes of y0, the end of the span, dtypes; args as Python floats."""
    y0 = bench.to(np.ones((2, 3), dtype))
    sol = bench.face.solve(linear, (0.0, 1.0), y0, -1.0, rtol=1e-4, atol=1e-4, method="heun_euler")
    ys = bench.get(sol.ys)
    assert (ys.shape, ys.dtype) == ((2, 3), np.dtype(dtype))
    assert np.allclose(ys, np.exp(-1.0), rtol=1e-2)
    assert bench.get(sol.penalty).dtype == REAL[dtype]
    assert float(sol.penalty) == 0.0
    assert bench.get(sol.ts).shape == ()
    assert float(sol.ts) == 1.0


@pytest.mark.parametrize("name", BACKENDS)
def test_single_precision_needs_nothing(name: str) -> None:
    """JAX without its x64 mode; times stay apart where float32 would merge them."""
    bench = bench_of(name)
    y0 = bench.to(np.ones((2, 3), np.float32))
    start = 4096.0  # where float32 times are 5e-4 apart
    sol = bench.face.solve(
        linear, (start, start + 1e-3), y0, -1000.0, rtol=1e-4, atol=1e-4, method="heun_euler"
    )
    assert np.allclose(bench.get(sol.ys), np.exp(-1.0), rtol=1e-2)
    assert bench.get(sol.ys).dtype == np.float32
    assert sol.stats.naccept >= 2


def test_times_of_each_sample(bench: Bench) -> None:
    """``(B, T)`` times, and a record of every attempt."""
    times = np.array([[0.0, 0.5, 1.0], [0.2, 0.2, 0.9]])
    rates = np.array([[-1.0], [-3.0]])
    sol = bench.solve(
        linear, (0.0, 1.0), np.ones((2, 2)), rates, batch="independent", t_eval=times, record=True
    )
    ys = bench.get(sol.ys)
    assert ys.shape == (2, 3, 2)
    assert np.allclose(ys, np.exp(rates * times)[..., None], rtol=1e-5)
    assert np.array_equal(bench.get(sol.ts), times)
    steps = {name: bench.get(column) for name, column in vars(sol.steps).items()}
    assert list(steps) == ["t", "h", "error", "stiffness", "accepted"]
    attempts = bench.get(sol.stats.nsteps)
    assert {column.shape for column in steps.values()} == {(int(attempts.max()), 2)}
    assert steps["accepted"].dtype == bool
    for sample, count in enumerate(attempts):
        accepted = steps["accepted"][:, sample]
        assert accepted.sum() == bench.get(sol.stats.naccept)[sample]
        assert np.isfinite(steps["h"][:count, sample]).all()
        assert np.isnan(steps["h"][count:, sample]).all()
        assert np.isclose(steps["h"][accepted, sample].sum(), 1.0)
        assert np.all(steps["error"][accepted, sample] <= 1)


def test_what_is_given_is_left_alone(eager: Bench) -> None:
    """Neither inputs nor results are overwritten, and they share no memory."""
    y0, times = np.ones(2), np.array([0.0, 1.0])
    for span in ((0.0, 1.0), (0.0, 0.0)):
        given = eager.to(y0)
        sol, pullback = eager.face.solve_vjp(linear, span, given, -1.0)
        bar = eager.to(np.ones(2))
        d_y0, _ = pullback(bar)
        sol.ys[:] = 7.0
        d_y0[:] = 7.0
        assert np.array_equal(eager.get(given), [1.0, 1.0])
        assert np.array_equal(eager.get(bar), [1.0, 1.0])
    eager.face.solve(linear, (0.0, 1.0), eager.to(y0), -1.0, t_eval=times)
    assert np.array_equal(times, [0.0, 1.0])


def test_numbers_may_be_of_any_kind(eager: Bench) -> None:
    """Times, tolerances and steps as ints, NumPy scalars and arrays of the framework."""
    plain = eager.solve(linear, (0.0, 1.0), np.ones(2), -1.0, rtol=1e-4, first_step=0.1)
    for kind in (np.float64, np.asarray, lambda value: eager.to(np.asarray(value))):
        sol = eager.solve(
            linear, (0, kind(1.0)), np.ones(2), -1.0, rtol=kind(1e-4), first_step=kind(0.1),
            max_steps=np.int64(1000), t_eval=[kind(1.0)] if kind is np.float64 else None,
        )  # fmt: skip
        assert np.array_equal(eager.get(sol.ys).reshape(2), eager.get(plain.ys))


def test_fields_may_return_numbers(bench: Bench) -> None:
    """A Python number stands for a scalar leaf, in its dtype."""
    sol = bench.solve(
        lambda t, y, args: (1.0, -y[1]), (0.0, 2.0), (np.zeros((), np.float32), np.ones(2))
    )
    clock, rest = bench.get(sol.ys)
    assert clock.dtype == np.float32
    assert np.isclose(clock, 2.0)
    assert np.allclose(rest, np.exp(-2.0), rtol=1e-5)


# Samples that the field couples


def coupled(t: Any, y: Any, args: Any) -> Any:
    return args * (ops.mean(y, axis=0, keepdims=True) - y)


def test_samples_may_be_coupled_by_the_field(bench: Bench) -> None:
    """The field sees the whole batch: its mean is one field, not one a sample."""
    y0 = np.array([[1.0, 0.0], [0.0, 0.5], [0.8, 0.3]])
    options: dict[str, Any] = {
        "batch": "independent", "t_eval": [0.5, 1.0], "regularizer": ndereg.ErrorEstimate(),
        "controller": ndereg.ConstantStep(0.25), "rtol": 1e-3, "atol": 1e-3,
    }  # fmt: skip

    def solved(where: Bench) -> Any:
        sol, pullback = where.vjp(coupled, (0.0, 1.0), y0, np.array(0.5), **options)
        bars = pullback(where.to(np.linspace(-1, 1, 12).reshape(3, 2, 2)), 0.3)
        return [where.get(x) for x in (sol.ys, sol.penalty, sol.stats.nfev, *bars)]

    for actual, expected in zip(solved(bench), solved(bench_of("reference")), strict=True):
        assert np.allclose(actual, expected, rtol=1e-10, atol=1e-13)


# Compiled fields


@numba.njit
def predator_prey(t, y, args):  # type: ignore[no-untyped-def]
    out = np.empty_like(y)
    out[0] = args[0] * y[0] - args[1] * y[0] * y[1]
    out[1] = args[2] * y[0] * y[1] - args[3] * y[1]
    return out


@numba.njit
def predator_prey_in_place(t, y, args, out):  # type: ignore[no-untyped-def]
    out[0] = args[0] * y[0] - args[1] * y[0] * y[1]
    out[1] = args[2] * y[0] * y[1] - args[3] * y[1]


@numba.njit
def predator_prey_vjp(t, y, args, k):  # type: ignore[no-untyped-def]
    y_bar, args_bar = np.empty_like(y), np.empty_like(args)
    y_bar[0] = k[0] * (args[0] - args[1] * y[1]) + k[1] * args[2] * y[1]
    y_bar[1] = -k[0] * args[1] * y[0] + k[1] * (args[2] * y[0] - args[3])
    args_bar[0] = k[0] * y[0]
    args_bar[1] = -k[0] * y[0] * y[1]
    args_bar[2] = k[1] * y[0] * y[1]
    args_bar[3] = -k[1] * y[1]
    return y_bar, args_bar


def predator_prey_traced(t: Any, y: Any, args: Any) -> Any:
    both = y[0] * y[1]
    return ops.stack([args[0] * y[0] - args[1] * both, args[2] * both - args[3] * y[1]])


def test_compiled_fields_are_taken_as_they_are() -> None:
    """Returning or in place, with a vjp; alike on NumPy's two backends and with the traced one."""
    y0, args = np.array([1.0, 0.5]), np.array([1.1, 0.4, 0.1, 0.4])
    bar = np.array([0.3, -1.0])
    sol, pullback = bench_of("reference").vjp(
        predator_prey_traced, (0.0, 3.0), y0, args, method="heun_euler", rtol=1e-4
    )
    expected = [sol.ys, *pullback(bar)]
    returning = ndereg.Field(predator_prey, vjp=predator_prey_vjp)
    in_place = ndereg.Field(predator_prey_in_place, vjp=predator_prey_vjp, in_place=True)
    for name, field in (("reference", returning), ("reference", in_place), ("numba", returning)):
        sol, pullback = bench_of(name).vjp(
            field, (0.0, 3.0), y0, args, method="heun_euler", rtol=1e-4
        )
        for actual, value in zip([sol.ys, *pullback(bar)], expected, strict=True):
            assert np.allclose(actual, value, rtol=1e-9)
    for name, field in (("reference", predator_prey), ("numba", in_place)):
        sol = bench_of(name).solve(field, (0.0, 3.0), y0, args, method="heun_euler", rtol=1e-4)
        assert np.allclose(sol.ys, expected[0], rtol=1e-9)


# Modules


class Decay(torch.nn.Module):
    """A module called as ``f(t, y)`` that carries its rate."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, t: Any, y: Any) -> Any:
        return -self.rate * y


def test_modules_are_fields_in_torch() -> None:
    module, y0 = Decay(), torch.ones(2, dtype=torch.float64)
    sol, pullback = ndereg.torch.solve_vjp(module, (0.0, 1.0), y0)
    d_y0, d_args = pullback(torch.ones_like(y0))
    assert list(d_args) == ["rate"]
    assert np.isclose(float(d_args["rate"]), -2 * np.exp(-0.5), rtol=1e-5)
    assert np.allclose(d_y0.numpy(), np.exp(-0.5), rtol=1e-5)
    ndereg.torch.solve(module, (0.0, 1.0), y0).ys.sum().backward()
    assert np.isclose(float(module.rate.grad), float(d_args["rate"]))
    assert sol.status is Status.SUCCESS


def test_output_times_in_single_precision(bench: Bench) -> None:
    """The end of the span, rounded to float32, is the end of the span."""
    times = np.linspace(0.0, 0.1, 5, dtype=np.float32)
    sol = bench.solve(_decay, (0.0, 0.1), np.ones(2), t_eval=times, method="bosh3")
    assert np.allclose(bench.get(sol.ys)[-1], np.exp(-0.1), rtol=1e-5)
    with pytest.raises(ValueError, match="within the span"):
        bench.solve(_decay, (0.0, 0.1), np.ones(2), t_eval=[0.0, 0.1001], method="bosh3")


def test_integers_have_no_gradient(bench: Bench) -> None:
    def call() -> Any:
        return bench.vjp(lambda t, y, a: -a * y, (0.0, 1.0), np.ones(2), np.array(2))

    assert "received args of dtype int" in refusal(call, TypeError)


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_an_end_that_was_not_reached(bench: Bench, batch: Any) -> None:
    sol = bench.solve(
        _decay, (0.0, 100.0), np.ones((2, 1)), method="bosh3", max_steps=3, throw=False,
        batch=batch,
    )  # fmt: skip
    assert np.isnan(bench.get(sol.ys)).all()


def _decay(t: Any, y: Any, args: Any) -> Any:
    return -y
