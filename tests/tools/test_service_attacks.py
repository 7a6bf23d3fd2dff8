"""The attacks on the service in miniature; ``make stress`` has them at full length."""

from __future__ import annotations

from pathlib import Path

import pytest

from micro_rm.tools.serve import kills, schema_check

pytestmark = pytest.mark.long


def test_three_kills_lose_and_invent_nothing(tmp_path: Path) -> None:
    log = kills.attack(tmp_path, kills=3, seed=0)
    assert log.problems == []
    assert log.acknowledged > 20


@pytest.mark.filterwarnings("default")  # of schemathesis
def test_right_and_wrong_requests_get_described_answers(tmp_path: Path) -> None:
    counts = schema_check.check(tmp_path, examples=2)
    assert counts["POST /score (positive)"] > 0 and counts["POST /score (negative)"] > 0
