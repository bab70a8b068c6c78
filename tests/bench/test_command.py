"""``ndereg bench`` refuses what it does not know, and writes its page from results."""

from __future__ import annotations

import json
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ndereg import machine
from ndereg.bench import report
from ndereg.bench.suites import SUITES
from ndereg.cli import app

ROOT = Path(__file__).parents[2]


def run(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments], env={"COLUMNS": "200"})


def test_unknown_suites_and_backends():
    found = run("tiny")
    assert found.exit_code == 2
    assert "expected one of small" in found.output
    assert "received 'cupy'" in run("small", "--backend", "cupy").output
    assert "expected a SUITE for --json" in run("--json", "results.json").output


def test_the_page_is_made_from_results(tmp_path):
    found = run("--docs", str(tmp_path / "page.md"), "--results", str(tmp_path))
    assert found.exit_code == 2
    assert "try ndereg bench SUITE first" in found.output
    target = {"framework": "numpy", "solver": "ndereg tsit5", "peer": "", "measure": "overhead",
              "peer_framework": "", "most": 1.25, "figure": 1.5, "met": False}  # fmt: skip
    others = [target | {"measure": "cold"}, target | {"framework": "jax", "met": True}]
    part = {"title": "a part", "rows": [], "targets": [target, *others]}
    content = {"suite": "mlp", "machine": machine.describe(), "parts": [part]}
    (tmp_path / "mlp.json").write_text(json.dumps(content))
    assert run("--docs", str(tmp_path / "page.md"), "--results", str(tmp_path)).exit_code == 0
    page = (tmp_path / "page.md").read_text()
    assert "| numpy: ndereg tsit5, overhead | 1.25 | 1.5 (missed) |" in page
    assert "- Missed, numpy: ndereg tsit5, overhead; numpy: ndereg tsit5, first call: not" in page
    causes = [
        {"suite": "small", "part": "*", "target": "*", "cause": "of another suite."},
        {"suite": "mlp", "part": "a *", "target": "*: ndereg *, overhead", "cause": "too slow."},
    ]
    (tmp_path / "causes.json").write_text(json.dumps(causes))
    assert run("--docs", str(tmp_path / "page.md"), "--results", str(tmp_path)).exit_code == 0
    page = (tmp_path / "page.md").read_text()
    assert "- Missed, numpy: ndereg tsit5, overhead: too slow.\n" in page
    assert "- Missed, numpy: ndereg tsit5, first call: not explained yet.\n" in page
    assert "jax: ndereg tsit5, overhead:" not in page
    assert "of another suite" not in page


def test_every_cause_that_is_kept_belongs_to_a_target():
    """One whose target was renamed would no longer be shown."""
    causes = json.loads((ROOT / "benchmarks/results/causes.json").read_text(encoding="utf-8"))
    for cause in causes:
        assert any(
            fnmatchcase(part.title, cause["part"])
            and fnmatchcase(report.promise({**asdict(target), "figure": None, "met": None})[0],
                            cause["target"])
            for part in SUITES[cause["suite"]]()
            for target in part.targets
        ), cause  # fmt: skip


@pytest.mark.parametrize("suite", SUITES)
def test_results_are_those_of_the_suite_as_it_is(suite):
    """Every table, row and promise; what was added later would silently be left out."""
    path = ROOT / f"benchmarks/results/{suite}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    measured = {part["title"]: part for part in content["parts"]}
    parts = SUITES[suite]()
    assert list(measured) == [part.title for part in parts]
    for part in parts:
        found = measured[part.title]
        rows = {(row["framework"], row["solver"]) for row in found["rows"]}
        assert rows == {(solver.framework, solver.name) for solver in part.solvers}
        promised = {report.promise(target)[0] for target in found["targets"]}
        assert promised == {
            report.promise({**asdict(target), "figure": None, "met": None})[0]
            for target in part.targets
        }
