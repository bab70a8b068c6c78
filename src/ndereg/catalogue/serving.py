"""Which methods can serve a specification."""

from __future__ import annotations

from dataclasses import replace

from ndereg.catalogue import lookup, names
from ndereg.spec.adjoint import Backsolve, Reversible
from ndereg.spec.langevin import LangevinMethod
from ndereg.spec.spec import Spec
from ndereg.spec.stochastic import Calculus, Noise, ServedKind, StochasticMethod
from ndereg.spec.tableau import Tableau

_ROWS = {
    "error": "an embedded error estimate",
    "stiffness": "two stages of equal abscissa (a stiffness estimate)",
}


class DefaultMethod(str):
    """The name of a method that nobody chose: of an equation that it is not for, another one is."""

    __slots__ = ()


DEFAULT_METHOD = DefaultMethod("tsit5")


def default_method(noise: Noise, adjoint: object) -> str:
    """Name of the method for a stochastic equation where none was chosen.

    It has an error estimate, where there is a method with one for this noise.
    """
    stratonovich = noise.calculus == "stratonovich"
    if adjoint in ("reversible", Reversible()) and noise.kind != "langevin":
        return "reversible_heun"
    match noise.kind:
        case "langevin":
            return "quicsort"
        case "additive":
            return "spark" if adjoint in ("backsolve", Backsolve()) else "sosra"
        case "general":
            return "spark" if stratonovich else "euler_maruyama"
        case _:
            return "spark" if stratonovich else "sosri"


def offers(method: Tableau | StochasticMethod, row: str) -> bool:
    """Whether ``method`` has the row ``"error"`` or ``"stiffness"``."""
    return method.adaptive if row == "error" else method.stiffness_pair is not None


def refuse_unserved(spec: Spec) -> None:
    """Raise if the method or the adjoint of ``spec`` cannot serve what it asks for.

    Raises
    ------
    ValueError
        Naming the methods or adjoints that can.
    """
    method = spec.tableau
    _refuse_unfit(method, spec.noise)
    if spec.adaptive and not method.adaptive:
        raise ValueError(
            "expected a method with an embedded error estimate for adaptive steps, received "
            f"{method.name!r}, which has none; try controller=ndereg.ConstantStep(dt)"
            f"{_alternatives(spec.noise)}"
        )
    local = () if spec.local is None else spec.local.terms
    for term in (*spec.terms, *local):
        for row in term.needs:
            if not offers(method, row):
                raise ValueError(
                    f"expected a method with {_ROWS[row]} for {type(term).__name__}, received "
                    f"{method.name!r}, which has none; try {_serving(row, spec)}"
                )
    reversible = isinstance(method, StochasticMethod) and method.reversible
    if isinstance(spec.adjoint, Reversible) and not reversible:
        raise ValueError(
            "expected a method whose steps can be undone for adjoint='reversible', received "
            f"{method.name!r}; try adjoint='discrete', or method='reversible_heun' for an "
            "ndereg.SDE of Stratonovich"
        )
    if spec.noise is not None and isinstance(spec.adjoint, Backsolve):
        _refuse_unreturned(method, spec.noise)
    if spec.terms and isinstance(spec.adjoint, Backsolve):
        raise ValueError(
            "expected adjoint='discrete' for a regularizer over the steps of the solve "
            f"({', '.join(type(term).__name__ for term in spec.terms)}), received 'backsolve', "
            "which forgets the steps; try adjoint='discrete', or ndereg.Local(...), which works "
            "with every adjoint"
        )
    through_state = spec.local is not None and spec.local.through_state
    if through_state and isinstance(spec.adjoint, Backsolve) and spec.batch == "independent":
        raise ValueError(
            "expected adjoint='discrete' for ndereg.Local(through_state=True) with "
            "batch='independent', received 'backsolve', whose samples share the times at which it "
            "is interrupted; try adjoint='discrete', or through_state=False"
        )


def fitting(kind: ServedKind, calculus: Calculus) -> tuple[str, ...]:
    """Names of the methods for stochastic equations with this noise."""
    found = []
    for name in names("sde"):
        method = lookup(name)
        if isinstance(method, StochasticMethod) and method.serves(kind, calculus):
            found.append(name)
    return tuple(found)


def _refuse_unfit(method: Tableau | StochasticMethod, noise: Noise | None) -> None:
    """Refuse a method of other equations, or for other noise."""
    stochastic = isinstance(method, StochasticMethod)
    if noise is None:
        if isinstance(method, LangevinMethod):
            raise ValueError(
                f"expected an ndereg.UnderdampedLangevin for method={method.name!r}, received an "
                "ordinary field; try method='tsit5', or ndereg.UnderdampedLangevin(grad_potential)"
            )
        if stochastic:
            raise ValueError(
                f"expected an ndereg.SDE for method={method.name!r}, which solves stochastic "
                "equations, received an ordinary field; try method='tsit5', or "
                "ndereg.SDE(drift, diffusion)"
            )
        return
    if stochastic and method.serves(noise.kind, noise.calculus):
        return
    suitable = ", ".join(fitting(noise.kind, noise.calculus))
    what = f"{noise.kind} noise in the calculus of {noise.calculus.capitalize()}"
    if noise.kind == "langevin":
        what = "underdamped Langevin dynamics"
    if stochastic and noise.kind in method.noises:
        entrywise = ", if entry i of its diffusion depends on entry i of the state alone"
        advice = (
            f"; {method.name!r} solves equations of {method.calculus.capitalize()}, as which the "
            f"same equation is sde.converted({method.calculus!r})"
            f"{entrywise if noise.kind == 'diagonal' else ''}"
        )
    elif isinstance(method, LangevinMethod):
        advice = f"; {method.name!r} solves an ndereg.UnderdampedLangevin"
    elif not stochastic and noise.kind != "langevin":
        advice = f"; {method.name!r} solves an ndereg.SDE(drift, None), which has no noise"
    else:
        advice = ""
    raise ValueError(
        f"expected a method for {what}, received {method.name!r}; try one of {suitable}{advice}"
    )


def _refuse_unreturned(method: Tableau | StochasticMethod, noise: Noise) -> None:
    """Refuse the continuous adjoint where it is no equation that the method solves.

    It is an equation of Stratonovich, whose noise moves cotangents and parameters together: general
    noise, whatever that of the equation is.
    """
    stratonovich = noise.kind == "additive" or noise.calculus == "stratonovich"
    general = isinstance(method, StochasticMethod) and method.serves("general", "stratonovich")
    if noise.kind == "langevin":
        raise ValueError(
            "expected adjoint='discrete' for an ndereg.UnderdampedLangevin, received 'backsolve'; "
            "try adjoint='discrete', whose memory is that of its checkpoints"
        )
    if stratonovich and general:
        return
    if not stratonovich:
        raise ValueError(
            "expected an equation of Stratonovich for adjoint='backsolve', received one of Ito; "
            "try adjoint='discrete', or sde.converted('stratonovich'), which is the same equation"
        )
    raise ValueError(
        "expected a method for general noise in the calculus of Stratonovich for "
        f"adjoint='backsolve', as the adjoint equation has it, received {method.name!r}; try one "
        f"of {', '.join(fitting('general', 'stratonovich'))}, or adjoint='discrete'"
    )


def _alternatives(noise: Noise | None) -> str:
    """Methods with an error estimate, if there are any for this noise."""
    found = _offering({"error"}, noise)
    if found:
        return f", or one of {found}"
    return f"; no method has one for this noise{_converted({'error'}, noise)}"


def _serving(row: str, spec: Spec) -> str:
    noise, rows = spec.noise, {row, "error"} if spec.adaptive else {row}
    found = _offering(rows, noise)
    if found:
        return f"one of {found}"
    return f"another regularizer: no method has it for this noise{_converted(rows, noise)}"


def _offering(rows: set[str], noise: Noise | None) -> str:
    candidates = names() if noise is None else fitting(noise.kind, noise.calculus)
    return ", ".join(name for name in candidates if all(offers(lookup(name), r) for r in rows))


def _converted(rows: set[str], noise: Noise | None) -> str:
    """The same equation in the other calculus, where methods for that have the rows."""
    if noise is None or noise.kind == "langevin":
        return ""
    calculus: Calculus = "stratonovich" if noise.calculus == "ito" else "ito"
    found = _offering(rows, replace(noise, calculus=calculus))
    if not found:
        return ""
    return f", but sde.converted({calculus!r}) is the same equation, for which {found} do"
