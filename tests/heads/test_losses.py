"""The mixture likelihood and its regulariser against numbers computed by hand and in float64."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from micro_rm.heads import losses

# Compiled as a whole: op by op, these tests would spend their time in the compiler.
head_nll = jax.jit(losses.head_nll)
mixture_log_prob = jax.jit(losses.mixture_log_prob)
mixture_nll = jax.jit(losses.mixture_nll)
negative_entropy = jax.jit(losses.negative_entropy)
stage1_objective = jax.jit(losses.stage1_objective)
soft_label_cross_entropy = jax.jit(losses.soft_label_cross_entropy)
log_softmax = jax.jit(jax.nn.log_softmax)

N, K = 5, 3
RNG = np.random.default_rng(1)
DELTA_NxK = jnp.asarray(RNG.normal(0.4, 1.5, (N, K)), jnp.float32)
LOGITS_NxK = jnp.asarray(RNG.normal(size=(N, K)), jnp.float32)


def arrays(bound: float) -> st.SearchStrategy[np.ndarray]:
    """Float32 arrays (N, K) with entries in [-bound, bound]."""
    elements = st.floats(-bound, bound, width=32, allow_subnormal=False)
    return hnp.arrays(np.float32, (N, K), elements=elements)


def mean_nll(delta_NxK: jax.Array, logits_NxK: jax.Array) -> jax.Array:
    return jnp.mean(mixture_nll(delta_NxK, log_softmax(logits_NxK)))


def mean_objective(delta_NxK: jax.Array, logits_NxK: jax.Array) -> jax.Array:
    return jnp.mean(stage1_objective(delta_NxK, log_softmax(logits_NxK), 0.5))


nll_gradients = jax.jit(jax.value_and_grad(mean_nll, argnums=(0, 1)))
objective_gradients = jax.jit(jax.value_and_grad(mean_objective, argnums=(0, 1)))


def test_worked_example_has_its_published_values_and_gradients() -> None:
    delta_1xK = np.array([[2.0, -1.0]], np.float32)
    log_weights_1xK = np.log(np.array([[0.3, 0.7]], np.float32))
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
    close(jnp.exp(mixture_log_prob(delta_1xK, log_weights_1xK)), [0.4524981])
    close(mixture_nll(delta_1xK, log_weights_1xK), [0.7929717])
    _, (by_delta, by_logits) = nll_gradients(delta_1xK, log_weights_1xK)
    close(by_delta, [[-0.0696093, -0.3041523]])
    close(by_logits, [[-0.2839563, 0.2839563]])
    by_log_weights = jax.grad(lambda w: mixture_nll(delta_1xK, w)[0])(log_weights_1xK)
    close(-by_log_weights, [[0.5839563, 0.4160437]])  # the responsibilities
    close(negative_entropy(log_weights_1xK), [-0.6108643])
    close(stage1_objective(delta_1xK, log_weights_1xK, 0.5), [0.4875395])


@given(arrays(30.0), arrays(8.0))
@settings(deadline=None, max_examples=50)
def test_values_of_every_row_are_those_of_the_formulas_in_float64(
    delta_NxK: np.ndarray, logits_NxK: np.ndarray
) -> None:
    """The likelihood as a literal sum of products, and each row's own entropy."""
    log_weights_NxK = np.asarray(log_softmax(logits_NxK))
    weights_NxK = np.exp(log_weights_NxK.astype(np.float64))
    wins_NxK = 1 / (1 + np.exp(-delta_NxK.astype(np.float64)))
    nll_N = -np.log((weights_NxK * wins_NxK).sum(axis=1))
    entropy_N = -(weights_NxK * np.log(weights_NxK)).sum(axis=1)
    # Relative to values up to 46 nats: float32 carries 7 digits.
    close = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    close(mixture_nll(delta_NxK, log_weights_NxK), nll_N)
    close(negative_entropy(log_weights_NxK), -entropy_N)
    close(stage1_objective(delta_NxK, log_weights_NxK, 0.5), nll_N - 0.5 * entropy_N, atol=2e-6)


def test_one_head_is_bradley_terry_without_a_regulariser() -> None:
    delta_Nx1, logits_Nx1 = DELTA_NxK[:, :1], jnp.full((N, 1), 3.0)
    loses_Nx1 = 1 / (1 + np.exp(np.asarray(delta_Nx1, np.float64)))
    np.testing.assert_allclose(head_nll(delta_Nx1), -np.log(1 - loses_Nx1), atol=1e-6)
    nll_N = mixture_nll(delta_Nx1, log_softmax(logits_Nx1))
    np.testing.assert_allclose(nll_N, -np.log(1 - loses_Nx1)[:, 0], atol=1e-6)
    _, (by_delta, by_logits) = nll_gradients(delta_Nx1, logits_Nx1)
    np.testing.assert_allclose(by_delta, -loses_Nx1 / N, atol=1e-6)
    np.testing.assert_array_equal(by_logits, np.zeros((N, 1)))
    np.testing.assert_array_equal(negative_entropy(log_softmax(logits_Nx1)), np.zeros(N))


def test_heads_without_weight_take_no_part_in_value_and_gradient() -> None:
    log_weights_NxK = jnp.full((N, K), -jnp.inf).at[:, 1].set(0.0)
    nll_N = mixture_nll(DELTA_NxK, log_weights_NxK)
    np.testing.assert_allclose(nll_N, head_nll(DELTA_NxK)[:, 1], atol=1e-6)
    gradient_NxK = jax.grad(lambda d: jnp.sum(mixture_nll(d, log_weights_NxK)))(DELTA_NxK)
    assert np.isfinite(gradient_NxK).all()
    np.testing.assert_array_equal(gradient_NxK[:, [0, 2]], np.zeros((N, K - 1)))
    np.testing.assert_array_equal(negative_entropy(log_weights_NxK), np.zeros(N))


def test_gradients_are_those_of_the_responsibilities() -> None:
    """Section 2.2, in float64."""
    with jax.enable_x64(True):
        delta_NxK, logits_NxK = np.random.default_rng(4).normal(size=(2, N, K))
        _, (by_delta, by_logits) = nll_gradients(delta_NxK, logits_NxK)
    weights_NxK = np.exp(logits_NxK) / np.exp(logits_NxK).sum(axis=1, keepdims=True)
    wins_NxK = 1 / (1 + np.exp(-delta_NxK))
    joint_NxK = weights_NxK * wins_NxK
    responsibility_NxK = joint_NxK / joint_NxK.sum(axis=1, keepdims=True)
    expected_NxK = -responsibility_NxK * (1 - wins_NxK) / N
    np.testing.assert_allclose(by_delta, expected_NxK, atol=1e-12)
    np.testing.assert_allclose(by_logits, (weights_NxK - responsibility_NxK) / N, atol=1e-12)


def test_margins_against_all_weight_cost_their_size() -> None:
    """By the log-domain formula, where the product of probabilities is 0 in float32."""
    delta_1xK, logits_1xK = np.array([[-100.0, 100, 0]]), np.array([[100.0, -100, 0]])
    value, gradients = objective_gradients(delta_1xK, logits_1xK)
    log_wins_1xK = -np.logaddexp(0, -delta_1xK)
    expected = -np.logaddexp.reduce(logits_1xK[0] - 100 + log_wins_1xK[0])
    assert float(value) == pytest.approx(expected, rel=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@given(arrays(1e4), arrays(1e4))
@settings(deadline=None, max_examples=50)
def test_margins_and_logits_up_to_ten_thousand_stay_finite(
    delta_NxK: np.ndarray, logits_NxK: np.ndarray
) -> None:
    for function in (nll_gradients, objective_gradients):
        value, gradients = function(delta_NxK, logits_NxK)
        assert np.isfinite(value)
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_free_weights_settle_where_section_2_3_says() -> None:
    """Win probabilities (.9, .5, .1) under alpha = 0.5."""
    wins_1xK = np.array([[0.9, 0.5, 0.1]])
    with jax.enable_x64(True):
        delta_1xK = jnp.asarray(np.log(wins_1xK / (1 - wins_1xK)))
        gradient = jax.grad(lambda f: mean_objective(delta_1xK, f))
        descend = jax.jit(
            lambda start: jax.lax.fori_loop(0, 2000, lambda _, f: f - gradient(f), start)
        )
        weights_1xK = jax.nn.softmax(descend(jnp.zeros((1, 3))))
    np.testing.assert_allclose(weights_1xK, [[0.686532, 0.233828, 0.079640]], atol=1e-6)


def test_heads_padded_with_minus_infinity_change_nothing() -> None:
    """Same loss, same gradient on the real heads, exactly none on the padded ones."""
    value, gradients = objective_gradients(DELTA_NxK, LOGITS_NxK)
    padded_value, padded = objective_gradients(
        jnp.pad(DELTA_NxK, ((0, 0), (0, 2)), constant_values=7.0),
        jnp.pad(LOGITS_NxK, ((0, 0), (0, 2)), constant_values=-jnp.inf),
    )
    assert float(padded_value) == pytest.approx(float(value), abs=1e-6)
    for wide, narrow in zip(padded, gradients, strict=True):
        np.testing.assert_allclose(wide[:, :K], narrow, atol=1e-6)
        np.testing.assert_array_equal(wide[:, K:], np.zeros((N, 2)))


def test_soft_label_cross_entropy_is_the_sum_over_heads_of_each_row() -> None:
    """The first row are Hedge targets at tau = 0.5 against their own prior."""
    targets_2xK = jnp.array([[0.8213278, 0.1786722], [0.0, 1.0]])
    found_2 = soft_label_cross_entropy(targets_2xK, jnp.log(jnp.array([[0.3, 0.7], [0.3, 0.7]])))
    np.testing.assert_allclose(found_2, [1.0525842, -np.log(0.7)], atol=1e-6)


def test_a_head_without_target_and_without_weight_costs_nothing() -> None:
    """0 x log 0 counts as 0, in value and in gradient; a target on it costs everything."""
    log_weights_1x2 = jnp.log(jnp.array([[1.0, 0.0]]))
    value, gradient = jax.value_and_grad(
        lambda w: soft_label_cross_entropy(jnp.array([[1.0, 0.0]]), w)[0]
    )(log_weights_1x2)
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, [[-1.0, 0.0]])
    assert soft_label_cross_entropy(jnp.array([[0.0, 1.0]]), log_weights_1x2)[0] == np.inf


def test_expectation_maximisation_never_raises_the_loss() -> None:
    """Full-batch EM, with the responsibilities taken from the gradient of the mixture.

    The M step is exact for the weights; for the heads it is gradient descent with a step below the
    inverse curvature, which cannot go up.
    """
    rng = np.random.default_rng(5)
    count, width = 400, 4
    planted_DxK = 3 * np.linalg.qr(rng.normal(size=(width, K)))[0]
    delta_NxD = rng.normal(size=(count, width))
    taste_N = rng.choice(K, size=count, p=[0.5, 0.3, 0.2])
    margin_N = (delta_NxD @ planted_DxK)[np.arange(count), taste_N]
    wins_N = rng.random(count) < 1 / (1 + np.exp(-margin_N))
    delta_NxD = np.where(wins_N[:, None], delta_NxD, -delta_NxD)
    rate = 4 / np.linalg.eigvalsh(delta_NxD.T @ delta_NxD).max()
    with jax.enable_x64(True):
        rows_NxD = jnp.asarray(delta_NxD)

        def nll(delta_NxK: jax.Array, log_weights_NxK: jax.Array) -> jax.Array:
            return jnp.sum(mixture_nll(delta_NxK, log_weights_NxK))

        def iterate(
            carry: tuple[jax.Array, jax.Array], _: None
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            kernel_DxK, log_weights_K = carry
            log_weights_NxK = jnp.broadcast_to(log_weights_K, (count, K))
            delta_NxK = rows_NxD @ kernel_DxK
            value, minus_rho_NxK = jax.value_and_grad(nll, argnums=1)(delta_NxK, log_weights_NxK)

            def expected_loss(kernel_DxK: jax.Array) -> jax.Array:
                return -jnp.sum(minus_rho_NxK * head_nll(rows_NxD @ kernel_DxK))

            kernel_DxK = jax.lax.fori_loop(
                0, 5, lambda _, w: w - rate * jax.grad(expected_loss)(w), kernel_DxK
            )
            return (kernel_DxK, jnp.log(-jnp.mean(minus_rho_NxK, axis=0))), value / count

        start = (jnp.asarray(rng.normal(size=(width, K))), jnp.full(K, -jnp.log(3.0)))
        _, curve = jax.jit(lambda start: jax.lax.scan(iterate, start, length=60))(start)
        curve = np.asarray(curve)
    assert np.diff(curve).max() <= 1e-12
    assert curve[0] - curve[-1] > 0.05
