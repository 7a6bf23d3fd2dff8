"""Hard EM: planted clusters are found, its objective behaves, and its guards hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.baselines import BaselinesConfig, MaxMinConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.methods import load_method
from micro_rm.heads.methods.interface import NO_LABEL, Examples, Problem, Trained
from micro_rm.heads.methods.maxmin_em import (
    UnitError,
    fit_heads,
    unit_kind,
)
from micro_rm.heads.methods.mixture import DivergenceError
from micro_rm.heads.rows import Rows

D, K = 6, 2
METHOD = load_method("maxmin_em")
fit = jax.jit(fit_heads, static_argnames="config")
FAST = TrainConfig(num_heads=K, batch_size=64, epochs=1, learning_rate=1.0)


def examples(
    taste_N: np.ndarray, seed: int, *, user_N: Any = None, attribute_N: Any = None
) -> Examples:
    """Rows of taste t choose more of coordinate t, with some noise."""
    rng = np.random.default_rng(seed)
    count = taste_N.size
    delta_NxD = rng.normal(size=(count, D))
    margin_N = 3 * np.take_along_axis(delta_NxD, np.abs(taste_N)[:, None], axis=1)[:, 0]
    wins_N = rng.random(count) < 1 / (1 + np.exp(-np.where(taste_N < 0, -margin_N, margin_N)))
    delta_NxD = np.where(wins_N[:, None], delta_NxD, -delta_NxD)
    none_N = np.full(count, NO_LABEL)
    return Examples(
        Rows(jnp.asarray(delta_NxD, jnp.float32), jnp.zeros((count, 1))),
        none_N if attribute_N is None else np.asarray(attribute_N),
        none_N if user_N is None else np.asarray(user_N),
        none_N,
        np.zeros(count),
        lambda: None,
    )


def problem(train: Examples, validation: Examples, heads: int = K, **options: Any) -> Problem:
    chosen: dict[str, Any] = {"learning_rate": 0.05, "epochs": 4, "rounds": 6} | options
    return Problem(
        D,
        train,
        validation,
        TrainConfig(num_heads=heads, batch_size=64),
        AdaptConfig(),
        BaselinesConfig(maxmin=MaxMinConfig(**chosen)),
        jax.random.key(0),
    )


def no_rows(**names: Any) -> Examples:
    return examples(np.zeros(0, int), 0, **names)


USER_TASTE = np.array([0] * 12 + [1] * 6)


def of_users(rows: int, seed: int) -> Examples:
    user_N = np.tile(np.arange(USER_TASTE.size), rows)
    return examples(USER_TASTE[user_N], seed, user_N=user_N)


# All fits with users have rows of one shape: they share one compiled program.
TRAIN, HELD_OUT = of_users(40, 0), of_users(8, 1)


@pytest.fixture(scope="module")
def users() -> Trained:
    return METHOD.fit(problem(TRAIN, HELD_OUT), {})


@pytest.fixture(scope="module")
def pairs() -> tuple[Trained, Examples]:
    """One taste, single pairs as units: opposite heads would explain every row."""
    one = partial(examples, np.zeros(600, int))
    return METHOD.fit(problem(one(0), one(1), rounds=8), {}), one(2)


def test_planted_users_end_up_with_the_head_of_their_taste(users: Trained) -> None:
    kernel_DxK = users.params["heads"]["kernel"]
    unit_DxK = kernel_DxK / np.linalg.norm(kernel_DxK, axis=0)
    order = np.abs(unit_DxK[:2]).argmax(axis=1)
    assert sorted(order) == [0, 1]
    assert min(unit_DxK[0, order[0]], unit_DxK[1, order[1]]) > 0.9
    weights_LxK = np.exp(users.params["log_weights"])
    assert weights_LxK.shape == (USER_TASTE.size + 1, K)
    np.testing.assert_array_equal(weights_LxK[:-1].argmax(axis=1), order[USER_TASTE])
    np.testing.assert_allclose(weights_LxK[:-1].max(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(weights_LxK[-1, order], [2 / 3, 1 / 3], atol=1e-5)
    np.testing.assert_allclose(users.settings["cluster_shares"], weights_LxK[-1], atol=1e-6)


def test_known_users_get_their_head_and_strangers_the_mixture(users: Trained) -> None:
    rows = of_users(10, 2)
    known = METHOD.predict(users, rows)
    assert (known.statistic_SxN > 0).mean() > 0.8
    assert known.heads is not None
    for stranger in (NO_LABEL, USER_TASTE.size, 10**6):
        user_N = np.full(rows.user_N.size, stranger)
        found = METHOD.predict(users, replace(rows, user_N=user_N))
        assert found.heads is not None
        shares_NxK = np.exp(found.heads.log_weights_SxNxK[0])
        expected_K = np.exp(users.params["log_weights"][-1])
        np.testing.assert_allclose(shares_NxK, np.tile(expected_K, (user_N.size, 1)), atol=1e-6)
        p_NxK = 1 / (1 + np.exp(-known.heads.delta_NxK))
        log_prob_N = np.log(np.sum(shares_NxK * p_NxK, axis=1))
        np.testing.assert_allclose(found.log_prob_SxN[0], log_prob_N, atol=1e-5)


def test_the_clustering_objective_never_falls(users: Trained, pairs: Any) -> None:
    for trained in (users, pairs[0]):
        assert trained.settings["units_moved"] == 0
        assert (np.diff(trained.curves["log_likelihood"]) >= -1e-6).all()


def test_heads_that_explain_their_rows_less_well_are_refused() -> None:
    """Even a learning rate far too large cannot lower the objective."""
    delta_NxD, cluster_N = TRAIN.rows.delta_NxD, jnp.asarray(USER_TASTE[TRAIN.user_N])
    start_DxK = 3 * jnp.eye(D)[:, :K].at[1, 1].set(-1.0)
    fitted_DxK, refused_K = fit(start_DxK, delta_NxD, cluster_N, FAST, jax.random.key(0))
    # The first head is as good as can be, the second one points the wrong way.
    np.testing.assert_array_equal(refused_K, [True, False])
    np.testing.assert_array_equal(fitted_DxK[:, 0], start_DxK[:, 0])
    assert fitted_DxK[1, 1] > 0


@pytest.mark.long
def test_one_cluster_is_bradley_terry_and_one_user_is_one_cluster() -> None:
    """K = 1 fits one head to all rows."""
    alone = replace(TRAIN, user_N=np.zeros_like(TRAIN.user_N))
    trained = METHOD.fit(problem(alone, no_rows(), heads=8, rounds=12, epochs=8), {})
    assert trained.settings["num_heads"] == 1
    found_D = trained.params["heads"]["kernel"][:, 0]
    delta = np.asarray(TRAIN.rows.delta_NxD, np.float64)
    gradient_D = delta.T @ (1 / (1 + np.exp(delta @ found_D))) / len(delta)
    assert np.abs(gradient_D).max() < 0.01
    np.testing.assert_allclose(trained.params["log_weights"], 0, atol=1e-6)
    assert np.abs(found_D[:2]).min() > 0.5


def test_relabelling_clusters_changes_nothing(users: Trained) -> None:
    swapped = Trained(
        {
            "heads": {"kernel": users.params["heads"]["kernel"][:, ::-1]},
            "log_weights": users.params["log_weights"][:, ::-1],
        },
        users.settings,
    )
    rows = of_users(3, 4)
    one, other = METHOD.predict(users, rows), METHOD.predict(swapped, rows)
    np.testing.assert_allclose(one.statistic_SxN, other.statistic_SxN, atol=1e-5)
    np.testing.assert_allclose(one.log_prob_SxN, other.log_prob_SxN, atol=1e-5)
    delta_NxD, cluster_N = TRAIN.rows.delta_NxD, jnp.asarray(USER_TASTE[TRAIN.user_N])
    start_DxK = jnp.asarray(np.random.default_rng(0).normal(size=(D, K)), jnp.float32)
    key = jax.random.key(0)
    kernel_DxK, refused_K = fit(start_DxK, delta_NxD, cluster_N, FAST, key)
    mirrored_DxK, _ = fit(start_DxK[:, ::-1], delta_NxD, 1 - cluster_N, FAST, key)
    assert not refused_K.any()
    np.testing.assert_allclose(kernel_DxK, mirrored_DxK[:, ::-1], atol=1e-4)


def test_chunks_recover_attributes_that_want_the_opposite() -> None:
    """No single reward can be right in more than half of these rows."""
    attribute_N = np.tile([4, 7], 200)
    chosen = np.where(attribute_N == 4, 1, -1)
    train = examples(chosen, 0, attribute_N=attribute_N)
    trained = METHOD.fit(problem(train, no_rows(), chunk=20), {})
    assert trained.settings["unit"] == "attribute_chunk"
    assert trained.settings["supervised"]
    assert trained.settings["units"] == 20
    seen = METHOD.predict(trained, examples(chosen, 1, attribute_N=attribute_N))
    assert (seen.statistic_SxN > 0).mean() > 0.8
    # Without validation rows the training rows choose the round.
    nll = -METHOD.predict(trained, train).log_prob_SxN.mean()
    assert nll == pytest.approx(trained.curves["validation_nll"].min(), abs=1e-4)
    # Attribute 5 lies between those seen: it has the overall weights.
    weights_LxK = np.exp(trained.params["log_weights"])
    assert weights_LxK.shape == (9, K)
    np.testing.assert_allclose(weights_LxK[[5, 8]], 0.5, atol=1e-5)


def test_single_pairs_do_not_end_in_heads_that_contradict_each_other(pairs: Any) -> None:
    """The objective of hard EM says all is explained; the round that is kept knows better."""
    trained, rows = pairs
    assert trained.settings["unit"] == "pair"
    assert not trained.settings["supervised"]
    # Left alone it degenerates: explained in training, no better than chance held out.
    assert trained.curves["log_likelihood"][-1] > -0.05
    assert trained.curves["validation_nll"][-1] > trained.curves["validation_nll"].min() + 0.05
    assert trained.settings["kept_round"] == trained.curves["validation_nll"].argmin() + 1
    found = METHOD.predict(trained, rows)
    assert (found.statistic_SxN > 0).mean() > 0.75
    assert -found.log_prob_SxN.mean() < 0.6
    np.testing.assert_allclose(
        -found.log_prob_SxN.mean(), trained.curves["validation_nll"].min(), atol=0.1
    )


def test_curves_and_settings(users: Trained) -> None:
    assert all(curve.shape == (6,) for curve in users.curves.values())
    nll = -METHOD.predict(users, HELD_OUT).log_prob_SxN.mean()
    assert users.curves["validation_nll"].min() == pytest.approx(nll, abs=1e-4)
    stated = json.loads(json.dumps(users.settings))
    assert (stated["unit"], stated["units"], stated["num_heads"]) == ("user", 18, K)
    assert (stated["clusters_refilled"], stated["rows_without_unit"]) == (0, 0)


def test_rows_that_name_no_user_are_left_out(users: Trained) -> None:
    nobody = examples(np.zeros(40, int), 7)
    rows = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), nobody.rows, TRAIN.rows)
    user_N, none_N = (
        np.concatenate([nobody.user_N, tail]) for tail in (TRAIN.user_N, TRAIN.attribute_N)
    )
    more = replace(TRAIN, data=rows, user_N=user_N, attribute_N=none_N)
    trained = METHOD.fit(problem(more, HELD_OUT), {})
    assert trained.settings["rows_without_unit"] == 40
    jax.tree.map(np.testing.assert_array_equal, trained.params, users.params)


@pytest.mark.parametrize(
    ("user_N", "attribute_N", "expected"),
    [
        ([1, -1], [1, 1], "user"),
        ([-1, -1], [-1, 3], "attribute_chunk"),
        ([-1, -1], [-1, -1], "pair"),
    ],
)
def test_auto_takes_what_the_rows_name(
    user_N: Sequence[int], attribute_N: Sequence[int], expected: str
) -> None:
    train = examples(np.zeros(2, int), 0, user_N=user_N, attribute_N=attribute_N)
    assert unit_kind("auto", train) == expected
    assert unit_kind("pair", train) == "pair"


@pytest.mark.parametrize(("unit", "column"), [("user", "user"), ("attribute_chunk", "attribute")])
def test_a_unit_that_no_row_names_is_an_error_with_a_remedy(unit: str, column: str) -> None:
    train = examples(np.zeros(4, int), 0)
    expected = rf"baselines\.maxmin\.unit: .* their {column} .* found none; give .* unit=auto"
    with pytest.raises(UnitError, match=expected):
        METHOD.fit(problem(train, no_rows(), unit=unit), {})


def test_training_that_diverges_is_an_error_with_a_remedy() -> None:
    rows = TRAIN.rows._replace(delta_NxD=TRAIN.rows.delta_NxD.at[0].set(jnp.nan))
    rows_V = HELD_OUT.rows._replace(delta_NxD=HELD_OUT.rows.delta_NxD.at[0].set(jnp.nan))
    broken = problem(replace(TRAIN, data=rows), replace(HELD_OUT, data=rows_V))
    with pytest.raises(DivergenceError, match=r"2 heads .* lower baselines\.maxmin"):
        METHOD.fit(broken, {})
