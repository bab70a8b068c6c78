"""The field on flat tensors: called, linearized, and what it is differentiated by."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from ndereg.backends.base import Backend, Problem
from ndereg.backends.bound import BoundField
from ndereg.backends.extension import ExtendedField
from ndereg.backends.torch.outside import LATE, Boundary, dependencies
from ndereg.sde import ConvertedDrift
from ndereg.structure import LEAF

Linearization = tuple[torch.Tensor, torch.Tensor]
"""A point and the field there, with the history between them."""


def adapt(field: Callable[..., Any], has_args: bool) -> Callable[[Any, Any, Any], Any]:
    """Return ``field`` as ``f(t, y, args)``.

    A module is called as its ``forward`` takes it: ``(t, y)``, ``(y)`` if that is all, or
    ``(t, y, args)`` where ``args`` is given.

    Raises
    ------
    TypeError
        If ``args`` is given and the module's ``forward`` has no place for it, or the other way
        round.
    """
    if isinstance(field, ExtendedField):
        return replace(field, field=adapt(_uncompiled(field.field), has_args))
    if isinstance(field, ConvertedDrift):
        parts = (field.drift, field.diffusion)
        drift, diffusion = (adapt(_uncompiled(part), has_args) for part in parts)
        return replace(field, drift=drift, diffusion=diffusion)
    if not isinstance(field, torch.nn.Module):
        return field
    most, least = _positional(getattr(field, "_orig_mod", field))
    if has_args:
        if most < 3:
            raise TypeError(
                "expected a module whose forward takes (t, y, args), as args is given, received "
                f"{type(field).__name__} whose forward takes {most} argument(s); try args=None for "
                "a module that carries its parameters itself"
            )
        return field
    if least >= 3:
        raise TypeError(
            "expected a module whose forward takes (t, y), as args is None, received "
            f"{type(field).__name__} whose forward requires {least} arguments; try passing args"
        )
    if most == 1:
        return lambda t, y, args: field(y)
    return lambda t, y, args: field(t, y)


def _uncompiled(field: Callable[..., Any]) -> Callable[..., Any]:
    """Return a field as it was written; ``torch.func`` does not differentiate a compiled one."""
    name = "_orig_mod" if isinstance(field, torch.nn.Module) else "_torchdynamo_orig_callable"
    return getattr(field, name, field)


def _positional(module: torch.nn.Module) -> tuple[int, int]:
    """Most and least positional arguments of the module's forward."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # a compiled forward without a signature
        return 3, 2
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [p for p in parameters if p.kind in kinds]
    least = sum(p.default is inspect.Parameter.empty for p in named)
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return max(3, len(named)), least
    return len(named), least


def _address(tensor: torch.Tensor) -> int:
    """Return where a tensor lies, or what else tells it apart where it lies nowhere."""
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return id(tensor)


_engine: Any = getattr(torch.autograd.graph, "_engine_run_backward", None)


def _gradient(
    values: Sequence[torch.Tensor], cotangents: Sequence[torch.Tensor], inputs: Any
) -> Sequence[torch.Tensor | None]:
    """``torch.autograd.grad``, the history kept; inputs need not be part of it.

    What that checks before it calls the engine is known here: cotangents are shaped like values.
    The checks take longer than many a field, and the first of them imports SymPy.
    """
    if _engine is None:
        return torch.autograd.grad(values, inputs, cotangents, retain_graph=True, allow_unused=True)
    found: Sequence[torch.Tensor | None] = _engine(
        values, cotangents, True, False, inputs, True, accumulate_grad=False
    )
    return found


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


class TorchField:
    """The field of a problem, for one solve and its reverse pass.

    Attributes
    ----------
    inputs : list of Tensor
        What the field is differentiated by, as its caller knows it: leaves of args, parameters of
        a module, tensors that the field finds elsewhere. ``wrt`` are the same as the field sees
        them: leaves of args are detached, so that their own history is not walked for every stage.
    """

    def __init__(
        self, backend: Backend, problem: Problem, args: Sequence[int], carried: Sequence[Any]
    ) -> None:
        """``args`` are the positions of the leaves of args to differentiate by."""
        self.layout = layout = problem.seen
        self.leaves = [leaf.detach() for leaf in problem.args]
        for position in args:
            self.leaves[position] = self.leaves[position].detach().requires_grad_()
        self.inputs = [*(problem.args[position] for position in args), *carried]
        self.wrt = [*(self.leaves[position] for position in args), *carried]
        self.count = len(self.wrt)
        has_args = problem.posed.args_structure.kind != "none"
        field = adapt(problem.field, has_args)
        self.bound = BoundField(backend, field, layout, problem.args_structure)
        self._bound_diffusion: BoundField | None = None
        diffusion = problem.diffusion
        if diffusion is not None and diffusion.field is not None:
            self._bound_diffusion = BoundField(
                backend, adapt(diffusion.field, has_args), layout, problem.args_structure,
                diffusion.layout, "the diffusion",
            )  # fmt: skip
            matrix = diffusion.coupling == "matrix"
            self._diffusion_shape = (
                *problem.seen_shape,
                *((diffusion.path.entries.channels,) if matrix else ()),
            )
        self._nested = problem.args_structure.unflatten(self.leaves)
        self._real = getattr(torch, layout.real_dtype)
        self._device = problem.y0.device
        self._dtype = problem.y0.dtype
        self._shape = problem.seen_shape
        # a state that the field takes as it is needs no taking apart around every call
        self._direct = layout.structure == LEAF and self._shape == layout.shapes[0]
        alone = self._direct or (layout.structure == LEAF and layout.batch is None)
        self._alone = layout.shapes[0] if alone else None
        self._joint = layout.batch is None
        self._start: tuple[Any, torch.Tensor, torch.Tensor, Linearization | None] | None = None
        self._boundary = Boundary(())
        self.kept_bytes: dict[str, dict[int, int]] = {}
        """Bytes that one linearization keeps, by address, of what is linearized; empty if not
        known."""

    def _call(self, t: Any, y: torch.Tensor, name: str = "drift") -> torch.Tensor:
        bound, shape = self._bound(name)
        if type(t) is float and self._joint:
            t = torch.scalar_tensor(t, dtype=self._real, device=self._device)
        else:
            t = self._times(t)
        if self._alone is None:
            k = bound.flat(bound.nested(t, bound.state(y), self._nested), y)
            k = k if k.shape == shape else k.reshape(shape)
        else:
            given = y if y.shape == self._alone else y.reshape(self._alone)
            k = bound.nested(t, given, self._nested)
            plain = type(k) is torch.Tensor and k.dtype == self._dtype
            if not plain or k.shape != bound.result.shapes[0]:
                k = bound.flat(k, y)
            k = k if k.shape == shape else k.reshape(shape)
        if k.device != self._device:
            raise ValueError(
                f"expected the field's result on the device of the state, {self._device}, received "
                f"a tensor on {k.device}; try making its constants on y.device"
            )
        return k

    def _bound(self, name: str) -> tuple[BoundField, tuple[int, ...]]:
        """Return what is evaluated, and the shape of its result."""
        if name == "drift":
            return self.bound, self._shape
        assert self._bound_diffusion is not None
        return self._bound_diffusion, self._diffusion_shape

    def _times(self, t: Any) -> torch.Tensor:
        """Return the times of all samples as the field sees them."""
        if isinstance(t, torch.Tensor):
            return t.to(self._real).reshape(self.layout.time_shape)
        return torch.full(self.layout.time_shape, t, dtype=self._real, device=self._device)

    def evaluate(self, t: Any, y: torch.Tensor, name: str = "drift") -> torch.Tensor:
        """Evaluate the field, or the diffusion, without history."""
        start = self._at_start(t, y) if name == "drift" else None
        if start is not None:
            return start[0]
        k = self._call(t, y, name)
        if k.requires_grad:
            if torch.is_grad_enabled():  # nothing has history as far as known: TorchSolver.solve
                raise RuntimeError(LATE.format(""))
            return k.detach()  # a parameter, returned as it is
        return k

    def _at_start(
        self, t: Any, y: torch.Tensor
    ) -> tuple[torch.Tensor, Linearization | None] | None:
        """What was evaluated at the start already, if that is where ``t`` and ``y`` are."""
        start = self._start
        if start is None or y is not start[1]:
            return None
        return start[2:] if isinstance(t, torch.Tensor) or t == start[0] else None

    def forget_start(self) -> None:
        """Let go of what was evaluated at the start."""
        self._start = None

    def linearize(
        self, t: Any, y: torch.Tensor, name: str = "drift"
    ) -> tuple[torch.Tensor, Linearization]:
        """Evaluate with history from ``y``."""
        start = self._at_start(t, y) if name == "drift" else None
        if start is not None and start[1] is not None:
            return start[0], start[1]
        with torch.enable_grad():
            point = y.detach().requires_grad_()
            k = self._call(t, point, name)
        if k.requires_grad:
            self._boundary.check(k, point)
        return k.detach(), (point, k)

    def pullback(
        self, linearization: Any, cotangent: torch.Tensor
    ) -> tuple[torch.Tensor, Sequence[torch.Tensor | None]]:
        """Cotangents of y and of ``wrt``; None is zero."""
        (y_bar,), bars = self.pull_back([(linearization, cotangent)])
        return y_bar, bars

    def pull_back(
        self, pairs: Sequence[tuple[Any, torch.Tensor]]
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor | None]]:
        """Cotangents of the points of several linearizations, and of ``wrt`` by all of them.

        ``pairs`` are linearizations, each with its cotangent.
        """
        depends = [(k, point, bar) for (point, k), bar in pairs if k.requires_grad]
        if not depends:
            return [torch.zeros_like(point) for (point, _), _ in pairs], ()
        values, points, cotangents = zip(*depends, strict=True)
        # The history is kept: it may run into one that the caller made and still needs. What
        # belongs to this stage goes with the linearization.
        found = _gradient(values, cotangents, (*points, *self.wrt))
        own = iter(found)
        y_bars = [next(own) if k.requires_grad else None for (_, k), _ in pairs]
        return [
            torch.zeros_like(point) if y_bar is None else y_bar
            for y_bar, ((point, _), _) in zip(y_bars, pairs, strict=True)
        ], found[len(points) :]

    def look(self, t: Any, y: torch.Tensor) -> None:
        """Evaluate at the start once, with history, to find what the field depends on.

        Tensors with history that are neither y nor known already are added to ``inputs``. The value
        serves the first evaluation of the solve.
        """
        point = y.detach().requires_grad_()
        k, measured = self._seen(t, point, "drift")
        sizes = {"drift": measured}
        if self._bound_diffusion is not None:
            sizes["diffusion"] = self._seen(t, point, "diffusion")[1]
        self._boundary = Boundary(self.wrt)
        self._start = (t, y, k.detach(), (point, k))
        own = {_address(tensor) for tensor in (*self.leaves, *self.wrt)}
        if None not in sizes.values():
            self.kept_bytes = {
                name: {at: found[at] for at in found.keys() - own}
                for name, found in sizes.items()
                if found is not None
            }

    def room(self, names: Iterable[str]) -> int:
        """Return the bytes that linearizations at one point keep, which they share."""
        return sum({k: v for name in names for k, v in self.kept_bytes[name].items()}.values())

    def _seen(
        self, t: Any, point: torch.Tensor, name: str
    ) -> tuple[torch.Tensor, dict[int, int] | None]:
        """Evaluate; what is depended on is added to ``inputs``.

        Returns the value, and the bytes that its history keeps, by address, if they are known.
        """
        sizes: dict[int, int] | None = {}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            assert sizes is not None
            sizes[_address(tensor)] = tensor.nbytes
            return tensor

        def call() -> torch.Tensor:
            return self._call(t, point, name)

        try:
            with torch.enable_grad(), saved_tensors_hooks(count, _same):
                k, hidden = dependencies(call, point, self.wrt)
        except RuntimeError as error:
            if "saved tensor hooks" not in str(error):
                raise
            # torch.func.vjp and grad, which a field may use, do not run beside such hooks: what
            # the field keeps is then unknown, and nothing of it is kept
            sizes = None
            with torch.enable_grad():
                k, hidden = dependencies(call, point, self.wrt)
        self.inputs += hidden
        self.wrt += hidden
        if sizes is not None:
            sizes[_address(k)] = k.nbytes
        return k, sizes
