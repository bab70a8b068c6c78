"""The continuous adjoint: state, cotangent and parameter cotangents integrated backwards together.

Between output times the cotangent obeys ``da/dt = -(df/dy)^T a`` and those of the parameters
``dg/dt = -(df/dp)^T a`` (Pontryagin 1962; Chen et al. 2018, arXiv:1806.07366). At an output time
the cotangent jumps and the state is restored to the forward solution. The error control is joint
over everything that is integrated. Of a stochastic equation the noise moves all of it as well (see
:mod:`ndereg.backends.host.backsolve`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ndereg.backends.base import Diffusion, Layout
from ndereg.backends.interpreter import Runners
from ndereg.backends.jax.arrays import JaxArrays
from ndereg.backends.jax.field import LaneField, Lanes, TracedField, Wanted
from ndereg.backends.jax.inputs import Inputs, Rows
from ndereg.backends.jax.reverse import time_cotangents
from ndereg.backends.pairs import pair_layout
from ndereg.backends.products import NoiseProduct, adjoint_noise
from ndereg.plan.lower import lower
from ndereg.spec.adjoint import NoAdjoint
from ndereg.spec.spec import Spec
from ndereg.spec.status import Status
from ndereg.spec.stochastic import Coupling
from ndereg.structure import LEAF, Structure

_ARRAYS: Any = JaxArrays()


def refuse_own_times(inputs: Inputs) -> None:
    """The augmented system is one: its samples share the times at which it is interrupted."""
    if inputs.t_eval is not None and inputs.t_eval[0].ndim == 2:
        raise ValueError(
            "expected output times that all samples share for adjoint='backsolve', received "
            f"t_eval of shape {tuple(inputs.t_eval[0].shape)}; try adjoint='discrete'"
        )


@dataclass(frozen=True)
class _AugmentedProblem:
    """What tracing a field reads of a problem."""

    layout: Layout
    args: tuple[Any, ...]
    call: Callable[..., Any]
    diffusion: Diffusion | None = None
    part: Layout | None = None

    @property
    def seen(self) -> Layout:
        """The field sees all of it, or one of a pair."""
        return self.layout if self.part is None else self.part


class Augmented:
    """The augmented system of a field: its layout, its own traced field, its integration.

    Its args are the constants and the args of the field.
    """

    def __init__(self, traced: TracedField, wanted: Wanted) -> None:
        self._field, self._wanted = traced, wanted
        state = traced.state
        parameters = [traced.inputs[0][i] for i in wanted.constants]
        parameters += [traced.inputs[1][i] for i in wanted.args]
        leaves = [state, state, *parameters]
        dtypes = tuple(str(leaf.dtype) for leaf in leaves)
        self.layout = Layout(
            structure=Structure("tuple", (LEAF,) * len(leaves)),
            shapes=tuple(leaf.shape for leaf in leaves),
            dtypes=dtypes,
            dtype=str(np.result_type(*dtypes)),
            batch=None,
        )
        args, diffusion = (*traced.inputs[0], *traced.inputs[1]), None
        if traced.path is not None:
            coupling: Coupling = "product"
            path = replace(traced.path, entries=traced.path.entries.joined)
            diffusion = Diffusion(self._product, self._product, self.layout, coupling, path, None)
        problem: Any = _AugmentedProblem(self.layout, args, self._call, diffusion)
        if traced.pairs:
            problem = replace(problem, layout=pair_layout(self.layout), part=self.layout)
        self.traced = TracedField(problem)

    def runners(self, spec: Spec) -> Runners:
        """Programs for the augmented system."""
        return Runners(
            lower(
                replace(
                    spec,
                    batch="joint",
                    adjoint=NoAdjoint(),
                    dense=False,
                    record=False,
                    terms=(),
                    local=None,
                    noise=adjoint_noise(spec.noise),
                )
            )
        )

    def _point(self, t: Any, flat: Any) -> tuple[Any, Any, Any]:
        """Time and state as the field sees them, and the cotangent of the state."""
        y, a, *_ = self.layout.unflatten(_ARRAYS, flat)
        time = self._field.time
        return jnp.broadcast_to(t.astype(time.dtype), time.shape), y, a

    def _call(self, t: Any, flat: Any, args: Sequence[Any]) -> Any:
        t, y, a = self._point(t, flat)
        linearization = self._field.linearization(self._wanted)
        at = linearization.primal(args, t, y)
        bars = linearization.pullback(args, at, a)
        return self.layout.flatten(_ARRAYS, [at.k, *(-bar for bar in bars)])

    def _product(self, t: Any, flat: Any, args: Sequence[Any], noise: Any) -> Any:
        t, y, a = self._point(t, flat)
        times = NoiseProduct(
            self._field.coupling, self._field.path.entries.channels,
            self._field.layout.batch is not None, y.shape,
        )  # fmt: skip
        linearization = self._field.linearization(self._wanted, "diffusion")
        at = linearization.primal(args, t, y)
        k, k_bar = times(at.k, noise), times.transposed(at.k, a, noise)
        bars = linearization.pullback(args, at, k_bar)
        return self.layout.flatten(_ARRAYS, [k, *(-bar for bar in bars)])

    def integrate(
        self, forward: Callable[[Inputs], Any], inputs: Inputs, ys: Any, ys_bar: Any
    ) -> dict[str, Any]:
        """Cotangents of ``y0``, constants and args; nan if the backward solve fails."""
        layout, pairs = self.layout, self._field.pairs
        if pairs:  # the second of a pair follows the solution
            entries = self._field.entries
            ys, ys_bar = ys[..., :entries], ys_bar[..., :entries] + ys_bar[..., entries:]
        if inputs.t_eval is None:
            starts = tuple(jnp.asarray(part)[None] for part in inputs.t1)
            states, bars = ys[None], ys_bar[None]
        else:
            starts = tuple(map(jnp.asarray, inputs.t_eval))
            states, bars = jnp.moveaxis(ys, 1, 0), jnp.moveaxis(ys_bar, 1, 0)
        ends = tuple(
            jnp.concatenate([jnp.asarray(t0)[None], part[:-1]])
            for t0, part in zip(inputs.t0, starts, strict=True)
        )
        args = (*inputs.constants, *inputs.args)

        def interval(carry: Any, given: Any) -> tuple[Any, None]:
            (a, *parameters_bar), failed = carry
            start, end, y, bar = given
            flat = layout.flatten(_ARRAYS, [y, a + bar, *parameters_bar])
            if pairs:
                flat = jnp.concatenate([flat, flat], axis=-1)
            given = Inputs((), args, flat, start, end, None, inputs.numbers, path=inputs.path)
            found = forward(given)
            _, *leaves = layout.unflatten(_ARRAYS, found["ys"][..., : layout.entries])
            return (leaves, failed | (found["counts"][3, 0] != Status.SUCCESS)), None

        zeros = [
            jnp.zeros(shape, dtype)
            for shape, dtype in zip(layout.shapes[1:], layout.dtypes[1:], strict=True)
        ]
        (leaves, failed), _ = lax.scan(
            interval, (zeros, jnp.asarray(False)), (starts, ends, states, bars), reverse=True
        )
        y0_bar, *parameters_bar = (jnp.where(failed, jnp.nan, leaf) for leaf in leaves)
        count = len(self._wanted.constants)
        if pairs:  # the user's state began both, and what began the second one has no say
            y0_bar = jnp.concatenate([y0_bar, jnp.zeros_like(y0_bar)], axis=-1)
        return {
            "y0": y0_bar,
            "constants": parameters_bar[:count],
            "args": parameters_bar[count:],
        }

    def time_cotangents(self, inputs: Inputs, ys: Any, ys_bar: Any, y0_bar: Any) -> dict[str, Any]:
        """Cotangents of the times that are wanted."""
        lanes = Lanes()
        field = LaneField(self._field, lanes, inputs.constants, inputs.args)
        rows = Rows(inputs, lanes, self._field.layout.samples)
        at = {"t_end": rows.t1, "y_end": ys, "ys": ys}
        found = time_cotangents(field, rows, at, y0_bar, ys_bar, self._wanted.times)
        return {name: rows.lane_time(value, inputs, name) for name, value in found.items()}
