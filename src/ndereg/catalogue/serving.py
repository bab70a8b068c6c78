"""Which methods can serve a specification."""

from __future__ import annotations

from ndereg.catalogue import lookup, names
from ndereg.spec.adjoint import Backsolve
from ndereg.spec.spec import Spec
from ndereg.spec.tableau import Tableau

_ROWS = {
    "error": "an embedded error estimate",
    "stiffness": "two stages of equal abscissa (a stiffness estimate)",
}


def offers(method: Tableau, row: str) -> bool:
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
    if spec.adaptive and not method.adaptive:
        raise ValueError(
            "expected a method with an embedded error estimate for adaptive steps, received "
            f"{method.name!r}, which has none; try controller=ndereg.ConstantStep(dt), or one of "
            f"{_serving('error')}"
        )
    local = () if spec.local is None else spec.local.terms
    for term in (*spec.terms, *local):
        for row in term.needs:
            if not offers(method, row):
                raise ValueError(
                    f"expected a method with {_ROWS[row]} for {type(term).__name__}, received "
                    f"{method.name!r}, which has none; try one of {_serving(row)}"
                )
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


def _serving(row: str) -> str:
    return ", ".join(name for name in names() if offers(lookup(name), row))
