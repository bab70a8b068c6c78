"""What an import brings in, seen from a fresh interpreter."""

import json
import subprocess
import sys

import pytest

FRAMEWORKS = ("torch", "jax", "numba", "numpy", "scipy", "sklearn", "matplotlib")


def imported(statement):
    """Return which of the frameworks ``statement`` imports."""
    script = (
        f"import json, sys\n{statement}\n"
        f"print(json.dumps([name for name in {FRAMEWORKS!r} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import ndereg",
        "import ndereg; ndereg.ErrorEstimate() + 0.1 * ndereg.StiffnessEstimate()",
        "import ndereg; ndereg.lower(ndereg.Spec(ndereg.lookup('tsit5')))",
        "import ndereg.cli",
        "import ndereg.plan, ndereg.catalogue, ndereg.spec",
    ],
)
def test_the_specification_needs_no_arrays(statement):
    assert imported(statement) == set()


@pytest.mark.parametrize(
    ("face", "own", "others"),
    [
        ("numpy", "numba", {"torch", "jax"}),
        ("torch", "torch", {"jax", "numba"}),
        ("jax", "jax", {"torch", "numba"}),
    ],
)
def test_a_face_brings_its_own_framework_only(face, own, others):
    found = imported(f"import ndereg.{face} as nde; nde.solve")
    assert own in found
    assert not found & (others | {"sklearn", "matplotlib"})


def test_the_faces_live_together():
    statement = "import ndereg.numpy, ndereg.torch, ndereg.jax"
    assert {"numba", "torch", "jax"} <= imported(statement)


@pytest.mark.parametrize("face", ["numpy", "torch", "jax"])
def test_every_public_name_is_on_every_face(face):
    script = (
        f"import json, ndereg, ndereg.{face} as nde\n"
        "other = [n for n in ndereg.__all__ if getattr(nde, n) is not getattr(ndereg, n)]\n"
        "absent = [n for n in ('solve', 'solve_vjp') if not hasattr(nde, n)]\n"
        "print(json.dumps([other, absent]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == [[], []]
