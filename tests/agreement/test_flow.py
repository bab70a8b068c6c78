"""The log-density that a flow carries along: against formulas, and on every backend."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numba
import numpy as np
import pytest
import scipy.integrate
import torch

import ndereg
from ndereg import ops
from ndereg.backends.draws import uniform
from ndereg.backends.registry import load_backend

from .conftest import Bench, close

SPAN = (0.0, 1.2)
RNG = np.random.default_rng(0)
Y0, L0, ARGS = RNG.normal(size=(3, 2)), RNG.normal(size=3), RNG.normal(size=(2, 2))
EXACT: dict[str, Any] = {"method": "dopri8", "rtol": 1e-12, "atol": 1e-12, "key": 3}
STEPS: dict[str, Any] = {"method": "heun_euler", "controller": ndereg.ConstantStep(0.3), "key": 3}


def field(t: Any, y: Any, args: Any) -> Any:
    return ops.tanh(y @ args) - 0.5 * y * ops.cos(3.0 * t)


def linear(t: Any, y: Any, args: Any) -> Any:
    return (y @ args) * ops.cos(t)


def log_det_of_the_flow_map(y0: Any, span: Any = SPAN) -> float:
    """``log |det dy(t1)/dy0|`` of :func:`field`, by SciPy and the variational equation."""

    def rate(t: float, z: Any) -> Any:
        y, M = z[:2], z[2:].reshape(2, 2)
        slope = 1.0 - np.tanh(y @ ARGS) ** 2
        J = slope[:, None] * ARGS.T - 0.5 * np.cos(3.0 * t) * np.eye(2)
        return np.concatenate([np.tanh(y @ ARGS) - 0.5 * y * np.cos(3.0 * t), (J @ M).ravel()])

    start = np.concatenate([y0, np.eye(2).ravel()])
    end = scipy.integrate.solve_ivp(rate, span, start, "DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    return float(np.linalg.slogdet(end[2:].reshape(2, 2))[1])


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_the_change_is_the_log_determinant_of_the_flow_map(reference: Bench, batch: str) -> None:
    flow = ndereg.Flow(field)
    for span in (SPAN, SPAN[::-1]):
        y, density = reference.solve(flow, span, (Y0, L0), ARGS, batch=batch, **EXACT).ys
        close(density, L0 - [log_det_of_the_flow_map(row, span) for row in Y0], 1e-9)
        close(y, reference.solve(field, span, Y0, ARGS, batch=batch, **EXACT).ys, 1e-9)


def test_shapes_of_samples(reference: Bench) -> None:
    """One sample of several axes, and samples along two axes, in a nested state."""
    single = reference.solve(
        ndereg.Flow(lambda t, y, args: args * y), SPAN, (Y0, np.array(0.5)), Y0 + 2.0, **EXACT
    )
    close(single.ys[1], np.array(0.5 - np.sum(Y0 + 2.0) * SPAN[1]), 1e-9)

    def nested(t: Any, y: Any, args: Any) -> Any:
        return {"a": 2.0 * y["a"] + ops.sum(y["b"], axis=-1), "b": -3.0 * y["b"]}

    state = {"a": np.ones((4, 3)), "b": np.ones((4, 3, 2))}
    for batch, grid in (("joint", (4, 3)), ("independent", (4, 3)), ("independent", (4,))):
        options = {**EXACT, "batch": batch, "t_eval": [0.4, 1.2]}
        density = reference.solve(ndereg.Flow(nested), SPAN, (state, np.zeros(grid)), **options).ys[
            1
        ]
        per = -(2.0 - 6.0) * (1 if len(grid) == 2 else 3)
        lead = (2, *grid) if batch == "joint" else (4, 2, *grid[1:])
        assert density.shape == lead
        times = np.array([0.4, 1.2]).reshape([2 if n == 2 else 1 for n in lead])
        close(density, np.broadcast_to(per * times, lead), 1e-9)


def test_a_density_in_another_precision() -> None:
    """In JAX, which promotes no cotangent."""
    bench = Bench("jax")
    args, flow = ARGS[0].astype("float32"), ndereg.Flow(lambda t, y, args: args * y)
    with jax.enable_x64(True):
        found = bench.solve(flow, SPAN, (Y0.astype("float32"), L0), args, **STEPS).ys
        y, density = bench.get(found)
    assert (y.dtype, density.dtype) == (np.float32, np.float64)
    close(density, L0 - np.sum(ARGS[0]) * SPAN[1], 1e-6)


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_the_estimate_is_a_product_with_the_drawn_signs(reference: Bench, batch: str) -> None:
    draws = uniform(load_backend("reference"), 3, 6, "ndereg.Flow")
    e = np.where(draws < 0.5, -1.0, 1.0).reshape(3, 2)
    assert len({tuple(row) for row in e}) > 1
    flow = ndereg.Flow(linear, divergence="hutchinson")
    density = reference.solve(flow, SPAN, (Y0, L0), ARGS, batch=batch, **EXACT).ys[1]
    close(density, L0 - np.sum((e @ ARGS) * e, axis=1) * np.sin(SPAN[1]), 1e-9)


def test_gradients_against_closed_forms(reference: Bench) -> None:
    """Of ``density = l0 - tr(A) sin(T)``; and of the field above by differences."""
    bar = np.array([1.0, -2.0, 0.5])
    _, (d_y, d_l), d_args = reference.gradient(
        ndereg.Flow(linear), SPAN, (Y0, L0), ARGS, (np.zeros_like(Y0), bar), **EXACT
    )
    close(d_args, -np.sum(bar) * np.sin(SPAN[1]) * np.eye(2), 1e-9)
    close(d_l, bar, 1e-12)
    assert np.max(np.abs(d_y)) < 1e-9
    _, (d_y, _), _ = reference.gradient(
        ndereg.Flow(field), SPAN, (Y0, L0), ARGS, (np.zeros_like(Y0), bar), **EXACT
    )
    moved = np.array([1e-4, 0.0])
    slopes = [
        -(log_det_of_the_flow_map(y + moved) - log_det_of_the_flow_map(y - moved)) / 2e-4
        for y in Y0
    ]
    close(d_y[:, 0], bar * slopes, 1e-6)


def test_integrals_are_those_of_the_field(reference: Bench) -> None:
    """Along ``y``, without the density; the same steps where these have one size."""
    regularizer = ndereg.Kinetic() + 0.5 * ndereg.Taylor(2)
    alone = reference.solve(field, SPAN, Y0, ARGS, regularizer=regularizer, **STEPS).penalty
    flow = ndereg.Flow(field, "hutchinson")
    sol = reference.solve(flow, SPAN, (Y0, L0), ARGS, regularizer=regularizer, **STEPS)
    close(sol.penalty, alone, 1e-12)
    # the signs of the Jacobian's norm are those of the divergence
    draws = uniform(load_backend("reference"), 3, 6, "ndereg.Flow")
    e = np.where(draws < 0.5, -1.0, 1.0).reshape(3, 2)
    sol = reference.solve(
        ndereg.Flow(lambda t, y, args: y @ args, "hutchinson"), SPAN, (Y0, L0), ARGS,
        regularizer=ndereg.JacobianFrobenius(), **EXACT,
    )  # fmt: skip
    close(sol.penalty, np.mean((e @ ARGS.T) ** 2) * SPAN[1], 1e-9)


def test_every_backend_agrees(bench: Bench, reference: Bench) -> None:
    """Exact everywhere, with a regularizer of the steps; the estimate where nothing compiles."""
    cases: list[dict[str, Any]] = [{"regularizer": ndereg.ErrorEstimate(), "rtol": 0.1}]
    kinds = ["exact"]
    if bench.name == "torch":
        rnode = ndereg.Kinetic() + ndereg.JacobianFrobenius()
        cases += [{"regularizer": rnode, "batch": "independent", "t_eval": [0.5, 1.2]}]
        kinds += ["hutchinson"]
    for kind, options in zip(kinds, cases, strict=True):
        found = []
        for each in (bench, reference):
            flow = ndereg.Flow(field, kind)  # type: ignore[arg-type]
            times = 2 if "t_eval" in options else 1
            random = np.random.default_rng(4)
            bars = random.normal(size=(3, times, 2)), random.normal(size=(3, times))
            if times == 1:
                bars = bars[0][:, 0], bars[1][:, 0]
            bar = np.array([1.0, -2.0, 0.5]) if "batch" in options else 1.5
            sol, *gradients = each.gradient(
                flow, SPAN, (Y0, L0), ARGS, bars, bar, **STEPS, **options
            )
            found.append((each.get(sol.ys), each.get(sol.penalty), *gradients))
        close(found[0], found[1], 1e-10)


def test_keys_of_jax() -> None:
    """A traced key draws signs of its own."""
    face = Bench("jax").face
    start = jnp.asarray(Y0, jnp.float32), jnp.zeros(3)
    flow = ndereg.Flow(lambda t, y, args: y @ args, "hutchinson")

    @jax.jit
    @jax.vmap
    def change(key: Any) -> Any:
        args = jnp.asarray(ARGS, jnp.float32)
        return face.solve(flow, SPAN, start, args, **{**STEPS, "key": key}).ys[1]

    changes = np.asarray(change(jax.random.split(jax.random.key(1), 4)))
    diagonal, rest = np.trace(ARGS), ARGS[0, 1] + ARGS[1, 0]
    nearest = np.minimum(*(np.abs(changes / -SPAN[1] - diagonal - s * rest) for s in (-1, 1)))
    assert nearest.max() < 1e-5
    assert len(np.unique(np.sign(changes / -SPAN[1] - diagonal))) == 2


def test_modules_and_their_parameters(reference: Bench) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(2, 2, dtype=torch.float64), torch.nn.Tanh())
    face, flow = Bench("torch").face, ndereg.Flow(module)
    start = torch.tensor(Y0), torch.tensor(L0)
    density = face.solve(flow, SPAN, start, **STEPS).ys[1]
    density.sum().backward()
    _, pullback = face.solve_vjp(flow, SPAN, start, **STEPS)
    _, named = pullback((torch.zeros(3, 2), torch.ones(3)))
    for name, parameter in module.named_parameters():
        close(named[name].numpy(), parameter.grad.numpy(), 1e-12)
    weights = tuple(p.detach().numpy() for p in module.parameters())
    same = ndereg.Flow(lambda t, y, args: ops.tanh(y @ args[0].T + args[1]))
    expected = reference.solve(same, SPAN, (Y0, L0), weights, **STEPS).ys[1]
    close(density.detach().numpy(), expected, 1e-12)


@pytest.mark.parametrize(
    ("flow", "y0", "message"),
    [
        (ndereg.Flow(field), Y0, r"state \(y, log_density\) for an ndereg.Flow, received \*"),
        (ndereg.Flow(field), (Y0, np.zeros(2)), r"shape of the samples.*received shape \(2,\)"),
        (ndereg.Flow(field), (Y0 + 0j, L0), "real state for an ndereg.Flow, received dtype comp"),
        (ndereg.Flow(field, "hutchinson"), (Y0, L0), "key for the random choice of ndereg.Flow"),
        (ndereg.Flow(numba.njit(field)), (Y0, L0), "plain Python field for ndereg.Flow"),
    ],
)
def test_what_is_no_flow_is_refused(reference: Bench, flow: Any, y0: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        reference.solve(flow, SPAN, y0, ARGS)


def test_a_flow_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a callable for Flow.field, received 3"):
        ndereg.Flow(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Flow.field, received SDE.* a function f\(t, y, args\)"):
        ndereg.Flow(ndereg.SDE(field, field))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Flow.divergence to be one of exact, hutchinson"):
        ndereg.Flow(field, "trace")  # type: ignore[arg-type]
