"""What the documentation shows is run."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ndereg

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TORCH_OF_ITSELF = "ignore:`torch.jit.script"  # PyTorch warns of its own compiler
PLACE = re.compile(r"^<!-- ndereg: (\w+) -->$", re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", TORCH_OF_ITSELF, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr


def test_there_are_examples():
    assert EXAMPLES


def test_pages_show_what_the_library_prints():
    """Tables of methods, controllers and statuses, and programs: python docs/printed.py."""
    script = [sys.executable, str(ROOT / "docs" / "printed.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert not done.stdout, f"not as python docs/printed.py writes them: {done.stdout.split()}"
    places = [place for page in PAGES for place in PLACE.findall(page.read_text())]
    printed = (ROOT / "docs" / "printed.py").read_text()
    assert set(places) == set(re.findall(r'^    "(\w+)": ', printed, re.MULTILINE))
    table = (ROOT / "docs" / "stochastic.md").read_text()
    assert all(f"| `{name}` |" in table for name in ndereg.names("sde"))


def test_the_readme_lists_what_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "README.md").read_text()
    install = text[text.index("## Install") : text.index("## Use")]
    offered = {extra for line in re.findall(r"'\.\[(.*)\]'", install) for extra in line.split(",")}
    assert offered == set(project["optional-dependencies"])
    for dependency in project["dependencies"]:
        assert re.match(r"[\w-]+", dependency)[0] in install.lower(), dependency


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    run(tmp_path, str(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.stem
)
def test_code_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    run(tmp_path, "-c", "\n".join(BLOCK.findall(page.read_text())))
