"""Variational preference learning: the encoder is a set function, the decoder reads its vector."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.baselines import BaselinesConfig, VplConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.adaptation import BudgetError
from micro_rm.heads.methods import load_method
from micro_rm.heads.methods.interface import NO_LABEL, Budget, Examples, Problem, Sides, Trained
from micro_rm.heads.methods.mixture import DivergenceError
from micro_rm.heads.methods.vpl import (
    Deck,
    Posterior,
    encode,
    init_model,
    kl_slope,
    kl_to_prior,
    margin,
    rescale,
)
from micro_rm.heads.rows import Rows

D, N, S, PLACES, GROUPS = 4, 600, 2, 12, 2
OPTIONS = VplConfig(
    latent=8,
    hidden=16,
    context=6,
    kl_weight=1e-3,
    learning_rate=1e-2,
    epochs=25,
    batch_size=64,
)


def sides(seed: int, group: np.ndarray) -> Sides:
    """Even groups want the first coordinate high, odd ones low."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, *group.shape, D)).astype(np.float32)
    wants = np.where(group % 2 == 1, -1, 1)
    swap = ((first - second)[..., 0] * wants < 0)[..., None]
    return Sides(np.where(swap, second, first), np.where(swap, first, second))


def examples(seed: int, group_N: np.ndarray) -> Examples:
    both = sides(seed, group_N)
    delta = jnp.asarray(both.chosen_NxD - both.rejected_NxD)
    nobody = np.full(group_N.size, NO_LABEL)
    return Examples(Rows(delta, delta), nobody, nobody, group_N, nobody, lambda: both)


def budget(places: int, mask: np.ndarray | None = None) -> Budget:
    group_B = np.repeat(np.arange(GROUPS), places)
    both = sides(7, np.tile(group_B, (S, 1)))
    mask = np.ones((S, group_B.size), np.float32) if mask is None else mask
    delta = jnp.asarray(both.chosen_NxD - both.rejected_NxD)
    return Budget(Rows(delta, delta), group_B, np.zeros(mask.shape, int), mask, lambda: both)


def problem(**changes: object) -> Problem:
    alternate = np.arange(N) % GROUPS
    plain = Problem(
        width=D,
        train=examples(0, alternate),
        validation=examples(1, alternate[:0]),
        train_config=TrainConfig(),
        adapt_config=AdaptConfig(),
        baselines=BaselinesConfig(vpl=OPTIONS),
        key=jax.random.key(0),
        groups=("high", "low"),
        budget=budget(PLACES),
    )
    return replace(plain, **changes)


TEST = examples(2, np.arange(200) % GROUPS)


@pytest.fixture(scope="module")
def trained() -> Trained:
    return load_method("vpl").fit(problem(), {})


@pytest.fixture(scope="module")
def model() -> dict:
    return init_model(D, OPTIONS, jax.random.key(1))


def context(seed: int) -> Sides:
    return Sides(*np.random.default_rng(seed).normal(size=(2, 1, 5, D)).astype(np.float32))


def test_kl_is_zero_at_the_prior_and_has_its_factor_one_half() -> None:
    zeros = jnp.zeros((1, 3))
    assert float(kl_to_prior(Posterior(zeros, zeros))[0]) == 0.0
    assert float(kl_to_prior(Posterior(zeros + 2.0, zeros))[0]) == pytest.approx(3 * 2.0)
    log_four = zeros + np.log(4.0)
    expected = 3 * 0.5 * (4 - 1 - np.log(4))
    assert float(kl_to_prior(Posterior(zeros, log_four))[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.long
def test_the_order_of_context_pairs_does_not_matter_but_their_sides_do(model: dict) -> None:
    pairs, mask = context(0), jnp.ones((1, 5))
    one = encode(model, pairs, mask)
    other = encode(model, Sides(*(side[:, ::-1] for side in pairs)), mask)
    np.testing.assert_allclose(one.mean_MxL, other.mean_MxL, atol=1e-5)
    np.testing.assert_allclose(one.log_variance_MxL, other.log_variance_MxL, atol=1e-5)
    turned = encode(model, Sides(*pairs[::-1]), mask)
    assert np.abs(one.mean_MxL - turned.mean_MxL).max() > 1e-3


def test_the_latent_vector_has_length_root_latent_in_both_modes(trained: Trained) -> None:
    """What is rescaled is a sample in training and the mean in ``latent``."""
    noisy = np.random.default_rng(0).normal(size=(3, 8)) * 50
    np.testing.assert_allclose(
        np.linalg.norm(rescale(jnp.asarray(noisy)), axis=-1), np.sqrt(8), rtol=1e-5
    )
    assert trained.params["latent"].shape == (S, GROUPS, 8)
    lengths = np.linalg.norm(trained.params["latent"], axis=-1)
    np.testing.assert_allclose(lengths, np.sqrt(8), rtol=1e-5)
    np.testing.assert_array_equal(rescale(jnp.zeros((1, 8))), 0)


def test_filling_places_do_not_count(model: dict) -> None:
    pairs = context(1)
    short = encode(model, Sides(*(side[:, :3] for side in pairs)), jnp.ones((1, 3)))
    masked = encode(model, pairs, jnp.array([[1.0, 1, 1, 0, 0]]))
    np.testing.assert_allclose(masked.mean_MxL, short.mean_MxL, atol=1e-5)
    nothing = encode(model, pairs, jnp.zeros((1, 5)))
    for part in nothing:
        np.testing.assert_array_equal(part, 0)


@pytest.mark.parametrize("part", ["mean", "log_variance"])
def test_means_and_log_variances_are_clipped_at_one(model: dict, part: str) -> None:
    loud = jax.tree.map(lambda leaf: 1000 * leaf, model[part])
    clipped = encode(model | {part: loud}, context(2), jnp.ones((1, 5)))
    assert set(np.abs(getattr(clipped, f"{part}_MxL")).ravel().tolist()) == {1.0}


def test_the_kl_weight_rises_in_four_cycles_from_its_floor() -> None:
    slopes = np.array([float(kl_slope(step, 400)) for step in range(400)])
    np.testing.assert_allclose(
        slopes[[0, 50, 100, 200, 300]], [0.1, 0.55, 0.1, 0.1, 0.1], atol=1e-5
    )
    assert slopes[99] > 0.99
    assert (np.diff(slopes[:100]) > 0).all()


@pytest.mark.long
def test_context_rows_are_distinct_other_rows_of_the_group() -> None:
    group_N, size_G = jnp.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 2, 2]), jnp.array([5, 4, 2])
    drawn = set()
    for seed in range(5):
        deck = Deck.shuffle(jax.random.key(seed), group_N, size_G)
        rows_NxC, real_NxC = deck.after(group_N, deck.place_N, 4)
        for row in range(group_N.size):
            others = rows_NxC[row][real_NxC[row] > 0].tolist()
            group = np.flatnonzero(group_N == group_N[row])
            assert sorted([*others, row]) == group.tolist()
        drawn.add(tuple(deck.after(jnp.array([0]), jnp.array([0]), 2)[0][0].tolist()))
    assert len(drawn) > 1


def test_opposite_tastes_are_told_apart_by_their_labelled_pairs(trained: Trained) -> None:
    prediction = load_method("vpl").predict(trained, TEST)
    assert prediction.statistic_SxN.shape == (S, 200)
    assert prediction.heads is None
    assert ((prediction.statistic_SxN > 0).mean(axis=1) > 0.9).all()
    assert trained.settings["shared_sets"]
    assert {curve.shape for curve in trained.curves.values()} == {(OPTIONS.epochs,)}


def test_the_labelled_pairs_decide_not_the_number_of_the_group() -> None:
    """Both groups' labelled rows swapped: every answer is the other one."""
    plain = problem().budget
    swapped = Sides(*plain.load_sides()[::-1])
    trained = load_method("vpl").fit(problem(budget=replace(plain, load_sides=lambda: swapped)), {})
    prediction = load_method("vpl").predict(trained, TEST)
    assert (prediction.statistic_SxN > 0).mean() < 0.1


def test_a_group_without_labelled_rows_gets_the_answer_of_nobody(trained: Trained) -> None:
    unknown = replace(TEST, group_N=np.full(200, NO_LABEL))
    prior = load_method("vpl").predict(trained, unknown)
    np.testing.assert_array_equal(prior.statistic_SxN[0], prior.statistic_SxN[1])
    assert 0.3 < (prior.statistic_SxN > 0).mean() < 0.7
    mask = np.ones((S, GROUPS * PLACES), np.float32)
    mask[:, :PLACES] = 0
    for empty, rows in ((budget(0), slice(None)), (budget(PLACES, mask), TEST.group_N == 0)):
        fit = load_method("vpl").fit(problem(budget=empty), {})
        found = load_method("vpl").predict(fit, TEST)
        np.testing.assert_allclose(
            found.statistic_SxN[:, rows], prior.statistic_SxN[:, rows], atol=1e-5
        )


def test_rows_of_nobody_teach_nothing(trained: Trained) -> None:
    known, nobody = problem().train, np.full(N, NO_LABEL)
    more = Sides(*(np.concatenate([np.full_like(s, np.nan), s]) for s in known.load_sides()))
    group_N = np.concatenate([nobody, known.group_N])
    train = replace(known, group_N=group_N, load_sides=lambda: more)
    again = load_method("vpl").fit(problem(train=train), {})
    jax.tree.map(np.testing.assert_array_equal, again.params, trained.params)


@pytest.mark.long
def test_small_groups_read_a_set_per_row() -> None:
    """Twenty rows of a group are too few to share one set of six."""
    trained = load_method("vpl").fit(problem(train=examples(0, np.arange(N) % 30)), {})
    assert not trained.settings["shared_sets"]
    prediction = load_method("vpl").predict(trained, TEST)
    assert (prediction.statistic_SxN > 0).mean() > 0.9


def test_the_margin_changes_sign_with_the_sides(model: dict) -> None:
    both = Sides(*(side[0] for side in context(3)))
    latent = jnp.ones((5, 8))
    np.testing.assert_allclose(
        margin(model, both, latent), -margin(model, Sides(*both[::-1]), latent), atol=1e-6
    )


@pytest.mark.parametrize("group_N", [np.full(N, NO_LABEL), np.r_[0, 1, np.full(N - 2, NO_LABEL)]])
def test_no_two_rows_of_a_group_are_an_error_with_a_remedy(group_N: np.ndarray) -> None:
    with pytest.raises(BudgetError, match=r"found none; set adapt\.source=train"):
        load_method("vpl").fit(problem(train=examples(0, group_N)), {})


def test_training_that_diverges_is_an_error_with_a_remedy() -> None:
    rows = replace(
        problem().train, load_sides=lambda: Sides(*np.full((2, N, D), np.nan, np.float32))
    )
    with pytest.raises(
        DivergenceError, match=r"vpl diverged .* lower baselines\.vpl\.learning_rate"
    ):
        load_method("vpl").fit(problem(train=rows), {})
