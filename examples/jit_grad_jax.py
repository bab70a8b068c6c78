"""Learn a linear field in JAX: `nde.solve` inside `jit(value_and_grad)`, batched by `vmap`."""

import jax
import jax.numpy as jnp
import optax

import ndereg.jax as nde


def field(t, y, matrix):
    return matrix @ y


def endpoint(matrix, y0):
    sol = nde.solve(
        field, (0.0, 1.0), y0, matrix, rtol=1e-5, atol=1e-6, regularizer=nde.ErrorEstimate()
    )
    return sol.ys, sol.penalty


def loss(matrix, starts, ends):
    ys, penalties = jax.vmap(endpoint, in_axes=(None, 0))(matrix, starts)
    return jnp.mean((ys - ends) ** 2) + 1e-6 * jnp.mean(penalties)


def main():
    truth = jnp.array([[-0.1, 2.0], [-2.0, -0.1]])
    starts = jax.random.normal(jax.random.key(0), (32, 2))
    ends, _ = jax.vmap(endpoint, in_axes=(None, 0))(truth, starts)

    optimizer = optax.adam(0.05)

    @jax.jit
    def update(matrix, state):
        value, gradient = jax.value_and_grad(loss)(matrix, starts, ends)
        step, state = optimizer.update(gradient, state)
        return optax.apply_updates(matrix, step), state, value

    matrix = jnp.zeros((2, 2))
    state = optimizer.init(matrix)
    for _ in range(200):
        matrix, state, value = update(matrix, state)
    print("loss:", float(value))
    print("matrix:", matrix.round(3).tolist())
    assert jnp.allclose(matrix, truth, atol=1e-2)


if __name__ == "__main__":
    main()
