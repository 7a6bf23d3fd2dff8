"""Defaults of all settings: what every user has who sets nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import yaml

from micro_rm.configs.schema import Config

RECORDED = Path(__file__).parent / "defaults.yaml"


def test_no_default_changes_unnoticed() -> None:
    """A new default belongs into defaults.yaml, the changelog and the pages that quote it."""
    recorded = yaml.safe_load(RECORDED.read_text(encoding="utf-8"))
    assert plain(asdict(Config())) == recorded


def plain(value: object) -> object:
    """Tuples as YAML has them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value
