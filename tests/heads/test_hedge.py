"""Stage 2: the closed form, the targets' schedule, and what must not learn."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from micro_rm.configs.adapt import AdaptConfig
from micro_rm.heads import hedge, losses
from micro_rm.heads.hedge import AdaptData, fit_router
from micro_rm.heads.model import ModelSpec, init, log_weights, margins

N, K = 5, 3
LOSSES_1x2 = np.array([[0.1269280, 1.3132617]], np.float32)  # softplus(-2), softplus(1)
PRIOR_1x2 = np.array([[0.3, 0.7]], np.float32)
TAUS = (1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0)
hedge_targets = jax.jit(hedge.hedge_targets)
head_nll = jax.jit(losses.head_nll)
mixture_nll = jax.jit(losses.mixture_nll)
mixture_log_prob = jax.jit(losses.mixture_log_prob)
soft_label_cross_entropy = jax.jit(losses.soft_label_cross_entropy)


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


def objective(
    weights_K: np.ndarray, prior_K: np.ndarray, losses_K: np.ndarray, tau: float
) -> float:
    """sum_k w_k L_k + tau KL(w || prior), with 0 log 0 = 0."""
    used = weights_K > 0
    ratio = weights_K[used] / prior_K[used]
    return float(weights_K @ losses_K + tau * np.sum(weights_K[used] * np.log(ratio)))


def minimise(prior_K: np.ndarray, losses_K: np.ndarray, tau: float) -> np.ndarray:
    """The minimiser of ``objective`` on the simplex, found without its formula.

    Two heads at a time exchange mass; the best exchange is where the slope vanishes, by bisection.
    """
    weights_K = prior_K.copy()
    for _ in range(60):
        for one, two in ((0, 1), (1, 2), (0, 2)):
            total = weights_K[one] + weights_K[two]
            low, high = 0.0, 1.0
            for _ in range(60):
                share = (low + high) / 2
                slope = (
                    losses_K[one]
                    - losses_K[two]
                    + tau
                    * (
                        np.log(share * total / prior_K[one])
                        - np.log((1 - share) * total / prior_K[two])
                    )
                )
                low, high = (low, share) if slope > 0 else (share, high)
            weights_K[one], weights_K[two] = low * total, (1 - low) * total
    return weights_K


@pytest.mark.parametrize(
    ("tau", "first", "value", "tolerance"),
    [
        (0.5, 0.8213278, 0.6304979, 1e-6),
        (0.1, 0.9999836, 0.2473236, 1e-6),
        (1e-3, 1.0, 0.1281320, 1e-6),
    ],
)
def test_worked_example_has_its_published_targets(
    tau: float, first: float, value: float, tolerance: float
) -> None:
    """G-H2; the value is the objective at the targets."""
    targets = np.asarray(hedge_targets(np.log(PRIOR_1x2), LOSSES_1x2, tau), np.float64)[0]
    np.testing.assert_allclose(targets, [first, 1 - first], rtol=0, atol=tolerance)
    reached = objective(targets, PRIOR_1x2[0].astype(float), LOSSES_1x2[0].astype(float), tau)
    assert reached == pytest.approx(value, abs=tolerance)


def test_worked_example_against_its_prior() -> None:
    """G-H2: cross-entropy of the targets at tau = 0.5 against the prior."""
    targets = hedge_targets(np.log(PRIOR_1x2), LOSSES_1x2, 0.5)
    cross_entropy = soft_label_cross_entropy(targets, jnp.log(PRIOR_1x2))
    np.testing.assert_allclose(cross_entropy, [1.0525842], rtol=0, atol=1e-6)


@pytest.mark.parametrize("tau", [1.0, 0.1, 0.01])
def test_targets_are_the_minimiser_of_loss_plus_divergence(tau: float) -> None:
    """G-H1: against a numerical minimiser, and the value is -tau log sum prior exp(-L / tau)."""
    prior_K = np.array([0.2, 0.5, 0.3])
    losses_K = np.array([0.41, 0.40, 0.43])
    found_K = hedge_targets(
        np.log(prior_K[None]).astype(np.float32), losses_K[None].astype(np.float32), tau
    )[0]
    best_K = minimise(prior_K, losses_K, tau)
    np.testing.assert_allclose(found_K, best_K, rtol=0, atol=1e-6)
    optimum = -tau * np.log(np.sum(prior_K * np.exp(-losses_K / tau)))
    reached = objective(np.asarray(found_K, np.float64), prior_K, losses_K, tau)
    assert reached == pytest.approx(optimum, abs=1e-6)


def test_a_large_temperature_returns_the_prior() -> None:
    """G-H3."""
    targets = hedge_targets(np.log(PRIOR_1x2), LOSSES_1x2, 1e9)
    np.testing.assert_allclose(targets, PRIOR_1x2, atol=1e-6)


def test_a_small_temperature_picks_the_smallest_loss_and_splits_ties_by_the_prior() -> None:
    """G-H3."""
    log_prior_2xK = np.log(np.array([[0.5, 0.2, 0.3], [0.5, 0.2, 0.3]], np.float32))
    losses_2xK = np.array([[0.3, 0.2, 0.4], [0.9, 0.2, 0.2]], np.float32)
    targets = hedge_targets(log_prior_2xK, losses_2xK, 1e-4)
    np.testing.assert_allclose(targets, [[0, 1, 0], [0, 0.4, 0.6]], atol=1e-6)


def test_temperature_one_gives_posterior_responsibilities() -> None:
    """G-H4: proportional to prior times probability, and so the gradient of stage 1."""
    rng = np.random.default_rng(0)
    delta_NxK = rng.normal(size=(N, K)).astype(np.float32)
    log_prior_NxK = log_simplex(rng.normal(size=(N, K)))
    targets = hedge_targets(log_prior_NxK, head_nll(delta_NxK), 1.0)
    joint_NxK = np.exp(log_prior_NxK) / (1 + np.exp(-delta_NxK))
    np.testing.assert_allclose(targets, joint_NxK / joint_NxK.sum(axis=1, keepdims=True), atol=1e-6)
    by_log_weights = jax.jit(jax.grad(lambda w: jnp.sum(mixture_nll(delta_NxK, w))))(log_prior_NxK)
    np.testing.assert_allclose(targets, -by_log_weights, atol=1e-6)


def test_under_a_uniform_prior_they_are_proportional_to_the_probabilities() -> None:
    """G-H4."""
    delta_1xK = np.array([[2.0, -1.0, 0.3]], np.float32)
    wins_1xK = 1 / (1 + np.exp(-delta_1xK))
    uniform_1xK = np.full((1, K), -np.log(K), np.float32)
    targets = hedge_targets(uniform_1xK, head_nll(delta_1xK), 1.0)
    np.testing.assert_allclose(targets, wins_1xK / wins_1xK.sum(), atol=1e-6)


@given(arrays(-8, 8), arrays(0, 50), st.sampled_from(TAUS), st.permutations(range(K)))
@settings(deadline=None, max_examples=60)
def test_targets_lie_on_the_simplex_and_follow_the_order_of_the_heads(
    logits_NxK: np.ndarray, losses_NxK: np.ndarray, tau: float, order: list[int]
) -> None:
    """G-H5."""
    log_prior_NxK = log_simplex(logits_NxK)
    targets_NxK = np.asarray(hedge_targets(log_prior_NxK, losses_NxK, tau))
    assert (targets_NxK >= 0).all()
    np.testing.assert_allclose(targets_NxK.sum(axis=1), np.ones(N), atol=1e-6)
    permuted_NxK = hedge_targets(log_prior_NxK[:, order], losses_NxK[:, order], tau)
    np.testing.assert_allclose(permuted_NxK, targets_NxK[:, order], atol=1e-6)


@given(arrays(-8, 8), st.integers(0, 64), st.sampled_from(TAUS))
@settings(deadline=None, max_examples=40)
def test_a_constant_added_to_every_loss_of_a_row_changes_nothing(
    logits_NxK: np.ndarray, constant: int, tau: float
) -> None:
    """G-H5; the losses are multiples of 1/64, so that the sums are exact in float32."""
    rng = np.random.default_rng(constant)
    losses_NxK = (rng.integers(0, 640, (N, K)) / 64).astype(np.float32)
    log_prior_NxK = log_simplex(logits_NxK)
    np.testing.assert_array_equal(
        hedge_targets(log_prior_NxK, losses_NxK + np.float32(constant), tau),
        hedge_targets(log_prior_NxK, losses_NxK, tau),
    )


@pytest.mark.parametrize("tau", [1e-4, 1.0])
def test_a_head_without_prior_weight_gets_none_even_with_the_smallest_loss(tau: float) -> None:
    """G-H5: values on the others as if it were not there, and gradients finite."""
    log_prior_1xK = np.array([[np.log(0.4), np.log(0.6), -np.inf]], np.float32)
    losses_1xK = np.array([[20.0, 20.0, 0.0]], np.float32)
    targets = hedge_targets(log_prior_1xK, losses_1xK, tau)
    np.testing.assert_allclose(targets, [[0.4, 0.6, 0.0]], atol=1e-6)
    assert targets[0, 2] == 0

    def first_target(log_prior: jax.Array, losses: jax.Array) -> jax.Array:
        return hedge_targets(log_prior, losses, tau)[0, 0]

    for gradient in jax.grad(first_target, argnums=(0, 1))(log_prior_1xK, losses_1xK):
        assert np.isfinite(gradient).all()


@given(arrays(-8, 8), arrays(0, 50), st.sampled_from([1e-4, 1e-3]))
@settings(deadline=None, max_examples=100)
def test_float32_targets_equal_float64_ones_at_small_temperatures(
    logits_NxK: np.ndarray, losses_NxK: np.ndarray, tau: float
) -> None:
    """G-H6: losses up to 50 nats at tau = 1e-4.

    Among heads that share the weight the exponent is at most about 17 (the prior's range), which
    float32 holds to 2e-6; hence the tolerance.
    """
    log_prior_NxK = log_simplex(logits_NxK)
    found_NxK = hedge_targets(log_prior_NxK, losses_NxK, tau)
    expected_NxK = targets_in_float64(log_prior_NxK, losses_NxK, tau)
    np.testing.assert_allclose(found_NxK, expected_NxK, rtol=0, atol=5e-6)


def test_float32_separates_losses_that_differ_by_one_temperature() -> None:
    """G-H6 where it hurts: 50 and 50.0001 nats, which a division before the subtraction blurs."""
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


def test_the_gradient_of_the_cross_entropy_is_weights_minus_targets() -> None:
    """G-H9: it vanishes exactly where the router equals its targets."""
    rng = np.random.default_rng(1)
    logits_NxK = rng.normal(size=(N, K)).astype(np.float32)
    targets_NxK = np.exp(log_simplex(rng.normal(size=(N, K))))

    @jax.jit
    @jax.grad
    def gradient(logits_NxK: jax.Array, targets_NxK: jax.Array) -> jax.Array:
        return jnp.sum(soft_label_cross_entropy(targets_NxK, jax.nn.log_softmax(logits_NxK)))

    weights_NxK = np.exp(log_simplex(logits_NxK))
    np.testing.assert_allclose(
        gradient(logits_NxK, targets_NxK), weights_NxK - targets_NxK, atol=1e-6
    )
    at_targets = gradient(logits_NxK, weights_NxK)
    np.testing.assert_allclose(at_targets, np.zeros((N, K)), atol=1e-6)


@given(arrays(-4, 4), arrays(-10, 10))
@settings(deadline=None, max_examples=40)
def test_the_linear_loss_is_an_upper_bound_of_the_mixture_loss(
    logits_NxK: np.ndarray, delta_NxK: np.ndarray
) -> None:
    """G-H10."""
    log_weights_NxK = log_simplex(logits_NxK)
    linear_N = np.sum(np.exp(log_weights_NxK) * np.logaddexp(0, -delta_NxK), axis=1)
    assert (linear_N >= -np.asarray(mixture_log_prob(delta_NxK, log_weights_NxK)) - 1e-5).all()


@given(arrays(-8, 8), arrays(0, 50, (N, 1)), st.sampled_from(TAUS))
@settings(deadline=None, max_examples=40)
def test_identical_heads_leave_the_prior_as_it_is(
    logits_NxK: np.ndarray, losses_Nx1: np.ndarray, tau: float
) -> None:
    """G-H11: stage 2 has nothing to say."""
    log_prior_NxK = log_simplex(logits_NxK)
    targets = hedge_targets(log_prior_NxK, np.repeat(losses_Nx1, K, axis=1), tau)
    np.testing.assert_allclose(targets, np.exp(log_prior_NxK), atol=1e-6)


def test_repeating_the_update_divides_the_temperature() -> None:
    """G-H8: T epochs of a perfect learner give prior x exp(-T L / tau)."""
    epochs, tau = 4, 2.0
    rng = np.random.default_rng(2)
    start_NxK = log_simplex(rng.normal(size=(N, K)))
    losses_NxK = rng.uniform(0, 2, (N, K)).astype(np.float32)
    log_prior_NxK = start_NxK
    for _ in range(epochs):
        log_prior_NxK = np.log(np.asarray(hedge_targets(log_prior_NxK, losses_NxK, tau)))
    expected_NxK = targets_in_float64(start_NxK, losses_NxK, tau / epochs)
    np.testing.assert_allclose(np.exp(log_prior_NxK), expected_NxK, atol=1e-6)


def test_at_the_paper_s_temperature_targets_are_a_hard_assignment() -> None:
    """G-H14 and section 3.4: margins around 0.4 with deviation 1, ten heads, uniform prior."""
    rng = np.random.default_rng(3)
    losses_NxK = np.logaddexp(0, -rng.normal(0.4, 1.0, (2000, 10))).astype(np.float32)
    uniform_NxK = np.full((2000, 10), -np.log(10), np.float32)
    largest = {
        tau: float(np.max(hedge_targets(uniform_NxK, losses_NxK, tau), axis=1).mean())
        for tau in (0.1, 1e-3)
    }
    assert largest[1e-3] > 0.95
    assert largest[0.1] == pytest.approx(0.52, abs=0.02)


# --- fitting the router ---------------------------------------------------------------------------

WIDTH = 4
LINEAR = ModelSpec(WIDTH, K, "linear")
CONFIG = AdaptConfig(tau=0.5, epochs=2, batch_size=4, learning_rate=0.05)


def linear_router(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    kernel, bias = rng.normal(size=(WIDTH, K)), rng.normal(size=K)
    return {"output": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}


def budget_rows(count: int, seed: int) -> AdaptData:
    rng = np.random.default_rng(seed)
    delta, prompt = rng.normal(size=(count, K)), rng.normal(size=(count, WIDTH))
    return rows_of_their_own(jnp.asarray(delta), jnp.asarray(prompt))


def rows_of_their_own(delta_NxK: jax.Array, router_input_NxD: jax.Array) -> AdaptData:
    """Every row counts, and shares its losses with no other, as in the paper."""
    count = len(delta_NxK)
    return AdaptData(delta_NxK, router_input_NxD, jnp.ones(count), jnp.arange(count))


@pytest.mark.long
def test_targets_stay_fixed_within_an_epoch_and_change_with_the_next() -> None:
    """G-H8, against a plain loop. All rows are the same one, so their order cannot matter."""
    count = 3
    config = AdaptConfig(tau=0.5, epochs=2, batch_size=1, learning_rate=0.05, weight_decay=0.1)
    data = jax.tree.map(lambda rows: jnp.repeat(rows[:1], count, axis=0), budget_rows(1, 0))
    optimiser = optax.adamw(config.learning_rate, weight_decay=config.weight_decay)

    @partial(jax.jit, static_argnames="every_step")
    def reference(router: Any, *, every_step: bool) -> Any:
        def targets_of(router: Any) -> jax.Array:
            log_prior = log_weights(LINEAR, router, data.router_input_NxD)
            return hedge.hedge_targets(log_prior, head_nll(data.delta_NxK), config.tau)[:1]

        def loss(router: Any, targets: jax.Array) -> jax.Array:
            log_weights_1xK = log_weights(LINEAR, router, data.router_input_NxD[:1])
            return soft_label_cross_entropy(targets, log_weights_1xK)[0]

        state = optimiser.init(router)
        for _ in range(config.epochs):
            targets = targets_of(router)
            for _ in range(count):
                targets = targets_of(router) if every_step else targets
                gradient = jax.grad(loss)(router, targets)
                updates, state = optimiser.update(gradient, state, router)
                router = optax.apply_updates(router, updates)
        return router

    start = linear_router(0)
    found, _ = fit_router(LINEAR, start, data, config, jax.random.key(0))
    expected = reference(start, every_step=False)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), found, expected)
    always_fresh = reference(start, every_step=True)
    gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), found, always_fresh)
    assert max(jax.tree.leaves(gaps)) > 1e-3


def test_nothing_but_the_router_gets_a_gradient() -> None:
    """G-H7: the fitted router is constant in the losses, which enter through targets only."""
    rows = budget_rows(6, 1)
    delta_NxD = jnp.asarray(np.random.default_rng(1).normal(size=(6, WIDTH)))

    def router_sum(heads: Any) -> jax.Array:
        data = rows._replace(delta_NxK=margins(heads, delta_NxD))
        router, curve = fit_router(LINEAR, linear_router(1), data, CONFIG, jax.random.key(0))
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(router)) + jnp.sum(curve)

    heads = init(LINEAR, jax.random.key(0))["heads"]
    gradient = jax.grad(router_sum)(heads)
    np.testing.assert_array_equal(gradient["kernel"], np.zeros((WIDTH, K)))


def test_the_curve_is_the_mean_cross_entropy_over_batches_of_real_rows() -> None:
    """Without learning a value is that of the start: the mean of four rows' and of two rows' mean.

    Which two come last differs from epoch to epoch.
    """
    rows = budget_rows(6, 4)
    config = AdaptConfig(tau=0.5, epochs=6, batch_size=4, learning_rate=1e-12)
    start = linear_router(4)
    _, curve = fit_router(LINEAR, start, rows, config, jax.random.key(0))
    log_prior_NxK = log_weights(LINEAR, start, rows.router_input_NxD)
    targets_NxK = hedge_targets(log_prior_NxK, head_nll(rows.delta_NxK), 0.5)
    loss_N = np.asarray(soft_label_cross_entropy(targets_NxK, log_prior_NxK), np.float64)
    last_two = list(itertools.combinations(range(6), 2))
    possible = [(np.delete(loss_N, two).mean() + loss_N[list(two)].mean()) / 2 for two in last_two]
    gaps = np.abs(np.subtract.outer(np.array(possible), np.asarray(curve)))
    assert gaps.min(axis=0).max() < 1e-6
    assert len(set(gaps.argmin(axis=0).tolist())) > 1


def test_the_same_key_gives_the_same_router_and_another_key_another() -> None:
    rows = budget_rows(6, 5)
    one, same, other = (
        fit_router(LINEAR, linear_router(5), rows, CONFIG, jax.random.key(seed))[0]
        for seed in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert (np.asarray(one["output"]["kernel"]) != np.asarray(other["output"]["kernel"])).any()


def with_filling(rows: AdaptData, count: int, mask: float) -> AdaptData:
    """The rows and ``count`` copies of large numbers behind them."""
    filling = AdaptData(
        jnp.full((count, K), 9.0).at[:, 0].set(-9.0),
        jnp.full((count, WIDTH), 5.0),
        jnp.full(count, mask),
        len(rows.pool_N) + jnp.arange(count),
    )
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), rows, filling)


@pytest.mark.long
def test_a_place_without_a_row_teaches_nothing() -> None:
    """One batch per epoch holds rows and filling alike; only a mask of zero hides the filling."""
    rows, config = budget_rows(6, 6), AdaptConfig(tau=0.5, epochs=4, batch_size=8)
    alone, filled, counted = (
        fit_router(LINEAR, linear_router(6), data, config, jax.random.key(0))
        for data in (rows, with_filling(rows, 2, mask=0.0), with_filling(rows, 2, mask=1.0))
    )
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), filled, alone)
    assert np.abs(np.asarray(counted[1]) - np.asarray(alone[1])).min() > 1e-3


@pytest.mark.long
def test_a_batch_of_filling_alone_has_a_finite_loss() -> None:
    data = budget_rows(4, 7)._replace(mask_N=jnp.zeros(4))
    router, curve = fit_router(LINEAR, linear_router(7), data, CONFIG, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, router, linear_router(7))
    np.testing.assert_array_equal(curve, np.zeros(CONFIG.epochs))


def test_pooled_losses_are_the_mean_over_the_rows_that_count() -> None:
    """By hand: pools {0, 3}, {1} and {2}, of which row 3 is a place without a row."""
    losses_NxK = jnp.array([[1.0, 4], [3, 0], [5, 6], [100, 100]])
    pool_N = jnp.array([0, 2, 1, 0])
    found = hedge.pooled_losses(losses_NxK, jnp.array([1.0, 1, 1, 0]), pool_N)
    np.testing.assert_array_equal(found, [[1, 4], [3, 0], [5, 6], [1, 4]])
    found = hedge.pooled_losses(losses_NxK, jnp.ones(4), pool_N)
    np.testing.assert_array_equal(found, [[50.5, 52], [3, 0], [5, 6], [50.5, 52]])
    nobody = hedge.pooled_losses(losses_NxK, jnp.zeros(4), pool_N)
    np.testing.assert_array_equal(nobody, np.zeros((4, 2)))


@pytest.mark.long
@given(arrays(0, 50), st.lists(st.integers(0, N - 1), min_size=N, max_size=N))
@settings(deadline=None, max_examples=40)
def test_every_row_has_the_mean_loss_of_its_pool(losses_NxK: np.ndarray, pool: list[int]) -> None:
    """In a pool of its own a row keeps its loss to the last bit."""
    pool_N = np.array(pool)
    found_NxK = hedge.pooled_losses(losses_NxK, jnp.ones(N), jnp.asarray(pool_N))
    for row in range(N):
        expected_K = losses_NxK[pool_N == pool_N[row]].mean(axis=0)
        np.testing.assert_allclose(found_NxK[row], expected_K, rtol=1e-5, atol=1e-6)
    alone_NxK = hedge.pooled_losses(losses_NxK, jnp.ones(N), jnp.arange(N))
    np.testing.assert_array_equal(alone_NxK, losses_NxK)


@pytest.mark.long
@pytest.mark.parametrize(("pool", "weight"), [([0, 1, 2], 2 / 3), ([0, 0, 0], 0.0)])
def test_rows_of_one_pool_decide_together(pool: list[int], weight: float) -> None:
    """Head 0 is a little better on two of three rows, head 1 much better on the third.

    One by one the rows vote, two to one; together they follow the smaller mean loss.
    """
    delta_NxK = jnp.array([[1.0, 0.9, -9], [1.0, 0.9, -9], [-1.0, 1.0, -9]])
    input_NxD = jnp.ones((3, WIDTH))
    config = AdaptConfig(tau=1e-3, epochs=150, batch_size=4, learning_rate=0.02)
    start = jax.tree.map(jnp.zeros_like, linear_router(0))
    data = AdaptData(delta_NxK, input_NxD, jnp.ones(3), jnp.array(pool))
    router, _ = fit_router(LINEAR, start, data, config, jax.random.key(0))
    weights_K = np.exp(log_weights(LINEAR, router, input_NxD)[0])
    np.testing.assert_allclose(weights_K, [weight, 1 - weight, 0.0], atol=0.05)


@pytest.mark.long
def test_contradictory_twins_need_the_context_to_be_told_apart() -> None:
    """G-H13: a synthetic RPR, two opposite heads and every pair with both labels.

    A router that sees the prompt alone is right in exactly one of two twins; with the context it
    is right in both.
    """
    prompts = 20
    rng = np.random.default_rng(4)
    prompt_NxD = np.repeat(rng.normal(size=(prompts, WIDTH)), 2, axis=0)
    prompt_NxD[:, 2:] = 0
    wish_NxD = np.zeros_like(prompt_NxD)
    wish_NxD[0::2, 2], wish_NxD[1::2, 3] = 1.0, 1.0
    sign_Nx1 = np.tile([[1.0], [-1.0]], (prompts, 1))
    delta_NxK = jnp.asarray(sign_Nx1 * np.array([[2.0, -2.0]]))
    spec = ModelSpec(WIDTH, 2, "linear")
    config = AdaptConfig(tau=1e-3, epochs=40, batch_size=8, learning_rate=0.1)
    start = init(spec, jax.random.key(0))["router"]
    accuracy = {}
    for view, input_NxD in (("plain", prompt_NxD), ("ctx", prompt_NxD + wish_NxD)):
        data = rows_of_their_own(delta_NxK, jnp.asarray(input_NxD))
        router, _ = fit_router(spec, start, data, config, jax.random.key(0))
        log_weights_NxK = log_weights(spec, router, data.router_input_NxD)
        wins_N = np.asarray(mixture_log_prob(delta_NxK, log_weights_NxK)) - np.log(0.5)
        accuracy[view] = float(np.mean(wins_N > 0))
    assert accuracy == {"plain": 0.5, "ctx": 1.0}
