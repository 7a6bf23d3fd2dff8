"""Losses that nobody can beat who knows no more, of a simulated population."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from micro_rm.heads.simulation import floors, win_probability
from micro_rm.tests.heads.simulated import LARGE, SIGMAS, SMALL, simulated


@pytest.mark.parametrize(
    ("gamma", "sigma", "known", "router"),
    [
        ((0.7, 0.3), (0.9, 0.2), 0.377679, 0.619101),
        ((0.2, 0.3, 0.5), (0.9, 0.5, 0.2), 0.523162, 0.683315),
    ],
)
def test_floors_of_worked_examples(
    gamma: tuple[float, ...], sigma: tuple[float, ...], known: float, router: float
) -> None:
    """Section 13.4; the average floor by hand: cross-entropy of the truth and of equal weights."""
    membership, chance = np.array([gamma]), np.array([sigma])
    planted = replace(
        simulated(SMALL), membership_NxK=membership, margin_NxK=np.log(chance / (1 - chance))
    )
    found = floors(planted, np.array([0]))
    truth, equal = float((membership * chance).sum()), float(chance.mean())
    average = -truth * np.log(equal) - (1 - truth) * np.log(1 - equal)
    np.testing.assert_allclose(np.ravel(found), [known, router, average], atol=1e-6)


@pytest.mark.parametrize(("noise", "scale"), [(0.0, 1000.0), (0.1, 0.5), (0.5, 4.0)])
def test_who_knows_more_loses_less(noise: float, scale: float) -> None:
    simulation = simulated(replace(LARGE, noise=noise, margin_scale=scale))
    known, router, average = floors(simulation, np.arange(len(simulation.table)))
    assert known.shape == (20_010,)
    assert (known <= router + 1e-9).all()
    assert (router <= average + 1e-9).all()
    assert (known >= -1e-9).all()
    assert np.isfinite(average).all()
    error = average.std() / np.sqrt(average.size / 2)  # two rows per prompt
    assert average.mean() <= np.log(2) + SIGMAS * error + 1e-9
    if noise == 0.5:
        np.testing.assert_allclose([known, router, average], np.log(2), atol=1e-9)
    else:
        assert known.mean() < router.mean() - 1e-3 < average.mean() - 2e-3


def test_a_router_without_a_clue_is_the_average() -> None:
    simulation = simulated(replace(LARGE, sharpness=0.0))
    _, router, average = floors(simulation, np.arange(len(simulation.table)))
    np.testing.assert_allclose(router, average, atol=1e-12)


def test_rewards_without_scale_leave_log_2() -> None:
    simulation = simulated(replace(LARGE, margin_scale=0.0))
    np.testing.assert_allclose(floors(simulation, np.arange(50)), np.log(2), atol=1e-12)


def test_floors_are_the_losses_of_those_who_know() -> None:
    """On drawn labels the loss of each of the three scatters around its floor."""
    simulation = simulated(replace(LARGE, noise=0.2))
    rows = np.arange(len(simulation.table))
    win_NxK, gamma_NxK = win_probability(simulation, rows), simulation.membership_NxK
    predictions = (
        win_NxK[rows, simulation.group_N],
        (gamma_NxK * win_NxK).sum(axis=1),
        win_NxK.mean(axis=1),
    )
    for prediction_N, floor_N in zip(predictions, floors(simulation, rows), strict=True):
        surprise_N = -np.log(prediction_N) - floor_N
        assert abs(surprise_N.mean()) < SIGMAS * surprise_N.std() / np.sqrt(rows.size)
