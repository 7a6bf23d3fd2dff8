"""Stage 2 of one draw: the schedule of the targets, what must not learn, and pooled losses."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from micro_rm.configs.adapt import AdaptConfig
from micro_rm.heads import hedge
from micro_rm.heads.hedge import AdaptData, fit_router
from micro_rm.heads.losses import head_nll, soft_label_cross_entropy
from micro_rm.heads.model import ModelSpec, init, log_weights, margins

K = 3
WIDTH = 4
LINEAR = ModelSpec(WIDTH, K, "linear")
CONFIG = AdaptConfig(tau=0.5, epochs=2, batch_size=4, learning_rate=0.05)


def linear_router(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    kernel, bias = rng.normal(size=(WIDTH, K)), rng.normal(size=K)
    return {"output": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}


def budget_rows(count: int, seed: int) -> AdaptData:
    """Every row counts, and shares its losses with no other, as in the paper."""
    rng = np.random.default_rng(seed)
    delta_NxK, input_NxD = rng.normal(size=(count, K)), rng.normal(size=(count, WIDTH))
    rows = jnp.asarray(delta_NxK), jnp.asarray(input_NxD)
    return AdaptData(*rows, jnp.ones(count), jnp.arange(count))


@pytest.mark.long
def test_targets_stay_fixed_within_an_epoch_and_change_with_the_next() -> None:
    """Against a plain loop. All rows are the same one, so their order cannot matter."""
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
    """The fitted router is constant in the losses, which enter through targets only."""
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
    targets_NxK = hedge.hedge_targets(log_prior_NxK, head_nll(rows.delta_NxK), 0.5)
    loss_N = np.asarray(soft_label_cross_entropy(targets_NxK, log_prior_NxK), np.float64)
    last_two = list(itertools.combinations(range(6), 2))
    possible = [(np.delete(loss_N, two).mean() + loss_N[list(two)].mean()) / 2 for two in last_two]
    gaps = np.abs(np.subtract.outer(np.array(possible), np.asarray(curve)))
    assert gaps.min(axis=0).max() < 1e-6
    assert len(set(gaps.argmin(axis=0).tolist())) > 1


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
