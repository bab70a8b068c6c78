"""The backends side by side: arrays converted in and out, refusals compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ndereg.backends.registry import load_backend
from ndereg.solve import Face
from ndereg.structure import flatten

BACKENDS = ("reference", "numba", "torch", "jax")
ONES = np.ones(2)
SAMPLES = np.ones((2, 3))


def untouched(t: Any, y: Any, args: Any) -> Any:
    """A field that bad input must not reach."""
    raise AssertionError("the field was called although the input is bad")


class Bench:
    """A backend with conversions, so that tests speak NumPy."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.face = Face(load_backend(name))
        self.to = {"torch": torch.as_tensor, "jax": jax.numpy.asarray}.get(name, np.asarray)

    def precision(self) -> AbstractContextManager[Any]:
        """Double precision, which JAX has to be asked for."""
        return jax.enable_x64(True) if self.name == "jax" else nullcontext()

    def put(self, tree: Any) -> Any:
        leaves, structure = flatten(tree)
        return structure.unflatten([self.to(leaf) for leaf in leaves])

    def get(self, tree: Any) -> Any:
        leaves, structure = flatten(tree)
        return structure.unflatten(
            [
                leaf.detach().numpy() if isinstance(leaf, torch.Tensor) else np.asarray(leaf)
                for leaf in leaves
            ]
        )

    def solve(self, field: Any, span: Any, y0: Any, args: Any = None, **options: Any) -> Any:
        return self.face.solve(field, span, self.put(y0), self.put(args), **options)

    def vjp(self, field: Any, span: Any, y0: Any, args: Any = None, **options: Any) -> Any:
        return self.face.solve_vjp(field, span, self.put(y0), self.put(args), **options)


class Module(eqx.Module):
    """A module of equinox, called as ``f(t, y)``."""

    weight: Any

    def __call__(self, t: Any, y: Any) -> Any:
        return jnp.tanh(self.weight * y)


_benches: dict[str, Bench] = {}


def bench_of(name: str) -> Bench:
    if name not in _benches:
        _benches[name] = Bench(name)
    return _benches[name]


@pytest.fixture(params=BACKENDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    found = bench_of(request.param)
    with found.precision():
        yield found


@pytest.fixture(params=["reference", "torch"])
def eager(request: pytest.FixtureRequest) -> Bench:
    """The backends without a compiler, for what is the same on all of them."""
    return bench_of(request.param)


def refusal(call: Callable[[], Any], kind: type[Exception] | tuple[type[Exception], ...]) -> str:
    """Return the message of a refusal, which says what was expected, received and what to try."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    for word in ("expected", "received", "try"):
        assert word in message, f"no {word!r} in: {message}"
    return message


def refused_alike(call: Callable[[Bench], Any], kind: type[Exception]) -> str:
    """Return the message, the same on every backend."""
    messages = {}
    for name in BACKENDS:
        bench = bench_of(name)
        with bench.precision():
            messages[name] = refusal(lambda bench=bench: call(bench), kind)
    assert len(set(messages.values())) == 1, messages
    return messages["reference"]
