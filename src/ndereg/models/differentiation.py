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


class DifferentiatedScan:
    """``ops.scan`` of a step with parameters, with its vector-Jacobian product, in NumPy.

    The step is traced once, and its pullback runs backwards over what each step saw: work and
    memory grow with the length only, where one trace of all steps would also add up a cotangent of
    the whole sequence for every one.

    Parameters
    ----------
    step : callable
        ``step(carry, x, params) -> carry``, as for :class:`Differentiated`.
    reverse : bool
        From the last entry to the first.
    every : bool
        Return the carries after all entries, stacked.

    Examples
    --------
    >>> scan = DifferentiatedScan(lambda carry, x, scale: scale * carry + x)
    >>> value, pullback = scan(np.array(0.0), np.array([1.0, 2.0]), np.array(3.0))
    >>> carry_bar, xs_bar, scale_bar = pullback(np.array(1.0))
    >>> value, carry_bar, xs_bar, scale_bar
    (array(5.), array(9.), array([3., 1.]), array(1.))
    """

    def __init__(
        self, step: Callable[..., Any], *, reverse: bool = False, every: bool = False
    ) -> None:
        self.step = Differentiated(step)
        self.reverse, self.every = reverse, every

    def __call__(self, carry: Any, xs: np.ndarray, params: Any) -> tuple[np.ndarray, Pullback]:
        """Return the carry, or all, and the pullback, which returns a cotangent an argument."""
        order = range(len(xs))
        taken: list[tuple[int, Pullback]] = []
        carries: list[Any] = [None] * len(xs)
        for i in reversed(order) if self.reverse else order:
            carry, pullback = self.step(carry, xs[i], params)
            carries[i] = carry
            taken.append((i, pullback))

        def pullback_of_all(bar: np.ndarray) -> Any:
            xs_bar = np.zeros_like(xs)
            leaves, structure = flatten(params)
            sums = [np.zeros_like(leaf) for leaf in leaves]
            bars, bar = (bar, np.zeros_like(bar[0])) if self.every else (None, bar)
            for i, pullback in reversed(taken):
                bar, xs_bar[i], params_bar = pullback(bar if bars is None else bar + bars[i])
                for total, part in zip(sums, flatten(params_bar)[0], strict=True):
                    total += part
            return bar, xs_bar, structure.unflatten(sums)

        return np.stack(carries) if self.every else carry, pullback_of_all
