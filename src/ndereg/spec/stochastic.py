r"""Stochastic Runge–Kutta methods, as plain Python numbers.

A step of ``dy = f(t, y) dt + g(t, y) dW`` evaluates drift and diffusion at stages, and every
argument of a stage, the new state and the error estimate are combinations

.. math:: h \sum_j a_j k_j + \sum_\varphi \varphi \sum_j b^\varphi_j g_j

of the drifts ``k_j``, and of the diffusions ``g_j`` times a random variable of the step.
A method is the coefficients of these combinations; which variables there are is the table
:data:`VARIABLES`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

from ndereg.spec.roessler import Condition, sra_conditions, sri_conditions
from ndereg.spec.tableau import Number

NoiseKind = Literal["diagonal", "additive", "scalar", "general"]
NOISE_KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)
ServedKind = NoiseKind | Literal["langevin"]
"""Kinds of noise that there are methods for: those of an SDE, and that of Langevin dynamics."""
Calculus = Literal["ito", "stratonovich"]
CALCULI: tuple[Calculus, ...] = get_args(Calculus)
Coupling = Literal["diagonal", "scalar", "matrix", "product"]
"""How the diffusion meets the noise: entry by entry, one number for all, as a matrix, or as a
matrix that is never made, of which only the product with the noise is asked for."""
Variable = Literal["W", "H", "K", "chi1", "chi2", "chi3", "square", "root"]

VARIABLES: dict[Variable, str] = {
    "W": "increment of the Brownian path over the step",
    "H": "its space-time Levy area, N(0, h / 12)",
    "K": "its space-time-time Levy area, N(0, h / 720)",
    "chi1": "(W^2 - h) / (2 sqrt(h))",
    "chi2": "W / 2 + H",
    "chi3": "(W^3 - 3 W h) / (6 h)",
    "square": "W^2 / (2 sqrt(h))",
    "root": "sqrt(h)",
}
"""What a diffusion is multiplied by, ``h`` being the size of the step."""

ENTRYWISE: frozenset[Variable] = frozenset({"chi1", "chi3", "square", "root"})
"""Variables that only make sense for noise that does not mix channels."""
ROUNDING = 1e-12
"""Largest deviation of published coefficients from the identities that they satisfy."""

Row = tuple[Number, ...]


@dataclass(frozen=True)
class Noise:
    """What a specification says of the noise.

    Attributes
    ----------
    kind : {"diagonal", "additive", "scalar", "general", "langevin"}
    calculus : {"ito", "stratonovich"}
    coupling : {"diagonal", "scalar", "matrix", "product"}
        Additive noise has a diffusion of the shape of the state, or a matrix.
    """

    kind: ServedKind
    calculus: Calculus
    coupling: Coupling


@dataclass(frozen=True)
class Weights:
    """``h sum(drift_j k_j) + sum over variables v of v sum(noise_v_j g_j)``; rows may be short."""

    drift: Row = ()
    noise: tuple[tuple[Variable, Row], ...] = ()

    def row(self, variable: Variable) -> Row:
        """Weights of the diffusions that meet a variable."""
        return dict(self.noise).get(variable, ())


@dataclass(frozen=True)
class Evaluations:
    """Where a field is evaluated: ``(c_i, weights of the argument of stage i)``.

    The weights of stage ``i`` refer to the drifts and diffusions of the stages before it.
    """

    stages: tuple[tuple[Number, Weights], ...]

    @property
    def c(self) -> Row:
        """Abscissae."""
        return tuple(c for c, _ in self.stages)


class StochasticMethod:
    """What all methods for stochastic equations say of themselves.

    Attributes
    ----------
    name, reference : str
    calculus : {"ito", "stratonovich"}
    orders : tuple of (kind of noise, float)
        Strong orders by the kinds of noise that the method serves.
    error_order : float
        The ``k`` such that the error estimate behaves like ``h**k``.
    stages : int
        Number of stages of the drift.
    stability_size : float or None
    pairs : bool
        Whether the method advances a pair of states.
    fsal : bool
        Whether the last stage of a step is the first of the next one; by default none is, as each
        step has noise of its own.
    reversible : bool
        Whether a step can be undone, in closed form and exactly.
    """

    name: str
    calculus: Calculus
    orders: tuple[tuple[ServedKind, float], ...]
    reference: str
    error_order: float | None
    stages: int
    adaptive: bool
    stability_size: float | None = None
    pairs: ClassVar[bool] = False
    fsal: ClassVar[bool] = False
    reversible: ClassVar[bool] = False

    @property
    def noises(self) -> tuple[ServedKind, ...]:
        """Kinds of noise that the method serves."""
        return tuple(kind for kind, _ in self.orders)

    def serves(self, kind: ServedKind, calculus: Calculus) -> bool:
        """Whether the method solves equations with this noise; additive noise has one calculus."""
        return kind in self.noises and (kind == "additive" or calculus == self.calculus)

    @property
    def stiffness_pair(self) -> tuple[int, int] | None:
        """Two stages of the drift of equal abscissa, where a stability size is known."""
        return None

    def __repr__(self) -> str:
        orders = ", ".join(f"{kind} ({order:g})" for kind, order in self.orders)
        return f"<{type(self).__name__} {self.name!r}: {self.calculus}, {orders}>"


@dataclass(frozen=True, repr=False)
class StochasticTableau(StochasticMethod):
    """The coefficients of a stochastic Runge–Kutta method.

    Parameters
    ----------
    name : str
        Name under which the catalogue finds the method.
    calculus : {"ito", "stratonovich"}
        Of the equations that it solves. With additive noise the two are the same.
    orders : tuple of (kind of noise, float)
        The kinds of noise that it serves, with its strong order there (for diagonal noise that of
        a diffusion whose entry ``i`` depends on entry ``i`` of the state alone).
    drift, diffusion : Evaluations
        Stages; stage ``i`` of the drift is evaluated before stage ``i`` of the diffusion.
    solution : Weights
        Of the new state.
    error : Weights or None
        Of the error estimate, a state.
    error_order : float or None
        The ``k`` such that the estimate behaves like ``h**k``, of which a controller takes the
        k-th root; None is the strong order and a half.
    stability_size : float or None
        Length of the interval of stability on the negative real axis, of methods whose last two
        drift stages have equal abscissae and serve the stiffness estimate.
    reference : str
        Where the coefficients were published.

    Raises
    ------
    ValueError
        When the method asks something of the noise that the kinds in `orders` do not have.

    Examples
    --------
    >>> first = Evaluations(((0, Weights()),))
    >>> euler = StochasticTableau("em", "ito", (("diagonal", 0.5),), first, first,
    ...                           Weights((1,), (("W", (1,)),)))
    >>> euler
    <StochasticTableau 'em': ito, diagonal (0.5), 1 + 1 stages>
    """

    name: str
    calculus: Calculus
    orders: tuple[tuple[ServedKind, float], ...]
    drift: Evaluations
    diffusion: Evaluations
    solution: Weights
    error: Weights | None = None
    error_order: float | None = None
    stability_size: float | None = None
    reference: str = ""

    def __post_init__(self) -> None:
        mixing = {"additive", "general"} & set(self.noises)
        entrywise = ENTRYWISE & self.variables
        if mixing and entrywise:
            raise ValueError(
                f"method {self.name!r}: expected noise that does not mix channels where "
                f"{', '.join(sorted(entrywise))} is used, received {', '.join(sorted(mixing))}; "
                "try diagonal and scalar noise only"
            )
        if self.error_order is None:
            object.__setattr__(self, "error_order", max(dict(self.orders).values()) + 0.5)
        object.__setattr__(self, "_hash", hash(tuple(getattr(self, f.name) for f in fields(self))))

    # kept for the reason that Tableau keeps its own
    def __hash__(self) -> int:
        kept: int = self.__dict__["_hash"]
        return kept

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    def __repr__(self) -> str:
        orders = ", ".join(f"{kind} ({order:g})" for kind, order in self.orders)
        counts = f"{len(self.drift.stages)} + {len(self.diffusion.stages)}"
        return f"<StochasticTableau {self.name!r}: {self.calculus}, {orders}, {counts} stages>"

    @property
    def stages(self) -> int:  # type: ignore[override]
        """Number of stages of the drift."""
        return len(self.drift.stages)

    @property
    def adaptive(self) -> bool:  # type: ignore[override]
        """Whether there is an error estimate."""
        return self.error is not None

    @property
    def stiffness_pair(self) -> tuple[int, int] | None:
        """The last two stages of the drift, of equal abscissa, where a stability size is known."""
        if self.stability_size is None:
            return None
        return self.stages - 2, self.stages - 1

    @cached_property
    def variables(self) -> frozenset[Variable]:
        """Variables that a step reads."""
        rows = [weights for _, weights in (*self.drift.stages, *self.diffusion.stages)]
        rows += [self.solution] + ([] if self.error is None else [self.error])
        return frozenset(v for weights in rows for v, row in weights.noise if any(row))


def check(method: StochasticTableau) -> None:
    """Check the identities that the coefficients of every consistent method satisfy.

    The weights of the new state sum to 1 for the drift and for ``W``, and to 0 for every other
    variable; an abscissa is the sum of the drift's weights, unless the noise is additive and the
    argument of the diffusion is of no consequence; the two last abscissae that a stiffness
    estimate compares are equal; an error estimate vanishes where the diffusion is constant. Of
    methods of Roessler's forms that state order 1.5 it is checked that they have it; the orders of
    the others are measured.

    Raises
    ------
    ValueError
        Naming the identity that is violated.

    Examples
    --------
    >>> from ndereg.catalogue import lookup
    >>> check(lookup("sosri"))
    """

    def expect(what: str, value: Number, wanted: Number) -> None:
        if abs(float(value) - float(wanted)) > ROUNDING:
            raise ValueError(
                f"method {method.name!r}: expected {what} to be {wanted}, received "
                f"{float(value)!r}; try the coefficients as they were published"
            )

    solution = method.solution
    expect("the sum of the drift's weights", sum(solution.drift), 1)
    for variable, row in solution.noise:
        expect(f"the sum of the weights of {variable}", sum(row), 1 if variable == "W" else 0)
    for name, evaluations in (("drift", method.drift), ("diffusion", method.diffusion)):
        if name == "diffusion" and method.noises == ("additive",):
            continue
        for index, (c, weights) in enumerate(evaluations.stages, 1):
            expect(f"the sum of row {index} of the {name}", sum(weights.drift), c)
    if method.error is not None:
        for variable, row in method.error.noise:
            expect(f"the sum of the error's weights of {variable}", sum(row), 0)
    if method.stiffness_pair is not None:
        first, second = method.stiffness_pair
        expect("the last abscissa", method.drift.c[second], method.drift.c[first])
    for what, value, wanted in _conditions(method):
        expect(f"{what}, for order 1.5,", value, wanted)


_SRA: frozenset[Variable] = frozenset({"W", "chi2"})
_SRI: frozenset[Variable] = frozenset({"W", "chi1", "chi2", "chi3", "root"})


def _conditions(method: StochasticTableau) -> Iterable[Condition]:
    """The order conditions of a method of Roessler's forms; nothing of another."""
    stages, solution = [weights for _, weights in method.drift.stages], method.solution
    others = [weights for _, weights in method.diffusion.stages]
    a0, b0 = [w.drift for w in stages], [w.row("chi2") for w in stages]
    a1, b1 = [w.drift for w in others], [w.row("root") for w in others]
    pure = all({v for v, _ in w.noise} <= {"chi2"} for w in stages)
    pure = pure and all({v for v, _ in w.noise} <= {"root"} for w in others)
    orders = dict(method.orders)
    if not pure:
        return ()
    if orders.get("additive", 0.0) >= 1.5 and method.variables <= _SRA:
        beta = [solution.row("W"), solution.row("chi2")]
        return sra_conditions(a0, b0, method.diffusion.c, solution.drift, beta)
    entrywise = max(orders.get("diagonal", 0.0), orders.get("scalar", 0.0))
    if entrywise >= 1.5 and method.calculus == "ito" and method.variables <= _SRI:
        beta = [solution.row(v) for v in ("W", "chi1", "chi2", "chi3")]
        matrices = {"A0": a0, "A1": a1, "B0": b0, "B1": b1}
        return sri_conditions(matrices, solution.drift, beta)
    return ()
