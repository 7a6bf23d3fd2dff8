"""Limits of the simulator's settings."""

from __future__ import annotations

import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.simulator import SimulatorConfig

COUNTS = ("directions", "pairs", "test_pairs", "pairs_per_prompt", "train_wordings")


@pytest.mark.parametrize("name", [*COUNTS, "test_wordings"])
def test_one_is_enough_and_zero_is_not(name: str) -> None:
    SimulatorConfig(**{"opposed": False, name: 1})
    with pytest.raises(ConfigError, match=f"data.simulator.{name}: expected 1 or more, found 0"):
        SimulatorConfig(**{"opposed": False, name: 0})


@pytest.mark.parametrize(
    ("name", "highest", "beyond"), [("noise", 0.5, 0.51), ("width", 4, 3), ("seed", 0, -1)]
)
def test_limits_belong_to_the_range(name: str, highest: float, beyond: float) -> None:
    SimulatorConfig(**{"opposed": False, "directions": 2, name: highest})
    with pytest.raises(ConfigError, match=f"data.simulator.{name}"):
        SimulatorConfig(**{"opposed": False, "directions": 2, name: beyond})
