"""Independent samples, and ``jit``, ``grad`` and ``vmap`` of solves in every order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ndereg
import ndereg.jax as nde

from .problem import SAMPLES, SPAN, STIFFNESSES, TIMES, Y0, close, parameters, spring

REGULARIZED = {
    "method": "bosh3",  # few stages compile fast
    "regularizer": ndereg.ErrorEstimate(reduce="max"),
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
        method="bosh3", regularizer=ndereg.ErrorEstimate(),
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
            spring, SPAN, y0, {**parameters(), "k": k}, t_eval=TIMES, adjoint="backsolve",
            method="bosh3", rtol=1e-6, atol=1e-6,
        ).ys  # fmt: skip
        return jnp.sum(jnp.sin(ys))

    mapped = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(0, None)))
    found = mapped(jnp.asarray(SAMPLES[:2]), jnp.asarray(2.0))
    for i in range(2):
        single = jax.grad(loss, argnums=(0, 1))(jnp.asarray(SAMPLES[i]), jnp.asarray(2.0))
        close(jax.tree.map(lambda x, i=i: x[i], found), single, 1e-8)


def test_solutions_leave_transformations_whole():
    def solve(y0):
        options = {"method": "bosh3", "rtol": 1e-3, "atol": 1e-3, "max_steps": 64, "record": True}
        return nde.solve(spring, SPAN, y0, parameters(), **options)

    direct = solve(jnp.asarray(Y0))
    compiled = jax.jit(solve)(jnp.asarray(Y0))
    assert isinstance(compiled, type(direct))
    assert int(compiled.stats.nfev) == direct.stats.nfev
    assert int(compiled.status) == direct.status
    close(compiled.ys, direct.ys, 1e-12)
    mapped = jax.vmap(solve)(jnp.asarray(SAMPLES))
    assert mapped.stats.naccept.shape == (len(SAMPLES),)
    assert mapped.steps.h.shape[0] == len(SAMPLES)


def total(y, adjoint="discrete"):
    return jnp.sum(nde.solve(lambda t, y, args: -y * y, (0.0, 1.0), y, adjoint=adjoint).ys)


REVERSED_TWICE = {
    "grad of grad": lambda y: jax.grad(lambda y: jnp.sum(jax.grad(total)(y)))(y),
    "within jit": jax.jit(lambda y: jax.grad(lambda y: jnp.sum(jax.grad(total)(y)))(y)),
    "under vmap": jax.vmap(lambda y: jax.grad(lambda y: jnp.sum(jax.grad(total)(y)))(y[None])),
    "backsolve": lambda y: jax.grad(lambda y: jnp.sum(jax.grad(total)(y, "backsolve")))(y),
    "by a weight": lambda y: jax.grad(lambda c: jax.grad(lambda y: c * total(y))(y)[0])(1.0),
    "hessian": jax.hessian(total),
}


@pytest.mark.parametrize("name", REVERSED_TWICE)
def test_second_derivatives_are_refused(name):
    with pytest.raises(ValueError, match=r"expected first derivatives .*, received .*; try "):
        REVERSED_TWICE[name](jnp.ones(2))


@pytest.mark.parametrize("function", [jax.jacfwd(total), lambda y: jax.jvp(total, (y,), (y,))])
def test_forward_mode_is_refused(function):
    with pytest.raises(TypeError, match=r"in reverse mode, received .* forward .*; try jax\.grad"):
        function(jnp.ones(2))


def test_errors_of_a_field_under_grad_come_through():
    """They are none of the derivative, not even one without words in a rule of its own."""

    @jax.custom_vjp
    def square(y):
        return y * y

    def pull(kept, bar):
        assert kept is not None

    square.defvjp(lambda y: (square(y), None), pull)

    def field(t, y, args):
        return square(y)

    with pytest.raises(AssertionError):
        jax.grad(lambda y: jnp.sum(nde.solve(field, (0.0, 1.0), y).ys))(jnp.ones(2) / 4)


def test_a_failing_solve_is_raised_under_grad():
    """Outside of ``jit`` its status is known, though how far it came is traced."""
    with pytest.raises(ndereg.SolveError, match="MAX_STEPS") as caught:
        jax.grad(lambda y: jnp.sum(nde.solve(spring, SPAN, y, parameters(), max_steps=2).ys))(
            jnp.asarray(Y0)
        )
    assert caught.value.status is ndereg.Status.MAX_STEPS
