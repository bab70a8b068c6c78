"""What a penalty integrates along the solution: against formulas, and on every backend."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numba
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ndereg
from ndereg import ops
from ndereg.backends.draws import uniform
from ndereg.backends.registry import load_backend
from ndereg.backends.tracing import field_pullback
from ndereg.edge.problem import prepare
from ndereg.testing.strategies import fields

from .conftest import Bench, close

SPAN = (0.0, 1.5)
Y0 = np.random.default_rng(0).normal(size=(2, 2))
ARGS = np.random.default_rng(1).normal(size=(2, 2))
EXACT: dict[str, Any] = {"method": "dopri8", "rtol": 1e-12, "atol": 1e-12, "key": 3}
STEPS: dict[str, Any] = {"method": "heun_euler", "controller": ndereg.ConstantStep(0.5), "key": 3}
KINETIC, FROBENIUS = ndereg.Kinetic(), ndereg.JacobianFrobenius()
ALL = KINETIC + 0.5 * ndereg.Taylor(2) + 0.3 * FROBENIUS


def field(t: Any, y: Any, args: Any) -> Any:
    return ops.tanh(y @ args) - 0.5 * y * ops.cos(3.0 * t)


def signs(count: int, key: int = 3) -> Any:
    draws = uniform(load_backend("reference"), key, count, "ndereg.JacobianFrobenius")
    return np.where(draws < 0.5, -1.0, 1.0)


def quadrature(rate: Any, y0: Any, function: Any, args: Any) -> float:
    """Integral of ``rate(t, y)`` along the solution, by SciPy alone."""
    shape = y0.shape
    path = scipy.integrate.solve_ivp(
        lambda t, y: function(t, y.reshape(shape), args).ravel(), SPAN, y0.ravel(), "DOP853",
        dense_output=True, rtol=1e-12, atol=1e-12,
    ).sol  # fmt: skip
    value, _ = scipy.integrate.quad(
        lambda t: rate(t, path(t).reshape(shape)), *SPAN, epsabs=1e-11, epsrel=1e-11, limit=200
    )
    return float(value)


def numpy_field(t: Any, y: Any, args: Any) -> Any:
    return np.tanh(y @ args) - 0.5 * y * np.cos(3.0 * t)


# Against formulas


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_taylor_of_a_linear_field(reference: Bench, order: int) -> None:
    """``d^K y / dt^K`` of ``dy/dt = A y + b cos(t)``, in closed form."""
    A, b = ARGS, np.array([0.7, -1.1])

    def linear(t: Any, y: Any, args: Any) -> Any:
        return args[0] @ y + args[1] * ops.cos(t)

    def rate(t: float, y: Any) -> float:
        value = y
        for k in range(order):  # y^(k+1) = A y^(k) + b cos^(k)(t)
            value = A @ value + b * np.cos(t + k * np.pi / 2)
        return float(np.mean(value**2))

    sol = reference.solve(
        linear, SPAN, Y0[0], (A, b), regularizer=2.0 * ndereg.Taylor(order), **EXACT
    )
    expected = quadrature(rate, Y0[0], lambda t, y, args: A @ y + b * np.cos(t), None)
    close(sol.penalty, 2.0 * expected, 1e-9)


def test_taylor_of_a_homogeneous_field_without_a_quadrature(reference: Bench) -> None:
    """``integral of y^T M y dt`` with ``M = (A^K)^T A^K`` solves a Lyapunov equation."""
    power = np.linalg.matrix_power(ARGS, 3)
    M = power.T @ power / 2
    X = scipy.linalg.solve_continuous_lyapunov(ARGS.T, -M)
    flow = scipy.linalg.expm(ARGS * SPAN[1])
    y0 = Y0[0]
    expected = y0 @ (X - flow.T @ X @ flow) @ y0
    sol = reference.solve(
        lambda t, y, args: args @ y, SPAN, y0, ARGS, regularizer=ndereg.Taylor(3), **EXACT
    )
    close(sol.penalty, expected, 1e-9)


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_kinetic_and_jacobian_against_quadrature(reference: Bench, batch: str) -> None:
    e = signs(4).reshape(2, 2)

    def kinetic(t: float, y: Any) -> float:
        return float(np.mean(numpy_field(t, y, ARGS) ** 2))

    def frobenius(t: float, y: Any, e: Any) -> float:
        slope = 1 - np.tanh(y @ ARGS) ** 2
        return float(np.mean(((e * slope) @ ARGS.T - 0.5 * np.cos(3.0 * t) * e) ** 2))

    rows = [(Y0, e)] if batch == "joint" else [(Y0[i : i + 1], e[i : i + 1]) for i in range(2)]
    expected = [
        [quadrature(kinetic, y0, numpy_field, ARGS),
         quadrature(lambda t, y, e=e: frobenius(t, y, e), y0, numpy_field, ARGS)]
        for y0, e in rows
    ]  # fmt: skip
    for position, regularizer in enumerate((KINETIC, FROBENIUS)):
        for times in (None, [0.2, 1.5]):
            sol = reference.solve(
                field, SPAN, Y0, ARGS, regularizer=regularizer, batch=batch, t_eval=times, **EXACT
            )
            found = np.reshape(sol.penalty, -1)
            close(found, np.array([row[position] for row in expected]), 1e-9)


def test_the_jacobian_is_unbiased(reference: Bench) -> None:
    """Signs of a linear field: the mean is the squared Frobenius norm over the entries."""
    count = 2000
    e = signs(2 * count).reshape(count, 2)
    values = np.mean((e @ ARGS) ** 2, axis=1)
    deviation = values.std() / np.sqrt(count)
    assert abs(values.mean() - np.sum(ARGS**2) / 2) < 4 * deviation
    options = {"regularizer": FROBENIUS, "batch": "independent", **STEPS}
    y0 = np.zeros((count, 2))
    sol = reference.solve(lambda t, y, args: y @ args.T, SPAN, y0, ARGS, **options)
    close(sol.penalty, values * SPAN[1], 1e-12)


# What the solve does


@pytest.mark.parametrize("batch", ["joint", "independent"])
@pytest.mark.parametrize("times", [None, [0.0, 0.7, 1.2]])
def test_gradients_are_those_of_finite_differences(
    reference: Bench, batch: str, times: Any
) -> None:
    """With constant steps, where the mesh depends on nothing; beside a penalty over the steps."""
    regularizer = ALL + 0.1 * ndereg.Taylor(3) + 0.02 * ndereg.ErrorEstimate()
    options = {**STEPS, "batch": batch, "regularizer": regularizer, "t_eval": times, "rtol": 1e-2}
    shape = (2, 2) if times is None else (2, 3, 2) if batch == "independent" else (3, 2, 2)
    rng = np.random.default_rng(2)
    ys_bar, bar = rng.normal(size=shape), rng.normal(size=2 if batch == "independent" else ())

    def value(y0: Any, args: Any) -> float:
        sol = reference.solve(field, SPAN, y0, args, **options)
        return float(np.sum(ys_bar * sol.ys) + np.sum(bar * sol.penalty))

    sol, d_y0, d_args = reference.gradient(field, SPAN, Y0, ARGS, ys_bar, bar, **options)
    assert sol.ys.shape == shape and sol.penalty.shape == bar.shape and d_y0.shape == Y0.shape
    close(d_y0, slope(lambda y0: value(y0, ARGS), Y0), 1e-7)
    close(d_args, slope(lambda args: value(Y0, args), ARGS), 1e-7)


def slope(function: Any, at: Any, eps: float = 1e-5) -> Any:
    found = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[index] = eps
        found[index] = (function(at + moved) - function(at - moved)) / (2 * eps)
    return found


def test_the_solver_controls_the_integrals_as_well(reference: Bench) -> None:
    """Steps see the extended state; without the regularizer nobody pays."""
    options = {"method": "tsit5", "rtol": 1e-6, "atol": 1e-6}
    alone = reference.solve(field, SPAN, Y0, ARGS, **options)
    weights = [
        reference.solve(field, SPAN, Y0, ARGS, regularizer=weight * ndereg.Taylor(4), **options)
        for weight in (1.0, 0.0)
    ]
    assert weights[0].stats.nfev == weights[1].stats.nfev > alone.stats.nfev
    assert weights[1].penalty == 0.0


def test_backsolve_differentiates_integrals(reference: Bench) -> None:
    """The continuous adjoint, to the tolerance; on PyTorch as on the reference."""
    options = {**EXACT, "regularizer": ALL, "t_eval": [0.4, 1.5]}
    bars = (np.ones((2, 2, 2)), 2.0)
    exact = reference.gradient(field, SPAN, Y0, ARGS, *bars, **options)[1:]
    for bench in (reference, Bench("torch")):
        found = bench.gradient(
            field, SPAN, Y0, ARGS, *bars, adjoint="backsolve",
            **{**options, "rtol": 1e-6, "atol": 1e-6, "method": "tsit5"},
        )[1:]  # fmt: skip
        close(found, exact, 1e-3)


def test_a_failed_solve_knows_no_integral(reference: Bench) -> None:
    def explodes(t: Any, y: Any, args: Any) -> Any:
        return args * y * y

    y0 = np.array([[0.2], [40.0]])
    options = {"regularizer": KINETIC, "batch": "independent", "throw": False, "method": "tsit5"}
    for times in (None, [0.5, 1.0]):
        sol = reference.solve(explodes, SPAN, y0, np.array(1.0), t_eval=times, **options)
        assert np.array_equal(np.isnan(sol.penalty), [False, True])
    empty = reference.solve(field, (1.0, 1.0), Y0, ARGS, regularizer=ALL, key=0)
    assert empty.penalty == 0.0 and np.array_equal(empty.ys, Y0)


# On every backend


def nested(t: Any, y: Any, args: Any) -> Any:
    """A state of a real and a complex array, whose samples are apart."""
    a, z = y["a"], y["z"]
    turned = z * (1j * args["w"] + ops.tanh(a) * t)
    return {"a": ops.sin(a * args["s"]) - ops.real(z * ops.conj(z)), "z": turned}


NESTED: Any = {"a": Y0[:, :1], "z": Y0[:, 1:] + 1j * ARGS[:, :1]}
CASES: dict[str, tuple[Any, ...]] = {
    "joint, with output times": (
        field, Y0, ARGS,
        {"regularizer": ALL + 0.1 * ndereg.ErrorEstimate(), "t_eval": [0.3, 1.1]},
    ),
    "independent, nested and complex": (
        nested, NESTED, {"w": np.array(1.3), "s": np.array(0.8)},
        {"regularizer": FROBENIUS + ndereg.Taylor(2), "batch": "independent"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_backends_agree(bench: Bench, reference: Bench, case: str) -> None:
    function, y0, args, options = CASES[case]
    rng = np.random.default_rng(4)

    def gradients(bench: Bench) -> Any:
        ys = reference.solve(function, SPAN, y0, args, **STEPS, **options).ys
        leaves, structure = ndereg.structure.flatten(ys)
        ys_bar = structure.unflatten([rng.normal(size=leaf.shape) for leaf in leaves])
        bar = np.array([1.0, -2.0]) if "batch" in options else 1.5
        sol, *bars = bench.gradient(function, SPAN, y0, args, ys_bar, bar, **STEPS, **options)
        return bench.get(sol.ys), bench.get(sol.penalty), *bars

    rng, expected = np.random.default_rng(4), gradients(reference)
    rng = np.random.default_rng(4)
    close(gradients(bench), expected, 1e-10)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data(), batch=st.sampled_from(["joint", "independent"]))
def test_random_fields(data: st.DataObject, batch: str) -> None:
    """Rates and their pullbacks, of all integrands at a random point of a random field."""
    drawn = data.draw(fields(batch=batch))
    random = np.random.default_rng(5)
    y0, args = drawn.state.values(random), drawn.values(random)
    regularizer = KINETIC + ndereg.Taylor(2) + ndereg.Taylor(3) + FROBENIUS
    tolerance = 1e-10 if drawn.state.dtypes[0] in ("float64", "complex128") else 2e-2
    with jax.enable_x64(True):
        found = [
            at_a_point(bench, drawn.function, y0, args, batch=batch, regularizer=regularizer)
            for bench in (Bench("reference"), Bench("torch"), Bench("jax"))
        ]
    for other in found[1:]:
        close(other, found[0], tolerance)


@pytest.mark.slow
def test_a_random_field_compiled() -> None:
    """The whole solve on Numba, and its gradient: the simplest field and a drawn one."""

    @settings(max_examples=2, deadline=None, derandomize=True)
    @given(data=st.data())
    def agrees(data: st.DataObject) -> None:
        drawn = data.draw(fields(batch="independent"))
        random = np.random.default_rng(5)
        y0, args = drawn.state.values(random), drawn.values(random)
        leaves, structure = ndereg.structure.flatten(y0)
        bars = structure.unflatten([np.ones_like(leaf) for leaf in leaves]), np.ones(len(leaves[0]))
        regularizer = KINETIC + ndereg.Taylor(2) + FROBENIUS
        options: Any = {**STEPS, "batch": "independent", "regularizer": regularizer}
        found = []
        for bench in (Bench("reference"), Bench("numba")):
            sol, *gradients = bench.gradient(drawn.function, SPAN, y0, args, *bars, **options)
            found.append([sol.ys, sol.penalty, *gradients])
        double = drawn.state.dtypes[0] in ("float64", "complex128")
        close(found[1], found[0], 1e-10 if double else 2e-2)

    agrees()


def at_a_point(bench: Bench, function: Any, y0: Any, args: Any, **options: Any) -> Any:
    """The extended field at t = 0.3, and a random cotangent pulled back through it."""
    problem = prepare(
        bench.face.backend, function, SPAN, bench.put(y0), bench.put(args), key=1, **options
    )
    own = len(problem.posed.args)
    t = bench.put(np.full(problem.layout.time_shape, 0.3, problem.layout.real_dtype))
    bar = np.random.default_rng(6).normal(size=problem.y0.shape).astype(problem.layout.dtype)
    if bench.name == "reference":
        k = problem.call(t, problem.y0, problem.args)
        y_bar, args_bar = field_pullback(problem)(t, problem.y0, problem.args, bar)
        return [k, y_bar, *args_bar[:own]]
    if bench.name == "jax":
        rest = problem.args[own:]

        @jax.jit
        def both(y: Any, args: Any, bar: Any) -> Any:
            k, pull = jax.vjp(lambda y, args: problem.call(t, y, [*args, *rest]), y, args)
            return k, pull(jnp.conj(bar))

        k, (y_bar, args_bar) = both(problem.y0, list(problem.args[:own]), bench.put(bar))
        return bench.get([k, jnp.conj(y_bar), *map(jnp.conj, args_bar)])
    wrt = [x.clone().requires_grad_() for x in (problem.y0, *problem.args[:own])]
    k = problem.call(t, wrt[0], [*wrt[1:], *problem.args[own:]])
    bars = torch.autograd.grad(k, wrt, bench.put(bar), materialize_grads=True)
    return [x.detach().resolve_conj().numpy() for x in (k, *bars)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own
def test_modules_and_their_parameters(reference: Bench) -> None:
    """backward() fills the gradients of a module; solve_vjp names them; a prediction is cheap."""
    face = Bench("torch").face
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(2, 2, dtype=torch.float64), torch.nn.Tanh())
    y0 = torch.tensor(Y0)
    options = {"regularizer": ALL, **STEPS}
    for batch in ("joint", "independent"):
        sol = face.solve(module, SPAN, y0, batch=batch, **options)
        module.zero_grad()
        sol.penalty.sum().backward()
        own, pullback = face.solve_vjp(module, SPAN, y0, batch=batch, **options)
        _, named = pullback(torch.zeros_like(y0), torch.ones_like(own.penalty))
        for name, parameter in module.named_parameters():
            close(named[name].numpy(), parameter.grad.numpy(), 1e-12)
    weights = tuple(p.detach().numpy() for p in module.parameters())

    def same(t: Any, y: Any, args: Any) -> Any:
        return ops.tanh(y @ args[0].T + args[1])

    found = reference.solve(same, SPAN, Y0, weights, batch="independent", **options).penalty
    close(sol.penalty.detach().numpy(), found, 1e-12)
    with torch.no_grad():
        for one in (module, torch.compile(module)):
            close(face.solve(one, SPAN, y0, batch=batch, **options).penalty.numpy(), found, 1e-12)


def test_a_torch_field_may_differentiate_itself() -> None:
    """``torch.func`` inside of a field: a gradient flow, beside the same written out."""
    face = Bench("torch").face

    def flow(t: Any, y: Any, args: Any) -> Any:
        return torch.func.grad(lambda y: -(args * y**4).sum())(y)

    y0, args = torch.tensor(Y0), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    found = []
    for function in (flow, lambda t, y, args: -4 * args * y**3):
        sol = face.solve(function, SPAN, y0, args, regularizer=KINETIC, **STEPS)
        found.append((sol.ys.detach().numpy(), *torch.autograd.grad(sol.penalty, args)))
    close(found[0], found[1], 1e-12)


def test_times_with_history_of_a_solve_with_integrals() -> None:
    """A later end of the span adds the rate there; output times are differentiated as before."""
    face = Bench("torch").face
    options = {"regularizer": KINETIC, "method": "dopri8", "rtol": 1e-10, "atol": 1e-10}
    y0, args = torch.tensor(Y0), torch.tensor(ARGS)
    for asked in (None, [0.4, 0.9]):
        t1 = torch.tensor(SPAN[1], dtype=torch.float64, requires_grad=True)
        times = None if asked is None else torch.tensor(asked, requires_grad=True)
        sol = face.solve(field, (SPAN[0], t1), y0, args, t_eval=times, **options)
        sol.penalty.backward(retain_graph=True)
        end = face.solve(field, SPAN, y0, args).ys.numpy()
        close(t1.grad.numpy(), np.mean(numpy_field(SPAN[1], end, ARGS) ** 2), 1e-5)
        if times is not None:
            sol.ys[0].sum().backward()
            at = face.solve(field, (0.0, 0.4), y0, args).ys.numpy()
            expected = [float(np.sum(numpy_field(0.4, at, ARGS))), 0.0]
            close(times.grad.numpy(), np.array(expected), 1e-5)


def test_jax_transformations() -> None:
    """jit, vmap and grad with traced keys: each key has signs of its own, and none is traced."""
    face = Bench("jax").face
    y0, args = jnp.asarray(Y0, jnp.float32), jnp.asarray(ARGS, jnp.float32)

    def penalty(args: Any, key: Any) -> Any:
        options = {**STEPS, "key": key, "regularizer": FROBENIUS}
        return face.solve(field, SPAN, y0, args, **options).penalty

    keys = jax.random.split(jax.random.key(1), 3)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(penalty), in_axes=(None, 0)))(args, keys)
    assert len(np.unique(values)) > 1
    close(np.asarray(penalty(args, keys[2])), np.asarray(values[2]), 1e-5)
    moved = jnp.asarray([[1e-2, 0.0], [0.0, 0.0]])
    change = (penalty(args + moved, keys[2]) - penalty(args - moved, keys[2])) / 2e-2
    close(np.asarray(slopes[2, 0, 0]), np.asarray(change), 1e-2)


def test_a_jax_operation_without_a_taylor_rule() -> None:
    """Forward mode stands in."""
    face = Bench("jax").face
    found, expected = (
        face.solve(lambda t, y, args, f=f: -f(y), SPAN, jnp.ones(1), None,
                   regularizer=ndereg.Taylor(3), **STEPS).penalty
        for f in (jax.nn.softplus, ops.softplus)
    )  # fmt: skip
    close(np.asarray(found), np.asarray(expected), 1e-5)


# Refusals


def test_what_cannot_be_served_is_refused(reference: Bench) -> None:
    with pytest.raises(ValueError, match=r"expected a key .*JacobianFrobenius, received key=None"):
        reference.solve(field, SPAN, Y0, ARGS, regularizer=FROBENIUS)
    own = numba.njit(lambda t, y, args: -y)
    for function in (own, ndereg.Field(own, vjp=own)):
        with pytest.raises(TypeError, match=r"plain Python field for ndereg.Kinetic, ndereg.Tay"):
            reference.solve(function, SPAN, Y0, regularizer=KINETIC + ndereg.Taylor())
    with pytest.raises(ValueError, match="heuristic over one step"):
        ndereg.Local(KINETIC)
    with pytest.raises(ValueError, match="order >= 1, received 0"):
        ndereg.Taylor(0)
    with pytest.raises(TypeError, match="an int for order"):
        ndereg.Taylor(2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"result of the field to have shape \(2, 2\)"):
        reference.solve(lambda t, y, args: y[0], SPAN, Y0, regularizer=KINETIC)
    with pytest.raises(TypeError, match=r"expected floating-point arrays to differentiate by"):
        reference.gradient(field, SPAN, Y0, np.eye(2, dtype=int), Y0, regularizer=ALL, key=0)

    class Other:
        name = "other"

        def __getattr__(self, name: str) -> Any:
            if name == "derivatives":
                raise AttributeError(name)
            return getattr(reference.face.backend, name)

    with pytest.raises(TypeError, match=r"a backend that serves ndereg.Kinetic, received 'other'"):
        prepare(Other(), field, SPAN, Y0, ARGS, regularizer=KINETIC)  # type: ignore[arg-type]


def test_errors_of_the_field_name_the_users_state(reference: Bench) -> None:
    def wrong(t: Any, y: Any, args: Any) -> Any:
        raise KeyError("missing")

    with pytest.raises(KeyError) as caught:
        reference.solve(wrong, SPAN, Y0, ARGS, regularizer=KINETIC)
    (note,) = [note for note in caught.value.__notes__ if "was called as" in note]
    assert "y = * of shapes (2, 2) and args = *" in note
