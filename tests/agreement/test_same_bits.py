"""The same bits from the process that compiles a solve as from one that finds it compiled."""

import os
import subprocess
import sys

import numpy as np
import pytest
from llvmlite import binding as llvm

from ndereg.backends.numba import compiler

SCRIPT = """
import sys
sys.path[:] = {path!r}
import numpy as np
import ndereg.numpy as nde
from ndereg import ops
from ndereg.backends.numba.module import _loaded

random = np.random.default_rng(0)
layers = [(20, 10), (10, 20)]
args = [(random.normal(size=(n, m)) / n**0.5).astype("float32") for n, m in layers]
y0 = random.normal(size=(64, 20)).astype("float32")

def field(t, y, args):
    return ops.tanh(ops.tanh(y @ args[0] + t) @ args[1])

tolerances = {{"rtol": 1.4e-8, "atol": 1.4e-8}}
sol, pullback = nde.solve_vjp(field, (0.0, 1.0), y0, args, method="tsit5", **tolerances)
y0_bar, args_bar = pullback(sol.ys)[:2]
kernels = [
    value.stats
    for module in _loaded.values()
    for value in vars(module).values()
    if hasattr(value, "stats") and value.signatures
]
hits, misses = (
    sum(sum(getattr(stats, name).values()) for stats in kernels)
    for name in ("cache_hits", "cache_misses")
)
print(hits, misses, *(array.tobytes().hex() for array in (sol.ys, y0_bar, *args_bar)))
"""


@pytest.mark.slow
def test_compiled_here_and_found_compiled_are_the_same_to_the_last_bit(tmp_path):
    """Else a training that is continued would not end where it does uninterrupted."""
    environment = {**os.environ, "NDEREG_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT.format(path=sys.path)]
    found = []
    for _ in range(2):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        hits, misses, *numbers = done.stdout.split()
        found.append((int(hits), int(misses), numbers))
    (hits, misses, first), (later_hits, later_misses, second) = found
    assert hits == 0 < misses and later_misses == 0 < later_hits
    assert len(first) == 4 and len(first[0]) == 2 * 4 * 64 * 20
    assert first == second


def test_what_is_linked_into_a_kernel_is_its_own():
    """In machine code of its own, whatever the process has compiled besides."""

    @compiler.inlined_in_memory
    def part(x):
        return x * 2.0 + 1.0

    @compiler.kernel_in_memory
    def whole(x):
        for i in range(x.size):
            x[i] = part(x[i])

    x = np.arange(3.0)
    whole(x)
    np.testing.assert_array_equal(x, [1.0, 3.0, 5.0])
    (signature,) = whole.signatures
    library = whole.overloads[signature].library
    assert compiler.HOOKED and type(library) is compiler._SelfContained
    linkages = {f.linkage for f in library._final_module.functions if not f.is_declaration}
    assert llvm.Linkage.linkonce_odr not in linkages


def test_a_numba_without_the_hooks_is_named(monkeypatch):
    monkeypatch.setattr(compiler, "_Library", object)
    with pytest.warns(RuntimeWarning, match=r"_finalize_final_module.*try pip install 'numba<0"):
        assert not compiler._is_hooked()
