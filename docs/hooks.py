"""Text that is printed by the library itself, put into the pages when they are built.

A page names it in a comment of its own line, ``<!-- ndereg: NAME -->``.
"""

import re

import ndereg
from ndereg.backends.registry import backend_names
from ndereg.spec.status import Status
from ndereg.spec.stochastic import Noise

PLACE = re.compile(r"^<!-- ndereg: (\w+) -->$", re.MULTILINE)


def methods():
    """Return the catalogue as a Markdown table."""
    lines = [
        "| method | order | embedded | stages | FSAL | interpolant | stiffness estimate |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ndereg.names():
        tableau = ndereg.lookup(name)
        lines.append(
            f"| `{name}` | {tableau.order} | {tableau.embedded_order or '–'} | {tableau.stages} "
            f"| {'yes' if tableau.fsal else 'no'} | {tableau.interpolant_order} "
            f"| {'yes' if tableau.stiffness_pair else 'no'} |"
        )
    return "\n".join(lines)


def stochastic_methods():
    """Return the methods for stochastic equations as a Markdown table."""
    kinds = ("scalar", "diagonal", "general", "additive", "langevin")
    lines = [
        "| method | calculus | " + " | ".join(kinds) + " | adaptive | stiffness estimate |",
        "|---|---|" + "---|" * (len(kinds) + 2),
    ]
    for name in ndereg.names("sde"):
        method = ndereg.lookup(name)
        orders = dict(method.orders)
        row = " | ".join(f"{orders[kind]:g}" if kind in orders else "–" for kind in kinds)
        calculus = method.calculus.capitalize()
        if set(orders) in ({"additive"}, {"langevin"}):  # where the two are the same
            calculus = "any"
        flags = [method.adaptive, method.stiffness_pair is not None]
        lines.append(
            f"| `{name}` | {calculus} | {row} | "
            + " | ".join("yes" if flag else "no" for flag in flags)
            + " |"
        )
    return "\n".join(lines)


def controllers():
    """Return the controller presets as a Markdown table."""
    lines = ["| name | p | i | d | alpha |", "|---|---|---|---|---|"]
    for name, law in ndereg.CONTROLLERS.items():
        numbers = (law.pcoeff, law.icoeff, law.dcoeff, law.alpha)
        lines.append(f"| `{name}` | " + " | ".join(f"{x:.4g}" for x in numbers) + " |")
    return "\n".join(lines)


def statuses():
    """Return the statuses as a Markdown table."""
    lines = ["| status | value | meaning |", "|---|---|---|"]
    lines += [f"| `{s.name}` | {s.value} | {s.message} |" for s in Status if s >= 0]
    return "\n".join(lines)


def backends():
    """Return the names of the backends."""
    return ", ".join(f"`{name}`" for name in backend_names())


def _program(program):
    return f"```text\n{program}\n```"


def _plan(method, *terms):
    return ndereg.lower(ndereg.Spec(ndereg.lookup(method), terms=terms))


def _stochastic_step():
    noise = Noise("general", "stratonovich", "matrix")
    spec = ndereg.Spec(ndereg.lookup("stochastic_heun"), adaptive=False, noise=noise)
    return ndereg.lower(spec).replay


PRINTED = {
    "methods": methods,
    "stochastic_methods": stochastic_methods,
    "controllers": controllers,
    "statuses": statuses,
    "backends": backends,
    "tsit5_step": lambda: _program(_plan("tsit5").step),
    "tsit5_adjoint": lambda: _program(_plan("tsit5").adjoint),
    "stochastic_step": lambda: _program(_stochastic_step()),
    "heun_step": lambda: _program(_plan("heun_euler", ndereg.ErrorEstimate()).step),
    "heun_adjoint": lambda: _program(_plan("heun_euler", ndereg.ErrorEstimate()).adjoint),
}


def on_page_markdown(markdown, **_):
    """Fill the places; a name that nobody prints breaks the build."""
    return PLACE.sub(lambda place: PRINTED[place.group(1)](), markdown)
