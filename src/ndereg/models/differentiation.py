"""Gradients on NumPy for what stands around a solve: encoders, heads and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ndereg.structure import flatten
from ndereg.trace import evaluate, linearize
from ndereg.trace.builder import Builder
from ndereg.trace.value import building, lift, wrap

MOST_TRACES = 64
"""Shapes that one function is remembered for."""

Pullback = Callable[[np.ndarray], Any]


class Differentiated:
    """A function of nested arrays with its vector-Jacobian product, evaluated in NumPy.

    It is traced once for each choice of shapes and dtypes; like a field, it computes with
    :mod:`ndereg.ops`, operators and indexing.

    Parameters
    ----------
    function : callable
        ``function(*arguments) -> array``.

    Examples
    --------
    >>> square = Differentiated(lambda x, scale: scale["a"] * x * x)
    >>> value, pullback = square(np.array([1.0, 2.0]), {"a": np.array(3.0)})
    >>> value, pullback(np.ones(2))
    (array([ 3., 12.]), (array([ 6., 12.]), {'a': array(5.)}))
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._traces: dict[Any, Any] = {}

    def __call__(self, *arguments: Any) -> tuple[np.ndarray, Pullback]:
        """Return the value and the pullback, which returns a cotangent an argument."""
        leaves, structure = flatten(arguments)
        leaves = [np.asarray(leaf) for leaf in leaves]
        key = (structure, tuple((leaf.shape, leaf.dtype.name) for leaf in leaves))
        found = self._traces.get(key)
        if found is None:
            if len(self._traces) >= MOST_TRACES:
                self._traces.pop(next(iter(self._traces)))
            found = self._traces[key] = self._traced(leaves, structure)
        forward, backward = found
        value, *residuals = evaluate(forward, leaves)

        def pullback(bar: np.ndarray) -> Any:
            bar = np.asarray(bar, value.dtype).reshape(value.shape)
            bars = evaluate(backward, [*leaves, *residuals, bar])
            return structure.unflatten([np.asarray(found) for found in bars])

        return value, pullback

    def _traced(self, leaves: list[np.ndarray], structure: Any) -> Any:
        builder = Builder()
        with building(builder):
            names = structure.paths("x")
            inputs = [
                wrap(builder.input(name, leaf.shape, leaf.dtype.name))
                for name, leaf in zip(names, leaves, strict=True)
            ]
            result = self.function(*structure.unflatten(inputs))
            graph = builder.build([lift(result)])
        linear = linearize(graph, range(len(leaves)))
        return linear.forward, linear.pullback
