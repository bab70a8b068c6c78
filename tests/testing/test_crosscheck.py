"""Cross-checks: what they compare, what they say, and what they leave out."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import ndereg
from ndereg import ops
from ndereg.backends.reference import ReferenceBackend
from ndereg.testing import (
    CrossCheckReport,
    Disagreement,
    Example,
    Row,
    assert_backends_agree,
    crosscheck,
    frameworks,
    gradient_audit,
)
from ndereg.testing.adaptive import compare_runs
from ndereg.testing.deviation import LIMIT, Observations, compare
from ndereg.testing.duties import ARGS, SPAN, Y0, oscillator
from ndereg.testing.trial import Outcome, Trial

from .broken_backends import DEFECTS


def printed(report: Any) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.table())
    return console.export_text()


def test_all_installed_backends() -> None:
    """Independent samples, rejections, two terms: every backend stays far below the limit."""
    regularizer = ndereg.ErrorEstimate() + 0.5 * ndereg.ErrorEstimate(squared=True, reduce="max")
    report = crosscheck(
        oscillator, (0.2, 1.4), Y0, ARGS, method="heun_euler", batch="independent",
        regularizer=regularizer, rtol=1e-2, atol=1e-2, replays=4,
    )  # fmt: skip
    report.raise_if_failed()
    assert {row.backend for row in report.rows} == {"numba", "torch", "jax"}
    assert {row.check for row in report.rows} == {"replay", "run", "rejections"}
    assert {"state", "error estimate", "penalty", "gradient of y0", "gradient of args",
            "decisions", "step sizes", "counts and status", "solution"} <= {
        row.quantity for row in report.rows
    }  # fmt: skip
    assert max(row.deviation for row in report.rows) < LIMIT / 4
    assert all(row.compared and row.condition >= 1 for row in report.rows)


def test_jax_without_double_precision() -> None:
    """Its step sizes are rounded to float32; the last step is what is left of the span."""
    report = crosscheck(
        oscillator, (1.56, 2.81), Y0[:1].astype("float32"), ARGS.astype("float32"),
        method="euler", controller=ndereg.ConstantStep(0.156), backends=["jax"], replays=2,
    )  # fmt: skip
    report.raise_if_failed()


@pytest.mark.parametrize(
    "options",
    [
        {"t_eval": np.array([0.2, 0.7, 2.6]), "first_step": 0.1},
        {"gradients": False, "batch": "independent"},
        {"adjoint": ndereg.Discrete(checkpoints=2), "controller": "PID"},
        {"max_steps": 3},
    ],
    ids=lambda options: "-".join(options),
)
def test_options(options: Any) -> None:
    report = assert_backends_agree(
        oscillator, SPAN, Y0, ARGS, backends=["torch"], method="bosh3", rtol=1e-3, atol=1e-3,
        replays=3, **options,
    )  # fmt: skip
    assert any("gradient" in row.quantity for row in report.rows) == options.get("gradients", True)


def test_arrays_of_any_framework_and_numbers() -> None:
    import torch

    y0 = {"a": torch.ones(2), "b": torch.ones(1)}
    field = lambda t, y, args: {"a": -args * y["a"], "b": ops.sin(y["b"])}  # noqa: E731
    report = crosscheck(field, (1.0, 0.0), y0, 0.5, backends=["torch"], replays=2)
    assert report.ok and "float32" in report.problem


def test_solves_that_fail_alike_agree() -> None:
    blow_up = lambda t, y, args: y * y  # noqa: E731
    report = crosscheck(blow_up, (0.0, 2.0), np.ones(1), backends=["torch"], max_steps=60)
    assert report.ok
    infinite = crosscheck(blow_up, (0.0, 2.0), np.array([np.inf]), backends=["torch"])
    assert infinite.ok and infinite.replayed == 0


def test_no_time_to_pass() -> None:
    report = crosscheck(oscillator, (1.0, 1.0), Y0, ARGS, backends=["torch"])
    assert report.ok and report.attempts == 0


def test_a_disagreement_is_told() -> None:
    """The verdict names backend, check, quantity and place; JSON and table have every row."""
    backend, _ = DEFECTS["wrong coefficient"]
    report = crosscheck(oscillator, SPAN, Y0, ARGS, backends=[backend, "torch"], method="bosh3",
                        rtol=1e-3, atol=1e-3, replays=3)  # fmt: skip
    assert not report.ok
    assert {row.backend for row in report.failures} == {backend.name}
    with pytest.raises(Disagreement) as caught:
        report.raise_if_failed()
    message = str(caught.value)
    assert "expected" in message and "received" in message and "try" in message
    assert f"{backend.name}, replay: state deviates by" in message and "step" in message
    data = json.loads(report.to_json())
    assert data["ok"] is False and len(data["rows"]) == len(report.rows)
    assert data["replayed"] == 3
    text = printed(report)
    assert "✗" in text and "torch" in text and "gradient of args" in text
    assert "agree" in CrossCheckReport((), "nothing").verdict()


def test_backends_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are left out, and refused when asked for."""
    load = frameworks.load_backend

    def without_jax(name: str) -> Any:
        if name == "jax":
            raise ImportError("no module named jax")
        return load(name)

    monkeypatch.setattr(frameworks, "load_backend", without_jax)
    names, missing = frameworks.installed_backends()
    assert names == ["numba", "torch"] and missing == [("jax", "no module named jax")]
    report = CrossCheckReport((), "a problem", left_out=tuple(missing))
    assert "not installed: jax" in printed(report)
    with pytest.raises(ImportError) as caught:
        crosscheck(oscillator, SPAN, Y0, ARGS, backends=["jax"])
    assert "backends=['jax']" in caught.value.__notes__[0]


@pytest.mark.parametrize("backends", [[], "torch", ["tensorflow"]])
def test_names_of_backends_are_checked(backends: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        crosscheck(oscillator, SPAN, Y0, ARGS, backends=backends)


def test_errors_name_the_backend() -> None:
    """A field that runs on NumPy only."""
    field = lambda t, y, args: np.tanh(y)  # noqa: E731
    with pytest.raises((TypeError, RuntimeError)) as caught:
        crosscheck(field, (0.0, 1.0), np.ones(2), backends=["torch"])
    assert any("'torch'" in note for note in caught.value.__notes__)


def test_bad_input_is_refused_as_by_solve() -> None:
    with pytest.raises(TypeError, match="expected y0 to have dtype"):
        crosscheck(oscillator, SPAN, np.ones(2, int), ARGS, backends=["torch"])
    with pytest.raises(ValueError, match="tsit5"):
        crosscheck(oscillator, SPAN, Y0, ARGS, method="tist5", backends=["torch"])


def observed(*values: Any) -> Observations:
    found = Observations()
    for step, value in enumerate(values):
        found.add("state", {"a": np.asarray(value)}, step)
    return found


def test_deviations_are_in_units_of_measured_rounding() -> None:
    epsilon = 2.0**-52
    expected, moved = observed([1.0, 2.0]), observed([1.0, 2.0 * (1 + 100 * epsilon)])
    actual = observed([1.0, 2.0 * (1 + 300 * epsilon)])
    (row,) = compare("b", "replay", expected, actual, [moved], epsilon)
    assert row.deviation == pytest.approx(3.0) and row.condition == pytest.approx(100.0)
    assert row.ok and row.place == "step 0, ['a']"
    (row,) = compare("b", "replay", expected, actual, [], epsilon)
    assert row.deviation == pytest.approx(300.0) and not row.ok
    assert compare("b", "replay", observed([0.0]), observed([0.0]), [], epsilon)[0].deviation == 0
    assert compare("b", "replay", observed([0.0]), observed([1e-300]), [], epsilon)[0].ok is False
    for other in (observed([np.nan, 2.0]), observed([1.0]), observed([1.0, 2.0], [1.0, 2.0])):
        (row,) = compare("b", "replay", expected, other, [], epsilon)
        assert row.deviation == np.inf and row.note
    both = observed([np.nan, np.inf])
    assert compare("b", "replay", both, observed([np.inf, np.nan]), [], epsilon)[0].ok


def outcome(errors: list[float], nfev: int = 3) -> Outcome:
    column = np.asarray(errors)[:, None]
    times = np.arange(float(len(errors)))[:, None]
    steps = {"t": times, "h": np.ones_like(column), "error": column,
             "stiffness": np.full_like(column, np.nan), "accepted": column <= 1}  # fmt: skip
    counts = {"nfev": [nfev], "naccept": [1], "nreject": [1], "status": [0]}
    return Outcome(np.ones(1), np.zeros(()), counts, steps, np.ones(1), None)


@pytest.mark.parametrize("error", [1.0, 1.0 + 2e-15, 1.001])
def test_decisions_within_rounding_of_one_are_excused(error: float) -> None:
    """The runs part at the second attempt; solutions are then compared to the tolerance."""
    trial = Trial(oscillator, SPAN, np.ones(1), None, {})
    expected = outcome([0.5, 1.0])
    noise = [outcome([0.5, 1.0 - 1e-15]), outcome([0.5, 1.0 - 2e-15])]
    rows = compare_runs(
        "b", "run", trial, expected, outcome([0.5, error, 0.5][: 2 + (error > 1)]), noise
    )
    by_name = {row.quantity: row for row in rows}
    assert by_name["decisions"].ok
    assert by_name["error estimate"].ok == (error < 1.0001)
    assert ("solution, other steps" in by_name) == (error > 1)


def test_counts_have_to_be_equal() -> None:
    trial = Trial(oscillator, SPAN, np.ones(1), None, {})
    rows = compare_runs("b", "run", trial, outcome([0.5]), outcome([0.5], nfev=4), [])
    (row,) = [row for row in rows if not row.ok]
    assert row.quantity == "counts and status" and "nfev [4] instead of [3]" in row.note


def test_rows_are_numbers_with_a_verdict() -> None:
    assert Row("b", "run", "state", 1, 3.0, 1.0).ok
    assert not Row("b", "run", "state", 1, np.inf, 1.0).ok
    assert not Row("b", "run", "state", 1, np.nan, 1.0).ok


def spring(t: Any, y: Any, args: Any) -> Any:
    return ops.stack([y[1], -args * y[0]])


def mean_reverting(t: Any, y: Any, args: Any) -> Any:
    return args * (ops.sin(t) - y)


def spread(t: Any, y: Any, args: Any) -> Any:
    return 0.3 + 0.1 * args * ops.cos(y)


EQUATION = ndereg.SDE(mean_reverting, spread)
PATH: dict[str, Any] = {"key": 3, "rtol": 0.1, "atol": 0.1, "replays": 2}


@pytest.mark.parametrize(
    "name",
    [
        "torch",
        pytest.param("jax", marks=pytest.mark.slow),
        pytest.param("numpy", marks=pytest.mark.exhaustive),
    ],
)
def test_a_stochastic_equation_along_one_path(name: str) -> None:
    """Single steps are taken along the path of the run, and times are the same to the last bit."""
    report = crosscheck(
        EQUATION, (0.0, 0.4), Y0[:2], np.array(1.5), batch="independent", backends=[name],
        t_eval=np.array([0.1, 0.4]), regularizer=ndereg.ErrorEstimate(), **PATH,
    )  # fmt: skip
    report.raise_if_failed()
    assert report.problem.startswith("mean_reverting (sosri") and report.replayed == 2
    assert {row.check for row in report.rows} == {"replay", "run", "rejections"}
    assert {"state", "error estimate", "penalty", "gradient of y0", "gradient of args"} <= {
        row.quantity for row in report.rows if row.check == "replay"
    }
    assert max(row.deviation for row in report.rows) < LIMIT / 4
    assert all(row.condition == 1 for row in report.rows if row.quantity == "times of steps")
    assert max(row.condition for row in report.rows if row.quantity == "solution") < 100


class Louder(ReferenceBackend):
    """The noise is off in the tenth digit."""

    name = "louder"

    def brownian(self, *given: Any) -> Any:
        path = super().brownian(*given)
        increment = path.increment
        path.increment = lambda s, t, entries: tuple(
            None if part is None else part * (1 + 1e-10) for part in increment(s, t, entries)
        )
        return path


def test_noise_that_is_off_is_seen_in_single_steps() -> None:
    example = Example(
        ndereg.UnderdampedLangevin(mean_reverting, 2.0), (0.0, 0.4), (np.ones(2), np.ones(2)),
        np.array(1.5), PATH | {"method": "align"},
    )  # fmt: skip
    report = example.crosscheck(backends=[Louder()])
    assert ("replay", "state") in {(row.check, row.quantity) for row in report.failures}
    code = example.code(backends=["torch"])
    assert "ndereg.UnderdampedLangevin(grad_potential=mean_reverting, gamma=2.0" in code
    exec(code, {})
    tree = ndereg.BrownianTree(3, 0.0, 0.4, (2,), 2.0**-12, areas="WH")
    along = Example(EQUATION, (0.0, 0.4), np.ones(2), np.array(1.5), PATH | {"key": tree})
    assert "key=ndereg.BrownianTree(key=3" in along.code()
    exec(along.code(backends=["torch"], replays=1, gradients=False), {})


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (None, ValueError, "expected a key for the noise"),
        (np.random.default_rng(0), TypeError, "the same path on every backend, received"),
    ],
)
def test_a_path_has_to_be_the_same_everywhere(key: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        crosscheck(EQUATION, SPAN, Y0, np.array(1.0), key=key, backends=["reference"])


def test_an_example_writes_itself_down() -> None:
    """The program that it prints runs and checks the same problem."""
    example = Example(
        spring, (0.0, 1.0), np.array([1.0, 0.5]), np.array(2.0),
        {"method": "bosh3", "rtol": 1e-3, "controller": ndereg.PIDController(0.1, 0.3),
         "regularizer": 0.5 * ndereg.ErrorEstimate() + ndereg.ErrorEstimate(reduce="max")},
    )  # fmt: skip
    assert example.crosscheck(backends=["torch"], replays=2).ok
    code = example.code(backends=["torch"], replays=2)
    assert "def spring(" in code and "ErrorEstimate" in code
    scope: dict[str, Any] = {}
    exec(code, scope)
    backend, _ = DEFECTS["missing h"]
    scope["broken"] = backend
    with pytest.raises(Disagreement):
        exec(code.replace("backends=['torch']", "backends=[broken]"), scope)
    other = example.varied(1)
    assert not np.array_equal(other.y0, example.y0) and other.field is spring


@pytest.mark.parametrize("rate", [0.5, 12.0])
def test_gradient_audit(rate: float) -> None:
    """Backsolve loses its way where the state contracts, and the audit says so."""
    field = lambda t, y, args: args * (ops.sin(t) - y - y**3)  # noqa: E731
    audit = gradient_audit(field, (0.0, 3.0), np.ones(2), np.array(rate), backend="torch",
                           rtol=1e-6, atol=1e-8, directions=2, repeats=1)  # fmt: skip
    assert [row.way for row in audit.rows] == ["discrete", "backsolve", "finite differences"]
    assert audit.row("discrete").error < 1e-4 and audit.row("finite differences").error < 1e-2
    lost = not audit.row("backsolve").error < 1e-3
    assert lost == (rate > 1)
    assert ("backsolve" in audit.recommendation) == lost
    assert json.loads(audit.to_json())["recommendation"] == audit.recommendation
    assert "discrete" in printed(audit)
    assert all(row.seconds > 0 for row in audit.rows if row.error == row.error)
