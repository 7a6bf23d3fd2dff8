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
from micro_rm.heads.model import margins

# Compiled as a whole: op by op, these tests would spend their time in the compiler.
head_nll = jax.jit(losses.head_nll)
mixture_log_prob = jax.jit(losses.mixture_log_prob)
mixture_nll = jax.jit(losses.mixture_nll)
negative_entropy = jax.jit(losses.negative_entropy)
stage1_objective = jax.jit(losses.stage1_objective)
soft_label_cross_entropy = jax.jit(losses.soft_label_cross_entropy)
log_softmax = jax.jit(jax.nn.log_softmax)

N, K = 5, 3
LOG_2 = 0.69314718


def arrays(shape: tuple[int, ...], bound: float) -> st.SearchStrategy[np.ndarray]:
    """Float32 arrays with entries in [-bound, bound]."""
    elements = st.floats(-bound, bound, width=32, allow_subnormal=False)
    return hnp.arrays(np.float32, shape, elements=elements)


@jax.jit
def mean_nll(delta_NxK: jax.Array, logits_NxK: jax.Array) -> jax.Array:
    """Mean mixture NLL as a function of logits."""
    return jnp.mean(mixture_nll(delta_NxK, log_softmax(logits_NxK)))


@jax.jit
def mean_objective(delta_NxK: jax.Array, logits_NxK: jax.Array) -> jax.Array:
    """Mean stage-1 objective at alpha = 0.5 as a function of logits."""
    return jnp.mean(stage1_objective(delta_NxK, log_softmax(logits_NxK), 0.5))


nll_gradients = jax.jit(jax.value_and_grad(mean_nll, argnums=(0, 1)))
objective_gradients = jax.jit(jax.value_and_grad(mean_objective, argnums=(0, 1)))


def product_form(delta_NxK: np.ndarray, weights_NxK: np.ndarray) -> np.ndarray:
    """-log sum_k w_k sigmoid(delta_k), literally, in float64."""
    sigmoid = 1 / (1 + np.exp(-delta_NxK.astype(np.float64)))
    return -np.log(np.sum(weights_NxK.astype(np.float64) * sigmoid, axis=-1))


@pytest.fixture
def delta_NxK() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(0.4, 1.5, (N, K)), jnp.float32)


@pytest.fixture
def logits_NxK() -> jax.Array:
    return jnp.asarray(np.random.default_rng(2).normal(size=(N, K)), jnp.float32)


def test_worked_example_has_its_published_values_and_gradients() -> None:
    """G-S5, all of it."""
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
    close(negative_entropy(log_weights_1xK) + np.log(2), [0.0822829])
    close(stage1_objective(delta_1xK, log_weights_1xK, 0.5), [0.4875395])


@given(arrays((N, K), 30.0), arrays((N, K), 8.0))
@settings(deadline=None, max_examples=50)
def test_log_domain_equals_the_product_form(delta_NxK: np.ndarray, logits_NxK: np.ndarray) -> None:
    log_weights_NxK = np.asarray(log_softmax(logits_NxK))
    expected_N = product_form(delta_NxK, np.exp(log_weights_NxK.astype(np.float64)))
    found_N = mixture_nll(jnp.asarray(delta_NxK), jnp.asarray(log_weights_NxK))
    # Relative to values up to 46 nats: float32 carries 7 digits.
    np.testing.assert_allclose(found_N, expected_N, rtol=1e-6, atol=1e-6)


def test_one_head_is_bradley_terry(delta_NxK: jax.Array) -> None:
    """G-S1: NLL, gradient, and no regulariser."""
    delta_Nx1 = delta_NxK[:, :1]
    logits_Nx1 = jnp.full((N, 1), 3.0)
    bradley_terry = np.log1p(np.exp(-np.asarray(delta_Nx1, np.float64)))
    log_weights_Nx1 = log_softmax(logits_Nx1)
    np.testing.assert_allclose(
        mixture_nll(delta_Nx1, log_weights_Nx1), bradley_terry[:, 0], atol=1e-6
    )
    _, (by_delta, by_logits) = nll_gradients(delta_Nx1, logits_Nx1)
    expected = -1 / (1 + np.exp(np.asarray(delta_Nx1, np.float64))) / N
    np.testing.assert_allclose(by_delta, expected, atol=1e-6)
    np.testing.assert_array_equal(by_logits, np.zeros((N, 1)))
    np.testing.assert_array_equal(negative_entropy(log_weights_Nx1), np.zeros(N))


def test_equal_heads_make_the_weights_irrelevant(logits_NxK: jax.Array) -> None:
    """G-S2."""
    delta_Nx1 = jnp.linspace(-3.0, 3.0, N)[:, None]
    delta_NxK = jnp.tile(delta_Nx1, (1, K))
    nll_N = mixture_nll(delta_NxK, log_softmax(logits_NxK))
    np.testing.assert_allclose(nll_N, head_nll(delta_Nx1)[:, 0], atol=1e-6)


@pytest.mark.parametrize("head", range(K))
def test_one_hot_weights_leave_one_head(delta_NxK: jax.Array, head: int) -> None:
    """G-S3: log weights of minus infinity take no part, in value and in gradient."""
    log_weights_NxK = jnp.full((N, K), -jnp.inf).at[:, head].set(0.0)
    np.testing.assert_allclose(
        mixture_nll(delta_NxK, log_weights_NxK), head_nll(delta_NxK)[:, head], atol=1e-6
    )
    gradient_NxK = jax.grad(lambda d: jnp.sum(mixture_nll(d, log_weights_NxK)))(delta_NxK)
    others = [k for k in range(K) if k != head]
    assert np.isfinite(gradient_NxK).all()
    np.testing.assert_array_equal(gradient_NxK[:, jnp.array(others)], np.zeros((N, K - 1)))
    np.testing.assert_array_equal(negative_entropy(log_weights_NxK), np.zeros(N))


@given(arrays((N, K), 100.0))
@settings(deadline=None, max_examples=50)
def test_negative_entropy_lies_between_minus_log_k_and_zero(logits_NxK: np.ndarray) -> None:
    """G-S6: with log K added it is the KL divergence to uniform, which is not negative."""
    values_N = np.asarray(negative_entropy(log_softmax(logits_NxK)))
    assert (values_N <= 1e-6).all()
    assert (values_N + np.log(K) >= -1e-6).all()


def test_negative_entropy_of_uniform_weights_is_minus_log_k() -> None:
    """G-S6."""
    values_N = negative_entropy(log_softmax(jnp.zeros((N, K))))
    np.testing.assert_allclose(values_N, np.full(N, -np.log(K)), atol=1e-6)


def test_negative_entropy_is_that_of_each_row_not_of_the_mean() -> None:
    """Section 2.1: two opposite one-hot rows have no entropy, though their mean is uniform."""
    log_weights_2x2 = jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_array_equal(negative_entropy(log_weights_2x2), [0.0, 0.0])


def test_a_step_down_the_regulariser_raises_the_entropy(logits_NxK: jax.Array) -> None:
    """G-S6, the sign test; it is the objective's own sign, so the data term is made constant."""
    delta_NxK = jnp.zeros((N, K))

    def entropy(logits_NxK: jax.Array) -> np.ndarray:
        return -np.asarray(negative_entropy(log_softmax(logits_NxK)))

    _, (_, by_logits) = objective_gradients(delta_NxK, logits_NxK)
    stepped_NxK = logits_NxK - by_logits
    assert (entropy(stepped_NxK) > entropy(logits_NxK)).all()


@given(arrays((N, K), 20.0), arrays((N, K), 8.0), st.permutations(range(K)))
@settings(deadline=None, max_examples=50)
def test_head_order_does_not_matter(
    delta_NxK: np.ndarray, logits_NxK: np.ndarray, order: list[int]
) -> None:
    """G-S7: heads and weights permuted together."""
    log_weights_NxK = log_softmax(logits_NxK)
    np.testing.assert_allclose(
        stage1_objective(delta_NxK[:, order], log_weights_NxK[:, jnp.array(order)], 0.5),
        stage1_objective(jnp.asarray(delta_NxK), log_weights_NxK, 0.5),
        rtol=1e-5,
        atol=1e-6,
    )


def test_permuting_only_the_heads_changes_the_loss(
    delta_NxK: jax.Array, logits_NxK: jax.Array
) -> None:
    """G-S7, the other half."""
    assert abs(mean_nll(delta_NxK[:, ::-1], logits_NxK) - mean_nll(delta_NxK, logits_NxK)) > 1e-3


def test_a_constant_added_to_the_rewards_of_a_head_changes_nothing() -> None:
    """G-S8: a bias is a weight on a feature that is 1 on both sides, and cancels."""
    rng = np.random.default_rng(3)
    chosen_NxD, rejected_NxD = rng.normal(size=(2, N, 4))
    kernel_DxK = rng.normal(size=(4, K))
    ones_Nx1 = np.ones((N, 1))
    with_bias = np.hstack([chosen_NxD, ones_Nx1]) - np.hstack([rejected_NxD, ones_Nx1])
    kernel_with_bias = np.vstack([kernel_DxK, 100 * rng.normal(size=(1, K))])
    without = margins({"kernel": jnp.asarray(kernel_DxK)}, jnp.asarray(chosen_NxD - rejected_NxD))
    found = margins({"kernel": jnp.asarray(kernel_with_bias)}, jnp.asarray(with_bias))
    np.testing.assert_allclose(found, without, atol=1e-6)


@given(arrays((N, K), 15.0), arrays((N, K), 8.0))
@settings(deadline=None, max_examples=50)
def test_swapping_the_sides_gives_the_complement(
    delta_NxK: np.ndarray, logits_NxK: np.ndarray
) -> None:
    """G-S9."""
    log_weights_NxK = log_softmax(logits_NxK)
    wins_N = np.exp(mixture_log_prob(jnp.asarray(delta_NxK), log_weights_NxK))
    loses_N = np.exp(mixture_log_prob(jnp.asarray(-delta_NxK), log_weights_NxK))
    np.testing.assert_allclose(wins_N + loses_N, np.ones(N), atol=1e-6)


def test_autodiff_agrees_with_finite_differences_and_with_responsibilities() -> None:
    """G-S10 and section 2.2, in float64 because differences of float32 lose half the digits."""
    rng = np.random.default_rng(4)
    with jax.enable_x64(True):
        delta_NxK, logits_NxK = rng.normal(size=(2, N, K))
        _, (by_delta, by_logits) = objective_gradients(delta_NxK, logits_NxK)
        for row, head in np.ndindex(N, K):
            nudge_NxK = np.zeros((N, K))
            nudge_NxK[row, head] = 1e-6
            up = mean_objective(delta_NxK + nudge_NxK, logits_NxK)
            down = mean_objective(delta_NxK - nudge_NxK, logits_NxK)
            assert abs((up - down) / 2e-6 - by_delta[row, head]) < 1e-8
            up = mean_objective(delta_NxK, logits_NxK + nudge_NxK)
            down = mean_objective(delta_NxK, logits_NxK - nudge_NxK)
            assert abs((up - down) / 2e-6 - by_logits[row, head]) < 1e-8

        weights_NxK = np.asarray(jax.nn.softmax(logits_NxK))
        wins_NxK = 1 / (1 + np.exp(-delta_NxK))
        joint_NxK = weights_NxK * wins_NxK
        responsibility_NxK = joint_NxK / joint_NxK.sum(axis=1, keepdims=True)
        _, (nll_by_delta, nll_by_logits) = nll_gradients(delta_NxK, logits_NxK)
        np.testing.assert_allclose(
            nll_by_delta, -responsibility_NxK * (1 - wins_NxK) / N, atol=1e-12
        )
        np.testing.assert_allclose(
            nll_by_logits, (weights_NxK - responsibility_NxK) / N, atol=1e-12
        )


def test_loss_is_one_number_per_row_and_its_mean_needs_no_order(
    delta_NxK: jax.Array, logits_NxK: jax.Array
) -> None:
    """G-S10: rows do not see each other, so micro-batches and permutations change nothing."""
    log_weights_NxK = log_softmax(logits_NxK)
    together_N = stage1_objective(delta_NxK, log_weights_NxK, 0.5)
    assert together_N.shape == (N,)
    alone = [
        stage1_objective(delta_NxK[row : row + 1], log_weights_NxK[row : row + 1], 0.5)
        for row in range(N)
    ]
    np.testing.assert_allclose(together_N, np.concatenate(alone), atol=1e-6)
    backwards_N = stage1_objective(delta_NxK[::-1], log_weights_NxK[::-1], 0.5)
    np.testing.assert_allclose(backwards_N[::-1], together_N, atol=1e-6)


@pytest.mark.parametrize("margin", [100.0, -100.0])
@pytest.mark.parametrize("logit", [100.0, -100.0])
def test_extreme_margins_and_logits_stay_finite(margin: float, logit: float) -> None:
    """G-S13, with the value of the log-domain formula."""
    delta_1xK = jnp.array([[margin, -margin, 0.0]])
    logits_1xK = jnp.array([[logit, -logit, 0.0]])
    value, gradients = objective_gradients(delta_1xK, logits_1xK)
    log_weights = np.array([logit, -logit, 0.0]) - 100.0
    log_wins = -np.logaddexp(0, -np.array([margin, -margin, 0.0]))
    assert float(value) == pytest.approx(
        -np.logaddexp.reduce(log_weights + log_wins), rel=1e-6, abs=1e-6
    )
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@given(arrays((N, K), 1e4), arrays((N, K), 1e4))
@settings(deadline=None, max_examples=50)
def test_margins_and_logits_up_to_ten_thousand_stay_finite(
    delta_NxK: np.ndarray, logits_NxK: np.ndarray
) -> None:
    for function in (nll_gradients, objective_gradients):
        value, gradients = function(delta_NxK, logits_NxK)
        assert np.isfinite(value)
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_free_weights_settle_where_section_2_3_says() -> None:
    """G-S14: p = (.9, .5, .1) under alpha = 0.5."""
    wins_1xK = np.array([[0.9, 0.5, 0.1]])
    with jax.enable_x64(True):
        delta_1xK = jnp.asarray(np.log(wins_1xK / (1 - wins_1xK)))

        def objective(logits_1xK: jax.Array) -> jax.Array:
            return stage1_objective(delta_1xK, log_softmax(logits_1xK), 0.5)[0]

        descend = jax.jit(
            lambda start: jax.lax.fori_loop(0, 2000, lambda _, f: f - jax.grad(objective)(f), start)
        )
        weights_1xK = jax.nn.softmax(descend(jnp.zeros((1, 3))))
    np.testing.assert_allclose(weights_1xK, [[0.686532, 0.233828, 0.079640]], atol=1e-6)


def test_expectation_maximisation_never_raises_the_loss() -> None:
    """G-S15: full-batch EM, with the responsibilities taken from the gradient of the mixture.

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
            delta_NxK = margins({"kernel": kernel_DxK}, rows_NxD)
            value, minus_rho_NxK = jax.value_and_grad(nll, argnums=1)(delta_NxK, log_weights_NxK)

            def expected_loss(kernel_DxK: jax.Array) -> jax.Array:
                return -jnp.sum(minus_rho_NxK * head_nll(margins({"kernel": kernel_DxK}, rows_NxD)))

            kernel_DxK = jax.lax.fori_loop(
                0, 5, lambda _, w: w - rate * jax.grad(expected_loss)(w), kernel_DxK
            )
            return (kernel_DxK, jnp.log(-jnp.mean(minus_rho_NxK, axis=0))), value / count

        start = (jnp.asarray(rng.normal(size=(width, K))), jnp.full(K, -jnp.log(3.0)))
        _, curve = jax.jit(lambda start: jax.lax.scan(iterate, start, length=60))(start)
        curve = np.asarray(curve)
    assert np.diff(curve).max() <= 1e-12
    assert curve[0] - curve[-1] > 0.05


def test_loss_of_tiny_heads_is_log_2(logits_NxK: jax.Array) -> None:
    """G-S17, the start of training."""
    nll_N = mixture_nll(jnp.full((N, K), 1e-9), log_softmax(logits_NxK))
    np.testing.assert_allclose(nll_N, np.full(N, LOG_2), atol=1e-6)


@given(arrays((N, K), 10.0), arrays((N, K), 4.0))
@settings(deadline=None, max_examples=50)
def test_mixture_loss_is_at_most_the_weighted_mean_of_head_losses(
    delta_NxK: np.ndarray, logits_NxK: np.ndarray
) -> None:
    """G-S18 and G-H10: Jensen."""
    log_weights_NxK = log_softmax(logits_NxK)
    linear_N = jnp.sum(jnp.exp(log_weights_NxK) * head_nll(jnp.asarray(delta_NxK)), axis=-1)
    nll_N = mixture_nll(jnp.asarray(delta_NxK), log_weights_NxK)
    assert (np.asarray(nll_N) <= np.asarray(linear_N) + 1e-5).all()


def test_mixture_loss_is_strictly_below_it_for_distinct_heads(
    delta_NxK: jax.Array, logits_NxK: jax.Array
) -> None:
    """G-S18: equality would mean that the sum runs over the wrong axis."""
    log_weights_NxK = log_softmax(logits_NxK)
    linear_N = jnp.sum(jnp.exp(log_weights_NxK) * head_nll(delta_NxK), axis=-1)
    assert (np.asarray(mixture_nll(delta_NxK, log_weights_NxK)) < np.asarray(linear_N) - 1e-3).all()


def test_heads_padded_with_minus_infinity_change_nothing(
    delta_NxK: jax.Array, logits_NxK: jax.Array
) -> None:
    """G-S19: same loss, same gradient on the real heads, exactly none on the padded ones."""
    value, (by_delta, by_logits) = objective_gradients(delta_NxK, logits_NxK)
    padded_delta = jnp.pad(delta_NxK, ((0, 0), (0, 2)), constant_values=7.0)
    padded_logits = jnp.pad(logits_NxK, ((0, 0), (0, 2)), constant_values=-jnp.inf)
    padded_value, (padded_by_delta, padded_by_logits) = objective_gradients(
        padded_delta, padded_logits
    )
    assert float(padded_value) == pytest.approx(float(value), abs=1e-6)
    np.testing.assert_allclose(padded_by_delta[:, :K], by_delta, atol=1e-6)
    np.testing.assert_allclose(padded_by_logits[:, :K], by_logits, atol=1e-6)
    np.testing.assert_array_equal(padded_by_delta[:, K:], np.zeros((N, 2)))
    np.testing.assert_array_equal(padded_by_logits[:, K:], np.zeros((N, 2)))


def test_soft_label_cross_entropy_is_the_sum_over_heads_of_each_row() -> None:
    """G-H2 gives the number: targets at tau = 0.5 against their own prior."""
    targets_2xK = jnp.array([[0.8213278, 0.1786722], [0.0, 1.0]])
    log_weights_2xK = jnp.log(jnp.array([[0.3, 0.7], [0.3, 0.7]]))
    np.testing.assert_allclose(
        soft_label_cross_entropy(targets_2xK, log_weights_2xK),
        [1.0525842, -np.log(0.7)],
        atol=1e-6,
    )


def test_a_head_without_target_and_without_weight_costs_nothing() -> None:
    """0 x log 0 counts as 0, in value and in gradient; a target on it costs everything."""
    log_weights_1x2 = jnp.log(jnp.array([[1.0, 0.0]]))
    value, gradient = jax.value_and_grad(
        lambda w: soft_label_cross_entropy(jnp.array([[1.0, 0.0]]), w)[0]
    )(log_weights_1x2)
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, [[-1.0, 0.0]])
    assert soft_label_cross_entropy(jnp.array([[0.0, 1.0]]), log_weights_1x2)[0] == np.inf
