"""A neural stochastic equation as one layer: encoder, drift, diffusion, head, and its solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ndereg import ops
from ndereg.catalogue import lookup
from ndereg.catalogue.serving import fitting
from ndereg.models.layer import Layer
from ndereg.models.neural_ode import face_of
from ndereg.models.parameters import Parameters
from ndereg.models.validation import choice, instance, real, size, span
from ndereg.sde import SDE
from ndereg.solution import Solution
from ndereg.spec.controller import ConstantStep
from ndereg.spec.stochastic import CALCULI, Calculus, NoiseKind, StochasticMethod

NOISES: tuple[NoiseKind, ...] = ("diagonal", "additive", "scalar", "general")


@dataclass(frozen=True)
class Part:
    """A layer with its group of parameters: a drift or a diffusion of ``{name: parameters}``."""

    layer: Layer
    name: str

    def __call__(self, t: Any, y: Any, args: Parameters) -> Any:
        """Evaluate the layer."""
        return self.layer(t, y, args.get(self.name, {}))


@dataclass(frozen=True)
class MatrixPart(Part):
    """A diffusion of general noise, whose layer returns the rows of its matrix side by side."""

    motions: int = 1

    def __call__(self, t: Any, y: Any, args: Parameters) -> Any:
        """Return the matrices, (..., n, motions).

        Raises
        ------
        ValueError
            If the layer's last axis is not ``motions`` times as long as that of the state.
        """
        rows = super().__call__(t, y, args)
        width = y.shape[-1] * self.motions
        if tuple(rows.shape) != (*y.shape[:-1], width):
            raise ValueError(
                f"expected the diffusion of a state {tuple(y.shape)} to have the shape "
                f"{(*y.shape[:-1], width)} for motions={self.motions}, received "
                f"{tuple(rows.shape)}; try a layer whose result is {width} wide"
            )
        return ops.reshape(rows, (*y.shape, self.motions))


@dataclass(frozen=True)
class NeuralSDE(Layer):
    """``x -> mean of head(y(t1))`` where ``dy = drift dt + diffusion dW`` from ``encoder(x)``.

    It is no field itself: it contains a solve. Parameters of drift and diffusion are both under
    ``"field"``: they are the ``args`` of the solve.

    Parameters
    ----------
    drift, diffusion : Layer
        Their results have the shape of the state, (B, ...); with general noise the diffusion's
        last axis is ``motions`` times as long, the rows of a matrix side by side.
    encoder, head : Layer, optional
        From the input to the state, and from the state to the output.
    t_span : (float, float)
        Where the equation is solved.
    noise : {"diagonal", "additive", "scalar", "general"}
        ``"scalar"``, one Brownian motion, moves a whole batch alike, and so has one path. With
        ``"general"``, ``motions`` of them move every sample, which then has steps of its own; it
        also has one path.
    calculus : {"ito", "stratonovich"}
    motions : int
        Brownian motions of general noise.
    dt : float, optional
        Size of all steps, where the method takes no adaptive ones; None is adaptive steps.
    paths : int
        Paths of every sample, all in one solve, whose outputs are averaged.
    method : str
        A name of the catalogue.
    rtol, atol : float
        Tolerances.

    Raises
    ------
    ValueError
        If something is not as said, or the method does not serve the noise in this calculus.

    Examples
    --------
    >>> import torch
    >>> from ndereg.models import MLP, Affine
    >>> from ndereg.models.parameters import map_leaves
    >>> layer = NeuralSDE(MLP((2, 8, 2)), Affine(2, 2), paths=5)
    >>> params = map_leaves(torch.tensor, layer.init(seed=0))
    >>> sorted(params["field"])
    ['diffusion', 'drift']
    >>> import ndereg.torch as nde
    >>> output, solution = layer.run(nde, torch.ones(3, 2), params, key=0)
    >>> output.shape, solution.ys.shape
    (torch.Size([3, 2]), torch.Size([3, 5, 2]))
    """

    type: ClassVar[str] = "neural_sde"

    drift: Layer
    diffusion: Layer
    encoder: Layer | None = None
    head: Layer | None = None
    t_span: tuple[float, float] = (0.0, 1.0)
    noise: NoiseKind = "diagonal"
    calculus: Calculus = "ito"
    paths: int = 1
    method: str = "sosri"
    rtol: float = 0.1
    atol: float = 0.1
    motions: int = 1
    dt: float | None = None

    def __post_init__(self) -> None:
        for name in ("drift", "diffusion", "encoder", "head"):
            layer = getattr(self, name)
            if layer is not None or name in ("drift", "diffusion"):
                instance(name, layer, Layer, "MLP((2, 16, 2))")
        object.__setattr__(self, "t_span", span("t_span", self.t_span))
        choice("noise", self.noise, NOISES)
        choice("calculus", self.calculus, CALCULI)
        object.__setattr__(self, "paths", size("paths", self.paths))
        if self.noise in ("scalar", "general") and self.paths > 1:
            raise ValueError(
                f"expected paths=1 for noise={self.noise!r}, which moves all paths alike, received "
                f"paths={self.paths}; try noise='diagonal'"
            )
        object.__setattr__(self, "motions", size("motions", self.motions))
        if self.motions > 1 and self.noise != "general":
            raise ValueError(
                f"expected motions=1 for noise={self.noise!r}, received motions={self.motions}; "
                "try noise='general'"
            )
        if self.dt is not None:
            object.__setattr__(self, "dt", ConstantStep(real("dt", self.dt)).dt)
        method = lookup(self.method)
        if not isinstance(method, StochasticMethod) or not method.serves(self.noise, self.calculus):
            raise ValueError(
                f"expected a method for a stochastic equation with {self.noise} noise in the sense "
                f"of {self.calculus!r}, received {self.method!r}; try method= one of "
                f"{', '.join(fitting(self.noise, self.calculus))}"
            )
        for name in ("rtol", "atol"):
            object.__setattr__(self, name, real(name, getattr(self, name), least=0.0))

    @property
    def equation(self) -> SDE:
        """The equation, whose ``args`` are ``params["field"]``."""
        diffusion = Part(self.diffusion, "diffusion")
        if self.noise == "general":
            diffusion = MatrixPart(self.diffusion, "diffusion", self.motions)
        return SDE(
            Part(self.drift, "drift"),
            diffusion,
            noise=self.noise,
            calculus=self.calculus,
        )

    def initial(self) -> dict[str, Any]:
        """Return how the parameters of all layers start."""
        field = {"drift": self.drift.initial(), "diffusion": self.diffusion.initial()}
        groups: dict[str, Any] = {"field": {name: found for name, found in field.items() if found}}
        for name in ("encoder", "head"):
            layer = getattr(self, name)
            if layer is not None:
                groups[name] = layer.initial()
        return {name: group for name, group in groups.items() if group}

    def encode(self, x: Any, params: Parameters, paths: int = 1) -> Any:
        """Return the state at the start, (B, ...), or (B, paths, ...) of more than one."""
        if self.encoder is not None:
            x = self.encoder(self.t_span[0], x, params.get("encoder", {}))
        return x if paths == 1 else ops.stack([x] * paths, axis=1)

    def decode(self, y: Any, params: Parameters, paths: int = 1) -> Any:
        """Return the output, for the state ``y`` at the end: of several paths the mean."""
        if self.head is not None:
            y = self.head(self.t_span[1], y, params.get("head", {}))
        return y if paths == 1 else ops.mean(y, axis=1)

    def options(self, **more: Any) -> dict[str, Any]:
        """Return the keyword arguments of the solve; ``more`` overrides them."""
        found: dict[str, Any] = {"method": self.method, "rtol": self.rtol, "atol": self.atol}
        if self.noise == "general":
            found["batch"] = "independent"
        if self.dt is not None:
            found["controller"] = ConstantStep(self.dt)
        return found | more

    def run(
        self, face: Any, x: Any, params: Parameters, key: Any, **options: Any
    ) -> tuple[Any, Solution]:
        """Evaluate with a face: :mod:`ndereg.numpy`, :mod:`ndereg.torch` or :mod:`ndereg.jax`.

        Parameters
        ----------
        face : module or Face
            What solves.
        x : array
            The input, one sample a row.
        params : dict
            As :meth:`init` returns them, in arrays of the face.
        key : int, key of the framework, or BrownianTree
            Of the noise.
        **options
            Of ``solve``, but no ``t_eval``.

        Returns
        -------
        output : array
        solution : Solution

        Raises
        ------
        ValueError
            If there is a ``t_eval``.
        """
        if options.get("t_eval") is not None:
            raise ValueError(
                "expected no t_eval for a NeuralSDE, whose output is that at the end, received "
                f"{options['t_eval']!r}; try solve(layer.equation, ...)"
            )
        y0 = self.encode(x, params, self.paths)
        solution = face.solve(
            self.equation, self.t_span, y0, params.get("field", {}), key=key,
            **self.options(**options),
        )  # fmt: skip
        return self.decode(solution.ys, params, self.paths), solution

    def __call__(self, t: Any, y: Any, params: Parameters) -> Any:
        """Evaluate on the input ``y`` with the noise of key 0; the time has no meaning here.

        Raises
        ------
        TypeError
            If ``y`` is no array of NumPy, PyTorch or JAX.
        """
        return self.run(face_of(y), y, params, key=0)[0]
