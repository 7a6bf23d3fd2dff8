"""Every type of the public interface is known to a type checker (make long)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from micro_rm.tests.test_layering import PARTS

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = ("api", "common", "configs", "heads.estimator", "heads.methods.interface", "serve.model")


@pytest.mark.long
def test_every_public_type_is_known(tmp_path: Path) -> None:
    package = tmp_path / "micro_rm"
    for part in PARTS:
        shutil.copytree(ROOT / part, package / part, ignore=shutil.ignore_patterns("store"))
    for name in ("__init__.py", "pipeline.py", "py.typed"):
        shutil.copy(ROOT / name, package / name)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pyright", "--pythonpath", sys.executable),
            *("--verifytypes", "micro_rm", "--ignoreexternal", "--outputjson"),
        ],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    prefixes = tuple(f"micro_rm.{part}" for part in PUBLIC)
    public = [one for one in symbols if one["isExported"] and one["name"].startswith(prefixes)]
    assert len(public) > 300
    assert [one["name"] for one in public if not one["isTypeKnown"]] == []
