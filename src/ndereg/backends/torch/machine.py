"""Instructions and bookkeeping on PyTorch tensors."""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ndereg.backends.base import Problem
from ndereg.backends.host.floats import FloatMachine
from ndereg.backends.host.noise import Driven
from ndereg.backends.torch.compiled import CompiledField
from ndereg.backends.torch.field import TorchField
from ndereg.backends.torch.mixing import Mixing


class HostScalars(FloatMachine):
    """The control programs of a joint solve, on Python numbers."""

    style = "numbers"
    joint = True
    narrow = False
    is_complex = False
    compiles = False


_HOST_SCALARS = HostScalars()


class TorchMachine(Mixing, Driven):
    """A machine on tensors of one device.

    The state has the shape of the problem's ``y0``: ``(B, n)``, or with one joint sample any shape.

    Joint: control scalars are Python numbers, and what a step measures is a tensor of shape ``()``
    that is read once. Independent: control scalars are float64 tensors ``(B, 1)``, and constants
    of the solve Python numbers. Every tensor is made on the state's device, without a copy from
    the host that would wait for it.
    """

    def __init__(self, problem: Problem, field: TorchField) -> None:
        self.problem = problem
        self.layout = problem.layout
        self.joint = problem.layout.batch is None
        self.device: torch.device = problem.y0.device
        self.dtype: torch.dtype = problem.y0.dtype
        self.real: torch.dtype = getattr(torch, problem.layout.real_dtype)
        self.is_complex: bool = self.dtype.is_complex
        self.narrow = self.real != torch.float64
        self.style = f"{'joint' if self.joint else 'independent'} {self.dtype}"
        self.control: Any = _HOST_SCALARS if self.joint else self
        self.field = field
        self.compiles = isinstance(field, CompiledField)
        self.args_bar: list[Any] = [None] * len(field.wrt)
        self._summed = [False] * len(field.wrt)
        self._lifted: dict[float, torch.Tensor] = {}
        self.evaluate = field.evaluate
        self.linearize = field.linearize

    def pullback(
        self, linearization: Any, cotangent: torch.Tensor, field: str = "drift"
    ) -> torch.Tensor:
        """Cotangent of y; those of what the field is differentiated by are accumulated."""
        return self.pull_back((linearization, cotangent))[0]

    def pull_back(self, *pairs: tuple[Any, torch.Tensor]) -> Sequence[torch.Tensor]:
        """The same of several linearizations at once, each with its cotangent."""
        y_bars, bars = self.field.pull_back(pairs)
        self.add_cotangents(bars)
        return y_bars

    def add_cotangents(self, bars: Sequence[torch.Tensor | None]) -> None:
        """Accumulate cotangents of what the field is differentiated by; None is zero."""
        totals, owned, more = self.args_bar, [], []
        for index, bar in enumerate(bars):
            if bar is None:
                continue
            if totals[index] is None:
                totals[index] = bar
            elif self._summed[index]:
                owned.append(totals[index])
                more.append(bar)
            else:  # the first one may share memory with a cotangent
                totals[index] = totals[index] + bar
                self._summed[index] = True
        if owned:
            torch._foreach_add_(owned, more)

    def number(self, value: Any) -> torch.Tensor:
        """Return a control scalar as a tensor."""
        return value if isinstance(value, torch.Tensor) else self._full((), value)

    def lift(self, value: Any) -> torch.Tensor:
        """Return a Python number as a tensor beside the state."""
        if isinstance(value, torch.Tensor):
            return value
        found = self._lifted.get(value)
        if found is None:
            found = self._lifted[value] = self._full((), value)
        return found

    def _full(self, shape: tuple[int, ...], value: float | bool, dtype: Any = None) -> torch.Tensor:
        if dtype is None:
            dtype = torch.bool if isinstance(value, bool) else torch.float64
        return torch.full(shape, value, dtype=dtype, device=self.device)

    def share_of_ones(self, mask: torch.Tensor) -> torch.Tensor:
        """Mean of zeros and ones, which is 1 only where all of them are."""
        # float32 counts exactly to here
        wide = torch.float64 if self.narrow and self.layout.entries > 2**24 else None
        return mask.mean(dtype=wide) if self.joint else mask.mean(-1, True, dtype=wide)

    def share_of_finite(self, values: torch.Tensor) -> float:
        """Share of the entries that are finite, for a joint state: 1 only where all of them are."""
        # one pass without a mask; finite numbers whose sum overflows are counted
        if cmath.isfinite(values.sum().item()):
            return 1.0
        return float(self.share_of_ones(values.abs().lt_(math.inf)).item())

    # Control scalars

    def scalar(self, value: float | bool) -> Any:
        """Return a control scalar, the same for all samples."""
        return value if self.joint else self._full((self.layout.samples, 1), value)

    def constant(self, value: float) -> Any:
        """Return a control scalar that stays as it is."""
        return value

    def draws(self, values: Any) -> Any:
        """Return numbers ``(B,)``, in NumPy, as control scalars."""
        if self.joint:
            return float(values[0])
        return torch.as_tensor(values, dtype=torch.float64).to(self.device).reshape(-1, 1)

    def read(self, value: Any) -> Any:
        """Return a scalar that a vector program computed as a control scalar."""
        return value.item() if self.joint and isinstance(value, torch.Tensor) else value

    def select(self, flag: Any, yes: Any, no: Any) -> Any:
        """``yes`` where the flag holds, else ``no``."""
        if isinstance(flag, bool):
            return yes if flag else no
        return torch.where(flag, self.lift(yes), self.lift(no))

    def stand_in(self, running: Any, y: Any) -> Any:
        """Samples that cannot begin take the state of the first that can."""
        return torch.where(running, y, y[torch.argmax(running[:, 0].int())])

    def summary(self, flags: Sequence[Any], counts: Sequence[Any]) -> tuple[list[bool], list[int]]:
        """Whether any sample has each flag, and the largest of each count."""
        if self.joint:
            return list(flags), list(counts)
        found = [flag.any() for flag in flags] + [count.amax() for count in counts]
        read = torch.stack([value.to(torch.int64) for value in found]).cpu().tolist()
        return [bool(value) for value in read[: len(flags)]], read[len(flags) :]

    def scalars_of(self, values: Any) -> Any:
        """Return an array ``(B,)`` as a scalar that programs read; None is zero."""
        shape = () if self.joint else (self.layout.samples, 1)
        if values is None:
            return self._full(shape, 0.0)
        return values.to(torch.float64).reshape(shape)

    # Results

    def zeros(self) -> torch.Tensor:
        """Return a zero state ``(B, n)``."""
        return torch.zeros_like(self.problem.y0)

    def blank(self, times: int) -> torch.Tensor:
        """Room for ``times`` states, filled with nan."""
        state = self.problem.y0.shape
        lead = (1, times, *state) if self.joint else (state[0], times, state[1])
        return self._full(lead, math.nan, self.dtype)

    def column(self, values: Sequence[Any]) -> torch.Tensor:
        """Control scalars, one a row, as an array ``(rows, B)``."""
        shape = (len(values), self.layout.samples)
        if any(isinstance(value, torch.Tensor) for value in values):
            rows = [self.lift(value).expand(self.scalar_shape) for value in values]
            return torch.stack([row.to(torch.promote_types(row.dtype, torch.float64))
                                if row.dtype.is_floating_point else row for row in rows]
                               ).reshape(shape)  # fmt: skip
        flags = bool(values) and isinstance(values[0], bool)
        dtype = torch.bool if flags else torch.float64
        return torch.tensor(values, dtype=dtype).reshape(shape).to(self.device)

    @property
    def scalar_shape(self) -> tuple[int, ...]:
        """Shape of a scalar that a program computes."""
        return () if self.joint else (self.layout.samples, 1)

    def counter(self, value: Any) -> Any:
        """Return a control scalar as integers ``(B,)``; on the host where it is a Python number."""
        if isinstance(value, torch.Tensor):
            return value.to(torch.int64).reshape(self.layout.samples)
        return np.full(self.layout.samples, int(value), dtype=np.int64)

    def vector(self, value: torch.Tensor) -> torch.Tensor:
        """Return a scalar as ``(B,)`` in the real dtype of the state."""
        return value.to(self.real).reshape(self.layout.samples)

    # Output times of samples that have steps of their own

    def sample_times(self, t_eval: Any) -> torch.Tensor:
        """Output times, one row a sample."""
        times = torch.as_tensor(t_eval, dtype=torch.float64).to(self.device)
        return times.expand(self.layout.samples, times.shape[-1]).contiguous()

    def positions(self) -> torch.Tensor:
        """Position 0 for every sample."""
        return self._full((self.layout.samples, 1), 0, torch.int64)

    def count(self, flags: torch.Tensor) -> torch.Tensor:
        """Count the set flags of each sample."""
        return flags.sum(-1, keepdim=True)

    def next_time(self, times: torch.Tensor, positions: torch.Tensor) -> tuple[Any, Any, Any]:
        """Position, time and existence of the next output of each sample."""
        index = positions.clamp(max=times.shape[-1] - 1)
        return index, times.gather(-1, index), positions < times.shape[-1]

    def advance_positions(self, positions: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Step past an answered output."""
        return positions + present

    def put(
        self, ys: torch.Tensor, index: torch.Tensor, present: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Write a state at each sample's position where present."""
        at = index.unsqueeze(-1).expand(-1, 1, ys.shape[-1])
        kept = torch.where(present.unsqueeze(-1), value.unsqueeze(1), ys.gather(1, at))
        return ys.scatter_(1, at, kept)

    def take(self, ys_bar: torch.Tensor, index: torch.Tensor, present: torch.Tensor) -> Any:
        """Cotangent at each sample's position, 0 where not present."""
        at = index.unsqueeze(-1).expand(-1, 1, ys_bar.shape[-1])
        return ys_bar.gather(1, at).squeeze(1).masked_fill(~present, 0)
