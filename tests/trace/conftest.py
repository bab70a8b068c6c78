"""Tracing plain functions and fields, for the tests of this folder."""

import numpy as np
import pytest

from ndereg.structure import flatten
from ndereg.trace import evaluate, trace
from ndereg.trace.builder import Builder
from ndereg.trace.value import building, lift, wrap


def graph_of(function, *arrays):
    """Trace a function of arrays, whatever it returns."""
    builder = Builder()
    with building(builder):
        nodes = [builder.input(f"x{i}", a.shape, a.dtype.name) for i, a in enumerate(arrays)]
        result = function(*map(wrap, nodes))
        outputs = result if isinstance(result, (tuple, list)) else [result]
        return builder.build([lift(out) for out in outputs])


def run(function, *arrays):
    """Trace a function and evaluate the graph."""
    return evaluate(graph_of(function, *arrays), arrays)


def trace_field(field, y, args=None, batch=None):
    """Trace a field on example arrays."""
    leaves, structure = flatten(y)
    arguments, args_structure = flatten(args)
    return trace(
        field,
        state_structure=structure,
        state_shapes=[x.shape for x in leaves],
        state_dtypes=[x.dtype.name for x in leaves],
        dtype=np.result_type(*leaves).name,
        args_structure=args_structure,
        args_shapes=[x.shape for x in arguments],
        args_dtypes=[x.dtype.name for x in arguments],
        batch=batch,
    )


def flat_state(y, batch=None):
    """Concatenate the leaves of a state as the backends do."""
    leaves, _ = flatten(y)
    lead = () if batch is None else (batch,)
    return np.concatenate([x.reshape(*lead, -1) for x in leaves], axis=-1)


@pytest.fixture(scope="session")
def tracing():
    """The functions of this module, for tests that are imported on their own."""

    class Tracing:
        pass

    for function in (graph_of, run, trace_field, flat_state):
        setattr(Tracing, function.__name__, staticmethod(function))
    return Tracing
