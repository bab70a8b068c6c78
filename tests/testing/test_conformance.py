"""A fourth backend conforms; broken ones are caught."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ndereg
from ndereg.backends.base import with_paths
from ndereg.backends.registry import load_backend
from ndereg.solve import Face
from ndereg.testing import assert_backends_agree
from ndereg.testing.conformance import check, find_backend, main, names
from ndereg.testing.duties import ARGS, SPAN, Y0, oscillator

from .broken_backends import DEFECTS
from .strict_backend import DRIVEN, STRICT


@pytest.mark.parametrize("name", names())
def test_a_fourth_backend_conforms(name: str) -> None:
    """array-api-strict, interpreting step programs in eager Python."""
    report = check(DRIVEN, only=[name])
    report.raise_if_failed()
    assert report.duties[0].served


@pytest.mark.slow
def test_pytorch_conforms() -> None:
    """The backend that compiles nothing; `python -m ndereg.testing.conformance jax` is the rest."""
    report = check(load_backend("torch"))
    report.raise_if_failed()
    assert all(duty.served for duty in report.duties)


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_caught(defect: str) -> None:
    backend, duty = DEFECTS[defect]
    if not duty:
        check(backend, only=[d for _, d in DEFECTS.values() if d]).raise_if_failed()
        return
    report = check(backend, only=[duty])
    assert report.failed == (duty,)
    message = report.duties[0].message
    assert "expected" in message and "Traceback" not in message
    with pytest.raises(AssertionError, match="does not conform"):
        report.raise_if_failed()


def test_a_defect_that_single_steps_do_not_show() -> None:
    """It disagrees in the run with rejections, and in nothing else."""
    backend, _ = DEFECTS["FSAL stage reused after a rejection"]
    with pytest.raises(AssertionError) as caught:
        assert_backends_agree(
            oscillator,
            SPAN,
            Y0,
            ARGS,
            method="bosh3",
            first_step=0.01,
            rtol=1e-2,
            atol=1e-2,
            replays=3,
            backends=[backend],
        )
    report = caught.value.report
    assert {row.check for row in report.failures} == {"rejections"}


def test_a_backend_without_paths_says_so_at_a_stochastic_equation(monkeypatch: Any) -> None:
    """With what it lacks, and the names of those that lack nothing."""
    lacking = "'strict', which has no brownian and no key_words; try ndereg"
    for equation in (ndereg.SDE(oscillator, oscillator), ndereg.UnderdampedLangevin(oscillator)):
        with pytest.raises(ValueError, match=lacking) as refusal:
            Face(STRICT).solve(equation, SPAN, Y0, ARGS, key=0)
    for name in re.findall(r"ndereg\.(numpy|torch|jax)", str(refusal.value)):
        assert with_paths(load_backend(name)).name
    monkeypatch.setattr("ndereg.backends.registry.load_backend", lambda name: STRICT)
    report = check(STRICT, only=["diagonal noise"])
    assert report.ok and not report.duties[0].served and lacking in report.duties[0].message
    with pytest.raises(ValueError, match=lacking):
        ndereg.BrownianTree(0, 0.0, 1.0, (1,), 1e-3).increment(0.0, 1.0, "strict")


def test_names_are_checked() -> None:
    with pytest.raises(ValueError, match="expected names of checks"):
        check("reference", only=["speed"])


MODULE = """
from ndereg.backends.reference.backend import ReferenceBackend, ReferenceSolver


class MyBackend(ReferenceBackend):
    name = "mine"
{body}
"""


def test_the_command(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """A module with one backend is found; the exit status says whether it conforms."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sound_backend.py").write_text(MODULE.format(body=""))
    one = ["--only", "stability polynomial"]
    assert main(["sound_backend", *one]) == 0
    assert main(["sound_backend:MyBackend", *one]) == 0
    wrong = "    def cast(self, array, dtype):\n        return super().cast(array, 'float32')\n"
    (tmp_path / "unsound_backend.py").write_text(MODULE.format(body=wrong))
    assert main(["unsound_backend", "--only", "arrays", *one]) == 1
    assert main(["no_such_module"]) == 2
    with pytest.raises(ValueError, match="expected one backend in fractions"):
        find_backend("fractions")
    assert "no_such_module" in capsys.readouterr().err


def test_the_module_is_a_program() -> None:
    command = [sys.executable, "-m", "ndereg.testing.conformance", "reference", "--only", "arrays"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "arrays" in ran.stdout


def test_a_backend_of_a_framework_that_nobody_knows() -> None:
    class Foreign:
        name = "foreign"

        def owns(self, value: object) -> bool:
            return False

    with pytest.raises(TypeError, match="from_numpy"):
        assert_backends_agree(oscillator, SPAN, Y0, ARGS, backends=[Foreign()])
