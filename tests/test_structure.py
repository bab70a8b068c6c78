"""Nested structures are taken apart and put together again."""

from typing import NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ndereg.structure import LEAF, Structure, check_leaves, flatten


class Point(NamedTuple):
    x: object
    y: object


TREES = st.recursive(
    st.one_of(st.integers(), st.none()),
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), children, max_size=3),
        st.builds(Point, children, children),
    ),
    max_leaves=12,
)


@given(TREES)
def test_round_trip(tree):
    leaves, structure = flatten(tree)
    again = structure.unflatten(leaves)
    assert again == tree
    assert type(again) is type(tree)
    assert structure.size == len(leaves) == len(structure.paths())
    assert flatten(again)[1] == structure
    assert hash(flatten(again)[1]) == hash(structure)


@given(TREES)
def test_paths_lead_to_the_leaves(tree):
    leaves, structure = flatten(tree)
    for path, leaf in zip(structure.paths("tree"), leaves, strict=True):
        assert eval(path, {"tree": tree}) == leaf


def test_order_is_by_sorted_key():
    leaves, structure = flatten({"b": 1, "a": {"d": 2, "c": (3, [4, None])}})
    assert leaves == [3, 4, 2, 1]
    assert structure == flatten({"a": {"c": (0, [0, None]), "d": 0}, "b": 0})[1]
    assert structure.paths("y") == ("y['a']['c'][0]", "y['a']['c'][1][0]", "y['a']['d']", "y['b']")


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (1, "*"),
        (None, "None"),
        ((1,), "(*,)"),
        ((1, None), "(*, None)"),
        ([1, [2]], "[*, [*]]"),
        ({"k": 1, "a": ()}, "{'a': (), 'k': *}"),
        (Point(1, (2,)), "Point(x=*, y=(*,))"),
    ],
)
def test_text(tree, text):
    assert str(flatten(tree)[1]) == text


def test_kinds_differ():
    kinds = [flatten(tree)[1] for tree in ((1, 2), [1, 2], Point(1, 2), {0: 1, 1: 2}, (1, None))]
    assert len(set(kinds)) == len(kinds)


def test_keys_that_cannot_be_sorted():
    with pytest.raises(TypeError, match="keys of one type"):
        flatten({1: 0, "a": 0})


def test_number_of_leaves():
    with pytest.raises(ValueError, match="expected 2 leaves"):
        flatten((1, 2))[1].unflatten([1])


def check(received, shapes=((2,), ()), dtypes=("float64", "float64")):
    check_leaves(
        "the result",
        like="the state",
        expected=Structure("tuple", (LEAF, LEAF)),
        shapes=[(2,), ()],
        dtypes=["float64", "float64"],
        received=received,
        received_shapes=shapes,
        received_dtypes=dtypes,
    )


def test_check_leaves():
    pair = flatten((0, 0))[1]
    check(pair)
    with pytest.raises(TypeError, match=r"structure of the state, \(\*, \*\), received \[\*, \*\]"):
        check(flatten([0, 0])[1])
    with pytest.raises(ValueError, match=r"at \[1\] to have shape \(\).*received shape \(1,\)"):
        check(pair, shapes=[(2,), (1,)])
    with pytest.raises(TypeError, match=r"at \[0\] to have dtype float64.*received int64"):
        check(pair, dtypes=["int64", "float64"])
