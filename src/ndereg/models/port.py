"""Models moved between frameworks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from array_api_compat import is_jax_array, is_torch_array

from ndereg.models.importing.own import own_model
from ndereg.models.model import Model
from ndereg.models.neural_ode import NeuralODE
from ndereg.models.parameters import Parameters, map_leaves
from ndereg.models.program import Program

Framework = Literal["numpy", "torch", "jax"]


def port(model: Any, to: Framework, *, example: Any = None) -> Any:
    """Return a model for another framework, with the same weights.

    Parameters
    ----------
    model : Model, torch.nn.Module, or a module of equinox or flax.nnx
        A field: called with ``(t, y)``, or with ``y`` alone. Or a NeuralODE of this package, as
        any framework has it.
    to : {"numpy", "torch", "jax"}
        To ``"torch"`` the result is a ``torch.nn.Module`` called as ``f(t, y)`` (a NeuralODE as
        ``f(x)``), with the names of the original's parameters; to ``"numpy"`` and ``"jax"`` it is a
        :class:`~ndereg.models.model.Model`, called as ``f(t, y, args)``, with its weights in
        ``.params``.
    example : y, or (t, y), optional
        For modules whose operations depend on shapes: a PyTorch module that ``torch.fx`` cannot
        follow, or one in JAX that is not made of known layers only. The latter is otherwise
        traced when it is first called, and cannot be saved. Where an example is given, the result
        is compared with the module there.

    Returns
    -------
    torch.nn.Module or Model
        Its weights are copies, bit for bit.

    Raises
    ------
    PortError
        A ``ValueError`` that names the submodule and the operation that cannot be ported.
    ValueError
        If ``to`` is no framework, or the framework cannot hold the weights.

    Examples
    --------
    >>> import numpy as np
    >>> from ndereg.models import MLP, Model
    >>> model = Model.init(MLP((2, 8, 2)), seed=0)
    >>> module = port(model, to="torch")
    >>> sorted(module.state_dict())[0]
    '0.bias'
    >>> again = port(module, to="numpy")
    >>> bool((again.params["0"]["bias"] == model.params["0"]["bias"]).all())
    True
    """
    if to not in ("numpy", "torch", "jax"):
        raise ValueError(f"expected to='numpy', 'torch' or 'jax', received {to!r}")
    portable = as_model(model, example)
    if to == "torch":
        return _torch_module(portable)
    if to == "jax":
        return Model(portable.layer, map_leaves(_to_jax, portable.params))
    return portable


def as_model(model: Any, example: Any = None) -> Model:
    """Return any model that can be ported as a :class:`Model` of NumPy arrays.

    Raises
    ------
    ValueError
        If it is none.
    """
    if (own := own_model(model)) is not None:
        return Model(own.layer, as_numpy(own.params))
    given = _example(example)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        from ndereg.models.importing.from_torch import import_module

        return import_module(model, given)
    if "jax" in sys.modules and callable(model):
        from ndereg.models.importing.from_jax import import_callable

        return import_callable(model, given)
    raise ValueError(
        "expected a Model, a torch.nn.Module, or a module of equinox or flax.nnx, received "
        f"{type(model).__module__}.{type(model).__qualname__}; try "
        "ndereg.models.Model(layer, params)"
    )


def _torch_module(model: Model) -> Any:
    from ndereg.models.torch import Field
    from ndereg.models.torch import NeuralODE as Module
    from ndereg.models.torch_program import ProgramModule

    if isinstance(model.layer, Program):
        return ProgramModule(model.layer, model.params)
    if isinstance(model.layer, NeuralODE):
        return Module(model.layer, model.params)
    return Field(model.layer, model.params)


def as_numpy(params: Mapping[str, Any]) -> Parameters:
    """Return parameters of any framework as NumPy arrays, copied."""
    return map_leaves(_to_numpy, params)


def _example(example: Any) -> tuple[Any, Any] | None:
    if example is None:
        return None
    if isinstance(example, tuple) and len(example) == 2:
        return example
    return (0.0, example)


def _to_numpy(array: Any) -> np.ndarray:
    if is_torch_array(array):
        name = str(array.dtype)
        if name in ("torch.bfloat16", "torch.float16"):
            raise ValueError(f"expected float32 or float64 weights, received {name}; try .float()")
        array = array.detach().cpu().resolve_conj().resolve_neg().numpy()
    elif not (is_jax_array(array) or isinstance(array, (np.ndarray, np.generic))):
        raise ValueError(
            f"expected arrays as parameters, received {type(array).__qualname__}; try "
            "numpy.asarray on them"
        )
    # C order, as files and the other frameworks have it
    return np.array(array, order="C")


def _to_jax(array: np.ndarray) -> Any:
    import jax.numpy as jnp

    if array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1) == 8:
        import jax

        if not jax.config.jax_enable_x64:
            raise ValueError(
                f"expected float32 weights, as JAX is set to, received {array.dtype}; try "
                "jax.config.update('jax_enable_x64', True)"
            )
    return jnp.array(array)
