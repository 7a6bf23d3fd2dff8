"""Accuracy, calibration and intervals, by hand and by symmetry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from micro_rm.heads.evaluation.metrics import (
    attribute_sums,
    correctness,
    decision_statistic,
    expected_calibration_error,
    head_accuracy,
    log_probability,
    log_sigmoid,
    mean_weights,
    mixture_log_prob,
)

S, N, K = 2, 6, 3
DELTAS = hnp.arrays(np.float32, (N, K), elements=st.floats(-50, 50, width=32))
LOGITS = hnp.arrays(np.float32, (S, N, K), elements=st.floats(-8, 8, width=32))


def log_weights(logits_SxNxK: np.ndarray) -> np.ndarray:
    return logits_SxNxK - np.logaddexp.reduce(logits_SxNxK, axis=-1, keepdims=True)


def weights(*rows: list[float]) -> np.ndarray:
    """Log weights of one draw."""
    with np.errstate(divide="ignore"):
        return np.log(np.array([rows]))


# --- prediction rules -----------------------------------------------------------------------------


def test_the_two_rules_disagree_on_one_loud_head_against_a_sure_one() -> None:
    delta_1xK, log_weights_1x1xK = np.array([[6.0, -1.0]]), weights([0.3, 0.7])
    probability = np.exp(mixture_log_prob(delta_1xK, log_weights_1x1xK))
    np.testing.assert_allclose(probability, [[0.4875]], atol=5e-5)
    # The statistic of R1 is the log odds of that probability.
    np.testing.assert_allclose(
        decision_statistic("R1", delta_1xK, log_weights_1x1xK),
        np.log(probability / (1 - probability)),
        atol=1e-9,
    )
    np.testing.assert_allclose(decision_statistic("R2", delta_1xK, log_weights_1x1xK), [[1.1]])


def test_an_unknown_rule_is_an_error() -> None:
    with pytest.raises(ValueError, match="rule: expected R1 or R2, found 'R3'"):
        decision_statistic("R3", np.zeros((1, 1)), np.zeros((1, 1, 1)))


@given(DELTAS, LOGITS, st.sampled_from(["R1", "R2"]))
@settings(deadline=None, max_examples=50)
def test_swapping_the_sides_of_every_pair_turns_accuracy_around(
    delta_NxK: np.ndarray, logits_SxNxK: np.ndarray, rule: str
) -> None:
    """Accuracy a becomes 1 - a, ties included."""
    forward = decision_statistic(rule, delta_NxK, log_weights(logits_SxNxK))
    backward = decision_statistic(rule, -delta_NxK, log_weights(logits_SxNxK))
    np.testing.assert_array_equal(backward, -forward)
    np.testing.assert_array_equal(correctness(backward), 1 - correctness(forward))


@given(DELTAS, LOGITS, st.permutations(range(K)), st.sampled_from(["R1", "R2"]))
@settings(deadline=None, max_examples=50)
def test_the_order_of_the_heads_does_not_matter(
    delta_NxK: np.ndarray, logits_SxNxK: np.ndarray, order: list[int], rule: str
) -> None:
    log_weights_SxNxK = log_weights(logits_SxNxK)
    np.testing.assert_allclose(
        decision_statistic(rule, delta_NxK[:, order], log_weights_SxNxK[..., order]),
        decision_statistic(rule, delta_NxK, log_weights_SxNxK),
        rtol=1e-6,
        atol=1e-6,
    )


@given(DELTAS, LOGITS)
@settings(deadline=None, max_examples=50)
def test_the_probability_follows_the_rule(delta_NxK: np.ndarray, logits_SxNxK: np.ndarray) -> None:
    """That of the mixture under R1; under R2 that of one reward, the weighted margin."""
    log_weights_SxNxK = log_weights(logits_SxNxK)
    weights_SxNxK = np.exp(log_weights_SxNxK.astype(np.float64))
    one, other = (log_probability(rule, delta_NxK, log_weights_SxNxK) for rule in ("R1", "R2"))
    mixed = (weights_SxNxK / (1 + np.exp(-delta_NxK.astype(np.float64)))).sum(axis=-1)
    assert one.shape == other.shape == (S, N)
    np.testing.assert_allclose(np.exp(one), mixed, rtol=1e-9)
    margin = (weights_SxNxK * delta_NxK).sum(axis=-1)
    np.testing.assert_allclose(np.exp(other), 1 / (1 + np.exp(-margin)), rtol=1e-9)


def test_extreme_margins_and_missing_heads_stay_finite() -> None:
    delta_1xK = np.array([[1e4, -1e4]], np.float32)
    one_hot = weights([0.0, 1.0])
    assert log_sigmoid(delta_1xK).tolist() == [[0.0, -1e4]]
    assert mixture_log_prob(delta_1xK, one_hot).tolist() == [[-1e4]]
    assert decision_statistic("R1", delta_1xK, one_hot).tolist() == [[-1e4]]
    assert decision_statistic("R2", delta_1xK, one_hot).tolist() == [[-1e4]]


# --- accuracy -------------------------------------------------------------------------------------


def test_a_tie_counts_one_half_and_a_small_margin_is_none() -> None:
    """Rounding is forgiven, not indecision: float32 margins of 1e-6 decide."""
    assert correctness(np.array([[2.0, 0.0], [-0.1, -0.0]])).tolist() == [[1.0, 0.5], [0.0, 0.5]]
    delta_NxK = np.array([[1e-6], [-1e-6]], np.float32)
    for rule in ("R1", "R2"):
        statistic = decision_statistic(rule, delta_NxK, np.zeros((1, 2, 1)))
        assert correctness(statistic).tolist() == [[1.0, 0.0]]


def test_sums_are_per_prompt_and_attribute() -> None:
    sums, rows = attribute_sums(
        np.array([1.0, 0.5, 0.0, 1.0]), np.array([0, 0, 2, 2]), np.array([1, 1, 0, 1]), (3, 2)
    )
    assert sums.tolist() == [[0, 1.5], [0, 0], [0, 1]]
    assert rows.tolist() == [[0, 2], [0, 0], [1, 1]]


def test_head_accuracy_is_per_head_and_attribute() -> None:
    delta_NxK = np.array([[1.0, -1.0], [1.0, 0.0], [-2.0, 3.0]])
    result_KxA = head_accuracy(delta_NxK, np.array([0, 0, 1]), 2)
    assert result_KxA.tolist() == [[1.0, 0.0], [0.25, 1.0]]


def test_mean_weights_average_over_rows_of_an_attribute_and_draws() -> None:
    draws = np.concatenate([weights([1.0, 0.0], [0.5, 0.5]), weights([0.5, 0.5], [0.5, 0.5])])
    result_AxK = mean_weights(draws, np.array([1, 0]), 2)
    np.testing.assert_allclose(result_AxK, [[0.5, 0.5], [0.75, 0.25]])


# --- calibration ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "error"),
    [
        ([[0.9, 0.1, 0.62]], 0.4 * 2 / 3 + 0.38 / 3),  # .9 right, .9 wrong, .62 right: two bins
        ([0.79, 0.21, 0.81], 0.29 * 2 / 3 + 0.19 / 3),  # .79 and .81 are in neighbouring bins
        ([0.75, 0.25, 0.79], 2.29 / 3 - 2 / 3),  # and .75 and .79 in one
        ([0.75, 0.75, 0.75, 0.25], 0),  # opposite errors cancel within a bin
        ([0.72, 0.22], ((1 - 0.72) + 0.78) / 2),  # but not across two
        ([1.0, 1.0], 0),
        ([0.5, 0.5, 0.5], 0),
    ],
)
def test_calibration_error_by_hand(probability: list[Any], error: float) -> None:
    assert expected_calibration_error(np.array(probability)) == pytest.approx(error)


@given(hnp.arrays(np.float64, (12,), elements=st.floats(0, 1)))
@settings(deadline=None, max_examples=50)
def test_calibration_error_is_a_share_and_knows_no_order(probability: np.ndarray) -> None:
    result = expected_calibration_error(probability)
    assert 0 <= result <= 1
    assert expected_calibration_error(probability[::-1].reshape(3, 4)) == pytest.approx(result)
