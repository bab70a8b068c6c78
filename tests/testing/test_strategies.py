"""Random problems: they are what they claim, run on every kind of array, and shrink."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

import ndereg
from ndereg.catalogue import check, lookup
from ndereg.cli import app
from ndereg.structure import flatten
from ndereg.testing import Example, command, search, strategies
from ndereg.testing.expressions import Expression

from .broken_backends import DEFECTS


@given(strategies.tableaux())
def test_drawn_tableaux_are_of_their_order(tableau: Any) -> None:
    check(tableau)
    assert tableau.adaptive and tableau.b != tableau.b_embedded
    assert tableau.fsal == ("FSAL" in tableau.name)


def test_drawn_tableaux_are_many() -> None:
    """Of every order, and with stages of equal abscissa for a stiffness estimate."""
    for order in (3, 4):
        find(strategies.tableaux(), lambda t, order=order: t.order == order and t.fsal)
    assert find(strategies.tableaux(), lambda t: t.stiffness_pair is not None).fsal


@given(strategies.methods(adaptive=True), st.data())
def test_methods_with_what_they_serve(method: Any, data: st.DataObject) -> None:
    tableau = lookup(method) if isinstance(method, str) else method
    assert tableau.adaptive
    controller = data.draw(strategies.controllers(method))
    regularizer = data.draw(strategies.regularizers(method))
    rtol, atol = data.draw(strategies.tolerances())
    assert 0 < rtol < 1 and 0 < atol < 1
    needs = [] if regularizer is None else [n for _, t in regularizer.terms() for n in t.needs]
    assert tableau.stiffness_pair is not None or "stiffness" not in needs
    assert isinstance(controller, (str, ndereg.PIDController, ndereg.ConstantStep))


def test_methods_without_estimates() -> None:
    assert find(strategies.methods(adaptive=False), lambda _: True) in ndereg.names()
    assert isinstance(find(strategies.controllers("rk4"), lambda _: True), ndereg.ConstantStep)
    assert find(strategies.regularizers("heun"), lambda _: True) is None
    with pytest.raises(ValueError, match="expected a method with an estimate"):
        strategies.terms("heun")


@given(strategies.spans(), st.data())
def test_output_times_are_in_order_and_inside(span: Any, data: st.DataObject) -> None:
    times = data.draw(strategies.output_times(span))
    direction = np.sign(span[1] - span[0])
    if times is not None:
        assert np.all(np.diff(times) * direction >= 0)
        assert np.all((np.array(times) - span[0]) * direction >= 0)
        assert np.all((np.array(times) - span[1]) * direction <= 0)


@settings(max_examples=60, phases=[Phase.generate])
@given(strategies.families(), st.integers(0, 99))
def test_drawn_fields_run_on_every_kind_of_array(family: Any, number: int) -> None:
    """Shapes and dtypes are those of the state; NumPy and PyTorch agree."""
    example = family.example(number, 0)
    t = np.asarray(0.5, np.finfo(family.field.state.dtypes[0]).dtype)
    if family.batch == "independent":
        t = np.full((family.field.state.shapes[0][0], 1), t)
    with np.errstate(all="ignore"):
        expected = flatten(example.field(t, example.y0, example.args))[0]

    def tensors(tree: Any) -> Any:
        leaves, structure = flatten(tree)
        return structure.unflatten([torch.tensor(leaf) for leaf in leaves])

    found = flatten(example.field(torch.tensor(t), tensors(example.y0), tensors(example.args)))[0]
    for leaf, other, state in zip(found, expected, flatten(example.y0)[0], strict=True):
        assert other.shape == state.shape and other.dtype == state.dtype
        np.testing.assert_allclose(leaf.numpy(), other, rtol=1e-4, atol=1e-5)
    assert family.field.source in example.code()
    assert abs(example.t_span[1] - example.t_span[0]) <= 2.0


@settings(max_examples=8, phases=[Phase.generate])
@given(strategies.stochastic_examples())
def test_drawn_stochastic_equations_agree(example: Any) -> None:
    """Every kind of noise, forwards and backwards, in any precision; written as a program."""
    example.crosscheck(backends=["torch"], replays=2, rejections=False).raise_if_failed()
    code = example.code()
    assert f"noise={example.field.noise!r}" in code and "key=" in code
    scope: dict[str, Any] = {}
    exec(code.partition("\nassert_backends_agree(")[0], scope)
    for role, name in re.findall(r"(drift|diffusion)=(\w+)", code):
        given, written = getattr(example.field, role), scope[name]
        point = (
            np.full((len(example.y0), 1), 0.5) if "indep" in code else np.asarray(0.5),
            example.y0,
        )
        assert np.array_equal(given(*point, example.args), written(*point, example.args))


def test_fields_shrink_to_what_one_would_write() -> None:
    """The smallest field with a matrix product in it."""
    field = find(strategies.fields(), lambda field: "@" in field.source)
    assert field.source == (
        "def field(t, y, args):\n    return 1.0 * ops.tanh((y @ args['w0'])) - 0.5 * y\n"
    )
    assert repr(Expression("({0} + {1})", (Expression("y"), Expression("t")))) == "(y + t)"
    nested = find(strategies.states(), lambda state: len(state.shapes) == 3)
    assert str(nested.structure) == "[*, {'p': *, 'q': (*,)}]"


def test_errors_of_drawn_fields_show_their_line() -> None:
    field = find(strategies.fields(), lambda field: "@" in field.source)
    with pytest.raises(TypeError) as caught:
        field.function(0.0, np.ones(2), None)
    last = caught.traceback[-1]
    assert "ops.tanh((y @ args['w0']))" in str(last.statement)


def test_a_random_search() -> None:
    """Examples are counted, and no backend that works is accused."""
    found: list[search.Checked] = []
    search.search(20, 3, ["torch"], found.append)
    assert len(found) == 20 and not any(one.failure for one in found)
    assert all(one.rows for one in found)
    again = search.Checked.from_json(found[0].to_json())
    assert again == found[0]


class WithoutPaths(type(DEFECTS["none"][0])):  # type: ignore[misc]
    """A backend for ordinary equations only."""

    name = "without paths"

    @property
    def brownian(self) -> Any:
        raise AttributeError("brownian")


def test_a_search_draws_stochastic_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside ordinary ones, with every kind of noise, where all backends solve them."""
    seen: list[Example] = []

    def recorded(example: Example, backends: Any) -> tuple[search.Checked, list[str]]:
        seen.append(example)
        return search.Checked(), []

    monkeypatch.setattr(search, "check_example", recorded)
    search.search(900, 0, ["torch"], lambda checked: None)
    drawn = [each.field for each in seen if isinstance(each.field, ndereg.SDE)]
    assert len(seen) == 900 and 200 < len(drawn) < 700
    assert {field.noise for field in drawn} == {"diagonal", "additive", "scalar", "general"}
    for field, each in ((e.field, e) for e in seen if isinstance(e.field, ndereg.SDE)):
        method = lookup(each.options["method"])
        assert field.noise in method.noises and field.calculus == method.calculus
    steps = {type(each.options["controller"]) for each in seen if each.field in drawn}
    assert steps == {str, ndereg.ConstantStep}
    seen.clear()
    ndereg.register_backend("without paths", lambda: WithoutPaths("without paths"))
    search.search(300, 0, ["torch", "without paths"], lambda checked: None)
    assert len(seen) == 300 and not any(isinstance(each.field, ndereg.SDE) for each in seen)


@pytest.fixture(scope="module")
def accused() -> search.Failure:
    """The smallest failure of a backend whose tableau is off in the tenth digit."""
    backend, _ = DEFECTS["wrong coefficient"]
    if "off" not in ndereg.backends.registry.backend_names():
        ndereg.register_backend("off", lambda: backend)
    found: list[search.Checked] = []
    search.search(60, 0, ["off"], found.append, shrinking=10.0)
    assert found[-1].failure is not None and not found[-1].rows
    return found[-1].failure


def test_the_smallest_failing_example_is_a_program(accused: search.Failure) -> None:
    """It is short, and it fails by itself."""
    assert "wrong coefficient" in accused.verdict
    assert len(accused.code.splitlines()) < 35
    assert "return 1.0 * ops.tanh(y) - 0.5 * y" in accused.code
    with pytest.raises(AssertionError, match="wrong coefficient"):
        exec(accused.code.replace("'wrong coefficient'", "'off'"), {})


def test_a_search_tells_errors_too() -> None:
    class Unable(type(DEFECTS["none"][0])):
        def compile(self, plan: Any) -> Any:
            raise NotImplementedError("nothing here yet")

    example = Example(lambda t, y, args: -y, (0.0, 1.0), np.ones(1))
    checked, names = search.check_example(example, [Unable("unable")])
    assert checked.failure is not None and names == ["unable"]
    assert "nothing here yet" in checked.failure.verdict


MODULE = """
import numpy as np
from ndereg import ops
from ndereg.testing import Example

t_span = (0.0, 1.0)
y0 = np.ones(2)
args = np.array(0.5)
options = {"method": "bosh3", "replays": 2}


def field(t, y, args):
    return ops.sin(t) - args * y


def made():
    return Example(field, t_span, y0, args, options)


example = made()
number = 3


def wrong():
    return number
"""


@pytest.fixture
def module(tmp_path: Any, monkeypatch: Any) -> str:
    (tmp_path / "checked_fields.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "checked_fields"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["crosscheck", *arguments])


@pytest.mark.parametrize("name", ["field", "made", "example"])
def test_a_field_by_name(module: str, name: str) -> None:
    ran = run(f"{module}:{name}", "--backends", "torch", "--examples", "2")
    assert ran.exit_code == 0, ran.output
    assert "gradient of args" in ran.output and "2 examples, seed 0" in ran.output


EQUATION = """
import numpy as np
import ndereg

t_span, y0 = (0.0, 0.5), np.array([1.0, 0.5])
options = {"key": 3, "rtol": 0.2, "atol": 0.2, "replays": 2}
walk = ndereg.SDE(lambda t, y, args: -y, lambda t, y, args: 0.2 + 0.1 * y)
"""


def test_a_stochastic_equation_by_name(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "checked_equations.py").write_text(EQUATION)
    monkeypatch.syspath_prepend(tmp_path)
    ran = run("checked_equations:walk", "--backends", "torch")
    assert ran.exit_code == 0, ran.output
    assert "error estimate" in ran.output and "1 examples, seed 0" in ran.output


@pytest.mark.parametrize(
    ("place", "message"),
    [("fields", "expected MODULE:NAME"), ("no_module:f", "No module"), ("{}:absent", "expected an"),
     ("{}:number", "expected an Example"), ("{}:wrong", "to return an"),
     ("math:sin", "expected t_span and y0")],
)  # fmt: skip
def test_names_that_name_nothing(module: str, place: str, message: str) -> None:
    ran = run(place.format(module), "--backends", "torch")
    assert ran.exit_code == 2 and message in ran.output


def test_backends_are_checked_first(module: str) -> None:
    ran = run(f"{module}:field", "--backends", "torch,tensorflow")
    assert ran.exit_code == 2 and "tensorflow" in ran.output


def test_a_disagreement_ends_with_a_program(
    module: str, accused: search.Failure, monkeypatch: Any
) -> None:
    """Exit status 1, the verdict, and code: of a given field, and of the random search."""
    ran = run(f"{module}:field", "--backends", "off")
    assert ran.exit_code == 1
    assert "deviates by" in ran.output and "assert_backends_agree(" in ran.output
    failed = search.Checked(failure=accused)
    monkeypatch.setattr(search, "in_processes", lambda *_: iter([failed]))
    ran = run("--examples", "10", "--backends", "off")
    assert ran.exit_code == 1 and accused.code in ran.output


def test_random_examples_in_processes() -> None:
    """The command, with a process of its own for the search."""
    ran = run("--examples", "3", "--backends", "torch", "--processes", "1", "--seed", "4")
    assert ran.exit_code == 0, ran.output
    assert "3 examples, seed 4" in ran.output
    assert [search._shares(count, 2) for count in (1, 200)] == [[1, 0], [105, 95]]


def test_a_search_that_dies_is_told(monkeypatch: Any) -> None:
    monkeypatch.setattr(search.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="ended with status"):
        list(search.in_processes(2, 0, None, 1))


def test_progress_is_shown() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    shown = list(command._shown(console, iter([search.Checked()]), 1))
    assert shown == [search.Checked()]
