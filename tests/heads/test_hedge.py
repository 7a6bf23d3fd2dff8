"""Hedge targets: the closed form, its limits, and float32 at small temperatures."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from micro_rm.heads import hedge, losses

N, K = 5, 3
TAUS = (1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0)
hedge_targets = jax.jit(hedge.hedge_targets)
head_nll = jax.jit(losses.head_nll)
mixture_nll = jax.jit(losses.mixture_nll)


def arrays(low: float, high: float, shape: tuple[int, ...] = (N, K)) -> Any:
    """Float32 arrays with entries in [low, high]."""
    elements = st.floats(low, high, width=32, allow_subnormal=False)
    return hnp.arrays(np.float32, shape, elements=elements)


def log_simplex(logits_NxK: np.ndarray) -> np.ndarray:
    """Log weights of given logits, float32 as a router gives them."""
    shifted = logits_NxK.astype(np.float64)
    return (shifted - np.logaddexp.reduce(shifted, axis=-1, keepdims=True)).astype(np.float32)


def targets_in_float64(log_prior_NxK: np.ndarray, losses_NxK: np.ndarray, tau: float) -> np.ndarray:
    """softmax(log prior - L / tau), literally."""
    scores = log_prior_NxK.astype(np.float64) - losses_NxK.astype(np.float64) / tau
    scores -= scores.max(axis=-1, keepdims=True)
    return np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)


def minimise(prior_K: np.ndarray, losses_K: np.ndarray, tau: float) -> np.ndarray:
    """The minimiser of sum_k w_k L_k + tau KL(w || prior), found without its formula.

    Two heads at a time exchange mass; the best exchange is where the slope vanishes, by bisection.
    """
    weights_K = prior_K.copy()
    for _ in range(60):
        for one, two in ((0, 1), (1, 2), (0, 2)):
            total, low, high = weights_K[one] + weights_K[two], 0.0, 1.0
            for _ in range(60):
                share = (low + high) / 2
                odds = np.log(share / prior_K[one]) - np.log((1 - share) / prior_K[two])
                slope = losses_K[one] - losses_K[two] + tau * odds
                low, high = (low, share) if slope > 0 else (share, high)
            weights_K[one], weights_K[two] = low * total, (1 - low) * total
    return weights_K


def test_worked_example_has_its_published_targets_and_values() -> None:
    """Of one row at three temperatures; the value is the objective at the targets."""
    tau_3x1 = np.array([[0.5], [0.1], [1e-3]])
    losses_3x2 = np.tile([[0.1269280, 1.3132617]], (3, 1))  # softplus(-2), softplus(1)
    prior_3x2 = np.tile([[0.3, 0.7]], (3, 1))
    q = np.asarray(hedge_targets(np.log(prior_3x2), losses_3x2, tau_3x1), np.float64)
    first_3 = np.array([0.8213278, 0.9999836, 1.0])
    np.testing.assert_allclose(q, np.stack([first_3, 1 - first_3], 1), rtol=0, atol=1e-6)
    divergence_3x2 = q * np.log(np.where(q > 0, q, 1) / prior_3x2)
    value_3 = (q * losses_3x2 + tau_3x1 * divergence_3x2).sum(axis=1)
    np.testing.assert_allclose(value_3, [0.6304979, 0.2473236, 0.1281320], atol=1e-6)


def test_targets_are_the_minimiser_of_loss_plus_divergence() -> None:
    prior_K, losses_K = np.array([[0.2, 0.5, 0.3], [0.41, 0.40, 0.43]])
    found_1xK = hedge_targets(np.log(prior_K[None]), losses_K[None], 0.1)
    np.testing.assert_allclose(found_1xK[0], minimise(prior_K, losses_K, 0.1), rtol=0, atol=1e-6)


def test_a_small_temperature_picks_the_smallest_loss_and_splits_ties_by_the_prior() -> None:
    log_prior_2xK = np.log(np.array([[0.5, 0.2, 0.3], [0.5, 0.2, 0.3]], np.float32))
    losses_2xK = np.array([[0.3, 0.2, 0.4], [0.9, 0.2, 0.2]], np.float32)
    targets = hedge_targets(log_prior_2xK, losses_2xK, 1e-4)
    np.testing.assert_allclose(targets, [[0, 1, 0], [0, 0.4, 0.6]], atol=1e-6)


def test_temperature_one_gives_posterior_responsibilities() -> None:
    """Proportional to prior times probability, and so the gradient of stage 1."""
    rng = np.random.default_rng(0)
    delta_NxK = rng.normal(size=(N, K)).astype(np.float32)
    log_prior_NxK = log_simplex(rng.normal(size=(N, K)))
    targets = hedge_targets(log_prior_NxK, head_nll(delta_NxK), 1.0)
    joint_NxK = np.exp(log_prior_NxK) / (1 + np.exp(-delta_NxK))
    np.testing.assert_allclose(targets, joint_NxK / joint_NxK.sum(axis=1, keepdims=True), atol=1e-6)
    by_log_weights = jax.jit(jax.grad(lambda w: jnp.sum(mixture_nll(delta_NxK, w))))(log_prior_NxK)
    np.testing.assert_allclose(targets, -by_log_weights, atol=1e-6)


def test_a_head_without_prior_weight_gets_none_even_with_the_smallest_loss() -> None:
    """Values on the others as if it were not there, and gradients finite."""
    log_prior_1xK = np.array([[np.log(0.4), np.log(0.6), -np.inf]], np.float32)
    losses_1xK = np.array([[20.0, 20.0, 0.0]], np.float32)
    targets = hedge_targets(log_prior_1xK, losses_1xK, 1e-4)
    np.testing.assert_allclose(targets, [[0.4, 0.6, 0.0]], atol=1e-6)
    assert targets[0, 2] == 0

    def first_target(log_prior: jax.Array, losses: jax.Array) -> jax.Array:
        return hedge_targets(log_prior, losses, 1e-4)[0, 0]

    for gradient in jax.grad(first_target, argnums=(0, 1))(log_prior_1xK, losses_1xK):
        assert np.isfinite(gradient).all()


@given(arrays(-8, 8), arrays(0, 50), st.sampled_from((*TAUS, 1e9)))
@settings(deadline=None, max_examples=100)
def test_float32_targets_equal_float64_ones_at_all_temperatures(
    logits_NxK: np.ndarray, losses_NxK: np.ndarray, tau: float
) -> None:
    """Losses up to 50 nats at tau = 1e-4; at a very high one only the prior counts.

    Among heads that share the weight the exponent is at most about 17 (the prior's range), which
    float32 holds to 2e-6; hence the tolerance.
    """
    log_prior_NxK = log_simplex(logits_NxK)
    found_NxK = hedge_targets(log_prior_NxK, losses_NxK, tau)
    expected_NxK = targets_in_float64(log_prior_NxK, losses_NxK, tau)
    np.testing.assert_allclose(found_NxK, expected_NxK, rtol=0, atol=5e-6)


def test_float32_separates_losses_that_differ_by_one_temperature() -> None:
    """Where it hurts: 50 and 50.0001 nats, which a division before the subtraction blurs."""
    near_50 = np.nextafter(np.float32(50), np.float32(51), dtype=np.float32)
    losses_1xK = np.array([[50.0, near_50, 49.999]], np.float32)
    log_prior_1xK = np.log(np.array([[0.4999, 0.4999, 0.0002]], np.float32))
    expected = targets_in_float64(log_prior_1xK, losses_1xK, 1e-4)
    np.testing.assert_allclose(
        hedge_targets(log_prior_1xK, losses_1xK, 1e-4), expected, rtol=0, atol=1e-6
    )


@jax.jit
def first_targets_and_gradients(
    logits_NxK: jax.Array, delta_NxK: jax.Array, tau: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Sum of the first head's targets, and its gradients by logits and margins."""

    def first(logits_NxK: jax.Array, delta_NxK: jax.Array) -> jax.Array:
        log_prior_NxK = jax.nn.log_softmax(logits_NxK)
        return jnp.sum(hedge.hedge_targets(log_prior_NxK, head_nll(delta_NxK), tau)[:, 0])

    return jax.value_and_grad(first, argnums=(0, 1))(logits_NxK, delta_NxK)


@given(arrays(-1e4, 1e4), arrays(-1e4, 1e4), st.sampled_from(TAUS))
@settings(deadline=None, max_examples=60)
def test_targets_and_gradients_are_finite_for_extreme_margins_and_logits(
    logits_NxK: np.ndarray, delta_NxK: np.ndarray, tau: float
) -> None:
    value, gradients = first_targets_and_gradients(logits_NxK, delta_NxK, tau)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
