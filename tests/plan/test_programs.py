"""Step programs, their transpose and their checkpoints, without arrays."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ndereg
from ndereg.backends.host.floats import FloatMachine
from ndereg.backends.interpreter import Runner
from ndereg.plan import Combine, Evaluate, Program, Pullback, lower, transpose
from ndereg.plan.checkpoint import Checkpoints
from ndereg.plan.control import HISTORY, MEMORY, SPACING, control_program
from ndereg.plan.kept import kept_plan
from ndereg.plan.program import Apply, Join, Part, reads
from ndereg.spec.adjoint import Discrete, Reversible
from ndereg.spec.spec import Spec
from ndereg.spec.status import Status
from ndereg.spec.stochastic import Noise


def plan(method: str, **options: Any) -> Any:
    return lower(Spec(ndereg.lookup(method), **options))


def test_a_step_reads_like_the_mathematics() -> None:
    assert str(plan("heun", adaptive=False).replay) == (
        "replay (t, h, y) → (y1)\n"
        "    k1 = f(t, y)\n"
        "    g2 = y + h k1\n"
        "    k2 = f(t + h, g2)\n"
        "    y1 = y + h (1/2 k1 + 1/2 k2)"
    )


def test_the_transpose_of_heun_is_the_one_in_the_books() -> None:
    body = plan("heun", adaptive=False).adjoint.body
    half = Fraction(1, 2)
    assert body[3:] == (
        Combine("k2_bar", None, (("h", half, "y1_bar"),)),
        Pullback("g2_bar", "k2_map", "k2_bar"),
        Combine("k1_bar", None, (("h", half, "y1_bar"), ("h", 1, "g2_bar"))),
        Pullback("y_bar", "k1_map", "k1_bar"),
        Combine("y_bar.1", "y1_bar", ((None, 1, "g2_bar"), (None, 1, "y_bar"))),
    )


@pytest.mark.parametrize("method", ndereg.names())
def test_the_transposed_rows_are_the_columns_of_the_tableau(method: str) -> None:
    tableau = ndereg.lookup(method)
    adjoint = plan(method, adaptive=False).adjoint
    sums = {i.dst: i for i in adjoint.body if isinstance(i, Combine)}
    arguments = {i.dst: i.src for i in adjoint.body if isinstance(i, Evaluate)}
    maps = {i.map: i.dst for i in adjoint.body if isinstance(i, Evaluate)}
    pullbacks = [i for i in adjoint.body if isinstance(i, Pullback)]
    seen = 0
    for pullback in pullbacks:
        stage = maps[pullback.map]
        column = int(stage[1:]) - 1
        terms = {slot: value for scale, value, slot in sums[pullback.cotangent].terms if scale}
        assert terms.get("y1_bar", 0) == tableau.b[column]
        for row in range(column + 1, tableau.stages):
            found = [v for slot, v in terms.items() if slot.split(".")[0] == f"g{row + 1}_bar"]
            wanted = tableau.a[row][column]
            if f"k{row + 1}" in arguments:
                assert sum(found) == wanted
                seen += bool(wanted)
    assert seen or tableau.stages == 1 or tableau.order == 1 or len(pullbacks) == 2


def test_work_that_no_output_needs_is_dropped() -> None:
    plain = plan("tsit5")
    assert plain.adjoint.evaluations() == 6 and not plain.shared
    assert plain.step.evaluations() == 6 and plain.replay.evaluations() == 6
    penalized = plan("tsit5", terms=(ndereg.ErrorEstimate(),))
    assert penalized.shared
    assert penalized.adjoint.evaluations() == 6
    assert sum(isinstance(i, Pullback) for i in penalized.adjoint.body) == 6
    assert plan("tsit5").step.output("S") is None and plan("tsit5").dense is None
    dense = plan("dopri8", dense=True)
    assert dense.dense.evaluations() == 3 and dense.step.evaluations() == 12


def test_stages_are_shared_and_never_declared() -> None:
    assert plan("tsit5").carried and plan("dopri8").carried and plan("bosh3").carried
    assert not plan("vern7").carried and not plan("rk4", adaptive=False).carried


def test_a_program_is_checked() -> None:
    inputs = (("t", "scalar"), ("h", "scalar"), ("y", "state"))
    with pytest.raises(ValueError, match="before it is set"):
        Program("p", inputs, (Combine("a", "b", ()),), ())
    twice = (Evaluate("k", 0, "h", "y"), Evaluate("k", 1, "h", "y"))
    with pytest.raises(ValueError, match="assigns 'k' again"):
        Program("p", inputs, twice, ())
    with pytest.raises(ValueError, match="never assigned"):
        Program("p", inputs, (), (("out", "k"),))


def test_what_cannot_be_transposed_says_so() -> None:
    adjoint = plan("heun", adaptive=False).adjoint
    with pytest.raises(ValueError, match="cannot be transposed again"):
        transpose(adjoint, [(dict(adjoint.outputs)["y_bar"], "seed")], ["y1_bar"])


@given(st.integers(0, 200), st.integers(2, 12))
def test_checkpoints_return_every_state_within_their_slots(rows: int, slots: int) -> None:
    kept: Checkpoints[int] = Checkpoints(slots)
    for row in range(rows):
        kept.offer(row, row)
    assert len(kept.states) <= slots

    def advance(row: int, state: int) -> int:
        assert row == state
        return state + 1

    step: Callable[[int, int], int] = advance
    assert list(kept.backwards(rows, step)) == [(row, row) for row in reversed(range(rows))]
    levels = 1
    while slots**levels < max(rows, 1):
        levels += 1
    assert kept.peak <= slots * (levels + 1)


def test_memory_is_sublinear_in_the_number_of_steps() -> None:
    peaks = []
    for rows in (100, 1_000, 10_000):
        kept: Checkpoints[int] = Checkpoints(16)
        for row in range(rows):
            kept.offer(row, row)
        list(kept.backwards(rows, lambda row, state: state + 1))
        peaks.append(kept.peak)
    assert peaks[-1] <= 16 * 5 and peaks[-1] < 3 * peaks[0]


@pytest.mark.parametrize("penalty", [False, True])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("method", ["heun_euler", "bosh3", "vern7"])
def test_what_is_kept_is_not_evaluated_again(method: str, dense: bool, penalty: bool) -> None:
    """The transposed step reads the stages of the step, and pulls back what it did before."""
    terms = tuple(t for _, t in ndereg.ErrorEstimate().terms()) if penalty else ()
    whole = plan(method, terms=terms, dense=dense)
    kept = kept_plan(whole)
    assert kept is not None
    pairs = [(whole.adjoint, kept.adjoint), (whole.adjoint_dense, kept.adjoint_dense)]
    made = (
        {slot for _, slot in kept.step.outputs}
        | {slot for pair in kept.carried for slot in pair}
        | {*kept.opening}
    )
    carried = {slot for slot, _ in whole.adjoint.inputs}
    for before, after in pairs if dense else pairs[:1]:
        pulled = [i for i in before.body if isinstance(i, Pullback)]
        assert pulled == [i for i in after.body if isinstance(i, Pullback)]
        further = len(ndereg.lookup(method).a_dense) if before is whole.adjoint_dense else 0
        assert after.evaluations() <= further
        given_ = {slot for slot, _ in after.inputs} - {slot for slot, _ in before.inputs}
        assert given_ - carried <= made


@pytest.mark.parametrize(
    ("method", "penalty"),
    [("stochastic_heun", False), ("sosri", True), ("reversible_heun", False),
     ("reversible_heun", True)],
)  # fmt: skip
def test_nor_is_what_a_stochastic_step_evaluates(method: str, penalty: bool) -> None:
    """Neither drift nor diffusion, and a pair has those at its start from the step before."""
    found = ndereg.lookup(method)
    terms = tuple(t for _, t in ndereg.ErrorEstimate().terms()) if penalty else ()
    noise = Noise("diagonal", found.calculus, "diagonal")
    whole = ndereg.lower(ndereg.Spec(found, adaptive=False, terms=terms, noise=noise))
    kept = kept_plan(whole)
    assert kept is not None and whole.adjoint is not None
    assert any(isinstance(i, Evaluate) for i in whole.adjoint.body)
    assert not any(isinstance(i, Evaluate) for i in kept.adjoint.body)
    pulled = [sum(isinstance(i, Pullback) for i in p.body) for p in (whole.adjoint, kept.adjoint)]
    assert pulled == ([4, 2] if method == "reversible_heun" else [pulled[0]] * 2)
    assert kept.reads_state == penalty
    # what its history reads alone is not handed on besides
    used = {slot for slot, _ in kept.adjoint.inputs} | {last for _, last in kept.carried}
    assert used.issuperset(kept.slots)


def test_a_controller_without_history_decides_alike() -> None:
    """With its parameters 0, to the last bit, whatever happened before."""
    random = np.random.default_rng(0)
    machine = FloatMachine()
    whole, alone = (Runner(control_program(True, remembers)) for remembers in (True, False))
    names = set(MEMORY[:3])
    assert names <= set(whole.inputs)
    assert names.isdisjoint(alone.inputs)
    values = dict.fromkeys(HISTORY, 0.0) | {
        "beta1": 0.2, "exponent": 0.3, "safety": 0.9, "factor_min": 0.2, "factor_max": 5.0,
        "dt_min": 0.0, "dt_max": 10.0, "spacing": SPACING, "max_steps": 100.0,
        "status": float(Status.RUNNING), "last": False,
    }  # fmt: skip
    for error in (0.0, 0.3, 1.0, 4.0, float("inf"), float("nan")):
        for rejected in (False, True):
            drawn = {name: random.uniform(0.1, 2.0) for name in ("E1", "E2", "h1", "h", "t")}
            case = {**values, **drawn, "E": error, "rejected": rejected, "attempts": 3.0}
            expected = whole(machine, case)
            assert alone(machine, case) == {k: v for k, v in expected.items() if k not in names}


PAIRED = [
    *[(name, Noise("langevin", "ito", "diagonal"))
      for name in ndereg.names("sde") if "langevin" in ndereg.lookup(name).noises],
    ("reversible_heun", Noise("diagonal", "stratonovich", "diagonal")),
    ("reversible_heun", Noise("general", "stratonovich", "matrix")),
]  # fmt: skip


@pytest.mark.parametrize(("method", "noise"), PAIRED)
def test_pairs_and_halves_do_not_meet(method: str, noise: Noise) -> None:
    """Operands of an instruction are as long as one another, in every program of a solve."""
    adjoint = Reversible() if method == "reversible_heun" else Discrete()
    found = plan(method, terms=(ndereg.ErrorEstimate(),), dense=True, noise=noise, adjoint=adjoint)
    for program in found.programs().values():
        kinds, halves = program.kinds(), program.halves()
        long = {slot for slot, kind in kinds.items() if kind in ("state", "real")}
        for instruction in program.body:
            operands = long & set(reads(instruction))
            match instruction:
                case Part():
                    assert halves.isdisjoint(operands) and instruction.dst in halves
                case Join():
                    assert operands <= halves and instruction.dst not in halves
                case Combine() | Apply():
                    alike = operands | (long & {instruction.dst})
                    assert alike <= halves or halves.isdisjoint(alike)
                case Evaluate():
                    assert operands <= halves
        assert halves.isdisjoint(slot for _, slot in program.outputs)
    assert found.step.halves() and not plan("bosh3").step.halves()
