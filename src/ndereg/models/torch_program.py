"""An imported program as PyTorch has it: a module with the parameters of the original."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ndereg.models.model import Model
from ndereg.models.parameters import Parameters, flatten, unflatten
from ndereg.models.program import Program


class ProgramModule(torch.nn.Module):
    """A program as a ``torch.nn.Module``, called as ``field(t, y)``.

    Its parameters are where their dotted names say: those of a module that was imported from
    PyTorch are again under the module's own names in ``state_dict()``. Those names are why nothing
    else here has a public name: a module may well have a part called ``layer``.

    Parameters
    ----------
    program : Program
    params : Parameters
        Nested dict of NumPy arrays; they are copied.
    """

    def __init__(self, program: Program, params: Parameters) -> None:
        super().__init__()
        program.check(params)
        kinds = {declared.path: declared.kind for declared in program.parameters}
        self._program = program
        flat = flatten(params)
        self._paths = tuple(flat)
        for path, array in flat.items():
            self._put(path, torch.from_numpy(np.array(array)), kinds.get(path, "parameter"))

    def _put(self, path: str, tensor: torch.Tensor, kind: str) -> None:
        *groups, name = path.split(".")
        module: torch.nn.Module = self
        try:
            for group in groups:
                if group not in module._modules:
                    module.add_module(group, torch.nn.Module())
                module = module.get_submodule(group)
            if kind == "buffer":
                module.register_buffer(name, tensor)
            else:
                parameter = torch.nn.Parameter(tensor, requires_grad=kind == "parameter")
                module.register_parameter(name, parameter)
        except KeyError as error:
            raise ValueError(
                f"expected names that a torch.nn.Module can have, received {path!r} ({error}); try "
                "another name for that array"
            ) from error

    def _get(self, path: str) -> torch.Tensor:
        # By attribute: a replica of DataParallel has its tensors there and nowhere else.
        found: Any = self
        for name in path.split("."):
            found = getattr(found, name)
        return found

    def __ndereg_model__(self) -> Model:
        """Return the program with the present parameters, the tensors themselves."""
        return Model(self._program, unflatten({path: self._get(path) for path in self._paths}))

    def forward(self, t: Any, y: Any) -> Any:
        """Evaluate at time ``t`` on ``y``."""
        return self._program(t, y, unflatten({path: self._get(path) for path in self._paths}))

    def extra_repr(self) -> str:
        """Show the program's size."""
        return repr(self._program)
