"""Named parameters and their random streams."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndereg.models.parameters import flatten, map_leaves, stream, unflatten

NAMES = st.text("abc01_", min_size=1, max_size=3)
TREES = st.dictionaries(
    NAMES, st.recursive(st.integers(), lambda c: st.dictionaries(NAMES, c, min_size=1)), min_size=1
)


@settings(max_examples=30)
@given(TREES)
def test_flattening_is_undone_by_unflattening(tree):
    assert unflatten(flatten(tree)) == tree


@pytest.mark.parametrize("name", ["a.b", "", 3])
def test_a_name_that_could_not_be_read_back_is_refused(name):
    with pytest.raises(ValueError, match="without dots"):
        flatten({name: 1})


@pytest.mark.parametrize("flat", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}])
def test_a_name_cannot_be_array_and_group(flat):
    with pytest.raises(ValueError, match="both"):
        unflatten(flat)


def test_map_leaves_keeps_the_structure():
    tree = {"a": {"b": 1}, "c": 2}
    assert map_leaves(lambda x, y: x + y, tree, tree) == {"a": {"b": 2}, "c": 4}


def test_a_seed_means_the_same_numbers_for_ever():
    expected = [0.47189202823271803, 0.5553627272479956]
    np.testing.assert_array_equal(stream(0, "field.0.weight").random(2), expected)


def test_streams_differ_by_seed_and_by_name():
    draws = {tuple(stream(s, n).random(3)) for s in (0, 1) for n in ("a", "b")}
    assert len(draws) == 4


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, "0"])
def test_a_seed_is_a_64_bit_integer(seed):
    with pytest.raises(ValueError, match="expected a seed"):
        stream(seed, "a")
