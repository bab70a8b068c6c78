"""What the documentation shows is run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TORCH_OF_ITSELF = "ignore:`torch.jit.script"  # PyTorch warns of its own compiler
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


def test_the_table_of_methods_in_the_readme_is_the_catalogue():
    script = "import sys; sys.path.insert(0, 'docs'); import hooks; print(hooks.methods())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() in (ROOT / "README.md").read_text()


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
