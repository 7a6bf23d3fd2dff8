"""Every example in a docstring runs."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = [
    ".".join(("micro_rm", *path.relative_to(ROOT).with_suffix("").parts))
    for part in (
        "api",
        "cache",
        "common",
        "configs",
        "display",
        "embed",
        "heads",
        "run_dir",
        "serve",
    )
    for path in sorted((ROOT / part).rglob("*.py"))
    if ">>>" in path.read_text("utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("micro_rm.heads.methods._OUTSIDE", {})  # examples register methods
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
