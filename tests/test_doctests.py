"""Every example in a docstring runs."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from micro_rm.tests.test_layering import PARTS

ROOT = Path(__file__).resolve().parent.parent


def modules(part: str) -> list[str]:
    """Modules of a part that have an example."""
    return [
        ".".join(("micro_rm", *path.relative_to(ROOT).with_suffix("").parts))
        for path in sorted((ROOT / part).rglob("*.py"))
        if ">>>" in path.read_text("utf-8")
    ]


@pytest.mark.parametrize("part", [part for part in PARTS if modules(part)])
def test_examples_of_a_part_give_what_they_show(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in modules(part):
        monkeypatch.setattr("micro_rm.heads.methods._OUTSIDE", {})  # examples register methods
        result = doctest.testmod(importlib.import_module(name))
        assert result.attempted > 0 and result.failed == 0, name
