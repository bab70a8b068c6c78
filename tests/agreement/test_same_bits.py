"""The same bits from the process that compiles a solve as from one that finds it compiled."""

import os
import subprocess
import sys

SCRIPT = """
import sys
sys.path[:] = {path!r}
import numpy as np
import ndereg.numpy as nde
from ndereg import ops

random = np.random.default_rng(0)
layers = [(20, 10), (10, 20)]
args = [(random.normal(size=(n, m)) / n**0.5).astype("float32") for n, m in layers]
y0 = random.normal(size=(64, 20)).astype("float32")

def field(t, y, args):
    return ops.tanh(ops.tanh(y @ args[0] + t) @ args[1])

tolerances = {{"rtol": 1.4e-8, "atol": 1.4e-8}}
sol, pullback = nde.solve_vjp(field, (0.0, 1.0), y0, args, method="tsit5", **tolerances)
y0_bar, args_bar = pullback(sol.ys)[:2]
print(*(array.tobytes().hex() for array in (sol.ys, y0_bar, *args_bar)))
"""


def test_compiled_here_and_found_compiled_are_the_same_to_the_last_bit(tmp_path):
    """Else a training that is continued would not end where it does uninterrupted."""
    environment = {**os.environ, "NDEREG_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT.format(path=sys.path)]
    first, second = (
        subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=300
        ).stdout.split()
        for _ in range(2)
    )
    assert len(first) == 4 and len(first[0]) == 2 * 4 * 64 * 20
    assert first == second
