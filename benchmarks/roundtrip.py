"""Random fields of PyTorch, ported to NumPy, to JAX, and back: is it still the same field?

    python benchmarks/roundtrip.py --examples 50

Every field has random widths, depth, activation and time input, in float32 or float64. The weights
must come back bit for bit, under their own names. Outputs of the field, and solutions, numbers of
evaluations and gradients of a solve on each backend must be those of the original in PyTorch, to
1e-6 (float32) or 1e-12 (float64) of their largest entry.
"""

import argparse
import contextlib
import itertools
import sys
import time
from dataclasses import dataclass, field

import jax
import numpy as np
import torch
from torch import nn

import ndereg.torch as nde
from ndereg.backends.registry import load_backend
from ndereg.models import flatten
from ndereg.models.port import port
from ndereg.precision import x64
from ndereg.solve import Face

TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
ACTIVATIONS = (
    nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Softplus, nn.Sigmoid, nn.ELU,
    lambda: nn.GELU(approximate="tanh"), lambda: nn.LeakyReLU(0.1),
)  # fmt: skip
KINDS = ("mlp", "concatsquash", "conv")
SOLVE = {"method": "bosh3", "rtol": 1e-3, "atol": 1e-3}


class MLP(nn.Module):
    """A perceptron, with or without time."""

    def __init__(self, width, hidden, activation, timed):
        super().__init__()
        sizes = [width, *hidden, width]
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList(nn.Linear(n + timed, m) for n, m in pairs)
        self.activation, self.timed = activation(), timed

    def forward(self, t, y):
        for i, layer in enumerate(self.layers):
            if self.timed:
                y = torch.cat([y, torch.ones_like(y[..., :1]) * t], dim=-1)
            y = layer(y)
            y = y if i == len(self.layers) - 1 else self.activation(y)
        return y


class ConcatSquash(nn.Module):
    """One layer of FFJORD: an affine map, scaled and shifted by the time."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        self.shift = nn.Linear(1, outputs, bias=False)
        self.gate = nn.Linear(1, outputs)

    def forward(self, t, y):
        time = t.reshape(1, 1)
        return self.layer(y) * torch.sigmoid(self.gate(time)) + self.shift(time)


class Squashed(nn.Module):
    """Layers of FFJORD."""

    def __init__(self, width, hidden, activation):
        super().__init__()
        sizes = [width, *hidden, width]
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList(ConcatSquash(n, m) for n, m in pairs)
        self.activation = activation()

    def forward(self, t, y):
        for layer in self.layers[:-1]:
            y = self.activation(layer(t, y))
        return self.layers[-1](t, y)


class Conv(nn.Module):
    """Convolutions with time as a channel, and group normalization."""

    def __init__(self, channels, hidden, activation, axes):
        super().__init__()
        make = nn.Conv1d if axes == 1 else nn.Conv2d
        sizes = [channels, *(2 * n for n in hidden), channels]
        self.convs = nn.ModuleList(
            make(n + 1, m, 3, padding=1) for n, m in itertools.pairwise(sizes)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(2, n) for n in sizes[1:-1])
        self.activation = activation()

    def forward(self, t, y):
        for conv, norm in zip(self.convs, self.norms, strict=False):
            y = self.activation(norm(conv(self.with_time(t, y))))
        return self.convs[-1](self.with_time(t, y))

    def with_time(self, t, y):
        return torch.cat((t.expand_as(y[:, :1]), y), dim=1)


def random_field(seed):
    """Return a module, and a state for it."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    kind = KINDS[seed % len(KINDS)]
    activation = ACTIVATIONS[int(rng.integers(len(ACTIVATIONS)))]
    hidden = rng.integers(2, 7 if kind == "conv" else 17, int(rng.integers(1, 4))).tolist()
    width, samples = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    if kind == "mlp":
        module, shape = MLP(width, hidden, activation, bool(rng.integers(2))), (samples, width)
    elif kind == "concatsquash":
        module, shape = Squashed(width, hidden, activation), (samples, width)
    else:
        axes = int(rng.integers(1, 3))
        module = Conv(width, hidden[:2], activation, axes)
        shape = (samples, width, *(int(n) for n in rng.integers(3, 6, axes)))
    dtype = ("float32", "float64")[seed // len(KINDS) % 2]
    return module.to(getattr(torch, dtype)), rng.normal(size=shape).astype(dtype)


@dataclass
class Row:
    """One field: the largest deviations, relative to the largest entry."""

    seed: int
    name: str
    dtype: str
    exact: bool = True
    output: float = 0.0
    nfev: dict = field(default_factory=dict)
    solution: float = 0.0
    gradient: float = 0.0
    seconds: float = 0.0

    @property
    def ok(self):
        """Whether it is still the same field."""
        worst = max(self.output, self.solution, self.gradient)
        return self.exact and len(set(self.nfev.values())) == 1 and worst <= TOLERANCE[self.dtype]


def deviation(received, expected):
    """Largest difference, relative to the largest entry (or 1)."""
    received, expected = (np.asarray(x) for x in (received, expected))
    return float(np.abs(received - expected).max() / max(1.0, np.abs(expected).max()))


def solved(face, model, args, y0):
    """Return the result and the gradients of a solve."""
    sol, pullback = face.solve_vjp(model, (0.0, 1.0), y0, args, **SOLVE)
    y0_bar, args_bar = pullback(sol.ys * 0 + 1)
    # of a module they have its dotted names already
    flat = args_bar if isinstance(model, nn.Module) else flatten(args_bar)
    flat = {name: np.asarray(x) for name, x in flat.items()}
    return np.asarray(sol.ys), int(sol.stats.nfev), np.asarray(y0_bar), flat


def roundtrip(seed, backends=("reference",), in_jax=True):
    """Port a random field around, and compare.

    Parameters
    ----------
    seed : int
    backends : names among "reference", "numba", "jax"
        Where the ported field is solved, besides PyTorch.
    in_jax : bool
        Evaluate the field on JAX's arrays.
    """
    start = time.perf_counter()
    module, y = random_field(seed)
    row = Row(seed, type(module).__name__, str(y.dtype))
    wide = x64(True) if row.dtype == "float64" else contextlib.nullcontext()
    with wide:
        on_numpy = port(module, to="numpy")
        on_jax = port(on_numpy, to="jax")
        back = port(on_jax, to="torch")
        ours, theirs = back.state_dict(), module.state_dict()
        row.exact = ours.keys() == theirs.keys() and all(
            torch.equal(ours[name], theirs[name]) for name in ours
        )
        t = torch.tensor(0.3, dtype=getattr(torch, row.dtype))
        expected = module(t, torch.tensor(y)).detach().numpy()
        outputs = [on_numpy(t.numpy(), y), back(t, torch.tensor(y)).detach().numpy()]
        if in_jax:
            outputs.append(on_jax(jax.numpy.asarray(t.numpy()), jax.numpy.asarray(y)))
        row.output = max(deviation(x, expected) for x in outputs)

        ys, row.nfev["torch"], y0_bar, bars = solved(nde, module, None, torch.tensor(y))
        cases = [("ported back", nde, back, None, torch.tensor(y))]
        for name in backends:
            face = Face(load_backend(name))
            model = on_jax if name == "jax" else on_numpy
            y0 = jax.numpy.asarray(y) if name == "jax" else y
            cases.append((name, face, model, model.params, y0))
        for name, face, model, args, y0 in cases:
            ys_here, row.nfev[name], y0_bar_here, bars_here = solved(face, model, args, y0)
            row.solution = max(row.solution, deviation(ys_here, ys))
            differences = [deviation(y0_bar_here, y0_bar)]
            differences += [deviation(bars_here[key], bars[key]) for key in bars]
            row.gradient = max(row.gradient, *differences)
    row.seconds = time.perf_counter() - start
    return row


def main():
    """Print a table; exit status 1 if a field has changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backends", default="reference,numba,jax")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'seed':>4} {'field':9} {'dtype':8} {'exact':5} {'output':>8} {'nfev':>5} "
          f"{'solution':>8} {'gradient':>8} {'s':>6}")  # fmt: skip
    rows = []
    for seed in range(chosen.seed, chosen.seed + chosen.examples):
        row = roundtrip(seed, tuple(chosen.backends.split(",")))
        rows.append(row)
        nfev = "/".join(map(str, sorted(set(row.nfev.values()))))
        numbers = f"{row.solution:8.1e} {row.gradient:8.1e} {row.seconds:6.1f}"
        print(
            f"{row.seed:4} {row.name:9} {row.dtype:8} {row.exact!s:5} {row.output:8.1e} "
            f"{nfev:>5} {numbers}{'' if row.ok else '  CHANGED'}",
            flush=True,
        )
    kept = sum(row.ok for row in rows)
    print(f"{kept} of {len(rows)} are the same")
    for dtype in TOLERANCE:
        same = [row for row in rows if row.dtype == dtype]
        worst = {name: max((getattr(row, name) for row in same), default=0.0)
                 for name in ("output", "solution", "gradient")}  # fmt: skip
        print(f"{dtype}: " + ", ".join(f"{name} {value:.1e}" for name, value in worst.items()))
    sys.exit(kept != len(rows))


if __name__ == "__main__":
    main()
