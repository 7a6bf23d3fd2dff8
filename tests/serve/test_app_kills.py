"""Feedback under kill -9: exactly the acknowledged comparisons survive, each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from micro_rm.tools.serve.kills import attack


@pytest.mark.long
def test_three_kills_lose_and_invent_nothing(tmp_path: Path) -> None:
    log = attack(tmp_path, kills=3, seed=0)
    assert log.problems == []
    assert log.acknowledged > 20
