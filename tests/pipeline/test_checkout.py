"""``python pipeline.py`` in a checkout of any name runs that checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_script_is_the_command(tmp_path: Path) -> None:
    checkout = tmp_path / "any name"
    checkout.symlink_to(ROOT)
    command = [sys.executable, str(checkout / "pipeline.py"), "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("micro-rm ")
