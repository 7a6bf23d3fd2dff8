"""What stage 1 finds in a simulated population: its directions, and losses near the floors."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.configs.simulator import SimulatorConfig
from micro_rm.heads.features import Features
from micro_rm.heads.losses import mixture_nll
from micro_rm.heads.matching import recovery
from micro_rm.heads.model import ModelSpec, init, log_weights, margins
from micro_rm.heads.rows import Rows
from micro_rm.heads.simulation import floors
from micro_rm.heads.training import fit
from micro_rm.tests.heads.simulated import SIGMAS, recovery_config, rows_of, simulated

CONFIG = SimulatorConfig()
OPPOSED = replace(CONFIG, directions=2, opposed=True)


class Fitted(NamedTuple):
    """Kernel (D, K) of a trained model, and its loss and decisions per test row."""

    kernel_DxK: np.ndarray
    nll_N: np.ndarray
    right_N: np.ndarray


@cache
def train(config: SimulatorConfig, heads: int, router: Any, view: str = "plain") -> Fitted:
    """A mixture trained as in stage 1; the router reads the prompt in the given view."""
    simulation = simulated(config)
    features = Features(simulation.store, simulation.table)
    learned, tested = (
        Rows(*map(jnp.asarray, features.arrays(rows_of(simulation, split), "plain", view)))
        for split in ("train", "test")
    )
    spec = ModelSpec(config.width, heads, router)
    start = init(spec, jax.random.key(0))
    params, _ = fit(spec, start, learned, tested, recovery_config(heads), jax.random.key(0))
    delta_NxK = margins(params["heads"], tested.delta_NxD)
    log_weights_NxK = log_weights(spec, params["router"], tested.router_input_NxD)
    nll_N = np.asarray(mixture_nll(delta_NxK, log_weights_NxK))
    return Fitted(np.asarray(params["heads"]["kernel"]), nll_N, nll_N < np.log(2))


def is_close_above(loss_N: np.ndarray, floor_N: np.ndarray, most: float = 0.03) -> bool:
    """Whether a mean loss lies between its floor and a little more, but for noise."""
    excess_N = loss_N - floor_N
    error = SIGMAS * excess_N.std() / np.sqrt(excess_N.size)
    return -error < excess_N.mean() < most + error


@pytest.mark.long
def test_a_mixture_finds_the_planted_directions() -> None:
    """And no further from the perfect router than the entropy term explains."""
    simulation = simulated(CONFIG)
    found = train(CONFIG, 3, "linear")
    assert recovery(found.kernel_DxK, simulation.directions_DxK).min() > 0.95
    router_N = floors(simulation, rows_of(simulation, "test")).perfect_router_N
    assert is_close_above(found.nll_N, router_N)


@pytest.mark.long
def test_a_static_mixture_does_worse_beyond_noise() -> None:
    """On the same rows, and it stays above the floor of everything without a prompt."""
    simulation = simulated(CONFIG)
    static = train(CONFIG, 3, "static")
    worse_N = static.nll_N - train(CONFIG, 3, "linear").nll_N
    assert worse_N.mean() > 0.1 + SIGMAS * worse_N.std() / np.sqrt(worse_N.size)
    average_N = floors(simulation, rows_of(simulation, "test")).average_N
    assert is_close_above(static.nll_N, average_N)


def best_linear(delta_NxD: np.ndarray) -> np.ndarray:
    """The reward of least Bradley-Terry loss, by Newton steps down to a gradient of zero."""
    weight_D = np.zeros(delta_NxD.shape[1])
    for _ in range(20):
        lose_N = 1 / (1 + np.exp(delta_NxD @ weight_D))
        gradient_D = -(delta_NxD.T @ lose_N)
        curvature_N = lose_N * (1 - lose_N)
        hessian_DxD = (delta_NxD.T * curvature_N) @ delta_NxD
        weight_D = weight_D - np.linalg.solve(hessian_DxD, gradient_D)
    assert np.abs(gradient_D).max() < 1e-8
    return weight_D


@pytest.mark.long
def test_a_single_reward_ends_at_the_best_that_a_line_can_do() -> None:
    """It is the mean of all tastes: alike to each, with cosine 1/sqrt(3) but for estimation."""
    simulation = simulated(CONFIG)
    found = train(CONFIG, 1, "linear")
    features = Features(simulation.store, simulation.table)
    learned, tested = (
        features.arrays(rows_of(simulation, split), "plain", "plain")[0].astype(np.float64)
        for split in ("train", "test")
    )
    best_N = np.log1p(np.exp(-tested @ best_linear(learned)))
    assert found.nll_N.mean() == pytest.approx(best_N.mean(), abs=2e-3)
    average_N = floors(simulation, rows_of(simulation, "test")).average_N
    assert is_close_above(best_N, average_N, np.inf)
    cosines = found.kernel_DxK[:, 0] @ simulation.directions_DxK
    cosines /= np.linalg.norm(found.kernel_DxK)
    np.testing.assert_allclose(cosines, 3**-0.5, atol=0.1)


@pytest.mark.long
def test_opposed_tastes_are_found_and_a_single_reward_is_left_with_a_coin() -> None:
    simulation = simulated(OPPOSED)
    mixture, single = train(OPPOSED, 2, "linear"), train(OPPOSED, 1, "linear")
    assert recovery(mixture.kernel_DxK, simulation.directions_DxK).min() > 0.95
    assert mixture.nll_N.mean() < 0.5
    assert single.nll_N.mean() == pytest.approx(np.log(2), abs=0.01)
    noise = SIGMAS * 0.5 / np.sqrt(single.right_N.size)
    assert single.right_N.mean() == pytest.approx(0.5, abs=noise)


@pytest.mark.long
def test_wishes_decide_where_the_prompt_says_nothing() -> None:
    """Two opposed tastes and prompts without a clue. A router of plain prompts guesses;
    one that reads the wish, in wordings it never saw, is right wherever the reward is clear."""
    config = replace(OPPOSED, sharpness=0.0, margin_scale=100.0)
    blind = train(config, 2, "linear")
    given = train(config, 2, "linear", "ctx")
    noise = SIGMAS * 0.5 / np.sqrt(blind.right_N.size)
    assert blind.right_N.mean() == pytest.approx(0.5, abs=noise)
    assert given.right_N.mean() > 0.95
    assert recovery(given.kernel_DxK, simulated(config).directions_DxK).min() > 0.95
