"""Feedback under kill -9: what was acknowledged is there, once, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from micro_rm.tests.serve.kills import attack


@pytest.mark.long
def test_three_kills_lose_and_invent_nothing(tmp_path: Path) -> None:
    tally = attack(tmp_path, kills=3, seed=0)
    assert tally.problems == []
    assert tally.acknowledged > 20
