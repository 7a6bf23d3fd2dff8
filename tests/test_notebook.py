"""The notebook of examples/, run cell by cell as a reader would (make long)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
# What the third experiment promises: a method beside those of the package in under so many lines.
OWN_LINES = 30


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_a_method_of_ones_own_takes_under_thirty_lines() -> None:
    (cell,) = (cell for cell in code_cells() if "@mrm.method" in cell)
    assert len([line for line in cell.splitlines() if line.strip()]) < OWN_LINES


@pytest.mark.long
def test_every_cell_of_the_notebook_works(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "tutorial", tmp_path / "docs" / "tutorial")
    folder = tmp_path / "examples"
    folder.mkdir()
    script = "\n".join([*code_cells(), "assert 'nearest_context' in str(compared.evaluate())"])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    assert "Be brief." in done.stdout
