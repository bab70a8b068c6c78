"""What is JAX's own: transformations, closures, compilation, float32 time; and peers as oracles."""

import math
import warnings
from functools import partial

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

SPAN = (0.3, 2.1)
TIMES = np.array([0.3, 0.5, 0.9, 1.7, 2.1])


COMPILATIONS = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: COMPILATIONS.append(event) if "backend_compile" in event else None
)


@pytest.fixture(autouse=True)
def _precision(request):
    with jax.enable_x64("single_precision" not in request.fixturenames):
        yield


@pytest.fixture
def single_precision():
    """Ask for JAX without its x64 mode."""


def spring(t, y, args):
    """A driven, damped, non-linear oscillator; joint, or one sample a row."""
    x, v = y[..., :1], y[..., 1:]
    force = -args["k"] * (x + 0.3 * x**3) + args["drive"] * jnp.sin(2.0 * t)
    return jnp.concatenate([v, force - 0.2 * v], axis=-1)


def parameters():
    return {"k": jnp.asarray(2.0), "drive": jnp.asarray(0.7)}


def close(actual, expected, tolerance=1e-10):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def end_state(y0, args, **options):
    return nde.solve(spring, SPAN, y0, args, rtol=1e-7, atol=1e-7, **options).ys


def objective(y0, args, **options):
    return jnp.sum(jnp.sin(end_state(y0, args, **options)))


Y0 = np.array([1.0, -0.4])


# --- peers and autodiff as oracles -------------------------------------------------------------


def test_steps_and_solution_of_diffrax():
    """The same Tsit5 steps under the I controller, where no step has to shrink."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffrax

    def decay(t, y, args):
        return -y * args

    y0, rate = jnp.array([1.0, 0.5]), jnp.array([1.0, 0.4])
    peer = diffrax.diffeqsolve(
        diffrax.ODETerm(decay), diffrax.Tsit5(), 0.0, 20.0, 0.01, y0, rate, max_steps=1000,
        stepsize_controller=diffrax.PIDController(
            rtol=0.0, atol=1e-7, pcoeff=0.0, icoeff=1.0, dcoeff=0.0
        ),
        saveat=diffrax.SaveAt(steps=True),
    )  # fmt: skip
    ours = nde.solve(
        decay, (0.0, 20.0), y0, rate, rtol=0.0, atol=1e-7, first_step=0.01, record=True
    )
    count = int(peer.stats["num_accepted_steps"])
    assert ours.stats.naccept == count
    assert ours.stats.nsteps == int(peer.stats["num_steps"])
    ends = ours.steps.t + ours.steps.h
    np.testing.assert_allclose(ends[ours.steps.accepted], peer.ts[:count], rtol=1e-9)
    np.testing.assert_allclose(ours.ys, peer.ys[count - 1], rtol=1e-8, atol=1e-12)


def unrolled(y0, args, mesh, tableau, rtol, atol):
    """The steps of a mesh in plain JAX: final state, sum of E |h|, mean of S / stability size."""
    y, penalties = y0, []
    for t, h in mesh:
        k, g = [], []
        for row, c in zip(tableau.a, tableau.c, strict=True):
            g.append(y + h * sum((float(a) * k_j for a, k_j in zip(row, k, strict=True)), 0.0))
            k.append(spring(t + float(c) * h, g[-1], args))
        y1 = y + h * sum(float(b) * k_j for b, k_j in zip(tableau.b, k, strict=True))
        e = h * sum(float(w) * k_j for w, k_j in zip(tableau.error[0], k, strict=True))
        scale = atol + rtol * jnp.maximum(jnp.abs(y), jnp.abs(y1))
        i, j = tableau.stiffness_pair
        stiffness = jnp.linalg.norm(k[j] - k[i]) / jnp.linalg.norm(g[j] - g[i])
        penalties.append(
            (jnp.sqrt(jnp.mean((e / scale) ** 2)) * abs(h), stiffness / tableau.stability_size)
        )
        y = y1
    errors, stiffnesses = zip(*penalties, strict=True)
    return y, sum(errors), sum(stiffnesses) / len(stiffnesses)


@pytest.mark.parametrize("method", ["tsit5", "dopri5"])
def test_gradient_is_that_of_the_unrolled_steps(method):
    tableau, tolerance = ndereg.lookup(method), 1e-3
    regularizer = ndereg.ErrorEstimate() + 0.5 * ndereg.StiffnessEstimate(reduce="mean")
    options = {"rtol": tolerance, "atol": tolerance, "method": method}
    steps = nde.solve(spring, SPAN, Y0, parameters(), record=True, **options).steps
    kept = np.asarray(steps.accepted)
    assert 3 < kept.sum() < kept.size + 1
    mesh = list(zip(steps.t[kept].tolist(), steps.h[kept].tolist(), strict=True))

    def ours(y0, args):
        sol = nde.solve(spring, SPAN, y0, args, regularizer=regularizer, **options)
        return jnp.sum(jnp.cos(sol.ys)) + 3.0 * sol.penalty

    def plain(y0, args):
        y, error, stiffness = unrolled(y0, args, mesh, tableau, tolerance, tolerance)
        return jnp.sum(jnp.cos(y)) + 3.0 * (error + 0.5 * stiffness)

    value, gradient = jax.value_and_grad(ours, argnums=(0, 1))(jnp.asarray(Y0), parameters())
    expected = jax.value_and_grad(plain, argnums=(0, 1))(jnp.asarray(Y0), parameters())
    close((value, gradient), expected, 1e-9)


def difference(function, x, step=1e-5):
    return (function(x + step) - function(x - step)) / (2 * step)


@pytest.mark.parametrize("adjoint", ["discrete", "backsolve"])
@pytest.mark.parametrize("end", [2.1, -1.2])
def test_gradients_of_times(adjoint, end):
    """Continuous ones: of both ends of the span, and of output times at, in and after steps."""
    y0, args = jnp.asarray(Y0), parameters()
    options = {"rtol": 1e-11, "atol": 1e-11, "adjoint": adjoint}

    def at_end(t0, t1):
        return jnp.sum(jnp.sin(nde.solve(spring, (t0, t1), y0, args, **options).ys))

    def at_times(t0, length):
        times = t0 + length * jnp.array([0.0, 0.2, 0.7, 1.0])
        weights = jnp.arange(8.0).reshape(4, 2)
        ys = nde.solve(spring, (t0, t0 + length), y0, args, t_eval=times, **options).ys
        return jnp.sum(weights * ys)

    for function, arguments in ((at_end, (0.3, end)), (at_times, (0.3, end - 0.3))):
        found = jax.grad(function, argnums=(0, 1))(*arguments)
        first, second = arguments
        expected = (
            difference(partial(lambda f, b, a: f(a, b), function, second), first),
            difference(partial(function, first), second),
        )
        close(found, expected, 1e-7)


def test_times_of_each_sample_have_gradients():
    y0 = jnp.array([[1.0, 0.0], [0.5, 0.5], [-1.0, 0.2]])
    start = jnp.array([[0.4, 1.0], [0.3, 2.1], [1.5, 1.6]])

    def loss(times):
        sol = nde.solve(
            spring, SPAN, y0, parameters(), t_eval=times, batch="independent", rtol=1e-11,
            atol=1e-11,
        )  # fmt: skip
        return jnp.sum(sol.ys * jnp.arange(12.0).reshape(3, 2, 2))

    found = jax.grad(loss)(start)
    assert found.shape == (3, 2)
    expected = difference(lambda x: loss(start.at[2, 0].set(x)), 1.5)
    close(found[2, 0], expected, 1e-7)


def test_complex_gradients_follow_each_convention():
    """JAX's own unconjugated one under grad; the real inner product in solve_vjp."""

    def field(t, z, args):
        return args * z - 0.1 * z * jnp.abs(z) ** 2

    z0, rate = jnp.array([1.0 + 0.5j, -0.3j]), jnp.asarray(0.2 + 1.5j)
    bar = jnp.array([0.3 - 1.0j, 0.7 + 0.2j])
    options = {"rtol": 1e-8, "atol": 1e-8}

    def loss(z0, rate):
        return jnp.real(jnp.vdot(bar, nde.solve(field, SPAN, z0, rate, **options).ys))

    found = jax.grad(loss, argnums=(0, 1))(z0, rate)
    by_real = difference(lambda x: loss(z0, rate + x), 0.0)
    by_imag = difference(lambda x: loss(z0, rate + 1j * x), 0.0)
    close(found[1], by_real - 1j * by_imag, 1e-6)
    _, pullback = nde.solve_vjp(field, SPAN, z0, rate, **options)
    close(pullback(bar), jax.tree.map(jnp.conj, found))


def test_pullback_of_solve_vjp_is_the_gradient():
    sol, pullback = nde.solve_vjp(
        spring, SPAN, Y0, parameters(), t_eval=TIMES, regularizer=ndereg.ErrorEstimate()
    )
    bar = np.random.default_rng(0).normal(size=sol.ys.shape)

    def loss(y0, args):
        sol = nde.solve(spring, SPAN, y0, args, t_eval=TIMES, regularizer=ndereg.ErrorEstimate())
        return jnp.sum(bar * sol.ys) + 0.3 * sol.penalty

    close(pullback(bar, 0.3), jax.grad(loss, argnums=(0, 1))(jnp.asarray(Y0), parameters()))


# --- samples and transformations ---------------------------------------------------------------


SAMPLES = np.array([[1.0, 0.0], [0.1, 0.05], [-2.5, 2.0], [0.0, 0.0]])
STIFFNESSES = np.array([[1.0], [4.0], [9.0], [0.5]])
REGULARIZED = {
    "regularizer": ndereg.ErrorEstimate(reduce="max") + 0.1 * ndereg.StiffnessEstimate(),
    "t_eval": TIMES,
    "rtol": 1e-5,
    "atol": 1e-5,
}


def each(y0, k, **options):
    args = {**parameters(), "k": k}
    sol = nde.solve(spring, SPAN, y0, args, **{**REGULARIZED, **options})
    return sol.ys, sol.penalty, sol.stats.nfev, sol.stats.naccept


def weighted(ys, penalty, *_):
    return jnp.sum(ys * jnp.cos(jnp.arange(ys.size)).reshape(ys.shape)) + jnp.sum(penalty)


def test_independent_samples_are_solved_as_if_alone():
    together = each(jnp.asarray(SAMPLES), jnp.asarray(STIFFNESSES), batch="independent")
    alone = [each(y, k) for y, k in zip(SAMPLES, STIFFNESSES, strict=True)]
    assert len(set(np.asarray(together[2]).tolist())) > 1
    for i, single in enumerate(alone):
        close([part[i] for part in together], single, 1e-11)

    def loss(y0, k, **options):
        return weighted(*(part[:2] for part in each(y0, k, **options)))

    def one(y0, k):
        ys, penalty, *_ = each(y0, k)
        return ys, penalty

    def batched(y0, k):
        ys, penalty, *_ = each(y0, k, batch="independent")
        return jnp.sum(jnp.sin(ys)) + jnp.sum(penalty)

    def summed(y0, k):
        parts = [one(y0[i], k[i]) for i in range(2)]
        return sum(jnp.sum(jnp.sin(ys)) + penalty for ys, penalty in parts)

    arguments = jnp.asarray(SAMPLES[:2]), jnp.asarray(STIFFNESSES[:2])
    close(
        jax.grad(batched, argnums=(0, 1))(*arguments),
        jax.grad(summed, argnums=(0, 1))(*arguments),
        1e-8,
    )


def test_vmap_runs_the_solves_side_by_side():
    mapped = jax.jit(jax.vmap(each))(jnp.asarray(SAMPLES), jnp.asarray(STIFFNESSES[:, 0]))
    for i in range(len(SAMPLES)):
        close([part[i] for part in mapped], each(SAMPLES[i], STIFFNESSES[i, 0]), 1e-11)
    text = str(jax.make_jaxpr(jax.vmap(each))(SAMPLES, STIFFNESSES[:, 0]))
    assert "select_n" in text
    assert f"f64[{len(SAMPLES)},2]" in text


def loss_of(y0, k, rtol, t1):
    sol = nde.solve(
        spring, (0.3, t1), y0, {**parameters(), "k": k}, rtol=rtol, atol=1e-6,
        regularizer=ndereg.ErrorEstimate(),
    )  # fmt: skip
    return jnp.sum(jnp.sin(sol.ys)) + sol.penalty


@pytest.mark.parametrize("axes", [(0, None, None, None), (None, 0, None, 0), (0, 0, 0, 0)])
def test_vmap_of_the_gradient(axes):
    arguments = (
        jnp.asarray(SAMPLES[:3]), jnp.asarray(STIFFNESSES[:3, 0]),
        jnp.array([1e-4, 1e-6, 1e-7]), jnp.array([1.0, -0.4, 0.3]),
    )  # fmt: skip
    arguments = tuple(a if axis == 0 else a[0] for a, axis in zip(arguments, axes, strict=True))
    gradient = jax.grad(loss_of, argnums=(0, 1, 3))
    mapped = jax.jit(jax.vmap(gradient, in_axes=axes))(*arguments)
    for i in range(3):
        row = [a[i] if axis == 0 else a for a, axis in zip(arguments, axes, strict=True)]
        close(jax.tree.map(lambda x, i=i: x[i], mapped), gradient(*row), 1e-8)


def test_gradient_of_a_vmap_and_nested_vmaps():
    y0, k = jnp.asarray(SAMPLES[:3]), jnp.asarray(STIFFNESSES[:2, 0])
    grid = jax.vmap(jax.vmap(loss_of, (0, None, None, None)), (None, 0, None, None))
    values = grid(y0, k, 1e-5, 1.1)
    assert values.shape == (2, 3)
    close(values[1, 2], loss_of(y0[2], k[1], 1e-5, 1.1))
    total = jax.jit(jax.grad(lambda y0, k: jnp.sum(grid(y0, k, 1e-5, 1.1)), argnums=(0, 1)))
    singles = [jax.grad(loss_of, argnums=(0, 1))(y, s, 1e-5, 1.1) for s in k for y in y0]
    close(total(y0, k)[0][1], singles[1][0] + singles[4][0], 1e-9)
    close(total(y0, k)[1][0], sum(single[1] for single in singles[:3]), 1e-9)


def test_vmap_of_independent_samples():
    y0 = jnp.stack([jnp.asarray(SAMPLES[:2]), jnp.asarray(SAMPLES[1:3])])
    k = jnp.asarray(STIFFNESSES[:2])

    def loss(y0, k):
        ys, penalty, *_ = each(y0, k, batch="independent")
        return jnp.sum(jnp.sin(ys)) + jnp.sum(penalty)

    mapped = jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(0, None))(y0, k)
    close(jax.tree.map(lambda x: x[1], mapped), jax.grad(loss, argnums=(0, 1))(y0[1], k), 1e-9)


def test_vmap_over_backsolve():
    def loss(y0, k):
        ys, *_ = nde.solve(
            spring, SPAN, y0, {**parameters(), "k": k}, t_eval=TIMES, adjoint="backsolve"
        ).ys
        return jnp.sum(jnp.sin(ys))

    mapped = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(0, None)))
    found = mapped(jnp.asarray(SAMPLES[:2]), jnp.asarray(2.0))
    for i in range(2):
        single = jax.grad(loss, argnums=(0, 1))(jnp.asarray(SAMPLES[i]), jnp.asarray(2.0))
        close(jax.tree.map(lambda x, i=i: x[i], found), single, 1e-8)


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
            field, SPAN, Y0, {"drive": jnp.asarray(0.7)}, rtol=1e-9, atol=1e-9, adjoint=adjoint
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
    """Tolerances, controllers, weights, spans, output times and args are run-time inputs."""
    field, calls = counted(spring)

    def run(scale, controller, **more):
        options = {
            "controller": controller, "t_eval": TIMES * scale, "rtol": 1e-3 * scale,
            "regularizer": scale * ndereg.ErrorEstimate(), **more,
        }  # fmt: skip
        args = {**parameters(), "k": jnp.asarray(scale)}
        y0, span = scale * jnp.asarray(Y0), (SPAN[0] * scale, SPAN[1] * scale)

        def loss(y0):
            return jnp.sum(nde.solve(field, span, y0, args, **options).ys)

        nde.solve_vjp(field, span, y0, args, **options)[1](np.ones((5, 2)))
        return loss(y0), jax.grad(loss)(y0)

    run(1.0, ndereg.PIDController())
    run(0.9, ndereg.PIDController())
    traced, compiled = len(calls), len(COMPILATIONS)
    run(0.7, ndereg.PIDController(pcoeff=0.4, icoeff=0.3, safety=0.8, dt_max=0.3), atol=1e-5)
    run(1.3, ndereg.CONTROLLERS["PI34"])
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
            controller=ndereg.ConstantStep(0.5),
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
                rtol=1e-9, atol=1e-9,
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
