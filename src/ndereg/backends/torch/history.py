"""The solve as one operation of autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ndereg.backends.base import Backend, Problem, Result
from ndereg.backends.host.backsolve import backsolve
from ndereg.backends.host.local import ExtraStep
from ndereg.backends.host.loop import Tape
from ndereg.backends.host.reverse import pull_back
from ndereg.backends.interpreter import Runners
from ndereg.backends.torch.field import TorchField
from ndereg.backends.torch.machine import TorchMachine
from ndereg.plan.lower import Plan


@dataclass
class Recording:
    """A finished forward solve, and what its reverse pass needs.

    Attributes
    ----------
    tape : Tape or None
        Of the discrete adjoint; None integrates the continuous one backwards.
    solve : callable
        The forward solve of a plan, for the continuous adjoint.
    extra : ExtraStep
        The extra step of a local regularizer.
    """

    backend: Backend
    runners: Runners
    problem: Problem
    field: TorchField
    tape: Tape | None
    solve: Callable[[Plan, Problem, TorchField], Result]
    extra: ExtraStep

    def __post_init__(self) -> None:
        self._versions = [(tensor, _version(tensor)) for tensor in self.field.inputs]

    def states(self) -> list[torch.Tensor]:
        """Take the states, and what was kept of the steps, off the tape, for the caller to keep."""
        extra = self.extra.take_states()
        if self.tape is None:
            return extra
        self._extra = len(extra)
        checkpoints = self.tape.checkpoints
        states = [*checkpoints.states.values(), self.tape.y_end]
        self.rows = list(checkpoints.states)
        checkpoints.states, self.tape.y_end = {}, None
        kept: list[torch.Tensor] = []
        self._kept: list[tuple[Any, Any]] = []
        for row in self.tape.rows:
            if row.kept is None and row.noise is None:
                break
            self._kept.append((_taken(row.kept, kept), _taken(row.noise, kept)))
            row.kept = row.noise = None
        return [*states, *extra, *kept]

    def _give_kept(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put what was kept of the steps back on the tape."""
        assert self.tape is not None
        rest = iter(tensors)
        for row, (kept, noise) in zip(self.tape.rows, self._kept, strict=False):
            row.kept, row.noise = _given(kept, rest), _given(noise, rest)

    def _drop_kept(self) -> None:
        assert self.tape is not None
        for row in self.tape.rows:
            row.kept = row.noise = None

    def pull(
        self, states: Sequence[torch.Tensor], ys: torch.Tensor, ys_bar: Any, penalty_bar: Any
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Return the cotangents of ``y0`` and of the field's inputs.

        ``states`` are those of :meth:`states`, ``ys`` the result of the solve; None for a
        cotangent is zero.
        """
        problem = self.problem
        if any(_version(tensor) != version for tensor, version in self._versions):
            raise RuntimeError(
                "expected args and parameters of the field as they were in the solve, received "
                "some that were changed in place since; try backward() before the optimizer's "
                "step, or tensor.clone()"
            )
        if ys_bar is None:
            ys_bar = torch.zeros_like(ys)
        count = 0 if self.tape is None else len(self.rows) + 1
        end = len(states) if self.tape is None else count + self._extra
        self.extra.give_states(states[count:end])
        machine: Any = TorchMachine(problem, self.field)
        try:
            state_bar = None if penalty_bar is None else self.extra.pull(machine, penalty_bar)
            if self.tape is None:
                given = self.extra.interrupted(ys, ys_bar, state_bar)
                return self._backsolve(machine, *given)
        finally:
            self.extra.take_states()
        if penalty_bar is None:
            penalty_bar = torch.zeros(problem.layout.samples, dtype=torch.float64, device=ys.device)
        checkpoints = self.tape.checkpoints
        checkpoints.states = dict(zip(self.rows, states, strict=False))
        self.tape.y_end = states[count - 1]
        self._give_kept(states[end:])
        ys_bar, picked_bar = self.extra.among_outputs(ys_bar, state_bar)
        try:
            y_bar = pull_back(self.runners, machine, self.tape, ys_bar, penalty_bar, picked_bar)
        finally:
            checkpoints.states, self.tape.y_end = {}, None
            self._drop_kept()
        return y_bar, machine.args_bar

    def _backsolve(
        self, machine: Any, problem: Problem, ys: torch.Tensor, ys_bar: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        field = self.field
        latest: list[Any] = []

        # The augmented field asks for the value and then for the pullback at the same point.
        def call(t: Any, y: torch.Tensor, args: Any) -> torch.Tensor:
            k, linearization = field.linearize(t, y)
            latest[:] = [linearization]
            return k

        def pull(t: Any, y: Any, args: Any, k_bar: Any) -> tuple[torch.Tensor, list[Any]]:
            y_bar, bars = field.pullback(latest.pop(), k_bar)
            return y_bar, list(bars) or [None] * len(field.wrt)

        def call_diffusion(t: Any, y: torch.Tensor, args: Any) -> torch.Tensor:
            g, linearization = field.linearize(t, y, "diffusion")
            latest[:] = [linearization]
            return g

        diffusion = problem.diffusion
        if diffusion is not None:
            diffusion = replace(diffusion, call=call_diffusion)
        args = tuple(tensor.detach() for tensor in field.wrt)
        problem = replace(problem, call=call, args=args, diffusion=diffusion)

        def solve(plan: Plan, augmented: Problem) -> Result:
            return self.solve(plan, augmented, _Called(augmented))  # type: ignore[arg-type]

        y_bar, bars = backsolve(
            self.backend, solve, problem, pull, ys, ys_bar, torch.broadcast_to, pull
        )
        return y_bar, [
            bar if own is None else own if bar is None else own + bar
            for own, bar in zip(machine.args_bar, bars, strict=True)
        ]


def _taken(kept: dict[str, Any] | None, tensors: list[torch.Tensor]) -> dict[str, Any] | None:
    """Move the tensors of what was kept to a list; linearizations are pairs of them.

    What is returned has the type in place of each.
    """
    if kept is None:
        return None
    found: dict[str, Any] = {}
    for slot, value in kept.items():
        found[slot] = value
        if isinstance(value, torch.Tensor):
            found[slot] = torch.Tensor
            tensors.append(value)
        elif isinstance(value, tuple):
            found[slot] = tuple
            tensors += value
    return found


def _given(taken: dict[str, Any] | None, rest: Iterator[torch.Tensor]) -> dict[str, Any] | None:
    """Return what :func:`_taken` took apart."""
    if taken is None:
        return None
    return {
        slot: next(rest) if kind is torch.Tensor
        else (next(rest), next(rest)) if kind is tuple else kind
        for slot, kind in taken.items()
    }  # fmt: skip


def _version(tensor: torch.Tensor) -> int | None:
    """How often a tensor was changed in place; None where PyTorch does not count."""
    return None if tensor.is_inference() else tensor._version


class _Called:
    """The field of a problem as its ``call`` has it, for the forward solve alone."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.wrt: list[torch.Tensor] = []
        self._like = problem.y0

    def evaluate(self, t: Any, y: torch.Tensor, name: str = "drift") -> torch.Tensor:
        real = getattr(torch, self.problem.layout.real_dtype)
        time = torch.scalar_tensor(t, dtype=real, device=self._like.device)
        if name == "diffusion":
            return time, y  # type: ignore[return-value]  # its product is asked for
        return self.problem.call(time, y, self.problem.args)

    def linearize(self, t: Any, y: torch.Tensor, name: str = "drift") -> Any:
        raise NotImplementedError

    pullback = linearize


class SolveFunction(torch.autograd.Function):
    """``(y0, t0, t1, t_eval, *inputs of the field) -> (ys, penalty)``, already computed.

    The times are the caller's tensors, or None where they have no history. The cotangent of a time
    is that of the exact solution: ``dy(t)/dt = f`` at the end and at output times, and a later
    start is a start on the trajectory through ``(t0, y0)``, further back. The penalty, a property
    of the steps, is a constant of the times.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        recording: Recording,
        result: Result,
        y0: torch.Tensor,
        t0: torch.Tensor | None,
        t1: torch.Tensor | None,
        t_eval: torch.Tensor | None,
        *inputs: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hand the result over and keep the recording."""
        ctx.set_materialize_grads(False)
        ctx.recording = recording
        ctx.time_shapes = [None if t is None else t.shape for t in (t0, t1, t_eval)]
        # so that in-place changes are noticed, and everything is let go after the reverse pass
        ctx.save_for_backward(result.ys, y0, *recording.states())
        return result.ys, result.penalty

    @staticmethod
    def backward(ctx: Any, ys_bar: Any, penalty_bar: Any) -> Any:  # type: ignore[override]
        """Run the reverse pass."""
        if ys_bar is None and penalty_bar is None:
            return (None,) * len(ctx.needs_input_grad)
        recording: Recording = ctx.recording
        ys, y0, *states = ctx.saved_tensors
        with torch.no_grad():
            y0_bar, bars = recording.pull(states, ys, ys_bar, penalty_bar)
            start_bar = y0_bar
            if ctx.needs_input_grad[3] and penalty_bar is not None and ys_bar is not None:
                start_bar, _ = recording.pull(states, ys, ys_bar, None)
            times = _time_cotangents(
                recording, ctx.needs_input_grad[3:6], ctx.time_shapes, y0, start_bar, ys, ys_bar
            )
        cotangents = (y0_bar, *times, *bars)
        if torch.is_grad_enabled():  # create_graph=True: a second derivative may follow
            depended = (y0, ys_bar, penalty_bar, *recording.field.inputs)
            cotangents = _FirstDerivative.apply(len(depended), *depended, *cotangents)
        return (None, None, *cotangents)


class _FirstDerivative(torch.autograd.Function):
    """Cotangents that refuse to be differentiated, where they would pass for constants."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Any) -> Any:  # type: ignore[override]
        """Hand on the cotangents, which follow the ``count`` tensors that they depend on."""
        return tuple(None if bar is None else bar.clone() for bar in tensors[count:])

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:  # type: ignore[override]
        """Refuse."""
        raise RuntimeError(
            "expected first derivatives of a solve only, received a request for second ones; try "
            "create_graph=False, or solving the variational equations"
        )


def _time_cotangents(
    recording: Recording,
    needed: Sequence[bool],
    shapes: Sequence[Any],
    y0: torch.Tensor,
    y0_bar: torch.Tensor,
    ys: torch.Tensor,
    ys_bar: torch.Tensor | None,
) -> list[torch.Tensor | None]:
    problem, field = recording.problem, recording.field
    cotangents: list[torch.Tensor | None] = [None, None, None]

    def inner(bar: torch.Tensor, t: Any, y: torch.Tensor) -> torch.Tensor:
        """Real inner product with the field, one number a sample."""
        k = field.evaluate(t, y.reshape(y0.shape))
        product = (bar.reshape(y0.shape).conj() * k).reshape((problem.layout.samples, -1))
        return (product.real if product.is_complex() else product).sum(-1)

    if needed[0] and ys_bar is not None:
        cotangents[0] = -inner(y0_bar, problem.t0, y0).sum().reshape(shapes[0])
    if ys_bar is None:
        return cotangents
    if needed[1] and problem.t_eval is None:
        cotangents[1] = inner(ys_bar, problem.t1, ys).sum().reshape(shapes[1])
    if needed[2]:
        columns = []
        for index in range(problem.t_eval.shape[-1]):
            t = problem.t_eval[..., index]
            time: Any = float(t) if t.ndim == 0 else torch.as_tensor(t).to(ys.device)
            columns.append(inner(ys_bar[:, index], time, ys[:, index]))
        each = torch.stack(columns, dim=-1)
        cotangents[2] = (each if problem.t_eval.ndim == 2 else each.sum(0)).reshape(shapes[2])
    return cotangents
