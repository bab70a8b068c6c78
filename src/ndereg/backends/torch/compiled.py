"""The field that the user compiled, inside programs compiled around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ndereg.backends.base import Backend, Problem
from ndereg.backends.torch.capture import Capture, Captured, capture_of
from ndereg.backends.torch.field import TorchField, adapt
from ndereg.backends.torch.kernels import COMPILED, Kernel, kernel_for
from ndereg.plan.program import Slot
from ndereg.spec.adjoint import Backsolve
from ndereg.structure import flatten


def open_field(
    backend: Backend, problem: Problem, args: Sequence[int], carried: Sequence[Any]
) -> TorchField:
    """Return the field of a problem: captured, if ``torch.compile`` made it, else as it is.

    ``args`` are the positions of the leaves of args to differentiate by, ``carried`` the parameters
    of a module.
    """
    # the continuous adjoint integrates another field, a stochastic equation has two
    other = isinstance(problem.spec.adjoint, Backsolve) or problem.diffusion is not None
    capture = None if other else capture_of(problem.field)
    if capture is not None and not capture.refused and problem.t0 != problem.t1:
        field = CompiledField(backend, problem, args, carried, capture)
        if field.captured is not None:
            return field
    return TorchField(backend, problem, args, carried)


class CompiledField(TorchField):
    """A field captured at the start of the solve, whose programs are compiled with it.

    Attributes
    ----------
    captured : Captured or None
        None where the field has no one graph.
    arrays : list of Tensor
        Leaves of args and what the field holds, as the compiled programs take them.
    wrt_held : tuple of (int or None)
        Where ``wrt`` are among them.
    """

    def __init__(
        self,
        backend: Backend,
        problem: Problem,
        args: Sequence[int],
        carried: Sequence[Any],
        capture: Capture,
    ) -> None:
        super().__init__(backend, problem, args, carried)
        self.options = capture.options
        self._kernels: dict[str, Kernel] = {}
        self.captured = self._capture(problem, capture)
        if self.captured is None:
            return
        self.graph = self.captured.graph
        held = self.captured.held
        known = {id(tensor) for tensor in self.wrt}
        hidden = [t for t in held if t.requires_grad and id(t) not in known]
        self.inputs += hidden
        self.wrt += hidden
        self.arrays = [tensor.detach() for tensor in (*self.leaves, *held)]
        places = {id(tensor): i for i, tensor in enumerate((*self.leaves, *held))}
        self.wrt_held = tuple(places.get(id(tensor)) for tensor in self.wrt)

    def _capture(self, problem: Problem, capture: Capture) -> Captured | None:
        t = torch.full(
            self.layout.time_shape, problem.t0, dtype=self._real, device=problem.y0.device
        )
        y = problem.y0.detach()
        state = y if self._direct else self.bound.state(y)
        states, _ = flatten(state)
        leaves = [leaf.detach() for leaf in self.leaves]
        args = problem.args_structure.unflatten(leaves)
        field = adapt(capture.field, problem.args_structure.kind != "none")
        captured = capture(lambda: field(t, state, args), t, [*states, *leaves])
        if captured is not None:
            k = self.bound.flat(captured.value, y).reshape(self._shape)
            self._start = (problem.t0, problem.y0, k.detach(), None)
        return captured

    def _call(self, t: Any, y: torch.Tensor, name: str = "drift") -> torch.Tensor:
        return self.traced(t, y, [*self.leaves, *self.captured.held])

    def traced(self, t: Any, y: torch.Tensor, arrays: Sequence[torch.Tensor]) -> torch.Tensor:
        """Evaluate the graph on other tensors than those of the solve, in the order of arrays."""
        states, _ = flatten(y if self._direct else self.bound.state(y))
        count = len(self.leaves)
        k = self.graph(self._times(t), [*states, *arrays[:count]], arrays[count:])
        if self._direct:
            return k
        return self.layout.flatten(self.bound.backend, flatten(k)[0]).reshape(self._shape)

    def linearize(self, t: Any, y: torch.Tensor, name: str = "drift") -> tuple[torch.Tensor, Any]:
        """Evaluate; the linearization is the point, where the pullback evaluates once more."""
        return self.evaluate(t, y), (t, y)

    def pull_back(
        self, pairs: Sequence[tuple[Any, torch.Tensor]]
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor | None]]:
        """See :meth:`TorchField.pull_back`."""
        evaluated = []
        for (t, y), cotangent in pairs:
            with torch.enable_grad():
                point = y.detach().requires_grad_()
                evaluated.append(((point, self._call(t, point)), cotangent))
        return super().pull_back(evaluated)

    def look(self, t: Any, y: torch.Tensor) -> None:
        """The capture has seen what the field depends on; its value serves the first evaluation."""
        if self._start is not None:
            self._start = (t, y, *self._start[2:])

    def runs(self, program: Any) -> bool:
        """Whether a program is compiled with the field."""
        return program.program.name in COMPILED

    def run(self, program: Any, machine: Any, values: Mapping[Slot, Any]) -> dict[str, Any]:
        """Run a program, compiled where it was not yet."""
        kernel = self._kernels.get(program.identity)
        if kernel is None:
            kernel = self._kernels[program.identity] = kernel_for(program, machine, values)
        return kernel(machine, values)
