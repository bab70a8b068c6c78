"""Different ways to say the same thing give the same numbers.

Elsewhere: a torch module is its function (tests/backends/test_torch.py), backwards undoes forward
(tests/edge/test_statuses.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import RK45

import ndereg
from ndereg import ops
from ndereg.structure import flatten
from ndereg.testing import strategies
from ndereg.testing.duties import ARGS, SPAN, Y0, oscillator
from ndereg.testing.frameworks import Bench

REFERENCE = Bench("reference")
PENALTY = ndereg.ErrorEstimate() + 0.5 * ndereg.ErrorEstimate(squared=True, reduce="max")


@pytest.fixture(params=["reference", "torch"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)


def close(actual: Any, expected: Any, tolerance: float) -> None:
    pairs = zip(flatten(actual)[0], flatten(expected)[0], strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max(initial=0))


def test_dopri5_has_scipys_stages() -> None:
    """The field is evaluated at the same times and states as by SciPy's RK45, one by one."""
    ours: list[Any] = []
    theirs: list[Any] = []

    def field(t: Any, y: Any) -> Any:
        return np.stack([y[1], np.sin(t) * y[0] - y[1] ** 2])

    def seen(calls: list[Any]) -> Any:
        def called(t: Any, y: Any, args: Any = None) -> Any:
            calls.append((float(t), np.array(y)))
            return field(t, y)

        return called

    y0 = np.array([0.7, -0.4])
    solver = RK45(seen(theirs), 0.3, y0, 9.0, first_step=0.25, rtol=1e-2, atol=1e-2)
    solver.step()
    REFERENCE.solve(seen(ours), (0.3, 9.0), y0, method="dopri5", first_step=0.25, rtol=1e-2,
                    atol=1e-2, max_steps=1, throw=False)  # fmt: skip
    assert len(ours) == len(theirs) == 7
    for (t, y), (s, z) in zip(ours, theirs, strict=True):
        assert t == pytest.approx(s, rel=1e-15)
        np.testing.assert_allclose(y, z, rtol=1e-14)


@pytest.mark.parametrize("gain", [1.0, 0.6])
def test_pi_control_without_p_is_i_control(bench: Bench, gain: float) -> None:
    """Every accepted step follows from the error of the one before it, and from nothing else."""
    controller = ndereg.PIDController(pcoeff=0.0, icoeff=gain)
    solution = bench.solve(oscillator, SPAN, Y0, ARGS, rtol=1e-5, atol=1e-5, record=True,
                           method="tsit5", controller=controller, first_step=0.5)  # fmt: skip
    steps = {name: bench.get(getattr(solution.steps, name)) for name in ("h", "error", "accepted")}
    h, error, accepted = steps["h"], steps["error"], steps["accepted"]
    assert accepted.sum() > 5 and not accepted.all()
    exponent = np.where(accepted, gain, 1.0) / 5
    factor = np.clip(0.9 * error**-exponent, 0.2, 10.0)
    after_rejection = np.concatenate([[False], ~accepted[:-1]])
    factor = np.where(after_rejection & accepted, np.minimum(factor, 1.0), factor)
    np.testing.assert_allclose(h[1:-1], (h * factor)[:-2], rtol=1e-12)


def both(bench: Bench, first: dict[str, Any], second: dict[str, Any]) -> list[Any]:
    found = []
    for options in (first, second):
        field, y0, args, bar = (options.pop(name) for name in ("field", "y0", "args", "bar"))
        penalty_bar = options.pop("penalty_bar", 0.0)
        given = {"method": "bosh3", "rtol": 1e-4, "atol": 1e-4, **options}
        sol, *bars = bench.gradient(field, SPAN, y0, args, bar, penalty_bar, **given)
        found.append((bench.get(sol.ys), bench.get(sol.penalty), *bars, sol))
    return found


def test_a_batch_of_one(bench: Bench) -> None:
    """One sample by itself takes the steps of the joint solve."""
    shared = {"field": oscillator, "y0": Y0[:1], "args": ARGS, "bar": Y0[1:2],
              "regularizer": PENALTY}  # fmt: skip
    one = np.ones(1)
    joint, alone = both(
        bench,
        {**shared, "penalty_bar": np.array(1.0)},
        {**shared, "batch": "independent", "penalty_bar": one},
    )
    close(alone[0], joint[0], 1e-12)
    close(alone[1], joint[1][None], 1e-12)
    close(alone[2:4], joint[2:4], 1e-10)
    assert bench.get(alone[4].stats.nfev)[0] == joint[4].stats.nfev


def test_an_independent_batch_is_a_loop_over_samples(bench: Bench) -> None:
    """Solutions and penalties one by one, gradients of what is shared by their sum."""
    shared = {"field": oscillator, "args": ARGS, "regularizer": PENALTY}
    bars, penalties = Y0[::-1], np.array([1.0, -0.5, 2.0])
    batch, *_ = both(
        bench,
        {**shared, "y0": Y0, "bar": bars, "penalty_bar": penalties, "batch": "independent"},
        {**shared, "y0": Y0[:1], "bar": bars[:1]},
    )
    total = np.zeros_like(ARGS)
    for i in range(3):
        row = slice(i, i + 1)
        alone, _ = both(
            bench,
            {**shared, "y0": Y0[row], "bar": bars[row], "penalty_bar": penalties[i]},
            {**shared, "y0": Y0[row], "bar": bars[row]},
        )
        close(batch[0][row], alone[0], 1e-12)
        close(batch[1][i], alone[1], 1e-12)
        close(batch[2][row], alone[2], 1e-10)
        assert bench.get(batch[4].stats.naccept)[i] == alone[4].stats.naccept
        total = total + alone[3]
    close(batch[3], total, 1e-10)


@settings(max_examples=25)
@given(strategies.methods(adaptive=True), strategies.spans(), strategies.batches(), st.data())
def test_output_times_change_no_step(method: Any, span: Any, batch: Any, data: Any) -> None:
    """Whatever is asked for, the steps are the same, and their ends are among the answers."""
    times = data.draw(strategies.output_times(span).filter(lambda found: found is not None))
    options = {"method": method, "rtol": 1e-3, "atol": 1e-3, "record": True, "batch": batch}
    plain = REFERENCE.solve(oscillator, span, Y0, ARGS, **options)
    asked = REFERENCE.solve(oscillator, span, Y0, ARGS, t_eval=np.array([*times, span[1]]),
                            **options)  # fmt: skip
    for name in ("t", "h", "error", "accepted"):
        np.testing.assert_array_equal(getattr(asked.steps, name), getattr(plain.steps, name))
    last = asked.ys[-1] if batch == "joint" else asked.ys[:, -1]
    np.testing.assert_array_equal(last, plain.ys)


def test_a_nested_state_is_its_flat_one(bench: Bench) -> None:
    """The norm is that of all entries together, however they are held."""

    def nested(t: Any, y: Any, args: Any) -> Any:
        k = oscillator(t, ops.stack([y["x"], y["v"][0]], axis=-1), args)
        return {"x": k[..., 0], "v": (k[..., 1],)}

    def taken(array: Any) -> Any:
        return {"x": array[:, 0].copy(), "v": (array[:, 1].copy(),)}

    bar = Y0[::-1].copy()
    flat, tree = both(
        bench,
        {"field": oscillator, "y0": Y0, "args": ARGS, "bar": bar, "regularizer": PENALTY},
        {"field": nested, "y0": taken(Y0), "args": ARGS, "bar": taken(bar),
         "regularizer": PENALTY},
    )  # fmt: skip
    close(tree[0], taken(flat[0]), 1e-12)
    close(tree[1], flat[1], 1e-12)
    close(tree[2], taken(flat[2]), 1e-10)
    close(tree[3], flat[3], 1e-10)
    assert tree[4].stats == flat[4].stats


@pytest.mark.parametrize("method", ["bosh3", "dopri5"])
def test_single_precision_is_within_its_precision(bench: Bench, method: str) -> None:
    """On one mesh, float32 differs from float64 by rounding in float32."""
    options = {"method": method, "controller": ndereg.ConstantStep(0.3), "rtol": 1e-2,
               "atol": 1e-2, "regularizer": ndereg.ErrorEstimate(squared=True)}  # fmt: skip
    found = []
    for dtype in (np.float64, np.float32):
        y0, args, bar = (x.astype(dtype) for x in (Y0, ARGS, Y0[::-1]))
        sol, d_y0, d_args = bench.gradient(oscillator, SPAN, y0, args, bar, **options)
        assert bench.get(sol.ys).dtype == d_y0.dtype == d_args.dtype == dtype
        found.append((bench.get(sol.ys), d_y0, d_args))
    for wide, narrow in zip(*found, strict=True):
        assert np.abs(narrow - wide).max() < 200 * np.finfo(np.float32).eps * np.abs(wide).max()


def test_a_complex_state_is_a_pair_of_real_ones(bench: Bench) -> None:
    """With constant steps; real cotangents of the parts are those of the complex state."""
    options = {"controller": ndereg.ConstantStep(0.2), "method": "dopri5"}

    def rotation(t: Any, z: Any, args: Any) -> Any:
        return (1j * args[0] - args[1]) * z + 0.1 * z * z

    def pair(t: Any, y: Any, args: Any) -> Any:
        a, b = y[0], y[1]
        real = -args[0] * b - args[1] * a + 0.1 * (a * a - b * b)
        imaginary = args[0] * a - args[1] * b + 0.2 * a * b
        return ops.stack([real, imaginary])

    z0, bar = Y0[0] + 1j * Y0[1], Y0[2] - 0.4j * Y0[1]

    def parts(z: Any) -> Any:
        return np.stack([z.real, z.imag])

    args = ARGS[:2]
    complex_, real = both(
        bench,
        {"field": rotation, "y0": z0, "args": args, "bar": bar, **options},
        {"field": pair, "y0": parts(z0), "args": args, "bar": parts(bar), **options},
    )
    close(parts(complex_[0]), real[0], 1e-13)
    close(parts(complex_[2]), real[2], 1e-12)
    close(complex_[3], real[3], 1e-12)
