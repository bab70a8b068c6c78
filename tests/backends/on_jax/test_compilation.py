"""Closures, compilation, memory, single precision, failures and refusals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ndereg
import ndereg.jax as nde
from ndereg.backends.jax import clock
from ndereg.plan.lower import lower
from ndereg.solution import Stats
from ndereg.spec.spec import Spec

from .problem import SAMPLES, SPAN, STIFFNESSES, TIMES, Y0, close, parameters, spring

COMPILATIONS = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: COMPILATIONS.append(event) if "backend_compile" in event else None
)


def end_state(y0, args, **options):
    return nde.solve(spring, SPAN, y0, args, rtol=1e-7, atol=1e-7, **options).ys


def objective(y0, args, **options):
    return jnp.sum(jnp.sin(end_state(y0, args, **options)))


# --- precision ---------------------------------------------------------------------------------


def products(y0, **options):
    """The precisions of the products in a solve and its gradient."""

    def loss(weight, y0):
        field = lambda t, y, weight: jnp.tanh(y @ weight)  # noqa: E731
        return nde.solve(field, SPAN, y0, weight, **options).ys.sum()

    text = str(jax.make_jaxpr(jax.grad(loss))(jnp.eye(2, dtype=y0.dtype), y0))
    assert "dot_general" in text
    return text.count("Precision.HIGHEST"), text.count("Precision.HIGH,") + text.count("=None")


def test_a_fields_products_are_as_exact_as_its_dtype_unless_chosen_otherwise():
    y0 = jnp.ones((3, 2), jnp.float32)
    exact, _ = products(y0)
    assert exact > 0
    with jax.default_matmul_precision("high"):  # also when the same field was met before
        exact, chosen = products(y0)
    assert exact == 0
    assert chosen > 0


@pytest.mark.parametrize("entries", [41, 321])
def test_sizes_whose_reciprocal_rounds_are_finite_in_single_precision(entries, single_precision):
    """The share of finite entries is 1, though 41 times 1 / 41 is not in float32."""
    y0 = jnp.ones(entries, jnp.float32)
    sol = nde.solve(lambda t, y, args: -y, (0.0, 1.0), y0, rtol=1e-3, throw=False)
    assert sol.status == ndereg.Status.SUCCESS


# --- closures and compilation ------------------------------------------------------------------


@pytest.mark.parametrize("adjoint", ["discrete", "backsolve"])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_gradients_reach_closed_over_values(adjoint, transform):
    """Tracers that the field closes over are inputs of the solve; integers among them too."""
    choice = jnp.array([1, 0])

    def closed(k, order):
        def field(t, y, args):
            return spring(t, y, {**args, "k": k})[order][order]

        sol = nde.solve(
            field,
            SPAN,
            Y0,
            {"drive": jnp.asarray(0.7)},
            rtol=1e-9,
            atol=1e-9,
            adjoint=adjoint,
            method="bosh3",
        )
        return jnp.sum(jnp.sin(sol.ys))

    def given(k):
        return objective(jnp.asarray(Y0), {**parameters(), "k": k})

    found = transform(jax.grad(closed))(jnp.asarray(2.0), choice)
    close(found, jax.grad(given)(jnp.asarray(2.0)), 1e-6)


def test_vmap_over_closed_over_values():
    def loss(k):
        return jnp.sum(
            nde.solve(lambda t, y, args: -k * y, SPAN, jnp.ones(2), rtol=1e-8, atol=1e-8).ys
        )

    rates = jnp.array([0.3, 1.0, 3.0])
    exact = -1.8 * 2 * jnp.exp(-1.8 * rates)
    close(jax.vmap(jax.grad(loss))(rates), exact, 1e-6)


def counted(function):
    """The function, and a list that grows whenever Python runs it."""
    calls = []

    def field(t, y, args):
        calls.append(None)
        return function(t, y, args)

    return field, calls


def test_values_never_recompile():
    """Tolerances, controllers, weights, spans, output times and args are run-time inputs.

    There is one solve for controllers that remember earlier steps, and one for those that do not.
    """
    field, calls = counted(spring)

    def run(scale, controller, **more):
        options = {
            "controller": controller, "t_eval": TIMES * scale, "rtol": 1e-3 * scale,
            "regularizer": scale * ndereg.ErrorEstimate(), "method": "bosh3", **more,
        }  # fmt: skip
        args = {**parameters(), "k": jnp.asarray(scale)}
        y0, span = scale * jnp.asarray(Y0), (SPAN[0] * scale, SPAN[1] * scale)

        def loss(y0):
            return jnp.sum(nde.solve(field, span, y0, args, **options).ys)

        nde.solve_vjp(field, span, y0, args, **options)[1](np.ones((5, 2)))
        return loss(y0), jax.grad(loss)(y0)

    run(1.0, ndereg.PIDController())
    run(0.9, ndereg.PIDController())
    run(1.1, ndereg.PIDController(pcoeff=0.2))
    traced, compiled = len(calls), len(COMPILATIONS)
    run(0.7, ndereg.PIDController(pcoeff=0.4, icoeff=0.3, safety=0.8, dt_max=0.3), atol=1e-5)
    run(1.3, ndereg.CONTROLLERS["PI34"])
    run(1.2, ndereg.PIDController(icoeff=0.9))
    assert len(calls) == traced
    assert len(COMPILATIONS) == compiled


def test_the_same_field_written_again_is_not_traced_again():
    calls = []
    rate = jnp.asarray(0.5)

    def solve():
        def field(t, y, args):
            calls.append(None)
            return -rate * y

        return nde.solve(field, (0.0, 1.0), jnp.ones(1), rtol=1e-8, atol=1e-8).ys

    first = solve()
    traced = len(calls)
    close(solve(), first)
    assert len(calls) == traced
    rate = jnp.asarray(1.0)
    close(solve(), jnp.exp(-jnp.ones(1)), 1e-7)
    close(first, jnp.exp(-0.5 * jnp.ones(1)), 1e-7)


def test_mutated_state_of_a_field_is_seen():
    class Model:
        def __init__(self):
            self.layers = {"rate": jnp.asarray(0.5)}

        def field(self, t, y, args):
            return -self.layers["rate"] * y

    model = Model()
    for rate in (0.5, 2.0, 1.0):
        model.layers["rate"] = jnp.asarray(rate)
        found = nde.solve(model.field, (0.0, 1.0), jnp.ones(1), rtol=1e-8, atol=1e-8).ys
        close(found, jnp.exp(-rate * jnp.ones(1)), 1e-7)

    def loss(rate):
        model.layers["rate"] = rate
        return nde.solve(model.field, (0.0, 1.0), jnp.ones(1), rtol=1e-8, atol=1e-8).ys[0]

    close(jax.grad(loss)(1.0), -math.exp(-1.0), 1e-7)


def test_the_step_is_traced_once():
    """One loop with one step; nothing of the size of max_steps unless it is differentiated."""

    def field(t, y, args):
        return jnp.arctan(y) * args

    def run(y):
        return nde.solve(field, SPAN, y, jnp.asarray(0.5)).ys

    y = jnp.ones(3)
    text = str(jax.make_jaxpr(run)(y))
    plan = lower(Spec(ndereg.lookup("tsit5")))
    assert text.count(" atan ") == plan.step.evaluations() + plan.first.evaluations()
    assert text.count(" while[") == 1
    assert "100000" not in text

    def loss(y):
        return jnp.sum(run(y))

    text = str(jax.make_jaxpr(jax.grad(loss))(y))
    evaluations = plan.first.evaluations() + sum(
        program.evaluations() for program in (plan.step, plan.replay, plan.adjoint)
    )
    assert text.count(" atan ") == evaluations


# --- memory of the discrete adjoint ------------------------------------------------------------


@pytest.mark.parametrize("checkpoints", [2, 5, 16, 700])
def test_any_number_of_steps_fits_any_number_of_checkpoints(checkpoints):
    """Several hundred steps give the same gradient from any number of stored states."""
    options = {"controller": ndereg.ConstantStep(0.003), "method": "heun", "max_steps": 1000}

    def loss(y0, args, adjoint):
        return jnp.sum(jnp.sin(nde.solve(spring, SPAN, y0, args, adjoint=adjoint, **options).ys))

    def of(count):
        adjoint = ndereg.Discrete(checkpoints=count)
        return jax.grad(lambda y0, args: loss(y0, args, adjoint), argnums=(0, 1))(
            jnp.asarray(Y0), parameters()
        )

    close(of(checkpoints), of(601), 1e-11)


def test_stored_states_do_not_grow_with_the_steps():
    """The differentiated solve holds the checkpoints, one spare slot, and scalars for the mesh."""
    entries, checkpoints = 4096, 8
    y0 = jnp.zeros(entries)

    def stored(max_steps):
        def loss(y0):
            return jnp.sum(
                nde.solve(
                    lambda t, y, args: -y, SPAN, y0, max_steps=max_steps,
                    adjoint=ndereg.Discrete(checkpoints=checkpoints),
                ).ys
            )  # fmt: skip

        text = str(jax.make_jaxpr(jax.grad(loss))(y0))
        assert f"f64[{checkpoints + 1},1,{entries}]" in text
        assert f"f64[{max_steps},1]" in text
        memory = jax.jit(jax.grad(loss)).lower(y0).compile().memory_analysis()
        return memory.temp_size_in_bytes - 8 * max_steps

    few, many = stored(100), stored(50_000)
    assert abs(many - few) < 8 * entries
    assert many < (checkpoints + 25) * 8 * entries


# --- without x64 -------------------------------------------------------------------------------


def test_compensated_time_resolves_small_steps(single_precision):
    t = clock.encode(1000.0)
    assert t[0].dtype == np.float32

    @jax.jit
    def advance(t):
        return jax.lax.fori_loop(0, 10_000, lambda _, t: clock.add(t, jnp.float32(1e-7)), t)

    exact = 1000.0 + 10_000 * float(np.float32(1e-7))
    late = jax.tree.map(np.float64, advance(tuple(map(jnp.asarray, t))))
    assert abs(sum(late) - exact) < 10_000 * 1000.0 * 2.0**-47
    close(clock.difference(advance(t), clock.encode(1000.0)), 1e-3, 1e-6)


def test_single_precision_without_x64(single_precision):
    """Late and short spans are stepped through in float32 as well as anywhere else."""
    span = (5000.0, 5000.001)
    sol = nde.solve(
        lambda t, y, args: 1000.0 * args * y, span, jnp.ones(2), jnp.asarray(1.0), rtol=1e-6,
        atol=1e-6, t_eval=np.array([5000.0, 5000.0005, 5000.001]),
    )  # fmt: skip
    assert sol.ys.dtype == np.float32
    assert sol.stats.naccept > 3
    np.testing.assert_allclose(sol.ys[:, 0], np.exp([0.0, 0.5, 1.0]), rtol=1e-5)


def test_gradients_in_single_precision(single_precision):
    y0 = jnp.asarray(Y0, jnp.float32)
    args = {"k": jnp.float32(2.0), "drive": jnp.float32(0.7)}
    regularizer = ndereg.ErrorEstimate(squared=True)

    def loss(y0, args):
        sol = nde.solve(
            spring, SPAN, y0, args, rtol=1e-3, atol=1e-3, t_eval=TIMES, regularizer=regularizer,
            controller=ndereg.ConstantStep(0.2), method="bosh3",
        )  # fmt: skip
        return jnp.sum(jnp.sin(sol.ys)) + sol.penalty

    single = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(y0, args)
    with jax.enable_x64(True):
        double = jax.value_and_grad(loss, argnums=(0, 1))(jnp.asarray(Y0), parameters())
    close(single, double, 1e-4)


# --- failures and refusals ---------------------------------------------------------------------


def blow_up(t, y, args):
    return y**2


def test_failures_under_transformations():
    """Eager solves raise; traced ones are nan, or partial with throw=False; the status tells."""
    with pytest.raises(ndereg.SolveError, match=r"MAX_STEPS|STEP_UNDERFLOW|NON_FINITE"):
        nde.solve(blow_up, (0.0, 2.0), jnp.ones(1), max_steps=2000)

    @jax.jit
    def run(y0):
        sol = nde.solve(blow_up, (0.0, 2.0), y0, max_steps=2000)
        return sol.ys, sol.status

    ys, status = run(jnp.ones(1))
    assert np.isnan(ys).all()
    assert int(status) != ndereg.Status.SUCCESS
    ys, status = run(0.1 * jnp.ones(1))
    close(ys, jnp.array([0.1 / (1 - 0.2)]), 1e-4)
    gradient = jax.grad(lambda y0: run(y0)[0][0])
    assert np.isnan(gradient(jnp.ones(1))).all()
    assert np.isfinite(gradient(0.1 * jnp.ones(1))).all()

    @jax.jit
    def some(y0):
        sol = nde.solve(
            blow_up, (0.0, 2.0), y0, batch="independent", throw=False, max_steps=2000,
            t_eval=np.array([0.0, 0.5, 2.0]),
        )  # fmt: skip
        return sol.ys, sol.status, sol.stats.nsteps

    ys, status, nsteps = some(jnp.array([[1.0], [0.1]]))
    assert status[0] != 0
    assert status[1] == 0
    assert np.isnan(ys[0, 2]).all()
    close(ys[:, :2, 0], 1 / (1 / jnp.array([[1.0], [0.1]]) - jnp.array([0.0, 0.5])), 1e-5)
    assert nsteps[0] > nsteps[1]


def test_standing_span():
    sol = nde.solve(spring, (1.0, 1.0), Y0, parameters(), t_eval=[1.0, 1.0])
    close(sol.ys, np.stack([Y0, Y0]))
    assert sol.stats == Stats(nfev=0, nsteps=0, naccept=0, nreject=0)
    gradient = jax.grad(lambda y: jnp.sum(nde.solve(spring, (1.0, 1.0), y, parameters()).ys))
    close(gradient(jnp.asarray(Y0)), np.ones(2))


def test_no_adjoint_refuses_gradients():
    options = {"adjoint": "none"}
    assert np.isfinite(end_state(Y0, parameters(), **options)).all()
    with pytest.raises(ValueError, match="adjoint='discrete'"):
        jax.grad(lambda y: objective(y, parameters(), **options))(jnp.asarray(Y0))
    with pytest.raises(ValueError, match="adjoint='none'"):
        nde.solve_vjp(spring, SPAN, Y0, parameters(), **options)


def test_backsolve_refuses_times_of_each_sample():
    def loss(y0):
        sol = nde.solve(
            spring, SPAN, y0, parameters(), adjoint="backsolve", batch="independent",
            t_eval=np.array([[0.4, 1.0], [0.5, 2.0]]),
        )  # fmt: skip
        return jnp.sum(sol.ys)

    with pytest.raises(ValueError, match="adjoint='discrete'"):
        jax.grad(loss)(jnp.ones((2, 2)))


def test_backsolve_of_independent_samples():
    def loss(adjoint):
        def of(y0, args):
            sol = nde.solve(
                spring, SPAN, y0, args, adjoint=adjoint, batch="independent", t_eval=TIMES,
                rtol=1e-8, atol=1e-8, method="bosh3",
            )  # fmt: skip
            return jnp.sum(jnp.sin(sol.ys))

        return of

    args = {"k": jnp.asarray(STIFFNESSES[:3]), "drive": jnp.asarray(0.7)}
    found, expected = (
        jax.grad(loss(adjoint), argnums=(0, 1))(jnp.asarray(SAMPLES[:3]), args)
        for adjoint in ("backsolve", "discrete")
    )
    close(found, expected, 1e-6)


def test_arrays_of_other_frameworks_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"expected y0 .* received torch.Tensor; try"):
        nde.solve(spring, SPAN, torch.ones(2), parameters())
    with pytest.raises(TypeError, match=r"expected args\['k'\]"):
        nde.solve(spring, SPAN, Y0, {"k": torch.ones(()), "drive": 1.0})


@pytest.mark.parametrize(
    ("field", "error", "words"),
    [
        (lambda t, y, args: y[:1], ValueError, "shape"),
        (lambda t, y, args: y.astype(jnp.float32), TypeError, "dtype"),
        (lambda t, y, args: {"y": y}, TypeError, "structure"),
        (lambda t, y, args: np.zeros(2), TypeError, "JAX arrays"),
    ],
)
def test_wrong_fields_are_refused_where_they_are_traced(field, error, words):
    with pytest.raises(error, match=words):
        nde.solve(field, SPAN, Y0)
    with pytest.raises(error, match=words):
        jax.jit(lambda y: nde.solve(field, SPAN, y).ys)(jnp.asarray(Y0))
