"""``ndereg bench`` refuses what it does not know, and writes its page from results."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from ndereg import machine
from ndereg.cli import app


def run(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments], env={"COLUMNS": "200"})


def test_unknown_suites_and_backends():
    found = run("tiny")
    assert found.exit_code == 2
    assert "expected one of small" in found.output
    assert "received 'cupy'" in run("small", "--backend", "cupy").output


def test_the_page_is_made_from_results(tmp_path):
    found = run("--docs", str(tmp_path / "page.md"), "--results", str(tmp_path))
    assert found.exit_code == 2
    assert "try ndereg bench SUITE first" in found.output
    target = {"framework": "numpy", "solver": "ndereg tsit5", "peer": "", "measure": "overhead",
              "peer_framework": "", "most": 1.25, "figure": 1.5, "met": False}  # fmt: skip
    part = {"title": "a part", "rows": [], "targets": [target]}
    content = {"suite": "mlp", "machine": machine.describe(), "parts": [part]}
    (tmp_path / "mlp.json").write_text(json.dumps(content))
    assert run("--docs", str(tmp_path / "page.md"), "--results", str(tmp_path)).exit_code == 0
    page = (tmp_path / "page.md").read_text()
    assert "| numpy: ndereg tsit5, overhead | 1.25 | 1.5 (missed) |" in page
