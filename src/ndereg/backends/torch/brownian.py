"""Brownian paths on PyTorch tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ndereg.backends.brownian import (
    Entries,
    Increments,
    Interval,
    Path,
    host_interval,
)
from ndereg.backends.reference.brownian import NumpyPathArrays
from ndereg.backends.torch.operations import safe_divide
from ndereg.plan.brownian import Areas, Grid


def _where(condition: torch.Tensor, yes: Any, no: Any) -> torch.Tensor:
    if not isinstance(yes, torch.Tensor) and not isinstance(no, torch.Tensor):
        yes = torch.full((), yes, dtype=torch.float64, device=condition.device)
    return torch.where(condition, yes, no)


def _larger(a: torch.Tensor, b: Any) -> torch.Tensor:
    return torch.maximum(a, b) if isinstance(b, torch.Tensor) else a.clamp(min=b)


def _smaller(a: torch.Tensor, b: Any) -> torch.Tensor:
    return torch.minimum(a, b) if isinstance(b, torch.Tensor) else a.clamp(max=b)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "safe_div": safe_divide,
    "neg": operator.neg,
    "abs": torch.abs,
    "square": torch.square,
    "max": _larger,
    "min": _smaller,
    "sqrt": torch.sqrt,
    "log": torch.log,
    "floor": torch.floor,
    "where": _where,
    "lt": operator.lt,
    "le": operator.le,
    "eq": operator.eq,
    "and": operator.and_,
    "or": operator.or_,
    "not": operator.invert,
}


@dataclass(frozen=True)
class TorchPathArrays:
    """Paths in float64 on a device; words are int32, whose sums wrap as those of uint32 do."""

    device: torch.device
    operations = OPERATIONS

    @property
    def block(self) -> int | None:
        """What a cache of a CPU holds; a GPU has the memory, and starts kernels slowly."""
        return 1 << 16 if self.device.type == "cpu" else 1 << 24

    def numbers(self, values: Any) -> torch.Tensor:
        """float64."""
        return torch.as_tensor(np.asarray(values, np.float64), device=self.device)

    def words(self, values: Any) -> torch.Tensor:
        """int32 of the same bits."""
        if isinstance(values, torch.Tensor):
            return values.to(torch.int64).to(torch.int32)
        bits = np.ascontiguousarray(values, np.uint32).view(np.int32)
        return torch.as_tensor(bits, device=self.device)

    def real(self, words: torch.Tensor) -> torch.Tensor:
        """float64."""
        return words.to(torch.float64)

    def lift(self, values: Any) -> torch.Tensor:
        """NumPy numbers or uint32 words."""
        return self.words(values) if values.dtype == np.uint32 else self.numbers(values)

    def concatenate(self, arrays: list[torch.Tensor], axis: int = 0) -> torch.Tensor:
        """Along an axis."""
        return torch.cat(arrays, axis)

    def contract(self, weights: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        """One matrix product where the weights are the same for all samples."""
        if weights.shape[-2] > 1:
            return (weights * normals).sum((1, 2))
        flat = normals.reshape(normals.shape[0] * normals.shape[1], -1)
        totals = weights.reshape(weights.shape[0], -1) @ flat
        return totals.reshape(weights.shape[0], *normals.shape[2:])


class TorchBrownian:
    """A path on a device; see :class:`ndereg.backends.brownian.BrownianSource`.

    On a CPU the compiled path of the Numba backend fills the tensors: several hundred operations on
    small tensors take some hundred times as long.
    """

    def __init__(
        self, areas: Areas, words: tuple[int, int], grid: Grid, dtype: str, device: torch.device
    ) -> None:
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.device = device
        self.tensors = TensorPath(areas, words, grid, device) if device.type != "cpu" else None
        if self.tensors is None:
            from ndereg.backends.numba.brownian import NumbaBrownian

            self._compiled = NumbaBrownian(areas, words, grid, "float64")

    def increment(self, s: Any, t: Any, entries: Entries) -> Increments:
        """See :class:`ndereg.backends.brownian.BrownianSource`."""
        if self.tensors is None:
            return self._cast(self._compiled.increment(_plain(s), _plain(t), entries))
        with torch.no_grad():
            return self._cast(self.tensors.increment(s, t, entries))

    def direct(self, step: Any, h: Any, entries: Entries) -> Increments:
        """See :class:`ndereg.backends.brownian.BrownianSource`."""
        if self.tensors is None:
            return self._cast(self._compiled.direct(_plain(step), _plain(h), entries))
        with torch.no_grad():
            return self._cast(self.tensors.direct(step, h, entries))

    def _cast(self, increments: Increments) -> Increments:
        w, h, k = increments
        return self._tensor(w), self._tensor(h), self._tensor(k)

    def _tensor(self, part: Any) -> Any:
        if part is None:
            return None
        found = torch.from_numpy(part) if isinstance(part, np.ndarray) else part
        return found if found.dtype is self.dtype else found.to(self.dtype)


def _plain(value: Any) -> Any:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value


class TensorPath:
    """A path in float64 tensors; times that are numbers are weighed in NumPy."""

    def __init__(
        self, areas: Areas, words: tuple[int, int], grid: Grid, device: torch.device
    ) -> None:
        arrays = TorchPathArrays(device)
        first, second = (arrays.words(np.array(word, np.uint32)) for word in words)
        key, depth = (first, second), grid.depth
        self.grid = grid
        self._on_host = Path(areas, key, depth, arrays, NumpyPathArrays(), arrays.lift)
        self._on_device = Path(areas, key, depth, arrays, arrays)
        self._components: dict[Entries, Any] = {}

    def increment(self, s: Any, t: Any, entries: Entries) -> Increments:
        """W, H, K over an interval."""
        components = self._numbered(entries)
        grid = self.grid
        if not isinstance(s, torch.Tensor) and not isinstance(t, torch.Tensor):
            return self._on_host.increment(host_interval(grid, s, t), components)
        device = components.device
        start, end = (
            (torch.as_tensor(time, dtype=torch.float64, device=device).reshape(-1, 1) - grid.origin)
            * grid.direction
            for time in (s, t)
        )
        nothing = torch.zeros_like(start[:1])
        scale = 1.0 / grid.size
        interval = Interval((start, nothing), (end, nothing), grid.length, grid.slack, scale)
        return self._on_device.increment(interval, components)

    def direct(self, step: Any, h: Any, entries: Entries) -> Increments:
        """W, H, K of a step of a fixed mesh."""
        components = self._numbered(entries)
        device = components.device
        length = torch.as_tensor(h, dtype=torch.float64, device=device).abs().reshape(-1, 1)
        number = torch.as_tensor(step, device=device).reshape(-1, 1)
        words = self._on_device.arrays.words(number)
        return self._on_device.direct(words, length, components)

    def _numbered(self, entries: Entries) -> torch.Tensor:
        found = self._components.get(entries)
        if found is None:
            found = self._components[entries] = self._on_device.components(entries)
        return found
