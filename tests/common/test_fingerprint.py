"""Fingerprints of code change with the code of a stage, not with its presentation."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from subprocess import run

import pytest

from micro_rm.common import fingerprint

PACKAGE = Path(fingerprint.__file__).parent.parent
PRINTS = """
from micro_rm.common.fingerprint import code_fingerprint
print(code_fingerprint("embed"), code_fingerprint("heads"))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the package with the code that is fingerprinted, and presentation, which is not."""
    for part in ("common", "display", "embed", "heads"):
        shutil.copytree(PACKAGE / part, tmp_path / "micro_rm" / part)
    return tmp_path / "micro_rm"


def fingerprints(checkout: Path) -> list[str]:
    done = run(
        [sys.executable, "-c", PRINTS],
        env={"PYTHONPATH": str(checkout.parent)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.split()


def change(path: Path) -> None:
    path.write_text(path.read_text("utf-8") + "\n", "utf-8")


def test_a_changed_page_or_table_leaves_every_stage_done(checkout: Path) -> None:
    before = fingerprints(checkout)
    for name in ("templates/style.html.j2", "page.py", "tables.py", "embedding.py", "plots.py"):
        change(checkout / "display" / name)
    assert fingerprints(checkout) == before


def test_changed_code_of_a_stage_is_noticed(checkout: Path) -> None:
    embed, heads = fingerprints(checkout)
    change(checkout / "heads" / "losses.py")
    assert fingerprints(checkout)[0] == embed
    assert fingerprints(checkout)[1] != heads
