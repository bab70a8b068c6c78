"""The PyTorch backend."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from ndereg.backends.base import NO_TIME_GRADIENT, Problem, Result
from ndereg.backends.foreign import Expectation
from ndereg.backends.host.local import ExtraStep, local_runners
from ndereg.backends.host.loop import Keeping, Tape, integrate, open_tape
from ndereg.backends.interpreter import Runners
from ndereg.backends.torch.brownian import TorchBrownian
from ndereg.backends.torch.compiled import open_field
from ndereg.backends.torch.derivatives import TorchDerivatives
from ndereg.backends.torch.emit import EmittedProgram
from ndereg.backends.torch.field import TorchField, adapt
from ndereg.backends.torch.history import Recording, SolveFunction
from ndereg.backends.torch.machine import TorchMachine
from ndereg.flow import Flow
from ndereg.langevin import UnderdampedLangevin
from ndereg.plan.brownian import Areas, Grid
from ndereg.plan.kept import kept_plan
from ndereg.plan.lower import Plan
from ndereg.plan.program import Evaluate, Slot
from ndereg.sde import SDE, ConvertedDrift
from ndereg.spec.adjoint import Discrete, NoAdjoint
from ndereg.structure import LEAF

_NAMES = {
    getattr(torch, name): name
    for name in (
        "float16", "bfloat16", "float32", "float64", "complex64", "complex128",
        "uint8", "int8", "int16", "int32", "int64", "bool",
    )
}  # fmt: skip

_EXPECTED = Expectation(
    "a torch.Tensor",
    "torch.as_tensor",
    "closing over it, field = lambda t, y, args: module(t, y), which backward() differentiates as "
    "any closure, or dict(module.named_parameters()) as args and torch.func.functional_call in the "
    "field, which solve_vjp differentiates by, too",
)

KEPT_BYTES = 2**26
"""Room for what the forward pass of a gradient keeps of its steps; beyond it, the reverse pass
makes them again."""
NOISE_BYTES = 2**24
"""Room for the noise of steps; beyond it, the reverse pass draws it again."""
KEPT_STEPS = 4
"""For how many steps a checkpoint stands, at most, of which either is kept."""


class TorchBackend:
    """Eager tensors on the device of the state; gradients by autograd's own rules.

    ``sol.ys`` and ``sol.penalty`` carry history to y0, args, the parameters of a module, tensors
    that a closure holds, and t0, t1 and t_eval. Inside ``torch.no_grad()``, and with
    ``adjoint="none"``, nothing is kept for a reverse pass.

    The reverse pass may evaluate the field again, at the states of the forward pass: a field must
    be a function of its arguments. A module with dropout or batch statistics belongs in ``eval()``.
    Hooks on tensors that the field uses run once a stage. Second derivatives, ``torch.func``
    transforms and forward mode are refused; ``torch.compile`` breaks its graph at a solve. A field
    that was made by ``torch.compile`` is compiled into the steps; so are drift and diffusion, if
    both were.
    """

    name = "torch"

    def owns(self, value: object) -> bool:
        """Tensors."""
        return isinstance(value, torch.Tensor)

    def array(self, value: object, what: str) -> torch.Tensor:
        """As a tensor; Python numbers become tensors ``()``, other frameworks are refused."""
        if isinstance(value, torch.Tensor):
            _refuse_wrapped(value, what)
            if value.layout != torch.strided or value.dtype not in _NAMES:
                raise TypeError(
                    f"expected {what} to be a dense tensor of numbers, received dtype "
                    f"{value.dtype} with layout {value.layout}; try {what}.to_dense()"
                )
            return value
        if isinstance(value, numbers.Number):
            kind = {bool: torch.bool, int: torch.int64, complex: torch.complex128}
            return torch.tensor(value, dtype=kind.get(type(value), torch.float64))
        raise _EXPECTED.refusal(value, what, callable(value))

    def dtype(self, array: torch.Tensor) -> str:
        """Plain dtype name."""
        return _NAMES.get(array.dtype) or str(array.dtype).removeprefix("torch.")

    def cast(self, array: torch.Tensor, dtype: str) -> torch.Tensor:
        """Another dtype; the real part where a complex tensor becomes real."""
        wanted: torch.dtype = getattr(torch, dtype)
        if array.dtype is wanted:
            return array
        if array.is_complex() and not wanted.is_complex:
            array = array.real
        return array.to(wanted)

    def reshape(self, array: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """Another shape, in row-major order."""
        return array.reshape(shape)

    def concat(self, arrays: Sequence[torch.Tensor]) -> torch.Tensor:
        """Along the last axis."""
        devices = {array.device for array in arrays}
        if len(devices) > 1:
            raise ValueError(
                "expected all tensors of the state on one device, received "
                f"{', '.join(sorted(map(str, devices)))}; try .to(device) on each of them"
            )
        return torch.cat(list(arrays), dim=-1)

    def concrete(self, value: object) -> Any:
        """Tensors as NumPy arrays, without history."""
        if isinstance(value, torch.Tensor):
            return value.detach().cpu().resolve_conj().resolve_neg().numpy()
        return value

    def times(self, values: Any, like: torch.Tensor) -> torch.Tensor:
        """float64, beside ``like``."""
        if isinstance(values, float):
            return torch.full((), values, dtype=torch.float64, device=like.device)
        return torch.tensor(np.asarray(values), dtype=torch.float64).to(like.device)

    key_types = "a torch.Generator"

    def uniform(self, key: object, count: int) -> Any:
        """The next numbers of ``torch.rand`` on a ``torch.Generator``, on its device."""
        if not isinstance(key, torch.Generator):
            return None
        found = torch.rand(count, generator=key, device=key.device, dtype=torch.float64)
        return found.cpu().numpy()

    def key_words(self, key: object) -> tuple[Any, Any] | None:
        """Two words drawn from a ``torch.Generator``."""
        if not isinstance(key, torch.Generator):
            return None
        first, second = torch.randint(0, 2**32, (2,), generator=key, device=key.device).tolist()
        return first, second

    def brownian(
        self, areas: Areas, words: tuple[Any, Any], grid: Grid, dtype: str, like: Any = None
    ) -> TorchBrownian:
        """Return a Brownian path on the device of ``like``, by default the CPU."""
        device = torch.device("cpu") if like is None else like.device
        return TorchBrownian(areas, words, grid, dtype, device)

    def fold(self, key: object, choice: int) -> Any:
        """A generator goes on by itself."""
        return key

    def derivatives(self) -> TorchDerivatives:
        """Derivatives by ``torch.func``."""
        return TorchDerivatives()

    def carried_parameters(self, field: Callable[..., Any]) -> dict[str, torch.Tensor]:
        """Return the parameters of a module that require gradients, by name."""
        if isinstance(field, Flow):
            field = field.field
        if isinstance(field, SDE):
            found = {
                f"{name}.{inner}": parameter
                for name in ("drift", "diffusion")
                for inner, parameter in self.carried_parameters(getattr(field, name)).items()
            }
            unique = {id(parameter): name for name, parameter in reversed(found.items())}
            return {name: p for name, p in found.items() if unique[id(p)] == name}
        if isinstance(field, UnderdampedLangevin):
            field = field.grad_potential
        if isinstance(field, ConvertedDrift):  # the diffusion is also that of the equation
            return self.carried_parameters(field.drift)
        if not isinstance(field, torch.nn.Module):
            return {}
        return {name: p for name, p in field.named_parameters() if p.requires_grad}

    def outlined(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns."""
        with torch.no_grad():
            return function(*arguments)

    def adapted(self, field: Callable[..., Any], has_args: bool) -> Callable[..., Any]:
        """A module as a function of ``(t, y, args)``."""
        return adapt(field, has_args)

    def probed(self, function: Callable[..., Any], argument: Any) -> Any:
        """What the function returns, in NumPy."""
        return self.concrete(self.outlined(function, argument))

    def compile(self, plan: Plan) -> TorchSolver:
        """Make the programs ready to run."""
        return TorchSolver(self, plan)


class TorchSolver:
    """A plan on tensors."""

    def __init__(self, backend: TorchBackend, plan: Plan) -> None:
        self.backend = backend
        self.plan = plan
        self.runners = Runners(plan, EmittedProgram)
        self.local = local_runners(plan, EmittedProgram)
        self._kept = kept_plan(plan)
        if self._kept is not None:
            self._kept_runners = Runners(self._kept, EmittedProgram)

    def solve(self, problem: Problem) -> Result:
        """Solve; the result has history if anything it depends on requires gradients."""
        adjoint = problem.spec.adjoint
        problem = _placed(problem)
        if isinstance(adjoint, NoAdjoint) or not torch.is_grad_enabled():
            return self._without_history(problem)
        _refuse_transforms()
        wanted = [i for i, leaf in enumerate(problem.args) if leaf.requires_grad]
        carried = self.backend.carried_parameters(_equation(problem.posed)).values()
        field = open_field(self.backend, problem, wanted, list(carried))
        times = [
            t if isinstance(t, torch.Tensor) and t.requires_grad else None
            for t in problem.given_times
        ]
        if problem.diffusion is not None and any(t is not None for t in times):
            raise ValueError(NO_TIME_GRADIENT)
        detached = replace(problem, y0=problem.y0.detach(), args=tuple(field.leaves))
        if problem.t0 != problem.t1:
            field.look(problem.t0, detached.seen_start)
        if not (field.inputs or problem.y0.requires_grad or any(t is not None for t in times)):
            # with autograd on, which costs nothing as nothing has history, and would show if the
            # field came upon something that has
            return _flat(detached, self._run(detached, field, None)[0])
        with torch.no_grad():
            recording, result = self._record(detached, field)
        ys, penalty = SolveFunction.apply(recording, result, problem.y0, *times, *field.inputs)
        return _flat(problem, replace(result, ys=ys, penalty=penalty))

    def solve_vjp(
        self, problem: Problem
    ) -> tuple[Result, Callable[[Any, Any], tuple[Any, Sequence[Any]]]]:
        """Solve without history; the pullback runs the transposed programs."""
        with torch.inference_mode(False), torch.no_grad():
            problem = _placed(problem)
            problem = replace(
                problem,
                y0=_plain(problem.y0),
                args=tuple(_plain(leaf) for leaf in problem.args),
            )
            wanted = [i for i, leaf in enumerate(problem.args) if _is_differentiable(leaf)]
            posed = problem.posed
            has_args = posed.args_structure.kind != "none"
            carried = (
                [] if has_args else list(self.backend.carried_parameters(_equation(posed)).values())
            )
            field = open_field(self.backend, problem, wanted, carried)
            if problem.t0 != problem.t1:
                field.look(problem.t0, problem.seen_start)
            _refuse_hidden(field.inputs[len(wanted) + len(carried) :])
            recording, result = self._record(problem, field)
            states = recording.states()

        def pullback(ys_bar: torch.Tensor, penalty_bar: torch.Tensor) -> tuple[Any, list[Any]]:
            device = problem.y0.device
            tensors = [*problem.args, *carried]
            places = [*wanted, *range(len(problem.args), len(tensors))]
            with torch.inference_mode(False), torch.no_grad():
                ys_bar = _plain(ys_bar).to(device).reshape(result.ys.shape)
                penalty_bar = _plain(penalty_bar).to(device)
                y0_bar, bars = recording.pull(states, result.ys, ys_bar, penalty_bar)
                found = dict(zip(places, bars, strict=True))
                return y0_bar.reshape((problem.layout.samples, -1)), [
                    torch.zeros_like(tensor) if found.get(i) is None else found[i]
                    for i, tensor in enumerate(tensors)
                ]

        return _flat(problem, result), pullback

    def _without_history(self, problem: Problem) -> Result:
        with torch.no_grad():
            problem = replace(problem, y0=problem.y0.detach())
            field = open_field(self.backend, problem, (), ())
            return _flat(problem, self._run(problem, field, None)[0])

    def _record(self, problem: Problem, field: TorchField) -> tuple[Recording, Result]:
        adjoint = problem.spec.adjoint
        keeping = None
        if isinstance(adjoint, Discrete):
            keeping = self._keeping(adjoint, problem, field)
        tape = open_tape(adjoint, keeping, _noise_rows(problem))
        result, extra = self._run(problem, field, tape)
        recording = Recording(self.backend, self.runners, problem, field, tape, _solve, extra)
        return recording, result

    def _keeping(self, adjoint: Discrete, problem: Problem, field: TorchField) -> Keeping | None:
        """Of how many steps is kept what the reverse pass reads; None if of none.

        Not where samples have steps of their own: one that rejects what others accept takes a step
        of size zero in the reverse pass, from other points than in the forward pass.
        """
        if self._kept is None or not field.kept_bytes or problem.layout.batch is not None:
            return None
        maps = [i for i in self._kept.step.body if isinstance(i, Evaluate) and i.map]
        # a value of the field is in the memory of its history
        arrays = len({*self._kept.slots} - {slot for i in maps for slot in (i.dst, i.map)})
        points: dict[Slot, set[str]] = {}
        for evaluation in maps:
            points.setdefault(evaluation.src, set()).add(evaluation.field)
        room = arrays * problem.y0.nbytes + sum(map(field.room, points.values()))
        rows = min(KEPT_STEPS * adjoint.checkpoints, int(KEPT_BYTES // max(room, 1)))
        return Keeping(self._kept, self._kept_runners, rows) if rows else None

    def _run(
        self, problem: Problem, field: TorchField, tape: Tape | None
    ) -> tuple[Result, ExtraStep]:
        extra = ExtraStep(torch, self.local, problem)
        result = _run(self.runners, extra.opened, field, tape)
        field.forget_start()
        machine: Any = TorchMachine
        return extra.close(lambda: machine(problem, field), result), extra


def _noise_rows(problem: Problem) -> int:
    """Of how many steps the noise is kept; not where samples have steps of their own, as above."""
    adjoint = problem.spec.adjoint
    if problem.diffusion is None or problem.layout.batch is not None:
        return 0
    if not isinstance(adjoint, Discrete):
        return 0
    names = problem.plan.noise
    room = 8 * problem.diffusion.path.entries.width * max(len(names), 1)
    return min(KEPT_STEPS * adjoint.checkpoints, int(NOISE_BYTES // room))


def _run(runners: Runners, problem: Problem, field: Any, tape: Tape | None) -> Result:
    """Solve; the states have the shape of the problem's ``y0``."""
    machine: Any = TorchMachine(problem, field)
    result = integrate(runners, machine, tape)
    # a solve without an accepted step ends where it started, but not in the caller's memory
    return replace(result, ys=result.ys.clone()) if result.ys is problem.y0 else result


def _solve(plan: Plan, problem: Problem, field: TorchField) -> Result:
    """Run a forward solve of another plan, on the tensors of the first."""
    from ndereg.backends.registry import compile_on, load_backend

    runners = compile_on(problem.spec, load_backend("torch")).runners  # type: ignore[attr-defined]
    return _run(runners, problem, field, None)


def _equation(problem: Problem) -> Any:
    """The field of a problem, with its diffusion where there is one."""
    diffusion = problem.diffusion
    if diffusion is None or diffusion.field is None:
        return problem.field
    return SDE(problem.field, diffusion.field)


def _flat(problem: Problem, result: Result) -> Result:
    """Return the result with its states as ``(B, n)`` or ``(B, T, n)``."""
    layout = problem.layout
    times = () if problem.t_eval is None else (problem.t_eval.shape[-1],)
    return replace(result, ys=result.ys.reshape((layout.samples, *times, layout.entries)))


def _is_differentiable(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Without history, and such that autograd may keep it."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def _placed(problem: Problem) -> Problem:
    """Give a single joint state its own shape, and move numbers to its device.

    Raises
    ------
    ValueError
        If a tensor is on another device.
    """
    layout, device = problem.layout, problem.y0.device
    # not the shape (): there a control scalar in float64 would widen a float32 state
    if layout.batch is None and layout.structure == LEAF and layout.shapes[0]:
        problem = replace(problem, y0=problem.y0.reshape(layout.shapes[0]))
    if all(leaf.device == device for leaf in problem.args):
        return problem
    args = []
    for leaf, path in zip(problem.args, problem.args_structure.paths("args"), strict=True):
        if leaf.device != device and (leaf.ndim or leaf.device.type != "cpu"):
            raise ValueError(
                f"expected {path} on the device of the state, {device}, received a tensor on "
                f"{leaf.device}; try .to({str(device)!r})"
            )
        args.append(leaf.to(device))
    return replace(problem, args=tuple(args))


def _refuse_hidden(hidden: Sequence[torch.Tensor]) -> None:
    if hidden:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in hidden)
        raise ValueError(
            "expected a field that depends on y and args only, received one that uses tensors "
            f"with requires_grad=True of shapes {shapes}, whose gradients the pullback has no "
            "place for; try passing them in args, detaching them, or solve(...) and backward()"
        )


_TRANSFORMS = getattr(torch._C, "_functorch", None)


def _refuse_transforms() -> None:
    """Refuse to record a history inside ``torch.func`` transforms, which hide who depends on what.

    Raises
    ------
    TypeError
    """
    if _TRANSFORMS is not None and _TRANSFORMS.maybe_current_level() is not None:
        raise TypeError(
            "expected solve to be called outside of torch.func transforms, received a call inside "
            "vmap, grad, vjp or jvp; try batch='independent' instead of vmap, solve_vjp or "
            "backward() instead of grad"
        )


def _refuse_wrapped(tensor: torch.Tensor, what: str) -> None:
    if _TRANSFORMS is not None and _TRANSFORMS.is_functorch_wrapped_tensor(tensor):
        received = "one inside torch.func.vmap, grad or another transform"
    elif forward_ad.unpack_dual(tensor).tangent is not None:
        received = "a dual tensor of forward-mode differentiation"
    else:
        return
    raise TypeError(
        f"expected {what} to be a plain tensor, received {received}; try batch='independent' "
        "instead of vmap, solve_vjp or backward() for derivatives"
    )
