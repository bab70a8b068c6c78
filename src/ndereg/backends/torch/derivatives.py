"""Derivatives of a field inside of a field, by ``torch.func``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from ndereg.backends.derivatives import Derivatives, Function


class TorchDerivatives(Derivatives):
    """Forward mode, nested for higher orders, and one reverse mode; autograd sees through both."""

    def owns(self, value: object) -> bool:
        """Tensors."""
        return isinstance(value, torch.Tensor)

    def jvp(
        self, function: Function, primals: Sequence[Any], tangents: Sequence[Any]
    ) -> Sequence[Any]:
        """See :func:`torch.func.jvp`."""
        _load_forward_mode()
        values, found = torch.func.jvp(_listed(function), tuple(primals), tuple(tangents))
        # of a float32 array without axes times a number, PyTorch's derivative is a float64
        return [d.to(value.dtype) for value, d in zip(values, found, strict=True)]

    def vjp(
        self, function: Function, primals: Sequence[Any], cotangents: Sequence[Any]
    ) -> Sequence[Any]:
        """See :func:`torch.func.vjp`."""
        return self.vjps(function, primals, [cotangents])[0]

    def vjps(
        self, function: Function, primals: Sequence[Any], cotangents: Sequence[Sequence[Any]]
    ) -> Sequence[Sequence[Any]]:
        """One evaluation of the function, and a pullback for each."""
        _, pull = torch.func.vjp(_listed(function), *primals)
        return [pull(list(each)) for each in cotangents]


@cache
def _load_forward_mode() -> None:
    """Have PyTorch load the rules of forward mode, which warns of its own deprecated functions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))


def _listed(function: Function) -> Any:
    return lambda *arrays: list(function(*arrays))
