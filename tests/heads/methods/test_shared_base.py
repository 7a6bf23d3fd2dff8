"""Heads on frozen priors: what training leaves of the priors, and what is handed out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.baselines import BaselinesConfig, SharedBaseConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.methods import load_method, shared_base
from micro_rm.heads.methods.interface import NO_LABEL, Examples, Problem, Trained
from micro_rm.heads.methods.mixture import DivergenceError
from micro_rm.heads.methods.shared_base import (
    head_spread,
    initial_parts,
    solve_ensemble,
    train_official,
)
from micro_rm.heads.methods.single_bt_exact import solve_bt
from micro_rm.heads.rows import Rows
from micro_rm.heads.training import make_optimiser

N, D, K = 400, 6, 4


def examples(count: int, seed: int) -> Examples:
    """Rows that one taste has chosen with some noise: BT has a finite optimum."""
    rng = np.random.default_rng(seed)
    taste_D = np.array([1.0, -0.5, 0.5, 0, 0, 0])
    delta_NxD = rng.normal(size=(count, D))
    wins_N = rng.random(count) < 1 / (1 + np.exp(-delta_NxD @ taste_D))
    delta_NxD = np.where(wins_N[:, None], delta_NxD, -delta_NxD)
    none_N = np.full(count, NO_LABEL)
    rows = Rows(jnp.asarray(delta_NxD, jnp.float32), jnp.zeros((count, 1)))
    return Examples(rows, none_N, none_N, none_N, np.zeros(count), lambda: None)


def problem(prior_scale: float = 1.0, anchor: float = 0.1, **train: Any) -> Problem:
    return Problem(
        D,
        examples(N, 0),
        examples(50, 1),
        TrainConfig(num_heads=K, batch_size=64, **train),
        AdaptConfig(),
        BaselinesConfig(shared_base=SharedBaseConfig(prior_scale, anchor)),
        jax.random.key(3),
    )


def fit(variant: str, setup: Problem) -> Trained:
    return load_method(variant).fit(setup, {})


def kernel(trained: Trained) -> np.ndarray:
    return np.asarray(trained.params["heads"]["kernel"])


def test_both_parts_start_from_the_same_distribution_and_differ() -> None:
    theta_DxK, prior_DxK = map(np.asarray, initial_parts(problem()))
    for part in (theta_DxK, prior_DxK):
        assert part.shape == (D, K)
        assert 0.8 < np.abs(part).max() * D**0.5 <= 1
    assert np.abs(theta_DxK - prior_DxK).min() > 0
    _, tripled_DxK = initial_parts(problem(prior_scale=3.0))
    np.testing.assert_allclose(tripled_DxK, 3 * prior_DxK, rtol=1e-6)


@pytest.mark.long
def test_trained_to_the_end_every_head_is_the_single_reward() -> None:
    setup = problem(prior_scale=3.0)
    single_D, _ = solve_bt(setup.train.rows.delta_NxD, 1e-6)
    trained = fit("shared_base_converged", setup)
    expected_DxK = np.repeat(np.asarray(single_D)[:, None], K, axis=1)
    np.testing.assert_allclose(kernel(trained), expected_DxK, atol=1e-3)
    assert trained.settings["head_spread"] < 1e-3 < 1 < trained.settings["prior_spread"]
    assert trained.settings["largest_gradient"] < 1e-5


def test_the_prior_is_no_parameter() -> None:
    """Neither trained nor in the optimiser's state; what is trained is theta alone."""
    setup = problem()
    theta_DxK, prior_DxK = initial_parts(setup)
    before = np.array(prior_DxK)
    trained_DxK, curve = train_official(
        theta_DxK, prior_DxK, setup.train.rows, setup.train_config, setup.key
    )
    np.testing.assert_array_equal(prior_DxK, before)
    assert trained_DxK.shape == (D, K)
    assert curve.shape == (setup.train_config.epochs,)
    state = jax.tree.leaves(make_optimiser(setup.train_config, 5).init(theta_DxK))
    assert sum(leaf.shape == (D, K) for leaf in state) == 2


def test_official_is_one_epoch_of_independent_losses_from_the_initial_parts() -> None:
    """The exported heads are those of the sum, trained by one step: 60 rows are one batch of 64."""
    setup = problem(epochs=7, warmup=0.0, clip=1e9)
    config = replace(setup.train_config, batch_size=8)
    setup = replace(setup, train=examples(60, 0), train_config=config)
    theta_DxK, prior_DxK = initial_parts(setup)
    delta_NxD = setup.train.rows.delta_NxD

    def loss(theta_DxK: jax.Array) -> jax.Array:
        losses = [
            jnp.mean(jax.nn.softplus(-delta_NxD @ (theta_DxK[:, k] + prior_DxK[:, k])))
            for k in range(K)
        ]
        return sum(losses) / K

    optimiser = optax.adamw(2e-3, weight_decay=0.0)
    value, gradient = jax.value_and_grad(loss)(theta_DxK)
    updates, _ = optimiser.update(gradient, optimiser.init(theta_DxK), theta_DxK)
    trained = fit("shared_base", setup)
    np.testing.assert_allclose(kernel(trained), theta_DxK + updates + prior_DxK, atol=1e-5)
    assert trained.settings["epochs"] == 1
    np.testing.assert_allclose(trained.curves["objective"], [value], atol=1e-5)
    held_out_NxK = np.asarray(setup.validation.rows.delta_NxD) @ kernel(trained)
    nll = np.logaddexp(0, -held_out_NxK).mean()
    np.testing.assert_allclose(trained.curves["validation_nll"], [nll], atol=1e-5)


def test_without_validation_rows_the_curve_says_so() -> None:
    setup = replace(problem(), validation=examples(0, 1))
    assert np.isnan(fit("shared_base", setup).curves["validation_nll"]).all()


@pytest.mark.long
def test_official_learns_from_batches_of_all_rows() -> None:
    setup = problem(learning_rate=0.1)
    before = np.asarray(sum(initial_parts(setup)))
    trained = fit("shared_base", setup)

    def nll(kernel_DxK: np.ndarray) -> float:
        return np.logaddexp(0, -np.asarray(setup.train.rows.delta_NxD) @ kernel_DxK).mean()

    assert nll(kernel(trained)) < nll(before) - 0.05
    again = fit("shared_base", setup)
    np.testing.assert_array_equal(kernel(again), kernel(trained))


@pytest.mark.long
def test_an_anchor_keeps_the_heads_apart_the_more_the_stronger() -> None:
    """At a strong anchor theta is nothing and each head is its prior."""
    setup = problem(prior_scale=2.0)
    spreads = [0.0]
    for anchor in (1e-3, 1e-1, 1e4):
        base = BaselinesConfig(shared_base=SharedBaseConfig(2.0, anchor))
        trained = fit("shared_base_anchored", replace(setup, baselines=base))
        spreads.append(trained.settings["head_spread"])
        assert trained.settings["largest_gradient"] < max(1e-5, 1e-6 * anchor)
    assert spreads == sorted(spreads)
    assert spreads[1] > 0.005
    np.testing.assert_allclose(kernel(trained), initial_parts(setup)[1], atol=1e-3)


@pytest.mark.long
def test_the_anchored_solution_is_stationary_in_theta() -> None:
    setup, anchor = problem(), 0.1
    theta_DxK, prior_DxK = initial_parts(setup)
    delta_NxD = setup.train.rows.delta_NxD
    theta_DxK, residual_K = solve_ensemble(
        theta_DxK, prior_DxK, delta_NxD, anchor=anchor, ridge=0.0
    )
    theta, prior, delta = (np.asarray(x, np.float64) for x in (theta_DxK, prior_DxK, delta_NxD))
    wrong_NxK = 1 / (1 + np.exp(delta @ (theta + prior)))
    gradient_DxK = -delta.T @ wrong_NxK / N + anchor * theta
    assert np.abs(gradient_DxK).max() < 1e-5
    assert residual_K.shape == (K,)
    assert np.asarray(residual_K).max() < 1e-5


def test_spread_is_the_largest_difference_of_margins() -> None:
    heads_DxK = jnp.array([[0.0, 3.0, 1.0], [0.0, 4.0, 0.0]])
    rows = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    assert head_spread(heads_DxK, rows) == pytest.approx((25 / 2) ** 0.5)
    assert head_spread(heads_DxK, rows[:1]) == pytest.approx(3.0)
    assert head_spread(heads_DxK[:, :1], rows) == 0.0


def test_prediction_averages_the_heads() -> None:
    rows = examples(20, 5)
    kernel_DxK = np.random.default_rng(0).normal(size=(D, K)).astype(np.float32)
    found = shared_base.SHARED_BASE.predict(Trained({"heads": {"kernel": kernel_DxK}}), rows)
    mean_N = np.asarray(rows.rows.delta_NxD) @ kernel_DxK.mean(axis=1)
    np.testing.assert_allclose(found.statistic_SxN, mean_N[None], atol=1e-5)
    np.testing.assert_allclose(found.log_prob_SxN, -np.logaddexp(0, -mean_N)[None], atol=1e-5)
    assert found.heads is not None
    assert found.heads.log_weights_SxNxK.shape == (1, 20, K)
    np.testing.assert_allclose(np.exp(found.heads.log_weights_SxNxK), 1 / K, rtol=1e-5)


@pytest.mark.parametrize("variant", ["shared_base", "shared_base_converged"])
def test_training_that_diverges_is_an_error_with_a_remedy(variant: str) -> None:
    setup = problem()
    rows = setup.train.rows
    rows = rows._replace(delta_NxD=rows.delta_NxD.at[0, 0].set(jnp.nan))
    broken = replace(setup, train=replace(setup.train, data=rows))
    with pytest.raises(DivergenceError, match=r"4 heads .* lower train\.learning_rate"):
        fit(variant, broken)


@pytest.mark.parametrize(
    "variant", ["shared_base", "shared_base_converged", "shared_base_anchored"]
)
def test_settings_are_json_and_the_table_row_is_said(variant: str) -> None:
    method = load_method(variant)
    assert (method.name, method.stage, method.rule) == (variant, "train", "R2")
    assert method.own_heads
    assert json.loads(json.dumps(fit(variant, problem()).settings))["prior_scale"] == 1.0
