"""Step-size controllers of the literature, by name."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType

from ndereg.spec.controller import PIDController

CONTROLLERS = MappingProxyType(
    {
        # Hairer, Norsett, Wanner I, section II.4: the elementary controller.
        "I": PIDController(),
        # DOPRI5 of Hairer & Wanner (II, section IV.2): exponents 0.2 - 0.75 b and b with b = 0.04.
        "PI": PIDController(pcoeff=0.2, icoeff=0.65),
        # Gustafsson's PI.3.4; Soderlind 2002, doi:10.1023/A:1021160023092.
        "PI34": PIDController(pcoeff=0.4, icoeff=0.3),
        "PI33": PIDController(pcoeff=0.3, icoeff=0.3),
        "PI42": PIDController(pcoeff=0.2, icoeff=0.4),
        # Digital filter H211b with b = 4; Soderlind 2003, doi:10.1145/641876.641877, table III.
        "H211b": PIDController(pcoeff=-0.25, icoeff=0.5, alpha=0.25),
        # H211PI: the filter without the step-ratio term.
        "H211PI": PIDController(pcoeff=-1 / 6, icoeff=1 / 3),
        # H312PID, same source: (1/18, 1/9, 1/18).
        "H312PID": PIDController(pcoeff=-2 / 9, icoeff=2 / 9, dcoeff=1 / 18),
        # The insensitive PI controller used for rough solutions; Ilie, Jackson, Enright 2015.
        "PI-rough": PIDController(pcoeff=0.1, icoeff=0.3),
        # Kennedy & Carpenter's PID, as in ARKODE: k = (0.58, 0.21, 0.1).
        "PID": PIDController(pcoeff=0.01, icoeff=0.47, dcoeff=0.1),
    }
)
"""Named presets; adding a controller adds one entry here."""


def lookup_controller(name: str, **changes: float) -> PIDController:
    """Return the preset ``name`` with the given fields replaced.

    Raises
    ------
    ValueError
        If there is no such preset; the message names the closest one.
    """
    by_lower = {key.lower(): value for key, value in CONTROLLERS.items()}
    found = by_lower.get(name.lower())
    if found is None:
        near = get_close_matches(name.lower(), by_lower, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"expected the name of a controller, received {name!r}; {hint}try one of "
            f"{', '.join(CONTROLLERS)}"
        )
    return replace(found, **changes)  # type: ignore[arg-type]
