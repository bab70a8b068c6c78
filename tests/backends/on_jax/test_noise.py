"""The noise of a step, where it is many numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ndereg
import ndereg.jax as nde
from ndereg.backends.registry import load_backend
from ndereg.solve import Face

SHIFTS = 42
"""Of two encryptions, those of a step's number and of an entry's."""
OPTIONS = {"method": "reversible_heun", "controller": ndereg.ConstantStep(0.25), "key": 3}


def equation():
    return nde.SDE(lambda t, y, a: a * y, lambda t, y, a: 0.5 * y, calculus="stratonovich")


def test_numbers_of_a_step_are_made_once():
    """However many operations read them: by two loops, over the two halves of the entries."""

    def solve(y0):
        return nde.solve(equation(), (0.0, 1.0), y0, jnp.ones(()), **OPTIONS).ys

    text = jax.jit(solve).lower(jnp.ones((130, 1))).compile().as_text()
    made = [part.count(" shift-right-logical(") for part in re.split(r"\n(?=\S)", text)]
    assert sorted(count for count in made if count >= SHIFTS // 2) == [SHIFTS, SHIFTS]


@pytest.mark.parametrize(("shape", "batch"), [((129, 1), "independent"), ((19, 7), "independent")])
def test_halves_of_the_entries_have_their_own_numbers(shape, batch):
    y0, args = np.linspace(0.5, 1.5, shape[0] * shape[1]).reshape(shape), np.asarray(-0.3)
    options = OPTIONS | {"batch": batch}
    sol = nde.solve(equation(), (0.0, 1.0), jnp.asarray(y0), jnp.asarray(args), **options)
    reference = Face(load_backend("reference"))
    expected = reference.solve(equation(), (0.0, 1.0), y0, args, **options)
    np.testing.assert_allclose(sol.ys, expected.ys, rtol=1e-12)


def test_so_do_halves_of_the_lanes():
    """Under ``vmap`` every lane has a key of its own, and one entry."""
    keys, y0 = jax.random.split(jax.random.key(1), 130), jnp.ones((1,))

    def solve(key):
        return nde.solve(equation(), (0.0, 1.0), y0, jnp.ones(()), **OPTIONS | {"key": key}).ys

    each = jax.vmap(solve)(keys)
    np.testing.assert_allclose(each[:3], jnp.stack([solve(key) for key in keys[:3]]), rtol=1e-12)
    np.testing.assert_allclose(each[-1], solve(keys[-1]), rtol=1e-12)
