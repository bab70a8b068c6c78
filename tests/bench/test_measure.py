"""Rows are comparable or say why not, and their figures are what they claim."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest

from ndereg import machine
from ndereg.backends.numba.threads import thread_count
from ndereg.bench import problems, report
from ndereg.bench.job import Answer, Job, Prepared, Solver, Unavailable, Work
from ndereg.bench.judges import Law, Strong
from ndereg.bench.measure import Row, Timing, compare, timed
from ndereg.bench.run import PartResult, figure
from ndereg.bench.solvers.numpy_peers import SOLVERS
from ndereg.bench.solvers.ours import ours, ours_on_one_thread, work_of
from ndereg.bench.solvers.stochastic import ours as stochastic
from ndereg.bench.solvers.stochastic import torchsde_peer
from ndereg.bench.stochastic_problems import geometric, geometric_law, geometric_on_path
from ndereg.bench.suites import FRAMEWORKS, SUITES, Target

JOB = Job(problems.lotka_volterra(1.0), 1e-6)
TRUTH = np.array([1.0, 2.0])


def solver(name, y1=(1.0, 2.0), evaluations=100.0, own=False, tableau="tsit5", error=None):
    def prepare(job):
        if error is not None:
            raise error
        answer = Answer(np.array(y1), Work(evaluations), None if evaluations is None else 10.0)
        return Prepared(lambda: time.sleep(2e-3), lambda _: answer, lambda: time.sleep(1e-5), None)

    return Solver(name, "numpy", tableau, prepare, own)


def test_rows_that_differ_are_refused_and_say_why():
    rows = compare(
        JOB,
        [
            solver("ours", own=True),
            solver("like ours"),
            solver("inaccurate", y1=(1.0, 2.1)),
            solver("not finite", y1=(1.0, np.nan)),
            solver("silent", evaluations=None),
            solver("other tableau", tableau="dopri8", evaluations=300.0),
            solver("not installed", error=ImportError("no such library")),
            solver("unable", error=Unavailable("it has no gradients")),
            solver("broken", error=ZeroDivisionError("oh")),
        ],
        TRUTH,
        budget=0.0,
    )
    refused = {row.solver: row.refused for row in rows}
    assert refused["ours"] == refused["like ours"] == refused["silent"] == ""
    assert refused["other tableau"] == ""
    assert refused["inaccurate"].startswith("error 5.0e-02 is more than")
    assert refused["not finite"].startswith("error nan")
    assert refused["not installed"] == "no such library"
    assert refused["unable"] == "it has no gradients"
    assert refused["broken"] == "ZeroDivisionError: oh"
    assert [row.solver for row in rows if row.seconds is None] == [
        "inaccurate", "not finite", "not installed", "unable", "broken"
    ]  # fmt: skip


def test_other_work_with_the_same_tableau_is_refused():
    rows = compare(
        JOB, [solver("ours", own=True), solver("wasteful", evaluations=None)], TRUTH, 0.0
    )
    assert not rows[1].refused

    def prepare(job):
        answer = Answer(TRUTH, Work(400.0), 40.0)
        return Prepared(lambda: None, lambda _: answer)

    wasteful = Solver("wasteful", "numpy", "tsit5", prepare)
    rows = compare(JOB, [solver("ours", own=True), wasteful], TRUTH, 0.0)
    assert rows[1].refused == "40 steps where ours takes 10 with the same tableau"


def test_overhead_is_wall_time_over_the_work():
    row = Row("a", "numpy", "tsit5", ours=True, seconds=Timing(3.0, 2.0, 4.0, 9))
    assert row.overhead is None
    row.evaluations, row.field_seconds = 10.0, 0.1
    assert row.overhead == pytest.approx(3.0)
    row.pullbacks = 5.0
    assert row.overhead is None  # what a pullback takes is not known
    row.pullback_seconds = 0.4
    assert row.overhead == pytest.approx(1.0)


def test_calls_take_turns(monkeypatch):
    monkeypatch.setattr("ndereg.bench.measure.SHORT_S", math.inf)  # on however busy a machine
    order = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    timings = timed(calls, budget=60.0, most=7)
    # what is short comes with its caches warm, once it is known to be short
    assert order == ["a", "b"] + ["a", "a", "b", "b"] * 6
    assert all(t.low <= t.median <= t.high and t.repeats == 7 for t in timings)
    # what takes longer than ten times the budget is not repeated five times
    assert [t.repeats for t in timed(calls, budget=0.0)] == [2, 2]


def test_targets_are_ratios_or_overheads_of_comparable_rows():
    def row(name, framework, seconds, refused=""):
        return Row(name, framework, "tsit5", ours=False, seconds=Timing(seconds, 0, 0, 5),
                   refused=refused, evaluations=10.0, field_seconds=0.05)  # fmt: skip

    rows = [row("a", "numpy", 1.0), row("b", "numpy", 4.0), row("b", "jax", 8.0)]
    assert figure(Target("numpy", "a", 1.0, "b"), rows) == pytest.approx(0.25)
    assert figure(Target("numpy", "a", 1.0, "b", peer_framework="jax"), rows) == 0.125
    assert figure(Target("numpy", "a", 3.0, measure="overhead"), rows) == pytest.approx(2.0)
    assert figure(Target("torch", "a", 1.0, "b"), rows) is None
    rows[1].refused = "it differs"
    assert figure(Target("numpy", "a", 1.0, "b"), rows) is None


def test_ours_beside_scipy():
    """The harness on real solvers: equal tableaux take equal evaluations."""
    job = Job(problems.lotka_volterra(5.0), 1e-6)
    part = SUITES["small"]()[0]
    chosen = [ours("numpy", "dopri5"), *(s for s in SOLVERS if s.name == "SciPy RK45")]
    rows = compare(job, chosen, part.truth(job.problem), budget=0.0)
    assert [row.refused for row in rows] == ["", ""]
    assert rows[0].evaluations == rows[1].evaluations
    # how long they took is measured, never judged: a busy machine is no failure
    assert all(row.seconds.repeats == 2 and row.field_seconds > 0 for row in rows)
    assert all(row.overhead is not None for row in rows)
    result = PartResult("a part", job.tolerance, job.gradient, rows, [], queries=0)
    text = json.loads(json.dumps(result.plain()))
    page = report.page([{"suite": "small", "machine": machine.describe(), "parts": [text]}])
    assert "**ndereg dopri5**" in page
    assert "SciPy RK45" in page


def test_a_row_of_one_thread_has_one(monkeypatch, request):
    request.addfinalizer(thread_count.cache_clear)
    monkeypatch.setenv("NDEREG_NUM_THREADS", "2")
    thread_count.cache_clear()
    seen = []
    call = lambda: seen.append(thread_count())  # noqa: E731
    monkeypatch.setattr("ndereg.bench.solvers.ours._numpy", lambda *_: Prepared(call, None))
    ours_on_one_thread("tsit5").prepare(JOB).call()
    assert seen == [1]
    assert thread_count() == 2


def test_a_random_solution_is_judged_by_its_law():
    """Normal samples pass; a shifted mean, and a variance that is off, do not."""
    law = Law(np.array, 0.0, 4.0)
    samples = 2.0 * np.random.default_rng(0).normal(size=2000)
    rows = compare(
        replace(JOB, dt=0.1),
        [solver("fair", samples), solver("shifted", samples + 0.3), solver("wide", 1.1 * samples)],
        law,
        budget=0.0,
    )
    assert [bool(row.refused) for row in rows] == [False, True, True]
    answer = Answer(samples, Work(None))
    assert np.isnan(Strong(np.exp).error(answer))  # whose path is not known
    on_path = replace(answer, y1=np.exp(samples) * 1.01, driving=samples)
    assert Strong(np.exp).error(on_path) == pytest.approx(0.01)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own
@pytest.mark.parametrize("path", ["drawn", "tree"])
def test_stochastic_solvers_beside_torchsde(path):
    problem = geometric((1000, 1))
    job = Job(problem, 0.1, dt=0.1, path=path, accuracy=1.0)
    judge = geometric_law(problem) if path == "drawn" else geometric_on_path(problem)
    chosen = [
        stochastic("torch", "stochastic_heun"),
        *(torchsde_peer("heun", "stochastic_heun", compiled) for compiled in (False, True)),
    ]
    rows = compare(job, chosen, judge, budget=0.0)
    assert [row.refused for row in rows] == ["", "", ""]
    assert all(row.error > 0.0 for row in rows)


def test_work_of_a_gradient_counts_the_adjoint_program():
    class Stats:
        nfev, naccept = 62, 10

    job = Job(problems.lotka_volterra(1.0), 1e-6, gradient=True)
    # seven stages, the last one shared with the next step and read by nothing: six are pulled back
    assert work_of(job, "tsit5", None, Stats) == Work(62.0, 60.0)


@pytest.mark.parametrize("name", SUITES)
def test_suites_name_solvers_that_they_run(name):
    for part in SUITES[name]():
        names = {(solver.framework, solver.name) for solver in part.solvers}
        assert len(names) == len(part.solvers)
        assert all(solver.framework in FRAMEWORKS for solver in part.solvers)
        for target in part.targets:
            assert (target.framework, target.solver) in names
            if target.peer:
                assert (target.peer_framework or target.framework, target.peer) in names
