"""Time of a prediction of the digits model: NumPy and Numba, PyTorch, JAX.

    python benchmarks/predict_digits.py [runs/x/models/error-seed0.safetensors]

Each framework predicts batches of 1, 16, 128 and 512 with the same weights, on one thread, without
history, JAX compiled whole. Rounds alternate between the frameworks; the table shows the median
call of the fastest round, as whatever else the machine does only ever adds to it.
"""

import argparse
import statistics
import time
from pathlib import Path

import jax
import numpy as np
import torch
from threadpoolctl import threadpool_limits

import ndereg.jax as ndj
import ndereg.numpy as ndn
from ndereg.experiments.digits import Digits
from ndereg.models import MLP, Affine, Model, NeuralODE, load, port

BATCHES = (1, 16, 128, 512)


def untrained():
    """Return the model of the digits recipe as it starts."""
    layer = NeuralODE(MLP((64, 100, 64), output_activation="tanh"), head=Affine(64, 10))
    return Model.init(layer, 0)


def contestants(model):
    """Return a function of a batch of NumPy arrays for each framework."""
    layer = model.layer
    module = port(model, to="torch")
    weights = port(model, to="jax").params
    compiled = jax.jit(lambda x: layer.run(ndj, x, weights, adjoint="none", throw=False)[0])

    @torch.no_grad()
    def in_torch(x):
        return module(torch.from_numpy(x)).numpy()

    return {
        "numpy": lambda x: layer.run(ndn, x, model.params, adjoint="none")[0],
        "torch": in_torch,
        "jax": lambda x: np.asarray(compiled(x)),
    }


def seconds(work, least=0.1):
    """Return the median time of the calls that fill a while."""
    times, start = [], time.perf_counter()
    while (now := time.perf_counter()) - start < least:
        work()
        times.append(time.perf_counter() - now)
    return statistics.median(times)


def main():
    """Print a table of milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=10)
    chosen = parser.parse_args()
    model = untrained() if chosen.model is None else load(chosen.model)
    torch.set_num_threads(1)
    data = Digits().task(Digits().settings()).test["x"]
    predict = contestants(model)
    print(f"{'batch':>5} " + " ".join(f"{name:>8}" for name in predict) + "   ms")
    with threadpool_limits(1):
        for batch in BATCHES:
            x = np.ascontiguousarray(data[:batch])
            outputs = {name: function(x) for name, function in predict.items()}
            for name, output in outputs.items():
                np.testing.assert_allclose(output, outputs["numpy"], atol=1e-4, err_msg=name)
            times = {name: [] for name in predict}
            for _ in range(chosen.rounds):
                for name, function in predict.items():
                    times[name].append(seconds(lambda f=function, x=x: f(x)))
            print(f"{batch:5} " + " ".join(f"{1e3 * min(times[name]):8.3f}" for name in predict))


if __name__ == "__main__":
    main()
