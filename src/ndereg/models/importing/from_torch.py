"""Modules of PyTorch as programs, through ``torch.fx`` or ``torch.export``.

``torch.fx`` keeps questions about shapes as operations, so that the program takes any batch. Where
it cannot follow, at a branch on a value that is not known, ``torch.export`` traces with an example.
"""

from __future__ import annotations

import contextlib
import inspect
import operator
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from ndereg.models.importing import torch_layers, torch_shapes  # noqa: F401, they add to the table
from ndereg.models.importing.builder import STATE, TIME, Builder, PortError
from ndereg.models.importing.own import own_model
from ndereg.models.importing.torch_modules import MODULES
from ndereg.models.importing.torch_operations import TABLE, Unsupported, known
from ndereg.models.model import Model
from ndereg.models.neural_ode import NeuralODE
from ndereg.models.operands import Constant, Operand, Ref
from ndereg.models.parameters import flatten

_NESTED = (dict, tuple, list)
_COMPUTED = ("arange", "eye", "linspace", "tensor")
_FACTORIES = ("zeros", "ones", "full")
_IN_PLACE = {operator.iadd: "add", operator.isub: "sub", operator.imul: "mul",
             operator.itruediv: "div"}  # fmt: skip
_VIEWS = frozenset(
    ("getitem", "view", "reshape", "t", "transpose", "permute", "expand", "squeeze", "unsqueeze",
     "chunk", "split", "flatten", "narrow", "unbind", "select", "movedim", "swapaxes", "unflatten",
     "view_as", "expand_as", "detach", "getattr", "contiguous", "to", "float", "double")
)  # fmt: skip
_ASSERTIONS = ("_assert", "_assert_is_none", "_assert_async", "_assert_tensor_metadata",
               "sym_constrain_range_for_size", "_assert_scalar")  # fmt: skip


def import_module(module: nn.Module, example: tuple[Any, Any] | None) -> Model:
    """Return a module as a program with its parameters, as NumPy arrays.

    Parameters
    ----------
    module : torch.nn.Module
        Called as ``module(t, y)``, or ``module(y)`` if that is all it takes.
    example : (t, y) or None
        For modules that need one, and to check the program with.

    Raises
    ------
    PortError
        Naming the submodule and the operation that cannot be ported.
    """
    names, defaults = _arguments(module)
    asking = _asking_for_types(module)
    if asking is not None and (example is None or isinstance(example[1], _NESTED)):
        raise PortError(
            asking, "a question of type", "torch.fx answers it for something that is no tensor",
            "port(model, to=..., example=(t, y)), which runs it on tensors",
        )  # fmt: skip
    try:
        if asking is not None:
            raise TypeError("it asks for types")
        graph, root = _traced(module, defaults)
    except PortError:
        raise
    except Exception as error:
        if example is None:
            raise PortError(
                "", type(module).__name__, f"torch.fx cannot follow it ({error})",
                "port(model, to=..., example=(t, y)), which traces it with the shapes of these, "
                "or torch.where in place of a branch",
            ) from error  # fmt: skip
        if isinstance(example[1], _NESTED):
            raise PortError("", type(module).__name__, f"torch.fx cannot follow it ({error})",
                            "a state of one tensor, or torch.where in place of branches"
                            ) from error  # fmt: skip
        model = _exported(module, names, example)
    else:
        inputs = dict(zip(names, (TIME, STATE) if len(names) == 2 else (STATE,), strict=True))
        model = _Graph(graph, root).convert(inputs)
    if example is not None and not isinstance(example[1], _NESTED):
        _verify(module, names, model, example)
    return model


def _asking_for_types(module: nn.Module) -> str | None:
    """Path of a submodule whose code asks whether it has a tensor; None if there is none."""
    for path, part in module.named_modules():
        code = getattr(type(part).forward, "__code__", None)
        written = not type(part).__module__.startswith(("torch.", "ndereg."))
        if written and code is not None and {"isinstance", "is_tensor"} & set(code.co_names):
            return path
    return None


def _arguments(module: nn.Module) -> tuple[list[str], dict[str, Any]]:
    """Names of the arguments that are t and y, and defaults of the others."""
    parameters = inspect.signature(module.forward).parameters
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p for p in parameters.values() if p.kind in kinds]
    required = [p for p in positional if p.default is inspect.Parameter.empty]
    if not positional or len(required) > 2:
        raise PortError(
            "", f"{type(module).__name__}.forward{tuple(parameters)}",
            "expected a field, called with (t, y) or (y)",
            "a module that carries its parameters and takes t and y only",
        )  # fmt: skip
    chosen = positional[: max(1, len(required))]
    if len(required) == 1 and len(positional) == 2:
        chosen = positional  # forward(t, y=None) is nothing that one writes for (y) alone
    defaults = {p.name: p.default for p in parameters.values()
                if p not in chosen and p.default is not inspect.Parameter.empty}  # fmt: skip
    return [p.name for p in chosen], defaults


class _Proxy(fx.Proxy):
    """Records ``x += y`` as such: it changes ``x`` for everyone who has it."""

    def __iadd__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class _Tracer(fx.Tracer):
    """Looks into every module but those that are converted whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in MODULES or _is_ours(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def _traced(module: nn.Module, defaults: dict[str, Any]) -> tuple[fx.Graph, nn.Module]:
    if type(module) in MODULES or _is_ours(module):
        # a module that is converted whole, as part of one that is looked into
        graph = fx.Graph()
        names, _ = _arguments(module)
        graph.output(graph.call_module("0", tuple(map(graph.placeholder, names))))
        return graph, _Lone(module)
    tracer = _Tracer()
    before = set(vars(module))
    with _created_by(tracer):
        graph = tracer.trace(module, concrete_args=defaults or None)
    # constants of the trace are left as attributes of the user's module
    constants = {name: vars(module).pop(name) for name in set(vars(module)) - before}
    return graph, _Root(module, constants)


def _is_ours(module: nn.Module) -> bool:
    return type(module).__module__.startswith("ndereg.models.")


class _Lone(nn.Sequential):
    """Holds a module that is converted whole."""


class _Root(nn.Module):
    """The module with the constants of its trace."""

    def __init__(self, module: nn.Module, constants: dict[str, Any]) -> None:
        super().__init__()
        self.module = module
        self.constants = constants

    def __getattr__(self, name: str) -> Any:
        if name in ("module",):
            return super().__getattr__(name)
        if name in self.constants:
            return self.constants[name]
        return getattr(self.module, name)


@contextlib.contextmanager
def _created_by(tracer: fx.Tracer) -> Iterator[None]:
    """Record ``torch.ones(y.shape[0], 1)`` and the like, which torch.fx does not."""
    originals = {name: getattr(torch, name) for name in _FACTORIES}

    def recording(original: Callable[..., Any]) -> Callable[..., Any]:
        def create(*args: Any, **kwargs: Any) -> Any:
            found: list[Any] = []
            fx.node.map_aggregate(
                (args, kwargs), lambda x: found.append(x) if isinstance(x, fx.Proxy) else None
            )
            if found:
                return tracer.create_proxy("call_function", original, args, kwargs)
            return original(*args, **kwargs)

        return create

    try:
        for name, original in originals.items():
            setattr(torch, name, recording(original))
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)


class _Graph:
    """Converts a graph, node by node."""

    def __init__(self, graph: fx.Graph, root: nn.Module) -> None:
        self.graph, self.root = graph, root
        self.builder = Builder()
        self.values: dict[fx.Node, Operand] = {}
        self.aliases: dict[fx.Node, list[fx.Node]] = {}
        module = root.module if isinstance(root, _Root) else root
        first: dict[int, str] = {}
        self.parameters: dict[str, str] = {}
        self.module_parameters = [] if isinstance(root, _Lone) else list(
            module.named_parameters())  # fmt: skip
        for name, parameter in module.named_parameters(remove_duplicate=False):
            self.parameters[name] = first.setdefault(id(parameter), name)

    def convert(self, inputs: dict[str, Ref], given: dict[str, Any] | None = None) -> Model:
        """Return the program; ``given`` are the values of other placeholders, by name."""
        order = list(inputs.values())
        result: Operand = None
        for node in self.graph.nodes:
            if node.op == "placeholder":
                if given is not None and node.target in given:
                    self.values[node] = self.array(*given[node.target])
                elif order:
                    self.values[node] = order.pop(0)
            elif node.op == "output":
                result = self.operands(node.args[0])
                if isinstance(result, tuple) and len(result) == 1 and given is not None:
                    (result,) = result
            elif node.op == "get_attr":
                self.values[node] = self.attribute(str(node.target))
            elif node.op == "call_module":
                self.values[node] = self.module(node)
            elif _name(node.target) not in _ASSERTIONS:
                self.values[node] = self.function(node)
        for name, parameter in self.module_parameters:
            # also those that nothing uses: the state_dict has them
            if not self.builder.declared(name):
                self.array(name, parameter)
        return self.builder.model(result)

    def operands(self, tree: Any) -> Any:
        """Return the arguments of a node as operands."""
        if isinstance(tree, fx.Node):
            if tree not in self.values:
                raise PortError(_path(tree), f"the argument {tree.name!r}", "it has no value here",
                                "a module that takes t and y only")  # fmt: skip
            return self.values[tree]
        if isinstance(tree, (tuple, list)):
            return tuple(self.operands(item) for item in tree)
        if isinstance(tree, dict):
            return {key: self.operands(item) for key, item in tree.items()}
        if isinstance(tree, slice):
            return slice(*self.operands((tree.start, tree.stop, tree.step)))
        return tree

    def attribute(self, path: str) -> Operand:
        """Return a parameter, a buffer or a constant."""
        found: Any = self.root
        for name in path.split("."):
            found = getattr(found, name)
        return self.array(self.parameters.get(path, path), found)

    def array(self, path: str, tensor: Any) -> Operand:
        """Declare a tensor; integers, which are indices, become part of the program."""
        array = _array(tensor, path)
        if array.dtype.kind in "biu":
            return Constant.of(array) if array.ndim else array.item()
        if isinstance(tensor, nn.Parameter):
            return self.builder.weight(path, array, "parameter" if tensor.requires_grad
                                       else "frozen")  # fmt: skip
        return self.builder.weight(path, array, "buffer")

    def module(self, node: fx.Node) -> Operand:
        """Convert a call of a module as a whole."""
        path = str(node.target)
        module = self.root.get_submodule(path)
        if isinstance(self.root, _Lone):
            path = ""
        args, named = self.operands(node.args), self.operands(node.kwargs)
        if _is_ours(module):
            model = own_model(module)
            assert model is not None
            if isinstance(model.layer, NeuralODE):
                raise PortError(path, type(module).__name__, "it contains a solve of its own",
                                "its field, module.layer.field")  # fmt: skip
            arrays = {name: _array(x, path) for name, x in flatten(model.params).items()}
            operands = args if len(args) == 2 else (TIME, *args)
            return self.builder.layer(model.layer, path or "model", arrays, *operands)

        def weight(name: str) -> Operand:
            tensor = getattr(module, name)
            dotted = f"{path}.{name}" if path else name
            return None if tensor is None else self.array(
                self.parameters.get(dotted, dotted), tensor)  # fmt: skip

        try:
            return MODULES[type(module)](self.builder, module, weight, *args, **named)
        except (Unsupported, TypeError) as error:
            raise PortError(path, type(module).__name__, str(error) or "it is not supported",
                            "another module") from error  # fmt: skip

    def function(self, node: fx.Node) -> Operand:
        """Convert a call of a function or a method."""
        name = _name(node.target)
        in_place = node.target in _IN_PLACE or (
            node.op == "call_method" and name.endswith("_") and not name.endswith("__")
        )
        args, named = self.operands(node.args), self.operands(node.kwargs)
        if name == "sqrt" and getattr(node.target, "__module__", "") == "math":
            return self.builder.call("power", args[0], 0.5)
        base = _IN_PLACE.get(node.target, name.removesuffix("_") if in_place else name)
        in_place = in_place or bool(named.get("inplace"))
        path = _path(node)
        if base in _COMPUTED and known(args) and known(tuple(named.values())):
            given = {key: value for key, value in named.items() if value is not None}
            made = self.array(f"constants.{node.name}", node.target(*args, **given))  # type: ignore[operator]
            # where a dtype was computed, it is that of the state
            computed = isinstance(node.kwargs.get("dtype"), fx.Node)
            return self.builder.call("cast_like", made, STATE) if computed else made
        if base not in TABLE:
            raise PortError(path, f"torch operation {base!r}",
                            "it is not among the operations of a program",
                            "operations that are: arithmetic, shapes, reductions, matrix products, "
                            "activations and layers of torch.nn")  # fmt: skip
        try:
            value = TABLE[base](self.builder, *args, **named)
        except (Unsupported, TypeError) as error:
            raise PortError(path, f"torch operation {base!r}", f"{error} cannot be ported",
                            "an equivalent operation") from error  # fmt: skip
        if in_place and not all(map(known, args[:1])):
            self.assign(node, value, base)
        return value

    def assign(self, node: fx.Node, value: Operand, name: str) -> None:
        """Make later users of the changed tensor see its new value."""
        changed = node.args[0]
        aliases = [changed, *(user for user in changed.users if user is not node)]  # type: ignore[union-attr]
        if changed.op in ("placeholder", "get_attr") or any(  # type: ignore[union-attr]
            _name(alias.target) in _VIEWS for alias in aliases
        ):
            raise PortError(_path(node), f"the in-place operation {name!r}",
                            "it also changes an argument, a parameter or a view",
                            "the operation that returns a new tensor")  # fmt: skip
        # the node and what it changed are one tensor from here on
        one = self.aliases.setdefault(changed, [changed])  # type: ignore[arg-type, list-item]
        one.append(node)
        self.aliases[node] = one
        self.values.update(dict.fromkeys(one, value))


def _name(target: Any) -> str:
    if isinstance(target, str):
        return target
    schema = getattr(target, "_schema", None)
    if schema is not None:
        return str(schema.name).rpartition("::")[2]
    return str(getattr(target, "__name__", target)).removeprefix("_VariableFunctionsClass.")


def _path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    entry = list(stack.values())[-1]
    return str(entry[0] if isinstance(entry, tuple) else entry).removeprefix("L['self'].")


def _array(tensor: Any, path: str) -> np.ndarray:
    if not isinstance(tensor, torch.Tensor):
        raise PortError(path.rpartition(".")[0], f"the attribute {path!r}", "it is no tensor",
                        "a tensor, registered as a buffer")  # fmt: skip
    if tensor.dtype in (torch.bfloat16, torch.float16) or tensor.layout != torch.strided:
        raise PortError(path.rpartition(".")[0], f"{path!r} of dtype {tensor.dtype}",
                        "NumPy has no such array", "model.float()")  # fmt: skip
    return tensor.detach().cpu().resolve_conj().resolve_neg().numpy()


# torch.export


def _exported(module: nn.Module, names: list[str], example: tuple[Any, Any]) -> Model:
    t, y = (torch.as_tensor(np.asarray(x)) if not isinstance(x, torch.Tensor) else x
            for x in example)  # fmt: skip
    given = (t.to(y.dtype), y)[2 - len(names) :]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch.export does, not of the module
            program = torch.export.export(module, given).run_decompositions({})
    except Exception as error:
        raise PortError(
            "", type(module).__name__, f"torch.export cannot follow it ({error})",
            "torch.where in place of branches on values",
        ) from error  # fmt: skip
    signature = program.graph_signature
    lifted: dict[str, tuple[str, Any]] = {}
    for name, path in signature.inputs_to_parameters.items():
        lifted[name] = (path, program.state_dict[path])
    for name, path in signature.inputs_to_buffers.items():
        found = program.state_dict.get(path)
        lifted[name] = (path, program.constants[path] if found is None else found)
    for name, path in signature.inputs_to_lifted_tensor_constants.items():
        lifted[name] = (path, program.constants[path])
    if signature.buffers_to_mutate:
        raise PortError("", f"the buffers {sorted(signature.buffers_to_mutate.values())}",
                        "they change from call to call", "model.eval()")  # fmt: skip
    inputs = dict(zip(names, (TIME, STATE) if len(names) == 2 else (STATE,), strict=True))
    graph = _Graph(program.graph, module)
    model = graph.convert(inputs, lifted)
    shapes = (tuple(t.shape) if len(names) == 2 else None, tuple(y.shape))
    return graph.builder.model(model.layer.result, shapes)  # type: ignore[attr-defined]


def _verify(module: nn.Module, names: list[str], model: Model, example: tuple[Any, Any]) -> None:
    """Compare the program with the module.

    Raises
    ------
    PortError
        If they differ by more than rounding.
    """
    like = next(iter(module.parameters()), torch.zeros(()))
    t, y = (torch.as_tensor(np.asarray(x)) if not isinstance(x, torch.Tensor) else x
            for x in example)  # fmt: skip
    t = t.to(y.dtype).to(like.device)
    y = y.to(like.device)
    with torch.no_grad():
        expected = module(*(t, y)[2 - len(names) :])
        received = torch.as_tensor(model(t.cpu().numpy(), y.cpu().numpy()))
    scale = max(1.0, float(expected.abs().max()))
    error = float((expected.cpu() - received).abs().max()) / scale
    if not error < (1e-4 if y.dtype == torch.float32 else 1e-9):
        raise PortError("", type(module).__name__,
                        f"its program differs from it by {error:.1e} at the example",
                        "model.eval(), and no operations in place")  # fmt: skip
