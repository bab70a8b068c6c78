"""PyTorch on another device: nothing on the CPU by accident, few waits, counted operations.

The device is simulated: real arithmetic on the CPU behind tensors that claim to be elsewhere.
PyTorch's ``lazy`` device type has no implementation in ordinary builds, so that nothing runs on it
by accident: an operation either comes through here, or fails.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import ndereg.torch as nde

DEVICE = torch.device("lazy")


class DeviceTensor(torch.Tensor):
    """Claims to be on the device; what it holds is on the CPU."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=DEVICE,
        )  # fmt: skip

    def __init__(self, held):
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self):
        return f"DeviceTensor{tuple(self.shape)}"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of the simulated device")


class SimulatedDevice(TorchDispatchMode):
    """Runs operations, counts them, and refuses to mix tensors of the device and of the CPU."""

    def __init__(self):
        super().__init__()
        self.operations = Counter()
        self.reads = 0
        self.uploads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        away, here = [], []

        def sort(value):
            if isinstance(value, torch.Tensor):
                (away if isinstance(value, DeviceTensor) else here).append(value)
            return value.held if isinstance(value, DeviceTensor) else value

        inner_args, inner_kwargs = tree_map(sort, (args, kwargs))
        name, device = func.name(), kwargs.get("device")
        if device is not None:
            inner_kwargs["device"] = torch.device("cpu")
        on_device = bool(away) if device is None else device.type == DEVICE.type
        self.operations[name.split(".")[0]] += 1
        if name == "aten::_local_scalar_dense":
            self.reads += bool(away)
            on_device = False
        elif name == "aten::_to_copy" and device is not None:
            self.reads += bool(away) and not on_device
            self.uploads += bool(here) and on_device
        elif away and here:
            shapes = [tuple(tensor.shape) for tensor in here]
            raise AssertionError(f"{name} mixes the device with tensors {shapes} on the CPU")
        result = func(*inner_args, **inner_kwargs)
        if func._schema.is_mutable:
            return kwargs.get("out", args[0]) if func._schema.returns else None
        if not on_device:
            return result
        return tree_map(lambda v: DeviceTensor(v) if isinstance(v, torch.Tensor) else v, result)


def field(t, y, args):
    return torch.tanh(y @ args["w"]) * args["b"] - y * t


OPTIONS = [
    {},
    {"batch": "independent"},
    {"t_eval": [0.0, 0.3, 0.4, 1.0]},
    {"t_eval": [0.0, 0.3, 0.4, 1.0], "batch": "independent"},
    {"regularizer": nde.ErrorEstimate() + nde.StiffnessEstimate(reduce="max")},
    {"regularizer": nde.ErrorEstimate() + nde.StiffnessEstimate(), "batch": "independent"},
    {"record": True},
    {"record": True, "batch": "independent"},
    {"controller": nde.ConstantStep(0.2)},
    {"method": "dopri8"},
    {"method": "rk4", "controller": nde.ConstantStep(0.2), "batch": "independent"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
def test_everything_stays_on_the_device(options):
    generator = torch.Generator().manual_seed(0)
    y0 = torch.randn(2, 3, generator=generator)
    args = {"w": torch.randn(3, 3, generator=generator), "b": torch.ones(3)}
    options = {"rtol": 1e-4, "atol": 1e-4} | options

    def solved(device, mode):
        state = y0.detach().to(device).requires_grad_()
        leaves = {name: value.detach().to(device).requires_grad_() for name, value in args.items()}
        start = getattr(mode, "reads", 0), getattr(mode, "uploads", 0)
        sol = nde.solve(field, (0.0, 1.0), state, leaves, **options)
        forward = getattr(mode, "reads", 0) - start[0], getattr(mode, "uploads", 0) - start[1]
        (sol.ys.sum() + sol.penalty.sum()).backward()
        assert sol.ys.device.type == sol.penalty.device.type == torch.device(device).type
        # read before the caller looks at anything
        reverse = getattr(mode, "reads", 0) - start[0] - forward[0]
        found = [sol.ys, sol.penalty, state.grad, *(leaf.grad for leaf in leaves.values())]
        if sol.steps is not None:
            found += [sol.steps.h, sol.steps.error, sol.steps.stiffness]
        return [tensor.detach().cpu() for tensor in found], forward, reverse, sol.stats

    expected, _, _, stats = solved("cpu", None)
    with SimulatedDevice() as mode:
        received, (reads, uploads), reverse, _ = solved(DEVICE, mode)
    for actual, right in zip(received, expected, strict=True):
        assert torch.equal(actual.nan_to_num(), right.nan_to_num())
    attempts = int(torch.as_tensor(stats.nsteps).max())
    independent = options.get("batch") == "independent"
    # the start reads what the first step needs; the statuses of the samples are read at the end
    assert attempts <= reads <= attempts + (3 if independent else 5)
    assert reverse == 0
    # nothing is sent but output times (once as such, once as sol.ts), and the record
    assert uploads <= 2 * ("t_eval" in options) + 5 * ("record" in options)


def operations(steps, reverse=False, **options):
    """Dispatched operations of a solve of so many steps, the field's own left out."""
    y0, args = torch.ones(4), torch.ones(4, requires_grad=True)
    with SimulatedDevice() as device:
        sol = nde.solve(
            lambda t, y, a: torch.cos(y) if a is None else torch.cos(y) * a, (0.0, 1.0), y0,
            args if reverse else None, controller=nde.ConstantStep(1.0 / steps), **options,
        )  # fmt: skip
        if reverse:
            before = device.operations.total()
            (sol.ys.sum() + sol.penalty.sum()).backward()
            return device.operations.total() - before, device.operations
    return device.operations.total() - device.operations["aten::cos"], device.operations


def a_step(**options):
    return (operations(12, **options)[0] - operations(4, **options)[0]) / 8


def test_operations_of_a_step():
    # Tsit5: 6 times, 21 terms of stages and solution, and whether the new state is finite
    assert a_step() == 6 + 21 + 2
    # the error: 7 terms, 3 for the scale, 6 for the norm and its use; read where it arises
    penalty = nde.ErrorEstimate()
    assert a_step(regularizer=penalty) <= a_step() + 7 + 12
    assert a_step(method="dopri5") == 6 + 20 + 2
    assert a_step(batch="independent") <= 110


def test_operations_of_a_reverse_step():
    # 6 stages with history (their own operations and those of the reverse: 9 each), 15 terms of the
    # stages, 21 of their cotangents and the sum of 7
    assert a_step(reverse=True) <= 6 * 16 + 15 + 21 + 7 + 10
    penalty = nde.ErrorEstimate()
    assert a_step(reverse=True, regularizer=penalty) <= a_step(reverse=True) + 60


def test_what_the_device_would_refuse_is_refused():
    y0, args = torch.ones(3), torch.ones(3)
    with SimulatedDevice(), pytest.raises(ValueError, match="device of the state, lazy"):
        nde.solve(lambda t, y, a: -a * y, (0.0, 1.0), y0.to(DEVICE), args)
    with SimulatedDevice(), pytest.raises(ValueError, match="one device, received cpu, lazy"):
        nde.solve(lambda t, y, a: y, (0.0, 1.0), {"a": y0.to(DEVICE), "b": args})
    with SimulatedDevice():
        sol = nde.solve(lambda t, y, a: -a * y, (0.0, 1.0), y0.to(DEVICE), 2.0)
        assert torch.allclose(sol.ys.cpu(), torch.exp(torch.tensor(-2.0)), rtol=1e-4)
    with SimulatedDevice(), pytest.raises(ValueError, match="on the device of the state"):
        nde.solve(lambda t, y, a: args, (0.0, 1.0), y0.to(DEVICE))
