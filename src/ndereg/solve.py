"""``solve`` and ``solve_vjp``, the same on every backend.

The faces :mod:`ndereg.numpy`, :mod:`ndereg.torch` and :mod:`ndereg.jax` bind them to a backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Never

import numpy as np

from ndereg.backends.base import Backend, Layout, Problem, Result
from ndereg.backends.extension import contracted, contracted_cotangents, extended_cotangent
from ndereg.backends.registry import compile_on
from ndereg.catalogue.serving import DEFAULT_METHOD
from ndereg.edge.options import closed, refuse_unknown_options
from ndereg.edge.problem import prepare
from ndereg.solution import Solution, Stats, Steps
from ndereg.spec.adjoint import NoAdjoint
from ndereg.spec.controller import Controller
from ndereg.spec.regularizer import Regularizer
from ndereg.spec.spec import Batch
from ndereg.spec.status import SolveError, Status
from ndereg.spec.stochastic import StochasticMethod
from ndereg.spec.tableau import Tableau
from ndereg.structure import flatten

_SUCCESS = int(Status.SUCCESS)
_STATUSES = {int(status): status for status in Status}


class Face:
    """``solve`` and ``solve_vjp`` on one backend."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @closed
    def solve(
        self,
        field: Callable[..., Any],
        t_span: Any,
        y0: Any,
        args: Any = None,
        *,
        t_eval: Any = None,
        method: str | Tableau | StochasticMethod = DEFAULT_METHOD,
        rtol: Any = 1e-6,
        atol: Any = 1e-9,
        controller: Controller | str | None = None,
        first_step: Any = None,
        max_steps: int = 100_000,
        batch: Batch = "joint",
        regularizer: Regularizer | None = None,
        adjoint: Any = "discrete",
        key: Any = None,
        record: bool = False,
        throw: bool = True,
        **unknown: Never,
    ) -> Solution:
        """Solve ``dy/dt = field(t, y, args)`` from ``y(t0) = y0``.

        Parameters
        ----------
        field : callable
            ``f(t, y, args) -> dy/dt`` in the structure, shapes and dtypes of ``y0``. In PyTorch
            also an ``nn.Module`` called as ``f(t, y)``. With ``batch="joint"`` ``t`` has shape
            ``()``; with ``"independent"`` the field sees the whole batch and ``t`` has shape
            ``(B, 1, ...)`` so that it broadcasts against ``y``. An :class:`ndereg.SDE` is a
            stochastic equation, an :class:`ndereg.UnderdampedLangevin` Langevin dynamics; an
            :class:`ndereg.Flow` carries a log-density along.
        t_span : (t0, t1)
            ``t1 < t0`` integrates backwards; ``t0 == t1`` returns ``y0``.
        y0 : array, or nested dict, tuple or list of arrays
            float32, float64, complex64 or complex128.
        args : array or nested structure of arrays
            What the field depends on and is differentiated by.
        t_eval : (T,) times, or (B, T) with ``batch="independent"``
            In the order of integration and within the span. Answered from the method's own
            interpolant, of a stochastic equation by a shorter step along the same path; the steps
            do not change. (Constant steps along an integer ``key`` have another path with output
            times than without, as they then do not draw it by the number of the step; a
            :class:`ndereg.BrownianTree` is one path.) None returns only ``y(t1)``.
        method : str, Tableau or StochasticMethod
            A name of the catalogue, or a tableau. A stochastic equation has methods of its own; the
            default there is ``"sosri"`` (Ito) or ``"spark"`` (Stratonovich, and general noise),
            ``"sosra"`` for additive noise, ``"euler_maruyama"`` for general noise of Ito, and
            ``"quicsort"`` for Langevin dynamics; with ``adjoint="reversible"`` it is
            ``"reversible_heun"``, and with ``"backsolve"`` ``"spark"`` also for additive noise.
        rtol, atol : float
            A step is accepted when the RMS of ``err / (atol + rtol max(|y|, |y1|))`` is at most 1.
            Run-time values.
        controller : PIDController, ConstantStep, str or None
            Step-size control; None is the I controller, of a stochastic equation ``"PI-rough"``.
            Names are those of ``ndereg.CONTROLLERS``.
        first_step : float or None
            Size of the first step; None chooses it (Hairer, Norsett, Wanner I, II.4).
        max_steps : int
            Most attempted steps (of a sample).
        batch : {"joint", "independent"}
            One step size for the whole state, or one a sample along axis 0.
        regularizer : Regularizer or None
            What ``penalty`` is made of.
        adjoint : {"discrete", "reversible", "backsolve", "none"} or such as ``Discrete(...)``
            How gradients are computed.
        key : int, key of the framework, or BrownianTree
            What is random is drawn from: the noise of a stochastic equation, and the choices of
            ``ndereg.Local``, ``ndereg.Steer``, ``ndereg.JacobianFrobenius`` and ``ndereg.Flow``. An
            int gives the same on every backend. Otherwise what the face has: a
            ``numpy.random.Generator``, a ``torch.Generator`` or a key of ``jax.random``, also one
            inside a transformation.
        record : bool
            Keep every attempted step in ``steps``.
        throw : bool
            Raise when the solve fails. Otherwise what a failed solve did not reach is nan, be it
            an output time or ``y(t1)``. Under a JAX transformation nothing can be raised; there a
            failed solve returns nan with its status.

        Returns
        -------
        Solution

        Raises
        ------
        ValueError, TypeError
            For bad input, before the solve starts; an option of another name among it.
        SolveError
            If the solve fails and ``throw``.

        Examples
        --------
        >>> import numpy as np
        >>> import ndereg.numpy as nde
        >>> sol = nde.solve(lambda t, y, args: -args * y, (0.0, 1.0), np.ones(1), np.array(2.0))
        >>> bool(abs(sol.ys[0] - np.exp(-2.0)) < 1e-5)
        True
        """
        if unknown:
            refuse_unknown_options(self.solve, unknown)
        problem = prepare(
            self.backend, field, t_span, y0, args,
            t_eval=t_eval, method=method, rtol=rtol, atol=atol, controller=controller,
            first_step=first_step, max_steps=max_steps, batch=batch, regularizer=regularizer,
            adjoint=adjoint, key=key, record=record,
        )  # fmt: skip
        result = compile_on(problem.spec, self.backend).solve(problem)
        return _present(self.backend, problem, result, throw)

    @closed
    def solve_vjp(
        self,
        field: Callable[..., Any],
        t_span: Any,
        y0: Any,
        args: Any = None,
        *,
        t_eval: Any = None,
        method: str | Tableau | StochasticMethod = DEFAULT_METHOD,
        rtol: Any = 1e-6,
        atol: Any = 1e-9,
        controller: Controller | str | None = None,
        first_step: Any = None,
        max_steps: int = 100_000,
        batch: Batch = "joint",
        regularizer: Regularizer | None = None,
        adjoint: Any = "discrete",
        key: Any = None,
        record: bool = False,
        throw: bool = True,
        **unknown: Never,
    ) -> tuple[Solution, Callable[..., tuple[Any, Any]]]:
        """Solve, and return the solution and its pullback.

        Takes the arguments of :meth:`solve`.

        Returns
        -------
        solution : Solution
        pullback : callable
            ``pullback(ys_bar, penalty_bar=0.0) -> (d_y0, d_args)`` for cotangents in the structure
            of ``solution.ys`` and ``solution.penalty``, which only a regularizer makes other than
            0; the results have the structures of ``y0`` and ``args``. Cotangents follow the real
            inner product ``Re(sum(conj(a) * b))`` on every backend, so the real and imaginary parts
            of ``d_y0`` are the gradients by the real and imaginary parts of ``y0``. Where the field
            is a module that carries its parameters and ``args`` is None, ``d_args`` is a dict by
            parameter name.

        Raises
        ------
        ValueError
            If ``adjoint="none"``, and as :meth:`solve`.

        Examples
        --------
        >>> import numpy as np
        >>> import ndereg.numpy as nde
        >>> field = lambda t, y, args: -args * y
        >>> sol, pullback = nde.solve_vjp(field, (0.0, 1.0), np.ones(1), np.array(2.0))
        >>> d_y0, d_args = pullback(np.ones(1))
        >>> bool(abs(d_y0[0] - np.exp(-2.0)) < 1e-5), bool(abs(d_args + np.exp(-2.0)) < 1e-5)
        (True, True)
        """
        if unknown:
            refuse_unknown_options(self.solve_vjp, unknown)
        backend = self.backend
        problem = prepare(
            backend, field, t_span, y0, args,
            t_eval=t_eval, method=method, rtol=rtol, atol=atol, controller=controller,
            first_step=first_step, max_steps=max_steps, batch=batch, regularizer=regularizer,
            adjoint=adjoint, key=key, record=record,
        )  # fmt: skip
        if isinstance(problem.spec.adjoint, NoAdjoint):
            raise ValueError(
                "expected a differentiable solve for solve_vjp, received adjoint='none'; try "
                "adjoint='discrete' or 'backsolve'"
            )
        posed = problem.posed
        _refuse_integers(backend, posed)
        result, pull = compile_on(problem.spec, backend).solve_vjp(problem)
        solution = _present(backend, problem, result, throw)
        carried = tuple(backend.carried_parameters(field))

        def pullback(ys_bar: Any, penalty_bar: Any = 0.0) -> tuple[Any, Any]:
            bar = _penalty_cotangent(backend, posed, penalty_bar)
            flat = _flat_cotangent(backend, posed, ys_bar)
            flat = extended_cotangent(backend, problem, flat, bar)
            y0_bar, args_bar = contracted_cotangents(problem, *pull(flat, bar))
            layout = posed.layout
            d_y0 = layout.structure.unflatten(layout.unflatten(backend, y0_bar))
            leaves, named = args_bar[: len(posed.args)], args_bar[len(posed.args) :]
            if carried and not posed.args:
                return d_y0, dict(zip(carried, named, strict=True))
            return d_y0, posed.args_structure.unflatten(leaves)

        return solution, pullback


def _refuse_integers(backend: Backend, problem: Problem) -> None:
    """Refuse args that have no gradient, which would otherwise come out as zero."""
    names = problem.args_structure.paths("args")
    for leaf, name in zip(problem.args, names, strict=True):
        if "int" in backend.dtype(leaf):
            raise TypeError(
                f"expected floating-point arrays to differentiate by, received {name} of dtype "
                f"{backend.dtype(leaf)}; try converting it, or leaving it to the field's closure"
            )


def _times(problem: Problem) -> int | None:
    return None if problem.t_eval is None else int(problem.t_eval.shape[-1])


def _flat_cotangent(backend: Backend, problem: Problem, ys_bar: Any) -> Any:
    layout, times = problem.layout, _times(problem)
    given, structure = flatten(ys_bar)
    if structure != layout.structure:
        raise TypeError(
            f"expected ys_bar in the structure of ys, {layout.structure}, received {structure}; "
            "try a cotangent for every array of sol.ys"
        )
    names = structure.paths("ys_bar")
    leaves = [backend.array(leaf, name) for leaf, name in zip(given, names, strict=True)]
    for leaf, name, shape, dtype in zip(leaves, names, layout.shapes, layout.dtypes, strict=True):
        if times is not None:
            shape = (times, *shape) if layout.batch is None else (shape[0], times, *shape[1:])
        if tuple(leaf.shape) != shape:
            raise ValueError(
                f"expected {name} of shape {shape}, like ys, received {tuple(leaf.shape)}; try a "
                "cotangent of every entry"
            )
        _refuse_complex(backend, leaf, name, dtype)
    return layout.flatten(backend, leaves, times)


def _refuse_complex(backend: Backend, leaf: Any, name: str, dtype: str) -> None:
    if backend.dtype(leaf).startswith("complex") and not dtype.startswith("complex"):
        raise TypeError(
            f"expected a real cotangent {name} of what has dtype {dtype}, received "
            f"{backend.dtype(leaf)}; try its real part"
        )


def _penalty_cotangent(backend: Backend, problem: Problem, penalty_bar: Any) -> Any:
    layout = problem.layout
    bar = backend.array(penalty_bar, "penalty_bar")
    _refuse_complex(backend, bar, "penalty_bar", layout.real_dtype)
    bar = backend.cast(bar, layout.real_dtype)
    allowed = ((),) if layout.batch is None else ((), (layout.batch,))
    if tuple(bar.shape) not in allowed:
        raise ValueError(
            f"expected penalty_bar of shape {' or '.join(map(str, allowed))}, received shape "
            f"{tuple(bar.shape)}; try the shape of sol.penalty"
        )
    return bar if bar.ndim else backend.concat([backend.reshape(bar, (1,))] * layout.samples)


def _present(backend: Backend, problem: Problem, result: Result, throw: bool) -> Solution:
    """The user's view of a flat result."""
    joint = problem.layout.batch is None
    status = backend.concrete(result.status)
    if status is None:
        if throw or problem.t_eval is None:
            result = backend.mark_failures(result)
    elif (int(status[0]) != _SUCCESS) if joint else (status != _SUCCESS).any():
        if throw:
            _raise_failures(backend, problem, result, status)
        if problem.t_eval is None:
            result = _unreached(backend, problem.layout, result, status)
    problem, result = contracted(backend, problem, result)
    layout, times = problem.layout, _times(problem)
    steps, penalty, code = None, result.penalty, result.status
    counts = [result.nfev, result.nsteps, result.naccept]
    if result.steps is not None:
        steps = Steps(*(column[..., 0] if joint else column for column in result.steps))
    if joint:
        penalty = penalty[0]
        counts = [_integer(backend, value[0]) for value in counts]
        code = code[0] if status is None else _STATUSES[int(status[0])]
    ts = problem.t1 if problem.t_eval is None else problem.t_eval
    return Solution(
        backend.times(ts, result.ys),
        layout.structure.unflatten(layout.unflatten(backend, result.ys, times)),
        penalty,
        Stats(*counts, counts[1] - counts[2]),
        code,
        steps,
    )


def _unreached(backend: Backend, layout: Layout, result: Result, status: Any) -> Result:
    """Nan where a solve did not come to the end of the span, as at any other output time."""
    failed = status != _SUCCESS
    missing = backend.cast(
        backend.times(np.where(failed, np.nan, 0.0), result.ys), layout.real_dtype
    )
    return replace(result, ys=result.ys + missing[:, None])


def _integer(backend: Backend, value: Any) -> Any:
    known = backend.concrete(value)
    return value if known is None else int(known)


def _resolution(problem: Problem) -> str:
    """What the path of a stochastic equation resolves, and how to have more of it, in words."""
    diffusion = problem.diffusion
    if diffusion is None or not isinstance(diffusion.path.smallest, float):
        return ""
    return (
        f". The Brownian path resolves steps of {diffusion.path.smallest:.3g}, and a rough "
        "path asks for small ones: try rtol=0.1, atol=0.1, or a finer path, "
        "key=ndereg.BrownianTree(..., tolerance=...)"
    )


def _not_finite(backend: Backend, problem: Problem) -> str:
    """Which arrays that the user gave are not finite, in words."""
    posed = problem.posed
    layout = posed.layout
    given = [
        *zip(layout.structure.paths("y0"), layout.unflatten(backend, posed.y0), strict=True),
        *zip(posed.args_structure.paths("args"), posed.args, strict=True),
    ]
    known = [(name, backend.concrete(leaf)) for name, leaf in given]
    bad = [name for name, leaf in known if leaf is not None and not np.all(np.isfinite(leaf))]
    if not bad:
        return ""
    verb = "is" if len(bad) == 1 else "are"
    return f". {', '.join(bad)} {verb} not finite as given to the solve"


def _raise_failures(backend: Backend, problem: Problem, result: Result, status: Any) -> None:
    failed = np.flatnonzero(status != _SUCCESS)
    found, detail = Status(int(status[failed[0]])), ""
    if problem.layout.batch is not None:
        detail = f" ({failed.size} of {status.size} samples failed, the first is {failed[0]})"
    if found is Status.STEP_UNDERFLOW:
        detail += _resolution(problem)
    if found is Status.NON_FINITE:
        detail += _not_finite(backend, problem)
    came = None if result.t is None else backend.concrete(result.t)  # which JAX may trace
    raise SolveError(found, detail, None if came is None else float(np.ravel(came)[failed[0]]))
