"""Whole programs compiled around a captured field, with its pullbacks inside.

A program that is run many times (the step, its replay, the step transposed) becomes one function
of tensors: the instructions and the field, or its vector-Jacobian product, are traced into one
graph, which Inductor turns into C++ or Triton kernels. Numbers of the host go in together in one
tensor, and come out in another, which is read once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ndereg.backends.base import Problem
from ndereg.backends.host.arrays import ArrayMachine
from ndereg.backends.interpreter import Runner
from ndereg.backends.torch.mixing import Mixing
from ndereg.plan.program import Program, Pullback, Slot

COMPILED = frozenset({"step", "replay", "retreat", "step transposed"})
"""Names of the programs that are worth a compilation: one that runs once a solve is not."""


def _safe_divide(a: Any, b: Any) -> Any:
    zero = b == 0
    return torch.where(zero, 0.0, a / torch.where(zero, 1.0, b))


def _clamped(bound: str, function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any) -> Any:
        if not isinstance(a, torch.Tensor):
            a, b = b, a
        return function(a, b) if isinstance(b, torch.Tensor) else a.clamp(**{bound: b})

    return apply


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b, "safe_div": _safe_divide, "neg": lambda a: -a, "abs": torch.abs,
    "unit": torch.sgn, "square": torch.square, "max": _clamped("min", torch.maximum),
    "min": _clamped("max", torch.minimum), "sqrt": torch.sqrt, "pow": torch.pow,
    "log": torch.log, "floor": torch.floor,
    "where": torch.where, "isfinite": torch.isfinite, "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b, "eq": lambda a, b: a == b, "and": lambda a, b: a & b,
    "or": lambda a, b: a | b, "not": lambda a: ~a,
}  # fmt: skip


class _TraceMachine(Mixing, ArrayMachine):
    """Instructions on the tensors of a trace; control scalars are float64 tensors there."""

    operations = _OPERATIONS

    def __init__(self, problem: Problem, field: Any, held: Sequence[torch.Tensor]) -> None:
        super().__init__(problem)
        self._real = getattr(torch, problem.layout.real_dtype)
        self._field = field
        self._held = [tensor.detach() for tensor in held]
        self._wrt = [None if p is None else self._held[p] for p in field.wrt_held]
        self.args_bar = [None] * len(self._wrt)

    def is_array(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor)

    def spread_scalar(self, scalar: Any) -> Any:
        return scalar.to(self._real) if isinstance(scalar, torch.Tensor) else scalar

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        if values.dtype is torch.bool:
            values = values.to(torch.float64)
        found = values.mean() if self.joint else values.mean(-1, keepdim=True)
        return found.to(torch.float64)

    def evaluate(self, t: Any, y: torch.Tensor, name: str = "drift") -> torch.Tensor:
        return self._field.traced(t, y, self._held, name).detach()

    def linearize(self, t: Any, y: torch.Tensor, name: str = "drift") -> tuple[torch.Tensor, Any]:
        for tensor in self._wrt:
            if tensor is not None:
                tensor.requires_grad_()
        with torch.enable_grad():
            point = y.detach().requires_grad_()
            k = self._field.traced(t, point, self._held, name)
        return k.detach(), (t, y, point, k)

    def pullback(
        self, linearization: Any, cotangent: torch.Tensor, field: str = "drift"
    ) -> torch.Tensor:
        if len(linearization) == 2:  # of another program
            _, linearization = self.linearize(*linearization, field)
        _, _, point, k = linearization
        if not k.requires_grad:
            return torch.zeros_like(point)
        wrt = [tensor for tensor in self._wrt if tensor is not None]
        y_bar, *found = torch.autograd.grad(
            k, (point, *wrt), cotangent, retain_graph=True, allow_unused=True
        )
        bars = iter(found)
        self.accumulate([None if tensor is None else next(bars) for tensor in self._wrt])
        return torch.zeros_like(point) if y_bar is None else y_bar

    def accumulate(self, cotangents: Sequence[Any]) -> None:
        self.args_bar = [
            new if total is None else total if new is None else total + new
            for total, new in zip(self.args_bar, cotangents, strict=True)
        ]


@dataclass(frozen=True)
class Kernel:
    """A compiled program and how its values lie in the tensors that it takes and returns.

    Attributes
    ----------
    function : callable
        ``(numbers, *tensors) -> tensors``.
    numbers, tensors, maps : tuple of slots
        Inputs that are numbers of the host, tensors, and points of linearization.
    outputs : tuple of (name, kind)
        ``"number"`` is the next one of the first tensor returned, ``"map"`` a time and a state.
    bars : tuple of int
        Positions of the cotangents of args that follow.
    """

    function: Callable[..., Any]
    numbers: tuple[Slot, ...]
    tensors: tuple[Slot, ...]
    maps: tuple[Slot, ...]
    outputs: tuple[tuple[str, str], ...]
    bars: tuple[int, ...]

    def __call__(self, machine: Any, values: Mapping[Slot, Any]) -> dict[str, Any]:
        """Run; cotangents of args are added to those of the machine."""
        found = iter(self.function(*_arguments(self, machine, values)))
        results: dict[str, Any] = {}
        read = iter(next(found).tolist() if any(k == "number" for _, k in self.outputs) else ())
        for name, kind in self.outputs:
            if kind == "number":
                results[name] = next(read)
            elif kind == "map":
                results[name] = (next(found), next(found))
            else:
                results[name] = next(found)
        if self.bars:
            bars: list[Any] = [None] * len(machine.args_bar)
            for position, bar in zip(self.bars, found, strict=True):
                bars[position] = bar
            machine.add_cotangents(bars)
        return results


def _arguments(kernel: Kernel, machine: Any, values: Mapping[Slot, Any]) -> list[Any]:
    numbers = [values[slot] for slot in kernel.numbers]
    tensors = [values[slot] for slot in kernel.tensors]
    for slot in kernel.maps:
        t, y = values[slot]
        tensors += [machine.number(t), y]
    packed = torch.tensor(numbers, dtype=torch.float64)
    if machine.device.type != "cpu":
        packed = packed.to(machine.device, non_blocking=True)
    return [packed, *tensors, *machine.field.arrays]


def kernel_for(emitted: Any, machine: Any, values: Mapping[Slot, Any]) -> Kernel:
    """Return the program compiled for this machine's problem; compiled once a captured graph."""
    field, program = machine.field, emitted.program
    kinds = dict(program.inputs)
    numbers = tuple(
        s for s, kind in kinds.items() if kind != "map" and not torch.is_tensor(values[s])
    )
    pulls = any(isinstance(instruction, Pullback) for instruction in program.body)
    key = (
        *(emitted.identity, machine.style, machine.layout, tuple(machine.problem.y0.shape)),
        *(numbers, field.wrt_held if pulls else None, str(machine.device), field.graphs),
        tuple(field.places.values()),
    )
    found = field.kernels.get(key)
    if found is None:
        found = field.kernels[key] = _compile(program, machine, values, numbers)
    return found


def _compile(
    program: Program, machine: Any, values: Mapping[Slot, Any], numbers: tuple[Slot, ...]
) -> Kernel:
    kinds = program.kinds()
    given = [slot for slot, _ in program.inputs if slot not in numbers]
    tensors = tuple(slot for slot in given if kinds[slot] != "map")
    maps = tuple(slot for slot in given if kinds[slot] == "map")
    on_host = machine.joint and program.name == "step"
    outputs = tuple(
        (name, "map" if kinds[slot] == "map"
         else "number" if on_host and kinds[slot] == "scalar" else "tensor")
        for name, slot in program.outputs
    )  # fmt: skip
    runner = Runner(program)
    bars: list[int] = []

    def run(packed: torch.Tensor, *arrays: torch.Tensor) -> list[torch.Tensor]:
        rest = iter(arrays)
        slots: dict[Slot, Any] = dict(zip(numbers, packed.unbind(), strict=True))
        slots |= {slot: next(rest) for slot in tensors}
        slots |= {slot: (next(rest), next(rest)) for slot in maps}
        tracing = _TraceMachine(machine.problem, machine.field, list(rest))
        found = runner(tracing, slots)
        bars[:] = [i for i, bar in enumerate(tracing.args_bar) if bar is not None]
        scalars = [found[name].to(torch.float64) for name, kind in outputs if kind == "number"]
        results = [torch.stack(scalars)] if scalars else []
        for name, kind in outputs:
            if kind == "map":
                results += found[name][:2]
            elif kind == "tensor":
                results.append(found[name])
        return results + [tracing.args_bar[i] for i in bars]

    unbound = Kernel(run, numbers, tensors, maps, outputs, ())
    with torch.no_grad():
        examples = _arguments(unbound, machine, values)
        function = _compiled(run, examples, machine.field.options)
        # the graph would keep the value of a number on the host for good
        if all(tensor.is_cuda for tensor in examples):
            function = Recorded(function, len(examples) - len(machine.field.arrays))
    return Kernel(function, numbers, tensors, maps, outputs, tuple(bars))


def _compiled(
    function: Callable[..., Any], examples: list[torch.Tensor], options: dict[str, Any]
) -> Callable[..., Any]:
    """Trace a function of tensors, and compile what it does."""
    from torch.fx.experimental.proxy_tensor import make_fx

    examples = [example.detach().contiguous() for example in examples]
    return inductor(make_fx(function)(*examples), examples, options)


class Recorded:
    """A function of CUDA tensors as a graph of kernels, replayed without a launch from the host.

    The first arguments are copied to where the graph reads them; the others, the arrays of the
    field, are read where they are, and recorded anew where they have moved. What is returned is
    the caller's own. A function that cannot be recorded (one that waits for the host, say) is
    called as it is, with a warning that says why.
    """

    def __init__(self, function: Callable[..., Any], moving: int) -> None:
        self._function, self._moving = function, moving
        self._graph: Any = None
        self._addresses: tuple[int, ...] = ()
        self._inputs: list[torch.Tensor] = []
        self._outputs: list[torch.Tensor] = []
        self._refused = False

    def __call__(self, *tensors: torch.Tensor) -> Sequence[torch.Tensor]:
        """Replay; record first, where that was not done for these arrays."""
        moving, still = tensors[: self._moving], tensors[self._moving :]
        addresses = tuple(tensor.data_ptr() for tensor in still)
        if self._graph is None or addresses != self._addresses:
            if self._refused:
                return self._function(*tensors)  # type: ignore[no-any-return]
            self._record(moving, still)
            self._addresses = addresses
        if self._refused:
            return self._function(*tensors)  # type: ignore[no-any-return]
        torch._foreach_copy_(self._inputs, list(moving))
        self._graph.replay()
        return [output.clone() for output in self._outputs]

    def _record(self, moving: Sequence[torch.Tensor], still: Sequence[torch.Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in moving]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # kernels choose their sizes when they first run
            for _ in range(2):
                self._function(*self._inputs, *still)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._outputs = list(self._function(*self._inputs, *still))
        except RuntimeError as error:
            self._refused = True
            warnings.warn(
                "expected a compiled step that can be recorded as a CUDA graph, received one that "
                f"cannot ({str(error).strip().splitlines()[0]}); its kernels are started one by "
                "one. Try a field without copies to the host and without random numbers",
                RuntimeWarning,
                stacklevel=2,
            )
        self._graph = graph


def inductor(
    graph: Any, examples: list[torch.Tensor], options: dict[str, Any]
) -> Callable[..., Any]:
    """Compile a graph."""
    import torch._inductor

    # recorded here, where it is known what outlives a step
    options = {name: value for name, value in options.items() if name != "triton.cudagraphs"}
    return torch._inductor.compile(graph, examples, options=options)  # type: ignore[no-any-return]
