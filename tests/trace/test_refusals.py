"""What cannot be traced is refused with the operation, the user's line, and what to try."""

import math

import numpy as np
import pytest
import torch
from array_api_compat import array_namespace

from ndereg import ops
from ndereg.trace import TraceError

Y = np.ones(3)


def branch(t, y, args):
    if y[0] > 0:  # MARK
        return y
    return -y


def conditional(t, y, args):
    return y if t < 1 else -y  # MARK


def loop(t, y, args):
    while (abs(y) > 1).any():  # MARK
        y = y / 2
    return y


def builtin_max(t, y, args):
    return y * max(y[0], y[1])  # MARK


def logical(t, y, args):
    return y * (y[0] > 0 and y[1] > 0)  # MARK


def to_float(t, y, args):
    return y * float(y[0])  # MARK


def to_integer(t, y, args):
    return y * int(t)  # MARK


def math_function(t, y, args):
    return y * math.sin(t)  # MARK


def as_index(t, y, args):
    return y * [1.0, 2.0][ops.where(y[0] > 0, 0, 1)]  # MARK


def computed_index(t, y, args):
    return y[ops.where(y > 0, 0, 1)]  # MARK


def computed_mask(t, y, args):
    return y[y > 0]  # MARK


def item(t, y, args):
    return y * y[0].item()  # MARK


def assignment(t, y, args):
    y[0] = 0.0  # MARK
    return y


def filled(t, y, args):
    out = np.zeros(3)
    out[0] = y[1]  # MARK
    return out


def augmented_item(t, y, args):
    y[0] += 1.0  # MARK
    return y


def in_place_on_the_state(t, y, args):
    y *= 2.0  # MARK
    return y


def in_place_on_a_view(t, y, args):
    dy = -y
    tail = dy[1:]
    tail += 1.0  # MARK
    return dy


def numpy_in_place(t, y, args):
    out = np.ones(3)
    out += y  # MARK
    return out


def output_argument(t, y, args):
    return np.add(y, 1.0, out=np.empty(3))  # MARK


def array_of_entries(t, y, args):
    return np.array([y[1], -y[0], y[2]])  # MARK


def numpy_asarray(t, y, args):
    return np.asarray(y) * 2  # MARK


def unsupported_numpy(t, y, args):
    return np.linalg.solve(np.eye(3), y)  # MARK


def unsupported_ufunc(t, y, args):
    return np.nextafter(y, 1.0)  # MARK


def unsupported_argument(t, y, args):
    return np.sum(y, where=[True, False, True]) * y  # MARK


def unsupported_namespace(t, y, args):
    return array_namespace(y).sort_by_magic(y)  # MARK


def unsupported_method(t, y, args):
    return y.byteswap()  # MARK


def sorting(t, y, args):
    return np.sort(y)  # MARK


def positions(t, y, args):
    return y[np.argmax(y)]  # MARK


def where_without_choices(t, y, args):
    return np.where(y > 0)[0]  # MARK


def strings(t, y, args):
    return y + "one"  # MARK


def foreign_object(t, y, args):
    return y + object()  # MARK


def other_framework(t, y, args):
    return y * torch.ones(3)  # MARK


def complex_to_real(t, y, args):
    return (1j * y).astype(float)  # MARK


def complex_order(t, y, args):
    return ops.maximum(1j * y, y)  # MARK


def half_precision(t, y, args):
    return y.astype(np.float16)  # MARK


REFUSED = {
    branch: ("branch", "where"),
    conditional: ("branch", "where"),
    loop: ("branch", "where"),
    builtin_max: ("branch", "maximum"),
    logical: ("branch", "logical_and"),
    to_float: ("float()", "xp.sin"),
    to_integer: ("int()", "xp.sin"),
    math_function: ("float()", "not math.sin"),
    as_index: ("index", "where"),
    computed_index: ("indexing", "constant"),
    computed_mask: ("indexing", "where"),
    item: ("item()", "xp.sin"),
    assignment: ("x[...] = ...", "stack"),
    filled: ("float()", "stack"),
    augmented_item: ("x[...] = ...", "stack"),
    in_place_on_the_state: ("x *= ...", "x = x * ..."),
    in_place_on_a_view: ("x += ...", "x = x + ..."),
    numpy_in_place: ("add(..., out=...)", "a = a + b"),
    output_argument: ("add(..., out=...)", "out="),
    array_of_entries: ("conversion", "stack([...])"),
    numpy_asarray: ("conversion", "numpy.asarray(x)"),
    unsupported_numpy: ("numpy.linalg.solve", "arithmetic"),
    unsupported_ufunc: ("numpy.nextafter", "arithmetic"),
    unsupported_argument: ("numpy.sum with these arguments", "where"),
    unsupported_namespace: ("xp.sort_by_magic", "arithmetic"),
    unsupported_method: (".byteswap", "array API"),
    sorting: ("sort", "where"),
    positions: ("argmax", "max"),
    where_without_choices: ("where(condition)", "where(condition, x, y)"),
    strings: ("builtins.str", "args"),
    foreign_object: ("builtins.object", "args"),
    other_framework: ("torch.Tensor", "args"),
    complex_to_real: ("complex128 to float64", "real(x)"),
    complex_order: ("maximum of a complex array", "real"),
    half_precision: ("float16", "cast"),
}


@pytest.mark.parametrize("field", REFUSED, ids=lambda field: field.__name__)
def test_refused(tracing, field):
    operation, advice = REFUSED[field]
    with pytest.raises(TraceError) as caught:
        tracing.trace_field(field, Y)
    message = str(caught.value)
    assert message.startswith("cannot trace ")
    assert operation in message
    assert advice in message.partition("; try ")[2]
    assert f"{__file__}:{marked_line(field)}: " in message
    assert "# MARK" in message


def marked_line(field):
    with open(__file__, encoding="utf-8") as source:
        lines = source.readlines()
    first = field.__code__.co_firstlineno
    return next(n for n in range(first, first + 9) if "# MARK" in lines[n - 1])


def test_is_a_type_error():
    assert issubclass(TraceError, TypeError)


def test_missing_functions_can_be_asked_for(tracing):
    def field(t, y, args):
        xp = array_namespace(y)
        assert hasattr(xp, "sin")
        assert not hasattr(xp, "fft")
        assert not hasattr(xp.linalg, "inv")
        assert not hasattr(y, "detach")
        assert not hasattr(y, "__cuda_array_interface__")
        return xp.sin(y)

    tracing.trace_field(field, Y)


def test_constants_may_be_branched_on(tracing):
    """Only what depends on t, y or args is unknown."""

    def field(t, y, args):
        xp = array_namespace(y)
        half = xp.asarray(0.5)
        if half > 0 and float(half) < 1 and bool(xp.all(xp.ones(3) > 0)):
            return y * xp.asarray([1.0, 2.0, 3.0])[int(xp.asarray(2))]
        raise AssertionError

    graph = tracing.trace_field(field, Y)
    assert [node.op for node in graph.nodes] == ["input", "input", "constant", "broadcast", "mul"]


def test_arrays_do_not_outlive_their_trace(tracing):
    kept = []

    def keep(t, y, args):
        kept.append(y)
        return y

    tracing.trace_field(keep, Y)
    with pytest.raises(TraceError, match="after its trace has ended"):
        kept[0] + 1
    with pytest.raises(TraceError, match="of another trace"):
        tracing.trace_field(lambda t, y, args: y + kept[0], Y)


def test_own_exceptions_pass_with_a_note(tracing):
    def field(t, y, args):
        raise KeyError("rate")

    with pytest.raises(KeyError, match="rate") as caught:
        tracing.trace_field(field, Y)
    assert any("being traced" in note for note in caught.value.__notes__)


SHAPES = {
    "add: shapes (3,) and (4,) do not fit together": lambda t, y, a: y + np.ones(4),
    "maximum: shapes (3,) and (2,) do": lambda t, y, a: np.maximum(y, np.ones(2)),
    "pow: shapes (3,) and (2,) do": lambda t, y, a: y ** np.array([1.0, 2.0]),
    "where: shapes (3,) and (3,) and (2,) do": lambda t, y, a: ops.where(y > 0, y, np.ones(2)),
    "matmul: shapes (3,) and (4,) do": lambda t, y, a: y @ np.ones(4),
    "matrices: shapes (3,) and (2,) do": lambda t, y, a: (y[:, None, None] @ np.ones((2, 1, 1)))[0],
    "concatenate shapes [(3,), (1, 1)]": lambda t, y, a: np.concatenate([y, np.ones((1, 1))]),
    "reshape an array of shape (3,) into (2, 2)": lambda t, y, a: y.reshape(2, 2),
    "broadcast_to: shapes (3,) and (2, 4)": lambda t, y, a: np.broadcast_to(y, (2, 4)),
    "received [(2,), (3,)]": lambda t, y, a: np.stack([y, y[:2]]),
    "index 3 is out of bounds": lambda t, y, a: y[3],
}


@pytest.mark.parametrize("words", SHAPES)
def test_shape_errors_are_like_numpys_and_name_the_line(tracing, words):
    field = SHAPES[words]
    with pytest.raises((ValueError, IndexError)) as caught:
        tracing.trace_field(field, Y)
    message, _, place = str(caught.value).partition("\n  at ")
    assert words in message
    assert place.startswith(f"{__file__}:{field.__code__.co_firstlineno}: ")


def test_the_line_of_an_axis_error_is_noted(tracing):
    """NumPy makes the message of this one itself."""
    with pytest.raises(np.exceptions.AxisError) as caught:
        tracing.trace_field(lambda t, y, a: np.sum(y, axis=1), Y)  # its line
    assert any(n.startswith(f"at {__file__}") and "# its line" in n for n in caught.value.__notes__)


def test_errors_of_the_field_itself_need_no_line(tracing):
    def field(t, y, args):
        raise ValueError("mine")

    with pytest.raises(ValueError) as caught:
        tracing.trace_field(field, Y)
    assert str(caught.value) == "mine"
