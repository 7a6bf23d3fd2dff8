"""Heads that decide alike are merged; nothing else is."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from micro_rm.heads.evaluation.metrics import mixture_log_prob
from micro_rm.heads.methods.interface import HeadOutputs
from micro_rm.heads.pruning import merge_heads, merge_weights, plan_merging

N = 40


def margins(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, count))


def log_weights(count: int, seed: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(2, N, count))
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


@given(st.integers(0, 10**6))
def test_identical_heads_merge_and_leave_every_probability(seed: int) -> None:
    delta_NxK = margins(3, seed)[:, [0, 1, 0, 2, 1]]
    weights = log_weights(5, seed)
    merging = plan_merging(delta_NxK, np.exp(weights).mean(axis=(0, 1)), 0.95)
    merged = merge_heads(HeadOutputs(delta_NxK, weights), merging)
    assert len(merging.kept) == 3
    np.testing.assert_allclose(
        mixture_log_prob(*merged), mixture_log_prob(delta_NxK, weights), atol=1e-12
    )


def test_opposite_heads_are_two_tastes_and_stay() -> None:
    delta_NxK = margins(1, 0) * [[1.0, -1.0]]
    assert plan_merging(delta_NxK, np.array([0.5, 0.5]), 0.9).kept == (0, 1)


def test_the_statistic_is_not_centred() -> None:
    """Two heads that are right everywhere by different margins decide alike, whatever varies."""
    rng = np.random.default_rng(0)
    delta_NxK = 5 + rng.normal(size=(N, 2))
    assert abs(np.corrcoef(delta_NxK.T)[0, 1]) < 0.5
    assert len(plan_merging(delta_NxK, np.array([0.5, 0.5]), 0.9).kept) == 1


def test_a_threshold_above_one_keeps_all() -> None:
    delta_NxK = margins(2, 1)[:, [0, 0, 1]]
    merging = plan_merging(delta_NxK, np.ones(3) / 3, 1.01)
    assert merging.kept == (0, 1, 2)
    np.testing.assert_array_equal(merging.owner_K, [0, 1, 2])


@given(st.integers(0, 10**6), st.permutations(range(5)))
def test_the_order_of_heads_does_not_matter(seed: int, order: list[int]) -> None:
    """The same heads survive, up to the renumbering."""
    base = margins(3, seed)
    delta_NxK = np.column_stack([base, base[:, 0] + 0.1 * base[:, 1], base[:, 2]])
    weight_K = np.random.default_rng(seed).dirichlet(np.ones(5))
    kept = plan_merging(delta_NxK, weight_K, 0.9).kept
    permuted = plan_merging(delta_NxK[:, order], weight_K[order], 0.9).kept
    assert sorted(order[place] for place in permuted) == sorted(kept)


def test_the_heavier_of_two_alike_stays_and_takes_the_weight() -> None:
    delta_NxK = margins(2, 2)[:, [0, 0, 1]]
    merging = plan_merging(delta_NxK, np.array([0.2, 0.5, 0.3]), 0.95)
    assert merging.kept == (1, 2)
    weights = merge_weights(np.log(np.array([0.2, 0.5, 0.3])), merging)
    np.testing.assert_allclose(np.exp(weights), [0.7, 0.3])


def test_weights_still_sum_to_one() -> None:
    weights = log_weights(6, 3)
    merging = plan_merging(margins(6, 3), np.exp(weights).mean(axis=(0, 1)), 0.1)
    assert len(merging.kept) < 6
    np.testing.assert_allclose(np.exp(merge_weights(weights, merging)).sum(axis=-1), 1)
