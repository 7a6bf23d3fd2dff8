"""Rewards that are distributions: golden values, symmetries, extremes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from micro_rm.heads.distributional import (
    RewardMoments,
    batch_negative_entropy,
    categorical_log_prob,
    categorical_moments,
    comparison_z,
    explained_share,
    normal_log_prob,
    normal_moments,
    variance_penalty,
)

LOGITS = arrays(np.float32, (3, 5), elements=st.floats(-30, 30, width=32))
RAW = arrays(np.float32, (3, 2), elements=st.floats(-10, 10, width=32))


def moments(mean: float, raw: float) -> RewardMoments:
    return normal_moments(jnp.array([[mean, raw]]))


@pytest.mark.parametrize(("link", "expected"), [("logistic", 0.9280497), ("normal", 0.8461688)])
def test_two_normal_rewards_compare_as_worked_out(link: str, expected: float) -> None:
    one, zero = moments(1.0, 0.0), moments(0.0, 0.0)
    assert float(jnp.sqrt(one.variance_N[0])) == pytest.approx(0.6931472, abs=1e-6)
    assert float(comparison_z(one, zero)[0]) == pytest.approx(1.0201394, abs=1e-6)
    assert float(jnp.exp(normal_log_prob(one, zero, link))[0]) == pytest.approx(expected, abs=1e-6)


def test_equal_deviations_are_bradley_terry_at_a_fixed_scale() -> None:
    means = np.linspace(-2, 2, 7)
    rejected = RewardMoments(jnp.zeros(7), jnp.full(7, 0.25))
    log_prob = normal_log_prob(
        RewardMoments(jnp.asarray(means), rejected.variance_N), rejected, "logistic"
    )
    scale = np.sqrt(2 * np.pi) / np.sqrt(0.5)
    np.testing.assert_allclose(log_prob, -np.logaddexp(0, -scale * means), atol=1e-5)


def test_categorical_rewards_compare_as_worked_out() -> None:
    wins = jnp.exp(categorical_log_prob(jnp.array([[0.0, 1, 2]]), jnp.array([[1.0, 0, 0]])))
    assert float(wins[0]) == pytest.approx(0.7876052, abs=1e-6)


@pytest.mark.long
@given(LOGITS, LOGITS)
@settings(max_examples=25, deadline=None)
def test_categorical_probabilities_of_both_outcomes_sum_to_one(
    one: np.ndarray, two: np.ndarray
) -> None:
    """The complement, and one half against itself."""
    wins = np.exp(categorical_log_prob(one, two)) + np.exp(categorical_log_prob(two, one))
    np.testing.assert_allclose(wins, 1.0, atol=1e-5)
    np.testing.assert_allclose(np.exp(categorical_log_prob(one, one)), 0.5, atol=1e-5)


@given(RAW, RAW)
@settings(max_examples=25, deadline=None)
def test_normal_probabilities_of_both_outcomes_sum_to_one(one: np.ndarray, two: np.ndarray) -> None:
    both = normal_moments(jnp.asarray(one)), normal_moments(jnp.asarray(two))
    for link in ("logistic", "normal"):
        sums = np.exp(normal_log_prob(*both, link)) + np.exp(normal_log_prob(*both[::-1], link))
        np.testing.assert_allclose(sums, 1.0, atol=1e-5)


def test_the_exact_link_is_the_normal_distribution_function_in_its_far_tail() -> None:
    certain_loss = normal_log_prob(
        RewardMoments(jnp.array([-10.0]), jnp.array([0.5])),
        RewardMoments(jnp.zeros(1), jnp.array([0.5])),
        "normal",
    )
    assert float(certain_loss[0]) == pytest.approx(norm.logcdf(-10.0), rel=1e-5)


def test_moments_of_levels_between_zero_and_one() -> None:
    uniform = categorical_moments(jnp.zeros((1, 3)))
    assert float(uniform.mean_N[0]) == pytest.approx(0.5)
    assert float(uniform.variance_N[0]) == pytest.approx(1 / 6)
    sure = categorical_moments(jnp.array([[0.0, 0.0, 100.0]]))
    assert [float(x[0]) for x in sure] == pytest.approx([1.0, 0.0])


@pytest.mark.long
def test_extremes_have_finite_values_and_gradients() -> None:
    def normal(raw: jax.Array, link: str) -> jax.Array:
        return normal_log_prob(normal_moments(raw[:1]), normal_moments(raw[1:]), link).sum()

    for link in ("logistic", "normal"):
        collapsed = jnp.array([[0.0, -200.0], [1.0, -200.0]])
        assert np.isfinite(normal(collapsed, link))
        assert np.isfinite(jax.grad(normal)(collapsed, link)).all()
    lost = jnp.array([[100.0, -100.0, -100.0], [-100.0, -100.0, 100.0]])
    value, gradient = jax.value_and_grad(
        lambda logits: categorical_log_prob(logits[:1], logits[1:]).sum()
    )(lost)
    assert float(value) == pytest.approx(-200.0, abs=1e-3)
    assert np.isfinite(gradient).all()


@pytest.mark.long
def test_the_batch_entropy_is_that_of_the_mean_over_real_rows_of_both_sides() -> None:
    first, last, other = (50.0 * jnp.eye(4)[place : place + 1] for place in (0, 3, 1))
    mask = jnp.array([1.0, 0.0])
    value = batch_negative_entropy(
        jnp.concatenate([first, other]), jnp.concatenate([last, other]), mask
    )
    assert float(value) == pytest.approx(-np.log(2), abs=1e-5)
    assert float(batch_negative_entropy(first * 0, last * 0, mask[:1])) == pytest.approx(-np.log(4))


def test_the_variance_penalty_sums_both_sides_and_skips_filling() -> None:
    chosen, rejected = (
        RewardMoments(jnp.zeros(3), jnp.asarray(v)) for v in ([1.0, 2, 50], [3.0, 4, 50])
    )
    assert float(variance_penalty(chosen, rejected, jnp.array([1.0, 1, 0]))) == pytest.approx(5.0)


def test_the_explained_share_compares_spread_between_with_spread_within() -> None:
    share = explained_share(RewardMoments(jnp.array([0.0, 2.0]), jnp.array([2.0, 4.0])))
    assert float(share) == pytest.approx(1 / 4)
    assert float(explained_share(RewardMoments(jnp.zeros(2), jnp.zeros(2)))) == 0.0
