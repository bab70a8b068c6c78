"""Sums and multiples of regularizers."""

import pytest

from ndereg import ErrorEstimate, Kinetic, StiffnessEstimate


def test_they_sum_and_divide_as_numbers_do():
    parts = [2.0 * ErrorEstimate(), Kinetic() / 4, StiffnessEstimate()]
    assert sum(parts).terms() == (parts[0] + parts[1] + parts[2]).terms()
    assert [weight for weight, _ in sum(parts).terms()] == [2.0, 0.25, 1.0]


@pytest.mark.parametrize("other", [0, True, "2", None])
def test_only_numbers_but_zero_divide_them(other):
    with pytest.raises(TypeError, match="unsupported operand"):
        ErrorEstimate() / other


def test_numbers_are_not_added():
    with pytest.raises(TypeError, match="unsupported operand"):
        1 + ErrorEstimate()
