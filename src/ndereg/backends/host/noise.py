"""The noise of a step on the arrays of eager frameworks."""

from __future__ import annotations

from typing import Any

from ndereg.backends.base import Problem


class StepNoise:
    """What the programs of a solve ask of its Brownian path, in the form in which they read it.

    Parameters
    ----------
    machine : HostMachine
        Of a stochastic equation.
    """

    def __init__(self, machine: Any) -> None:
        problem = machine.problem
        self._machine, self._names = machine, problem.plan.noise
        self._halved = problem.plan.halved
        self._medium = medium(machine)
        self._joint = problem.layout.batch is None
        self._coupling = problem.diffusion.coupling
        self._shape = problem.seen_shape
        path = problem.diffusion.path
        self._entries, self._direct = path.entries, path.direct
        # one variable for all entries is a control scalar
        dtype = "float64" if self._coupling == "scalar" else problem.layout.real_dtype
        backend = self._backend = problem.diffusion.backend
        self._path = backend.brownian(path.areas, path.words, path.grid, dtype, problem.y0)
        self._latest: tuple[Any, Any, int, dict[str, Any]] | None = None

    def __call__(self, t: Any, h: Any, step: int) -> dict[str, Any]:
        """Return the increments over ``[t, t + h]``, of the step of number ``step``, by name.

        They are not drawn again where they are asked for once more: of a step that is undone, and
        then transposed.
        """
        latest = self._latest
        if latest is not None and latest[0] is t and latest[1] is h and latest[2] == step:
            return latest[3]
        found = self._drawn(t, h, step)
        self._latest = (t, h, step, found)
        return found

    def _drawn(self, t: Any, h: Any, step: int) -> dict[str, Any]:
        if not self._joint:
            # samples that ended, or never began, may have no step size to speak of
            h = self._machine.select(h - h == 0.0, h, 0.0)
        if self._halved:
            middle = t + 0.5 * h
            first = self._path.increment(t, middle, self._entries)
            second = self._path.increment(middle, t + h, self._entries)
            return self._named(first, "1") | self._named(second, "2") | self._medium
        if self._direct:
            found = self._path.direct(step, h, self._entries)
        else:
            found = self._path.increment(t, t + h, self._entries)
        return self._named(found) | self._medium

    def _named(self, found: Any, half: str = "") -> dict[str, Any]:
        named = zip(("W", "H", "K"), found, strict=True)
        return {
            name + half: self._shaped(value) for name, value in named if name + half in self._names
        }

    def _shaped(self, value: Any) -> Any:
        backend = self._backend
        if self._coupling == "diagonal":
            if value.shape[0] != self._entries.samples:  # noise that all samples share
                value = backend.concat([value] * self._entries.samples)
            return backend.reshape(value, self._shape)
        if self._coupling == "scalar" and self._joint:
            return backend.reshape(value, ())
        return value


def medium(machine: Any) -> dict[str, Any]:
    """What steps read of a stochastic equation besides its noise, as control scalars."""
    diffusion = machine.problem.diffusion
    if diffusion is None:
        return {}
    return {name: machine.constant(value) for name, value in diffusion.medium.items()}


class Driven:
    """The part of a machine that knows the path of a stochastic equation."""

    problem: Problem
    _noise: StepNoise | None = None

    def noise(self, t: Any, h: Any, step: int) -> dict[str, Any]:
        """Increments of the path, none of an ordinary equation."""
        if self.problem.diffusion is None:
            return {}
        if self._noise is None:
            self._noise = StepNoise(self)
        return self._noise(t, h, step)
