"""A problem to check, which can write itself down as a program."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any

import numpy as np

from ndereg.brownian import BrownianTree
from ndereg.spec.adjoint import Discrete, Reversible
from ndereg.spec.controller import ConstantStep, PIDController
from ndereg.spec.regularizer import Combination
from ndereg.spec.tableau import Tableau
from ndereg.structure import flatten
from ndereg.testing.checks import crosscheck
from ndereg.testing.paths import STOCHASTIC
from ndereg.testing.report import CrossCheckReport


@dataclass(frozen=True, eq=False)
class Example:
    """A field with its span, state and arguments, and options of the solve.

    What ``ndereg crosscheck MODULE:NAME`` checks, and what the random search draws.

    Parameters
    ----------
    field : callable, SDE or UnderdampedLangevin
    t_span : tuple of float
    y0, args : arrays, or nested structures of arrays
    options : mapping
        Keyword arguments of :func:`ndereg.testing.crosscheck`.

    Examples
    --------
    >>> decay = Example(lambda t, y, args: -args * y, (0.0, 1.0), np.ones(2), np.array(0.5))
    >>> decay.crosscheck(backends=["numpy"], replays=2).ok
    True
    """

    field: Any
    t_span: tuple[float, float]
    y0: Any
    args: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def crosscheck(self, **changes: Any) -> CrossCheckReport:
        """Cross-check with these options, some of them changed."""
        return crosscheck(
            self.field, self.t_span, self.y0, self.args, **{**self.options, **changes}
        )

    def varied(self, seed: int, spread: float = 0.1) -> Example:
        """Return the example with every number in ``y0`` and ``args`` moved by ``spread``."""
        random = np.random.default_rng(seed)

        def moved(tree: Any) -> Any:
            leaves, structure = flatten(tree)
            arrays = [np.asarray(leaf) for leaf in leaves]
            return structure.unflatten(
                [
                    np.asarray(a * (1 + spread * random.normal(size=a.shape)), a.dtype)
                    if a.dtype.kind in "fc"
                    else a
                    for a in arrays
                ]
            )

        return Example(self.field, self.t_span, moved(self.y0), moved(self.args), self.options)

    def code(self, **changes: Any) -> str:
        """Return a program that checks this example and fails if backends disagree.

        It needs the source of the field; where there is none, a comment says so.
        """
        source, name = _source(self.field)
        options = {**self.options, **changes}
        given = "".join(f"    {key}={written(value)},\n" for key, value in options.items())
        args = "" if self.args is None else f"    args={written(self.args)},\n"
        return (
            "from __future__ import annotations\n\n"
            "from fractions import Fraction\n\n"
            "import numpy as np\n\n"
            "import ndereg\n"
            "from ndereg import ops\n"
            "from ndereg.testing import assert_backends_agree\n\n\n"
            f"{source}\n\n"
            "assert_backends_agree(\n"
            f"    {name},\n"
            f"    {written(self.t_span)},\n"
            f"    {written(self.y0)},\n"
            f"{args}{given})\n"
        )


def _source(field: Any) -> tuple[str, str]:
    """Definitions of a field, or of the functions of an equation; and an expression of it."""
    if not isinstance(field, STOCHASTIC):
        return _function_source(field)
    sources: dict[str, str] = {}
    given = []
    for item in fields(field):
        value = getattr(field, item.name)
        if callable(value):
            source, value = _function_source(value, item.name)
            if sources.get(value, source) != source:  # two functions of one name
                source, value = source.replace(f"def {value}(", f"def {item.name}("), item.name
            sources[value] = source
        else:
            value = repr(value)
        given.append(f"{item.name}={value}")
    found = "\n\n".join(sources.values())
    return found, f"ndereg.{type(field).__name__}({', '.join(given)})"


def _function_source(function: Callable[..., Any], role: str = "field") -> tuple[str, str]:
    own = getattr(function, "source", None)
    name = getattr(function, "__name__", role)
    if isinstance(own, str):
        return own, name
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return f"# {name}: its source is not known\n", name
    if source.lstrip().startswith("def "):
        return source, name
    return f"# {role}: {source.strip()}\n", role


def written(value: Any) -> str:
    """Write a value as Python code."""
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        return f"np.array({array.tolist()!r}, {array.dtype.name!r})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {written(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(written, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, Fraction):
        return f"Fraction({value.numerator}, {value.denominator})"
    if isinstance(value, Tableau):
        return _written_tableau(value)
    if isinstance(value, Combination):
        return " + ".join(f"{weight!r} * {written(term)}" for weight, term in value.weighted)
    plain = (PIDController, ConstantStep, Discrete, Reversible, BrownianTree)
    if isinstance(value, plain) or hasattr(value, "reduce"):
        return f"ndereg.{value!r}"
    return repr(value)


def _written_tableau(tableau: Tableau) -> str:
    kept = {
        "a": tableau.a, "b": tableau.b, "b_embedded": tableau.b_embedded,
        "embedded_order": tableau.embedded_order,
    }  # fmt: skip
    rest = "".join(f", {key}={written(value)}" for key, value in kept.items() if value is not None)
    return f"ndereg.Tableau({tableau.name!r}, {tableau.order}{rest})"
