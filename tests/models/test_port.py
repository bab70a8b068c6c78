"""What people have written in PyTorch, ported."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import ndereg.torch as nde
from ndereg.backends.registry import load_backend
from ndereg.models import MLP, Affine, Model, NeuralODE, flatten, from_description
from ndereg.models.importing.builder import PortError
from ndereg.models.port import port
from ndereg.models.program import Program
from ndereg.solve import Face

REFERENCE = Face(load_backend("reference"))
RNG = np.random.default_rng(0)


class Block(nn.Module):
    """As in a residual network, in place and all."""

    def __init__(self, channels):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(2, channels), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels + 1, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding="same", groups=2, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, t, y):
        tt = torch.ones_like(y[:, :1]) * t
        out = self.conv1(torch.cat([tt, self.relu(self.norm1(y))], dim=1))
        out = self.conv2(functional.silu(self.norm2(out)))
        out += y
        return self.relu(out)


class ResNet(nn.Module):
    """Written by a user: skips, shapes that are asked for, attention over channels."""

    def __init__(self, channels=4):
        super().__init__()
        self.blocks = nn.ModuleList([Block(channels), Block(channels)])
        self.layer = nn.Sequential(nn.Linear(channels, 8), nn.LayerNorm(8), nn.GELU(),
                                   nn.Linear(8, channels))  # fmt: skip
        self.register_buffer("scale", torch.tensor(0.5))
        self.gain = nn.Parameter(torch.ones(channels, 1, 1), requires_grad=False)

    def forward(self, t, y):
        for block in self.blocks:
            y = block(t, y)
        batch, _channels = y.shape[0], y.size(1)
        gate = torch.sigmoid(self.layer(y.mean((2, 3)).view(batch, -1)))
        first, second = y.chunk(2, dim=1)
        ones = torch.ones(batch, 1, 1, 1, dtype=y.dtype)
        mixed = torch.cat((second, first), 1).flatten(2).permute(0, 2, 1)
        mixed = mixed.transpose(1, 2).reshape(y.shape)
        return -mixed * gate.unsqueeze(-1)[..., None] * self.scale * self.gain * ones


def resnet():
    torch.manual_seed(0)
    module = ResNet().double()
    for _ in range(2):  # statistics that are not those of the start
        module(torch.tensor(0.0), torch.randn(4, 4, 5, 5).double())
    return module.eval()


def same(module, y, t=0.3, **options):
    """Port to NumPy and back; the original's value everywhere."""
    model = port(module, to="numpy", **options)
    tensor = torch.tensor(y)
    time = torch.tensor(t, dtype=tensor.dtype)
    try:
        expected = module(time, tensor)
    except TypeError:
        expected = module(tensor)
    back = port(model, to="torch")
    np.testing.assert_allclose(model(t, y), expected.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(back(time, tensor), expected, rtol=1e-10, atol=1e-12)
    return model, back


def test_a_residual_network_is_ported_with_its_names():
    module = resnet()
    model, back = same(module, RNG.normal(size=(3, 4, 5, 5)))
    assert isinstance(model.layer, Program)
    counters = {name for name in module.state_dict() if name.endswith("num_batches_tracked")}
    assert back.state_dict().keys() == module.state_dict().keys() - counters
    for name, tensor in back.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[name]), name
    assert {n for n, _ in back.named_buffers()} == {
        n for n, _ in module.named_buffers() if n not in counters
    }
    assert not back.get_parameter("gain").requires_grad
    # any batch and any image, although it was traced once
    same(module, RNG.normal(size=(1, 4, 3, 7)))


def test_a_residual_network_is_solved_with_its_gradients():
    module, y0 = resnet(), RNG.normal(size=(2, 4, 3, 3))
    model = port(module, to="numpy")
    options = {"rtol": 1e-3, "atol": 1e-3}
    ours, pullback = REFERENCE.solve_vjp(model, (0.0, 1.0), y0, model.params, **options)
    theirs, pull = nde.solve_vjp(module, (0.0, 1.0), torch.tensor(y0), **options)
    assert ours.stats.nfev == theirs.stats.nfev
    np.testing.assert_allclose(ours.ys, theirs.ys, rtol=1e-10, atol=1e-12)
    d_y0, d_args = pullback(np.ones_like(y0))
    e_y0, e_args = pull(torch.ones_like(theirs.ys))
    np.testing.assert_allclose(d_y0, e_y0, rtol=1e-10, atol=1e-10)
    d_args = flatten(d_args)
    for name, expected in e_args.items():
        np.testing.assert_allclose(d_args[name], expected, rtol=1e-10, atol=1e-10, err_msg=name)


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 3)

    def forward(self, t, y):
        return self.cell(torch.sin(t * y), y) - y


CASES = {
    "linear": (lambda: nn.Linear(3, 3), (2, 3)),
    "sequential": (lambda: nn.Sequential(nn.Linear(3, 5), nn.Softplus(), nn.Dropout(0.5).eval(),
                                         nn.Linear(5, 3, bias=False), nn.Tanh()), (3,)),
    "conv1d": (lambda: nn.Conv1d(3, 3, 4, padding="same", dilation=2), (2, 3, 9)),
    "pooled": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.AvgPool2d(2), nn.Flatten(),
                                     nn.Linear(8, 16), nn.Unflatten(1, (1, 4, 4))), (2, 1, 4, 4)),
    "max pooled": (lambda: nn.MaxPool2d(3, stride=1, padding=1), (2, 1, 4, 4)),
    "batch norm": (lambda: nn.BatchNorm1d(3).eval(), (4, 3)),
    "activations": (lambda: nn.Sequential(nn.ELU(0.5), nn.LeakyReLU(), nn.Mish(), nn.SELU(),
                                          nn.Hardtanh(), nn.ReLU6(), nn.Softsign(), nn.LogSigmoid(),
                                          nn.Tanhshrink(), nn.GELU("tanh"), nn.Softmax(-1)),
                    (2, 3)),
    "gru": (Cell, (2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_modules_of_torch(name):
    torch.manual_seed(1)
    make, shape = CASES[name]
    same(make().double(), RNG.normal(size=shape))


FORMS = {
    "shapes": lambda t, y: y.reshape(-1).view(y.shape).T.t().transpose(0, 1).transpose(-1, -2),
    "reductions": lambda t, y: (
        y - y.mean(-1, keepdim=True) + y.sum() - y.var(0) + y.std(-1, keepdim=True, unbiased=False)
        + y.amax(1, keepdim=True) + torch.logsumexp(y, 1, keepdim=True) + y.norm(dim=1)[:, None]
    ),
    "pieces": lambda t, y: torch.cat(y.split([1, 2], dim=1)[::-1], 1) + torch.stack(
        y.unbind(1), 1) + y.roll(1, 1).flip(0) + y.narrow(1, 0, 1),
    "products": lambda t, y: torch.einsum("bi,bj->bij", y, y).sum(1) + (y @ y.mT) @ y
        + torch.matmul(y, torch.eye(3, dtype=y.dtype)) + torch.addcmul(y, y, y, value=0.5),
    "chosen": lambda t, y: torch.where(y > 0, y, 0.1 * y) + y.clamp(-1, 1) + torch.minimum(
        y, t * y) + (y.abs() > t).to(y.dtype) + torch.maximum(y, torch.zeros_like(y)),
    "numbers": lambda t, y: (1 - y) / (2 + y**2) + (2.0**y).log1p() - torch.rsub(y, 1)
        + t.item() * y + functional.softplus(y, 2.0) + functional.pad(y, (1, 1))[:, 1:-1]
        + y.sub(t, alpha=2) + y.lerp(t * y, 0.5),
    "created": lambda t, y: y + torch.full((y.shape[0], 3), 0.5, dtype=y.dtype)
        + y.new_zeros(y.size()) + torch.full_like(y, 2.0) + t.expand(y.shape[0], 1)
        + torch.arange(3, dtype=torch.float64),
    "picked": lambda t, y: y[:, [2, 0, 1]] + y[..., -1:] + y[:, None, 0] + y[
        :, torch.tensor([True, True, True])] + y.select(1, 0).unsqueeze(1),
}  # fmt: skip


class Written(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, t, y):
        return self.form(t, y) * self.weight


@pytest.mark.parametrize("name", FORMS)
def test_functions_methods_and_operators(name):
    same(Written(FORMS[name]), RNG.normal(size=(3, 3)))


class Branches(nn.Module):
    """torch.fx cannot follow it: it asks for the number of axes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("shift", torch.ones(3))

    def forward(self, t, y, scale=None):
        if y.dim() == 1:
            y = y[None]
        h = torch.tanh(self.linear(y) + self.shift)
        h = h.reshape(*y.shape[:1], -1)
        return (h * t if scale is None else h * scale).squeeze(0)


def test_what_fx_cannot_follow_is_exported_with_an_example():
    module, y = Branches().double(), RNG.normal(size=3)
    with pytest.raises(PortError, match=r"torch.fx cannot follow it.*example=\(t, y\)"):
        port(module, to="numpy")
    model, back = same(module, y, example=(0.0, y))
    assert back.state_dict().keys() == module.state_dict().keys()
    with pytest.raises(ValueError, match=r"expected y of shape \(3,\)"):
        model(0.0, np.ones((2, 3)))


def test_what_is_computed_in_place_is_seen_by_everyone():
    class InPlace(nn.Module):
        def forward(self, t, y):
            out = y * 2
            other = out
            out += 1
            return other.relu_() + out

    same(InPlace(), RNG.normal(size=(2, 3)))


class Refused(nn.Module):
    def __init__(self, part, form=None):
        super().__init__()
        self.inner = part
        self.form = form

    def forward(self, t, y):
        return self.inner(y) if self.form is None else self.form(self, t, y)


OUTSIDE = nn.Parameter(torch.ones(3))
REFUSED = {
    "batch norm": (nn.BatchNorm1d(3), None, "BatchNorm1d in submodule 'inner'.*training"),
    "dropout": (nn.Dropout(0.1), None, "'dropout' in submodule 'inner'.*dropout in training"),
    "sorting": (None, lambda m, t, y: y.sort().values, "torch operation 'sort'"),
    "random": (None, lambda m, t, y: y + torch.rand_like(y), "torch operation 'rand_like'"),
    "data-dependent": (None, lambda m, t, y: y if y.sum() > 0 else -y, "torch.fx cannot follow"),
    "in place": (None, lambda m, t, y: y.add_(1), "in-place operation 'add'"),
    "a view": (None, lambda m, t, y: (2 * y)[:1].mul_(2), "in-place operation 'mul'"),
    "detached": (None, lambda m, t, y: y.detach() * y, "torch operation 'detach'"),
    "half": (nn.Linear(3, 3).half(), None, "'inner.weight' of dtype torch.float16.*float()"),
    "padding": (nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"), None, "padding_mode"),
    "an index": (None, lambda m, t, y: y.index_select(0, y.argmax(0)), "operation 'argmax'"),
    "outside": (None, lambda m, t, y: y * OUTSIDE, "torch.fx cannot follow"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_ported_is_named(name):
    part, form, message = REFUSED[name]
    with pytest.raises(PortError, match=message):
        port(Refused(part, form), to="numpy")


def test_nested_states():
    class Oscillator(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, t, y):
            return {"place": y["speed"], "speed": -self.linear(y["place"]) * t}

    module = Oscillator().double()
    model = port(module, to="numpy")
    assert from_description(json.loads(json.dumps(model.layer.describe()))) == model.layer
    y0 = {name: RNG.normal(size=(3, 2)) for name in ("place", "speed")}
    ours = REFERENCE.solve(model, (0.0, 1.0), y0)
    theirs = nde.solve(module, (0.0, 1.0), {k: torch.tensor(v) for k, v in y0.items()})
    assert ours.stats.nfev == theirs.stats.nfev
    for name in y0:
        np.testing.assert_allclose(ours.ys[name], theirs.ys[name].detach(), atol=1e-12)


def test_a_module_of_three_arguments_is_no_field():
    class Three(nn.Module):
        def forward(self, t, y, args):
            return y

    with pytest.raises(PortError, match=r"expected a field, called with \(t, y\)"):
        port(Three(), to="numpy")


def test_the_framework_is_named():
    with pytest.raises(ValueError, match="expected to='numpy', 'torch' or 'jax'"):
        port(nn.Linear(2, 2), to="tensorflow")
    with pytest.raises(ValueError, match="expected a Model"):
        port(3, to="numpy")


def test_tied_parameters_stay_one():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.unused = nn.Parameter(torch.ones(2))

        def forward(self, y):
            return self.second(torch.tanh(self.first(y)))

    model, back = same(Tied().double(), RNG.normal(size=(2, 3)))
    assert sorted(flatten(model.params)) == ["first.bias", "first.weight", "second.bias",
                                             "unused"]  # fmt: skip
    assert len(list(back.parameters())) == 4


def test_our_own_models_go_round():
    for layer in (
        MLP((2, 4, 2), time="concatenated"),
        NeuralODE(MLP((2, 4, 2)), head=Affine(2, 1)),
    ):
        model = Model.init(layer, 0)
        module = port(model, to="torch")
        again = port(module, to="numpy")
        assert again.layer == layer
        for name, array in flatten(model.params).items():
            np.testing.assert_array_equal(flatten(again.params)[name], array)
            assert torch.equal(module.get_parameter(name), torch.tensor(array))


def test_a_ported_module_in_a_module_of_the_users():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = port(Model.init(MLP((3, 4, 3)), 0, "float64"), to="torch")
            self.linear = nn.Linear(3, 3)

        def forward(self, t, y):
            return self.linear(self.inner(t, y)) + self.inner(t, y)

    model, back = same(Outer().double(), RNG.normal(size=(2, 3)))
    assert back.state_dict().keys() == Outer().state_dict().keys()
    again = from_description(json.loads(json.dumps(model.layer.describe())))
    assert again == model.layer


def test_weights_are_copies():
    module = nn.Linear(2, 2)
    model = port(module, to="numpy")
    model.params["weight"][:] = 0
    assert module.weight.abs().max() > 0
    port(model, to="torch").weight.data.fill_(1)
    assert (model.params["weight"] == 0).all()


def test_programs_are_what_their_description_says():
    model = port(resnet(), to="numpy")
    text = json.dumps(model.layer.describe())
    again = from_description(json.loads(text))
    assert again == model.layer and hash(again) == hash(model.layer)
    assert "convolution" in str(again)
    y = RNG.normal(size=(1, 4, 3, 3))
    np.testing.assert_array_equal(again(0.0, y, model.params), model(0.0, y))
    assert Model.init(again, 0).params["blocks"]["0"]["norm1"]["weight"].tolist() == [1.0] * 4


BASE = port(Written(lambda t, y: y[:, [1, 0]] * 2), to="numpy").layer.describe()
BOMBS = {
    "reshaped": [{"call": "expand", "with": [{"value": 1}, [2**40, 2]]}],
    "filled": [{"call": "full", "with": [[2**30, 2**30], 1.0, {"value": 1}]}],
    "repeated text": [{"call": "multiply", "with": ["a", 2**40]}],
    "a large power": [{"call": "power", "with": [10, 10**9]}],
    "grown": [{"call": "multiply", "with": [{"value": i + 1}, {"value": i + 1}]}
              if i else {"call": "add", "with": [2**62, 1]} for i in range(9)],
    "an outer product": [{"call": "expand", "with": [{"value": 1}, [2**20, 1, 2, 2]]},
                         {"call": "swap_axes", "with": [{"value": 2}, 0, 1]},
                         {"call": "add", "with": [{"value": 2}, {"value": 3}]}],
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_programs_grow_nothing(name):
    calls = BOMBS[name]
    program = from_description({**BASE, "calls": calls, "result": {"value": len(calls) + 1}})
    with pytest.raises(ValueError, match="expected"):
        program(0.0, np.ones((2, 2)), {"weight": np.ones(())})


MUTATIONS = {
    "operation": lambda d: d["calls"][0].update(call="__import__"),
    "later value": lambda d: d["calls"][0].update(**{"with": [{"value": 99}]}),
    "negative value": lambda d: d["calls"][0].update(**{"with": [{"value": -1}]}),
    "unknown parameter": lambda d: d.update(result={"parameter": "other"}),
    "unknown operand": lambda d: d.update(result={"object": "os.system"}),
    "deep": lambda d: d.update(result=[[[[[[[[[[[[1]]]]]]]]]]]]),
    "constant": lambda d: d.update(result={"constant": ["O", [1], "AAAA"]}),
    "constant size": lambda d: d.update(result={"constant": ["int64", [2**39], "AAAA"]}),
    "shape": lambda d: d.update(parameters=[["a", [-1], "parameter"]]),
    "name": lambda d: d.update(parameters=[["../a", [1], "other"]]),
    "key": lambda d: d.update(code="print"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_descriptions_of_programs_are_checked(name):
    data = json.loads(json.dumps(BASE))
    MUTATIONS[name](data)
    with pytest.raises(ValueError, match="expected"):
        from_description(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["value", "parameter", "slice", "constant", "call", "with", "layer"]),
        inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(st.sampled_from(sorted(BASE)), JSON)
def test_any_other_description_is_a_value_error(key, value):
    try:
        program = from_description({**BASE, key: value})
    except ValueError:
        return
    assert from_description(json.loads(json.dumps(program.describe()))) == program


class Asking(nn.Module):
    """Asks whether it has tensors, as fields that also take numbers do."""

    def forward(self, t, y):
        if not torch.is_tensor(t):
            t = torch.tensor(float(t))
        return y * (2.0 + t) if isinstance(y, torch.Tensor) else y * 0.0


def test_a_module_that_asks_for_tensors_is_run_on_tensors():
    with pytest.raises(ValueError, match=r"cannot port a question of type.*example=\(t, y\)"):
        port(Asking(), to="numpy")
    t, y = torch.tensor(0.5, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    ported = port(Asking(), to="numpy", example=(t, y))
    expected = Asking()(t, y)
    np.testing.assert_allclose(ported(0.5, y.numpy(), ported.params), expected, rtol=1e-15)
