"""A short version of every attack; ``make stress`` is the long one. One process does them all."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from micro_rm.tools.stress.__main__ import ROUNDS, WITH_RUN

# What needs a run costs compilation, and the others of these have tests of their own elsewhere.
LONG = (*WITH_RUN, "upkeep", "sizes", "writers", "yaml", "headers")
SHORT = [name for name in ROUNDS if name not in LONG]
SCALE = 0.01
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def tallies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every attack did, by its name."""
    command = [sys.executable, "-m", "micro_rm.tools.stress", "--json"]
    command += [f"--scale={SCALE}", f"--only={','.join(SHORT)}"]
    place = tmp_path_factory.mktemp("stress")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=place)
    assert done.stdout, done.stderr
    return dict(zip(SHORT, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", SHORT)
def test_nothing_is_lost_undetected_or_unexplained(name: str, tallies: dict[str, Any]) -> None:
    assert tallies[name]["problems"] == []
    assert tallies[name]["trials"] > 0 or "skipped" in str(tallies[name]["counts"])


def test_the_attacks_hurt(tallies: dict[str, Any]) -> None:
    """Attacks that reach nothing would find nothing."""
    assert tallies["kills"]["trials"] == 1
    assert tallies["faults"]["counts"]["stopped with a message"] > 0
    assert tallies["manifests"]["counts"]["refused with a message"] > 0
    assert tallies["readers"]["counts"]["rows read"] > 0
