"""Write what the library prints itself into the pages, between two comments.

``python docs/printed.py`` writes every page; ``--check`` says which are not as it would write them.
A page names what stands there: ``<!-- ndereg: NAME -->`` before it, ``<!-- ndereg -->`` after it.
"""

import ast
import inspect
import re
import sys
from pathlib import Path

import ndereg
from ndereg.backends.registry import backend_names
from ndereg.experiments import RECIPES, STUDIES, experiment, lookup
from ndereg.experiments.options import without_option
from ndereg.experiments.recipe import Settings
from ndereg.solution import Solution, Stats, Steps
from ndereg.solve import Face
from ndereg.spec.status import Status
from ndereg.spec.stochastic import Noise

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACE = re.compile(r"^<!-- ndereg: (\w+) -->\n.*?^<!-- ndereg -->$", re.MULTILINE | re.DOTALL)


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


def _described(owner, section, prefix=""):
    """Return rows of what a docstring has in a section: name, type or default, meaning."""
    text = inspect.getdoc(owner).partition(f"{section}\n{'-' * len(section)}\n")[2]
    text = re.split(r"\n\n\w+\n-+\n", text)[0]
    for entry in re.split(r"\n(?=\S)", text):
        head, *lines = entry.split("\n")
        names, _, kind = head.partition(" : ")
        meaning = re.sub(r":class:`([^`]*)`", r"`\1`", " ".join(line.strip() for line in lines))
        meaning = meaning.replace("``", "`").replace("|", "\\|")
        shown = ", ".join(f"`{prefix}{name}`" for name in names.split(", "))
        yield names.split(", "), shown, kind.replace("``", "`"), meaning


def solve_options():
    """Return the arguments of ``solve`` as a Markdown table."""
    known = inspect.signature(Face.solve).parameters
    lines = ["| argument | default | |", "|---|---|---|"]
    for names, shown, kind, meaning in _described(Face.solve, "Parameters"):
        defaults = [known[name].default for name in names if name in known]
        given = defaults and all(default is not inspect.Parameter.empty for default in defaults)
        default = ", ".join(f"`{default!r}`" for default in defaults) if given else "–"
        if names == ["method"]:
            default = "`'tsit5'`"
        lines.append(f"| {shown} | {default} | {kind}. {meaning} |")
    return "\n".join(lines)


def solution_fields():
    """Return what a solution holds as a Markdown table."""
    lines = ["| | | |", "|---|---|---|"]
    for owner, prefix in ((Solution, "sol."), (Stats, "sol.stats."), (Steps, "sol.steps.")):
        for _, shown, kind, meaning in _described(owner, "Attributes", prefix):
            lines.append(f"| {shown} | {kind} | {meaning or '–'} |")
    return "\n".join(lines)


def backends():
    """Return the names of the backends."""
    return ", ".join(f"`{name}`" for name in backend_names())


def rows():
    """Return the rows, and the recipes that have them, as a Markdown table."""
    having = {}
    for name in RECIPES:
        for row in lookup(name).regularizers:
            having.setdefault(row, []).append(name)
    lines = [f"| `{row}` | {', '.join(names)} |" for row, names in having.items()]
    return "\n".join(["| row | recipes |", "|---|---|", *lines])


def settings_without_option():
    """Return the settings of every training that have no option as a Markdown table."""
    (described,) = ast.parse(inspect.getsource(Settings)).body
    meanings = {
        field.target.id: " ".join(text.value.value.replace("``", "`").split())
        for field, text in zip(described.body, described.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    lines += [
        f"| `{each.name}` | {each.default} | {meanings[each.name]} |"
        for each in without_option(Settings)
    ]
    return "\n".join(lines)


def settings_of_recipes():
    """Return what further settings recipes and studies have without an option, with defaults."""
    shared = {each.name for each in without_option(Settings)}
    lines = ["| recipe | settings |", "|---|---|"]
    for name in (*RECIPES, *STUDIES):
        own = [e for e in without_option(experiment(name).settings_type) if e.name not in shared]
        if own:
            lines.append(f"| {name} | " + ", ".join(f"`{e.name}={e.default}`" for e in own) + " |")
    return "\n".join(lines)


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
    "solve_options": solve_options,
    "solution_fields": solution_fields,
    "backends": backends,
    "rows": rows,
    "settings_without_option": settings_without_option,
    "settings_of_recipes": settings_of_recipes,
    "tsit5_step": lambda: _program(_plan("tsit5").step),
    "tsit5_adjoint": lambda: _program(_plan("tsit5").adjoint),
    "stochastic_step": lambda: _program(_stochastic_step()),
    "heun_step": lambda: _program(_plan("heun_euler", ndereg.ErrorEstimate()).step),
    "heun_adjoint": lambda: _program(_plan("heun_euler", ndereg.ErrorEstimate()).adjoint),
}


def filled(text):
    """Return a page with its places filled."""

    def place(found):
        name = found.group(1)
        return f"<!-- ndereg: {name} -->\n\n{PRINTED[name]()}\n\n<!-- ndereg -->"

    return PLACE.sub(place, text)


def main():
    """Fill the pages, or say which are not."""
    check = sys.argv[1:] == ["--check"]
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            print(page.relative_to(ROOT))
            if not check:
                page.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
