"""The check of the statistics in miniature: every line is there, and none is far off."""

from __future__ import annotations

import pytest

from micro_rm.benchmarks import calibration


def test_every_promise_is_checked() -> None:
    lines = [
        *calibration.over_units(40),
        *calibration.over_draws(40),
        *calibration.without_effect(40),
    ]
    found = {name: value for name, value, _ in lines}
    assert all(value >= 0.8 for name, value in found.items() if name.endswith("coverage"))
    assert all(value <= 0.3 for name, value in found.items() if "different" in name)
    assert found["every row twice: change of the error"] == pytest.approx(0, abs=1e-12)
    assert len(found) == 15


@pytest.mark.long
def test_runs_of_the_simulator_that_differ_in_their_seed_alone() -> None:
    found = {name: value for name, value, _ in calibration.over_seeds(2)}
    assert len(found) == 2 * len(calibration.METHODS)
    assert all(value <= 0.4 for name, value in found.items() if name.endswith("different"))
    assert all(0.4 < value < 3 for name, value in found.items() if "reported error" in name)
