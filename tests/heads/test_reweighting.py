"""Weights from labelled rows, and which rows to ask for, against numbers and a loop in NumPy."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from micro_rm.heads import reweighting as posterior
from micro_rm.heads.reweighting import Loss, Query, uniform_log_weights

N, K = 6, 3
ROWS = jnp.array([[1.0, -1.0, 0.5], [2.0, 0.0, -0.5], [0.5, -2.0, 1.0]])
ACTIVE: tuple[Query, ...] = ("entropy", "bald", "variance")

# Compiled as a whole: op by op, these tests would spend their time in the compiler.
log_posterior = jax.jit(posterior.log_posterior, static_argnames="loss")
acquisition = jax.jit(posterior.acquisition, static_argnames="query")
choose_rows = jax.jit(posterior.choose_rows, static_argnames=("count", "query", "loss"))


def arrays(*shape: int, bound: float = 8.0) -> st.SearchStrategy[np.ndarray]:
    """Float32 arrays with entries in [-bound, bound]."""
    elements = st.floats(-bound, bound, width=32, allow_subnormal=False)
    return hnp.arrays(np.float32, shape, elements=elements)


def weights(delta_nxK: Any, mask_n: Any = None, **options: Any) -> np.ndarray:
    delta_nxK = jnp.asarray(delta_nxK)
    mask_n = jnp.ones(len(delta_nxK)) if mask_n is None else jnp.asarray(mask_n, jnp.float32)
    prior_K = options.pop("log_prior_K", uniform_log_weights(delta_nxK.shape[1]))
    return np.exp(np.asarray(log_posterior(delta_nxK, mask_n, prior_K, **options)))


def entropy(p: Any) -> Any:
    return -p * np.log(p) - (1 - p) * np.log1p(-p)


@pytest.mark.parametrize(
    ("loss", "expected_K"),
    [
        ("nll_sum", [0.6809079, 0.0272310, 0.2918611]),
        ("nll_mean", [0.4771088, 0.1631584, 0.3597328]),
        ("errors", [0.7053845, 0.0351190, 0.2594965]),
    ],
)
def test_worked_example(loss: Loss, expected_K: list[float]) -> None:
    np.testing.assert_allclose(weights(ROWS, loss=loss), expected_K, atol=2e-7)


@pytest.mark.parametrize("loss", ["nll_sum", "nll_mean"])
def test_no_rows_and_masked_rows_give_the_prior(loss: Loss) -> None:
    prior_K = np.array([0.5, 0.3, 0.2])
    for rows, mask in ((ROWS[:0], []), (ROWS, [0, 0, 0]), (ROWS * jnp.inf, [0, 0, 0])):
        found_K = weights(rows, mask, loss=loss, log_prior_K=jnp.log(prior_K))
        np.testing.assert_allclose(found_K, prior_K, atol=1e-6)


def test_rows_told_twice_count_as_half_the_temperature() -> None:
    """A mean does not notice."""
    twice = jnp.concatenate([ROWS, ROWS])
    np.testing.assert_allclose(weights(twice), weights(ROWS, temperature=0.5), atol=1e-6)
    mean_K = weights(ROWS, loss="nll_mean")
    np.testing.assert_allclose(weights(twice, loss="nll_mean"), mean_K, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(arrays(N, K))
def test_one_row_at_a_time_equals_all_at_once_for_sums(delta_NxK: np.ndarray) -> None:
    log_weights_K = uniform_log_weights(K)
    for row in delta_NxK:
        log_weights_K = log_posterior(jnp.asarray(row[None]), jnp.ones(1), log_weights_K)
    np.testing.assert_allclose(np.exp(log_weights_K), weights(delta_NxK), atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(
    arrays(N, K), hnp.arrays(bool, N), st.permutations(range(K)), st.sampled_from(get_args(Loss))
)
def test_weights_are_on_the_simplex_and_follow_their_heads(
    delta_NxK: np.ndarray, mask_N: np.ndarray, order: list[int], loss: Loss
) -> None:
    found_K = weights(delta_NxK, mask_N, loss=loss)
    assert found_K.sum() == pytest.approx(1.0, abs=1e-5)
    permuted_K = weights(delta_NxK[:, order], mask_N, loss=loss)
    np.testing.assert_allclose(permuted_K, found_K[order], atol=2e-5)
    # A masked row is as good as none.
    np.testing.assert_allclose(
        weights(np.where(mask_N[:, None], delta_NxK, 3.0), mask_N, loss=loss), found_K, atol=1e-6
    )


def test_losses_far_apart_stay_finite_and_exact_in_the_log_domain() -> None:
    log_prior_K = jnp.log(jnp.array([0.5, 0.5, 0.0]))
    rows = jnp.array([[-1000.0, -1000.5, 90.0]] * 4)
    found_K = np.asarray(log_posterior(rows, jnp.ones(4), log_prior_K, temperature=0.01))
    np.testing.assert_allclose(found_K, [0.0, -200.0, -np.inf], atol=1e-3)


@pytest.mark.parametrize("query", ACTIVE)
def test_scores_are_those_of_the_formula(query: Query) -> None:
    w_K = np.array([0.5, 0.3, 0.2])
    p_NxK = 1 / (1 + np.exp(-np.asarray(ROWS, np.float64)))
    mean_N = p_NxK @ w_K
    expected_N = {
        "entropy": entropy(mean_N),
        "bald": entropy(mean_N) - entropy(p_NxK) @ w_K,
        "variance": (p_NxK - mean_N[:, None]) ** 2 @ w_K,
    }[query]
    found_N = acquisition(query, ROWS, jnp.log(jnp.asarray(w_K, jnp.float32)))
    np.testing.assert_allclose(found_N, expected_N, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(arrays(N, K, bound=60), arrays(K, bound=4), st.sampled_from(ACTIVE))
@example(np.full((N, K), 20, np.float32), np.array([0, 1.3732877, 1.03125], np.float32), "entropy")
def test_scores_are_bounded_and_do_not_know_the_label(
    delta_NxK: np.ndarray, logits_K: np.ndarray, query: Query
) -> None:
    log_weights_K = jax.nn.log_softmax(jnp.asarray(logits_K))
    score_N = acquisition(query, jnp.asarray(delta_NxK), log_weights_K)
    assert np.isfinite(score_N).all()
    assert (score_N >= 0).all()
    assert (score_N <= (0.25 if query == "variance" else np.log(2)) + 1e-5).all()
    mirrored_N = acquisition(query, jnp.asarray(-delta_NxK), log_weights_K)
    np.testing.assert_allclose(score_N, mirrored_N, atol=2e-6)


def test_drawn_rows_are_the_first_real_places() -> None:
    mask_n = jnp.array([1.0, 0.0, 1.0])
    choose = partial(choose_rows, ROWS, mask_n, uniform_log_weights(K))
    np.testing.assert_array_equal(choose(count=0), [0, 0, 0])
    np.testing.assert_array_equal(choose(count=2), [1, 0, 0])
    np.testing.assert_array_equal(choose(count=9), [1, 0, 1])


@pytest.mark.long
@pytest.mark.parametrize(
    ("query", "loss"), [("entropy", "nll_sum"), ("bald", "nll_mean"), ("variance", "errors")]
)
def test_rows_are_asked_for_greedily_under_updated_weights(query: Query, loss: Loss) -> None:
    """The same choice as a loop that labels one row, updates and scores the rest anew."""
    places, count = 40, 5
    delta_NxK = 2 * np.random.default_rng(3).normal(size=(places, K)).astype(np.float32)
    mask_N = np.ones(places, np.float32)
    mask_N[::5] = 0
    expected, static = [], []
    for _ in range(count):
        asked_N = np.isin(np.arange(places), expected).astype(np.float32)
        w_K = weights(delta_NxK, asked_N, loss=loss)
        for taken, w in ((expected, w_K), (static, np.full(K, 1 / K, np.float32))):
            score_N = np.array(acquisition(query, jnp.asarray(delta_NxK), jnp.log(jnp.asarray(w))))
            score_N[(mask_N == 0) | np.isin(np.arange(places), taken)] = -1
            taken.append(int(score_N.argmax()))
    chosen_N = choose_rows(
        jnp.asarray(delta_NxK), jnp.asarray(mask_N), uniform_log_weights(K), count, query, loss
    )
    assert np.flatnonzero(chosen_N).tolist() == sorted(expected)
    if loss == "nll_sum":
        assert sorted(static) != sorted(expected), "the example must tell updating from not"


@pytest.mark.long
def test_asking_for_more_than_there_is_takes_all_real_rows() -> None:
    delta_NxK = jnp.asarray(np.random.default_rng(0).normal(size=(N, K)), jnp.float32)
    # The first place is the one that wins where no score is left.
    mask_N = jnp.array([0.0, 1, 1, 0, 0, 0])
    for count in (0, 1, 2, 4, N, N + 3):
        chosen_N = np.asarray(choose_rows(delta_NxK, mask_N, uniform_log_weights(K), count, "bald"))
        assert chosen_N.sum() == min(count, 2)
        assert not chosen_N[np.asarray(mask_N) == 0].any()


def test_draws_and_groups_are_answered_each_for_itself() -> None:
    delta = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, N, K)), jnp.float32)
    mask = jnp.ones((2, 3, N)).at[1, 2, 4:].set(0)
    prior_K = uniform_log_weights(K)
    found = posterior.group_log_posteriors(delta, mask, prior_K, 3, "bald", "nll_sum", 0.7)
    assert found.shape == (2, 3, K)
    for s, g in np.ndindex(2, 3):
        chosen_n = choose_rows(delta[s, g], mask[s, g], prior_K, 3, "bald", "nll_sum", 0.7)
        expected_K = weights(delta[s, g], chosen_n, temperature=0.7)
        np.testing.assert_allclose(np.exp(found[s, g]), expected_K, atol=1e-5)
