"""Docs name what is there: code in the method's tables, files and configs in the README, cells that define nothing."""

import functools
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def resolve(name):
    """The object that a dotted name under guided_distill stands for."""
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        try:
            module = importlib.import_module("guided_distill." + ".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        return functools.reduce(getattr, parts[k:], module)
    raise AttributeError(name)


def test_the_method_names_code_and_tests_that_exist():
    text = (ROOT / "docs" / "method.md").read_text()
    names = set(re.findall(r"`([a-z_]+(?:\.[A-Za-z_0-9]+)+)`", text)) - set(re.findall(r"`([^`]*\.py)`", text))
    assert len(names) > 25
    for name in names:
        resolve(name)
    for path in re.findall(r"`((?:tests|experiments)/[^`]*)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_and_commands_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for config in re.findall(r"--config=(configs/[a-z0-9_]+\.py)", text):
        assert (ROOT / config).exists() or config.startswith("configs/stripes"), config
    for module in re.findall(r"python -m (experiments\.[a-z0-9_]+)", text):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
    for verb in re.findall(r"python -m guided_distill ([a-z]+)", text):
        assert (ROOT / "guided_distill" / "cli" / f"{verb}.py").exists(), verb


@pytest.mark.slow
def test_the_example_of_contributing_works_as_it_stands(tmp_path):
    """Its files are written where it says, in a copy; its commands are run as they are, at tiny."""
    for name in ("guided_distill", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "main.py", tmp_path)
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path, code in re.findall(r"`([a-z_/]+\.py)`:\n\n```python\n(.*?)```", text, re.DOTALL):
        (tmp_path / path).write_text(code)
    (shell,) = (block for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "stripes" in block)
    for line in shell.strip().replace("stripes_teacher.py", "stripes_teacher.py:tiny").splitlines():
        line = line.replace("runs/stripes_teacher", "runs/stripes_teacher-tiny")
        command = [sys.executable, *line.split()[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
    assert (tmp_path / "stripes.png").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "colabs").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_thin_and_clean(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert "%pip install" in "".join(cells[0]["source"])
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    code = "".join(line for cell in cells for line in cell["source"])
    assert "class " not in code and code.count("def ") <= 1 and "jnp." not in code


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "colabs").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("GUIDED_DISTILL_TINY", "1")
    for name in ("guided_distill", "configs", "experiments", "requirements.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert list(tmp_path.glob("runs/*/report.html"))
