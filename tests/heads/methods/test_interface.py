"""What methods are given, and the predictions that they hand out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from micro_rm.heads.methods.interface import Rule, Trained, one_draw, predict_heads, predict_reward
from micro_rm.heads.methods.mixture import predict_routed
from micro_rm.heads.model import ModelSpec, RouterKind, init, log_weights, margins

N, D, K, S = 5, 4, 3, 2
MARGINS = hnp.arrays(np.float32, (N, K), elements=st.floats(-30, 30, width=32))
LOGITS = hnp.arrays(np.float32, (S, N, K), elements=st.floats(-8, 8, width=32))


def log_simplex(logits_SxNxK: np.ndarray) -> np.ndarray:
    return logits_SxNxK - np.logaddexp.reduce(logits_SxNxK, axis=-1, keepdims=True)


@pytest.mark.parametrize("kind", ["linear", "static"])
def test_predictions_route_every_draw_by_its_own_router(
    kind: RouterKind, make_examples: Any
) -> None:
    spec = ModelSpec(D, K, kind, router_units=3)
    models = [init(spec, jax.random.key(seed)) for seed in range(S)]
    routers = jax.tree.map(lambda *leaves: 10 * jnp.stack(leaves), *[m["router"] for m in models])
    trained = Trained({"heads": models[0]["heads"], "router": routers}, {"spec": asdict(spec)})
    examples = make_examples(*np.random.default_rng(0).normal(size=(2, N, D)))
    prediction = predict_routed(trained, examples)
    heads = prediction.heads
    assert heads is not None
    assert heads.delta_NxK.shape == (N, K)
    assert heads.log_weights_SxNxK.shape == (S, N, K)
    expected_NxK = margins(models[0]["heads"], examples.rows.delta_NxD)
    np.testing.assert_allclose(heads.delta_NxK, expected_NxK, rtol=1e-6)
    for draw in range(S):
        router = jax.tree.map(lambda leaf, draw=draw: leaf[draw], routers)
        expected = log_weights(spec, router, examples.rows.router_input_NxD)
        np.testing.assert_allclose(heads.log_weights_SxNxK[draw], expected, atol=1e-5)
        # Decision and probability are those of the mixture.
        wins_N = np.sum(np.exp(expected) / (1 + np.exp(-expected_NxK)), axis=1)
        np.testing.assert_allclose(np.exp(prediction.log_prob_SxN[draw]), wins_N, rtol=1e-5)
        log_odds_N = np.log(wins_N / (1 - wins_N))
        np.testing.assert_allclose(prediction.statistic_SxN[draw], log_odds_N, atol=1e-5)


@given(MARGINS, LOGITS, st.sampled_from(["R1", "R2"]))
@settings(deadline=None, max_examples=50)
def test_a_decision_and_its_probability_agree_under_either_rule(
    delta_NxK: np.ndarray, logits_SxNxK: np.ndarray, rule: Rule
) -> None:
    """Chosen wins exactly where its probability is above one half, up to rounding."""
    statistic, log_prob, heads = predict_heads(rule, delta_NxK, log_simplex(logits_SxNxK))
    assert statistic.shape == log_prob.shape == (S, N)
    assert heads is not None and heads.delta_NxK is delta_NxK
    clear = np.abs(statistic) > 1e-6
    np.testing.assert_array_equal((log_prob > np.log(0.5))[clear], (statistic > 0)[clear])


@given(hnp.arrays(np.float32, (S, N), elements=st.floats(-1e4, 1e4, width=32)))
@settings(deadline=None, max_examples=50)
def test_a_scalar_reward_is_one_head_that_nobody_weighs(delta_SxN: np.ndarray) -> None:
    """The same numbers as one head with all the weight, and no heads to show."""
    reward = predict_reward(delta_SxN)
    assert reward.heads is None
    assert reward.statistic_SxN.dtype == np.float64
    for draw in range(S):
        delta_Nx1, nothing = delta_SxN[draw][:, None], np.zeros((1, N, 1))
        for rule in ("R1", "R2"):
            head = predict_heads(rule, delta_Nx1, nothing)
            np.testing.assert_allclose(reward.statistic_SxN[[draw]], head.statistic_SxN, atol=1e-9)
            np.testing.assert_allclose(reward.log_prob_SxN[[draw]], head.log_prob_SxN, atol=1e-9)


def test_a_model_without_draws_is_stacked_as_one() -> None:
    params = init(ModelSpec(D, K, "linear"), jax.random.key(0))
    stacked = one_draw(params)
    np.testing.assert_array_equal(stacked["heads"]["kernel"], params["heads"]["kernel"])
    output = stacked["router"]["output"]
    assert output["kernel"].shape == (1, D, K)
    np.testing.assert_array_equal(output["kernel"][0], params["router"]["output"]["kernel"])


def test_places_of_a_budget_are_grouped_in_order(make_budget: Any) -> None:
    """Two draws of three groups with two places each."""
    delta_SxBxD = np.arange(12.0).reshape(2, 6, 1)
    budget = make_budget(delta_SxBxD, delta_SxBxD, groups=3)
    assert budget.draws == 2
    by_group = budget.by_group(np.asarray(budget.rows.delta_NxD))
    assert by_group.shape == (2, 3, 2, 1)
    assert by_group[1, 2, :, 0].tolist() == [10, 11]
    assert budget.by_group(budget.mask_SxB).shape == (2, 3, 2)
    assert by_group[:, budget.group_B[3], :, 0].tolist() == [[2, 3], [8, 9]]
