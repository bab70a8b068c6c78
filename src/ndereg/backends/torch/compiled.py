"""The field that the user compiled, inside programs compiled around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
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
    # the continuous adjoint integrates another field
    captures = None if isinstance(problem.spec.adjoint, Backsolve) else _captures(problem)
    if captures is not None and problem.t0 != problem.t1:
        field = CompiledField(backend, problem, args, carried, captures)
        if field.captured:
            return field
    return TorchField(backend, problem, args, carried)


def _captures(problem: Problem) -> dict[str, Capture] | None:
    """How to capture the field, or drift and diffusion; None where not all of them can be."""
    fields = {"drift": problem.field}
    if problem.diffusion is not None:
        if problem.diffusion.field is None:
            return None
        fields["diffusion"] = problem.diffusion.field
    found = {name: capture_of(field) for name, field in fields.items()}
    usable = {name: each for name, each in found.items() if each is not None and not each.refused}
    return usable if len(usable) == len(found) else None


class CompiledField(TorchField):
    """A field captured at the start of the solve, whose programs are compiled with it.

    Of a stochastic equation drift and diffusion are captured, each as a graph of its own.

    Attributes
    ----------
    captured : dict of Captured
        By what is evaluated; empty where that has no one graph.
    graphs : tuple of FieldGraph
    kernels : dict
        What was compiled around them.
    arrays : list of Tensor
        Leaves of args and what the field holds, as the compiled programs take them.
    places : dict of tuple of int
        Where among them is what each graph holds.
    wrt_held : tuple of (int or None)
        Where ``wrt`` are among them.
    """

    def __init__(
        self,
        backend: Backend,
        problem: Problem,
        args: Sequence[int],
        carried: Sequence[Any],
        captures: Mapping[str, Capture],
    ) -> None:
        super().__init__(backend, problem, args, carried)
        self.options = captures["drift"].options
        self._kernels: dict[str, Kernel] = {}
        self.captured = self._capture(problem, captures)
        if not self.captured:
            return
        self.graphs = tuple(each.graph for each in self.captured.values())
        self.kernels = self.graphs[0].kernels
        # a parameter that two graphs hold is one array
        unique = {id(t): t for each in self.captured.values() for t in each.held}
        held = list(unique.values())
        known = {id(tensor) for tensor in self.wrt}
        hidden = [t for t in held if t.requires_grad and id(t) not in known]
        self.inputs += hidden
        self.wrt += hidden
        self._held = [*self.leaves, *held]
        self.arrays = [tensor.detach() for tensor in self._held]
        at = {id(tensor): i for i, tensor in enumerate(self._held)}
        self.places = {
            name: tuple(at[id(tensor)] for tensor in each.held)
            for name, each in self.captured.items()
        }
        self.wrt_held = tuple(at.get(id(tensor)) for tensor in self.wrt)

    def _capture(self, problem: Problem, captures: Mapping[str, Capture]) -> dict[str, Captured]:
        t = torch.full(
            self.layout.time_shape, problem.t0, dtype=self._real, device=problem.y0.device
        )
        y = problem.seen_start.detach()
        state = y if self._direct else self.bound.state(y)
        states, _ = flatten(state)
        leaves = [leaf.detach() for leaf in self.leaves]
        args = problem.args_structure.unflatten(leaves)
        found: dict[str, Captured] = {}
        for name, capture in captures.items():
            field = adapt(capture.field, problem.posed.args_structure.kind != "none")
            captured = capture(partial(field, t, state, args), t, [*states, *leaves])
            if captured is None:
                return {}
            found[name] = captured
        k = self.bound.flat(found["drift"].value, y).reshape(self._shape)
        self._start = (problem.t0, problem.seen_start, k.detach(), None)
        return found

    def _call(self, t: Any, y: torch.Tensor, name: str = "drift") -> torch.Tensor:
        return self.traced(t, y, self._held, name)

    def traced(
        self, t: Any, y: torch.Tensor, arrays: Sequence[torch.Tensor], name: str = "drift"
    ) -> torch.Tensor:
        """Evaluate a graph on other tensors than those of the solve, in the order of arrays."""
        states, _ = flatten(y if self._direct else self.bound.state(y))
        held = [arrays[place] for place in self.places[name]]
        given = [*states, *arrays[: len(self.leaves)]]
        k = self.captured[name].graph(self._times(t), given, held)
        bound, shape = self._bound(name)
        if self._direct and isinstance(k, torch.Tensor) and k.shape == shape:
            return k
        return bound.flat(k, y).reshape(shape)

    def linearize(self, t: Any, y: torch.Tensor, name: str = "drift") -> tuple[torch.Tensor, Any]:
        """Evaluate; the linearization is the point, where the pullback evaluates once more."""
        return self.evaluate(t, y, name), (t, y, *_named(name))

    def pull_back(
        self, pairs: Sequence[tuple[Any, torch.Tensor]]
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor | None]]:
        """See :meth:`TorchField.pull_back`."""
        evaluated = []
        for (t, y, *name), cotangent in pairs:
            with torch.enable_grad():
                point = y.detach().requires_grad_()
                evaluated.append(((point, self._call(t, point, *name)), cotangent))
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


def _named(name: str) -> tuple[str, ...]:
    """The one field of an ordinary equation goes without saying."""
    return () if name == "drift" else (name,)
